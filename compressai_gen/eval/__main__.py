"""Entry of ``python -m compressai_gen.eval``."""

import sys

from compressai_gen.eval.cli import main

if __name__ == "__main__":
    sys.exit(main())
