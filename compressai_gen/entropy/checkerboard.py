"""Latent codec of CGDM's first generation: channel groups, each coded in two checkerboard passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from compressai_gen.configuration import register_part
from compressai_gen.entropy.exact import float64_twin, in_float64
from compressai_gen.entropy.hyperprior import Hyperprior, Pass, in_steps, straight_round
from compressai_gen.layers.hyper import GroupParameters, HyperAnalysis, HyperSynthesis
from compressai_gen.layers.windows import windowed

__all__ = ["CheckerboardHyperprior"]

_WINDOW, _REACH = 24, 2
# Positions of the hyper-latent per side that ``h_s`` sees at once, and how far it looks.


@register_part
class CheckerboardHyperprior(Hyperprior):
    r"""Codes a latent in channel groups, each in two checkerboard passes, exactly.

    .. code-block:: none

        y ──┬─► h_a ─► z ─► Q ─► EB ─► z_hat ─► h_s ──► hyper ─┐
            │                                                  ├─► (mean, scale) per group and pass
            └─► gain ─► Q ─► GC ─► y_hat of earlier passes ────┘
                                     └─► 1 / gain ─► y_hat

    The channel groups follow ELIC (He et al., CVPR 2022), the two passes He et al., CVPR 2021; gains per quality
    follow Cui et al., CVPR 2021.

    Args:
        groups: channels of each group, coded in this order; their sum is the latent's channels M.
        hyper_channels: channels of ``z``.
        width: channels inside the hyper transforms and parameter networks.
        n_qualities: how many qualities the gains serve.
    """

    def __init__(
        self, groups: Sequence[int] = (48, 144), hyper_channels: int = 96, width: int = 160, *, n_qualities: int
    ):
        super().__init__(sum(groups), hyper_channels, n_qualities)
        self.groups = tuple(groups)
        self.h_a = HyperAnalysis(self.channels, width, hyper_channels, n_qualities)
        self.h_s = HyperSynthesis(hyper_channels, width, n_qualities)
        self.parameters_of = nn.ModuleList(
            GroupParameters(width, sum(self.groups[:i]), n) for i, n in enumerate(self.groups)
        )

    def predict(self, z_hat: Tensor, index: Tensor, target: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Hyperprior`."""
        hyper, anchor = self.h_s(z_hat, index), _anchor_mask(target)
        done, means, scales = [], [], []
        for parameters, row in zip(self.parameters_of, _group_slices(self.groups), strict=True):
            earlier = torch.cat(done, dim=1) if done else None
            first = in_steps(parameters(hyper, earlier, None).float(), norm[:, row])
            anchors = (straight_round(target[:, row] - first[0]) + first[0]) * anchor / norm[:, row]
            second = in_steps(parameters(hyper, earlier, anchors).float(), norm[:, row])
            mean, log_scale = (torch.where(anchor, a, b) for a, b in zip(first, second, strict=True))
            done.append((straight_round(target[:, row] - mean) + mean) / norm[:, row])
            means.append(mean)
            scales.append(log_scale)
        return torch.cat(means, dim=1), torch.cat(scales, dim=1)

    def passes(self, z_hat: Tensor, index: Tensor, done: Tensor) -> Iterator[Pass]:
        """See :class:`Hyperprior`."""
        h_s, parameters_of = float64_twin(self.h_s), float64_twin(self.parameters_of)
        hyper = windowed(lambda z: in_float64(h_s, z, index[None]), [z_hat], [1], _WINDOW, _REACH)
        hyper = hyper[0].permute(1, 2, 0).contiguous()
        anchor = _anchor_mask(hyper[..., 0])
        for parameters, row in zip(parameters_of, _group_slices(self.groups), strict=True):
            earlier = done[..., : row.start] if row.start else None
            for is_anchor in (True, False):
                rows, columns = (anchor if is_anchor else ~anchor).nonzero(as_tuple=True)
                anchors = None if is_anchor else done[..., row]
                yield Pass(rows, columns, row, partial(parameters.at, hyper=hyper, earlier=earlier, anchors=anchors))


def _anchor_mask(like: Tensor) -> Tensor:
    rows = torch.arange(like.shape[-2], device=like.device)[:, None]
    columns = torch.arange(like.shape[-1], device=like.device)
    return (rows + columns) % 2 == 1  # the taps of CheckerboardMaskedConv2d reach exactly these from the others


def _group_slices(groups: Sequence[int]) -> list[slice]:
    ends = torch.tensor(groups).cumsum(0).tolist()
    return [slice(end - n, end) for end, n in zip(ends, groups, strict=True)]
