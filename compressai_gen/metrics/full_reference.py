"""Metrics of a reconstruction against its original, as ``eval/protocol.md`` fixes them.

A metric has two steps. ``prepare(original)`` does everything that needs only the original (for LPIPS and DISTS a pass
of the feature network, half of the cost), and ``compare(prepared, reconstruction)`` the rest, so that an original is
prepared once for all codecs and qualities. Both take uint8 tensors of shape (3, H, W).
"""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import DISTS_pytorch
import lpips
import torch
import torch.nn.functional as F
from DISTS_pytorch.DISTS_pt import L2pooling
from pytorch_msssim import ms_ssim, ssim
from torch import Tensor, nn
from torchvision.transforms.functional import rgb_to_grayscale

from compressai_gen.errors import MetricError
from compressai_gen.metrics.grid import WINDOW, GridMetric
from compressai_gen.metrics.ssimulacra2 import Ssimulacra2Metric
from compressai_gen.metrics.weights import convolutions, quiet
from compressai_gen.weights import UNREADABLE, first_line

__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "CentralMetric",
    "ComplexLpipsMetric",
    "DistsMetric",
    "FigureSpec",
    "LpipsMetric",
    "Metric",
    "MetricSpec",
    "PooledMetric",
    "ReferenceMetrics",
    "central_quarter",
    "create_metric",
    "lpips_network",
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


def lpips_network(net: str = "alex") -> lpips.LPIPS:
    """Return LPIPS v0.1 of the ``lpips`` package, whose backbone is found wherever it can be had.

    Args:
        net: ``"alex"`` or ``"vgg"``.

    Raises:
        MetricError: the weights of the backbone cannot be had, or the package is not whole.
    """
    backbone = convolutions(f"LPIPS ({net})", {"alex": "alexnet", "vgg": "vgg16"}[net]).state_dict()
    with quiet(), torch.device("meta"):  # the package would make, and fill at random, a whole classifier
        model = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    model.scaling_layer = lpips.ScalingLayer()  # has values that are no weights
    try:
        file = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
        heads = torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise MetricError(
            f"LPIPS: the package lpips is not whole ({first_line(error)}); reinstall it by pip"
        ) from error
    names = [name for name in model.net.state_dict() if "." in name]
    state = {f"net.{name}": backbone[name.partition(".")[2]] for name in names}
    model.load_state_dict(state | heads, strict=False, assign=True)
    return model.eval()


class _Once(nn.Module):
    """A stage of a metric network that lets features pass which were computed earlier."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, x: Any) -> Any:
        return self.stage(x) if isinstance(x, Tensor) else x


class LpipsMetric:
    """LPIPS v0.1 of the ``lpips`` package at native resolution (Zhang et al., CVPR 2018).

    Args:
        net: ``"alex"`` or ``"vgg"``.
        device: where the network runs.

    Raises:
        MetricError: the weights of the backbone are not here and cannot be downloaded.
    """

    def __init__(self, net: str = "alex", device: str | torch.device = "cpu") -> None:
        model = lpips_network(net)
        # Its forward() then takes features in place of the original, and stays the package's own computation.
        model.scaling_layer, model.net = _Once(model.scaling_layer), _Once(model.net)
        self.model = model.to(device).eval()

    def prepare(self, original: Tensor) -> Any:
        """Return the backbone's activations of the original."""
        return self.model.net(self.model.scaling_layer(self._scale(original)))

    def compare(self, prepared: Any, reconstruction: Tensor) -> float:
        """Return the distance; 0 is a perfect picture."""
        return self.model(prepared, self._scale(reconstruction)).item()

    @staticmethod
    def _scale(image: Tensor) -> Tensor:
        return image.float().unsqueeze(0) / 127.5 - 1


