"""Bidirectional prediction of tokens from those that are known (MRIDC's BPCG)."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["MaskPredictor", "TokenPredictor"]


class _WindowAttention(nn.Module):
    """Multi-head self-attention within windows of SxS positions, with 2-D rotary positions.

    Cost is linear in the image. Every other block shifts the windows by half (Liu et al., ICCV 2021); rotary positions
    (Su et al., 2021), half of a head's channels for rows and half for columns, depend on distances alone, so that any
    size of image works.
    """

    def __init__(self, width: int, heads: int, window: int, shift: int):
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        """Maps (N, H, W, C) to the same shape."""
        n, height, width, channels = h.shape
        s = self.window
        pad_top = pad_left = self.shift
        pad_bottom, pad_right = (-(size + self.shift) % s for size in (height, width))
        inside = F.pad(h.new_ones(1, height, width, 1), (0, 0, pad_left, pad_right, pad_top, pad_bottom))
        h = F.pad(h, (0, 0, pad_left, pad_right, pad_top, pad_bottom))
        rows, columns = h.shape[1] // s, h.shape[2] // s
        q, k, v = self.qkv(_windows(h, s)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        cos, sin = _rotation(s, q.shape[-1], h)
        # Positions beyond the image are no keys; a window that lies wholly outside may look anywhere.
        keys = _windows(inside, s)[:, None, None, :, 0].bool()
        keys = (keys | ~keys.any(-1, keepdim=True)).repeat(n, 1, 1, 1)
        # Spelled out: on a CPU the gradients of PyTorch's fused attention take three times as long for small windows.
        scores = _rotate(q, cos, sin) @ _rotate(k, cos, sin).mT * q.shape[-1] ** -0.5
        h = scores.masked_fill(~keys, -torch.inf).softmax(-1) @ v
        h = self.out(h.transpose(1, 2).flatten(2))
        h = h.reshape(n, rows, columns, s, s, channels).transpose(2, 3).reshape(n, rows * s, columns * s, channels)
        return h[:, pad_top : pad_top + height, pad_left : pad_left + width]


def _windows(h: Tensor, size: int) -> Tensor:
    n, height, width, channels = h.shape
    h = h.reshape(n, height // size, size, width // size, size, channels).transpose(2, 3)
    return h.reshape(-1, size * size, channels)


def _rotation(size: int, channels: int, like: Tensor) -> tuple[Tensor, Tensor]:
    frequencies = 2.0 ** -torch.arange(channels // 4, device=like.device, dtype=torch.float64)
    position = torch.arange(size, device=like.device, dtype=torch.float64)
    angle = position[:, None] * frequencies
    rows, columns = angle[:, None].expand(-1, size, -1), angle[None].expand(size, -1, -1)
    angles = torch.cat((rows, columns), dim=-1).flatten(0, 1)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class _DepthwiseConv(nn.Conv2d):
    """Depth-wise 3x3 convolution of (N, H, W, C)."""

    def __init__(self, width: int):
        super().__init__(width, width, 3, padding=1, groups=width)

    def forward(self, h: Tensor) -> Tensor:
        """Maps (N, H, W, C) to the same shape."""
        if h.dtype != torch.float64 or torch.is_grad_enabled():
            return super().forward(h.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        # In float64 a CPU has no fast convolution: PyTorch's takes nine times as long as the sum.
        height, width = h.shape[1:3]
        padded = F.pad(h, (0, 0, 1, 1, 1, 1))
        taps = self.weight[:, 0].permute(1, 2, 0).contiguous()
        out = self.bias.expand_as(h).clone()
        for i, j in itertools.product(range(3), repeat=2):
            out.addcmul_(padded[:, i : i + height, j : j + width], taps[i, j])
        return out


class _Block(nn.Module):
    """Attention, a depth-wise 3x3 convolution for what lies next to each other, and a two-layer perceptron."""

    def __init__(self, width: int, heads: int, window: int, shift: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = _WindowAttention(width, heads, window, shift)
        self.local = _DepthwiseConv(width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.attention(self.norm1(h))
        h = h + self.local(h)
        return h + self.mlp(self.norm2(h))


class TokenPredictor(nn.Module):
    """A transformer over the token grid that attends in all directions.

    Args:
        channels: D, length of a code.
        entries: K, size of a codebook.
        levels: L, number of codebooks.
        width: channels inside.
        depth: blocks.
        heads: of attention.
        window: positions per side within which attention looks.
    """

    def __init__(
        self,
        channels: int,
        entries: int,
        levels: int,
        width: int = 192,
        depth: int = 4,
        heads: int = 6,
        window: int = 8,
    ):
        super().__init__()
        self.levels = levels
        self.inputs = nn.Conv2d(channels + 2 * levels, width, 3, padding=1)
        self.blocks = nn.ModuleList(_Block(width, heads, window, (i % 2) * window // 2) for i in range(depth))
        # How far it looks from a part of the grid that is made of whole windows: each block to the edge of the window
        # that lies one position out.
        reach = 0
        for i in reversed(range(depth)):
            shift = (i % 2) * window // 2
            reach = -(-(reach + 1 - shift) // window) * window + shift
        self.reach = -(-(reach + 1) // window) * window
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, entries) for _ in range(levels))
        for head in self.heads:
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, codes: Tensor, known: Tensor, sent: Tensor) -> Tensor:
        """Returns features (N, h, w, width), of which :meth:`logits` makes a level's logits.

        Args:
            codes: (N, D, h, w), sum of the codes of known tokens, scaled to unit variance.
            known: (N, h, w), how many levels are known at each position.
            sent: (N, h, w), how many levels the mask gives each position.
        """
        flags = [count > i for count in (known, sent) for i in range(self.levels)]
        h = self.inputs(torch.cat((codes, torch.stack(flags, dim=1).to(codes.dtype)), dim=1)).permute(0, 2, 3, 1)
        for block in self.blocks:
            h = block(h)
        return self.norm(h)

    def logits(self, features: Tensor, level: int) -> Tensor:
        """Logits (..., K) of a level's tokens from features (..., width)."""
        return self.heads[level](features)


class MaskPredictor(nn.Module):
    """Logits of the mask's densities, given those that are known around a cell and the budget.

    Args:
        densities: how many there are.
        width: channels inside.
    """

    def __init__(self, densities: int, width: int = 48):
        super().__init__()
        self.densities = densities
        self.inputs = nn.Conv2d(densities + 1, width, 3, padding=1)
        self.hidden = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Conv2d(width, densities, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, known: Tensor, budget: Tensor) -> Tensor:
        """Returns logits (N, densities, r, c).

        Args:
            known: densities (N, r, c), -1 where unknown.
            budget: mean tokens per position (N,), which a decoder knows from the quality.
        """
        one_hot = (known[:, None] == torch.arange(self.densities, device=known.device)[:, None, None]).to(budget.dtype)
        plane = budget[:, None, None, None].expand(-1, 1, *known.shape[1:])
        h = F.leaky_relu(self.inputs(torch.cat((one_hot, plane), dim=1)), 0.1)
        return self.head(h + F.leaky_relu(self.hidden(h), 0.1))
