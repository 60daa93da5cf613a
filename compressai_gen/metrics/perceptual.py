"""LPIPS and DISTS of 8-bit pictures: distances between the features that networks for classification see.

Both compute what their packages do, from the packages' own weights. What they add is order: an original's share is
computed once, nothing is passed over twice, and the first stage of VGG-16, which both look at, runs once a picture.
"""

from __future__ import annotations

import sys
import weakref
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import DISTS_pytorch
import lpips
import torch
import torch.nn.functional as F
from DISTS_pytorch.DISTS_pt import L2pooling
from torch import Tensor, nn
from torchvision.transforms.functional import rgb_to_grayscale

from compressai_gen.errors import MetricError
from compressai_gen.metrics.weights import IMAGENET_MEAN, IMAGENET_STD, convolutions, quiet
from compressai_gen.weights import UNREADABLE, first_line

__all__ = ["ComplexLpipsMetric", "DistsMetric", "LpipsMetric", "lpips_network"]

_STEM = 4
"""Layers of VGG-16 before its first pooling, of which DISTS has another than LPIPS."""


_RUN = 4096
"""Positions whose products are added in float32."""


class _VggStem:
    """The first stage of VGG-16, whose output for the last picture is kept as long as the picture is."""

    def __init__(self, device: torch.device) -> None:
        self._layers = convolutions("VGG-16", "vgg16")[:_STEM].requires_grad_(False).to(device)
        self._mean = torch.tensor(IMAGENET_MEAN, device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(IMAGENET_STD, device=device).view(1, -1, 1, 1)
        # One attribute, as threads share it: a picture must never be given another's features.
        self._kept: tuple[weakref.ref[Tensor], Tensor] | None = None

    def __call__(self, image: Tensor) -> Tensor:
        """Return the features (1, 64, H, W) of a uint8 picture (3, H, W)."""
        kept = self._kept
        if kept is None or kept[0]() is not image:
            features = self._layers((image.float()[None] / 255 - self._mean) / self._std)
            self._kept = kept = weakref.ref(image, self._forget), features
        return kept[1]

    def _forget(self, reference: weakref.ref[Tensor]) -> None:
        if self._kept is not None and self._kept[0] is reference:
            self._kept = None


@cache
def _stem(device: torch.device) -> _VggStem:
    return _VggStem(device)


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """Mean product (C,) over the positions of features (C, P), without a map of products."""
    # In runs, whose sums are added in float64: one float32 sum over a photograph would lose two digits.
    runs = zip(a.split(_RUN, dim=1), b.split(_RUN, dim=1), strict=True)
    total = sum(torch.bmm(x[:, None], y[:, :, None]).flatten().double() for x, y in runs)
    return (total / a.shape[1]).float()


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

    Attributes:
        model: the package's network, which takes features of the first picture in its place.

    Args:
        net: ``"alex"`` or ``"vgg"``.
        device: where the network runs.

    Raises:
        MetricError: the weights of the backbone cannot be had.
    """

    def __init__(self, net: str = "alex", device: str | torch.device = "cpu") -> None:
        model = lpips_network(net)
        self._heads = [getattr(model, f"lin{k}").model[-1].weight.detach().flatten().to(device) for k in range(model.L)]
        model.scaling_layer, model.net = _Once(model.scaling_layer), _Once(model.net)
        self.model = model.to(device).eval()
        self._stem = _stem(torch.device(device)) if net == "vgg" else None

    def prepare(self, original: Tensor) -> Any:
        """Return the backbone's normalized activations of the original."""
        return [_normalized(features) for features in self._activations(original)]

    def compare(self, prepared: Any, reconstruction: Tensor) -> float:
        """Return the distance; 0 is a perfect picture."""
        distance = 0.0
        for head, original, features in zip(self._heads, prepared, self._activations(reconstruction), strict=True):
            difference = _normalized(features).sub_(original)
            distance += head.dot(_dots(difference, difference)).item()
        return distance

    def _activations(self, image: Tensor) -> list[Tensor]:
        if self._stem is None:
            return list(self.model.net(self.model.scaling_layer(self._scale(image))))
        activations = [self._stem(image)]
        network = self.model.net.stage
        for stage in (network.slice2, network.slice3, network.slice4, network.slice5):
            activations.append(stage(activations[-1]))
        return activations

    @staticmethod
    def _scale(image: Tensor) -> Tensor:
        return image.float().unsqueeze(0) / 127.5 - 1


def _normalized(features: Tensor) -> Tensor:
    """Return (C, P) of features (1, C, H, W), of unit length at every position."""
    features = features[0].flatten(1)
    return features / (torch.linalg.vector_norm(features, dim=0) + 1e-10)


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
        features = self.model.net(self.model.scaling_layer(self._scale(original)))
        return features, share / share.sum()

    def compare(self, prepared: tuple[Any, Tensor], reconstruction: Tensor) -> float:
        """Return the distance; 0 is a perfect picture."""
        features, share = prepared
        # The second argument's size is not asked for, and features have none.
        return (self.model(self._scale(reconstruction), features) * share).sum().item()


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
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, -1, 1, 1))
        self.alpha, self.beta = nn.Parameter(weights["alpha"]), nn.Parameter(weights["beta"])
        self.requires_grad_(False)

    def forward_once(self, x: Any) -> Any:
        return super().forward_once(x) if isinstance(x, Tensor) else x


