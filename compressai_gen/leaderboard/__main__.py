"""Entry of ``python -m compressai_gen.leaderboard``, which is ``compressai-gen leaderboard``."""

import sys

from compressai_gen.cli import run

if __name__ == "__main__":
    sys.exit(run("leaderboard", None, "python -m compressai_gen.leaderboard"))
