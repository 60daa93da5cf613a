"""What latent codecs with a mean-scale hyperprior share: gains, priors, and coding that is exact, pass by pass."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from compressai.ans import BufferedRansEncoder, RansDecoder
from compressai.latent_codecs import LatentCodec
from compressai.models.base import get_scale_table
from torch import Tensor, nn

from compressai_gen.entropy.exact import (
    ExactEntropyBottleneck,
    ExactGaussianConditional,
    Snap,
    SnapDecoder,
    SnapEncoder,
)
from compressai_gen.entropy.rans import MeteredDecoder, encode, flat_list, tables
from compressai_gen.layers.hyper import BORDER
from compressai_gen.layers.quality import between_qualities

__all__ = ["Hyperprior", "Pass", "in_steps", "straight_round"]

SCALE_MIN, SCALE_MAX, SCALE_LEVELS = 0.11, 64.0, 64
MEAN_STEPS = 32
"""Means are snapped to 1/32 of a quantization step: the rate lost is below 0.01 %, and ``y_hat`` is exact in binary."""

_POSITIONS = 1 << 13
# As many get their parameters at once, from some 10 KB of neighbours each. They are a part of the format, with a phase.


class Pass(NamedTuple):
    """What is coded at once.

    Attributes:
        rows, columns: of its P positions.
        channels: which are coded there, C of them.
        parameters: of some of its rows and columns, to their means and log-scales (P, 2C) in float64, relative to the
            channels' spread, from what earlier passes coded.
    """

    rows: Tensor
    columns: Tensor
    channels: slice
    parameters: Callable[[Tensor, Tensor], Tensor]


class Hyperprior(LatentCodec):
    """Codes a latent given a hyper-latent, exactly; gains per quality follow Cui et al., CVPR 2021.

    A subclass has an ``h_a`` and gives the passes in which the latent is coded, for the coder (:meth:`passes`) and for
    training (:meth:`predict`).

    Args:
        channels: M, of the latent.
        hyper_channels: channels of ``z``.
        n_qualities: how many qualities have gains of their own.
    """

    h_a: nn.Module

    def __init__(self, channels: int, hyper_channels: int, n_qualities: int):
        super().__init__()
        self.channels = channels
        self.log_gain = nn.Parameter(torch.zeros(n_qualities, channels))
        self.register_buffer("log_std", torch.zeros(channels))
        # Hyper-latents start small; CompressAI's default spread of 10 would cost 0.1 bpp until it is unlearned.
        self.entropy_bottleneck = ExactEntropyBottleneck(hyper_channels, init_scale=2)
        self.gaussian_conditional = ExactGaussianConditional(None, scale_bound=SCALE_MIN)

    @abstractmethod
    def predict(self, z_hat: Tensor, index: Tensor, target: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
        """Returns means and log-scales (N, M, h, w) in quantization steps, with gradients.

        Args:
            z_hat: the hyper-latent (N, Z, h/4, w/4).
            index: of the quality (N,), real numbers from 0.
            target: the latent in quantization steps (N, M, h, w), not rounded.
            norm: the channels' standard deviations in quantization steps (N, M, 1, 1).
        """

    @abstractmethod
    def passes(self, z_hat: Tensor, index: Tensor, done: Tensor) -> Iterator[Pass]:
        """Yields one image's passes in coding order.

        Args:
            z_hat: the hyper-latent (1, Z, h/4, w/4).
            index: of the quality, without dimension.
            done: the latent (h + 4, w + 4, M) at unit variance in float64, with a border of zeros. What a pass coded
                stands there when the next one is asked for; else zeros.
        """

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
        norm = (self.log_std[:, None, None] + log_gain).exp()
        target = y.float() * log_gain.exp()
        z = self.h_a(target / norm, index).float()
        with torch.autocast(y.device.type, enabled=False):
            _, z_likelihoods = self.entropy_bottleneck(z, training=True)
            z_hat = z + (self.entropy_bottleneck.nearest(z) - z).detach()
        mean, log_scale = self.predict(z_hat, index, target, norm)
        centred, scale = target - mean, log_scale.clamp_max(8.0).exp()
        gc = self.gaussian_conditional
        noisy = centred + torch.rand_like(target) - 0.5
        likelihoods = {"y": gc.likelihood_lower_bound(gc._likelihood(noisy, scale)), "z": z_likelihoods}
        # Noise at the smallest scale costs 0.16 bits where rounding to zero costs none: 0.1 bpp that no stream has.
        rounded = gc.likelihood_lower_bound(gc._likelihood(straight_round(centred), scale))
        y_hat = (straight_round(centred) + mean) / log_gain.exp()
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
        return self.channels * height * width + self.entropy_bottleneck.channels * (height // 4) * (width // 4)

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
        """Goes through the passes in coding order; ``code`` turns wanted symbols into coded ones.

        Everything that decides a table is float64 or integer here: ``snap`` sees the means and then the scales of so
        many positions of a pass, the format's parts, before the pass' symbols are coded. Returns ``y_hat``
        (1, M, h, w) in float32.
        """
        log_gain = between_qualities(self.log_gain.double(), index[None])[0]
        norm = (self.log_std.double() + log_gain).exp()
        height, width = shape or y.shape[-2:]
        done = norm.new_zeros(height + 2 * BORDER, width + 2 * BORDER, len(norm))
        inside = done[BORDER : BORDER + height, BORDER : BORDER + width]
        with torch.autocast(done.device.type, enabled=False):
            for rows, columns, row, parameters in self.passes(z_hat, index, done):
                means, table_indexes = [], []
                for at in zip(rows.split(_POSITIONS), columns.split(_POSITIONS), strict=True):
                    mean, log_scale = in_steps(parameters(*at), norm[row])
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


def in_steps(parameters: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-scale in quantization steps from a network's outputs, which are relative to the channel's spread."""
    mean, log_scale = parameters.chunk(2, dim=1)
    return mean * norm, log_scale + norm.log()


def straight_round(values: Tensor) -> Tensor:
    """Rounds, with the identity's gradient."""
    return values + (torch.round(values) - values).detach()


def _scale_index(log_scale: Tensor) -> Tensor:
    low, high = torch.tensor((SCALE_MIN, SCALE_MAX), dtype=torch.float64).log().tolist()
    return (log_scale - low) * ((SCALE_LEVELS - 1) / (high - low))
