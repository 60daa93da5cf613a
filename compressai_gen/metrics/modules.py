"""The evaluation's metrics as ``torchmetrics.Metric``s, for training loops of one or several processes.

They give the harness' figures, of pictures rounded to 8 bits, and need the extra ``torchmetrics``::

    from torchmetrics import MetricCollection
    from compressai_gen.metrics import FrechetPatchDistance, ReferenceMetric

    metrics = MetricCollection({"lpips": ReferenceMetric("lpips"), "fid": FrechetPatchDistance()})
    for x in loader:
        metrics.update(model(x)["x_hat"], x)
    print(metrics.compute())
    metrics.reset()
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compressai_gen.errors import MetricError
from compressai_gen.extras import extra
from compressai_gen.metrics.distribution import FEATURES, FeatureDistance, PatchFeatures
from compressai_gen.metrics.full_reference import METRICS, ReferenceMetrics

with extra("torchmetrics"):
    from torchmetrics import Metric

__all__ = ["FrechetPatchDistance", "KernelPatchDistance", "ReferenceMetric"]


def _pictures(batch: Tensor) -> Tensor:
    """Return uint8 pictures of a batch (N, 3, H, W): uint8 as it is, or floats in [0, 1], clamped and rounded."""
    if batch.ndim != 4 or batch.shape[1] != 3:
        raise MetricError(f"a batch of pictures has the shape (N, 3, H, W), not {tuple(batch.shape)}")
    if batch.dtype == torch.uint8:
        return batch
    if not batch.is_floating_point():
        raise MetricError(f"pictures are uint8 or floats in [0, 1], not {batch.dtype}")
    return (batch.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)


class _PictureMetric(Metric):
    """What all of them share: networks are made where the pictures are, at the first update, and are no state."""

    is_differentiable = False
    full_state_update = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._networks: dict[torch.device, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_networks": {}}


class ReferenceMetric(_PictureMetric):
    """A metric against the original, its figure over all pictures of all processes.

    That is the mean over pictures, or what pooled metrics (``grid``) make of means of terms; NaN where one picture is
    too small for the metric, or where there was none.

    Args:
        name: key of ``METRICS``, such as ``"lpips"``.
        kwargs: of ``torchmetrics.Metric``.

    Raises:
        MetricError: the name is unknown; at the first update, weights cannot be had.
    """

    total: Tensor
    count: Tensor

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if name not in METRICS:
            raise MetricError(f"unknown metric '{name}'; known metrics: {', '.join(METRICS)}")
        self.name = name
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("terms", torch.zeros(METRICS[name].terms, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @property
    def higher_is_better(self) -> bool:
        """False for distances."""
        return METRICS[self.name].higher_is_better

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Measure a batch.

        Args:
            preds: reconstructions (N, 3, H, W), uint8, or floats that are clamped to [0, 1] and rounded to 8 bits.
            target: originals of the same shape, likewise.
        """
        if preds.device not in self._networks:
            self._networks[preds.device] = ReferenceMetrics([self.name], preds.device)
        metrics = self._networks[preds.device]
        for reconstruction, original in zip(_pictures(preds), _pictures(target), strict=True):
            metrics.set_original(original)
            values, terms = metrics.measure_with_terms(reconstruction)
            self.total += values[self.name]
            if self.name in terms:
                self.terms += terms[self.name].to(self.terms)
            self.count += 1

    def compute(self) -> Tensor:
        """Return the figure, a scalar in float64."""
        pooled = METRICS[self.name].pooled
        if pooled is None or not self.count or self.total.isnan():
            return self.total / self.count
        return torch.tensor(pooled((self.terms / self.count).cpu()), dtype=torch.float64, device=self.total.device)


class _PatchDistance(_PictureMetric):
    """Holds the features of all patches, 8 KiB a patch with Inception, as the kernel distance has to see all pairs."""

    higher_is_better = False
    originals: list[Tensor]
    decoded: list[Tensor]

    def __init__(self, features: str = "inception", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if features not in FEATURES:
            raise MetricError(f"unknown features '{features}'; known features: {', '.join(FEATURES)}")
        self.features = features
        self.add_state("originals", [], dist_reduce_fx="cat")
        self.add_state("decoded", [], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add the patches of a batch.

        Args:
            preds: reconstructions (N, 3, H, W), uint8, or floats that are clamped to [0, 1] and rounded to 8 bits.
            target: originals, likewise.
        """
        if preds.device not in self._networks:
            self._networks[preds.device] = PatchFeatures(self.features, preds.device)
        network = self._networks[preds.device]
        for state, pictures in ((self.originals, target), (self.decoded, preds)):
            state += [torch.from_numpy(network(picture)).to(preds.device) for picture in _pictures(pictures)]

    def _distance(self) -> tuple[FeatureDistance, list[Any]]:
        originals, decoded = (
            [part.cpu().numpy() for part in (state if isinstance(state, list) else [state])]
            for state in (self.originals, self.decoded)
        )
        return FeatureDistance(originals), decoded


class FrechetPatchDistance(_PatchDistance):
    """FID on HiFiC's patches of 256x256 pixels (with ``features="alexnet"``, the distance that is not to be called so).

    NaN for fewer than two patches.

    Args:
        features: key of ``FEATURES``.
        kwargs: of ``torchmetrics.Metric``.

    Raises:
        MetricError: the features are unknown; at the first update, weights cannot be had.
    """

    def compute(self) -> Tensor:
        """Return the Fréchet distance, a scalar in float64."""
        distance, decoded = self._distance()
        return torch.tensor(distance.frechet(decoded), dtype=torch.float64)


class KernelPatchDistance(_PatchDistance):
    """KID on the same patches: the unbiased estimate from all of them. NaN for fewer than two patches.

    Args:
        features: key of ``FEATURES``.
        kwargs: of ``torchmetrics.Metric``.

    Raises:
        MetricError: the features are unknown; at the first update, weights cannot be had.
    """

    def compute(self) -> Tensor:
        """Return the squared maximum mean discrepancy, a scalar in float64."""
        distance, decoded = self._distance()
        return torch.tensor(distance.kernel(decoded), dtype=torch.float64)
