"""Curves that others measured and published; ``eval/SOURCES.md`` says where each figure comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pandas as pd

from compressai_gen.resources import EVAL_DIR

__all__ = ["base_name", "family_ranks", "newest_of_families", "published_curves", "published_training"]


class _Lineage(NamedTuple):
    family: str
    since: str
    trained_on: str | None = None


def published_curves(dataset: str) -> pd.DataFrame:
    """Return the published points of a dataset; no rows where there are none.

    Args:
        dataset: as in the file: ``kodak``, ``clic2020``, ``clic2020-professional``, ``div2k``; and ``clic2020-768``,
            ``tecnick-768`` and ``kodak-crop512``, whose pictures are cut.

    Returns:
        Columns ``source, dataset, codec, point, bpp, psnr, ms_ssim, …``, in the order of the file. Where two sources
        measured the same codec, its name carries the source, ``VTM [diffeic]``, so that a name is one curve.
    """
    table = pd.read_csv(EVAL_DIR / "published_curves.csv")
    table = table[table["dataset"] == dataset].reset_index(drop=True)
    ambiguous = table.groupby("codec")["source"].transform("nunique") > 1
    table.loc[ambiguous, "codec"] += " [" + table.loc[ambiguous, "source"] + "]"
    return table


def base_name(codec: str) -> str:
    """Return a published codec's name without the source that :func:`published_curves` may have put behind it."""
    return codec.split(" [")[0]


def family_ranks(codecs: Iterable[str]) -> dict[str, int]:
    """Return the place of each published codec's family.

    A family is a line of work of the same people or body, in which the newer replaces the older. Which codec belongs to
    which, says ``eval/published_codecs.csv``, the families that say most as anchors first. A codec that it does not
    name is its own family, behind those that it does.
    """
    lineages = _lineages()
    ranks: dict[str, int] = {}
    for lineage in lineages.values():
        ranks.setdefault(lineage.family, len(ranks))
    return {codec: ranks.setdefault(_lineage(codec, lineages).family, len(ranks)) for codec in codecs}


def newest_of_families(codecs: Mapping[str, float]) -> list[str]:
    """Return one published codec of each family, the newest, in the order of :func:`family_ranks`.

    Args:
        codecs: names as :func:`published_curves` has them. Of variants of one date, the file's first is taken; of one
            codec that several sources measured, the curve with the highest number given here.
    """
    lineages = _lineages()
    order = list(lineages)

    def recency(codec: str) -> tuple[str, int, float]:
        place = order.index(base_name(codec)) if base_name(codec) in lineages else 0
        return _lineage(codec, lineages).since, -place, codecs[codec]

    newest: dict[int, str] = {}
    for codec, rank in family_ranks(codecs).items():
        newest[rank] = max(newest.get(rank, codec), codec, key=recency)
    return [newest[rank] for rank in sorted(newest)]


def published_training(codec: str) -> frozenset[str] | None:
    """Return the metrics that a published codec was trained to lower, as its paper or code states; None: unknown."""
    trained_on = _lineage(codec, _lineages()).trained_on
    return None if trained_on is None else frozenset(trained_on.split()) - {"none"}


def _lineage(codec: str, lineages: Mapping[str, _Lineage]) -> _Lineage:
    return lineages.get(base_name(codec), _Lineage(codec, ""))


def _lineages() -> dict[str, _Lineage]:
    table = pd.read_csv(EVAL_DIR / "published_codecs.csv", dtype=str, keep_default_na=False)
    trained = table.get("trained_on", pd.Series("", index=table.index))
    return {
        row.codec: _Lineage(row.family, row.since, metrics or None)
        for row, metrics in zip(table.itertuples(index=False), trained, strict=True)
    }
