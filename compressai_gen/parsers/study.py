"""Of ``study make`` and ``study score``."""

from __future__ import annotations

import argparse
from pathlib import Path

from compressai_gen.parsers.common import add_data, add_machine, describe

__all__ = ["study"]


def study(parser: argparse.ArgumentParser) -> None:
    """Add the two commands, each with its own arguments."""
    describe(
        parser,
        "Ask people: write a page of blind comparisons, and score the votes that it saves.",
        """
        compressai-gen study make {codec} {other} avif --dataset kodak --bpp 0.1 --output study.html
        compressai-gen study score votes/*.json --study study.html
        """,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="make | score")

    summary = "code images, and write a page that compares the codecs at matched bytes"
    add = describe(commands.add_parser("make", help=summary), f"{summary[0].upper()}{summary[1:]}.")
    add("codecs", nargs="+", metavar="CODEC", help="two or more: name, name@quality, or with :option=value,…")
    add("--dataset", default="samples", help="known name or folder of images (default: %(default)s)")
    add_data(add)
    add("--images", nargs="+", metavar="NAME", help="images of it (default: the first four)")
    add("--bpp", type=float, default=0.1, help="rate that each codec's quality is chosen for (default: %(default)s)")
    add("--comparisons", type=int, metavar="N", help="show so many, drawn evenly (default: all pairs on all images)")
    add("--checks", type=int, metavar="N", help="attention checks (default: one for six comparisons, at least two)")
    add("--crop", type=int, metavar="SIZE", help="show the most detailed square of so many pixels (default: all)")
    add("--seed", type=int, default=0, help="of what is drawn (default: %(default)s)")
    add("--output", type=Path, metavar="HTML", help="default: results/<dataset>/study.html")
    add_machine(add)

    summary = "score the files that raters have saved"
    add = describe(commands.add_parser("score", help=summary), f"{summary[0].upper()}{summary[1:]}.")
    add("votes", nargs="+", type=Path, metavar="VOTES", help="JSON files that the page saved, one for each rater")
    add("--study", type=Path, metavar="HTML", help="the page (default: the study that most of the files are of)")
    add("--min-checks", type=float, metavar="SHARE", help="of attention checks that a rater gets right (default: 0.8)")
    add("--output", type=Path, default=Path("results/study"), metavar="FOLDER", help="(default: %(default)s)")
