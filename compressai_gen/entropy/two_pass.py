"""Latent codec of the second generation: a mean-scale hyperprior, coded in two passes.

The passes go over a checkerboard of space and channels, as in PULSE (arXiv 2609.18602).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressai_gen.configuration import register_part
from compressai_gen.entropy.exact import float64_twin, in_float64
from compressai_gen.entropy.hyperprior import BORDER, Hyperprior, Pass, in_steps, straight_round
from compressai_gen.layers.blocks import Block, QualityScale
from compressai_gen.layers.windows import windowed

__all__ = ["TwoPassHyperprior"]

_WINDOW, _REACH = 24, 2
# Positions of the hyper-latent per side that ``h_s`` sees at once, and how far it looks.


class _HyperAnalysis(nn.Module):
    """``h_a``: normalized latent (N, M, h, w) to hyper-latent (N, Z, h/4, w/4)."""

    def __init__(self, latent_channels: int, width: int, hyper_channels: int, n_qualities: int):
        super().__init__()
        self.stem = nn.Conv2d(latent_channels, width, 1)
        self.block = Block(width, 2, n_qualities)
        self.down = nn.Conv2d(width, hyper_channels, 4, stride=4)

    def forward(self, y: Tensor, index: Tensor) -> Tensor:
        return self.down(F.silu(self.block(self.stem(y), index)))


class _HyperSynthesis(nn.Module):
    """``h_s``: hyper-latent (N, Z, h/4, w/4) to features (N, width, h, w)."""

    def __init__(self, hyper_channels: int, width: int, n_qualities: int):
        super().__init__()
        self.stem = nn.Conv2d(hyper_channels, width, 3, padding=1)
        self.scale = QualityScale(n_qualities, width)
        self.up = nn.Conv2d(width, 16 * (width // 2), 1)
        self.depthwise = nn.Conv2d(width // 2, width // 2, 3, padding=1, groups=width // 2)
        self.out = nn.Conv2d(width // 2, width, 1)

    def forward(self, z_hat: Tensor, index: Tensor) -> Tensor:
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


class _Prior(nn.Module):
    """All networks that decide the latent's tables: ``h_s``, the second pass' context, and each pass' parameters."""

    def __init__(self, channels: int, hyper_channels: int, width: int, n_qualities: int):
        super().__init__()
        self.channels = channels
        self.h_s = _HyperSynthesis(hyper_channels, width, n_qualities)
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


@register_part
class TwoPassHyperprior(Hyperprior):
    r"""Codes a latent in two passes, exactly.

    The channels are two halves, of even and of odd number. The first pass codes one half at the black positions of a
    checkerboard and the other at the white ones; the second pass codes the rest, which then has half of the channels of
    its own position and, of its own channels, the four neighbours.

    .. code-block:: none

        y ──┬─► h_a ─► z ─► Q ─► EB ─► z_hat ─► h_s ──┬─► (mean, scale) of the first pass
            │                                         └─► with context: of the second
            └─► gain ─► Q ─► GC ─► y_hat of the first pass ─► context

    Gains per quality follow Cui et al., CVPR 2021.

    Args:
        channels: M, of the latent, even.
        hyper_channels: channels of ``z``.
        width: channels inside the hyper transforms and of the context.
        n_qualities: how many qualities have gains of their own.
    """

    def __init__(self, channels: int = 192, hyper_channels: int = 96, width: int = 128, *, n_qualities: int):
        super().__init__(channels, hyper_channels, n_qualities)
        self.h_a = _HyperAnalysis(channels, width, hyper_channels, n_qualities)
        self.prior = _Prior(channels, hyper_channels, width, n_qualities)

    def predict(self, z_hat: Tensor, index: Tensor, target: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Hyperprior`."""
        hyper = self.prior.h_s(z_hat, index).permute(0, 2, 3, 1)
        in_first = _first_pass(target)
        mean, log_scale = in_steps(self.prior.first(hyper).permute(0, 3, 1, 2).float(), norm)
        known = torch.where(in_first, straight_round(target - mean) + mean, 0) / norm
        second = in_steps(self.prior.second_pass(hyper, known).permute(0, 3, 1, 2).float(), norm)
        return tuple(torch.where(in_first, a, b) for a, b in zip((mean, log_scale), second, strict=True))

    def passes(self, z_hat: Tensor, index: Tensor, done: Tensor) -> Iterator[Pass]:
        """See :class:`Hyperprior`."""
        prior = float64_twin(self.prior)
        hyper = windowed(lambda z: in_float64(prior.h_s, z, index[None]), [z_hat], [1], _WINDOW, _REACH)
        hyper = hyper[0].permute(1, 2, 0).contiguous()
        parities = torch.ones_like(hyper[..., 0], dtype=torch.int64)
        parities = (parities.cumsum(0) + parities.cumsum(1)) % 2
        for is_second in (False, True):
            # The second pass looks at what both halves of the first one coded, and at nothing of its own.
            known = done.clone() if is_second else None
            for parity in (0, 1):
                channels = slice((parity + is_second) % 2, None, 2)
                numbers = torch.arange(self.channels, device=hyper.device)[channels]
                of_pass = partial(prior.at, coded=numbers, hyper=hyper, known=known)
                rows, columns = (parities == parity).nonzero(as_tuple=True)
                yield Pass(rows, columns, channels, of_pass)


def _first_pass(like: Tensor) -> Tensor:
    """Which channels of which positions (M, h, w) the first pass codes."""
    channels, rows, columns = (torch.arange(n, device=like.device) for n in like.shape[-3:])
    return (channels[:, None, None] + rows[:, None] + columns) % 2 == 0
