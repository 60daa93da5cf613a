"""Of ``demo``."""

from __future__ import annotations

import argparse

from compressai_gen.parsers.common import add_machine, describe

__all__ = ["demo"]


def demo(parser: argparse.ArgumentParser) -> None:
    """Add what ``demo`` takes."""
    add = describe(
        parser,
        "Serve a page to try the codecs in a browser, on this machine alone.",
        """
        compressai-gen demo
        compressai-gen demo --port 8000 --device cuda
        """,
    )
    add("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: the network's, too (default: %(default)s)")
    add("--port", type=int, default=7860, metavar="N", help="default: %(default)s")
    add_machine(add)
