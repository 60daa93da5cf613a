"""Curves that others measured and published; ``eval/SOURCES.md`` says where each figure comes from."""

from __future__ import annotations

import pandas as pd

from compressai_gen.resources import EVAL_DIR

__all__ = ["published_curves"]


def published_curves(dataset: str) -> pd.DataFrame:
    """Return the published points of a dataset; no rows where there are none.

    Args:
        dataset: name as in the file: ``kodak``, ``clic2020``, ``clic2020-professional``, ``div2k``, ``tecnick``.

    Returns:
        Columns ``source, dataset, codec, point, bpp, psnr, ms_ssim, …``, in the order of the file. Where two sources
        measured the same codec, its name carries the source, ``VTM [diffeic]``, so that a name is one curve.
    """
    table = pd.read_csv(EVAL_DIR / "published_curves.csv")
    table = table[table["dataset"] == dataset].reset_index(drop=True)
    ambiguous = table.groupby("codec")["source"].transform("nunique") > 1
    table.loc[ambiguous, "codec"] += " [" + table.loc[ambiguous, "source"] + "]"
    return table
