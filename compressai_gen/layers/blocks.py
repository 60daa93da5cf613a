"""Building blocks: pointwise and depthwise convolutions at 1/16 and 1/4 of the resolution.

Most of the arithmetic is done where a position stands for 16x16 pixels, and the picture is painted by a narrow
*renderer* where a position stands for 4x4, as in PULSE (arXiv 2609.18602). Norms span channels only and nothing is
pooled over the picture, so that a tile comes out like the same part of the whole.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressai_gen.layers.quality import QualityEmbedding, between_qualities

__all__ = [
    "Block",
    "ChannelRMSNorm",
    "QualityModulation",
    "QualityScale",
    "RenderBlock",
    "Renderer",
    "ResidualBlock",
    "zero_conv",
]


class ChannelRMSNorm(nn.Module):
    """Divides each position (N, C, H, W) by the root of its channels' mean square, with a learned factor a channel."""

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, h: Tensor) -> Tensor:
        """Returns the normalized features."""
        scale = (h.float().square().mean(1, keepdim=True) + self.eps).rsqrt()
        return h * (scale.to(h.dtype) * self.weight[:, None, None].to(h.dtype))


class QualityScale(nn.Module):
    """A learned factor per channel and quality, linear between qualities (PICO: worth 9 % of the rate).

    Args:
        n_qualities: how many qualities have factors of their own.
        channels: C.
        initial: the factor before training.
    """

    def __init__(self, n_qualities: int, channels: int, initial: float = 1.0):
        super().__init__()
        self.table = nn.Parameter(torch.full((n_qualities, channels), initial))

    def forward(self, h: Tensor, index: Tensor) -> Tensor:
        """Scales ``h`` (N, C, H, W) as the quality indexes (N,), real numbers from 0, ask."""
        return h * between_qualities(self.table, index)[:, :, None, None].to(h.dtype)


class Block(nn.Module):
    """Mixes positions by a depthwise 3x3 convolution and channels by pointwise ones, each beside an identity.

    Args:
        channels: C.
        expansion: of the pointwise half's hidden channels.
        n_qualities: how many qualities scale each half's output.
    """

    def __init__(self, channels: int, expansion: int, n_qualities: int):
        super().__init__()
        self.norm1 = ChannelRMSNorm(channels)
        self.inner = nn.Conv2d(channels, channels, 1)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.outer = nn.Conv2d(channels, channels, 1)
        self.scale1 = QualityScale(n_qualities, channels, 0.5)
        self.norm2 = ChannelRMSNorm(channels)
        self.expand = nn.Conv2d(channels, expansion * channels, 1)
        self.contract = nn.Conv2d(expansion * channels, channels, 1)
        self.scale2 = QualityScale(n_qualities, channels, 0.5)

    def forward(self, h: Tensor, index: Tensor) -> Tensor:
        """Maps (N, C, H, W) to the same shape, at quality indexes (N,)."""
        mixed = self.outer(F.silu(self.depthwise(self.inner(self.norm1(h)))))
        h = h + self.scale1(mixed, index)
        return h + self.scale2(self.contract(F.silu(self.expand(self.norm2(h)))), index)


class RenderBlock(nn.Module):
    """A depthwise 5x5 convolution and two pointwise ones, beside an identity; for the 1/4 grid.

    Args:
        channels: C.
        n_qualities: how many qualities scale its output.
    """

    def __init__(self, channels: int, n_qualities: int):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.contract = nn.Conv2d(2 * channels, channels, 1)
        self.scale = QualityScale(n_qualities, channels, 0.5)

    def forward(self, h: Tensor, index: Tensor) -> Tensor:
        """Maps (N, C, H, W) to the same shape, at quality indexes (N,)."""
        return h + self.scale(self.contract(F.silu(self.expand(self.depthwise(h)))), index)


class Renderer(nn.Module):
    """Turns features at 1/16 of the resolution into some at 1/4, block by block of :class:`RenderBlock`.

    Args:
        in_channels: of the features at 1/16.
        channels: C, of those at 1/4.
        blocks: how many.
        n_qualities: how many qualities they serve.
    """

    def __init__(self, in_channels: int, channels: int, blocks: int, n_qualities: int):
        super().__init__()
        self.up = nn.Conv2d(in_channels, 16 * channels, 1)
        self.blocks = nn.ModuleList(RenderBlock(channels, n_qualities) for _ in range(blocks))

    def forward(self, h: Tensor, index: Tensor, beside: Tensor | None = None) -> Tensor:
        """Returns (N, C, 4h, 4w) of features (N, in_channels, h, w) and of what stands ``beside``, of that shape."""
        h = F.pixel_shuffle(self.up(h), 4).contiguous(memory_format=torch.channels_last)
        if beside is not None:
            h = h + beside
        for block in self.blocks:
            h = block(h, index)
        return h


class QualityModulation(nn.Module):
    """Scales and shifts features per channel as the quality asks; the identity before training.

    One variable-rate network serves all qualities, and a decoder at 0.05 bpp must smooth more than one at 0.4 bpp.
    """

    def __init__(self, n_qualities: int, channels: int):
        super().__init__()
        self.table = QualityEmbedding(n_qualities, 2 * channels)
        nn.init.zeros_(self.table.weight)

    def forward(self, h: Tensor, index: Tensor) -> Tensor:
        """Modulates ``h`` (N, C, H, W) as the quality indexes (N,), real numbers from 0, ask."""
        scale, shift = self.table(index)[:, :, None, None].to(h.dtype).chunk(2, dim=1)
        return torch.addcmul(shift, h, 1 + scale)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a quality modulation between; the identity before training."""

    def __init__(self, channels: int, n_qualities: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = QualityModulation(n_qualities, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, h: Tensor, index: Tensor) -> Tensor:
        """Maps (N, C, H, W) to the same shape."""
        r = F.leaky_relu(self.modulation(self.conv1(h), index), 0.1)
        return h + self.conv2(r)


def zero_conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    """Returns a convolution of stride 1 that starts at zero: what it adds to is at first left as it is."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv
