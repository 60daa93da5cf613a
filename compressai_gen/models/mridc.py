"""MRIDC: Decouple Distortion from Perception: Region Adaptive Diffusion for Extreme-low Bitrate Perception Image
Compression (CVPR 2025), the Map-guided Masked Realistic Image Diffusion Codec.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from compressai.ans import RansDecoder
from compressai.registry import register_model
from torch import Tensor, nn

from compressai_gen.configuration import build
from compressai_gen.diffusion.block_denoiser import BlockConsistency, BlockDenoiser
from compressai_gen.diffusion.restore import BaseDecoder, Conditions, Restorer, synthesize_tiled
from compressai_gen.diffusion.sampler import DDIM
from compressai_gen.diffusion.spaces import PixelUnshuffle
from compressai_gen.entropy.exact import float64_twin, in_float64
from compressai_gen.entropy.rans import MeteredDecoder, open_stream
from compressai_gen.entropy.tokens import TokenCoder, TokenCost, TokenDecoder, TokenEncoder, frequencies
from compressai_gen.errors import ImageError
from compressai_gen.layers.masking import (
    CELL,
    CODING_PASSES,
    DENSITIES,
    N_GROUPS,
    allocate,
    cell_means,
    coding_groups,
    fill_unsent,
    grid_importance,
    importance_of,
    levels_of,
    random_importance,
    random_regions,
)
from compressai_gen.layers.prediction import MaskPredictor, TokenPredictor
from compressai_gen.layers.quality import between_qualities
from compressai_gen.layers.quantizers import ResidualVectorQuantizer
from compressai_gen.layers.transforms import BLOCK, REGION, PatchAnalysis, PatchSynthesis
from compressai_gen.layers.windows import windowed
from compressai_gen.models.base import Estimate, GenerativeCodec, NoQuantiles, plain_mode
from compressai_gen.models.mridc_spec import SPEC, MRIDCDecoderOptions, MRIDCEncoderOptions

__all__ = ["MRIDC"]

TOKENS_PER_POSITION = (0.16, 0.32, 0.6, 1.05, 1.7)
"""Quality is the token budget, relative to the number of positions (blocks of 16x16 pixels)."""


_WINDOW = 160
# Positions per side that the predictor sees at once, and some around them: with 256, encoding 8192x8192 pixels takes
# 1.6 GiB more.

_TOKENS = 2048
# As many are coded at once. They are a part of the format, with a phase of its own for its logits.

_LARGEST_IMPORTANCE = 1e6

_MASKINGS = {"random": random_importance, "grid": grid_importance}


class _Latent(NamedTuple):
    """One image's vectors (D, h, w) and its mask's densities (r, c)."""

    y: Tensor
    densities: Tensor


class _Decoded(NamedTuple):
    """What a stream holds of one image: tokens (L, h, w), -1 where none is sent, and densities (r, c)."""

    tokens: Tensor
    densities: Tensor


@register_model(SPEC.name)
class MRIDC(GenerativeCodec):
    r"""Masked vector-quantized codec.

    .. code-block:: none

                ┌───┐  y  ┌───────────┐ tokens ┌─────────┐ tokens ┌────────────┐ y_hat ┌───┐ x_base
        x ──┬─►─┤g_a├──►──┤ quantizer ├───►────┤ AE … AD ├───►────┤ predictor  ├─┬──►──┤g_s├───┬────────────┐
            │   └───┘     └─────┬─────┘        └────┬────┘        │ completes  │ │     └─┬─┘   │   noise    │
            │                   │ mask              │             └─────┬──────┘ │       │features│         │
            │ importance ┌──────┴─────┐             │        confidence │        ▼       ▼     ▼  ▼         ▼
            └─────►──────┤ allocate   ├─────────────┘                   └────►┌─────────────┐ ┌──────────┐ ┌┴┐
                         └────────────┘                                       │ consistency ├►┤ denoiser ├►┤+├► x_hat
                                                                              └─────────────┘ └──────────┘ └─┘

    Args:
        **config: replaces parts of :attr:`defaults` or their arguments, such as ``g_a={"blocks": 6}``. Without
            a ``restorer``, which may be None, the model has the base decoder alone.
    """

    spec = SPEC
    name = SPEC.name
    multiple = REGION
    defaults: ClassVar[dict[str, Any]] = {
        "g_a": {"class": PatchAnalysis.__name__},
        "g_s": {"class": PatchSynthesis.__name__},
        "quantizer": {"class": ResidualVectorQuantizer.__name__},
        "predictor": {"class": TokenPredictor.__name__},
        "mask_predictor": {"class": MaskPredictor.__name__},
        "restorer": {
            "space": {"class": PixelUnshuffle.__name__},
            "denoiser": {"class": BlockDenoiser.__name__},
            "guidance": {"class": BlockConsistency.__name__},
            "scheduler": DDIM,
        },
    }

    coding = ("quantizer", "predictor", "mask_predictor", "code_std", "tokens_per_position")

    def __init__(self, **config: Any):
        super().__init__(config)
        parts, n, levels = self.config, self.n_qualities, len(DENSITIES[0])
        self.quantizer = build(parts["quantizer"], levels=levels)
        _, entries, channels = self.quantizer.codebooks.shape
        context = {"latent_channels": channels, "n_qualities": n}
        self.g_a = build(parts["g_a"], **context)
        self.g_s = build(parts["g_s"], side_channels=levels, **context)
        self.predictor = build(parts["predictor"], channels=channels, entries=entries, levels=levels)
        self.mask_predictor = build(parts["mask_predictor"], densities=len(DENSITIES))
        self.register_buffer("code_std", torch.ones(channels))
        self.register_buffer("tokens_per_position", torch.tensor(TOKENS_PER_POSITION))
        self.no_quantiles = NoQuantiles()
        context |= {"latent_channels": channels + levels, "feature_widths": self.g_s.feature_widths}
        self.restorer = Restorer.from_config(parts["restorer"], **context)

    def forward(self, x: Tensor, quality: Tensor | float | None = None) -> Estimate:
        """Estimates what :meth:`compress` and :meth:`decompress` do.

        Args:
            x: (N, 3, H, W) in [0, 1].
            quality: one for all, or a tensor (N,) with a real number from 1 for each image; the model's own by default.

        Returns:
            ``x_hat`` (N, 3, H, W) and ``likelihoods`` of ``mask``, ``tokens`` and ``header``. In training mode
            ``x_hat`` is ``x_base``, and the terms are ``commitment`` (N,), the mean squared distance of vectors to
            codes, and ``completion``, the likelihoods of the tokens that unsent positions would have had; those of
            tokens are of one pass of the coding order, drawn at random.
        """
        index = self.quality_indexes(quality, len(x))
        padded = self.pad(x)
        with self.picture_precision():
            # Trained on masks of callers' regions of interest too.
            importance = random_regions(len(x), *padded.shape[-2:]).to(x) if self.training else None
            latents = self.analyze(padded, index, importance)
        densities = torch.stack([latent.densities for latent in latents])
        levels = levels_of(densities)
        y = torch.stack([latent.y for latent in latents])
        if self.training:
            return self._training_forward(x, y, densities, levels, index)
        _, tokens, _ = self.quantizer(y, levels)
        decoded = [_Decoded(*pair) for pair in zip(tokens, densities, strict=True)]
        likelihoods = {"mask": [], "tokens": []}
        for item, index_i in zip(decoded, index, strict=True):
            mask_cost, cost = TokenCost(), TokenCost()
            self._walk_mask(item.densities.shape, index_i, mask_cost, item.densities)
            self._walk(levels_of(item.densities), cost, item.tokens)
            likelihoods["mask"].append(torch.cat(mask_cost.likelihoods))
            likelihoods["tokens"].append(torch.cat(cost.likelihoods) if cost.likelihoods else torch.ones(0))
        with self.picture_precision():
            x_hat = self.synthesize(decoded, index, [0] * len(x), MRIDCDecoderOptions())
        # Images of a batch may be of different qualities; a likelihood of one costs nothing.
        padded_rows = {
            k: nn.utils.rnn.pad_sequence(v, batch_first=True, padding_value=1.0).to(x.device)
            for k, v in likelihoods.items()
        }
        padded_rows["header"] = self.header_likelihoods(x)
        return {"x_hat": x_hat[..., : x.shape[2], : x.shape[3]], "likelihoods": padded_rows, "terms": {}}

    def update(self, scale_table: Any = None, force: bool = False, **_: Any) -> bool:
        """Does nothing: the token coder's tables come from the predictors, image by image."""
        return False

    # -- encoder ------------------------------------------------------------------------------------------------------

    def analyze(
        self, x: Tensor, index: Tensor, importance: Tensor | None = None, masking: str = "map"
    ) -> list[_Latent]:
        """See :class:`GenerativeCodec`.

        Args:
            x: padded images (N, 3, H, W).
            index: of the quality, real numbers from 0 (N,).
            importance: of pixels (N, H, W), not negative, which weighs the model's own.
            masking: ``map``, by importance, or for comparison at the same budget ``random`` or ``grid``.
        """
        y = self.g_a(x, index).float()
        own = importance_of(y.detach())
        if importance is not None:
            own = own * cell_means(importance.to(own))
        if masking != "map":
            own = torch.stack([_MASKINGS[masking](*cells.shape).to(own) for cells in own])
        budgets = self._budgets(index)
        return [_Latent(y_i, self._mask(own_i, budget)) for y_i, own_i, budget in zip(y, own, budgets, strict=True)]

    def _budgets(self, index: Tensor) -> Tensor:
        """Tokens per position (N,) in float64 at quality indexes (N,); geometric between two whole qualities."""
        return between_qualities(self.tokens_per_position.double().log(), index).exp()

    @staticmethod
    def _mask(importance: Tensor, tokens_per_position: Tensor) -> Tensor:
        """Densities (r, c) that spend a quality's budget by an importance of cells (r, c)."""
        budget = float(tokens_per_position) * importance.numel() * CELL**2
        return allocate(importance, round(budget)).to(importance.device)

    def analysis_options(self, x: Tensor, options: MRIDCEncoderOptions) -> dict[str, Any]:
        """See :class:`GenerativeCodec`.

        Raises:
            ImageError: the importance is of another size, or holds numbers that are negative or not finite.
        """
        importance, masking = options.importance, options.masking
        if importance is None:
            return {"masking": masking}
        values = torch.as_tensor(importance, dtype=torch.float32, device=x.device)
        if values.dim() == 2:
            values = values.expand(x.shape[0], -1, -1)
        if values.shape != (x.shape[0], *x.shape[-2:]) or not torch.isfinite(values).all() or values.min() < 0:
            raise ImageError(
                f"importance must hold numbers from 0 up, one for each pixel of {x.shape[-1]}x{x.shape[-2]}, "
                f"not {tuple(values.shape)}"
            )
        if values.max() > _LARGEST_IMPORTANCE:
            raise ImageError(f"importance must hold numbers from 0 to {_LARGEST_IMPORTANCE:g}, not {values.max():g}")
        return {"masking": masking, "importance": self._extended(values[:, None])[:, 0]}

    def encode_latent(self, latent: _Latent, index: Tensor, x: Tensor) -> bytes:
        """See :class:`GenerativeCodec`."""
        levels = levels_of(latent.densities)
        tokens = self.quantizer(latent.y[None], levels[None])[1][0]
        encoder = TokenEncoder()
        self._walk_mask(latent.densities.shape, index, encoder, latent.densities)
        self._walk(levels, encoder, tokens)
        return encoder.flush()

    # -- decoder ------------------------------------------------------------------------------------------------------

    def decode_latent(self, payload: bytes, shape: tuple[int, int], index: Tensor) -> _Decoded:
        """See :class:`GenerativeCodec`."""
        decoder = TokenDecoder(self._open(payload, shape))
        densities = self._walk_mask(_cells(shape), index, decoder, None)
        return _Decoded(self._walk(levels_of(densities), decoder, None), densities)

    def symbol_bits(self, payload: bytes, shape: tuple[int, int], index: Tensor) -> dict[str, float]:
        """See :class:`GenerativeCodec`."""
        meter = MeteredDecoder(self._open(payload, shape))
        densities = self._walk_mask(_cells(shape), index, TokenDecoder(meter), None)
        mask = sum(meter.bits)
        self._walk(levels_of(densities), TokenDecoder(meter), None)
        return {"mask": mask, "tokens": sum(meter.bits) - mask}

    @plain_mode
    def sent_levels(self, string: bytes, shape: Sequence[int]) -> Tensor:
        """Decodes one image's mask: how many levels (h, w) each position of its padded latent was sent with.

        Raises:
            BitstreamError: as :meth:`decompress`.
        """
        stream = self._unpack(string, shape)
        padded = self._padded(shape)
        decoder = TokenDecoder(self._open(stream.payload, padded))
        return levels_of(self._walk_mask(_cells(padded), self._index_of(stream), decoder, None))

    def draw_mask(self, string: bytes, shape: Sequence[int]) -> Tensor:
        """See :class:`compressai_gen.models.capabilities.DrawsMask`."""
        grey = (self.sent_levels(string, shape) * 255 // self.quantizer.levels).to(torch.uint8)
        return grey.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[: shape[0], : shape[1]]

    def region_options(self, importance: Tensor) -> dict[str, Any]:
        """See :class:`compressai_gen.models.capabilities.TakesRegions`."""
        return {"importance": importance}

    def _open(self, payload: bytes, shape: tuple[int, int]) -> RansDecoder:
        n_positions = (shape[0] // BLOCK) * (shape[1] // BLOCK)
        return open_stream(payload, (self.quantizer.levels + 1) * n_positions)

    def synthesize(
        self, decoded: Sequence[_Decoded], index: Tensor, seeds: Sequence[int], options: MRIDCDecoderOptions
    ) -> Tensor:
        """See :class:`GenerativeCodec`."""
        tokens = torch.stack([d.tokens for d in decoded])
        levels = levels_of(torch.stack([d.densities for d in decoded]))
        latent = self._complete(self.quantizer.embed(tokens), levels, options.prediction)
        steps = self.steps(options)
        conditions = Conditions(index, latent, sent=levels[:, None] > 0)
        if not steps:
            return synthesize_tiled(self.base_decoder, conditions, options.tile)
        return self.restorer.restore(self.base_decoder, conditions, seeds, steps, options.tile, options.consistency)

    def _complete(self, y_hat: Tensor, levels: Tensor, prediction: bool = True) -> Tensor:
        """Fills unsent positions; returns latents (N, D + L, h, w): codes, confidence, and the second level's flag.

        What was sent stays as it is. Elsewhere stands what :meth:`_guess` returns or, without prediction, the mean of
        neighbours.
        """
        if not prediction:
            return torch.cat((fill_unsent(y_hat, (levels > 0)[:, None]), self._flags(levels)), dim=1)
        return windowed(lambda *part: self._guess(*part)[0], [y_hat, levels], [1, 1], _WINDOW, self.predictor.reach)

    def _guess(self, y_hat: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Fills unsent positions with the mean of the first codebook's entries under the predictor's probabilities.

        The largest of them is the confidence. Returns latents as :meth:`_complete` does, and logits (N, h, w, K).
        """
        flags, sent = self._flags(levels), (levels > 0)[:, None]
        context = (y_hat / self.code_std[:, None, None]).detach()
        logits = self.predictor.logits(self.predictor(context, levels, levels), 0).float()
        p = logits.softmax(-1)
        expected = (p @ self.quantizer.codebooks[0]).permute(0, 3, 1, 2)
        confidence = torch.where(sent, flags[:, :1], p.amax(-1)[:, None])
        return torch.cat((torch.where(sent, y_hat, expected), confidence, flags[:, 1:]), dim=1), logits

    def _flags(self, levels: Tensor) -> Tensor:
        return torch.stack([levels > i for i in range(self.quantizer.levels)], dim=1).to(self.code_std.dtype)

    @property
    def base_decoder(self) -> BaseDecoder:
        """See :class:`GenerativeCodec`."""
        n = self.quantizer.codebooks.shape[2]

        def normalize(latent: Tensor) -> Tensor:
            return torch.cat((latent[:, :n] / self.code_std[:, None, None], latent[:, n:]), dim=1)

        return BaseDecoder(
            lambda latent, index: self.g_s.features(latent[:, :n], index, latent[:, n:]),
            lambda latent, features: self.g_s.picture(latent[:, :n], features),
            normalize,
        )

    # -- training -----------------------------------------------------------------------------------------------------

    def _training_forward(self, x: Tensor, y: Tensor, densities: Tensor, levels: Tensor, index: Tensor) -> Estimate:
        y_hat, tokens, commitment = self.quantizer(y, levels)
        latent, logits = self._guess(y_hat, levels)
        base = self.base_decoder
        x_base = base.picture(latent, base.features(latent, index))
        # What unsent positions would hold, for the predictor to learn.
        wanted = self.quantizer.nearest(y.detach().permute(0, 2, 3, 1).flatten(0, 2), 0).reshape(levels.shape)
        completion = torch.where(levels > 0, 1.0, _likelihoods(logits, wanted))
        likelihoods = {
            "mask": self._soft_mask_likelihoods(densities, index),
            # All passes share one network, and each costs as much as the base decoder: one at random does.
            "tokens": self._soft_likelihoods(tokens, levels, only=int(torch.randint(1 << 16, ()))),
            "header": self.header_likelihoods(x),
        }
        return {
            "x_hat": x_base[..., : x.shape[2], : x.shape[3]],
            "likelihoods": likelihoods,
            "terms": {"completion": completion, "commitment": commitment},
        }

    @torch.no_grad()
    def conditions(self, x: Tensor, index: Tensor) -> tuple[Conditions, dict[str, Tensor]]:
        """See :class:`GenerativeCodec`."""
        importance = random_regions(len(x), *x.shape[-2:]).to(x) if self.training else None
        latents = self.analyze(x, index, importance)
        levels = levels_of(torch.stack([latent.densities for latent in latents]))
        tokens = self.quantizer(torch.stack([latent.y for latent in latents]), levels)[1]
        latent = self._complete(self.quantizer.embed(tokens), levels)
        return self.restorer.complete(self.base_decoder, Conditions(index, latent, sent=levels[:, None] > 0)), {}

    def _soft_likelihoods(self, tokens: Tensor, levels: Tensor, only: int | None = None) -> Tensor:
        """What :meth:`_walk` codes, for a whole batch and with gradients: in all its passes, or in one of them alone.

        Where nothing is coded, the likelihood is one.
        """
        passes = [(level, here, visible) for level, here, visible in self._passes(levels) if here.any()]
        likelihoods = torch.ones_like(tokens, dtype=torch.float32)
        for level, here, visible in passes if only is None else [passes[only % len(passes)]]:
            known = torch.where(visible, tokens, -1)
            features = self.predictor(self._context(known).float(), (known >= 0).sum(1), levels)
            p = _likelihoods(self.predictor.logits(features, level), tokens[:, level].clamp_min(0))
            likelihoods[:, level] = torch.where(here, p, likelihoods[:, level])
        return likelihoods.clamp_min(1e-9)

    def _soft_mask_likelihoods(self, densities: Tensor, index: Tensor) -> Tensor:
        """What :meth:`_walk_mask` codes, for a whole batch and with gradients."""
        likelihoods = torch.ones_like(densities, dtype=torch.float32)
        groups = coding_groups(*densities.shape[-2:]).to(densities.device)
        for group in range(N_GROUPS):
            known = torch.where(groups < group, densities, -1)
            logits = self.mask_predictor(known, self._budgets(index).float())
            p = _likelihoods(logits.permute(0, 2, 3, 1), densities)
            likelihoods = torch.where(groups == group, p, likelihoods)
        return likelihoods.clamp_min(1e-9)

    # -- what the coder sees: one image at a time; everything that decides a table is float64 or integer --------------

    def _passes(self, levels: Tensor):
        """Yields the coding order: level, the positions coded (…, h, w) and the tokens visible (…, L, h, w)."""
        groups = coding_groups(*levels.shape[-2:]).to(levels.device)
        order = torch.arange(self.quantizer.levels, device=levels.device)[:, None, None]
        for level, coded in CODING_PASSES:
            visible = (order < level) | ((order == level) & (groups < coded.start))
            yield level, (groups >= coded.start) & (groups < coded.stop) & (levels > level), visible

    @torch.no_grad()
    def _walk(self, levels: Tensor, code: TokenCoder, tokens: Tensor | None) -> Tensor:
        """Goes through one image's tokens (L, h, w) in coding order; ``code`` turns wanted tokens into coded ones."""
        known = torch.full((self.quantizer.levels, *levels.shape), -1, device=levels.device)
        predictor = float64_twin(self.predictor)

        def features_of(codes: Tensor, known: Tensor, sent: Tensor) -> Tensor:
            return in_float64(predictor, codes, known, sent).permute(0, 3, 1, 2)

        for level, here, _ in self._passes(levels):
            if not here.any():
                continue
            fields = [self._context(known[None]), (known >= 0).sum(0)[None], levels[None]]
            features = windowed(features_of, fields, [1, 1, 1], _WINDOW, predictor.reach)[0].permute(1, 2, 0)
            # In parts, as each token has as many probabilities as there are entries.
            for part in here.nonzero().split(_TOKENS):
                at = tuple(part.T)
                logits = in_float64(predictor.head(level), features[at])
                coded = code(None if tokens is None else tokens[level][at].cpu(), frequencies(logits, code.snap))
                known[level][at] = coded.to(known.device)
        return known

    @torch.no_grad()
    def _walk_mask(self, shape: Sequence[int], index: Tensor, code: TokenCoder, densities: Tensor | None) -> Tensor:
        """As :meth:`_walk`, through one image's densities (r, c)."""
        groups = coding_groups(*shape).to(index.device)
        known = torch.full(tuple(shape), -1, device=index.device)
        budget = self._budgets(index[None])
        predictor = float64_twin(self.mask_predictor)
        for group in range(N_GROUPS):
            here = groups == group
            if not here.any():
                continue
            logits = in_float64(predictor, known[None], budget)[0][:, here].T
            coded = code(None if densities is None else densities[here].cpu(), frequencies(logits, code.snap))
            known[here] = coded.to(known.device)
        return known

    def _context(self, tokens: Tensor) -> Tensor:
        """Codes of known tokens (N, L, h, w), -1 for unknown, scaled to unit variance: exact sums of float32 codes."""
        return self.quantizer.embed(tokens).double() / self.code_std.double()[:, None, None]


def _cells(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of the mask of a padded picture's (height, width)."""
    return shape[0] // (CELL * BLOCK), shape[1] // (CELL * BLOCK)


def _likelihoods(logits: Tensor, wanted: Tensor) -> Tensor:
    """Likelihoods (...) of what is wanted (...) under logits (..., K)."""
    return F.cross_entropy(logits.float().movedim(-1, 1), wanted, reduction="none").neg().exp()
