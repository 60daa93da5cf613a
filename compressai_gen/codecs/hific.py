"""The autoencoder of HiFiC, which MS-ILLM shares: a mean-scale hyperprior with a deep decoder, trained against a GAN.

F. Mentzer, G. Toderici, M. Tschannen, E. Agustsson, *High-Fidelity Generative Image Compression*, NeurIPS 2020; with
the layer sizes of M. Muckley et al., *Improving Statistical Fidelity for Neural Image Compression with Implicit Local
Likelihood Models*, ICML 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.models import CompressionModel
from compressai.models.utils import conv, deconv
from compressai.ops import quantize_ste
from compressai.registry import register_model
from compressai.zoo.image import model_architectures
from torch import Tensor, nn

from compressai_gen.entropy.rans import guarded
from compressai_gen.errors import BitstreamError

__all__ = ["ChannelNorm", "HiFiC"]

# Where the parts of NeuralCompression's HiFiCAutoencoder stand in ours.
_NEURALCOMPRESSION_NAMES = {
    "encoder.blocks.": "g_a.",
    "decoder.block_0.": "g_s.0.",
    "decoder.resid_blocks.": "g_s.1.",
    "decoder.blocks.": "g_s.2.",
    "hyper_analysis.": "h_a.",
    "hyper_synthesis_mean.": "h_mean.",
    "hyper_synthesis_scale.": "h_scale.",
    "hyper_bottleneck.": "entropy_bottleneck.",
    "latent_bottleneck.": "gaussian_conditional.",
}


class ChannelNorm(nn.Module):
    """Normalizes every position over its channels, which does not depend on the size of the image."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, h: Tensor) -> Tensor:
        """Maps (N, C, H, W) to the same shape."""
        variance, mean = torch.var_mean(h, dim=1, keepdim=True)
        return torch.addcmul(self.beta, (h - mean) * torch.rsqrt(variance + 1e-3), self.gamma)


class _Residual(nn.Sequential):
    def forward(self, h: Tensor) -> Tensor:
        return h + super().forward(h)


