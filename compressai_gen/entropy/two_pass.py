"""CGDM's latent codec: a mean-scale hyperprior, coded in two passes.

The passes go over a checkerboard of space and channels, as in PULSE (arXiv 2609.18602).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from compressai_gen.configuration import register_part
from compressai_gen.entropy.exact import float64_twin, in_float64
from compressai_gen.entropy.hyperprior import Hyperprior, Pass, in_steps, straight_round
from compressai_gen.layers.hyper import BlockHyperAnalysis, TwoPassPrior
from compressai_gen.layers.windows import windowed

__all__ = ["TwoPassHyperprior"]

_WINDOW, _REACH = 24, 2
# Positions of the hyper-latent per side that ``h_s`` sees at once, and how far it looks.


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
        self.h_a = BlockHyperAnalysis(channels, width, hyper_channels, n_qualities)
        self.prior = TwoPassPrior(channels, hyper_channels, width, n_qualities)

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
