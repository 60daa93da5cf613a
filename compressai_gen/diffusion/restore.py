"""Restores what a base decoder's picture lacks: the decoder-side diffusion of both codecs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressai_gen.diffusion.denoiser import FACTOR, SAMPLE_CHANNELS, create_denoiser, to_image, to_sample
from compressai_gen.diffusion.guidance import REGION, ConsistencyBranch, Guidance
from compressai_gen.diffusion.noise import noise_field
from compressai_gen.diffusion.sampler import Denoise, create_scheduler, sample
from compressai_gen.diffusion.tiling import Tile, plan_tiles, tiled
from compressai_gen.layers.transforms import BLOCK

__all__ = ["RESIDUAL_SCALE", "BaseDecoder", "Conditions", "Restorer", "synthesize_tiled", "to_residual"]

RESIDUAL_SCALE = 16.0
"""Brings what base decoders lack, 0.03 to 0.1 of the range, to about unit variance."""


FEATURE_FACTORS = (4, 8, 16)
"""Pixels per side that one position of the base decoder's features stands for."""

OWN_ESTIMATE = 0.3
"""Share of training batches whose noisy residuals hold the denoiser's own estimates, at the price of another pass."""


class Conditions(NamedTuple):
    """All that the denoiser knows beside the noisy sample.

    Attributes:
        quality: (N,), from 0.
        x_base: the base decoder's picture as a sample (N, 48, H/4, W/4), in [0, 1].
        latent: (N, M, H/16, W/16).
        features: of the base decoder, at 1/4, 1/8 and 1/16 of the resolution.
        syntax: (N, S, H/64, W/64), or None without it.
        sent: (N, 1, H/16, W/16) booleans, blocks whose mean colours are held to the base picture's; None for none.
    """

    quality: Tensor
    x_base: Tensor
    latent: Tensor
    features: Sequence[Tensor]
    syntax: Tensor | None = None
    sent: Tensor | None = None

    def crop(self, tile: Tile) -> Conditions:
        """Returns the tile's conditions."""
        features = [tile.crop(field, factor) for field, factor in zip(self.features, FEATURE_FACTORS, strict=True)]
        x_base, latent = tile.crop(self.x_base, FACTOR), tile.crop(self.latent, BLOCK)
        syntax, sent = tile.crop(self.syntax, REGION), tile.crop(self.sent, BLOCK)
        return Conditions(self.quality, x_base, latent, features, syntax, sent)


class BaseDecoder(NamedTuple):
    """A codec's base decoder, as functions of latents (N, M, H/16, W/16).

    Attributes:
        features: of latents and qualities (N,): the network's features at 1/4, 1/8 and 1/16 of the resolution.
        picture: of latents and their features: ``x_base`` (N, 3, H, W).
        normalize: brings latents to about unit variance per channel.
    """

    features: Callable[[Tensor, Tensor], Sequence[Tensor]]
    picture: Callable[[Tensor, Sequence[Tensor]], Tensor]
    normalize: Callable[[Tensor], Tensor]


def to_residual(x: Tensor, x_base: Tensor) -> Tensor:
    """What the base picture lacks, both (N, 3, H, W), as a sample at about unit variance."""
    return to_sample(x - x_base) * RESIDUAL_SCALE


