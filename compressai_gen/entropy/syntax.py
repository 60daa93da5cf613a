"""The syntax stream of CGDM: a few numbers per region that say what the base decoder's picture lacks."""

from __future__ import annotations

import torch
from compressai.ans import BufferedRansEncoder, RansDecoder
from torch import Tensor

from compressai_gen.configuration import register_part
from compressai_gen.entropy.exact import ExactEntropyBottleneck
from compressai_gen.layers.syntax import SyntaxAnalysis

__all__ = ["SyntaxCodec"]


@register_part
class SyntaxCodec(SyntaxAnalysis):
    """Computes, quantizes and codes the syntax, with a factorized prior.

    Args:
        channels, width, sample_channels, factor, n_qualities: as of :class:`SyntaxAnalysis`.
    """

    def __init__(self, channels: int = 4, width: int = 64, *, sample_channels: int, factor: int, n_qualities: int):
        super().__init__(channels, width, sample_channels, factor, n_qualities)
        self.entropy_bottleneck = ExactEntropyBottleneck(channels, init_scale=4)

    def forward(self, syntax: Tensor) -> tuple[Tensor, Tensor]:
        """Quantizes; returns the syntax that the decoder gets, with the identity's gradient, and likelihoods."""
        with torch.autocast(syntax.device.type, enabled=False):
            likelihoods = self.entropy_bottleneck(syntax, training=self.training)[1]
        return syntax + (self.entropy_bottleneck.nearest(syntax) - syntax).detach(), likelihoods

    def compress(self, syntax: Tensor, encoder: BufferedRansEncoder) -> Tensor:
        """Codes one image's syntax (1, S, h, w); returns what the decoder gets."""
        return self.entropy_bottleneck.encode(syntax, encoder)

    def decompress(self, shape: tuple[int, int], decoder: RansDecoder) -> Tensor:
        """Decodes one image's syntax (1, S, h, w), h and w being ``shape``."""
        return self.entropy_bottleneck.decode(shape, decoder)
