"""CGDM: Consistency Guided Diffusion Model with Neural Syntax for Perceptual Image Compression (ACM MM 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from compressai.ans import BufferedRansEncoder, RansDecoder
from compressai.registry import register_model
from torch import Tensor

from compressai_gen.configuration import build
from compressai_gen.diffusion.block_denoiser import BlockConsistency, BlockDenoiser
from compressai_gen.diffusion.restore import BaseDecoder, Conditions, Restorer, synthesize_tiled
from compressai_gen.diffusion.sampler import DDIM
from compressai_gen.diffusion.spaces import PixelUnshuffle
from compressai_gen.entropy.rans import MeteredDecoder, open_stream
from compressai_gen.entropy.syntax import SyntaxCodec
from compressai_gen.entropy.two_pass import TwoPassHyperprior
from compressai_gen.errors import CodecError
from compressai_gen.layers.quality import between_qualities
from compressai_gen.layers.transforms import BLOCK, REGION, PatchAnalysis, PatchSynthesis
from compressai_gen.layers.windows import windowed
from compressai_gen.models.base import Estimate, GenerativeCodec
from compressai_gen.models.cgdm_spec import SPEC, CGDMDecoderOptions
from compressai_gen.models.online import Objective, OnlineSearch, measurable_side, rate_distortion

__all__ = ["CGDM"]

_SYNTAX_WINDOW, _SYNTAX_HALO = 16, 2
# Regions per side whose syntax is analyzed at once, and those around them that the base decoder is run on too. It
# looks a little farther, but the syntax is the encoder's choice: nothing needs it exact.

_SEARCH_WINDOW, _SEARCH_HALO = 16, 1
# Regions per side of a picture that online optimization looks at together, and those around them.

_SEARCH_SEED = 0
# Of the noise in online optimization. The stream's own is that of its checksum, which nobody knows before it is made.


class _Decoded(NamedTuple):
    """What a stream holds of one image."""

    y_hat: Tensor
    syntax: Tensor | None


@register_model(SPEC.name)
class CGDM(GenerativeCodec):
    r"""Consistency guided diffusion codec.

    .. code-block:: none

                ┌───┐    y    ┌────────────────────────┐ y_hat ┌───┐ x_base
        x ──┬─►─┤g_a├──►──────┤ latent_codec           ├─┬─►───┤g_s├──┬────────────────────┐
            │   └───┘         │ gain, hyperprior,      │ │     └─┬─┘  │    noise           │
            │                 │ two checkerboard       │ │       │    │      │             │
            │                 │ passes: exact          │ │   features │      ▼             ▼
            │                 └────────────────────────┘ │       ▼    │ ┌──────────┐ r   ┌─┴─┐
            │                                            └─►┌───────┐ └►┤ denoiser ├──►──┤ + ├─► x_hat
            │                     ┌────────┐  syntax        │consis-├──►│ steps    │     └───┘
            └──── x - x_base ──►──┤ syntax ├──►─────────────┤tency  │   └──────────┘
                                  └────────┘   fusion (SFF) └───────┘

    Args:
        **config: replaces parts of :attr:`defaults` or their arguments, such as ``g_a={"blocks": 6}``. Without
            a ``restorer``, which may be None, the model is the end-to-end codec alone.
    """

    spec = SPEC
    name = SPEC.name
    multiple = REGION
    defaults: ClassVar[dict[str, Any]] = {
        "g_a": {"class": PatchAnalysis.__name__},
        "g_s": {"class": PatchSynthesis.__name__},
        "latent_codec": {"class": TwoPassHyperprior.__name__},
        "restorer": {
            "space": {"class": PixelUnshuffle.__name__},
            "denoiser": {"class": BlockDenoiser.__name__},
            "guidance": {"class": BlockConsistency.__name__},
            "scheduler": DDIM,
        },
        "syntax": {"class": SyntaxCodec.__name__},
        # What online optimization lowers: bits per pixel and, times the lambda of a quality, these distortions. Lambdas
        # are those that training was steered to.
        "search": {
            "lambdas": [0.11, 0.135, 0.33, 0.58, 1.45],
            "mse_weight": 60.0,
            "lpips_weight": 0.6,
            "dists_weight": 1.5,
        },
    }
    coding = ("latent_codec", "-latent_codec.h_a", "syntax.entropy_bottleneck")

    def __init__(self, **config: Any):
        super().__init__(config)
        if self.config["restorer"] is None:
            self.config["syntax"] = None
        parts, n = self.config, self.n_qualities
        self.latent_codec = build(parts["latent_codec"], n_qualities=n)
        context = {"latent_channels": self.latent_codec.channels, "n_qualities": n}
        self.g_a, self.g_s = build(parts["g_a"], **context), build(parts["g_s"], **context)
        channels = 0 if parts["syntax"] is None else parts["syntax"]["channels"]
        context |= {"feature_widths": self.g_s.feature_widths, "syntax_channels": channels}
        self.restorer, self.syntax = Restorer.from_config(parts["restorer"], **context), None
        if channels:
            space = self.restorer.space
            self.syntax = build(parts["syntax"], sample_channels=space.channels, factor=space.factor, n_qualities=n)

    def forward(self, x: Tensor, quality: Tensor | float | None = None) -> Estimate:
        """Estimates what :meth:`compress` and :meth:`decompress` do.

        Args:
            x: (N, 3, H, W) in [0, 1].
            quality: one for all, or a tensor (N,) with a real number from 1 for each image; the model's own by default.

        Returns:
            ``x_hat`` (N, 3, H, W) and ``likelihoods`` of ``y``, ``z``, ``syntax`` and ``header``. In training mode the
            end-to-end codec alone is estimated: ``x_hat`` is ``x_base``, there is no ``syntax``, and a term
            ``rounded_bits`` (N,) says what the rounded latents would cost, without the header.
        """
        index = self.quality_indexes(quality, len(x))
        padded = self.pad(x)
        with self.picture_precision():
            y = self.g_a(padded, index)
        out = self.latent_codec(y, index)
        y_hat, likelihoods = out.pop("y_hat"), out.pop("likelihoods") | {"header": self.header_likelihoods(x)}
        terms = {}
        if self.training:
            x_hat = self.g_s(y_hat, index)
            bits = [-p.log2().flatten(1).sum(1) for p in out["rounded_likelihoods"].values()]
            terms["rounded_bits"] = torch.stack(bits).sum(0)
        else:
            syntax = None
            if self.syntax is not None:
                syntax, likelihoods["syntax"] = self.syntax(self._analyze_syntax(padded, y_hat, index))
            decoded = [_Decoded(y_hat[i : i + 1], None if syntax is None else syntax[i : i + 1]) for i in range(len(x))]
            with self.picture_precision():
                x_hat = self.synthesize(decoded, index, [0] * len(x), CGDMDecoderOptions())
        return {"x_hat": x_hat[..., : x.shape[2], : x.shape[3]], "likelihoods": likelihoods, "terms": terms}

    def conditions(self, x: Tensor, index: Tensor) -> tuple[Conditions, dict[str, Tensor]]:
        """See :class:`GenerativeCodec`."""
        with torch.no_grad():
            y_hat = self.latent_codec(self.g_a(x, index), index)["y_hat"]
            conditions = self.restorer.complete(self.base_decoder, Conditions(index, y_hat))
        if self.syntax is None:
            return conditions, {}
        syntax, likelihoods = self.syntax(self._syntax_of(x, conditions.x_base, index))
        return conditions._replace(syntax=syntax), {"syntax": likelihoods}

    def update(self, scale_table: Any = None, force: bool = False, **_: Any) -> bool:
        """Builds the coder's integer tables; the scale table is fixed by the format, so an argument is ignored."""
        updated = self.syntax is not None and self.syntax.entropy_bottleneck.update(force=force)
        return self.latent_codec.update(force=force) or updated

    def analyze(self, x: Tensor, index: Tensor) -> Tensor:
        """See :class:`GenerativeCodec`."""
        return self.g_a(x, index)

    def encode_latent(self, latent: Tensor, index: Tensor, x: Tensor) -> bytes:
        """See :class:`GenerativeCodec`."""
        encoder = BufferedRansEncoder()
        y_hat = self.latent_codec.compress(latent, index, encoder)
        if self.syntax is not None:
            self.syntax.compress(self._analyze_syntax(x, y_hat, index[None]), encoder)
        return encoder.flush()

    def search_online(
        self,
        latents: Tensor,
        x: Tensor,
        size: Sequence[int],
        index: Tensor,
        strings: list[bytes],
        steps: int,
        progress: bool,
    ) -> list[bytes]:
        """See :class:`compressai_gen.models.capabilities.SearchesOnline`; hyper-latent and syntax follow the latent."""
        if any(parameter.is_inference() for parameter in self.parameters()):
            raise CodecError(
                f"this {self.name} was made inside torch.inference_mode(), where nothing has gradients, which "
                "online_steps needs: load it outside"
            )
        best = list(strings)
        for i, latent in enumerate(self._optimized(latents, x, size, index, steps, progress)):
            tuned = self._encode(latent, index[i], x[i], size)
            if tuned != strings[i]:
                original = x[i : i + 1, :, : size[0], : size[1]]
                plain_value, tuned_value = self.objective(original, index[i], [strings[i], tuned])
                if tuned_value < plain_value:
                    best[i] = tuned
        return best

    def _optimized(
        self, latents: Tensor, x: Tensor, size: Sequence[int], index: Tensor, steps: int, progress: bool
    ) -> Tensor:
        """Returns latents of lower objective; arguments as of :meth:`search_online`.

        The search goes through the full decoder, with the syntax of the latent that it starts from. Its memory, 5 GB a
        megapixel, does not grow without end: a large picture is searched window by window.
        """
        search, per_region = OnlineSearch(self.latent_codec, steps, progress), [REGION // BLOCK, REGION, REGION]
        counts = torch.zeros_like(x[:1, :1])
        counts[..., : max(size[0], measurable_side()), : max(size[1], measurable_side())] = 1
        tuned = []
        for y, x_i, index_i in zip(latents.split(1), x.split(1), index.split(1), strict=True):
            of_window = partial(self._search, search, index_i)
            tuned.append(windowed(of_window, [y, x_i, counts], per_region, _SEARCH_WINDOW, _SEARCH_HALO))
        return torch.cat(tuned)

    def _search(self, search: OnlineSearch, index: Tensor, y: Tensor, x: Tensor, counts: Tensor) -> Tensor:
        """Searches y (1, M, h, w) of padded x (1, 3, H, W) for the pixels that count, those at its top and left."""
        if search.interrupted:
            return y
        height, width = int(counts[0, 0, :, 0].sum()), int(counts[0, 0, 0].sum())
        syntax = None
        if self.syntax is not None:
            y_hat = self.latent_codec(y, index)["y_hat"]
            syntax = self.syntax(self._analyze_syntax(x, y_hat, index))[0]

        def decode(y_hat: Tensor) -> Tensor:
            with self.picture_precision():
                x_hat = self.synthesize([_Decoded(y_hat, syntax)], index, [_SEARCH_SEED], CGDMDecoderOptions())
            return x_hat[..., :height, :width]

        return search(y, index, decode, self._rate_distortion(x[..., :height, :width], index))

    def objective(self, x: Tensor, index: Tensor, strings: Sequence[bytes]) -> list[float]:
        """Returns what the search lowers, of each of some streams of the image ``x`` (1, 3, H, W).

        Like the search, it looks at a large picture part by part.
        """
        pictures = [self.decompress([[string]], x.shape[-2:])["x_hat"] for string in strings]
        sums, n_pixels = [8.0 * len(string) for string in strings], 0
        for original, *decoded in zip(*map(_measured_parts, (x, *pictures)), strict=True):
            measure, n_of_part = self._rate_distortion(original, index), original[0, 0].numel()
            sums = [s + n_of_part * float(measure(0.0, part)) for s, part in zip(sums, decoded, strict=True)]
            n_pixels += n_of_part
        return [s / n_pixels for s in sums]

    def _rate_distortion(self, x: Tensor, index: Tensor) -> Objective:
        search = self.config["search"]
        logs = torch.tensor(search["lambdas"], dtype=torch.float64, device=index.device).log()
        weights = {name: search[name] for name in ("mse_weight", "lpips_weight", "dists_weight")}
        return rate_distortion(x, float(between_qualities(logs, index.reshape(1)).exp()), **weights)

    def decode_latent(self, payload: bytes, shape: tuple[int, int], index: Tensor) -> _Decoded:
        """See :class:`GenerativeCodec`."""
        return self._decode(self._open(payload, shape), shape, index)

    def symbol_bits(self, payload: bytes, shape: tuple[int, int], index: Tensor) -> dict[str, float]:
        """See :class:`GenerativeCodec`."""
        meter = MeteredDecoder(self._open(payload, shape))
        self._decode(meter, shape, index)
        z, *y = meter.bits
        syntax = {} if self.syntax is None else {"syntax": y.pop()}
        return {"z": z, "y": sum(y)} | syntax

    def _open(self, payload: bytes, shape: tuple[int, int]) -> RansDecoder:
        n_symbols = self.latent_codec.n_symbols((shape[0] // BLOCK, shape[1] // BLOCK))
        if self.syntax is not None:
            n_symbols += self.syntax.channels * (shape[0] // REGION) * (shape[1] // REGION)
        return open_stream(payload, n_symbols)

    def _decode(self, decoder: RansDecoder | MeteredDecoder, shape: tuple[int, int], index: Tensor) -> _Decoded:
        latent_shape, regions = ((shape[0] // n, shape[1] // n) for n in (BLOCK, REGION))
        y_hat = self.latent_codec.decompress(latent_shape, index, decoder)
        return _Decoded(y_hat, None if self.syntax is None else self.syntax.decompress(regions, decoder))

    def synthesize(
        self, decoded: Sequence[_Decoded], index: Tensor, seeds: Sequence[int], options: CGDMDecoderOptions
    ) -> Tensor:
        """See :class:`GenerativeCodec`."""
        y_hat = torch.cat([d.y_hat for d in decoded])
        steps = self.steps(options)
        with_syntax = options.syntax and self.syntax is not None
        syntax = torch.cat([d.syntax for d in decoded]) if steps and with_syntax else None
        conditions = Conditions(index, y_hat, syntax)
        if not steps:
            return synthesize_tiled(self.base_decoder, conditions, options.tile)
        return self.restorer.restore(self.base_decoder, conditions, seeds, steps, options.tile, options.consistency)

    @property
    def base_decoder(self) -> BaseDecoder:
        """See :class:`GenerativeCodec`."""
        return BaseDecoder(self.g_s.features, self.g_s.picture, self.latent_codec.normalize)

    def _analyze_syntax(self, x: Tensor, y_hat: Tensor, index: Tensor) -> Tensor:
        def analyze(x: Tensor, y_hat: Tensor) -> Tensor:
            return self._syntax_of(x, self.restorer.space.encode(self.g_s(y_hat, index)), index)

        with self.picture_precision():
            return windowed(analyze, [x, y_hat], [REGION, REGION // BLOCK], _SYNTAX_WINDOW, _SYNTAX_HALO)

    def _syntax_of(self, x: Tensor, x_base: Tensor, index: Tensor) -> Tensor:
        space = self.restorer.space
        return self.syntax.analyze(space.target(space.encode(x), x_base), x_base, index)


def _measured_parts(x: Tensor) -> Iterator[Tensor]:
    """Cuts a picture (1, 3, H, W) into equal parts that metrics are taken of, none too large or too small for them."""
    (height, width), least = x.shape[-2:], measurable_side()
    x = F.pad(x, (0, max(0, least - width), 0, max(0, least - height)), mode="replicate")
    rows, columns = (-(-n // (_SEARCH_WINDOW * REGION)) for n in x.shape[-2:])
    return (part for row in x.tensor_split(rows, 2) for part in row.tensor_split(columns, 3))
