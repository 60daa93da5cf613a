"""Command line of ``python -m compressai_gen.leaderboard``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from compressai_gen.leaderboard.pack import pack
from compressai_gen.leaderboard.rank import SUFFIX, rank
from compressai_gen.leaderboard.verify import TOLERANCES, verify
from compressai_gen.metrics import DEFAULT_METRICS
from compressai_gen.programs import exit_status, prepare_torch

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the three commands."""
    parser = argparse.ArgumentParser(
        prog="python -m compressai_gen.leaderboard",
        description="Submit the streams of a codec, accept what reproduces, and rank what is accepted.",
        epilog="Exit status: 0, 2 on a user's error, 3 when a submission is refused, 130 when interrupted.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="pack | verify | rank")
    metrics = [metric for metric in TOLERANCES if metric != "bpp"]

    add = _command(commands, "pack", _pack, "encode and measure a dataset, and write a submission")
    add("codec", help="a model of this package, a classical codec or one of another package")
    add("--card", type=Path, required=True, metavar="FILE", help="TOML or JSON with title, author and links")
    add("--output", type=Path, metavar="FILE", help=f"default: <codec>{SUFFIX}")
    add("--dataset", default="kodak", help="known name or folder of images (default: %(default)s)")
    add("--qualities", nargs="+", type=int, metavar="Q", help="default: all of the codec")
    add("--metrics", nargs="+", choices=metrics, default=list(DEFAULT_METRICS), metavar="NAME")
    _add_machine(add)

    add = _command(commands, "verify", _verify, "decode and measure a submission, and record that it reproduces")
    add("submission", type=Path)
    add("--dataset", metavar="FOLDER", help="folder of the images, if the submission's dataset is not a known one")
    _add_machine(add)

    add = _command(commands, "rank", _rank, "write tables and a page of the accepted submissions")
    add("folder", type=Path, help="submissions, and beside each the record of its acceptance")
    add("--dataset", default="kodak", help="of the submissions (default: %(default)s)")
    add("--anchor", metavar="NAME", help="submission or published curve (default: avif, else the published VTM)")
    add("--by", choices=metrics, default="lpips", metavar="METRIC", help="order by its BD-rate (default: %(default)s)")
    add("--all-published", action="store_true", help="rank also published curves that say little beside the others")
    add("--output", type=Path, metavar="FOLDER", help="default: the folder of the submissions")
    return parser


def _command(commands, name, run, summary):
    parser = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    parser.set_defaults(run=run)
    return parser.add_argument


def _add_machine(add) -> None:
    add("--data-root", metavar="FOLDER", help="folder of datasets (default: $COMPRESSAI_GEN_DATA)")
    add("--device", default="cpu", help="device of models and metrics (default: %(default)s)")
    add("--threads", type=int, metavar="N", help="CPU threads of PyTorch (default: its own choice)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status: 0, 2 on a user's error, 3 on a refusal, 130 when interrupted."""
    args = build_parser().parse_args(argv)
    return exit_status(lambda: args.run(args), "interrupted; the same command goes on from here")


def _pack(args: argparse.Namespace) -> None:
    device = prepare_torch(args.device, args.threads)
    output = args.output or Path(f"{args.codec}{SUFFIX}")
    submission = pack(args.codec, args.dataset, args.card, output, args.qualities, args.data_root, args.metrics, device)
    print(f"{len(submission.streams)} streams, {output.stat().st_size} bytes, written to {output}")


def _verify(args: argparse.Namespace) -> None:
    device = prepare_torch(args.device, args.threads)
    record = verify(args.submission, args.dataset, args.data_root, device)
    print(f"accepted: {record}")


def _rank(args: argparse.Namespace) -> None:
    output = args.output or args.folder
    print(rank(args.folder, output, args.dataset, args.anchor, args.by, args.all_published))
    print(f"written to {output}")
