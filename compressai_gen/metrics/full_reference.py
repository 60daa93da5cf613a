"""Metrics of a reconstruction against its original, as ``eval/protocol.md`` fixes them.

A metric has two steps. ``prepare(original)`` does everything that needs only the original (for LPIPS and DISTS a pass
of the feature network, half of the cost), and ``compare(prepared, reconstruction)`` the rest, so that an original is
prepared once for all codecs and qualities. Both take uint8 tensors of shape (3, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from pytorch_msssim import ms_ssim, ssim
from torch import Tensor

from compressai_gen.errors import MetricError
from compressai_gen.metrics.blocking import BLOCK, BlockingMetric
from compressai_gen.metrics.grid import LINES, WINDOW, GridMetric
from compressai_gen.metrics.perceptual import ComplexLpipsMetric, DistsMetric, LpipsMetric
from compressai_gen.metrics.ssimulacra2 import Ssimulacra2Metric

__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "CentralMetric",
    "FigureSpec",
    "Metric",
    "MetricSpec",
    "PooledMetric",
    "ReferenceMetrics",
    "central_quarter",
    "create_metric",
]


class Metric(Protocol):
    """What :class:`ReferenceMetrics` needs of a metric."""

    def prepare(self, original: Tensor) -> Any:
        """Return what can be computed from the original alone."""

    def compare(self, prepared: Any, reconstruction: Tensor) -> float:
        """Return the value of the metric."""


@runtime_checkable
class PooledMetric(Metric, Protocol):
    """A metric whose figure of a set is not the mean of the images' figures, but comes from means of their terms."""

    def terms(self, prepared: Any, reconstruction: Tensor) -> Tensor:
        """Return what is averaged over images."""

    @staticmethod
    def pooled(terms: Tensor) -> float:
        """Return the figure of one image's terms, or of their mean over a set."""


class Psnr:
    """Peak signal-to-noise ratio over the three RGB channels, in dB; infinite for equal pictures."""

    def prepare(self, original: Tensor) -> Tensor:
        """Widen to integers that hold a squared difference."""
        return original.to(torch.int32)

    def compare(self, prepared: Tensor, reconstruction: Tensor) -> float:
        """Return 10 log10(255^2 / MSE)."""
        # Integer squares and a float64 mean: the same value on every device.
        mse = (prepared - reconstruction.to(torch.int32)).square().double().mean().item()
        return 10 * math.log10(255**2 / mse) if mse else math.inf


class MsSsim:
    """MS-SSIM of ``pytorch_msssim`` on RGB, data range 255 (Wang, Simoncelli, Bovik, 2003)."""

    def prepare(self, original: Tensor) -> Tensor:
        """Return the picture as a float batch of one."""
        return original.float().unsqueeze(0)

    def compare(self, prepared: Tensor, reconstruction: Tensor) -> float:
        """Return MS-SSIM, at most 1."""
        return ms_ssim(prepared, self.prepare(reconstruction), data_range=255).item()


class Ssim(MsSsim):
    """SSIM of ``pytorch_msssim`` on RGB, 11-pixel Gaussian window, data range 255 (Wang et al., 2004)."""

    def compare(self, prepared: Tensor, reconstruction: Tensor) -> float:
        """Return SSIM, at most 1."""
        return ssim(prepared, self.prepare(reconstruction), data_range=255).item()


