"""Map-guided latent masking (MRIDC's MLM): which token positions are sent, and with how many levels.

The mask is made of cells of 2x2 positions (32x32 pixels). A cell has one of a few *densities*: no token, one, two or
all four positions with one level, and two or four of them with a second. The sum of tokens is the quality's budget,
whatever the map; the map says only where they go.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from compressai_gen.layers.transforms import BLOCK

__all__ = [
    "CELL",
    "CODING_PASSES",
    "DENSITIES",
    "N_GROUPS",
    "allocate",
    "cell_means",
    "coding_groups",
    "fill_unsent",
    "grid_importance",
    "importance_of",
    "levels_of",
    "random_importance",
    "random_regions",
    "token_counts",
]

CELL = 2
"""Token positions per side of a cell."""

DENSITIES = ((0, 0), (1, 0), (2, 0), (4, 0), (4, 2), (4, 4))
"""How many of a cell's four positions get the first and the second level, by density."""

IMPORTANCE_EXPONENT = 0.3
"""Of the squared prediction error."""

_SHARES = (1.0, 0.55, 0.3, 0.12, 0.08)
# Worth per token of each step from one density to the next, relative to the first, for the same importance.

_GROUP_OF_PARITY = ((0, 2), (3, 1))
# Group of a position by the parity of its row and column: each group lies between those before it.

N_GROUPS = 4

CODING_PASSES = ((0, range(1)), (0, range(1, 2)), (0, range(2, 4)), (1, range(4)))
"""Level and groups of the tokens that are coded together, in coding order.

A pass of its own for each group of both levels, eight, takes twice the time and 0.2 % more bits on validation images.
Two passes for the first level take 3 to 12 % more.
"""


def coding_groups(height: int, width: int) -> Tensor:
    """Returns the coding group (height, width) of each position, 0 to 3: a quarter grid, its diagonals, the rest."""
    table = torch.tensor(_GROUP_OF_PARITY)
    return table[torch.arange(height)[:, None] % 2, torch.arange(width) % 2]


def token_counts() -> Tensor:
    """Tokens in a cell, by density (6,)."""
    return torch.tensor(DENSITIES).sum(1)


def levels_of(densities: Tensor) -> Tensor:
    """Levels (..., 2r, 2c) that each position gets, from the densities (..., r, c) of cells."""
    groups = coding_groups(*(CELL * n for n in densities.shape[-2:])).to(densities.device)
    counts = torch.tensor(DENSITIES, device=densities.device)[densities]  # (..., r, c, L)
    counts = counts.repeat_interleave(CELL, dim=-3).repeat_interleave(CELL, dim=-2)
    return (groups[..., None] < counts).sum(-1)


def cell_means(values: Tensor) -> Tensor:
    """Means (N, r, c) over cells of a map of pixels (N, H, W); H and W are multiples of a cell's pixels."""
    return F.avg_pool2d(values[:, None], CELL * BLOCK)[:, 0]


def allocate(importance: Tensor, budget: int) -> Tensor:
    """Spends a token budget where importance is highest.

    Each step from one density to the next is worth its cell's importance times a falling share per token, so that
    doubly important cells do not get all tokens before others get any. The budget is met to within a step, two tokens.

    Args:
        importance: of cells (r, c), not negative.
        budget: tokens.

    Returns:
        Densities (r, c).
    """
    counts = token_counts()
    shares = torch.tensor(_SHARES, dtype=torch.float64)
    worth = importance.double().cpu().flatten()[:, None] * shares
    # A map that is zero somewhere still says nothing about where the rest of the budget goes: evenly.
    worth = worth + 1e-9 * (worth.max() + 1) * shares
    order = worth.flatten().argsort(descending=True, stable=True)
    tokens = counts.diff().expand(len(worth), -1).flatten()[order]
    taken = order[tokens.cumsum(0) <= budget]
    steps = torch.zeros(worth.numel(), dtype=torch.int64)
    steps[taken] = 1
    return steps.reshape(worth.shape).sum(1).reshape(importance.shape)


def grid_importance(rows: int, columns: int) -> Tensor:
    """Importance (r, c) that spends a budget evenly, as a regular grid: the same for every image."""
    order = torch.arange(rows * columns, dtype=torch.float64)
    # Ties between equal cells are broken by a low-discrepancy sequence, not from the top left.
    return 1 + 1e-3 * ((order * 0.6180339887498949) % 1).reshape(rows, columns)


def random_importance(rows: int, columns: int) -> Tensor:
    """Importance (r, c) that spends a budget at uniformly random cells, the same for every image of a size."""
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(0))


def random_regions(n: int, height: int, width: int) -> Tensor:
    """Maps (N, H, W) as callers may draw them, to train on: a third has a rectangle 2 to 100 times as important."""
    maps = torch.ones(n, height, width)
    for values in maps:
        if torch.rand(()) < 1 / 3:
            top, left = (int(torch.randint(size, ())) for size in (height, width))
            values[top : top + height // 2, left : left + width // 2] = float(2 * 50 ** torch.rand(()))
    return maps


def fill_unsent(y_hat: Tensor, sent: Tensor, rounds: Sequence[int] = (1, 2, 4)) -> Tensor:
    """Fills positions without tokens with weighted means of sent ones, near ones first, then farther ones.

    Args:
        y_hat: (N, D, h, w), zero where nothing was sent.
        sent: (N, 1, h, w) booleans.
        rounds: distances of the neighbours that are looked at, in turn.
    """
    kernel = _binomial(y_hat)[None, None]
    channels = y_hat.shape[1]
    for distance in rounds:
        options = {"padding": distance, "dilation": distance}
        total = F.conv2d(y_hat, kernel.expand(channels, 1, 3, 3), groups=channels, **options)
        weight = F.conv2d(sent.to(y_hat.dtype), kernel, **options)
        y_hat = torch.where(sent, y_hat, total / weight.clamp_min(1))
        sent = sent | (weight > 0)
    return y_hat


def importance_of(y: Tensor) -> Tensor:
    """Importance of cells (N, r, c): how badly each position's vector is predicted from its neighbours'.

    Args:
        y: latents (N, D, h, w), not quantized; h and w are even.
    """
    kernel = _binomial(y)
    kernel[1, 1] = 0
    kernel = (kernel / kernel.sum()).expand(y.shape[1], 1, 3, 3)
    predicted = F.conv2d(F.pad(y, (1, 1, 1, 1), mode="replicate"), kernel, groups=y.shape[1])
    error = (y - predicted).square().sum(1, keepdim=True)
    # A root less than the square root: distortion that is seen grows more slowly than squared error.
    return F.avg_pool2d(error, CELL)[:, 0].pow(IMPORTANCE_EXPONENT)


def _binomial(like: Tensor) -> Tensor:
    """Weights (3, 3) of a position's neighbours: the nearer, the heavier."""
    weights = torch.tensor([1.0, 2.0, 1.0], device=like.device, dtype=like.dtype)
    return weights[:, None] * weights
