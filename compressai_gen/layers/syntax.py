"""The network that computes CGDM's syntax from what the base decoder's picture lacks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressai_gen.layers.blocks import QualityModulation
from compressai_gen.layers.transforms import REGION

__all__ = ["SyntaxAnalysis"]


class SyntaxAnalysis(nn.Module):
    """Computes the syntax, a few numbers per region of 64x64 pixels.

    Args:
        channels: S, numbers per region.
        width: channels inside.
        sample_channels: channels of the space that the restorer works in.
        factor: pixels per side that one position of it stands for.
        n_qualities: how many qualities it serves.
    """

    def __init__(self, channels: int, width: int, sample_channels: int, factor: int, n_qualities: int):
        super().__init__()
        self.channels = channels
        self.stem = nn.Conv2d(2 * sample_channels, width, 3, padding=1)
        halvings = (REGION // factor).bit_length() - 1
        self.halve = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(halvings))
        self.modulation = QualityModulation(n_qualities, width)
        self.head = nn.Conv2d(width, channels, 1)
        with torch.no_grad():
            self.head.weight.mul_(4)  # untrained numbers must not all round to zero

    def analyze(self, residual: Tensor, base: Tensor, index: Tensor) -> Tensor:
        """Returns the syntax (N, S, H/64, W/64), not quantized.

        Args:
            residual: what the denoiser is to estimate (N, C, H/f, W/f).
            base: the base picture as a sample.
            index: of the quality, real numbers from 0 (N,).
        """
        h = self.stem(torch.cat((residual, base), dim=1).contiguous(memory_format=torch.channels_last))
        for conv in self.halve:
            h = conv(F.leaky_relu(h, 0.1))
        return self.head(F.leaky_relu(self.modulation(h, index), 0.1)).float()
