"""Networks of the hyperpriors, of both generations: what the latent's distribution is computed by.

:mod:`compressai_gen.entropy` codes with them, in float64 and position by position.
"""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from compressai.layers import CheckerboardMaskedConv2d
from torch import Tensor, nn

from compressai_gen.layers.blocks import Block, QualityScale
from compressai_gen.layers.transforms import QualityModulation

__all__ = [
    "BORDER",
    "BlockHyperAnalysis",
    "BlockHyperSynthesis",
    "GroupParameters",
    "HyperAnalysis",
    "HyperSynthesis",
    "TwoPassPrior",
]

BORDER = 2
"""Positions of zeros around fields of which values at single positions are computed: as far as the networks look."""


class HyperAnalysis(nn.Module):
    """``h_a``: normalized latent (N, M, h, w) to hyper-latent (N, Z, h/4, w/4)."""

    def __init__(self, latent_channels: int, width: int, hyper_channels: int, n_qualities: int):
        super().__init__()
        self.conv1 = nn.Conv2d(latent_channels, width, 3, padding=1)
        self.modulation = QualityModulation(n_qualities, width)
        self.conv2 = nn.Conv2d(width, width, 5, stride=2, padding=2)
        self.conv3 = nn.Conv2d(width, hyper_channels, 5, stride=2, padding=2)

    def forward(self, y: Tensor, index: Tensor) -> Tensor:
        """Returns the hyper-latent at quality indexes (N,)."""
        h = F.leaky_relu(self.modulation(self.conv1(y), index), 0.1)
        return self.conv3(F.leaky_relu(self.conv2(h), 0.1))


class HyperSynthesis(nn.Module):
    """``h_s``: hyper-latent (N, Z, h/4, w/4) to parameters (N, width, h, w) of the latent's distribution."""

    def __init__(self, hyper_channels: int, width: int, n_qualities: int):
        super().__init__()
        self.conv1 = nn.Conv2d(hyper_channels, 4 * width, 3, padding=1)
        self.modulation = QualityModulation(n_qualities, width)
        self.conv2 = nn.Conv2d(width, 4 * width, 3, padding=1)

    def forward(self, z_hat: Tensor, index: Tensor) -> Tensor:
        """Returns the features at quality indexes (N,)."""
        h = F.leaky_relu(self.modulation(F.pixel_shuffle(self.conv1(z_hat), 2), index), 0.1)
        return F.pixel_shuffle(self.conv2(h), 2)


class GroupParameters(nn.Module):
    """Mean and log-scale of one channel group, given the hyperprior, earlier groups and this group's anchors."""

    def __init__(self, width: int, earlier: int, channels: int):
        super().__init__()
        self.earlier = nn.Conv2d(earlier, width, 3, padding=1) if earlier else None
        self.anchors = CheckerboardMaskedConv2d(channels, width, 5, padding=2)
        inputs = width * (3 if earlier else 2)
        self.fuse = nn.Sequential(
            nn.Conv2d(inputs, width, 1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, width, 1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, 2 * channels, 1),
        )
        nn.init.zeros_(self.fuse[-1].weight)
        nn.init.zeros_(self.fuse[-1].bias)

    def forward(self, hyper: Tensor, earlier: Tensor | None, anchors: Tensor | None) -> Tensor:
        """Returns (N, 2 * channels, h, w) of what there is; without anchors, what holds for the anchors themselves."""
        parts = [hyper, torch.zeros_like(hyper) if anchors is None else self.anchors(anchors)]
        if self.earlier is not None:
            parts.append(self.earlier(earlier))
        return self.fuse(torch.cat(parts, dim=1))

    def at(
        self, rows: Tensor, columns: Tensor, hyper: Tensor, earlier: Tensor | None, anchors: Tensor | None
    ) -> Tensor:
        """What :meth:`forward` of a float64 twin gives of one image at P positions: (P, 2 * channels).

        Each pass needs half of the positions, and of the anchors' kernel half of the taps.

        Args:
            rows, columns: of the positions (P,).
            hyper: (h, w, width).
            earlier, anchors: (h + 4, w + 4, C), with a border of zeros.
        """
        parts = [hyper[rows, columns]]
        parts.append(torch.zeros_like(parts[0]) if anchors is None else self._sparse[0](anchors, rows, columns))
        if self.earlier is not None:
            parts.append(self._sparse[1](earlier, rows, columns))
        h = torch.cat(parts, dim=1)
        for layer in self.fuse:
            h = F.linear(h, layer.weight.flatten(1), layer.bias) if isinstance(layer, nn.Conv2d) else layer(h)
        return h

    @cached_property
    def _sparse(self) -> list[_SparseConv]:
        """Of a twin, whose weights never change."""
        return [_SparseConv(conv) for conv in (self.anchors, self.earlier) if conv is not None]


class _SparseConv:
    """A convolution (P, out) at P positions of a field (h + 4, w + 4, in)."""

    def __init__(self, conv: nn.Conv2d):
        mask = conv.mask[0, 0] if isinstance(conv, CheckerboardMaskedConv2d) else torch.ones(conv.kernel_size)
        taps, offset = mask.nonzero().tolist(), BORDER - conv.padding[0]
        self._offsets = [(offset + i, offset + j) for i, j in taps]
        self._kernel = torch.cat([conv.weight[:, :, i, j] for i, j in taps], dim=1)
        self._bias = conv.bias

    def __call__(self, field: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        patches = torch.cat([field[rows + i, columns + j] for i, j in self._offsets], dim=1)
        return F.linear(patches, self._kernel, self._bias)


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
