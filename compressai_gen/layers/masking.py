"""Which token positions are sent, with how many levels, and what stands where none is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["coding_groups", "fill_unsent", "grid_levels"]

_GROUP_OF_PARITY = ((0, 2), (3, 1))
"""Group of a position by the parity of its row and column: each group lies between those before it."""

N_GROUPS = 4


def coding_groups(height: int, width: int) -> Tensor:
    """Returns the coding group (height, width) of each position, 0 to 3: a quarter grid, its diagonals, the rest."""
    table = torch.tensor(_GROUP_OF_PARITY)
    return table[torch.arange(height)[:, None] % 2, torch.arange(width) % 2]


def grid_levels(height: int, width: int, groups_per_level: Sequence[int]) -> Tensor:
    """Spends a token budget on a regular grid, the same for every image, so that the mask costs no bits.

    Args:
        height, width: of the token grid.
        groups_per_level: how many of the four coding groups get each level; (2, 0) is one level on a checkerboard.

    Returns:
        Levels (height, width) that each position gets.
    """
    groups = coding_groups(height, width)
    return sum((groups < n).long() for n in groups_per_level)


def fill_unsent(y_hat: Tensor, sent: Tensor) -> Tensor:
    """Fills positions without tokens with the weighted mean of their sent neighbours.

    Args:
        y_hat: (N, D, h, w), zero where nothing was sent.
        sent: (N, 1, h, w) booleans.
    """
    weights = torch.tensor([1.0, 2.0, 1.0], device=y_hat.device, dtype=y_hat.dtype)
    kernel = (weights[:, None] * weights)[None, None]
    channels = y_hat.shape[1]
    total = F.conv2d(y_hat, kernel.expand(channels, 1, 3, 3), padding=1, groups=channels)
    weight = F.conv2d(sent.to(y_hat.dtype), kernel, padding=1)
    return torch.where(sent, y_hat, total / weight.clamp_min(1))
