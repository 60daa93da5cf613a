"""``python -m compressai_gen``: the command line ``compressai-gen``."""

import sys

from compressai_gen.cli import main

sys.exit(main())
