"""What several programs take."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import TextIO

from compressai_gen.specs import own_specs, specs
from compressai_gen.streams import discard_output, secure_streams, tell

__all__ = [
    "Add",
    "Fill",
    "Parser",
    "add_data",
    "add_machine",
    "add_options",
    "describe",
    "make",
    "number",
    "size",
    "takers",
]

Add = Callable[..., argparse.Action]
"""``parser.add_argument``."""

Fill = Callable[[argparse.ArgumentParser], None]
"""Adds what a program takes to its parser."""


def make(fill: Fill, prog: str) -> argparse.ArgumentParser:
    """Return a parser of its own for a program that is called `prog`."""
    parser = Parser(prog=prog)
    fill(parser)
    return parser


class Parser(argparse.ArgumentParser):
    """A parser whose help and errors can be printed anywhere, and which tells by its exit status where they cannot."""

    def parse_args(self, *args, **kwargs):
        """Parse, with standard streams that are there."""
        secure_streams()
        return super().parse_args(*args, **kwargs)

    def _print_message(self, message: str, file: TextIO | None = None) -> None:
        # That of the base class passes over what it cannot print.
        if file is not sys.stdout:
            tell(message.rstrip("\n"))
            return
        try:
            file.write(message)
            file.flush()
        except OSError as error:
            discard_output()
            tell(f"error: standard output cannot be written: {error.strerror}")
            sys.exit(141 if isinstance(error, BrokenPipeError) else 2)


def describe(parser: argparse.ArgumentParser, description: str, examples: str = "") -> Add:
    """Set the text above the options and the examples below them; returns ``parser.add_argument``.

    In examples, ``{codec}`` and ``{other}`` stand for codecs of this package.
    """
    parser.description = description
    if examples:
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        codec, other, *_ = own_specs()
        filled = examples.replace("{codec}", codec).replace("{other}", other)
        lines = "\n".join(f"  {line.strip()}" for line in filled.strip().splitlines())
        parser.epilog = f"examples:\n{lines}"
    return parser.add_argument


def number(text: str) -> float:
    """Return a whole or real number, such as a quality, whole where it can be.

    Raises:
        ValueError: the text is none, or none that is finite.
    """
    try:
        return int(text)
    except ValueError:
        value = float(text)
        if not math.isfinite(value):
            raise
        return value


def size(text: str) -> tuple[int, int]:
    """Return (height, width) of a text such as 768x512."""
    try:
        width, height = (int(part) for part in text.split("x"))
        if min(width, height) < 1:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 768x512") from None
    return height, width


def add_data(add: Add) -> None:
    """Add where datasets lie."""
    add("--data-root", metavar="FOLDER", help="folder of datasets (default: $COMPRESSAI_GEN_DATA)")


def takers(option: str) -> str:
    """Return the names of the codecs whose encoder has an option."""
    return ", ".join(name for name, spec in specs().items() if option in spec.encoder_options.__dataclass_fields__)


def add_options(add: Add, kind: str) -> None:
    """Add the codecs' own options.

    Args:
        add: ``parser.add_argument``.
        kind: ``encoder_options`` or ``decoder_options`` of their specifications.
    """
    known: dict[str, list[str]] = {}
    for name, spec in specs().items():
        for option in fields(getattr(spec, kind)):
            if option.metadata["word"]:
                known.setdefault(f"{option.name}: {option.metadata['help']}", []).append(name)
    listed = "; ".join(f"{text} ({', '.join(names)})" for text, names in known.items())
    add(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"of the codec; may be repeated. {listed}".replace("%", "%%"),
    )


def add_machine(add: Add, threads: bool = True) -> None:
    """Add the device and, unless told otherwise, the threads."""
    add("--device", default="cpu", help="device of models and metrics, such as cuda (default: %(default)s)")
    if threads:
        add("--threads", type=int, metavar="N", help="CPU threads of PyTorch (default: its own choice)")
