"""Restores what a base decoder's picture lacks: the decoder-side diffusion of both codecs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from compressai_gen.diffusion.denoiser import FACTOR, SAMPLE_CHANNELS, create_denoiser, to_image, to_sample
from compressai_gen.diffusion.guidance import REGION, ConsistencyBranch, Guidance
from compressai_gen.diffusion.noise import noise_field
from compressai_gen.diffusion.sampler import create_scheduler, sample
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
    """

    quality: Tensor
    x_base: Tensor
    latent: Tensor
    features: Sequence[Tensor]
    syntax: Tensor | None = None

    def crop(self, tile: Tile) -> Conditions:
        """Returns the tile's conditions."""
        features = [tile.crop(field, factor) for field, factor in zip(self.features, FEATURE_FACTORS, strict=True)]
        syntax = None if self.syntax is None else tile.crop(self.syntax, REGION)
        return Conditions(self.quality, tile.crop(self.x_base, FACTOR), tile.crop(self.latent, BLOCK), features, syntax)


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

        Returns:
            Images (N, 3, H, W), not clamped.
        """
        tiles = plan_tiles(latent.shape[-2] * BLOCK, latent.shape[-1] * BLOCK, tile)
        if len(tiles) == 1:
            features = base.features(latent, quality)
            conditions = Conditions(quality, to_sample(base.picture(latent, features)), latent, features, syntax)
            denoise = partial(self.estimate, self._guide(base, conditions) if consistency else None)
        else:
            x_base, features = synthesize_tiled(base, latent, quality, tile)
            conditions = Conditions(quality, to_sample(x_base), latent, features, syntax)

            def one_tile(x: Tensor, t: Tensor, part: Conditions) -> Tensor:
                return self.estimate(self._guide(base, part) if consistency else None, x, t, part)

            denoise = tiled(one_tile, tiles)
        x_base = conditions.x_base
        noise = torch.stack([noise_field(seed, *x_base.shape[1:]) for seed in seeds]).to(x_base.device)
        return to_image(x_base + sample(denoise, noise, conditions, steps) / RESIDUAL_SCALE)

    def _guide(
        self, base: BaseDecoder, conditions: Conditions, strengths: Sequence[Tensor | float] = (1.0, 1.0)
    ) -> Guidance:
        quality, _, latent, features, syntax = conditions
        return self.consistency(features, base.normalize(latent), syntax, quality, *strengths)

    def estimate(self, guidance: Guidance | None, x: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """Estimates the clean residual from a noisy one ``x`` (N, 48, H/4, W/4) at ``t``, a scalar or (N,)."""
        inputs = torch.cat((x, 2 * conditions.x_base - 1), dim=1)
        return self.denoiser(
            inputs.contiguous(memory_format=torch.channels_last),
            t,
            encoder_hidden_states=None,
            class_labels=conditions.quality,
            down_block_additional_residuals=None if guidance is None else guidance.down,
            mid_block_additional_residual=None if guidance is None else guidance.mid,
        ).sample.float()

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


def synthesize_tiled(base: BaseDecoder, latent: Tensor, quality: Tensor, tile: int) -> tuple[Tensor, Sequence[Tensor]]:
    """Runs a base decoder tile by tile; returns ``x_base`` (N, 3, H, W) and the decoder's features, blended."""
    height, width = (n * BLOCK for n in latent.shape[-2:])
    x_base = latent.new_zeros(latent.shape[0], 3, height, width)
    features: list[Tensor] = []
    for window in plan_tiles(height, width, tile):
        part = window.crop(latent, BLOCK)
        of_tile = base.features(part, quality)
        if not features:
            sizes = [(height // factor, width // factor) for factor in FEATURE_FACTORS]
            features = [f.new_zeros(*f.shape[:2], *size) for f, size in zip(of_tile, sizes, strict=True)]
        for field, f, factor in zip(features, of_tile, FEATURE_FACTORS, strict=True):
            window.crop(field, factor).add_(f * window.weight(factor).to(f))
        window.crop(x_base, 1).add_(base.picture(part, of_tile) * window.weight(1).to(x_base.device))
    return x_base, features
