"""What both codecs share of CompressAI's contract: qualities, padding, headers, checks of input and streams."""

from __future__ import annotations

import contextlib
import functools
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypedDict, TypeVar

import torch
import torch.nn.functional as F
from compressai.models import CompressionModel
from torch import Tensor, nn

# Parts that configurations may name, and that no default does.
import compressai_gen.diffusion.pretrained  # noqa: F401
from compressai_gen.configuration import resolve
from compressai_gen.diffusion.offload import offload
from compressai_gen.diffusion.restore import BaseDecoder, Conditions, Restorer
from compressai_gen.entropy.container import HEADER_BYTES, Stream, pack, unpack
from compressai_gen.errors import BitstreamError, CodecError, ImageError
from compressai_gen.layers.precision import bfloat16_autocast
from compressai_gen.manifest import read_manifest, tags
from compressai_gen.models.capabilities import SearchesOnline
from compressai_gen.models.hub import SharedModel
from compressai_gen.options import DecoderOptions, EncoderOptions, choose
from compressai_gen.qualities import check_quality
from compressai_gen.roles import fingerprint, split
from compressai_gen.specs import CodecSpec
from compressai_gen.weights import unwrapped

__all__ = ["Estimate", "GenerativeCodec", "NoQuantiles", "plain_mode"]

_OVERSHOOT = 0.5
# By so much may samples leave [0, 1], as resampling makes them.

_LARGEST_WEIGHT = 1e6
# Of no trained model; networks of larger ones are so steep that nothing they predict is exact.

T = TypeVar("T")


def plain_mode(method: Callable[..., T]) -> Callable[..., T]:
    """Has a method run without gradients and outside of ``torch.inference_mode``.

    What is made once and kept, such as float64 copies and metric networks, must serve later calls that need gradients.
    """

    @functools.wraps(method)
    def plain(*args: Any, **kwargs: Any) -> T:
        with torch.inference_mode(False), torch.no_grad():
            return method(*args, **kwargs)

    return plain


class Estimate(TypedDict):
    """What a codec's ``forward`` returns, in training mode as in evaluation.

    Attributes:
        x_hat: pictures (N, 3, H, W).
        likelihoods: of each kind of symbol by name, (N, …); one where nothing is coded.
        terms: what training may weigh or log beside rate and distortion; empty in evaluation.
    """

    x_hat: Tensor
    likelihoods: dict[str, Tensor]
    terms: dict[str, Tensor]


