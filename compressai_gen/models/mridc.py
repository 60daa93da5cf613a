"""MRIDC: Decouple Distortion from Perception: Region Adaptive Diffusion for Extreme-low Bitrate Perception Image
Compression (CVPR 2025), the Map-guided Masked Realistic Image Diffusion Codec.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from compressai.registry import register_model
from torch import Tensor, nn

from compressai_gen.entropy.exact import Snap, in_float64
from compressai_gen.entropy.tokens import TokenCoder, TokenCost, TokenDecoder, TokenEncoder, TokenMeter, frequencies
from compressai_gen.layers.masking import N_GROUPS, coding_groups, fill_unsent, grid_levels
from compressai_gen.layers.prediction import TokenPredictor
from compressai_gen.layers.quantizers import ResidualVectorQuantizer
from compressai_gen.layers.transforms import BLOCK, AnalysisTransform, SynthesisTransform
from compressai_gen.models.base import DecoderOptions, GenerativeCodec

__all__ = ["MRIDC"]

TOKEN_BUDGETS = ((1, 0), (2, 0), (4, 0), (4, 2), (4, 4))
"""Quality is the token budget: how many of the four coding groups get the first and the second level."""


@register_model("mridc")
class MRIDC(GenerativeCodec):
    r"""Masked vector-quantized codec; this version has a regular mask and a plain decoder.

    .. code-block:: none

                ┌───┐  y  ┌────────────┐ tokens ┌─────┐ bytes ┌─────┐ tokens ┌────────────┐ y_hat ┌───┐
        x ──►───┤g_a├──►──┤ quantizer  ├───►────┤ AE  ├──►────┤ AD  ├───►────┤ embed,     ├──►────┤g_s├──►── x_hat
                └───┘     │ RVQ, masked│        └──┬──┘       └──┬──┘        │ fill unsent│       └───┘
                          └────────────┘           └─ predictor ─┘           └────────────┘

    Args:
        channels: D, length of the vectors that are quantized.
        entries: K, size of each codebook.
        widths: channels of ``g_a`` and ``g_s`` at 1/4, 1/8 and 1/16 of the resolution.
        blocks: residual blocks of ``g_a`` there.
        decoder_blocks: residual blocks of ``g_s`` there.
        predictor_width: channels inside the token predictor.
    """

    name = "mridc"
    multiple = BLOCK

    def __init__(
        self,
        channels: int = 64,
        entries: int = 1024,
        widths: Sequence[int] = (96, 160, 256),
        blocks: Sequence[int] = (1, 2, 2),
        decoder_blocks: Sequence[int] = (3, 3, 4),
        predictor_width: int = 192,
    ):
        super().__init__()
        levels = len(TOKEN_BUDGETS[0])
        self.g_a = AnalysisTransform(channels, widths, blocks, self.n_qualities)
        self.g_s = SynthesisTransform(channels, widths, decoder_blocks, self.n_qualities, side_channels=levels)
        self.quantizer = ResidualVectorQuantizer(channels, entries, levels)
        self.predictor = TokenPredictor(channels, entries, levels, predictor_width)
        self.register_buffer("code_std", torch.ones(channels))

    def forward(self, x: Tensor, quality: Tensor | int | None = None) -> dict[str, Any]:
        """Estimates what :meth:`compress` and :meth:`decompress` do.

        Args:
            x: (N, 3, H, W) in [0, 1].
            quality: one for all, or a tensor (N,) with one for each image, from 1; the model's own by default.

        Returns:
            ``x_hat`` (N, 3, H, W) and ``likelihoods`` of ``tokens`` and ``header``; in training mode also
            ``commitment`` (N,), the mean squared distance of vectors to their codes.
        """
        q = quality - 1 if isinstance(quality, Tensor) else self._quality_index(quality, x.shape[0])
        with self.picture_precision():
            y = self.analyze(self.pad(x), q)
        levels = self._levels(q, y.shape[-2:])
        y_hat, tokens, commitment = self.quantizer(y, levels)
        with self.picture_precision():
            x_hat = self._render(y_hat, levels, q)[..., : x.shape[2], : x.shape[3]]
        likelihoods = {"tokens": self._likelihoods(tokens, levels), "header": self.header_likelihoods(x)}
        return {"x_hat": x_hat, "likelihoods": likelihoods} | ({"commitment": commitment} if self.training else {})

    def update(self, scale_table: Any = None, force: bool = False, **_: Any) -> bool:
        """Does nothing: the token coder's tables come from the predictor, image by image."""
        return False

    def analyze(self, x: Tensor, quality: Tensor) -> Tensor:
        """See :class:`GenerativeCodec`."""
        return self.g_a(x, quality).float()

    def encode_latent(self, latent: Tensor, quality: Tensor, snap: Snap, x: Tensor) -> bytes:
        """See :class:`GenerativeCodec`."""
        levels = self._levels(quality[None], latent.shape[-2:])
        tokens = self.quantizer(latent[None], levels)[1]
        encoder = TokenEncoder()
        self._walk(levels[0], snap, encoder, tokens[0])
        return encoder.flush()

    def decode_latent(self, payload: bytes, shape: tuple[int, int], quality: Tensor, snap: Snap) -> Tensor:
        """See :class:`GenerativeCodec`; returns tokens (1, L, h, w)."""
        levels, decoder = self._open(payload, shape, quality)
        return self._walk(levels, snap, decoder, None)[None]

    def symbol_bits(self, payload: bytes, shape: tuple[int, int], quality: Tensor, snap: Snap) -> dict[str, float]:
        """See :class:`GenerativeCodec`."""
        levels, decoder = self._open(payload, shape, quality)
        meter = TokenMeter(decoder)
        self._walk(levels, snap, meter, None)
        return {"tokens": meter.bits}

    def _open(self, payload: bytes, shape: tuple[int, int], quality: Tensor) -> tuple[Tensor, TokenDecoder]:
        levels = self._levels(quality[None], (shape[0] // BLOCK, shape[1] // BLOCK))[0]
        return levels, TokenDecoder(payload, int(levels.sum()))

    def synthesize(
        self, decoded: Sequence[Tensor], quality: Tensor, seeds: Sequence[int], options: DecoderOptions
    ) -> Tensor:
        """See :class:`GenerativeCodec`."""
        self.steps(options)
        tokens = torch.cat(list(decoded))
        return self._render(self.quantizer.embed(tokens), self._levels(quality, tokens.shape[-2:]), quality)

    def _levels(self, quality: Tensor, shape: Sequence[int]) -> Tensor:
        """Levels (N, h, w) that each position gets at qualities (N,)."""
        ladder = torch.stack([grid_levels(*shape, budget) for budget in TOKEN_BUDGETS])
        return ladder.to(quality.device)[quality]

    def _render(self, y_hat: Tensor, levels: Tensor, quality: Tensor) -> Tensor:
        sides = torch.stack([levels > i for i in range(self.quantizer.levels)], dim=1)
        return self.g_s(fill_unsent(y_hat, sides[:, :1]), quality, sides.to(y_hat.dtype))

    def _likelihoods(self, tokens: Tensor, levels: Tensor) -> Tensor:
        """Likelihoods (N, ...) of the tokens; differentiable for the predictor in training mode."""
        if self.training:
            return self._soft_likelihoods(tokens, levels)
        rows = []
        for tokens_i, levels_i in zip(tokens, levels, strict=True):
            cost = TokenCost()
            self._walk(levels_i, Snap(), cost, tokens_i)
            rows.append(torch.cat(cost.likelihoods))
        # Images of a batch may be of different qualities; a likelihood of one costs nothing.
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1.0).to(tokens.device)

    def _soft_likelihoods(self, tokens: Tensor, levels: Tensor) -> Tensor:
        """What :meth:`_walk` codes, for a whole batch and with gradients."""
        likelihoods = torch.ones_like(tokens, dtype=torch.float32)
        for level, _, here, visible in self._passes(levels):
            if not here.any():
                continue
            known = torch.where(visible, tokens, -1)
            logits = self.predictor(self._context(known).float(), (known >= 0).sum(1), level).float()
            target = tokens[:, level].clamp_min(0)
            p = logits.log_softmax(1).gather(1, target[:, None])[:, 0].exp()
            likelihoods[:, level] = torch.where(here, p, likelihoods[:, level])
        return likelihoods.clamp_min(1e-9)

    def _passes(self, levels: Tensor):
        """Yields the coding order: level, group, the positions coded (…, h, w) and the tokens visible (…, L, h, w)."""
        groups = coding_groups(*levels.shape[-2:]).to(levels.device)
        order = torch.arange(self.quantizer.levels, device=levels.device)[:, None, None]
        for level in range(self.quantizer.levels):
            for group in range(N_GROUPS):
                visible = (order < level) | ((order == level) & (groups < group))
                yield level, group, (groups == group) & (levels > level), visible

    @torch.no_grad()
    def _walk(self, levels: Tensor, snap: Snap, code: TokenCoder, tokens: Tensor | None) -> Tensor:
        """Goes through one image's tokens (L, h, w) in coding order; ``code`` turns wanted tokens into coded ones.

        Everything that decides a table is float64 or integer here.
        """
        known = torch.full((self.quantizer.levels, *levels.shape), -1, device=levels.device)
        for level, _, here, _ in self._passes(levels):
            if not here.any():
                continue
            logits = in_float64(self.predictor, self._context(known[None]), (known >= 0).sum(0)[None], level)[0]
            table = frequencies(logits[:, here].T, snap)
            coded = code(None if tokens is None else tokens[level][here].cpu(), table)
            known[level][here] = coded.to(known.device)
        return known

    def _context(self, tokens: Tensor) -> Tensor:
        """Codes of known tokens (N, L, h, w), -1 for unknown, scaled to unit variance: exact sums of float32 codes."""
        return self.quantizer.embed(tokens).double() / self.code_std.double()[:, None, None]
