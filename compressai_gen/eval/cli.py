"""Command line of ``python -m compressai_gen.eval``."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from compressai_gen.codecs import check_qualities, checkpoint_codec, find_codec, published_curves, trained_metrics
from compressai_gen.codecs.registry import our_models
from compressai_gen.data import ImageDataset, load_dataset
from compressai_gen.errors import CodecError, DatasetError, MetricError
from compressai_gen.eval import tables
from compressai_gen.eval.environment import PASSING, describe_environment
from compressai_gen.eval.features import FeatureStore, set_figures
from compressai_gen.eval.page import illustrated, write_page
from compressai_gen.eval.pictures import KeptPictures
from compressai_gen.eval.processes import Processes, launched_processes
from compressai_gen.eval.report import format_report, write_report
from compressai_gen.eval.runner import Job, measure
from compressai_gen.eval.stamp import Stamp
from compressai_gen.eval.store import RowStore
from compressai_gen.files import read_table
from compressai_gen.metrics import DEFAULT_METRICS, FEATURES, PatchFeatures, ReferenceMetrics
from compressai_gen.parsers.common import make
from compressai_gen.parsers.evaluation import evaluate
from compressai_gen.programs import exit_status, prepare_torch
from compressai_gen.resources import go_offline

__all__ = ["main"]

# What later runs into the same output need not compute again.
_KEPT_ROWS, _KEPT_FEATURES, _STAMP = ".rows.jsonl", ".features", ".written.json"


def main(argv: Sequence[str] | None = None, prog: str = "python -m compressai_gen.eval") -> int:
    """Run the program and return its exit status: 0, 2 on an error of the user's, 130 when interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = make(evaluate, prog).parse_args(argv)
    args.invocation = shlex.join([*prog.split(), *argv])
    return exit_status(
        lambda: _run(args), "interrupted; no tables were written, and the same command goes on from here"
    )


def _run(args: argparse.Namespace) -> None:
    with launched_processes() as processes:
        _evaluate(args, processes)


def _evaluate(args: argparse.Namespace, processes: Processes) -> None:
    if args.offline:
        go_offline()
    device = prepare_torch(processes.device(args.device), args.threads)
    with processes.main_first():
        dataset = load_dataset(args.dataset, args.data_root, args.limit)
        jobs = _jobs(args, device)
        _check_anchor(args.anchor, jobs, dataset)
        metrics = _metrics(args.metrics, device, processes)
        output = args.output or Path("results") / dataset.name
        features = _features(args.fid_features, device, output)
        if args.fresh and processes.is_main:
            _forget(output)
    store = RowStore(output / _KEPT_ROWS, list(metrics.metrics), device.type, processes.index)
    pictures = _pictures(args, jobs, dataset, output)
    unreadable: dict[str, str] = {}
    measured = measure(jobs, dataset, metrics, pictures, processes.is_main, store, features, processes, unreadable)
    files = dict(zip(dataset.image_names, dataset.paths, strict=True))
    dataset = dataset.without(unreadable)
    if not len(dataset):
        raise DatasetError(f"none of the {len(files)} pictures can be read: {next(iter(unreadable.values()))}")
    of_set = set_figures(measured, features, processes, processes.is_main) if features else None
    if not processes.is_main:
        return
    images = tables.per_image(measured)
    trained = {job.codec.name: trained_metrics(job.codec) for job in jobs}
    summary = _add_published(tables.summarize(images, of_set, trained), dataset)
    environment = _environment(args, dataset, unreadable, processes, device)
    lasting = {name: value for name, value in environment.items() if name not in PASSING}
    origins = tables.origins(summary, dataset.name)
    stamp = Stamp(output / _STAMP, [images.to_csv(), summary.to_csv(), origins, lasting, args.all_published])
    if args.fresh:
        stamp.outdate()
    if not stamp.is_current():
        intervals = tables.intervals(images)
        checkpoints = [job.codec.name for job in jobs[len(jobs) - len(args.checkpoint) :]]
        deltas = tables.bd_rates(summary, images, [*args.baselines, *checkpoints], args.anchor)
        if not args.all_published:
            deltas = tables.notable(deltas, summary)
        with stamp.writing():
            write_report(output, images, summary, intervals, deltas, environment, args.all_published)
            if args.report:
                page = output / "report.html"
                write_page(page, dataset, images, summary, intervals, deltas, origins, environment, pictures)
    print(format_report(summary, read_table(output / "bd_rate.csv")))
    print(f"\nwritten to {output}")
    if unreadable:
        raise DatasetError(
            f"{len(unreadable)} of {len(files)} pictures could not be read and are left out of every mean: "
            f"{', '.join(str(files[name]) for name in sorted(unreadable))}"
        )


