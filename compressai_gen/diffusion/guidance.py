"""Syntax-driven feature fusion (SFF): how the syntax steers what keeps the denoiser at what was sent."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SyntaxFusion"]


class SyntaxFusion(nn.Module):
    """SFF: turns the syntax into the weights by which the consistency branch's features join the denoiser's.

    A small network (128 and 256 units, as the one that generates the data-dependent transform of Wang et al., CVPR
    2022) maps each region's syntax to a gate and a shift per channel, at each resolution; they vary smoothly between
    regions.

    Args:
        syntax_channels: S.
        widths: channels of the features at each resolution.
    """

    def __init__(self, syntax_channels: int, widths: Sequence[int]):
        super().__init__()
        self.widths = tuple(widths)
        self.weights_of = nn.Sequential(
            nn.Conv2d(syntax_channels, 128, 1),
            nn.SiLU(),
            nn.Conv2d(128, 256, 1),
            nn.SiLU(),
            nn.Conv2d(256, 2 * sum(widths), 1),
        )

    def forward(self, features: Sequence[Tensor], syntax: Tensor, strength: Tensor | float = 1.0) -> list[Tensor]:
        """Returns the fused features; ``syntax`` is (N, S, H/64, W/64), ``strength`` 1, or 0 for no change."""
        fused = []
        all_weights = (self.weights_of(syntax) * strength).split([2 * w for w in self.widths], dim=1)
        for h, weights in zip(features, all_weights, strict=True):
            weights = F.interpolate(weights, size=h.shape[-2:], mode="bilinear").to(h.dtype)
            gate, shift = weights.chunk(2, dim=1)
            fused.append(torch.addcmul(shift, h, 1 + gate))
        return fused
