"""What patterns of a decoded picture share: they stand out more than in its original, in dB, and pool over a set."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

__all__ = ["ExcessMetric", "luma"]

_LUMA = (0.299, 0.587, 0.114)


def luma(images: Tensor) -> Tensor:
    """Return the luma (N, H, W) of RGB pictures (N, 3, H, W), in their range."""
    return torch.einsum("c,nchw->nhw", images.new_tensor(_LUMA, dtype=torch.float32), images.float())


class ExcessMetric:
    """The pattern that stands out most against the original, in dB: 0 for the original itself, lower is better.

    Attributes:
        seen: takes pictures (N, 3, H, W) of 8-bit values and returns what is seen of each (N, …), whose means over
            pictures are what is seen of a set.
        excess: takes what is seen of decoded pictures and of originals, and returns by how much each pattern stands
            out more, in dB.
    """

    seen: ClassVar[Callable[[Tensor], Tensor]]
    excess: ClassVar[Callable[[Tensor, Tensor], Tensor]]

    def prepare(self, original: Tensor) -> Tensor:
        """Return what is seen of the original."""
        return type(self).seen(original[None])[0]

    def compare(self, prepared: Tensor, reconstruction: Tensor) -> float:
        """Return the excess of the strongest pattern."""
        return self.pooled(self.terms(prepared, reconstruction))

    def terms(self, prepared: Tensor, reconstruction: Tensor) -> Tensor:
        """Return what is seen of reconstruction and original (2, …), whose means over images give a set's figure."""
        return torch.stack([self.prepare(reconstruction), prepared]).cpu()

    @classmethod
    def pooled(cls, terms: Tensor) -> float:
        """Return the figure of terms, or of their mean over the images of a set."""
        return cls.excess(*terms.double()).max().item()
