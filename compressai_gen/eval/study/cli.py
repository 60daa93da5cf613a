"""Command line of ``python -m compressai_gen.eval.study``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from compressai_gen.data import load_dataset
from compressai_gen.errors import CompressaiGenError
from compressai_gen.parsers.common import make
from compressai_gen.parsers.study import study as arguments
from compressai_gen.programs import exit_status, prepare_torch

__all__ = ["main"]


def main(argv: Sequence[str] | None = None, prog: str = "python -m compressai_gen.eval.study") -> int:
    """Run the program and return its exit status: 0, 2 on an error of the user's, 130 when interrupted."""
    args = make(arguments, prog).parse_args(argv)
    run = {"make": _make, "score": _score}[args.command]
    return exit_status(lambda: run(args), "interrupted; nothing was written")


def _make(args: argparse.Namespace) -> None:
    from compressai_gen.eval.compare import parse_column
    from compressai_gen.eval.study.make import design, far_apart, write_page

    if not args.bpp > 0 or (args.checks or 0) < 0 or (args.crop is not None and args.crop < 64):
        raise CompressaiGenError("--bpp is above 0, --checks at least 0 and --crop at least 64")
    device = prepare_torch(args.device, args.threads)
    columns = [parse_column(text, device) for text in args.codecs]
    dataset = load_dataset(args.dataset, args.data_root)
    names = args.images or dataset.image_names[:4]
    study = design(
        columns, dataset.called(dict.fromkeys(names)), args.bpp, args.comparisons, args.checks, args.crop, args.seed
    )
    for line in far_apart(study):
        print(f"note: {line}", file=sys.stderr)
    output = args.output or Path("results") / dataset.name / "study.html"
    write_page(study, output)
    trials = study.record["trials"]
    checks = sum(trial["kind"] == "check" for trial in trials)
    size = output.stat().st_size / 2**20
    print(f"{len(trials) - checks} comparisons and {checks} attention checks, {size:.1f} MiB, written to {output}")


def _score(args: argparse.Namespace) -> None:
    from compressai_gen.eval.study.score import (
        MIN_CHECKS,
        check_share,
        collect,
        page_fingerprint,
        reject_careless,
        score,
        write_scores,
    )

    share = check_share(MIN_CHECKS if args.min_checks is None else args.min_checks)
    fingerprint = page_fingerprint(args.study) if args.study else None
    votes, refused = collect(args.votes, fingerprint)
    votes, rejected = reject_careless(votes, share)
    for kind, lines in (("refused", refused), ("rejected", rejected)):
        for line in lines:
            print(f"{kind}: {line}", file=sys.stderr)
    print(write_scores(score(votes, [*refused, *rejected]), args.output))
    print(f"written to {args.output}")
