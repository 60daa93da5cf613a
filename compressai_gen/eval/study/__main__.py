"""Entry of ``python -m compressai_gen.eval.study``, which is ``compressai-gen study``."""

import sys

from compressai_gen.cli import run

if __name__ == "__main__":
    sys.exit(run("study", None, "python -m compressai_gen.eval.study"))
