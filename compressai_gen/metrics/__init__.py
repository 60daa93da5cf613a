"""Quality metrics of pictures and of sets, and Bjontegaard deltas.

:class:`ReferenceMetrics` measures pictures against an original, :class:`PatchFeatures` and :class:`FeatureDistance`
sets of them. ``ReferenceMetric``, ``FrechetPatchDistance`` (FID) and ``KernelPatchDistance`` (KID) are the same as
``torchmetrics.Metric``s, with ``update``, ``compute``, ``reset`` and sums over processes; they need the extra
``torchmetrics``.
"""

from typing import Any

from compressai_gen.metrics.bd_rate import MIN_OVERLAP, BDRate, bd_rate
from compressai_gen.metrics.blocking import blocking_excess, steepness
from compressai_gen.metrics.distribution import (
    FEATURES,
    MIN_PATCHES,
    SET_METRICS,
    FeatureDistance,
    PatchFeatures,
)
from compressai_gen.metrics.full_reference import (
    DEFAULT_METRICS,
    METRICS,
    FigureSpec,
    MetricSpec,
    ReferenceMetrics,
    create_metric,
)
from compressai_gen.metrics.grid import LINES, grid_excess, line_powers
from compressai_gen.metrics.losses import DistsLoss
from compressai_gen.metrics.perceptual import DistsMetric, LpipsMetric, lpips_network

__all__ = [
    "DEFAULT_METRICS",
    "FEATURES",
    "FIGURES",
    "LINES",
    "METRICS",
    "MIN_OVERLAP",
    "MIN_PATCHES",
    "SET_METRICS",
    "BDRate",
    "DistsLoss",
    "DistsMetric",
    "FeatureDistance",
    "FigureSpec",
    "FrechetPatchDistance",
    "KernelPatchDistance",
    "LpipsMetric",
    "MetricSpec",
    "PatchFeatures",
    "ReferenceMetric",
    "ReferenceMetrics",
    "bd_rate",
    "blocking_excess",
    "create_metric",
    "grid_excess",
    "line_powers",
    "lpips_network",
    "steepness",
]

FIGURES: dict[str, FigureSpec] = {**METRICS, **SET_METRICS}
"""Every column that is a figure of merit, of a picture or of a set."""

_MODULES = ("FrechetPatchDistance", "KernelPatchDistance", "ReferenceMetric")


def __getattr__(name: str) -> Any:
    """Import what needs torchmetrics when it is asked for."""
    if name in _MODULES:
        from compressai_gen.metrics import modules

        return getattr(modules, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
