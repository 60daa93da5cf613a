"""Steps where a codec's blocks meet: how much steeper pictures are there than elsewhere, beside their originals.

A codec whose blocks do not overlap leaves steps between them. Their signs are random, so that no spectral line shows
them, as :mod:`compressai_gen.metrics.grid` would; feature networks take them for detail, and eyes see squares.
``eval/protocol.md`` gives the definition and its noise floor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compressai_gen.metrics.excess import ExcessMetric, luma

__all__ = ["BLOCK", "BlockingMetric", "blocking_excess", "steepness"]

BLOCK = 16
"""Side in pixels of the blocks that are looked at, which begin at the upper left corner; 4 and 8 divide it."""

_ROUNDING = 2 / 12
# Variance of the difference of two values that were rounded to 8 bits: without it a flat picture would have no ratio.


def steepness(images: Tensor, block: int = BLOCK) -> Tensor:
    """Return the mean squared differences of neighbours by their place in a block, differentiable.

    Args:
        images: shape (N, C, H, W), sides longer than a block.
        block: side of a block in pixels.

    Returns:
        Shape (N, 2, block): of neighbours in a column, then of those in a row. Place k is between the pixels k and
        k + 1 of a block; the last is where blocks meet.
    """
    profiles = []
    for axis in (2, 3):
        means = images.movedim(axis, -1).diff(dim=-1).square().mean(dim=(1, 2))
        n = means.shape[1]
        counts = torch.tensor([(n - place + block - 1) // block for place in range(block)], device=images.device)
        profiles.append(F.pad(means, (0, -n % block)).unflatten(1, (-1, block)).sum(dim=1) / counts)
    return torch.stack(profiles, dim=1)


def blocking_excess(decoded: Tensor, original: Tensor) -> Tensor:
    """Return by how much places of a block stand out more in decoded pictures than in the originals, in dB.

    Args:
        decoded: shape (…, 2, block), :func:`steepness` of 8-bit values; for a set the mean over its images.
        original: of the originals.

    Returns:
        Shape (…, 2, block); the metric is the maximum.
    """
    decoded, original = (profile + _ROUNDING for profile in (decoded, original))
    shares = (profile / profile.mean(dim=-1, keepdim=True) for profile in (decoded, original))
    return 10 * torch.div(*shares).log10()


def luma_steepness(images: Tensor) -> Tensor:
    """Return :func:`steepness` (N, 2, 16) of the luma of 8-bit RGB pictures (N, 3, H, W)."""
    return steepness(luma(images)[:, None])


class BlockingMetric(ExcessMetric):
    """How much steeper pictures are where blocks meet; terms are of shape (2, 2, 16)."""

    seen = staticmethod(luma_steepness)
    excess = staticmethod(blocking_excess)
