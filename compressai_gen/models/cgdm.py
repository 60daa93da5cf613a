"""CGDM: Consistency Guided Diffusion Model with Neural Syntax for Perceptual Image Compression (ACM MM 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compressai.registry import register_model
from torch import Tensor

from compressai_gen.entropy.exact import Snap
from compressai_gen.entropy.hyperprior import CheckerboardHyperprior
from compressai_gen.layers.transforms import BLOCK, AnalysisTransform, SynthesisTransform
from compressai_gen.models.base import GenerativeCodec

__all__ = ["CGDM"]


@register_model("cgdm")
class CGDM(GenerativeCodec):
    r"""Consistency guided diffusion codec; this version is its end-to-end codec, whose picture is ``x_base``.

    .. code-block:: none

                ┌───┐    y    ┌────────────────────────┐ y_hat ┌───┐
        x ──►───┤g_a├──►──────┤ latent_codec           ├───►───┤g_s├──►── x_base
                └───┘         │ gain, hyperprior,      │       └───┘
                              │ checkerboard, channel  │
                              │ groups: exact          │
                              └────────────────────────┘

    Args:
        groups: channels of the latent's groups, in coding order.
        hyper_channels: channels of ``z``.
        hyper_width: channels inside the hyperprior's networks.
        widths: channels of ``g_a`` and ``g_s`` at 1/4, 1/8 and 1/16 of the resolution.
        blocks: residual blocks of ``g_a`` there.
        decoder_blocks: residual blocks of ``g_s`` there.
    """

    name = "cgdm"
    multiple = 4 * BLOCK

    def __init__(
        self,
        groups: Sequence[int] = (48, 144),
        hyper_channels: int = 96,
        hyper_width: int = 160,
        widths: Sequence[int] = (96, 160, 224),
        blocks: Sequence[int] = (2, 2, 2),
        decoder_blocks: Sequence[int] = (4, 3, 3),
    ):
        super().__init__()
        channels = sum(groups)
        self.g_a = AnalysisTransform(channels, widths, blocks, self.n_qualities)
        self.g_s = SynthesisTransform(channels, widths, decoder_blocks, self.n_qualities)
        self.latent_codec = CheckerboardHyperprior(groups, hyper_channels, hyper_width, self.n_qualities)

    def forward(self, x: Tensor, quality: Tensor | int | None = None) -> dict[str, Any]:
        """Estimates what :meth:`compress` and :meth:`decompress` do.

        Args:
            x: (N, 3, H, W) in [0, 1].
            quality: one for all, or a tensor (N,) with one for each image, from 1; the model's own by default.

        Returns:
            ``x_hat`` (N, 3, H, W) and ``likelihoods`` of ``y``, ``z`` and ``header``; in training mode also
            ``rounded_likelihoods``.
        """
        q = quality - 1 if isinstance(quality, Tensor) else self._quality_index(quality, x.shape[0])
        out = self.latent_codec(self.g_a(self.pad(x), q), q)
        x_hat = self.g_s(out["y_hat"], q)[..., : x.shape[2], : x.shape[3]]
        likelihoods = out.pop("likelihoods") | {"header": self.header_likelihoods(x)}
        return {"x_hat": x_hat, "likelihoods": likelihoods} | {k: v for k, v in out.items() if k != "y_hat"}

    def update(self, scale_table: Any = None, force: bool = False, **_: Any) -> bool:
        """Builds the coder's integer tables; the scale table is fixed by the format, so an argument is ignored."""
        return self.latent_codec.update(force=force)

    def analyze(self, x: Tensor, quality: Tensor) -> Tensor:
        """See :class:`GenerativeCodec`."""
        return self.g_a(x, quality)

    def encode_latent(self, latent: Tensor, quality: Tensor, snap: Snap) -> bytes:
        """See :class:`GenerativeCodec`."""
        return self.latent_codec.compress(latent, quality, snap)

    def decode_latent(self, payload: bytes, shape: tuple[int, int], quality: Tensor, snap: Snap) -> Tensor:
        """See :class:`GenerativeCodec`."""
        return self.latent_codec.decompress(payload, (shape[0] // BLOCK, shape[1] // BLOCK), quality, snap)

    def synthesize(self, decoded: Tensor, quality: Tensor) -> Tensor:
        """See :class:`GenerativeCodec`."""
        return self.g_s(decoded, quality)
