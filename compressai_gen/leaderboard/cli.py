"""Command line of ``python -m compressai_gen.leaderboard``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from compressai_gen.errors import MetricError
from compressai_gen.leaderboard.pack import pack
from compressai_gen.leaderboard.rank import SUFFIX, rank
from compressai_gen.leaderboard.verify import TOLERANCES, verify
from compressai_gen.metrics import DEFAULT_METRICS
from compressai_gen.parsers.common import make
from compressai_gen.parsers.leaderboard import leaderboard
from compressai_gen.programs import exit_status, prepare_torch

__all__ = ["main"]


def main(argv: Sequence[str] | None = None, prog: str = "python -m compressai_gen.leaderboard") -> int:
    """Run the program and return its exit status: 0, 2 on a user's error, 3 on a refusal, 130 when interrupted."""
    args = make(leaderboard, prog).parse_args(argv)
    run = {"pack": _pack, "verify": _verify, "rank": _rank}[args.command]
    return exit_status(lambda: run(args), "interrupted; the same command goes on from here")


def _check_metrics(names: Sequence[str]) -> None:
    known = [metric for metric in TOLERANCES if metric != "bpp"]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise MetricError(f"a submission states no {unknown[0]!r}; it may state {', '.join(known)}")


def _pack(args: argparse.Namespace) -> None:
    metrics = args.metrics or list(DEFAULT_METRICS)
    _check_metrics(metrics)
    device = prepare_torch(args.device, args.threads)
    output = args.output or Path(f"{args.codec}{SUFFIX}")
    submission = pack(args.codec, args.dataset, args.card, output, args.qualities, args.data_root, metrics, device)
    print(f"{len(submission.streams)} streams, {output.stat().st_size} bytes, written to {output}")


def _verify(args: argparse.Namespace) -> None:
    device = prepare_torch(args.device, args.threads)
    record = verify(args.submission, args.dataset, args.data_root, device)
    print(f"accepted: {record}")


def _rank(args: argparse.Namespace) -> None:
    _check_metrics([args.by] if args.by else [])
    output = args.output or args.folder
    print(rank(args.folder, output, args.dataset, args.anchor, args.by, args.all_published))
    print(f"written to {output}")
