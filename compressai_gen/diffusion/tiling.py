"""Globally uniform boundary control (CGDM): one field over the image, tiles blended after every denoising step.

Tiles that are denoised to the end and only then blended leave seams, as each has gone its own way by then. Here every
step of the sampler sees one field: a step's estimate is made tile by tile and blended with a fixed partition of unity
before the next step begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from compressai_gen.diffusion.sampler import Denoise
from compressai_gen.options import ALIGN, OVERLAP

__all__ = ["ALIGN", "OVERLAP", "Tile", "Tileable", "plan_tiles", "tiled"]

_MARGIN = 32
# Pixels at a tile's inner edges that count for nothing: the networks miss their surroundings there.


class Tile(NamedTuple):
    """A window of the image in pixels; ``fades`` says whether a neighbour overlaps at (top, bottom, left, right)."""

    top: int
    left: int
    height: int
    width: int
    fades: tuple[bool, bool, bool, bool]

    @classmethod
    def whole(cls, height: int, width: int) -> Tile:
        """Returns the window that is the image."""
        return cls(0, 0, height, width, (False,) * 4)

    def crop(self, field: Tensor | None, factor: int) -> Tensor | None:
        """Returns the window of a field (N, C, H/factor, W/factor), as a view; None of none."""
        if field is None:
            return None
        top, left, height, width = (n // factor for n in self[:4])
        return field[..., top : top + height, left : left + width]

    def weight(self, factor: int) -> Tensor:
        """Returns the tile's share (height/factor, width/factor) of the partition of unity."""
        top, bottom, left, right = self.fades
        rows, columns = _window(self.height, top, bottom, factor), _window(self.width, left, right, factor)
        return rows[:, None] * columns


def _window(length: int, fades_in: bool, fades_out: bool, factor: int) -> Tensor:
    position = torch.arange(length // factor) * factor + factor / 2
    # Smooth steps that are mirror images of each other within the overlap sum to one.
    t = ((position - _MARGIN) / (OVERLAP - 2 * _MARGIN)).clamp(0, 1)
    step = t * t * (3 - 2 * t)
    one = torch.ones_like(step)
    return (step if fades_in else one) * (step.flip(0) if fades_out else one)


def plan_tiles(height: int, width: int, size: int) -> list[Tile]:
    """Covers an image, whose sides are multiples of ``ALIGN``, with tiles of at most ``size`` pixels a side.

    Args:
        height, width: of the image.
        size: a multiple of ``ALIGN``, at least twice ``OVERLAP``.
    """
    if size % ALIGN or size < 2 * OVERLAP:
        raise ValueError(f"tiles are multiples of {ALIGN} pixels and at least {2 * OVERLAP}, not {size}")
    return [
        Tile(top, left, bottom - top, right - left, (*vertical, *horizontal))
        for top, bottom, vertical in _spans(height, size)
        for left, right, horizontal in _spans(width, size)
    ]


def _spans(length: int, size: int) -> list[tuple[int, int, tuple[bool, bool]]]:
    stride = size - OVERLAP
    count = max(1, -(-(length - OVERLAP) // stride))
    return [(i * stride, min(i * stride + size, length), (i > 0, i + 1 < count)) for i in range(count)]


class Tileable(Protocol):
    """Conditions that can be cut to a tile."""

    def crop(self, tile: Tile) -> Tileable:
        """Return the tile's conditions."""


C = TypeVar("C", bound=Tileable)


def tiled(denoise: Denoise[C], tiles: Sequence[Tile], factor: int) -> Denoise[C]:
    """Returns a denoiser of the whole field that works tile by tile and blends the estimates.

    One position of the field stands for ``factor`` pixels per side.

    DDIM's step is linear in the estimate and the field, position by position, so blending estimates before the step is
    the same as blending the tiles after it.
    """

    def whole(x: Tensor, t: Tensor, conditions: C) -> Tensor:
        estimate = torch.zeros_like(x)
        for tile in tiles:
            part = denoise(tile.crop(x, factor), t, conditions.crop(tile))
            tile.crop(estimate, factor).add_(part * tile.weight(factor).to(part.device))
        return estimate

    return whole if len(tiles) > 1 else denoise
