"""Prediction of tokens from tokens that are already known, in all directions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["TokenPredictor"]


class TokenPredictor(nn.Module):
    """Logits of each position's next token, given the known tokens around it.

    Convolutions see a window of 11x11 positions in all directions, so cost is linear in the image and any size works.

    Args:
        channels: D, length of a code.
        entries: K, size of a codebook.
        levels: L, number of codebooks.
        width: channels inside.
    """

    def __init__(self, channels: int, entries: int, levels: int, width: int):
        super().__init__()
        self.inputs = nn.Conv2d(channels + levels, width, 5, padding=2)
        self.hidden = nn.Conv2d(width, width, 3, padding=1)
        self.context = nn.Conv2d(width, width, 5, padding=2, groups=8)
        self.heads = nn.ModuleList(nn.Conv2d(width, entries, 1) for _ in range(levels))
        for head in self.heads:
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, codes: Tensor, known: Tensor, level: int) -> Tensor:
        """Returns logits (N, K, h, w).

        Args:
            codes: (N, D, h, w), sum of the codes of known tokens, scaled to unit variance.
            known: (N, h, w), how many levels are known at each position.
            level: which level's next token is asked for.
        """
        return self.heads[level](self.features(codes, known))

    def features(self, codes: Tensor, known: Tensor) -> Tensor:
        """Returns what all levels' heads read (N, width, h, w)."""
        flags = torch.stack([known > i for i in range(len(self.heads))], dim=1).to(codes.dtype)
        h = F.leaky_relu(self.inputs(torch.cat((codes, flags), dim=1)), 0.1)
        h = h + F.leaky_relu(self.hidden(h), 0.1)
        return h + F.leaky_relu(self.context(h), 0.1)
