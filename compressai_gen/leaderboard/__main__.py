"""Entry of ``python -m compressai_gen.leaderboard``."""

import sys

from compressai_gen.leaderboard.cli import main

if __name__ == "__main__":
    sys.exit(main())