class _Moments(NamedTuple):
    """Of one scale: features (C, P) less their means, means (C,) and variances (C,)."""

    centred: Tensor
    mean: Tensor
    variance: Tensor


class DistsMetric:
    """DISTS of ``DISTS_pytorch`` at native resolution (Ding et al., TPAMI 2020).

    Attributes:
        model: the package's network.

    Raises:
        MetricError: the weights of its VGG-16 cannot be had, or the package is not whole.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        weights = torch.load(self._weights_file(), map_location="cpu", weights_only=True)
        self.model = _CachedDists(convolutions("DISTS", "vgg16"), weights).to(device).eval()
        self._stem = _stem(torch.device(device))
        total = self.model.alpha.sum() + self.model.beta.sum()
        shares = ((parameter / total).flatten() for parameter in (self.model.alpha, self.model.beta))
        self._alphas, self._betas = (share.split(self.model.chns) for share in shares)

    @staticmethod
    def _weights_file() -> Path:
        # The package itself looks only in sys.prefix, where a user or target installation does not put the file.
        folders = [Path(DISTS_pytorch.__file__).parent, Path(sys.prefix)]
        found = [folder / "weights.pt" for folder in folders if (folder / "weights.pt").is_file()]
        if not found:
            raise MetricError("DISTS: weights.pt of the package DISTS-pytorch is missing; reinstall it with pip")
        return found[0]

    def prepare(self, original: Tensor) -> list[_Moments]:
        """Return the moments of the original's features at the six scales."""
        return [_moments(features) for features in self._activations(original)]

    def compare(self, prepared: list[_Moments], reconstruction: Tensor) -> float:
        """Return the distance; 0 is a perfect picture."""
        similarity = 0.0
        for x, features, alpha, beta in zip(
            prepared, self._activations(reconstruction), self._alphas, self._betas, strict=True
        ):
            y = _moments(features)
            luminance = (2 * x.mean * y.mean + 1e-6) / (x.mean**2 + y.mean**2 + 1e-6)
            structure = (2 * _dots(x.centred, y.centred) + 1e-6) / (x.variance + y.variance + 1e-6)
            similarity += (alpha.dot(luminance) + beta.dot(structure)).item()
        return 1 - similarity

    def _activations(self, image: Tensor) -> list[Tensor]:
        activations = [image.float()[None] / 255, self._stem(image)]
        for stage in (self.model.stage2, self.model.stage3, self.model.stage4, self.model.stage5):
            activations.append(stage(activations[-1]))
        return activations


def _moments(features: Tensor) -> _Moments:
    features = features[0].flatten(1)
    mean = features.mean(1)
    centred = features - mean[:, None]
    return _Moments(centred, mean, _dots(centred, centred))
