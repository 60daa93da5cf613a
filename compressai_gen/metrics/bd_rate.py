"""Bjontegaard delta rate: the mean difference in rate of two curves at equal quality, in percent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from compressai_gen._matplotlib import backend_set_aside

with backend_set_aside():  # which the package loads
    import bjontegaard

__all__ = ["MIN_OVERLAP", "BDRate", "bd_rate", "why_undefined"]

# Under this share of the quality range the mean says little about the curves; tables mark such figures.
MIN_OVERLAP = 0.5
_MIN_POINTS = {"pchip": 2, "akima": 3}


class BDRate(NamedTuple):
    """Result of :func:`bd_rate`.

    Attributes:
        percent: negative where the test curve needs fewer bits; NaN where it is not defined.
        overlap: share (0 to 1) of the quality range of the two curves together on which both exist.
    """

    percent: float
    overlap: float

    @property
    def is_reliable(self) -> bool:
        """Whether the figure is defined and the curves share at least half of their quality range."""
        return math.isfinite(self.percent) and self.overlap >= MIN_OVERLAP


def bd_rate(
    rate_anchor: Sequence[float],
    quality_anchor: Sequence[float],
    rate_test: Sequence[float],
    quality_test: Sequence[float],
    method: str = "pchip",
    higher_is_better: bool = True,
) -> BDRate:
    """BD-rate over log(bpp), computed by the ``bjontegaard`` package (Herglotz et al., 2022).

    Args:
        rate_anchor: bits per pixel of the anchor, in any order.
        quality_anchor: its quality at each rate.
        rate_test: bits per pixel of the codec under test.
        quality_test: its quality at each rate.
        method: ``"pchip"`` or ``"akima"``.
        higher_is_better: False for distances (LPIPS, DISTS), which enter negated.

    Returns:
        Percent and overlap. Percent is NaN where the figure is not defined: too few points (2 for PCHIP, 3 for Akima),
        no common quality, or a curve on which more bits do not always give better quality.

    Raises:
        ValueError: the method is unknown.
    """
    if method not in _MIN_POINTS:
        raise ValueError(f"unknown method '{method}'; known methods: {', '.join(_MIN_POINTS)}")
    sign = 1 if higher_is_better else -1
    anchor, test = _curve(rate_anchor, quality_anchor, sign), _curve(rate_test, quality_test, sign)
    overlap = _overlap(anchor[1], test[1])
    if _reason(anchor, test, overlap, _MIN_POINTS[method]):
        return BDRate(math.nan, overlap)
    # min_overlap=0: we report the overlap ourselves instead of warning.
    percent = bjontegaard.bd_rate(*anchor, *test, method=method, require_matching_points=False, min_overlap=0)
    return BDRate(float(percent), overlap)


def why_undefined(
    rate_anchor: Sequence[float],
    quality_anchor: Sequence[float],
    rate_test: Sequence[float],
    quality_test: Sequence[float],
    method: str = "pchip",
    higher_is_better: bool = True,
) -> str:
    """Return why :func:`bd_rate` of the same arguments is not defined, or an empty text where it is."""
    sign = 1 if higher_is_better else -1
    anchor, test = _curve(rate_anchor, quality_anchor, sign), _curve(rate_test, quality_test, sign)
    return _reason(anchor, test, _overlap(anchor[1], test[1]), _MIN_POINTS[method])


def _reason(
    anchor: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], overlap: float, points: int
) -> str:
    """Why there is no figure of two curves, or nothing."""
    for name, (rate, quality) in (("the anchor", anchor), ("the codec", test)):
        if len(rate) < points:
            return f"{name} has {len(rate)} point{'' if len(rate) == 1 else 's'}, and at least {points} are needed"
        if not _is_increasing(quality):
            return f"with more bits, {name} does not always get better"
    return "" if overlap else "the curves have no quality in common"


def _curve(rate: Sequence[float], quality: Sequence[float], sign: int) -> tuple[np.ndarray, np.ndarray]:
    rate, quality = np.asarray(rate, dtype=float), sign * np.asarray(quality, dtype=float)
    usable = np.isfinite(rate) & np.isfinite(quality) & (rate > 0)
    rate, quality = rate[usable], quality[usable]
    order = np.argsort(rate, kind="stable")
    return rate[order], quality[order]


def _is_increasing(values: np.ndarray) -> bool:
    return bool(np.all(np.diff(values) > 0))


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    if not len(a) or not len(b):
        return 0.0
    union = max(a.max(), b.max()) - min(a.min(), b.min())
    common = min(a.max(), b.max()) - max(a.min(), b.min())
    return float(max(common, 0.0) / union) if union > 0 else 0.0
