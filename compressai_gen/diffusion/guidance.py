"""What keeps the denoiser at what was sent: the consistency branch (CGDM) and syntax-driven feature fusion (SFF)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressai_gen.configuration import register_part
from compressai_gen.layers.transforms import ResidualBlock

__all__ = ["ConsistencyBranch", "Guidance", "SyntaxFusion", "UNetBranch", "guidance_channels"]


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
        widths: channels of the features at 1/4, 1/8 and 1/16 of the resolution.
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
        """Returns the guidance of features, the finest first; other arguments as :class:`ConsistencyBranch` takes."""
        if syntax is not None and self.fusion is not None:
            hidden = self.fusion(hidden, syntax, syntax_strength)
        down = tuple(conv(hidden[i]) * strength for conv, i in zip(self.outputs, self.resolutions, strict=True))
        return Guidance(down, self.mid(hidden[-1]) * strength)


@register_part
class ConsistencyBranch(UNetBranch):
    """The consistency-guided branch: from ``y_hat`` and the base decoder's features to a ControlNet's outputs.

    Args:
        latent_channels: M.
        feature_widths: channels of the base decoder's features, at as many resolutions as the denoiser has.
        denoiser: a U-Net that it is made for; see :class:`compressai_gen.diffusion.denoiser.UNetDenoiser`.
        n_qualities: how many qualities it serves.
        syntax_channels: S; 0 for a codec without a syntax.
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        feature_widths: Sequence[int],
        denoiser: nn.Module,
        n_qualities: int,
        syntax_channels: int = 0,
    ):
        super().__init__()
        widths, guided = denoiser.widths, denoiser.guided
        inputs = (*feature_widths[:-1], feature_widths[-1] + latent_channels)
        self.inputs = nn.ModuleList(nn.Conv2d(n, width, 1) for n, width in zip(inputs, widths, strict=True))
        self.up = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in itertools.pairwise(widths))
        self.blocks = nn.ModuleList(ResidualBlock(width, n_qualities) for width in widths)
        self.fusion = SyntaxFusion(syntax_channels, widths) if syntax_channels else None
        # Not ControlNet's "zero convolutions" (Zhang et al., ICCV 2023), which protect a denoiser trained before.
        self.outputs = nn.ModuleList(nn.Conv2d(widths[i], n, 1) for i, n in guided)
        self.mid = nn.Conv2d(widths[-1], widths[-1], 1)
        self.resolutions = [i for i, _ in guided]

    def forward(
        self,
        features: Sequence[Tensor],
        latent: Tensor,
        syntax: Tensor | None,
        index: Tensor,
        strength: Tensor | float = 1.0,
        syntax_strength: Tensor | float = 1.0,
    ) -> Guidance:
        """Returns the guidance.

        Args:
            features: of the base decoder, at 1/4, 1/8 and 1/16 of the resolution.
            latent: (N, M, H/16, W/16), at unit variance.
            syntax: (N, S, H/64, W/64); None leaves features as they are.
            index: of the quality, real numbers from 0 (N,).
            strength, syntax_strength: factors of the guidance and of the syntax's influence, per image (N, 1, 1, 1).
        """
        *finer, coarsest = features
        inputs = [*finer, torch.cat((coarsest, latent.to(coarsest.dtype)), dim=1)]
        hidden: list[Tensor] = []
        for i in reversed(range(len(inputs))):
            h = self.inputs[i](inputs[i].contiguous(memory_format=torch.channels_last))
            if hidden:
                h = h + F.interpolate(self.up[i](hidden[0]), scale_factor=2, mode="nearest")
            hidden.insert(0, self.blocks[i](h, index))
        return self.guidance_of(hidden, syntax, strength, syntax_strength)
