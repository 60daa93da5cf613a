"""Entry of ``python -m compressai_gen.eval``, which is ``compressai-gen eval``."""

import sys

from compressai_gen.cli import run

if __name__ == "__main__":
    sys.exit(run("eval", None, "python -m compressai_gen.eval"))