def _pictures(
    args: argparse.Namespace, jobs: Sequence[Job], dataset: ImageDataset, output: Path
) -> KeptPictures | None:
    """Where decoded pictures go, if any are wanted."""
    if not (args.reconstructions or args.report):
        return None
    run = [(job.codec.name, quality) for job in jobs for quality in job.qualities]
    wanted = None if args.reconstructions else illustrated(dataset, len(run))
    return KeptPictures(output / "reconstructions", wanted, run)


def _environment(
    args: argparse.Namespace,
    dataset: ImageDataset,
    unreadable: Mapping[str, str],
    processes: Processes,
    device: torch.device,
) -> dict[str, Any]:
    return {
        "command": args.invocation,
        "dataset": {"name": dataset.name, "images": len(dataset), "images_of_whole_set": dataset.count},
        **({"unreadable": sorted(unreadable)} if unreadable else {}),
        "processes": processes.count,
        **describe_environment(device),
    }


def _forget(output: Path) -> None:
    """Remove what earlier runs have kept."""
    for file in RowStore.files(output / _KEPT_ROWS):
        file.unlink()
    shutil.rmtree(output / _KEPT_FEATURES, ignore_errors=True)


def _jobs(args: argparse.Namespace, device: torch.device) -> list[Job]:
    jobs: dict[str, Job] = {}
    for name in list(our_models()) if args.models is None else args.models:
        codec = find_codec(name, device)
        jobs.setdefault(name, Job(codec, check_qualities(codec, args.qualities or codec.qualities)))
    for name in args.baselines:
        codec = find_codec(name, device)
        jobs.setdefault(name, Job(codec, codec.qualities))
    for architecture, *files in args.checkpoint:
        if not files:
            raise CodecError(f"--checkpoint {architecture} names no file; give the architecture and its weights")
        codec = checkpoint_codec(architecture, [Path(file) for file in files], device)
        if codec.name in jobs:
            raise CodecError(f"two codecs would be called {codec.name}: rename a checkpoint")
        jobs[codec.name] = Job(codec, codec.qualities)
    if not jobs:
        raise CodecError("nothing to evaluate: name codecs with --models, --baselines or --checkpoint")
    return list(jobs.values())


def _check_anchor(anchor: str | None, jobs: Sequence[Job], dataset: ImageDataset) -> None:
    """Tell of a wrong anchor before anything is measured."""
    names = [job.codec.name for job in jobs]
    if dataset.definition and dataset.is_whole:
        names += published_curves(dataset.name)["codec"].unique().tolist()
    if anchor is not None and not tables.curves_called(names, anchor):
        raise CodecError(f"--anchor {anchor} is none of the curves of this run: {', '.join(names)}")


def _metrics(names: Sequence[str] | None, device: torch.device, processes: Processes) -> ReferenceMetrics:
    """A metric that the user asked for must be there; a default one may be missing."""
    if names:
        return ReferenceMetrics(names, device)

    def skip(error: MetricError) -> None:
        if processes.is_main:
            print(f"metric skipped: {error}", file=sys.stderr)

    return ReferenceMetrics(DEFAULT_METRICS, device, on_missing=skip)


def _features(name: str, device: torch.device, output: Path) -> FeatureStore | None:
    if name not in (*FEATURES, "none"):
        raise MetricError(f"--fid-features is one of {', '.join(FEATURES)} or none, not {name!r}")
    return None if name == "none" else FeatureStore(output / _KEPT_FEATURES, PatchFeatures(name, device))


def _add_published(summary: pd.DataFrame, dataset: ImageDataset) -> pd.DataFrame:
    """Append the published curves of the dataset, which only its whole can be compared with."""
    published = tables.published_summary(dataset.name, summary)
    if published.empty or not dataset.definition:
        return summary
    if not dataset.is_whole:
        print(f"published curves are left out: they are of all {dataset.count} images", file=sys.stderr)
        return summary
    return pd.concat([summary, published], ignore_index=True)
