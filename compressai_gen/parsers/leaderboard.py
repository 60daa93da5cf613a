"""Of ``leaderboard pack``, ``verify`` and ``rank``."""

from __future__ import annotations

import argparse
from pathlib import Path

from compressai_gen.parsers.common import Add, add_data, add_machine, describe, number

__all__ = ["leaderboard"]


def leaderboard(parser: argparse.ArgumentParser) -> None:
    """Add the three commands, each with its own arguments."""
    describe(
        parser,
        "Submit the streams of a codec, accept what reproduces, and rank what is accepted.\n\n"
        "Exit status: 0, 2 on a user's error, 3 when a submission is refused, 130 when interrupted.",
        """
        compressai-gen leaderboard pack {codec} --dataset kodak --card card.toml
        compressai-gen leaderboard verify {codec}.cgensub
        compressai-gen leaderboard rank results/leaderboard --anchor VTM
        """,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="pack | verify | rank")

    add = _command(commands, "pack", "encode and measure a dataset, and write a submission")
    add("codec", help="a model of this package, a classical codec or one of another package")
    add("--card", type=Path, required=True, metavar="FILE", help="TOML or JSON with title, author and links")
    add("--output", type=Path, metavar="FILE", help="default: <codec>.cgensub")
    add("--dataset", default="kodak", help="known name or folder of images (default: %(default)s)")
    add("--qualities", nargs="+", type=number, metavar="Q", help="default: all of the codec")
    add("--metrics", nargs="+", metavar="NAME", help="default: those of the evaluation; an unknown name lists all")
    add_data(add)
    add_machine(add)

    add = _command(commands, "verify", "decode and measure a submission, and record that it reproduces")
    add("submission", type=Path)
    add("--dataset", metavar="FOLDER", help="folder of the images, if the submission's dataset is not a known one")
    add_data(add)
    add_machine(add)

    add = _command(commands, "rank", "write tables and a page of the accepted submissions")
    add("folder", type=Path, help="submissions, and beside each the record of its acceptance")
    add("--dataset", default="kodak", help="of the submissions (default: %(default)s)")
    add("--anchor", metavar="NAME", help="submission or published curve (default: avif, else the published VTM)")
    add("--by", metavar="METRIC", help="order by its BD-rate (default: by those that no submission was trained on)")
    add("--all-published", action="store_true", help="rank also published curves that say little beside the others")
    add("--output", type=Path, metavar="FOLDER", help="default: the folder of the submissions")


def _command(commands: argparse._SubParsersAction, name: str, summary: str) -> Add:
    return commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.").add_argument
