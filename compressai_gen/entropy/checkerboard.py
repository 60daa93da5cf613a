"""Latent codec of CGDM's first generation: channel groups, each coded in two checkerboard passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from compressai.layers import CheckerboardMaskedConv2d
from torch import Tensor, nn

from compressai_gen.configuration import register_part
from compressai_gen.entropy.exact import float64_twin, in_float64
from compressai_gen.entropy.hyperprior import BORDER, Hyperprior, Pass, in_steps, straight_round
from compressai_gen.layers.transforms import QualityModulation
from compressai_gen.layers.windows import windowed

__all__ = ["CheckerboardHyperprior"]

_WINDOW, _REACH = 24, 2
# Positions of the hyper-latent per side that ``h_s`` sees at once, and how far it looks.


class _HyperAnalysis(nn.Module):
    """``h_a``: normalized latent (N, M, h, w) to hyper-latent (N, Z, h/4, w/4)."""

    def __init__(self, latent_channels: int, width: int, hyper_channels: int, n_qualities: int):
        super().__init__()
        self.conv1 = nn.Conv2d(latent_channels, width, 3, padding=1)
        self.modulation = QualityModulation(n_qualities, width)
        self.conv2 = nn.Conv2d(width, width, 5, stride=2, padding=2)
        self.conv3 = nn.Conv2d(width, hyper_channels, 5, stride=2, padding=2)

    def forward(self, y: Tensor, index: Tensor) -> Tensor:
        h = F.leaky_relu(self.modulation(self.conv1(y), index), 0.1)
        return self.conv3(F.leaky_relu(self.conv2(h), 0.1))


class _HyperSynthesis(nn.Module):
    """``h_s``: hyper-latent (N, Z, h/4, w/4) to parameters (N, width, h, w) of the latent's distribution."""

    def __init__(self, hyper_channels: int, width: int, n_qualities: int):
        super().__init__()
        self.conv1 = nn.Conv2d(hyper_channels, 4 * width, 3, padding=1)
        self.modulation = QualityModulation(n_qualities, width)
        self.conv2 = nn.Conv2d(width, 4 * width, 3, padding=1)

    def forward(self, z_hat: Tensor, index: Tensor) -> Tensor:
        h = F.leaky_relu(self.modulation(F.pixel_shuffle(self.conv1(z_hat), 2), index), 0.1)
        return F.pixel_shuffle(self.conv2(h), 2)


class _GroupParameters(nn.Module):
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
        self.h_a = _HyperAnalysis(self.channels, width, hyper_channels, n_qualities)
        self.h_s = _HyperSynthesis(hyper_channels, width, n_qualities)
        self.parameters_of = nn.ModuleList(
            _GroupParameters(width, sum(self.groups[:i]), n) for i, n in enumerate(self.groups)
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
