"""DISTS as something to lower: with gradients, of a whole batch, at a fraction of the package's time and memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from compressai_gen.metrics.perceptual import DistsMetric

__all__ = ["DistsLoss"]

_CHUNK = 1 << 17
# Values of a feature map that are gone through at once: what is made of them stays in a processor's cache.


class _Original(NamedTuple):
    """Of one scale: features (P, C) at P positions, their means and variances (C,)."""

    features: Tensor
    mean: Tensor
    variance: Tensor


def _chunks(*features: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cuts features (P, C) into runs of positions."""
    rows = max(1, _CHUNK // features[0].shape[1])
    return zip(*(f.split(rows) for f in features), strict=True)


class _Moments(torch.autograd.Function):
    """Means, variances and covariances over positions of features (P, C), with gradients to the first ones.

    The gradient is affine in both features, which autograd, step by step, does not see: it takes six passes over them.
    """

    @staticmethod
    def forward(ctx: Any, f: Tensor, g: Tensor, g_mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Covariances are differences of large numbers, for which bfloat16 is too coarse, and float32, too, unless both
        # are centered. The mean of f is not known yet, that of g is near enough.
        sums, squares, products = (torch.zeros_like(g_mean) for _ in range(3))
        for f_part, g_part in _chunks(f, g):
            f_part, g_part = f_part.float() - g_mean, g_part.float() - g_mean
            sums += f_part.sum(0)
            products += g_part.mul_(f_part).sum(0)
            squares += f_part.square_().sum(0)
        f_mean = g_mean + sums / len(f)
        ctx.save_for_backward(f, g, f_mean, g_mean)
        return f_mean, squares / len(f) - (sums / len(f)).square(), products / len(f)

    @staticmethod
    def backward(ctx: Any, mean: Tensor, variance: Tensor, covariance: Tensor) -> tuple[Tensor, None, None]:
        f, g, f_mean, g_mean = ctx.saved_tensors
        mean, variance, covariance = (d / len(f) for d in (mean, 2 * variance, covariance))
        constant = mean - variance * f_mean - covariance * g_mean
        gradient = torch.empty_like(f)
        for out, f_part, g_part in _chunks(gradient, f, g):
            out.copy_(torch.addcmul(constant, variance, f_part.float()).addcmul_(covariance, g_part.float()))
        return gradient, None, None


class DistsLoss(nn.Module):
    """DISTS (Ding et al., TPAMI 2020) of all pictures of a batch together.

    Its means, variances and covariances are taken over all pictures, as over the parts of one large one. Those of a
    small crop alone depend on its content far more than a photograph's do, and their gradients say less about what all
    pictures lack: nine tenths of a base picture's DISTS are means of deep features. Those of crops of several pictures
    hide in turn what each of them lacks: one crop as large as a quarter of Kodak's pictures is better than both.

    The network runs in the precision of the caller's autocast; statistics are always taken in float32.

    Args:
        device: where its network runs.

    Raises:
        MetricError: the weights of its VGG-16 are not here and cannot be downloaded.
    """

    def __init__(self, device: str | torch.device = "cpu"):
        super().__init__()
        self.network = DistsMetric(device).model.requires_grad_(False).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def prepare(self, x: Tensor) -> list[_Original]:
        """Returns all that is needed of originals (N, 3, H, W) in [0, 1]."""
        originals = []
        for g in self._features(x):
            mean, variance, _ = _Moments.apply(g, g, g.new_zeros(g.shape[1], dtype=torch.float32))
            originals.append(_Original(g, mean, variance))
        return originals

    def forward(self, x_hat: Tensor, prepared: Sequence[_Original]) -> Tensor:
        """Returns DISTS, a scalar with gradients to ``x_hat`` (N, 3, H, W), which is clamped to [0, 1]."""
        network = self.network
        weights = torch.cat((network.alpha, network.beta), dim=1)
        weights = (weights / weights.sum()).flatten()
        alphas, betas = (w.split(network.chns) for w in weights.chunk(2))
        similarity = torch.zeros((), device=x_hat.device)
        for f, (g, g_mean, g_var), alpha, beta in zip(
            self._features(x_hat.clamp(0, 1)), prepared, alphas, betas, strict=True
        ):
            with torch.autocast(x_hat.device.type, enabled=False):
                f_mean, f_var, covariance = _Moments.apply(f, g, g_mean)
                luminance = (2 * f_mean * g_mean + 1e-6) / (f_mean.square() + g_mean.square() + 1e-6)
                structure = (2 * covariance + 1e-6) / (f_var + g_var + 1e-6)
                similarity = similarity + luminance @ alpha + structure @ beta
        return 1 - similarity

    def _features(self, x: Tensor) -> list[Tensor]:
        """Features (P, C) of every scale, C last in memory, too."""
        scales = self.network.forward_once(x.contiguous(memory_format=torch.channels_last))
        return [f.movedim(1, -1).flatten(0, 2) for f in scales]
