"""What each part of a codec is worth: ``python -m compressai_gen.eval.ablation cgdm --dataset kodak``.

Parts are switched off by options of the encoder and the decoder, with the same weights; rows add one part at a time,
and then put something simpler in the place of one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from compressai_gen.codecs import check_qualities, find_codec
from compressai_gen.data import load_dataset
from compressai_gen.errors import CodecError, DatasetError
from compressai_gen.eval import tables
from compressai_gen.eval.runner import Job, measure
from compressai_gen.eval.store import RowStore
from compressai_gen.files import write_table
from compressai_gen.metrics import DEFAULT_METRICS, ReferenceMetrics
from compressai_gen.parsers.common import make
from compressai_gen.parsers.evaluation import ablation as arguments
from compressai_gen.programs import exit_status, prepare_torch
from compressai_gen.specs import specs

__all__ = ["ablate", "main"]


def ablate(
    model: str,
    qualities: Sequence[int],
    dataset: str,
    data_root: str | None,
    output: Path,
    limit: int | None,
    unreadable: dict[str, str] | None = None,
):
    """Measure every variant and write ``<model>.csv``; returns the table.

    Args:
        model: of :data:`VARIANTS`.
        qualities: of it.
        dataset, data_root, limit: as :func:`~compressai_gen.data.load_dataset` takes them.
        output: folder of the table.
        unreadable: see :func:`~compressai_gen.eval.runner.measure`.

    Raises:
        CodecError: the model has no variants or not these qualities.
    """
    spec = specs().get(model)
    if spec is None or not spec.variants:
        known = [name for name, other in specs().items() if other.variants]
        raise CodecError(f"{model!r} has no parts to switch off; known: {', '.join(known)}")
    codec, metrics = find_codec(model), (*DEFAULT_METRICS, *spec.ablation_metrics)
    jobs = []
    for name, variant in spec.variants.items():
        jobs.append(Job(codec.variant(name, variant), check_qualities(codec, qualities)))
    store = RowStore(output / f".{model}.rows.jsonl", list(metrics), "cpu")
    images = load_dataset(dataset, data_root, limit)
    rows = measure(jobs, images, ReferenceMetrics(metrics), store=store)
    table = tables.summarize(tables.per_image(rows)).drop(columns="source").rename(columns={"codec": "variant"})
    write_table(table, output / f"{model}.csv")
    return table


def main(argv: Sequence[str] | None = None, prog: str = "python -m compressai_gen.eval.ablation") -> int:
    """Run the program and return its exit status: 0, 2 on an error of the user's, 130 when interrupted."""
    args = make(arguments, prog).parse_args(argv)

    def run() -> None:
        prepare_torch("cpu", None)
        unreadable: dict[str, str] = {}
        table = ablate(args.model, args.qualities, args.dataset, args.data_root, args.output, args.limit, unreadable)
        print(table.to_string(index=False, float_format="{:.4f}".format))
        if unreadable:
            raise DatasetError(
                f"{len(unreadable)} pictures could not be read and are left out: {', '.join(unreadable)}"
            )

    return exit_status(run, "interrupted; the same command goes on from here")


if __name__ == "__main__":
    sys.exit(main())