class ComplexLpipsMetric(LpipsMetric):
    """LPIPS (AlexNet) in the complex half of a picture, where an extreme-low rate hurts most.

    The mean of LPIPS' spatial map over those 32x32 cells of the original whose luma varies at least as the median
    cell's does: MRIDC's key-region consistency.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        super().__init__("alex", device)
        self.model.spatial = True

    def prepare(self, original: Tensor) -> tuple[Any, Tensor]:
        """Return the backbone's activations of the original and the complex half's share of each pixel."""
        luma = rgb_to_grayscale(original).float()[None]
        mean, square = (F.avg_pool2d(v, 32, ceil_mode=True) for v in (luma, luma.square()))
        variance = square - mean.square()
        half = (variance >= variance.quantile(0.5)).float()
        share = half.repeat_interleave(32, 2).repeat_interleave(32, 3)[..., : luma.shape[2], : luma.shape[3]]
        return super().prepare(original), share / share.sum()

    def compare(self, prepared: tuple[Any, Tensor], reconstruction: Tensor) -> float:
        """Return the distance; 0 is a perfect picture."""
        features, share = prepared
        # The second argument's size is not asked for, and features have none.
        return (self.model(self._scale(reconstruction), features) * share).sum().item()


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
    return image[(slice(None), *central_quarter(*image.shape[1:]))]


class _CachedDists(DISTS_pytorch.DISTS):
    """DISTS that lets features pass which were computed earlier, made of a backbone that is here.

    Args:
        features: of VGG-16.
        weights: ``alpha`` and ``beta`` of the package.
    """

    def __init__(self, features: nn.Sequential, weights: dict[str, Tensor]) -> None:
        nn.Module.__init__(self)  # the package's own constructor loads a whole classifier through torch
        self.chns = [3, 64, 128, 256, 512, 512]
        # A stage begins where VGG-16 pools by the maximum.
        starts = [i for i, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
        for stage, (start, end) in enumerate(zip([0, *starts[:4]], starts, strict=True)):
            pooling = [(str(start), L2pooling(channels=self.chns[stage]))] if stage else []
            layers = [(str(i), features[i]) for i in range(start + len(pooling), end)]
            self.add_module(f"stage{stage + 1}", nn.Sequential(OrderedDict(pooling + layers)))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, -1, 1, 1))
        self.alpha, self.beta = nn.Parameter(weights["alpha"]), nn.Parameter(weights["beta"])
        self.requires_grad_(False)

    def forward_once(self, x: Any) -> Any:
        return super().forward_once(x) if isinstance(x, Tensor) else x


class DistsMetric:
    """DISTS of ``DISTS_pytorch`` at native resolution (Ding et al., TPAMI 2020).

    Raises:
        MetricError: the weights of its VGG-16 are not here and cannot be downloaded.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        weights = torch.load(self._weights_file(), map_location="cpu", weights_only=True)
        self.model = _CachedDists(convolutions("DISTS", "vgg16"), weights).to(device).eval()

    @staticmethod
    def _weights_file() -> Path:
        # The package itself looks only in sys.prefix, where a user or target installation does not put the file.
        folders = [Path(DISTS_pytorch.__file__).parent, Path(sys.prefix)]
        found = [folder / "weights.pt" for folder in folders if (folder / "weights.pt").is_file()]
        if not found:
            raise MetricError("DISTS: weights.pt of the package DISTS-pytorch is missing; reinstall it with pip")
        return found[0]

    def prepare(self, original: Tensor) -> Any:
        """Return the activations of the original at the six scales."""
        return self.model.forward_once(original.float().unsqueeze(0) / 255)

    def compare(self, prepared: Any, reconstruction: Tensor) -> float:
        """Return the distance; 0 is a perfect picture."""
        return self.model(prepared, reconstruction.float().unsqueeze(0) / 255).item()


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
    """

    min_side: int
    create: Callable[[str | torch.device], Metric]
    pooled: Callable[[Tensor], float] | None = None


METRICS: dict[str, MetricSpec] = {
    "psnr": MetricSpec("PSNR [dB]", True, 1, lambda device: Psnr()),
    "ms_ssim": MetricSpec("MS-SSIM", True, 161, lambda device: MsSsim()),  # four halvings of an 11-pixel window
    "ssim": MetricSpec("SSIM", True, 11, lambda device: Ssim()),
    "lpips": MetricSpec("LPIPS (AlexNet)", False, 31, lambda device: LpipsMetric("alex", device)),
    "dists": MetricSpec("DISTS", False, 1, lambda device: DistsMetric(device)),
    "lpips_vgg": MetricSpec("LPIPS (VGG)", False, 16, lambda device: LpipsMetric("vgg", device)),
    "ssimulacra2": MetricSpec("SSIMULACRA 2", True, 8, lambda device: Ssimulacra2Metric()),
    "grid": MetricSpec("grid [dB]", False, WINDOW, lambda device: GridMetric(), GridMetric.pooled, has_bd_rate=False),
    "lpips_complex": MetricSpec("LPIPS in the complex half", False, 31, lambda device: ComplexLpipsMetric(device)),
    "psnr_central": MetricSpec("PSNR in the central quarter [dB]", True, 2, lambda device: CentralMetric(Psnr())),
    "lpips_central": MetricSpec(
        "LPIPS in the central quarter", False, 62, lambda device: CentralMetric(LpipsMetric("alex", device))
    ),
}
DEFAULT_METRICS = ("psnr", "ms_ssim", "ssim", "lpips", "dists", "lpips_vgg", "ssimulacra2", "grid")
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
