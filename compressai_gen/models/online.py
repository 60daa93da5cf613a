"""Continuous online optimization (CGDM): the encoder spends gradient steps on one image's latent."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn
from tqdm import tqdm

from compressai_gen.layers.precision import bfloat16_autocast
from compressai_gen.layers.quality import between_qualities

if TYPE_CHECKING:
    from compressai_gen.metrics.distortion import Distortion

__all__ = ["Objective", "OnlineSearch", "measurable_side", "rate_distortion"]

Objective: TypeAlias = Callable[[Tensor | float, Tensor], Tensor]
"""Takes an image's bits and its decoded picture (1, 3, H, W); differentiable where its arguments are."""

LEARNING_RATE = 0.01
"""Of Adam, in quantization steps."""


def rate_distortion(x: Tensor, distortion_weight: float, **weights: float) -> Objective:
    """Returns what a search lowers: bits per pixel plus weighted distortion of one image.

    Lambda is the end-to-end codec's; of the distortion, its training had squared error and LPIPS, that of the
    generative half DISTS, too.

    Args:
        x: the image (1, 3, H, W) in [0, 1].
        distortion_weight: lambda.
        **weights: options of :class:`compressai_gen.metrics.distortion.Distortion`.

    Raises:
        MetricError: the weights of a metric's network are not here and cannot be downloaded.
    """
    distortion = _distortion(x.device, tuple(weights.items()))
    with bfloat16_autocast(x.device):
        original = distortion.prepare(x)

    def objective(bits: Tensor | float, x_hat: Tensor) -> Tensor:
        with bfloat16_autocast(x_hat.device):
            return bits / x[0, 0].numel() + distortion_weight * distortion(x_hat, original)[0].mean()

    return objective


def measurable_side() -> int:
    """Returns the smallest side in pixels of a picture that :func:`rate_distortion` can look at."""
    from compressai_gen.metrics import METRICS  # which plain encoding does without

    return METRICS["lpips"].min_side


@cache
def _distortion(device: torch.device, weights: tuple[tuple[str, float], ...]) -> Distortion:
    from compressai_gen.metrics.distortion import Distortion

    with torch.inference_mode(False):  # else no later search of this process could use them
        return Distortion(**dict(weights)).to(device)


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

    def __call__(self, y: Tensor, index: Tensor, decode: Callable[[Tensor], Tensor], objective: Objective) -> Tensor:
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
