"""What both codecs share of CompressAI's contract: qualities, padding, headers, checks of input and streams."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from compressai.models import CompressionModel
from torch import Tensor

import compressai_gen.diffusion.pretrained  # noqa: F401  (parts that configurations may name)
from compressai_gen.configuration import resolve
from compressai_gen.diffusion.restore import BaseDecoder, Conditions, Restorer
from compressai_gen.entropy.container import HEADER_BYTES, Stream, pack, unpack
from compressai_gen.entropy.exact import Snap, encode_at_safe_phase
from compressai_gen.errors import BitstreamError, CodecError, ImageError
from compressai_gen.layers.precision import bfloat16_autocast
from compressai_gen.options import DecoderOptions, check_whole, choose
from compressai_gen.roles import fingerprint, split
from compressai_gen.specs import CodecSpec

__all__ = ["GenerativeCodec"]


class GenerativeCodec(CompressionModel):
    """A variable-rate codec whose streams say by themselves which codec and quality made them.

    A subclass gives ``name``, ``n_qualities``, ``multiple`` and the methods that are abstract here.
    """

    spec: ClassVar[CodecSpec]
    name: str
    defaults: ClassVar[Mapping[str, Any]]
    """Configuration of the parts; see :func:`compressai_gen.configuration.resolve`."""
    coding: ClassVar[tuple[str, ...]]
    """Modules and tensors that decide symbols; see :mod:`compressai_gen.roles`."""
    optional: ClassVar[frozenset[str]] = frozenset({"restorer", "restorer.guidance", "syntax"})
    """Parts that may be left out."""
    n_qualities = 5
    multiple: int
    """Images are padded to multiples of this many pixels by repeating the last row and column."""
    default_steps = 1
    """Of the sampler, where the codec has a generative half."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = resolve(self.defaults, config, self.optional)
        self.restorer: Restorer | None = None
        # A buffer, so that a saved checkpoint remembers it and CompressAI's tools, which pass none, find it.
        self.register_buffer("quality", torch.tensor(3))

    @classmethod
    def from_state_dict(cls, state_dict: dict[str, Tensor], **config: Any) -> GenerativeCodec:
        """Builds the model of ``config`` with these weights, with its generative half if they have one."""
        if not any(name.startswith("restorer.") for name in state_dict):
            config = {"restorer": None, **config}
        model = cls(**config)
        model.load_state_dict(state_dict)
        return model

    def fingerprint(self) -> str:
        """Returns that of the coding part, by which files name it; see :func:`compressai_gen.roles.fingerprint`."""
        return fingerprint(split(self.state_dict(), self.coding)["coding"])

    @abstractmethod
    def analyze(self, x: Tensor, quality: Tensor) -> Sequence[Any]:
        """Maps padded images (N, 3, H, W) to what is coded of each."""

    @abstractmethod
    def encode_latent(self, latent: Any, quality: Tensor, snap: Snap, x: Tensor) -> bytes:
        """Codes one image's latent at a quality (integer from 0, no dimension); ``x`` (1, 3, H, W) is the image."""

    @abstractmethod
    def decode_latent(self, payload: bytes, shape: tuple[int, int], quality: Tensor, snap: Snap) -> Any:
        """Decodes what :meth:`synthesize` needs of one image; ``shape`` is the padded image's (height, width)."""

    @abstractmethod
    def symbol_bits(self, payload: bytes, shape: tuple[int, int], quality: Tensor, snap: Snap) -> dict[str, float]:
        """Bits of each kind of symbol in a payload, by name; arguments as of :meth:`decode_latent`."""

    @abstractmethod
    def synthesize(
        self, decoded: Sequence[Any], quality: Tensor, seeds: Sequence[int], options: DecoderOptions
    ) -> Tensor:
        """Maps what was decoded of N images at qualities (N,) to padded images."""

    def conditions(self, x: Tensor, quality: Tensor) -> tuple[Conditions, dict[str, Tensor]]:
        """Encodes padded images (N, 3, H, W) at qualities (N,), from 0, as far as training a restorer needs it.

        Only what is trained with the restorer gets gradients.

        Returns:
            what the restorer knows of them, and the likelihoods of what is sent for it alone.
        """
        raise NotImplementedError

    @property
    def base_decoder(self) -> BaseDecoder:
        """What the restorer works on."""
        raise NotImplementedError

    def steps(self, options: DecoderOptions) -> int:
        """Steps of the sampler that the options ask for.

        Raises:
            CodecError: some are asked for and the codec has no generative half.
        """
        if self.restorer is None and options.steps:
            raise CodecError(f"this {self.name} has no denoiser: steps must be 0")
        if options.steps is None:
            return self.default_steps if self.restorer is not None else 0
        return options.steps

    def _quality_index(self, quality: int | None, n: int) -> Tensor:
        q = int(self.quality) if quality is None else int(quality)
        if not 1 <= q <= self.n_qualities:
            raise CodecError(f"{self.name} has qualities 1 to {self.n_qualities}, not {q}")
        return torch.full((n,), q - 1, device=self.quality.device)

    def pad(self, x: Tensor) -> Tensor:
        """Pads images (N, 3, H, W) of any size at the bottom and right to the multiple that the transforms need."""
        if x.dim() != 4 or x.shape[1] != 3 or min(x.shape) < 1 or not x.is_floating_point():
            raise ImageError(
                f"{self.name} takes RGB images in [0, 1] as floats (N, 3, H, W), not {x.dtype} {tuple(x.shape)}"
            )
        padding = _missing(x.shape[3], self.multiple), _missing(x.shape[2], self.multiple)
        if not any(padding):
            return x
        return F.pad(x, (0, padding[0], 0, padding[1]), mode="replicate")

    @torch.no_grad()
    def compress(
        self,
        x: Tensor,
        quality: int | None = None,
        online_steps: int = 0,
        progress: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        """Compresses images.

        Args:
            x: (N, 3, H, W) in [0, 1].
            quality: 1 (fewest bits) to 5; the model's own by default.
            online_steps: gradient steps spent on each image's latent, for a stream of lower rate and distortion.
            progress: whether to show a bar for them. With it, Ctrl-C ends them early, and what they found is kept.
            **options: of the codec's own encoder; see its :meth:`encoder_options`.

        Raises:
            ImageError: ``x`` is not a batch of RGB images.
            CodecError: the quality or an option is unknown, or the codec has no online optimization.

        Returns:
            ``strings``: a list of one list with the bytes of each image; ``shape``: (H, W).
        """
        self._check_updated()
        check_whole("online_steps", online_steps)
        if online_steps < 0:
            raise CodecError(f"online_steps is a number from 0 up, not {online_steps!r}")
        q = self._quality_index(quality, x.shape[0])
        size = x.shape[-2:]
        padded = self.pad(x)
        with self.picture_precision():
            latents = self.analyze(padded, q, **self.encoder_options(x, **options))
        strings = [self._encode(latent, q_i, x_i, size) for latent, q_i, x_i in zip(latents, q, padded, strict=True)]
        if online_steps:
            for i, latent in enumerate(self.optimize_online(latents, padded, size, q, online_steps, progress)):
                tuned = self._encode(latent, q[i], padded[i], size)
                if tuned != strings[i]:
                    plain_value, tuned_value = self.objective(x[i : i + 1], q[i], [strings[i], tuned])
                    if tuned_value < plain_value:
                        strings[i] = tuned
        return {"strings": [strings], "shape": torch.Size(size)}

    def _encode(self, latent: Any, quality: Tensor, x: Tensor, size: Sequence[int]) -> bytes:
        phase, payload = encode_at_safe_phase(lambda snap: self.encode_latent(latent, quality, snap, x[None]))
        return pack(self.name, Stream(int(quality), phase, payload), size)

    def encoder_options(self, x: Tensor, **options: Any) -> dict[str, Any]:
        """Checks a caller's options for images (N, 3, H, W); returns them as :meth:`analyze` takes them."""
        if options:
            raise CodecError(f"{self.name}'s encoder has no option {', '.join(options)}")
        return {}

    def optimize_online(
        self, latents: Tensor, x: Tensor, size: Sequence[int], quality: Tensor, steps: int, progress: bool
    ) -> Tensor:
        """Returns latents of lower objective; ``size`` is the images' before they were padded, to (N, 3, H, W)."""
        raise CodecError(f"{self.name} has no online optimization: online_steps must be 0")

    def objective(self, x: Tensor, quality: Tensor, strings: Sequence[bytes]) -> list[float]:
        """Returns what online optimization lowers, of each of some streams of the image ``x`` (1, 3, H, W)."""
        raise NotImplementedError

    @torch.no_grad()
    def decompress(self, strings: Sequence[Sequence[bytes]], shape: Sequence[int], **options: Any) -> dict[str, Tensor]:
        """Decompresses what :meth:`compress` returned, at whatever quality it was made.

        Args:
            strings, shape: as :meth:`compress` returned them.
            **options: of the codec's own decoder; see its specification.

        Returns:
            ``x_hat``: (N, 3, H, W) in [0, 1].

        Raises:
            BitstreamError: a stream is truncated, damaged, another codec's or of another size.
            CodecError: an option has an impossible value.
        """
        self._check_updated()
        chosen = choose(self.spec.decoder_options, self.name, options)
        if len(strings) != 1 or not strings[0]:
            raise BitstreamError(f"{self.name} has one list of strings, with a string per image, not {len(strings)}")
        streams = [self._unpack(data, shape) for data in strings[0]]
        height, width = shape
        padded = self._padded(shape)
        q = torch.tensor([s.quality for s in streams], device=self.quality.device)
        decoded = [self.decode_latent(s.payload, padded, q_i, Snap(s.phase)) for s, q_i in zip(streams, q, strict=True)]
        with self.picture_precision():
            seeds = [s.checksum if chosen.seed is None else chosen.seed for s in streams]
            x_hat = self.synthesize(decoded, q, seeds, chosen)
        return {"x_hat": x_hat[..., :height, :width].float().clamp_(0, 1)}

    @torch.no_grad()
    def stream_bits(self, string: bytes, shape: Sequence[int]) -> dict[str, float]:
        """Decodes one image's symbols and returns how many bits each kind of them takes, by name.

        Raises:
            BitstreamError: as :meth:`decompress`.
        """
        self._check_updated()
        stream = self._unpack(string, shape)
        quality = torch.tensor(stream.quality, device=self.quality.device)
        return self.symbol_bits(stream.payload, self._padded(shape), quality, Snap(stream.phase))

    def _unpack(self, data: bytes, shape: Sequence[int]) -> Stream:
        stream = unpack(self.name, data, shape)
        if stream.quality >= self.n_qualities:
            raise BitstreamError(f"{self.name} has qualities 1 to {self.n_qualities}: the stream is of a newer version")
        return stream

    def _padded(self, shape: Sequence[int]) -> tuple[int, int]:
        return tuple(n + _missing(n, self.multiple) for n in shape)

    def picture_precision(self) -> contextlib.AbstractContextManager:
        """What transforms run in: bfloat16 where that is fast; in training it is the trainer who decides."""
        return contextlib.nullcontext() if self.training else bfloat16_autocast(self.quality.device)

    def header_likelihoods(self, x: Tensor) -> Tensor:
        """Likelihoods (N, 4) that stand for the header's bytes, so that estimated rates count every bit."""
        return torch.full((x.shape[0], HEADER_BYTES), 2.0**-8, device=x.device)

    def _check_updated(self) -> None:
        if any(m.numel() == 0 for n, m in self.named_buffers() if n.endswith("_quantized_cdf")):
            raise CodecError(f"the probability tables of this {self.name} are not built yet: call its update() once")


def _missing(size: int, multiple: int) -> int:
    return -size % multiple
