"""Importing matplotlib whatever backend the environment names."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["backend_set_aside"]


@contextmanager
def backend_set_aside() -> Iterator[None]:
    """Import matplotlib in the block, which a backend that cannot be had would otherwise stop.

    Programs that Jupyter starts inherit its ``MPLBACKEND``, which names a package that their environment may lack.
    Figures are written to files here, without a backend. One that works is the user's for figures of their own.
    """
    backend = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
            with suppress(KeyError, ValueError):
                sys.modules["matplotlib"].rcParams["backend"] = backend
