"""Uncertainty of a mean over images: what would other images of the same kind have given?"""

from __future__ import annotations

import numpy as np

__all__ = ["RESAMPLES", "interval", "resample_means"]

RESAMPLES = 1000


def resample_means(values: np.ndarray) -> np.ndarray:
    """Return the means of resampled images.

    Args:
        values: shape (images, …).

    Returns:
        Shape (RESAMPLES, …). The images drawn depend only on their number, so that two curves on the same images are
        resampled together, and a repeated run gives the same interval.
    """
    draws = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    return np.stack([values[draw].mean(axis=0) for draw in draws])


def interval(estimates: np.ndarray) -> tuple[float, float]:
    """Return the central 95 % of resampled estimates, NaN where over 5 % of them are undefined."""
    estimates = np.asarray(estimates, dtype=float)
    defined = estimates[~np.isnan(estimates)]
    if len(defined) < 0.95 * len(estimates):
        return float("nan"), float("nan")
    # Order statistics instead of interpolation: PSNR may be infinite.
    low, high = np.quantile(defined, [0.025, 0.975], method="nearest")
    return float(low), float(high)
