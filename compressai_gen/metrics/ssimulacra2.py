"""SSIMULACRA 2.1 (Sneyers, Cloudinary, 2023) in PyTorch: a learned weighting of errors in XYB, at six scales.

The computation is that of the reference program (``tools/ssimulacra2.cc`` of libjxl, BSD-3-Clause) in float32, on any
device and without its temporary files; ``eval/protocol.md`` states how far the two lie apart. The weights are those of
the package ``ssimulacra2``, which computes the same in float64 NumPy, one original at a time, 25 times as slowly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Ssimulacra2Metric"]

_SCALES = 6
_MIN_SIDE = 8
_C2 = 0.0009
_RADIUS, _SIGMA = 5, 1.5
# Of libjxl's XYB: absorbance of the three cones and a bias that every channel has.
_ABSORBANCE = (
    (0.30, 0.622, 0.078),
    (0.23, 0.692, 0.078),
    (0.24342268924547819, 0.20476744424496821, 0.55180986650955360),
)
_BIAS = 0.0037930732552754493
# Of SSIM, added edges and lost edges (innermost), their means and 4-norms, scales, and X, Y, B (outermost).
_WEIGHTS = (
    0.0, 0.0007376606707406586, 0.0, 0.0, 0.0007793481682867309, 0.0, 0.0, 0.0004371155730107379, 0.0,
    1.1041726426657346, 0.00066284834129271, 0.00015231632783718752, 0.0, 0.0016406437456599754, 0.0,
    1.8422455520539298, 11.441172603757666, 0.0, 0.0007989109436015163, 0.000176816438078653, 0.0, 1.8787594979546387,
    10.94906990605142, 0.0, 0.0007289346991508072, 0.9677937080626833, 0.0, 0.00014003424285435884,
    0.9981766977854967, 0.00031949755934435053, 0.0004550992113792063, 0.0, 0.0, 0.0013648766163243398, 0.0, 0.0, 0.0,
    0.0, 0.0, 7.466890328078848, 0.0, 17.445833984131262, 0.0006235601634041466, 0.0, 0.0, 6.683678146179332,
    0.00037724407979611296, 1.027889937768264, 225.20515300849274, 0.0, 0.0, 19.213238186143016,
    0.0011401524586618361, 0.001237755635509985, 176.39317598450694, 0.0, 0.0, 24.43300999870476, 0.28520802612117757,
    0.0004485436923833408, 0.0, 0.0, 0.0, 34.77906344483772, 44.835625328877896, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
    0.0, 0.0008680556573291698, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0005313191874358747, 0.0, 0.00016533814161379112, 0.0, 0.0,
    0.0, 0.0, 0.0, 0.0004179171803251336, 0.0017290828234722833, 0.0, 0.0020827005846636437, 0.0, 0.0,
    8.826982764996862, 23.19243343998926, 0.0, 95.1080498811086, 0.9863978034400682, 0.9834382792465353,
    0.0012286405048278493, 171.2667255897307, 0.9807858872435379, 0.0, 0.0, 0.0, 0.0005130064588990679, 0.0,
    0.00010854057858411537,
)  # fmt: skip


class _Scale(NamedTuple):
    """An original at one scale: XYB (3, H, W), its local mean and local mean square."""

    xyb: Tensor
    mean: Tensor
    square: Tensor


class Ssimulacra2Metric:
    """SSIMULACRA 2.1: 100 is a perfect picture, 90 cannot be told from it, 30 is of low quality, below 0 lies worse."""

    def prepare(self, original: Tensor) -> list[_Scale]:
        """Return colours, local means and local mean squares of the original at up to six scales."""
        scales = []
        for xyb in _pyramid(original):
            mean, square = _blur(torch.cat([xyb, xyb * xyb])).split(3)
            scales.append(_Scale(xyb, mean, square))
        return scales

    def compare(self, prepared: list[_Scale], reconstruction: Tensor) -> float:
        """Return the score."""
        errors = [_errors(scale, xyb) for scale, xyb in zip(prepared, _pyramid(reconstruction), strict=True)]
        # Without all scales the weights are those that come first, as in the reference.
        terms = torch.stack(errors, dim=1).flatten().double().cpu()
        error = 0.9562382616834844 * (terms @ torch.tensor(_WEIGHTS[: len(terms)], dtype=torch.float64)).item()
        error = 2.326765642916932 * error - 0.020884521182843837 * error**2 + 6.248496625763138e-05 * error**3
        return 100 - 10 * error**0.6276336467831387 if error > 0 else 100.0


def _pyramid(image: Tensor) -> Iterator[Tensor]:
    """Yield XYB of a uint8 picture (3, H, W), and of its halvings in linear light until a side was below 8 pixels."""
    linear = _linear(image.device)[image.long()]
    for scale in range(_SCALES):
        if min(linear.shape[1:]) < _MIN_SIDE:
            return
        if scale:
            linear = F.pad(linear, (0, linear.shape[2] % 2, 0, linear.shape[1] % 2), mode="replicate")
            linear = F.avg_pool2d(linear, 2)
        yield _positive_xyb(linear)


@cache
def _linear(device: torch.device) -> Tensor:
    """Return the linear light (256,) of each value of sRGB."""
    value = torch.arange(256, dtype=torch.float64) / 255
    linear = torch.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return linear.float().to(device)


def _positive_xyb(linear: Tensor) -> Tensor:
    """Return X, Y and B - Y of linear RGB, scaled and shifted to where SSIM expects values."""
    matrix = linear.new_tensor(_ABSORBANCE)
    cones = torch.einsum("ij,jhw->ihw", matrix, linear).add_(_BIAS).clamp_min_(0).pow_(1 / 3).sub_(_BIAS ** (1 / 3))
    x, y = (cones[0] - cones[1]) / 2, (cones[0] + cones[1]) / 2
    return torch.stack([14 * x + 0.42, y + 0.01, cones[2] - y + 0.55])


@cache
def _kernel() -> tuple[float, ...]:
    """Return the taps of the reference's recursive Gaussian, which are zero from its radius on.

    It is a sum of three cosines (Charalampidis, "Recursive Implementation of the Gaussian Filter Using Truncated Cosine
    Functions", 2016): normalized, of the right variance, and as near to the Gaussian as that leaves.
    """
    radius = _RADIUS
    omega = [k * math.pi / (2 * radius) for k in (1, 3, 5)]
    p = [sign / math.tan(w / 2) for sign, w in zip((1, -1, 1), omega, strict=True)]
    r = [sign * x * x / math.sin(w) for sign, x, w in zip((1, -1, 1), p, omega, strict=True)]
    rho = [math.exp(-0.5 * (_SIGMA * w) ** 2) / radius for w in omega]
    d13, d35, d51 = (p[i] * r[j] - r[i] * p[j] for i, j in ((0, 1), (1, 2), (2, 0)))
    zeta = [d35 / d13, d51 / d13, 1.0]
    matrix = torch.tensor([p, r, zeta], dtype=torch.float64)
    target = [1.0, radius**2 - _SIGMA**2, sum(z * x for z, x in zip(zeta, rho, strict=True))]
    beta = torch.linalg.solve(matrix, torch.tensor(target, dtype=torch.float64)).tolist()
    return tuple(sum(b * math.cos(w * n) for b, w in zip(beta, omega, strict=True)) for n in range(1 - radius, radius))


def _blur(planes: Tensor) -> Tensor:
    """Blur planes (N, H, W), beyond whose borders there are zeros, as in the reference."""
    for dim in (2, 1):
        planes = _blurred_along(dim, planes)
    return planes


def _blurred_along(dim: int, planes: Tensor) -> Tensor:
    """Add shifted planes, twice as fast on a processor as PyTorch's convolution of single channels."""
    reach, size = _RADIUS - 1, planes.shape[dim]
    padded = F.pad(planes, (reach, reach) if dim == 2 else (0, 0, reach, reach))
    out = torch.zeros_like(planes)
    for start, tap in enumerate(_kernel()):
        out.add_(padded.narrow(dim, start, size), alpha=tap)
    return out


def _errors(original: _Scale, xyb: Tensor) -> Tensor:
    """Return the six errors of each channel (3, 6): means of the three maps, then their 4-norms."""
    mean, square, product = _blur(torch.cat([xyb, xyb * xyb, original.xyb * xyb])).split(3)
    # SSIM whose luminance has no denominator; the variances' noise is that of the reference's float32, too.
    luminance = 1 - (original.mean - mean).square_()
    structure = (product - original.mean * mean).mul_(2).add_(_C2)
    structure.div_((original.square - original.mean.square()).add_(square - mean.square()).add_(_C2))
    ssim = (1 - luminance.mul_(structure)).clamp_min_(0)
    edges = (xyb - mean).abs_().add_(1).div_((original.xyb - original.mean).abs_().add_(1)).sub_(1)
    maps = (ssim, edges.clamp_min(0), edges.neg_().clamp_min_(0))
    means = torch.stack([error.mean(dim=(1, 2)) for error in maps], dim=1)
    fourth = torch.stack([error.square_().square_().mean(dim=(1, 2)) for error in maps], dim=1)
    return torch.cat([means, fourth.sqrt().sqrt()], dim=1)
