"""Continuous online optimization (CGDM): the encoder spends gradient steps on one image's latent."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from tqdm import tqdm

from compressai_gen.layers.precision import bfloat16_autocast
from compressai_gen.layers.quality import between_qualities

if TYPE_CHECKING:
    from compressai_gen.metrics import DistsLoss

__all__ = ["OnlineSearch", "RateDistortion", "measurable_side"]

LEARNING_RATE = 0.01
"""Of Adam, in quantization steps."""


class RateDistortion:
    """Bits per pixel plus weighted distortion of one image.

    Lambda is the end-to-end codec's; of the distortion, its training had squared error and LPIPS, that of the
    generative half DISTS, too.

    Args:
        x: the image (1, 3, H, W) in [0, 1].
        distortion_weight: lambda.
        mse_weight, lpips_weight, dists_weight: of squared error, LPIPS (AlexNet) and DISTS in it.

    Raises:
        MetricError: the weights of AlexNet or VGG-16 are not here and cannot be downloaded.
    """

    def __init__(
        self, x: Tensor, distortion_weight: float, mse_weight: float, lpips_weight: float, dists_weight: float
    ):
        self.x = x
        self.distortion_weight, self.weights = distortion_weight, (mse_weight, lpips_weight, dists_weight)
        self.lpips, self.dists = _networks(x.device)
        with torch.no_grad():
            self.lpips_features = self.lpips.net(self.lpips.scaling_layer(2 * x - 1))
            with bfloat16_autocast(x.device):
                self.dists_features = self.dists.prepare(x)

    def __call__(self, bits: Tensor | float, x_hat: Tensor) -> Tensor:
        """Returns the objective, differentiable if its arguments are."""
        mse = (x_hat - self.x).square().mean()
        perceptual = self.lpips(self.lpips_features, 2 * x_hat - 1).mean()
        with bfloat16_autocast(x_hat.device):
            texture = self.dists(x_hat, self.dists_features)
        parts = zip(self.weights, (mse, perceptual, texture), strict=True)
        return bits / self.x[0, 0].numel() + self.distortion_weight * sum(weight * part for weight, part in parts)


def measurable_side() -> int:
    """Returns the smallest side in pixels of a picture that :class:`RateDistortion` can look at."""
    from compressai_gen.metrics import METRICS  # which plain encoding does without

    return METRICS["lpips"].min_side


@cache
def _networks(device: torch.device) -> tuple[nn.Module, DistsLoss]:
    from compressai_gen.metrics import DistsLoss, LpipsMetric

    with torch.inference_mode(False):  # else no later search of this process could use them
        return LpipsMetric("alex", device).model.requires_grad_(False), DistsLoss(device)


class OnlineSearch:
    """Searches latents of lower objective.

    The rounding's gradient is the identity's. Rate and picture are those of the rounded latent, as additive noise would
    hide what rounding to zero saves; what is returned is the latent with the lowest objective that was met, the given
    one included. Where a bar says that there is something to wait for, Ctrl-C ends the search early and sets
    ``interrupted``, for its caller to search no others; without one, it ends the program as ever.

    Args:
        codec: :class:`compressai_gen.entropy.hyperprior.Hyperprior`.
        steps: how many.
        progress: whether to show a bar.
    """

    def __init__(self, codec: nn.Module, steps: int, progress: bool):
        self.codec = codec
        self.steps = steps
        self.progress = progress
        self.interrupted = False

    def __call__(
        self, y: Tensor, index: Tensor, decode: Callable[[Tensor], Tensor], objective: RateDistortion
    ) -> Tensor:
        """Returns the latent that was found (1, M, h, w).

        Args:
            y: (1, M, h, w), where to start.
            index: of the quality, a real number from 0 (1,).
            decode: turns ``y_hat`` into the picture (1, 3, H, W), with gradients.
            objective: of the image.
        """
        gain = between_qualities(self.codec.log_gain, index).detach().exp()[:, :, None, None]
        best, lowest = y, torch.inf
        with torch.enable_grad():
            steps_of_y = (y * gain).detach().clone().requires_grad_()
            optimizer = torch.optim.Adam([steps_of_y], lr=LEARNING_RATE)
            bar = tqdm(range(self.steps + 1), "optimizing", disable=not self.progress, leave=False)
            try:
                for i in bar:
                    candidate = steps_of_y / gain
                    out = self.codec.relaxed(candidate, index)
                    bits = sum(-p.log2().sum() for p in out["rounded_likelihoods"].values())
                    loss = objective(bits, decode(out["y_hat"]))
                    if (value := float(loss.detach())) < lowest:
                        best, lowest = candidate.detach(), value
                    bar.set_postfix(objective=f"{lowest:.4f}", refresh=False)
                    if i < self.steps:
                        (steps_of_y.grad,) = torch.autograd.grad(loss, (steps_of_y,))
                        optimizer.step()
            except KeyboardInterrupt:
                if not self.progress:
                    raise
                self.interrupted = True
        return best
