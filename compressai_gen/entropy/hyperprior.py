"""Latent codec of CGDM: a mean-scale hyperprior with channel groups, each coded in two checkerboard passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from compressai.ans import BufferedRansEncoder, RansDecoder
from compressai.latent_codecs import LatentCodec
from compressai.layers import CheckerboardMaskedConv2d
from compressai.models.base import get_scale_table
from torch import Tensor, nn

from compressai_gen.configuration import register_part
from compressai_gen.entropy.exact import (
    ExactEntropyBottleneck,
    ExactGaussianConditional,
    Snap,
    SnapDecoder,
    SnapEncoder,
    float64_twin,
    in_float64,
)
from compressai_gen.entropy.rans import MeteredDecoder, encode, flat_list, tables
from compressai_gen.layers.quality import between_qualities
from compressai_gen.layers.transforms import QualityModulation
from compressai_gen.layers.windows import windowed

__all__ = ["CheckerboardHyperprior"]

SCALE_MIN, SCALE_MAX, SCALE_LEVELS = 0.11, 64.0, 64
MEAN_STEPS = 32
"""Means are snapped to 1/32 of a quantization step: the rate lost is below 0.01 %, and ``y_hat`` is exact in binary."""

_BORDER = 2
# Positions around a latent that the largest kernel looks at.

_POSITIONS = 1 << 13
# As many get their parameters at once, from some 10 KB of neighbours each. They are a part of the format, with a phase.

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
        taps, offset = mask.nonzero().tolist(), _BORDER - conv.padding[0]
        self._offsets = [(offset + i, offset + j) for i, j in taps]
        self._kernel = torch.cat([conv.weight[:, :, i, j] for i, j in taps], dim=1)
        self._bias = conv.bias

    def __call__(self, field: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        patches = torch.cat([field[rows + i, columns + j] for i, j in self._offsets], dim=1)
        return F.linear(patches, self._kernel, self._bias)


@register_part
class CheckerboardHyperprior(LatentCodec):
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
        super().__init__()
        self.groups = tuple(groups)
        channels = sum(self.groups)
        self.log_gain = nn.Parameter(torch.zeros(n_qualities, channels))
        self.register_buffer("log_std", torch.zeros(channels))
        self.h_a = _HyperAnalysis(channels, width, hyper_channels, n_qualities)
        self.h_s = _HyperSynthesis(hyper_channels, width, n_qualities)
        self.parameters_of = nn.ModuleList(
            _GroupParameters(width, sum(self.groups[:i]), n) for i, n in enumerate(self.groups)
        )
        # Hyper-latents start small; CompressAI's default spread of 10 would cost 0.1 bpp until it is unlearned.
        self.entropy_bottleneck = ExactEntropyBottleneck(hyper_channels, init_scale=2)
        self.gaussian_conditional = ExactGaussianConditional(None, scale_bound=SCALE_MIN)

    @torch.no_grad()
    def init_statistics(self, std: Tensor, steps: Sequence[float]) -> None:
        """Starts the prior from each channel's standard deviation and each quality's quantization step."""
        self.log_std.copy_(std.clamp_min(1e-3).log())
        self.log_gain.copy_(-torch.tensor(steps).log()[:, None].expand_as(self.log_gain))

    def normalize(self, y: Tensor) -> Tensor:
        """Brings a latent (N, M, h, w) to about unit variance per channel."""
        return y / self.log_std.exp()[:, None, None]

    def update(self, force: bool = False) -> bool:
        """Computes the integer tables from the parameters."""
        scales = get_scale_table(SCALE_MIN, SCALE_MAX, SCALE_LEVELS).tolist()
        updated = self.gaussian_conditional.update_scale_table(scales, force=force)
        return self.entropy_bottleneck.update(force=force) or updated

    # -- what training and estimation see ---------------------------------------------------------------------------

    def forward(self, y: Tensor, index: Tensor) -> dict[str, Any]:
        """Quantizes ``y`` (N, M, h, w) at quality indexes (N,), real numbers from 0.

        Returns:
            ``y_hat`` as ``y``, ``likelihoods`` of ``y`` and ``z``. In training mode the likelihoods are those of
            noisy latents, gradients pass straight through the rounding, and ``rounded_likelihoods`` say what the
            rounded latents would cost; else all are what the coder uses.
        """
        return self.relaxed(y, index) if self.training else self._estimate(y, index)

    def relaxed(self, y: Tensor, index: Tensor) -> dict[str, Any]:
        """What :meth:`forward` does in training mode: for a whole batch at once, and with gradients."""
        log_gain = between_qualities(self.log_gain, index)[:, :, None, None]
        norm = (self.log_std[:, None, None] + log_gain).exp()  # standard deviation in quantization steps
        target = y.float() * log_gain.exp()
        z = self.h_a(target / norm, index).float()
        with torch.autocast(y.device.type, enabled=False):
            _, z_likelihoods = self.entropy_bottleneck(z, training=True)
            z_hat = z + (self.entropy_bottleneck.nearest(z) - z).detach()
        hyper = self.h_s(z_hat, index)
        anchor = _anchor_mask(y)
        done, means, scales, rows = [], [], [], _group_slices(self.groups)
        for parameters, row in zip(self.parameters_of, rows, strict=True):
            earlier = torch.cat(done, dim=1) if done else None
            first = _distribution(parameters(hyper, earlier, None).float(), norm[:, row])
            anchors = (_round(target[:, row] - first[0]) + first[0]) * anchor / norm[:, row]
            second = _distribution(parameters(hyper, earlier, anchors).float(), norm[:, row])
            mean, log_scale = (torch.where(anchor, a, b) for a, b in zip(first, second, strict=True))
            done.append((_round(target[:, row] - mean) + mean) / norm[:, row])
            means.append(mean)
            scales.append(log_scale)
        mean, log_scale = torch.cat(means, dim=1), torch.cat(scales, dim=1)
        noisy = target + torch.rand_like(target) - 0.5
        gc = self.gaussian_conditional
        scale = log_scale.clamp_max(8.0).exp()
        likelihoods = {"y": gc.likelihood_lower_bound(gc._likelihood(noisy, scale, mean)), "z": z_likelihoods}
        # Noise at the smallest scale costs 0.16 bits where rounding to zero costs none: 0.1 bpp that no stream has.
        rounded = gc.likelihood_lower_bound(gc._likelihood(_round(target - mean), scale))
        y_hat = torch.cat(done, dim=1) * norm / log_gain.exp()
        return {"y_hat": y_hat, "likelihoods": likelihoods, "rounded_likelihoods": likelihoods | {"y": rounded}}

    @torch.no_grad()
    def _estimate(self, y: Tensor, index: Tensor) -> dict[str, Any]:
        gc, eb = self.gaussian_conditional, self.entropy_bottleneck
        likelihoods, y_hats, z_likelihoods = [], [], []
        for y_i, q_i in zip(y, index, strict=True):
            z = self._hyper_latent(y_i, q_i)
            z_likelihoods.append(eb(z, training=False)[1])
            rates = []

            def code(symbols: Tensor, table_indexes: Tensor, rates: list[Tensor] = rates) -> Tensor:
                rates.append(gc._likelihood(symbols.float(), gc.scale_table[table_indexes]))
                return symbols

            y_hats.append(self._walk(eb.nearest(z), q_i, Snap(), code, y_i))
            likelihoods.append(torch.cat(rates)[None])
        return {
            "y_hat": torch.cat(y_hats),
            "likelihoods": {
                "y": gc.likelihood_lower_bound(torch.cat(likelihoods)),
                "z": torch.cat(z_likelihoods),
            },
        }

    # -- what the coder sees: one image at a time, so that a batch changes nothing ------------------------------------

    def compress(self, y: Tensor, index: Tensor, encoder: BufferedRansEncoder) -> Tensor:
        """Codes the latent (M, h, w) of one image; returns ``y_hat`` (1, M, h, w), as the decoder gets it."""
        z_hat = self.entropy_bottleneck.encode(self._hyper_latent(y, index), encoder)
        of_scales = tables(self.gaussian_conditional)

        def code(symbols: Tensor, table_indexes: Tensor) -> Tensor:
            encode(encoder, symbols, table_indexes, of_scales)
            return symbols

        return self._walk(z_hat, index, SnapEncoder(encoder), code, y)

    def n_symbols(self, shape: tuple[int, int]) -> int:
        """How many symbols a latent of shape (h, w) has."""
        height, width = shape
        return sum(self.groups) * height * width + self.entropy_bottleneck.channels * (height // 4) * (width // 4)

    def decompress(self, shape: tuple[int, int], index: Tensor, decoder: RansDecoder | MeteredDecoder) -> Tensor:
        """Decodes ``y_hat`` (1, M, h, w), h and w being ``shape``, multiples of 4."""
        z_hat = self.entropy_bottleneck.decode((shape[0] // 4, shape[1] // 4), decoder)
        of_scales = tables(self.gaussian_conditional)

        def code(_: Tensor | None, table_indexes: Tensor) -> Tensor:
            return torch.tensor(decoder.decode_stream(flat_list(table_indexes), *of_scales), device=z_hat.device)

        return self._walk(z_hat, index, SnapDecoder(decoder), code, None, shape)

    def _hyper_latent(self, y: Tensor, index: Tensor) -> Tensor:
        return self.h_a(self.normalize(y.float())[None], index[None]).float()

    @torch.no_grad()
    def _walk(
        self,
        z_hat: Tensor,
        index: Tensor,
        snap: Snap,
        code: Callable[[Tensor | None, Tensor], Tensor],
        y: Tensor | None,
        shape: tuple[int, int] | None = None,
    ) -> Tensor:
        """Goes through groups and passes in coding order; ``code`` turns wanted symbols into coded ones.

        Everything that decides a table is float64 or integer here: ``snap`` sees the means and then the scales of so
        many positions of a pass, the format's parts, before the pass' symbols are coded. Returns ``y_hat``
        (1, M, h, w) in float32.
        """
        log_gain = between_qualities(self.log_gain.double(), index[None])[0]
        norm = (self.log_std.double() + log_gain).exp()
        height, width = shape or y.shape[-2:]
        h_s, parameters_of = float64_twin(self.h_s), float64_twin(self.parameters_of)
        hyper = windowed(lambda z: in_float64(h_s, z, index[None]), [z_hat], [1], _WINDOW, _REACH)
        hyper = hyper[0].permute(1, 2, 0).contiguous()
        anchor = _anchor_mask(hyper[..., 0])
        done = hyper.new_zeros(height + 2 * _BORDER, width + 2 * _BORDER, len(norm))
        inside = done[_BORDER : _BORDER + height, _BORDER : _BORDER + width]
        with torch.autocast(done.device.type, enabled=False):
            for parameters, row in zip(parameters_of, _group_slices(self.groups), strict=True):
                for is_anchor in (True, False):
                    rows, columns = (anchor if is_anchor else ~anchor).nonzero(as_tuple=True)
                    earlier, anchors = done[..., : row.start], None if is_anchor else done[..., row]
                    means, table_indexes = [], []
                    for at in zip(rows.split(_POSITIONS), columns.split(_POSITIONS), strict=True):
                        out = parameters.at(*at, hyper, earlier if row.start else None, anchors)
                        mean, log_scale = _distribution(out, norm[row])
                        means.append(snap(mean * MEAN_STEPS).double() / MEAN_STEPS)
                        table_indexes.append(snap(_scale_index(log_scale)).clamp(0, SCALE_LEVELS - 1))
                    mean = torch.cat(means)
                    wanted = None
                    if y is not None:
                        target = y[row].permute(1, 2, 0)[rows, columns].double() * log_gain[row].exp()
                        wanted = torch.round(target - mean).T.flatten()
                    coded = code(wanted, torch.cat(table_indexes).T.flatten()).reshape(mean.shape[1], -1).T
                    inside[..., row][rows, columns] = (coded.double() + mean) / norm[row]
        return (inside * self.log_std.double().exp()).permute(2, 0, 1)[None].float()


def _distribution(parameters: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-scale in quantization steps from a network's outputs, which are relative to the channel's spread."""
    mean, log_scale = parameters.chunk(2, dim=1)
    return mean * norm, log_scale + norm.log()


def _scale_index(log_scale: Tensor) -> Tensor:
    low, high = torch.tensor((SCALE_MIN, SCALE_MAX), dtype=torch.float64).log().tolist()
    return (log_scale - low) * ((SCALE_LEVELS - 1) / (high - low))


def _round(values: Tensor) -> Tensor:
    """Rounds, with the identity's gradient."""
    return values + (torch.round(values) - values).detach()


def _anchor_mask(like: Tensor) -> Tensor:
    rows = torch.arange(like.shape[-2], device=like.device)[:, None]
    columns = torch.arange(like.shape[-1], device=like.device)
    return (rows + columns) % 2 == 1  # the taps of CheckerboardMaskedConv2d reach exactly these from the others


def _group_slices(groups: Sequence[int]) -> list[slice]:
    ends = torch.tensor(groups).cumsum(0).tolist()
    return [slice(end - n, end) for end, n in zip(ends, groups, strict=True)]
