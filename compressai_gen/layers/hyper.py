"""Networks of the hyperprior: what the latent's distribution is computed by.

:mod:`compressai_gen.entropy` codes with them, in float64 and position by position.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressai_gen.layers.blocks import Block, QualityScale

__all__ = ["BORDER", "BlockHyperAnalysis", "BlockHyperSynthesis", "TwoPassPrior"]

BORDER = 2
"""Positions of zeros around fields of which values at single positions are computed: as far as the networks look."""


class BlockHyperAnalysis(nn.Module):
    """``h_a``: normalized latent (N, M, h, w) to hyper-latent (N, Z, h/4, w/4)."""

    def __init__(self, latent_channels: int, width: int, hyper_channels: int, n_qualities: int):
        super().__init__()
        self.stem = nn.Conv2d(latent_channels, width, 1)
        self.block = Block(width, 2, n_qualities)
        self.down = nn.Conv2d(width, hyper_channels, 4, stride=4)

    def forward(self, y: Tensor, index: Tensor) -> Tensor:
        """Returns the hyper-latent at quality indexes (N,)."""
        return self.down(F.silu(self.block(self.stem(y), index)))


class BlockHyperSynthesis(nn.Module):
    """``h_s``: hyper-latent (N, Z, h/4, w/4) to features (N, width, h, w)."""

    def __init__(self, hyper_channels: int, width: int, n_qualities: int):
        super().__init__()
        self.stem = nn.Conv2d(hyper_channels, width, 3, padding=1)
        self.scale = QualityScale(n_qualities, width)
        self.up = nn.Conv2d(width, 16 * (width // 2), 1)
        self.depthwise = nn.Conv2d(width // 2, width // 2, 3, padding=1, groups=width // 2)
        self.out = nn.Conv2d(width // 2, width, 1)

    def forward(self, z_hat: Tensor, index: Tensor) -> Tensor:
        """Returns the features at quality indexes (N,)."""
        h = F.pixel_shuffle(self.up(F.silu(self.scale(self.stem(z_hat), index))), 4)
        return self.out(F.silu(self.depthwise(h)))


class _Parameters(nn.Module):
    """Means and log-scales (P, 2C) of features (P, F), each position alone."""

    def __init__(self, features: int, width: int, channels: int):
        super().__init__()
        self.hidden = nn.Linear(features, width)
        self.out = nn.Linear(width, 2 * channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, h: Tensor) -> Tensor:
        return self.out(F.silu(self.hidden(h)))


class TwoPassPrior(nn.Module):
    """All networks that decide the latent's tables: ``h_s``, the second pass' context, and each pass' parameters."""

    def __init__(self, channels: int, hyper_channels: int, width: int, n_qualities: int):
        super().__init__()
        self.channels = channels
        self.h_s = BlockHyperSynthesis(hyper_channels, width, n_qualities)
        # Of the eight neighbours, of which four know the second pass' own channels; the centre knows the other half.
        self.neighbours = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.context = nn.Conv2d(2 * channels, width, 1)
        self.first = _Parameters(width, width, channels)
        self.second = _Parameters(2 * width, 2 * width, channels)

    def second_pass(self, hyper: Tensor, known: Tensor) -> Tensor:
        """Means and log-scales (N, h, w, 2M) of features (N, h, w, width) and the first pass' latent (N, M, h, w)."""
        context = self.context(torch.cat((known, self.neighbours(known)), dim=1)).permute(0, 2, 3, 1)
        return self.second(F.silu(torch.cat((hyper, context), dim=-1)))

    def at(self, rows: Tensor, columns: Tensor, coded: Tensor, hyper: Tensor, known: Tensor | None) -> Tensor:
        """What a pass gives of one image at P positions and some channels: (P, 2C).

        Args:
            rows, columns: of the positions (P,).
            coded: the channels (C,).
            hyper: features (h, w, width).
            known: the first pass' latent (h + 4, w + 4, M) with a border of zeros; None in the first pass.
        """
        h, parameters = hyper[rows, columns], self.first
        if known is not None:
            kernel = self.neighbours.weight[:, 0]
            near = self.neighbours.bias
            for i in range(3):
                for j in range(3):
                    near = near + known[rows + (BORDER - 1 + i), columns + (BORDER - 1 + j)] * kernel[:, i, j]
            centre = known[rows + BORDER, columns + BORDER]
            context = F.linear(torch.cat((centre, near), dim=1), self.context.weight.flatten(1), self.context.bias)
            h, parameters = F.silu(torch.cat((h, context), dim=1)), self.second
        both = torch.cat((coded, coded + self.channels))
        return F.linear(F.silu(parameters.hidden(h)), parameters.out.weight[both], parameters.out.bias[both])
