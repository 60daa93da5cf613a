"""Curves that others measured and published; ``eval/SOURCES.md`` says where each figure comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from compressai_gen.resources import EVAL_DIR

__all__ = ["base_name", "newest_of_families", "published_curves"]


class _Lineage(NamedTuple):
    family: str
    since: str


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


def newest_of_families(codecs: Mapping[str, float]) -> list[str]:
    """Return one published codec of each family, the newest.

    A family is a line of work of the same people or body, in which the newer replaces the older, and
    ``eval/published_codecs.csv`` says which codec belongs to which. A codec that it does not name is its own family.

    Args:
        codecs: names as :func:`published_curves` has them, each with what decides between codecs of one date: the
            highest is taken.

    Returns:
        The families in the order of the file, in which the ones that say most as anchors come first.
    """
    lineages = _lineages()
    order = list(dict.fromkeys(lineage.family for lineage in lineages.values()))
    newest: dict[str, tuple[str, float]] = {}
    chosen: dict[str, str] = {}
    for codec, score in codecs.items():
        family, since = lineages.get(base_name(codec), _Lineage(codec, ""))
        if family not in newest or (since, score) > newest[family]:
            newest[family], chosen[family] = (since, score), codec
    known = [family for family in order if family in chosen]
    return [chosen[family] for family in (*known, *(family for family in chosen if family not in order))]


def _lineages() -> dict[str, _Lineage]:
    table = pd.read_csv(EVAL_DIR / "published_codecs.csv", dtype=str)
    return {row.codec: _Lineage(row.family, row.since) for row in table.itertuples(index=False)}