def central_quarter(height: int, width: int) -> tuple[slice, slice]:
    """Return the rows and columns in the middle of a picture that make a quarter of it."""
    return slice(height // 4, height - height // 4), slice(width // 4, width - width // 4)


class CentralMetric:
    """Another metric in the central quarter of a picture, where ablations put their region of interest."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def prepare(self, original: Tensor) -> Any:
        """Return what the metric computes from the original's part."""
        return self._metric.prepare(_centre(original))

    def compare(self, prepared: Any, reconstruction: Tensor) -> float:
        """Return the metric of the part."""
        return self._metric.compare(prepared, _centre(reconstruction))


def _centre(image: Tensor) -> Tensor:
    rows, columns = central_quarter(*image.shape[1:])
    return image[:, rows, columns]


@dataclass(frozen=True)
class FigureSpec:
    """A figure of merit as tables, plots and BD-rates need it.

    Attributes:
        label: for axes.
        higher_is_better: False for distances.
        has_bd_rate: False where equal figures do not mean equal quality, so that no rate is compared at them.
    """

    label: str
    higher_is_better: bool
    has_bd_rate: bool = field(default=True, kw_only=True)


@dataclass(frozen=True)
class MetricSpec(FigureSpec):
    """A metric of one picture.

    Attributes:
        min_side: the metric is not defined (NaN) for a picture with a shorter side.
        create: makes the metric on a device.
        pooled: the figure of a set from the mean of its images' terms; None where it is the mean of their figures.
        terms: shape of these terms.
    """

    min_side: int
    create: Callable[[str | torch.device], Metric]
    pooled: Callable[[Tensor], float] | None = None
    terms: tuple[int, ...] = ()


METRICS: dict[str, MetricSpec] = {
    "psnr": MetricSpec("PSNR [dB]", True, 1, lambda device: Psnr()),
    "ms_ssim": MetricSpec("MS-SSIM", True, 161, lambda device: MsSsim()),  # four halvings of an 11-pixel window
    "ssim": MetricSpec("SSIM", True, 11, lambda device: Ssim()),
    "lpips": MetricSpec("LPIPS (AlexNet)", False, 31, lambda device: LpipsMetric("alex", device)),
    "dists": MetricSpec("DISTS", False, 1, lambda device: DistsMetric(device)),
    "lpips_vgg": MetricSpec("LPIPS (VGG)", False, 16, lambda device: LpipsMetric("vgg", device)),
    "ssimulacra2": MetricSpec("SSIMULACRA 2", True, 8, lambda device: Ssimulacra2Metric()),
    "grid": MetricSpec(
        "grid [dB]",
        False,
        WINDOW,
        lambda device: GridMetric(),
        GridMetric.pooled,
        terms=(2, len(LINES), 2),
        has_bd_rate=False,
    ),
    "blocking": MetricSpec(
        "blocking [dB]",
        False,
        BLOCK + 1,
        lambda device: BlockingMetric(),
        BlockingMetric.pooled,
        terms=(2, 2, BLOCK),
        has_bd_rate=False,
    ),
    "lpips_complex": MetricSpec("LPIPS in the complex half", False, 31, lambda device: ComplexLpipsMetric(device)),
    "psnr_central": MetricSpec("PSNR in the central quarter [dB]", True, 2, lambda device: CentralMetric(Psnr())),
    "lpips_central": MetricSpec(
        "LPIPS in the central quarter", False, 62, lambda device: CentralMetric(LpipsMetric("alex", device))
    ),
}
DEFAULT_METRICS = ("psnr", "ms_ssim", "ssim", "lpips", "dists", "lpips_vgg", "ssimulacra2", "grid", "blocking")
"""By family: pixels, structure, perceptual ones that this package trains on, ones that it does not, and patterns."""


def create_metric(name: str, device: str | torch.device = "cpu") -> Metric:
    """Make a metric by name.

    Raises:
        MetricError: the name is unknown, or the weights cannot be had.
    """
    if name not in METRICS:
        raise MetricError(f"unknown metric '{name}'; known metrics: {', '.join(METRICS)}")
    return METRICS[name].create(device)


class ReferenceMetrics:
    """Several metrics against one original at a time.

    Args:
        names: keys of ``METRICS``.
        device: where they are computed.
        on_missing: called with the error of a metric that cannot be had, which is then left out; default is to raise.

    Raises:
        MetricError: a name is unknown, or the weights cannot be had.

    >>> metrics = ReferenceMetrics(["psnr"])
    >>> metrics.set_original(torch.zeros(3, 8, 8, dtype=torch.uint8))
    >>> metrics.measure(torch.full((3, 8, 8), 255, dtype=torch.uint8))
    {'psnr': 0.0}
    """

    def __init__(
        self,
        names: Iterable[str],
        device: str | torch.device = "cpu",
        on_missing: Callable[[MetricError], None] | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.metrics: dict[str, Metric] = {}
        for name in names:
            try:
                self.metrics[name] = create_metric(name, device)
            except MetricError as error:
                if on_missing is None:
                    raise
                on_missing(error)
        self._prepared: dict[str, Any] = {}
        self._shape: torch.Size | None = None

    @torch.no_grad()
    def set_original(self, original: Tensor) -> None:
        """Prepare a uint8 original of shape (3, H, W); the one before is forgotten."""
        self._prepared = {}
        self._shape = original.shape
        original = original.to(self.device)
        for name, metric in self.metrics.items():
            if min(original.shape[1:]) >= METRICS[name].min_side:
                self._prepared[name] = metric.prepare(original)

    def measure(self, reconstruction: Tensor) -> dict[str, float]:
        """Return the value of each metric, NaN where the picture is too small for it.

        Args:
            reconstruction: uint8, of the shape of the original.

        Raises:
            MetricError: the shapes differ, or the reconstruction is not 8-bit.
        """
        return self.measure_with_terms(reconstruction)[0]

    @torch.no_grad()
    def measure_with_terms(self, reconstruction: Tensor) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Return what :meth:`measure` does, and the terms of each pooled metric that the picture is not too small for.

        The figure of a set is ``METRICS[name].pooled`` of the mean of its images' terms.
        """
        if reconstruction.shape != self._shape or reconstruction.dtype != torch.uint8:
            raise MetricError(
                f"a reconstruction of shape {tuple(reconstruction.shape)} and type {reconstruction.dtype} cannot be "
                f"compared with an original of shape {tuple(self._shape or ())}; it must be uint8 of the same shape"
            )
        reconstruction = reconstruction.to(self.device)
        values, terms = {}, {}
        for name, metric in self.metrics.items():
            if name not in self._prepared:
                values[name] = math.nan
            elif isinstance(metric, PooledMetric):
                terms[name] = metric.terms(self._prepared[name], reconstruction)
                values[name] = metric.pooled(terms[name])
            else:
                values[name] = metric.compare(self._prepared[name], reconstruction)
        return values, terms