class GenerativeCodec(CompressionModel, SharedModel):
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
        self.register_buffer("quality", torch.tensor(3.0, dtype=torch.float32))
        self.no_quantiles: nn.Module | None = None

    @classmethod
    def from_state_dict(cls, state_dict: dict[str, Tensor], **config: Any) -> GenerativeCodec:
        """Builds the model of ``config`` with these weights, with its generative half if they have one.

        Without a configuration it is the default one or, where only that has parameters of these names and shapes, one
        of the shipped weights'.
        """
        state_dict = unwrapped(state_dict)
        bare = {}
        if "restorer" in cls.defaults and not any(name.startswith("restorer.") for name in state_dict):
            bare = {"restorer": None}
        configs = [bare | config]
        if not config:
            configs += [read_manifest()[name]["config"] | bare for name in tags(cls.name)]
        for choice in configs:
            model = cls(**choice).float()  # whatever type is the default
            if model._fits(state_dict):
                break
        model.load_state_dict(state_dict)
        return model

    def _fits(self, state_dict: Mapping[str, Tensor]) -> bool:
        saved = self.state_dict()  # which some parameters are no part of
        shapes = {name: parameter.shape for name, parameter in self.named_parameters() if name in saved}
        return shapes.keys() <= state_dict.keys() and all(state_dict[n].shape == s for n, s in shapes.items())

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True) -> Any:
        """Loads weights; see :class:`torch.nn.Module`. Those saved inside a wrapper (``module.``) fit, too."""
        return super().load_state_dict(unwrapped(state_dict), strict=strict)

    def aux_loss(self) -> Tensor:
        """Returns the loss of the factorized priors' quantiles, zero where there are none.

        CompressAI's training scripts minimize it beside the main loss. Nothing here depends on it: the tails are
        searched for when the tables are built.
        """
        if self.no_quantiles is not None:
            return 0 * self.no_quantiles.quantiles.sum()
        return super().aux_loss()

    def fingerprint(self) -> str:
        """Returns that of the coding part, by which files name it; see :func:`compressai_gen.roles.fingerprint`."""
        return fingerprint(split(self.state_dict(), self.coding)["coding"])

    def offload(self, device: str | torch.device, by_layer: bool = False) -> None:
        """Computes on a device whose memory is too small for all of a pretrained restorer.

        Its autoencoder and U-Net wait in the processor's memory, and come to the device when they are called. The model
        is not to be moved afterwards.

        Args:
            device, by_layer: see :func:`compressai_gen.diffusion.offload.offload`.

        Raises:
            CodecError: the model has no pretrained part, or there is no such device.
            MissingExtraError: ``accelerate`` is not installed.
        """
        offload(self, [] if self.restorer is None else self.restorer.large(), device, by_layer)

    @abstractmethod
    def analyze(self, x: Tensor, index: Tensor) -> Sequence[Any]:
        """Maps padded images (N, 3, H, W) to what is coded of each, at quality indexes (N,), real numbers from 0."""

    @abstractmethod
    def encode_latent(self, latent: Any, index: Tensor, x: Tensor) -> bytes:
        """Codes one image's latent at a quality index of no dimension; ``x`` (1, 3, H, W) is the image."""

    @abstractmethod
    def decode_latent(self, payload: bytes, shape: tuple[int, int], index: Tensor) -> Any:
        """Decodes what :meth:`synthesize` needs of one image; ``shape`` is the padded image's (height, width)."""

    @abstractmethod
    def symbol_bits(self, payload: bytes, shape: tuple[int, int], index: Tensor) -> dict[str, float]:
        """Bits of each kind of symbol in a payload, by name; arguments as of :meth:`decode_latent`."""

    @abstractmethod
    def synthesize(
        self, decoded: Sequence[Any], index: Tensor, seeds: Sequence[int], options: DecoderOptions
    ) -> Tensor:
        """Maps what was decoded of N images at quality indexes (N,) to padded images."""

    def conditions(self, x: Tensor, index: Tensor) -> tuple[Conditions, dict[str, Tensor]]:
        """Encodes padded images (N, 3, H, W) at quality indexes (N,), as far as training a restorer needs it.

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

    def quality_indexes(self, quality: Tensor | float | None, n: int, on_grid: bool = False) -> Tensor:
        """Returns by what the networks know the qualities of N images: real numbers from 0 (N,).

        Args:
            quality: from 1, one for all or a tensor (N,); None: the model's own.
            n: N.
            on_grid: whether all must be qualities that a stream can state, as single numbers must.

        Raises:
            CodecError: it is no quality of this codec.
        """
        asked = self.quality if quality is None else quality
        if isinstance(asked, Tensor) and asked.dim() and not on_grid:
            index = asked.to(self.quality.device, torch.float32) - 1
            if not self.training and not ((index >= 0) & (index <= self.n_qualities - 1)).all():
                raise CodecError(f"{self.name} has qualities 1 to {self.n_qualities}, not {asked.tolist()}")
        else:
            values = asked.flatten().tolist() if isinstance(asked, Tensor) else [asked]
            checked = [check_quality(self.name, value, self.n_qualities) for value in values]
            index = torch.tensor(checked, dtype=torch.float32, device=self.quality.device) - 1
        if index.dim() != 1 or len(index) not in (1, n):
            raise CodecError(f"quality is one number, or one for each of {n} images, not {tuple(index.shape)} of them")
        return index.expand(n)

    def pad(self, x: Tensor) -> Tensor:
        """Pads images (N, 3, H, W) of any size at the bottom and right to the multiple that the transforms need.

        Returns float32.

        Raises:
            ImageError: they are not RGB images in [0, 1].
        """
        if x.dim() != 4 or x.shape[1] != 3 or min(x.shape) < 1 or not x.is_floating_point():
            raise ImageError(
                f"{self.name} takes RGB images in [0, 1] as floats (N, 3, H, W), not {x.dtype} {tuple(x.shape)}"
            )
        if not self.training:
            self._check_precision(self.quality)
            self._check_values(x)
        return self._extended(x.float())

    def _extended(self, fields: Tensor) -> Tensor:
        """Repeats the last row and column of fields (N, C, H, W) up to the multiple that the transforms need."""
        padding = _missing(fields.shape[3], self.multiple), _missing(fields.shape[2], self.multiple)
        if not any(padding):
            return fields
        return F.pad(fields, (0, padding[0], 0, padding[1]), mode="replicate")

    def _check_values(self, x: Tensor) -> None:
        low, high = (float(value) for value in x.aminmax())
        if not math.isfinite(low + high):
            raise ImageError(f"{self.name} takes pictures of finite numbers: this one holds NaN or infinity")
        if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
            raise ImageError(
                f"{self.name} takes pictures in [0, 1], and this one holds numbers from {low:g} to {high:g}: "
                "divide samples of 8 bits by 255"
            )

    @plain_mode
    def compress(
        self,
        x: Tensor,
        quality: float | Tensor | None = None,
        progress: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        """Compresses images.

        Args:
            x: (N, 3, H, W) in [0, 1].
            quality: 1 (fewest bits) to 5 in steps of 1/32, one for all or a tensor with one for each image; the model's
                own by default.
            progress: whether to show a bar for an online search. With it, Ctrl-C ends that early, and what was found is
                kept.
            **options: of the codec's own encoder; see its specification.

        Raises:
            ImageError: ``x`` is not a batch of RGB images in [0, 1].
            CodecError: the quality or an option is unknown, or the weights are not finite or of another precision than
                float32.

        Returns:
            ``strings``: a list of one list with the bytes of each image; ``shape``: (H, W).
        """
        self._check_usable()
        chosen = choose(self.spec.encoder_options, self.name, options)
        padded = self.pad(x)
        index = self.quality_indexes(quality, len(x), on_grid=True)
        size = x.shape[-2:]
        with self.picture_precision():
            latents = self.analyze(padded, index, **self.analysis_options(x, chosen))
        strings = [self._encode(*args, size) for args in zip(latents, index, padded, strict=True)]
        if isinstance(self, SearchesOnline) and chosen.online_steps:
            strings = self.search_online(latents, padded, size, index, strings, chosen.online_steps, progress)
        return {"strings": [strings], "shape": torch.Size(size)}

    def _encode(self, latent: Any, index: Tensor, x: Tensor, size: Sequence[int]) -> bytes:
        for part in latent if isinstance(latent, tuple) else (latent,):
            if not torch.isfinite(part).all():
                raise CodecError(
                    f"the latent of this picture is not finite: the weights of this {self.name} are damaged"
                )
        return pack(self.name, Stream(1 + float(index), self.encode_latent(latent, index, x[None])), size)

    def analysis_options(self, x: Tensor, options: EncoderOptions) -> dict[str, Any]:
        """Returns the encoder's options for images (N, 3, H, W), not padded, as :meth:`analyze` takes them."""
        return {}

    @plain_mode
    def decompress(self, strings: Sequence[Sequence[bytes]], shape: Sequence[int], **options: Any) -> dict[str, Tensor]:
        """Decompresses what :meth:`compress` returned, at whatever quality it was made.

        Args:
            strings, shape: as :meth:`compress` returned them.
            **options: of the codec's own decoder; see its specification.

        Returns:
            ``x_hat``: (N, 3, H, W) in [0, 1].

        Raises:
            BitstreamError: a stream is truncated, damaged, another codec's or of another size.
            CodecError: an option has an impossible value, or the weights are not finite or not float32.
        """
        self._check_usable()
        chosen = choose(self.spec.decoder_options, self.name, options)
        if len(strings) != 1 or not strings[0]:
            raise BitstreamError(f"{self.name} has one list of strings, with a string per image, not {len(strings)}")
        streams = [self._unpack(data, shape) for data in strings[0]]
        height, width = shape
        padded = self._padded(shape)
        index = torch.stack([self._index_of(stream) for stream in streams])
        decoded = [self.decode_latent(s.payload, padded, index_i) for s, index_i in zip(streams, index, strict=True)]
        with self.picture_precision():
            seeds = [s.checksum if chosen.seed is None else chosen.seed for s in streams]
            x_hat = self.synthesize(decoded, index, seeds, chosen)
        if not torch.isfinite(x_hat).all():
            raise CodecError(f"the decoded picture is not finite: the weights of this {self.name} are damaged")
        return {"x_hat": x_hat[..., :height, :width].float().clamp_(0, 1)}

    @plain_mode
    def stream_bits(self, string: bytes, shape: Sequence[int]) -> dict[str, float]:
        """Decodes one image's symbols and returns how many bits each kind of them takes, by name.

        Raises:
            BitstreamError: as :meth:`decompress`.
        """
        self._check_usable()
        stream = self._unpack(string, shape)
        return self.symbol_bits(stream.payload, self._padded(shape), self._index_of(stream))

    def _index_of(self, stream: Stream) -> Tensor:
        return torch.tensor(stream.quality - 1, dtype=torch.float32, device=self.quality.device)

    def _unpack(self, data: bytes, shape: Sequence[int]) -> Stream:
        stream = unpack(self.name, data, shape)
        if stream.quality > self.n_qualities:
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

    def _check_usable(self) -> None:
        for name, tensor in (*self.named_parameters(), *self.named_buffers()):
            if name.endswith("_quantized_cdf") and not tensor.numel():
                raise CodecError(
                    f"the probability tables of this {self.name} are not built yet: call its update() once"
                )
            if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:  # as layers that wait elsewhere
                continue
            if not name.startswith("restorer."):  # whose pretrained parts may be kept in half precision
                self._check_precision(tensor)
            low, high = tensor.detach().aminmax()  # ten times as fast as the norm, and NaN is both
            largest = float(torch.maximum(-low, high))
            if not largest <= _LARGEST_WEIGHT:
                raise CodecError(
                    f"the weights of this {self.name} are damaged: {name} holds {largest:g}, and no trained model has "
                    f"weights that are not finite or above {_LARGEST_WEIGHT:g}; load them again"
                )

    def _check_precision(self, tensor: Tensor) -> None:
        if tensor.dtype != torch.float32:
            raise CodecError(
                f"{self.name} codes with float32 weights, and some of these are {tensor.dtype}: call the model's "
                "float() first; transforms take bfloat16 by themselves where that is fast"
            )


class NoQuantiles(nn.Module):
    """Stands where CompressAI's training scripts look for factorized priors, in a codec that has none.

    Their second optimizer wants parameters called ``quantiles``. This one has no effect, and no state dict holds it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.quantiles = nn.Parameter(torch.zeros(1))

    def _save_to_state_dict(self, *args: Any) -> None:
        pass

    def _load_from_state_dict(self, *args: Any) -> None:
        pass


def _missing(size: int, multiple: int) -> int:
    return -size % multiple
