"""What keeps the denoiser at what was sent: the consistency branch (CGDM) and syntax-driven feature fusion (SFF)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Guidance", "SyntaxFusion", "UNetBranch", "guidance_channels"]


class Guidance(NamedTuple):
    """What is added to the U-Net's skip connections and to its middle: a ControlNet's outputs."""

    down: tuple[Tensor, ...]
    mid: Tensor


def guidance_channels(widths: Sequence[int], layers: int | Sequence[int]) -> list[tuple[int, int]]:
    """Resolution (index into ``widths``) and channels of each tensor that is added to a U-Net's skip connections.

    Args:
        widths: channels at each resolution.
        layers: residual blocks of each on the way down, or of all alike.
    """
    counts = [layers] * len(widths) if isinstance(layers, int) else layers
    tensors = [(0, widths[0])]
    for i, width in enumerate(widths):
        tensors += [(i, width)] * counts[i]
        if i + 1 < len(widths):
            tensors.append((i + 1, width))  # the downsampled features keep the channels of the finer resolution
    return tensors


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


class UNetBranch(nn.Module):
    """What branches for U-Nets share: a ControlNet's outputs of features at each of the U-Net's resolutions.

    Attributes:
        fusion: joins the syntax; None for a codec without one.
        outputs: a convolution for each tensor that guidance adds to a skip connection.
        resolutions: of the features that each of them takes.
        mid: the convolution for the U-Net's middle.
    """

    fusion: SyntaxFusion | None
    outputs: nn.ModuleList
    resolutions: list[int]
    mid: nn.Module

    def guidance_of(
        self,
        hidden: Sequence[Tensor],
        syntax: Tensor | None,
        strength: Tensor | float,
        syntax_strength: Tensor | float,
    ) -> Guidance:
        """Returns the guidance of features, the finest first; other arguments as
        :class:`~compressai_gen.diffusion.block_denoiser.BlockConsistency` takes.
        """
        if syntax is not None and self.fusion is not None:
            hidden = self.fusion(hidden, syntax, syntax_strength)
        down = tuple(conv(hidden[i]) * strength for conv, i in zip(self.outputs, self.resolutions, strict=True))
        return Guidance(down, self.mid(hidden[-1]) * strength)
