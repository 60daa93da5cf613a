"""What several programs take."""

from __future__ import annotations

import argparse
from collections.abc import Callable

__all__ = ["Add", "Fill", "add_data", "add_machine", "describe", "make"]

Add = Callable[..., argparse.Action]
"""``parser.add_argument``."""

Fill = Callable[[argparse.ArgumentParser], None]
"""Adds what a program takes to its parser."""


def make(fill: Fill, prog: str) -> argparse.ArgumentParser:
    """Return a parser of its own for a program that is called `prog`."""
    parser = argparse.ArgumentParser(prog=prog)
    fill(parser)
    return parser


def describe(parser: argparse.ArgumentParser, description: str, examples: str = "") -> Add:
    """Set the text above the options and the examples below them; returns ``parser.add_argument``."""
    parser.description = description
    if examples:
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        lines = "\n".join(f"  {line.strip()}" for line in examples.strip().splitlines())
        parser.epilog = f"examples:\n{lines}"
    return parser.add_argument


def add_data(add: Add) -> None:
    """Add where datasets lie."""
    add("--data-root", metavar="FOLDER", help="folder of datasets (default: $COMPRESSAI_GEN_DATA)")


def add_machine(add: Add, threads: bool = True) -> None:
    """Add the device and, unless told otherwise, the threads."""
    add("--device", default="cpu", help="device of models and metrics, such as cuda (default: %(default)s)")
    if threads:
        add("--threads", type=int, metavar="N", help="CPU threads of PyTorch (default: its own choice)")