@register_model("hific")
class HiFiC(CompressionModel):
    r"""HiFiC's autoencoder.

    .. code-block:: none

                  ┌───┐    y     ┌───┐  z  ┌───┐ z_hat      z_hat ┌───────────────┐
            x ──►─┤g_a├──►─┬──►──┤h_a├──►──┤ Q ├───►───·⋯⋯·───►───┤h_mean, h_scale├─┐
                  └───┘    │     └───┘     └───┘        EB        └───────────────┘ │
                           ▼                                                        │
                         ┌─┴─┐                                                      │
                         │ Q │ ◄─────────────────────────────── means ──────────────┤
                         └─┬─┘                                                      │
                        GC : ◄───────────────────────────── means, scales ──────────┘
                  ┌───┐    │
        x_hat ──◄─┤g_s├──◄─┘ y_hat
                  └───┘

        EB = Entropy bottleneck, GC = Gaussian conditional

    Args:
        N: channels of the hyperprior.
        M: channels of the latent, one position for 16x16 pixels.
        widths: channels of the encoder from full resolution down to a 16th; the decoder's are these, reversed.
        blocks: residual blocks of the decoder.
    """

    multiple = 64
    """Images are padded to multiples of this many pixels."""

    def __init__(
        self, N: int = 320, M: int = 220, widths: Sequence[int] = (60, 120, 240, 480, 960), blocks: int = 9
    ) -> None:
        super().__init__()
        first, *_, deepest = widths
        self.g_a = nn.Sequential(
            _block(conv(3, first, kernel_size=7, stride=1)),
            *(_block(conv(a, b, kernel_size=3)) for a, b in pairwise(widths)),
            conv(deepest, M, kernel_size=3, stride=1),
        )
        self.g_s = nn.Sequential(
            nn.Sequential(ChannelNorm(M), conv(M, deepest, kernel_size=3, stride=1), ChannelNorm(deepest)),
            _Residual(*(_residual_block(deepest) for _ in range(blocks))),
            nn.Sequential(
                *(_block(deconv(a, b, kernel_size=3)) for a, b in pairwise(reversed(widths))),
                conv(first, 3, kernel_size=7, stride=1),
            ),
        )
        self.h_a = nn.Sequential(
            conv(M, N, kernel_size=3, stride=1), nn.ReLU(inplace=True), conv(N, N), nn.ReLU(inplace=True), conv(N, N)
        )
        self.h_mean, self.h_scale = _hyper_synthesis(N, M), _hyper_synthesis(N, M)
        self.entropy_bottleneck = EntropyBottleneck(N)
        self.gaussian_conditional = GaussianConditional(None)

    @classmethod
    def from_state_dict(cls, state_dict: dict[str, Tensor]) -> HiFiC:
        """Builds the model that a state is of; the names may be ours or those of NeuralCompression, as in MS-ILLM's.

        Raises:
            KeyError, RuntimeError: the state is of another architecture.
        """
        state = {_our_name(name): value for name, value in state_dict.items()}
        n_widths = sum(name.startswith("g_a.") and name.endswith(".0.weight") for name in state)
        model = cls(
            N=state["h_a.0.weight"].shape[0],
            M=state["h_a.0.weight"].shape[1],
            widths=[state[f"g_a.{i}.0.weight"].shape[0] for i in range(n_widths)],
            blocks=sum(name.startswith("g_s.1.") and name.endswith(".0.weight") for name in state),
        )
        model.load_state_dict(state)
        return model

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Estimates the rate of images (N, 3, H, W) in [0, 1], H and W multiples of 64, and reconstructs them.

        Returns:
            ``x_hat`` of the shape of ``x``, not clamped; ``likelihoods`` of ``y`` and ``z``.
        """
        y = self.g_a(x)
        z_hat, z_likelihoods = self.entropy_bottleneck(self.h_a(y))
        means, scales = self.h_mean(z_hat), self.h_scale(z_hat)
        _, y_likelihoods = self.gaussian_conditional(y, scales, means=means)
        # The decoder sees rounded latents in training too.
        x_hat = self.g_s(quantize_ste(y - means) + means)
        return {"x_hat": x_hat, "likelihoods": {"y": y_likelihoods, "z": z_likelihoods}}

    def compress(self, x: Tensor) -> dict[str, Any]:
        """Compresses images (N, 3, H, W) in [0, 1] of any size.

        Returns:
            ``strings``: those of the latent and those of the hyperprior, one per image; ``shape``: (H, W).
        """
        y = self.g_a(self._pad(x))
        z = self.h_a(y)
        z_strings = self.entropy_bottleneck.compress(z)
        means, scales = self._gaussians(z_strings, z.shape[-2:])
        indexes = self.gaussian_conditional.build_indexes(scales)
        return {"strings": [self.gaussian_conditional.compress(y, indexes, means), z_strings], "shape": x.shape[-2:]}

    def decompress(self, strings: Sequence[Sequence[bytes]], shape: Sequence[int]) -> dict[str, Tensor]:
        """Decompresses what :meth:`compress` returned.

        Returns:
            ``x_hat``: (N, 3, H, W) in [0, 1].

        Raises:
            BitstreamError: there are not two lists of strings.
        """
        if len(strings) != 2:
            raise BitstreamError(f"hific has strings of the latent and of the hyperprior, not {len(strings)} lists")
        height, width = shape
        means, scales = self._gaussians(strings[1], [-(-side // self.multiple) for side in shape])
        indexes = self.gaussian_conditional.build_indexes(scales)
        y_strings = [guarded(string, indexes[0].numel()) for string in strings[0]]
        y_hat = self.gaussian_conditional.decompress(y_strings, indexes, means=means)
        return {"x_hat": self.g_s(y_hat)[..., :height, :width].clamp(0, 1)}

    def _gaussians(self, z_strings: Sequence[bytes], shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Means and scales of the latent. The encoder takes them from its own strings, as the decoder will."""
        n_symbols = self.entropy_bottleneck.channels * shape[0] * shape[1]
        z_hat = self.entropy_bottleneck.decompress([guarded(string, n_symbols) for string in z_strings], shape)
        return self.h_mean(z_hat), self.h_scale(z_hat)

    def _pad(self, x: Tensor) -> Tensor:
        """Pads at the bottom and right by reflection, as NeuralCompression does, which needs more than it adds."""
        height, width = x.shape[-2:]
        bottom, right = -height % self.multiple, -width % self.multiple
        mode = "reflect" if bottom < height and right < width else "replicate"
        return F.pad(x, (0, right, 0, bottom), mode=mode)


def _our_name(name: str) -> str:
    for theirs, ours in _NEURALCOMPRESSION_NAMES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs).replace("sequence.", "")
    return name


def _block(convolution: nn.Module) -> nn.Sequential:
    return nn.Sequential(convolution, ChannelNorm(convolution.out_channels), nn.ReLU())


def _residual_block(channels: int) -> _Residual:
    return _Residual(
        *_block(conv(channels, channels, kernel_size=3, stride=1)),
        conv(channels, channels, kernel_size=3, stride=1),
        ChannelNorm(channels),
    )


def _hyper_synthesis(N: int, M: int) -> nn.Sequential:
    return nn.Sequential(
        deconv(N, N), nn.ReLU(inplace=True), deconv(N, N), nn.ReLU(inplace=True), conv(N, M, kernel_size=3, stride=1)
    )


model_architectures["hific"] = HiFiC
