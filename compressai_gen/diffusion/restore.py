"""Restores what a base decoder's picture lacks: the decoder-side diffusion of both codecs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from diffusers import SchedulerMixin
from torch import Tensor, nn

from compressai_gen.configuration import build
from compressai_gen.diffusion.noise import noise_field
from compressai_gen.diffusion.sampler import Denoise, sample
from compressai_gen.diffusion.spaces import Space
from compressai_gen.diffusion.tiling import Tile, plan_tiles, tiled
from compressai_gen.layers.transforms import BLOCK

__all__ = ["BaseDecoder", "Conditions", "Restorer", "synthesize_tiled"]


class Conditions(NamedTuple):
    """All that a restorer knows of pictures; the last two fields follow from the latent by the base decoder.

    Attributes:
        index: of the quality, real numbers from 0 (N,).
        latent: (N, M, H/16, W/16).
        syntax: (N, S, H/64, W/64), or None without it.
        sent: (N, 1, H/16, W/16) booleans, blocks that are held to the base picture; see
            :meth:`compressai_gen.diffusion.spaces.Space.hold`. None for none.
        x_base: the base decoder's picture as a sample (N, C, H/f, W/f).
        features: of the base decoder, at several resolutions.
    """

    index: Tensor
    latent: Tensor
    syntax: Tensor | None = None
    sent: Tensor | None = None
    x_base: Tensor | None = None
    features: Sequence[Tensor] = ()

    def crop(self, tile: Tile) -> Conditions:
        """Returns the tile's conditions."""
        width = BLOCK * self.latent.shape[-1]

        def crop(field: Tensor | None) -> Tensor | None:
            return None if field is None else tile.crop(field, width // field.shape[-1])

        fields = (crop(field) for field in (self.latent, self.syntax, self.sent, self.x_base))
        return Conditions(self.index, *fields, [crop(f) for f in self.features])  # type: ignore[call-arg]


class BaseDecoder(NamedTuple):
    """A codec's base decoder, as functions of latents (N, M, H/16, W/16).

    Attributes:
        features: of latents and index indexes (N,): the network's features at several resolutions, the finest first.
        picture: of latents and their features: ``x_base`` (N, 3, H, W).
        normalize: brings latents to about unit variance per channel.
    """

    features: Callable[[Tensor, Tensor], Sequence[Tensor]]
    picture: Callable[[Tensor, Sequence[Tensor]], Tensor]
    normalize: Callable[[Tensor], Tensor]


class Restorer(nn.Module):
    """The generative half of a codec, composed of parts that know nothing of each other.

    Args:
        space: where the denoiser works.
        denoiser: called as :class:`compressai_gen.diffusion.block_denoiser.BlockDenoiser`, which says what with.
        guidance: called as :class:`compressai_gen.diffusion.block_denoiser.BlockConsistency`; what it returns is handed
            to the denoiser. None: the denoiser goes by the base picture alone.
        scheduler: of ``diffusers``, whose denoiser estimates the clean sample and whose first timestep is pure noise.
    """

    def __init__(self, space: Space, denoiser: nn.Module, guidance: nn.Module | None, scheduler: SchedulerMixin):
        super().__init__()
        self.space, self.denoiser, self.guidance, self.scheduler = space, denoiser, guidance, scheduler

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None, **context: Any) -> Restorer | None:
        """Makes the restorer of a resolved configuration of its four arguments; None of None.

        Args:
            config: a part each; see :func:`compressai_gen.configuration.resolve`.
            **context: ``latent_channels``, ``feature_widths``, ``n_qualities`` and ``syntax_channels`` of the codec;
                added to them are ``space``, ``sample_channels``, ``scheduler`` and, for the guidance, ``denoiser``.
                A part that loads a model says in its attribute ``stated`` what lets it be made without.
        """
        if config is None:
            return None
        space, scheduler = build(config["space"], **context), build(config["scheduler"])
        context |= {"space": space, "sample_channels": space.channels, "scheduler": scheduler}
        denoiser = build(config["denoiser"], **context)
        guidance = build(config["guidance"], denoiser=denoiser, **context)
        for key, part in (("space", space), ("denoiser", denoiser)):
            config[key].update(getattr(part, "stated", {}))
        return cls(space, denoiser, guidance, scheduler)

    def trained(self) -> list[nn.Module]:
        """The parts that training changes: not the space, and of the denoiser what it says itself."""
        denoiser = self.denoiser.trained() if hasattr(self.denoiser, "trained") else [self.denoiser]
        return denoiser if self.guidance is None else [*denoiser, self.guidance]

    def large(self) -> list[nn.Module]:
        """The parts that are worth keeping elsewhere until they are called, in the order of decoding."""
        before, after = self.space.large()
        denoiser = self.denoiser.large() if hasattr(self.denoiser, "large") else []
        return [*before, *denoiser, *after]

    def restore(
        self,
        base: BaseDecoder,
        conditions: Conditions,
        seeds: Sequence[int],
        steps: int,
        tile: int,
        guided: bool = True,
    ) -> Tensor:
        """Samples restored pictures.

        Args:
            base: the base decoder.
            conditions: of whole pictures, not completed.
            seeds: of each picture's noise.
            steps: of the sampler.
            tile: largest side of a tile in pixels.
            guided: whether the guidance is used.

        Returns:
            Images (N, 3, H, W), not clamped.
        """
        height, width = (n * BLOCK for n in conditions.latent.shape[-2:])
        tiles = plan_tiles(height, width, tile)

        def of_tile(window: Tile) -> Tensor:
            part = self.complete(base, conditions.crop(window))
            denoise = partial(self.estimate, self.guide(base, part) if guided else None)
            return self.space.decode(self._sample(denoise, seeds, part, steps, window))

        if len(tiles) == 1:
            return of_tile(tiles[0])
        if steps == 1:
            # After its only step, blending the tiles' pictures is as good as blending estimates and then adding them
            # to a blended base picture, and nothing else of the size of the picture has to be kept.
            return _blend(of_tile, tiles, height, width, 1)

        def one_tile(x: Tensor, t: Tensor, part: Conditions) -> Tensor:
            return self.estimate(self.guide(base, part) if guided else None, x, t, part)

        x_base, features = _blend_base(base, conditions, tiles, keep_features=True)
        factor = self.space.factor
        of_base = self._by_tiles(lambda window: self.space.encode(window.crop(x_base, 1)), tiles, x_base, factor)
        completed = conditions._replace(x_base=of_base, features=features)
        field = self._sample(tiled(one_tile, tiles, factor), seeds, completed, steps, Tile.whole(height, width))
        return self._by_tiles(lambda window: self.space.decode(window.crop(field, factor)), tiles, x_base, 1)

    def _by_tiles(self, function: Callable[[Tile], Tensor], tiles: Sequence[Tile], like: Tensor, factor: int) -> Tensor:
        """A function of windows, of the whole where the space is local, else blended from tiles."""
        height, width = like.shape[-2:]
        if self.space.local:
            return function(Tile.whole(height, width))
        return _blend(function, tiles, height, width, factor)

    def complete(self, base: BaseDecoder, conditions: Conditions) -> Conditions:
        """Runs the base decoder; returns the conditions with all their fields."""
        features = base.features(conditions.latent, conditions.index)
        x_base = base.picture(conditions.latent, features)
        return conditions._replace(x_base=self.space.encode(x_base), features=features)

    def _sample(
        self, denoise: Denoise[Conditions], seeds: Sequence[int], conditions: Conditions, steps: int, window: Tile
    ) -> Tensor:
        x_base = conditions.x_base
        top, left = window.top // self.space.factor, window.left // self.space.factor
        channels, height, width = x_base.shape[1:]
        fields = [noise_field(seed, channels, height, width, top, left) for seed in seeds]
        noise = torch.stack(fields).to(x_base.device)
        return self.space.restored(sample(denoise, noise, conditions, self.scheduler, steps), x_base)

    def guide(self, base: BaseDecoder, conditions: Conditions, strengths: Sequence[Tensor | float] = (1.0, 1.0)) -> Any:
        """What the guidance makes of completed conditions; ``strengths`` are of it and of the syntax in it."""
        if self.guidance is None:
            return None
        latent = base.normalize(conditions.latent)
        return self.guidance(conditions.features, latent, conditions.syntax, conditions.index, *strengths)

    def estimate(self, guidance: Any, x: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """Estimates what the space has the denoiser estimate, from a noisy one.

        Args:
            guidance: of :meth:`guide`, or None.
            x: (N, C, H/f, W/f).
            t: timestep, a scalar or (N,).
            conditions: completed.
        """
        base = self.space.normalize(conditions.x_base)
        estimated = self.denoiser(x, t, base, conditions.index, guidance)
        return estimated if conditions.sent is None else self.space.hold(estimated, conditions.sent, conditions.x_base)


def synthesize_tiled(base: BaseDecoder, conditions: Conditions, tile: int) -> Tensor:
    """Runs a base decoder tile by tile; returns ``x_base`` (N, 3, H, W), blended."""
    height, width = (n * BLOCK for n in conditions.latent.shape[-2:])
    return _blend_base(base, conditions, plan_tiles(height, width, tile), keep_features=False)[0]


def _blend(function: Callable[[Tile], Tensor], tiles: Sequence[Tile], height: int, width: int, factor: int) -> Tensor:
    """Blends what a function makes of each tile, at 1/factor of the resolution."""
    whole = None
    for window in tiles:
        part = function(window)
        part = part * window.weight(factor).to(part.device)
        if whole is None:
            whole = part.new_zeros(*part.shape[:2], height // factor, width // factor)
        window.crop(whole, factor).add_(part)
    return whole


def _blend_base(
    base: BaseDecoder, conditions: Conditions, tiles: Sequence[Tile], keep_features: bool
) -> tuple[Tensor, Sequence[Tensor]]:
    """Returns ``x_base`` and, if they are kept, the decoder's features."""
    height, width = (n * BLOCK for n in conditions.latent.shape[-2:])
    x_base = conditions.latent.new_zeros(conditions.latent.shape[0], 3, height, width)
    features: list[Tensor] = []
    for window in tiles:
        part = window.crop(conditions.latent, BLOCK)
        of_tile = base.features(part, conditions.index)
        if keep_features:
            factors = [window.width // f.shape[-1] for f in of_tile]
            if not features:
                features = [
                    f.new_zeros(*f.shape[:2], height // k, width // k) for f, k in zip(of_tile, factors, strict=True)
                ]
            for field, f, factor in zip(features, of_tile, factors, strict=True):
                window.crop(field, factor).add_(f * window.weight(factor).to(f))
        window.crop(x_base, 1).add_(base.picture(part, of_tile) * window.weight(1).to(x_base.device))
    return x_base, features
