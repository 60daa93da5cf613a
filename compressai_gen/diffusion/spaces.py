"""Spaces that a denoiser works in: how pictures become samples and samples pictures, and what is estimated there."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

from compressai_gen.configuration import register_part
from compressai_gen.layers.transforms import BLOCK

__all__ = ["PixelUnshuffle", "Space"]


class Space(nn.Module, ABC):
    """What a restorer asks of a space; samples are (N, C, H/f, W/f) of pictures (N, 3, H, W).

    Attributes:
        factor: f, pixels per side that one position of a sample stands for, a divisor of 16.
        channels: C.
        residual_scale: where the denoiser estimates what the base picture lacks, times this; None where it estimates
            the sample itself.
        local: whether a part of a sample decodes to just that part of the picture. Otherwise large pictures are decoded
            in tiles that are blended.
    """

    factor: int
    channels: int
    residual_scale: float | None = None
    local: bool = False

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Maps pictures (N, 3, H, W), in [0, 1] but not clamped, to samples."""

    @abstractmethod
    def decode(self, sample: Tensor) -> Tensor:
        """Maps samples to pictures (N, 3, H, W), not clamped."""

    def large(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """Its networks that are worth keeping elsewhere until they are called, of encoding and of decoding."""
        return [], []

    def normalize(self, sample: Tensor) -> Tensor:
        """Brings samples of pictures to about -1 to 1, as networks take them."""
        return sample

    def target(self, sample: Tensor, base: Tensor) -> Tensor:
        """What the denoiser estimates, at about unit variance, of a picture's sample and its base picture's."""
        return sample if self.residual_scale is None else (sample - base) * self.residual_scale

    def restored(self, estimate: Tensor, base: Tensor) -> Tensor:
        """Inverse of :meth:`target`: the sample of the restored picture."""
        return estimate if self.residual_scale is None else base + estimate / self.residual_scale

    def hold(self, estimate: Tensor, sent: Tensor, base: Tensor) -> Tensor:
        """Enforces what was sent.

        Args:
            estimate: of the denoiser.
            sent: (N, 1, H/16, W/16) booleans, blocks that are held to the base picture as far as the space can.
            base: the base picture's sample.
        """
        return estimate


@register_part
class PixelUnshuffle(Space):
    """Pixels: each position of a sample holds a block of them. What is estimated is what the base picture lacks.

    Args:
        factor: pixels per side of the block.
        residual_scale: brings what base decoders lack, 0.03 to 0.1 of the range, to about unit variance; or None, to
            estimate the picture itself.
    """

    local = True

    def __init__(self, factor: int = 4, residual_scale: float | None = 16.0):
        super().__init__()
        self.factor, self.channels, self.residual_scale = factor, 3 * factor**2, residual_scale

    def encode(self, x: Tensor) -> Tensor:
        """See :class:`Space`."""
        return F.pixel_unshuffle(x, self.factor)

    def decode(self, sample: Tensor) -> Tensor:
        """See :class:`Space`."""
        return F.pixel_shuffle(sample, self.factor)

    def normalize(self, sample: Tensor) -> Tensor:
        """See :class:`Space`."""
        return 2 * sample - 1

    def hold(self, estimate: Tensor, sent: Tensor, base: Tensor) -> Tensor:
        """Takes the mean colours of sent blocks out of a residual: they are enforced, not suggested."""
        if self.residual_scale is None:
            return estimate
        colours = estimate.unflatten(1, (3, -1))
        means = F.avg_pool2d(colours.mean(2), BLOCK // self.factor) * sent
        means = F.interpolate(means, scale_factor=BLOCK // self.factor, mode="nearest")
        return (colours - means[:, :, None]).flatten(1, 2)
