"""Periodic lines that a decoder paints: their excess over the original's, from power spectra.

Networks that upsample leave patterns whose periods are their strides. Feature networks that see a picture through
strides of their own are nearly blind to some of them, so that a codec which is trained on such a network learns to
paint them. A pattern of period p is a line in the spectrum at the frequency 1 / p, which a spectrum averaged over many
windows shows long before the eye does. ``eval/protocol.md`` gives the definition, its reasons and its noise floor.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from compressai_gen.metrics.excess import ExcessMetric, luma

__all__ = ["LINES", "WINDOW", "GridMetric", "grid_excess", "line_powers"]

WINDOW = 64
"""Pixels of a side of the windows whose spectra are averaged; smaller pictures have no figure."""

_NEIGHBOURS = (-3, -2, 2, 3)
# Bins from a line, along its own direction. Beyond one bin, a Hann window leaks nothing of the line; and the spectrum's
# ridge along the axes, which every photograph with upright things has, is in the neighbours as it is in the line.
_ROUNDING = 1 / 12
# Variance of rounding to 8 bits, which is added to all powers: without it a flat picture would have no ratio.


class Line(NamedTuple):
    """A pattern's ``period`` in pixels, and its direction: ``rows`` and ``columns`` by which it goes on, -1 to 1."""

    period: int
    rows: int
    columns: int


LINES: tuple[Line, ...] = tuple(
    Line(period, *direction)
    for period in (2, 4, 8, 16)
    for direction in ((1, 0), (0, 1), (1, 1), (1, -1))
    if (period, direction) != (2, (1, -1))  # the same bin as (1, 1)
)
"""What is looked at: 15 lines."""


class _Bins(NamedTuple):
    """The Hann window (W, W), and indices of lines (15,) and neighbours (15, 4) into a flat half spectrum."""

    window: Tensor
    lines: Tensor
    neighbours: Tensor


@cache
def _bins(device: torch.device) -> _Bins:
    window = torch.hann_window(WINDOW, device=device)

    def index(line: Line, offset: int) -> int:
        frequency = WINDOW // line.period + offset
        row, column = (frequency * step % WINDOW for step in (line.rows, line.columns))
        if column > WINDOW // 2:  # the spectrum of real values is symmetric, and half of it is there
            row, column = -row % WINDOW, WINDOW - column
        return row * (WINDOW // 2 + 1) + column

    lines = [index(line, 0) for line in LINES]
    neighbours = [[index(line, offset) for offset in _NEIGHBOURS] for line in LINES]
    return _Bins(window[:, None] * window, *(torch.tensor(bins, device=device) for bins in (lines, neighbours)))


def line_powers(images: Tensor) -> Tensor:
    """Return the power of each line and of the spectrum around it, differentiable.

    The luma's spectra of windows of 64x64 pixels, half overlapping, Hann-weighted and without their mean, are averaged.

    Args:
        images: shape (N, 3, H, W), 8-bit RGB as uint8 or as floats from 0 to 255; sides of at least 64.

    Returns:
        Shape (N, 15, 2): of each of ``LINES`` its power and the mean of its neighbours'. Powers are in squared grey
        levels; those of several images may be averaged for the figure of a set.
    """
    window, lines, neighbours = _bins(images.device)
    views = luma(images).unfold(1, WINDOW, WINDOW // 2).unfold(2, WINDOW, WINDOW // 2)
    mean = torch.einsum("nrchw,hw->nrc", views, window) / window.sum()
    spectra = torch.fft.rfft2((views - mean[..., None, None]) * window)
    power = (spectra.real.square() + spectra.imag.square()).mean(dim=(1, 2)).flatten(1)
    power = power / window.square().sum() + _ROUNDING
    return torch.stack([power[:, lines], power[:, neighbours].mean(dim=2)], dim=2)


def grid_excess(decoded: Tensor, original: Tensor) -> Tensor:
    """Return by how much lines stand out more in decoded pictures than in the originals, in dB; differentiable.

    Args:
        decoded: shape (…, 15, 2), of :func:`line_powers`; for a set the mean over its images.
        original: of the originals.

    Returns:
        Shape (…, 15), a figure for each of ``LINES``; the metric is their maximum.
    """
    return 10 * (decoded[..., 0] * original[..., 1] / (decoded[..., 1] * original[..., 0])).log10()


class GridMetric(ExcessMetric):
    """The line that stands out most against the original; terms are of shape (2, 15, 2)."""

    seen = staticmethod(line_powers)
    excess = staticmethod(grid_excess)
