"""What a codec's weights were trained to lower, as it stands beside the codec's figures.

A figure that a codec was trained for says less than one that it was not: it may have learned what the metric overlooks.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

__all__ = ["DAGGER", "FOOTNOTE", "NOTHING", "UNKNOWN", "footnote", "stated", "told", "was_trained_on"]

DAGGER = "†"
FOOTNOTE = f"{DAGGER}: the codec was trained to lower this metric, or searches for it."
UNKNOWN, NOTHING = "unknown", "none"
"""What tables say in the place of names of metrics."""

_UNKNOWN_NOTE = "Of some codecs it is unknown what they were trained on; their figures bear no mark."
# Parts of a picture are measured by the same network.
_SAME = {"lpips_complex": "lpips", "lpips_central": "lpips", "psnr_central": "psnr"}


def told(metrics: Iterable[str] | None) -> str:
    """Return what tables say of the metrics that a codec was trained to lower: names, ``none``, or ``unknown``."""
    if metrics is None:
        return UNKNOWN
    return " ".join(sorted(metrics)) or NOTHING


def was_trained_on(trained_on: str, metric: str) -> bool:
    """Return whether a metric is among those that :func:`told` returned."""
    return _SAME.get(metric, metric) in trained_on.split()


def stated(summary: pd.DataFrame) -> dict[str, str]:
    """Return what a summary says of each codec, ``unknown`` where it says nothing."""
    if "trained_on" not in summary:
        return dict.fromkeys(summary["codec"], UNKNOWN)
    return dict(zip(summary["codec"], summary["trained_on"].fillna(UNKNOWN), strict=True))


def footnote(trained_on: Iterable[str], metrics: Iterable[str]) -> str:
    """Return what the marks of a table mean, as far as it has such; empty where it says nothing of training."""
    every, metrics = set(trained_on), list(metrics)
    marked = any(was_trained_on(names, metric) for names in every for metric in metrics)
    notes = [FOOTNOTE] * marked + [_UNKNOWN_NOTE] * (UNKNOWN in every)
    return " ".join(notes)
