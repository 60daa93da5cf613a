"""What the codec is trained for: rate at fixed step sizes, and squared error."""

import math

import torch
from torch import Tensor, nn

from compressai_gen.metrics.distortion import Distortion
from compressai_gen.train.objectives import Objective


class BlockDCTObjective(Objective):
    """Bits per pixel plus weighted distortion.

    Args:
        distortion: options of :class:`compressai_gen.metrics.distortion.Distortion`.
    """

    def __init__(self, distortion: dict[str, float]):
        super().__init__()
        self.distortion = Distortion(**distortion)

    def warm_start(self, model: nn.Module, data: object) -> None:
        """Keeps the cosine transform as it is."""

    def forward(self, model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss of a batch (N, 3, S, S) and what to log."""
        quality = 1 + torch.arange(len(x), device=x.device) % 5
        out = model(x, quality)
        bits = sum(-p.log2().sum() for name, p in out["likelihoods"].items() if name != "header")
        bpp = bits / (len(x) * math.prod(x.shape[2:]))
        distortion, logs = self.distortion(out["x_hat"], x)
        return bpp + distortion.mean(), logs | {"bpp": bpp.detach()}
