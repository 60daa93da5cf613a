"""Bidirectional prediction of tokens from those that are known (MRIDC's BPCG)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressai_gen.configuration import register_part

__all__ = ["MaskPredictor", "TokenPredictor"]

T = TypeVar("T")


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
        places, inside, back = _plan(height, width, self.window, self.shift, h.device)
        qkv = self.qkv(h).flatten(1, 2)[:, places]
        qkv = qkv.reshape(-1, self.window**2, 3, self.heads, channels // self.heads)
        qkv = qkv.permute(2, 0, 3, 1, 4)
        (q, k), v = _rotate(qkv[:2], self.window), qkv[2]
        keys = None if inside is None else inside[:, None, None].repeat(n, 1, 1, 1)
        h = _attend(q, k, v, keys).transpose(1, 2).reshape(n, -1, channels)[:, back]
        return self.out(h).unflatten(1, (height, width))


def _kept(make: Callable[..., T]) -> Callable[..., T]:
    """Keeps what was made of the last few arguments: tensors that serve all threads, and training too."""

    @functools.lru_cache(maxsize=64)
    @functools.wraps(make)
    def keeping(*args: Any) -> T:
        with torch.inference_mode(False):
            return make(*args)

    return keeping


@_kept
def _plan(height: int, width: int, size: int, shift: int, device: torch.device) -> tuple[Tensor, Tensor | None, Tensor]:
    """Cuts a grid into windows of SxS positions that begin ``shift`` positions before its corner.

    Returns:
        the position at each place of the windows (W * S * S,), any where the grid has none; which places are inside the
        grid (W, S * S), some of each window, or None where all are; and the place of each position (height * width,).
    """
    rows, columns = (torch.arange(-shift, -(-(length + shift) // size) * size - shift) for length in (height, width))

    def cut(grid: Tensor) -> Tensor:
        return grid.unflatten(1, (-1, size)).unflatten(0, (-1, size)).transpose(1, 2).flatten(2).flatten(0, 1)

    inside = cut(((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width)))
    places = cut(rows.clamp(0, height - 1)[:, None] * width + columns.clamp(0, width - 1)).flatten()
    back = torch.empty(height * width, dtype=torch.int64)
    back[places[inside.flatten()]] = inside.flatten().nonzero()[:, 0]
    return places.to(device), None if inside.all() else inside.to(device), back.to(device)


def _attend(q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None) -> Tensor:
    if not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, keys)
    # On a CPU the gradients of PyTorch's fused attention take three times as long for small windows.
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return (scores if keys is None else scores.masked_fill(~keys, -torch.inf)).softmax(-1) @ v


def _rotate(x: Tensor, size: int) -> Tensor:
    """Turns pairs of channels of x (..., S * S, C) by the row, and others by the column, of a place in its window."""
    cos, sin = _rotation(size, x.shape[-1], x.dtype, x.device)
    a, b = x.chunk(2, dim=-1)
    return torch.cat(((a * cos).addcmul_(b, sin, value=-1), (a * sin).addcmul_(b, cos)), dim=-1)


@_kept
def _rotation(size: int, channels: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine (S * S, C / 2) of each place's angles."""
    frequencies = 2.0 ** -torch.arange(channels // 4, device=device, dtype=torch.float64)
    angle = torch.arange(size, device=device, dtype=torch.float64)[:, None] * frequencies
    rows, columns = angle[:, None].expand(-1, size, -1), angle[None].expand(size, -1, -1)
    angles = torch.cat((rows, columns), dim=-1).flatten(0, 1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


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

    def mix(self, h: Tensor) -> Tensor:
        """The part in which positions see each other."""
        h = h + self.attention(self.norm1(h))
        return h + self.local(h)

    def refine(self, h: Tensor) -> Tensor:
        """The part that treats each position alone."""
        return h + self.mlp(self.norm2(h))

    def forward(self, h: Tensor) -> Tensor:
        return self.refine(self.mix(h))


class _Head(nn.Module):
    """What follows the last block's mixing: logits (..., K) of features (..., width), each position alone."""

    def __init__(self, block: _Block, norm: nn.LayerNorm, linear: nn.Linear):
        super().__init__()
        self.block, self.norm, self.linear = block, norm, linear

    def forward(self, h: Tensor) -> Tensor:
        return self.linear(self.norm(self.block.refine(h)))


@register_part
class TokenPredictor(nn.Module):
    """A transformer over the token grid that attends in all directions.

    Args:
        width: channels inside.
        depth: blocks.
        heads: of attention.
        window: positions per side within which attention looks.
        channels: D, length of a code.
        entries: K, size of a codebook.
        levels: L, number of codebooks.
    """

    def __init__(
        self,
        width: int = 160,
        depth: int = 3,
        heads: int = 5,
        window: int = 8,
        *,
        channels: int,
        entries: int,
        levels: int,
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
        """Returns features (N, h, w, width), of which :meth:`head` makes a level's logits, wherever they are wanted.

        Args:
            codes: (N, D, h, w), sum of the codes of known tokens, scaled to unit variance.
            known: (N, h, w), how many levels are known at each position.
            sent: (N, h, w), how many levels the mask gives each position.
        """
        flags = [count > i for count in (known, sent) for i in range(self.levels)]
        h = self.inputs(torch.cat((codes, torch.stack(flags, dim=1).to(codes.dtype)), dim=1))
        h = h.permute(0, 2, 3, 1).contiguous()
        for block in self.blocks[:-1]:
            h = block(h)
        return self.blocks[-1].mix(h)

    def head(self, level: int) -> nn.Module:
        """Returns the network, made of this one's parts, that turns features (..., width) into a level's logits."""
        return _Head(self.blocks[-1], self.norm, self.heads[level])

    def logits(self, features: Tensor, level: int) -> Tensor:
        """Logits (..., K) of a level's tokens from features (..., width)."""
        return self.head(level)(features)


@register_part
class MaskPredictor(nn.Module):
    """Logits of the mask's densities, given those that are known around a cell and the budget.

    Args:
        width: channels inside.
        densities: how many there are.
    """

    def __init__(self, width: int = 48, *, densities: int):
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
