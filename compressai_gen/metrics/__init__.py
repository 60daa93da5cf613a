"""Quality metrics and Bjontegaard deltas."""

from compressai_gen.metrics.bd_rate import MIN_OVERLAP, BDRate, bd_rate
from compressai_gen.metrics.full_reference import (
    DEFAULT_METRICS,
    METRICS,
    DistsMetric,
    LpipsMetric,
    MetricSpec,
    ReferenceMetrics,
    create_metric,
)

__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "MIN_OVERLAP",
    "BDRate",
    "DistsMetric",
    "LpipsMetric",
    "MetricSpec",
    "ReferenceMetrics",
    "bd_rate",
    "create_metric",
]
