"""Restores what a base decoder's picture lacks: the decoder-side diffusion of both codecs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from compressai_gen.diffusion.denoiser import FACTOR, to_image, to_sample
from compressai_gen.diffusion.guidance import REGION, Guidance
from compressai_gen.diffusion.noise import noise_field
from compressai_gen.diffusion.sampler import Denoise, create_scheduler, sample
from compressai_gen.diffusion.tiling import Tile, tiled
from compressai_gen.layers.transforms import BLOCK

__all__ = [
    "RESIDUAL_SCALE",
    "Conditions",
    "Guide",
    "estimate",
    "noisy_samples",
    "restore",
    "synthesize_tiled",
    "to_residual",
]

RESIDUAL_SCALE = 16.0
"""Brings what base decoders lack, 0.03 to 0.1 of the range, to about unit variance."""


class Conditions(NamedTuple):
    """All that the denoiser knows beside the noisy sample.

    Attributes:
        quality: (N,), from 0.
        x_base: the base decoder's picture as a sample (N, 48, H/4, W/4), in [0, 1].
        latent: (N, M, H/16, W/16).
        syntax: (N, S, H/64, W/64), or None without it.
    """

    quality: Tensor
    x_base: Tensor
    latent: Tensor
    syntax: Tensor | None = None

    def crop(self, tile: Tile) -> Conditions:
        """Returns the tile's conditions."""
        syntax = None if self.syntax is None else tile.crop(self.syntax, REGION)
        return Conditions(self.quality, tile.crop(self.x_base, FACTOR), tile.crop(self.latent, BLOCK), syntax)


Guide = Callable[[Conditions], "Guidance | None"]
"""Makes the denoiser's guidance, the same for all steps, from its conditions; None switches guidance off."""


def to_residual(x: Tensor, x_base: Tensor) -> Tensor:
    """What the base picture lacks, both (N, 3, H, W), as a sample at about unit variance."""
    return to_sample(x - x_base) * RESIDUAL_SCALE


def estimate(
    unet: UNet2DConditionModel, guidance: Guidance | None, x: Tensor, t: Tensor, conditions: Conditions
) -> Tensor:
    """Estimates the clean residual from a noisy one ``x`` (N, 48, H/4, W/4) at timesteps ``t``, a scalar or (N,)."""
    inputs = torch.cat((x, 2 * conditions.x_base - 1), dim=1)
    return unet(
        inputs.contiguous(memory_format=torch.channels_last),
        t,
        encoder_hidden_states=None,
        class_labels=conditions.quality,
        down_block_additional_residuals=None if guidance is None else guidance.down,
        mid_block_additional_residual=None if guidance is None else guidance.mid,
    ).sample.float()


@torch.no_grad()
def noisy_samples(denoise: Denoise[Conditions], residual: Tensor, timesteps: Tensor, conditions: Conditions) -> Tensor:
    """Makes noisy samples (N, 48, H/4, W/4) at timesteps (N,) to train a denoiser on.

    By turns they hold the true residual and the denoiser's own estimate from pure noise, as in a sampler's second step.
    """
    scheduler = create_scheduler()
    noise = torch.randn_like(residual)
    first = scheduler.config.num_train_timesteps - 1
    own = (torch.rand(len(residual), device=residual.device) < 0.5) & (timesteps < first)
    held = residual
    if own.any():
        held = torch.where(
            own[:, None, None, None], denoise(noise, torch.full_like(timesteps, first), conditions), held
        )
    return scheduler.add_noise(held, noise, timesteps)


def restore(
    unet: UNet2DConditionModel,
    guide: Guide,
    conditions: Conditions,
    seeds: Sequence[int],
    steps: int,
    tiles: Sequence[Tile],
) -> Tensor:
    """Samples what the base picture lacks and adds it.

    Args:
        unet: see :func:`compressai_gen.diffusion.denoiser.create_denoiser`.
        guide: see :data:`Guide`.
        conditions: of the whole image.
        seeds: of each image's noise.
        steps: of the sampler.
        tiles: cover the image; see :func:`compressai_gen.diffusion.tiling.plan_tiles`.

    Returns:
        Images (N, 3, H, W), not clamped.
    """
    x_base = conditions.x_base
    noise = torch.stack([noise_field(seed, *x_base.shape[1:]) for seed in seeds]).to(x_base.device)
    if len(tiles) == 1:
        denoise = partial(estimate, unet, guide(conditions))
    else:
        # Features of the whole image would fill the memory: they are made again in every step.
        denoise = tiled(lambda x, t, part: estimate(unet, guide(part), x, t, part), tiles)
    return to_image(x_base + sample(denoise, noise, conditions, steps) / RESIDUAL_SCALE)


def synthesize_tiled(g_s: Callable[[Tensor, Tensor], Tensor], y_hat: Tensor, quality: Tensor, tiles: Sequence[Tile]):
    """Runs a base decoder tile by tile; returns the blended picture (N, 3, H, W)."""
    if len(tiles) == 1:
        return g_s(y_hat, quality)
    height, width = (n * BLOCK for n in y_hat.shape[-2:])
    x_base = y_hat.new_zeros(y_hat.shape[0], 3, height, width)
    for tile in tiles:
        part = g_s(tile.crop(y_hat, BLOCK), quality)
        tile.crop(x_base, 1).add_(part * tile.weight(1).to(part.device))
    return x_base
