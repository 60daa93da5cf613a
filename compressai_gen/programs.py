"""How every command line of this package ends."""

from __future__ import annotations

import sys
from collections.abc import Callable

from compressai_gen.errors import CompressaiGenError

__all__ = ["exit_status"]


def exit_status(run: Callable[[], None], interrupted: str) -> int:
    """Runs a program and returns its exit status: 0, 2 on an error of the user's, 130 when interrupted.

    Args:
        run: the program; errors of ours are printed as one line.
        interrupted: what to say after Ctrl-C.
    """
    try:
        run()
    except CompressaiGenError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    return 0