class Restorer(nn.Module):
    """The generative half: a denoiser of the residual, and the consistency branch that guides it.

    Args:
        latent_channels: M.
        feature_widths: channels of the base decoder's features at 1/4, 1/8 and 1/16 of the resolution.
        widths: channels of the denoiser there.
        layers: residual blocks of the denoiser per resolution on its way down.
        n_qualities: how many qualities it serves.
        syntax_channels: S; 0 for a codec without a syntax.
    """

    def __init__(
        self,
        latent_channels: int,
        feature_widths: Sequence[int],
        widths: Sequence[int],
        layers: int,
        n_qualities: int,
        syntax_channels: int = 0,
    ):
        super().__init__()
        self.denoiser = create_denoiser(SAMPLE_CHANNELS, widths, layers, n_qualities)
        self.consistency = ConsistencyBranch(
            latent_channels, feature_widths, widths, layers, n_qualities, syntax_channels
        )

    def restore(
        self,
        base: BaseDecoder,
        latent: Tensor,
        syntax: Tensor | None,
        quality: Tensor,
        seeds: Sequence[int],
        steps: int,
        tile: int,
        consistency: bool = True,
        sent: Tensor | None = None,
    ) -> Tensor:
        """Samples what the base picture lacks and adds it.

        Args:
            base: the base decoder.
            latent: (N, M, H/16, W/16).
            syntax: (N, S, H/64, W/64), or None without it.
            quality: (N,), from 0.
            seeds: of each image's noise.
            steps: of the sampler.
            tile: largest side of a tile in pixels.
            consistency: whether the consistency branch guides the denoiser.
            sent: see :class:`Conditions`.

        Returns:
            Images (N, 3, H, W), not clamped.
        """
        height, width = (n * BLOCK for n in latent.shape[-2:])
        tiles = plan_tiles(height, width, tile)

        def untiled(window: Tile) -> Tensor:
            part = window.crop(latent, BLOCK)
            features = base.features(part, quality)
            sample_base = to_sample(base.picture(part, features))
            cropped = window.crop(syntax, REGION), window.crop(sent, BLOCK)
            conditions = Conditions(quality, sample_base, part, features, *cropped)
            denoise = partial(self.estimate, self._guide(base, conditions) if consistency else None)
            return self._sample(denoise, seeds, conditions, steps, window)

        if len(tiles) == 1:
            return untiled(tiles[0])
        if steps == 1:
            # After its only step, blending the tiles' pictures is as good as blending estimates and then adding them
            # to a blended base picture, and nothing else of the size of the picture has to be kept.
            x_hat = latent.new_zeros(len(latent), 3, height, width)
            for window in tiles:
                window.crop(x_hat, 1).add_(untiled(window) * window.weight(1).to(x_hat.device))
            return x_hat

        def one_tile(x: Tensor, t: Tensor, part: Conditions) -> Tensor:
            return self.estimate(self._guide(base, part) if consistency else None, x, t, part)

        x_base, features = _blend_base(base, latent, quality, tiles, keep_features=True)
        conditions = Conditions(quality, to_sample(x_base), latent, features, syntax, sent)
        return self._sample(tiled(one_tile, tiles), seeds, conditions, steps, Tile.whole(height, width))

    @staticmethod
    def _sample(
        denoise: Denoise[Conditions], seeds: Sequence[int], conditions: Conditions, steps: int, window: Tile
    ) -> Tensor:
        x_base = conditions.x_base
        top, left = window.top // FACTOR, window.left // FACTOR
        noise = torch.stack([noise_field(seed, *x_base.shape[1:], top, left) for seed in seeds]).to(x_base.device)
        return to_image(x_base + sample(denoise, noise, conditions, steps) / RESIDUAL_SCALE)

    def _guide(
        self, base: BaseDecoder, conditions: Conditions, strengths: Sequence[Tensor | float] = (1.0, 1.0)
    ) -> Guidance:
        quality, _, latent, features, syntax, _ = conditions
        return self.consistency(features, base.normalize(latent), syntax, quality, *strengths)

    def estimate(self, guidance: Guidance | None, x: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """Estimates the clean residual from a noisy one ``x`` (N, 48, H/4, W/4) at ``t``, a scalar or (N,)."""
        inputs = torch.cat((x, 2 * conditions.x_base - 1), dim=1)
        estimated = self.denoiser(
            inputs.contiguous(memory_format=torch.channels_last),
            t,
            encoder_hidden_states=None,
            class_labels=conditions.quality,
            down_block_additional_residuals=None if guidance is None else guidance.down,
            mid_block_additional_residual=None if guidance is None else guidance.mid,
        ).sample.float()
        return estimated if conditions.sent is None else _hold(estimated, conditions.sent)

    def training_estimate(
        self,
        base: BaseDecoder,
        residual: Tensor,
        conditions: Conditions,
        timesteps: Tensor,
    ) -> Tensor:
        """One denoising step from a noisy residual, with gradients; returns the restored images (N, 3, H, W).

        One image in ten goes without syntax and one in ten without guidance, so that a decoder may switch them off. The
        noisy residual holds the true one or, in some batches, the denoiser's own estimate of it from pure noise, as in
        a sampler's second step.

        Args:
            base: the base decoder.
            residual: what the base picture lacks; see :func:`to_residual`.
            conditions: see :class:`Conditions`.
            timesteps: (N,).
        """
        keep = (torch.rand(2, len(residual), 1, 1, 1, device=residual.device) >= 0.1).float()
        denoise = partial(self.estimate, self._guide(base, conditions, keep))
        noise = torch.randn_like(residual)
        scheduler = create_scheduler()
        first = scheduler.config.num_train_timesteps - 1
        if torch.rand(()) < OWN_ESTIMATE:
            with torch.no_grad():
                residual = denoise(noise, torch.full_like(timesteps, first), conditions)
        noisy = scheduler.add_noise(residual, noise, timesteps)
        return to_image(conditions.x_base + denoise(noisy, timesteps, conditions) / RESIDUAL_SCALE)


def _hold(residual: Tensor, sent: Tensor) -> Tensor:
    """Takes the mean colours of sent blocks out of a residual sample: what was sent is enforced, not suggested."""
    colours = residual.unflatten(1, (3, -1))
    means = F.avg_pool2d(colours.mean(2), BLOCK // FACTOR) * sent
    means = F.interpolate(means, scale_factor=BLOCK // FACTOR, mode="nearest")
    return (colours - means[:, :, None]).flatten(1, 2)


def synthesize_tiled(base: BaseDecoder, latent: Tensor, quality: Tensor, tile: int) -> Tensor:
    """Runs a base decoder tile by tile; returns ``x_base`` (N, 3, H, W), blended."""
    height, width = (n * BLOCK for n in latent.shape[-2:])
    return _blend_base(base, latent, quality, plan_tiles(height, width, tile), keep_features=False)[0]


def _blend_base(
    base: BaseDecoder, latent: Tensor, quality: Tensor, tiles: Sequence[Tile], keep_features: bool
) -> tuple[Tensor, Sequence[Tensor]]:
    """Returns ``x_base`` and, if they are kept, the decoder's features."""
    height, width = (n * BLOCK for n in latent.shape[-2:])
    x_base = latent.new_zeros(latent.shape[0], 3, height, width)
    features: list[Tensor] = []
    for window in tiles:
        part = window.crop(latent, BLOCK)
        of_tile = base.features(part, quality)
        if keep_features:
            if not features:
                sizes = [(height // factor, width // factor) for factor in FEATURE_FACTORS]
                features = [f.new_zeros(*f.shape[:2], *size) for f, size in zip(of_tile, sizes, strict=True)]
            for field, f, factor in zip(features, of_tile, FEATURE_FACTORS, strict=True):
                window.crop(field, factor).add_(f * window.weight(factor).to(f))
        window.crop(x_base, 1).add_(base.picture(part, of_tile) * window.weight(1).to(x_base.device))
    return x_base, features
