"""Pictures to ``.cgen`` files and back: ``compressai_gen.encode(image)`` and ``compressai_gen.decode(data)``."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from compressai_gen import zoo
from compressai_gen.cgen import FINGERPRINT_BYTES, CgenFile, check_size, describe_file
from compressai_gen.data.images import array_tensor, read_image, rgb_tensor, to_pil
from compressai_gen.entropy.container import HEADER_BYTES
from compressai_gen.errors import BitstreamError, CodecError, ImageError, ZooError
from compressai_gen.manifest import find_fingerprint, find_weights
from compressai_gen.models.base import GenerativeCodec
from compressai_gen.models.capabilities import TakesRegions
from compressai_gen.qualities import STEPS_PER_QUALITY
from compressai_gen.specs import find_spec, own_specs, specs

__all__ = ["DEFAULT_QUALITY", "MAX_PIXELS", "decode", "describe", "encode", "load_picture"]

MAX_PIXELS = 16384 * 16384
"""Largest picture that is read or decoded unless a caller says otherwise."""

DEFAULT_QUALITY = 3

DEFAULT_MODEL = next(iter(own_specs()))

Buffer: TypeAlias = bytes | bytearray | memoryview
PictureSource: TypeAlias = str | os.PathLike | BinaryIO | Buffer | Image.Image | Tensor | np.ndarray
"""What :func:`load_picture` takes."""
FileSource: TypeAlias = str | os.PathLike | BinaryIO | Buffer
"""What :func:`decode` takes."""


def encode(
    image: PictureSource,
    model: str | GenerativeCodec = DEFAULT_MODEL,
    quality: float | None = None,
    *,
    target_bpp: float | None = None,
    target_bytes: int | None = None,
    online_steps: int = 0,
    roi: PictureSource | None = None,
    seed: int | None = None,
    device: str | torch.device = "cpu",
    progress: bool = False,
    **options: Any,
) -> bytes:
    """Compresses a picture.

    Args:
        image: a path, an open file or the bytes of one, a Pillow image, a NumPy array (H, W, 3), or a uint8 tensor
            (3, H, W); see :func:`load_picture`.
        model: the name of a codec (``cgdm``), of its weights (``cgdm.<tag>``), or a model.
        quality: 1 (fewest bits) to 5 in steps of 1/32; 3 without a target.
        target_bpp, target_bytes: in place of a quality, the largest file that is wanted, in bits per pixel or bytes:
            the highest quality that keeps to it is taken.
        online_steps: see :meth:`compressai_gen.models.base.GenerativeCodec.compress`; with a target, the file may end
            up smaller than it.
        roi: region of interest, for codecs that take one: a picture of the same size, or a tensor (H, W) of numbers
            from 0 up. Bits go first to what is brighter or larger; the rate stays the same.
        seed: of the decoder's noise; by default it follows from the stream.
        device: where the model runs, if it is given by name.
        progress: whether to show a bar for online optimization, which Ctrl-C then ends early.
        **options: further ones of the codec's encoder.

    Returns:
        A ``.cgen`` file.

    Raises:
        ImageError: the picture cannot be read.
        CodecError: model, quality or an option is unknown, or no quality keeps to the target.
    """
    if sum(value is not None for value in (quality, target_bpp, target_bytes)) > 1:
        raise CodecError("quality, target_bpp and target_bytes exclude each other: give one")
    if seed is not None and not 0 <= seed < 2**32:
        raise CodecError(f"seed is a number from 0 to 2^32 - 1, not {seed!r}")
    picture = load_picture(image)
    codec = _named(model, str(device)) if isinstance(model, str) else _checked(model)
    file_of = _encoder(codec, picture, roi, seed, options)
    online: dict[str, Any] = {"online_steps": online_steps, "progress": progress} if online_steps else {}
    if target_bpp is None and target_bytes is None:
        return file_of(DEFAULT_QUALITY if quality is None else quality, **online)
    n_pixels = picture[0].numel()
    limit = target_bytes if target_bytes is not None else target_bpp * n_pixels / 8
    return _within(limit, codec, file_of, online, n_pixels)


def _encoder(
    codec: GenerativeCodec, picture: Tensor, roi: PictureSource | None, seed: int | None, options: dict[str, Any]
) -> Callable[..., bytes]:
    """Returns what makes the file of a picture of a quality and further options."""
    if roi is not None and not isinstance(codec, TakesRegions):
        able = [name for name, spec in specs().items() if issubclass(spec.load(), TakesRegions)]
        raise CodecError(f"{codec.name} knows no region of interest: leave roi out, or take {', '.join(able)}")
    size = tuple(picture.shape[1:])
    check_size(size)
    x = picture.to(codec.quality.device)[None].float().div_(255)
    weights = bytes.fromhex(codec.fingerprint())[:FINGERPRINT_BYTES]
    if roi is not None:
        options = options | codec.region_options(_importance(roi, size))

    def file_of(quality: float, **more: Any) -> bytes:
        out = codec.compress(x, quality, **options, **more)
        return CgenFile(weights, size, out["strings"][0][0], seed).to_bytes()

    return file_of


def _within(
    limit: float, codec: GenerativeCodec, file_of: Callable[..., bytes], online: dict[str, Any], n_pixels: int
) -> bytes:
    """Returns the file of the highest quality that keeps to a limit in bytes."""
    best = _highest_within(limit, file_of, codec.n_qualities)
    if best is None:
        smallest = len(file_of(1))
        raise CodecError(
            f"{codec.name} needs {smallest} bytes ({8 * smallest / n_pixels:.4f} bpp) for this picture at its lowest "
            f"quality, more than the {limit:.0f} that are allowed: allow more, or take another model"
        )
    chosen, data = best
    tuned = file_of(chosen, **online) if online else data
    return tuned if len(tuned) <= limit else data


def _highest_within(limit: float, file_of: Callable[[float], bytes], n_qualities: int) -> tuple[float, bytes] | None:
    """Finds the highest quality whose file keeps to the limit, as rates rise with quality.

    The next guess is where the logarithm of the size, taken as linear between the nearest sizes on both sides, meets
    the limit; every third one halves what is left, should the sizes be far from that.
    """
    fits, exceeds = 0, (n_qualities - 1) * STEPS_PER_QUALITY
    smallest, largest = file_of(1), file_of(n_qualities)
    if len(largest) <= limit:
        return n_qualities, largest
    if len(smallest) > limit:
        return None
    best, too_large, tries = smallest, len(largest), 0
    while exceeds - fits > 1:
        tries += 1
        share = 0.5 if tries % 3 == 0 else math.log(limit / len(best)) / math.log(too_large / len(best))
        guess = min(max(fits + round(share * (exceeds - fits)), fits + 1), exceeds - 1)
        data = file_of(1 + guess / STEPS_PER_QUALITY)
        if len(data) <= limit:
            fits, best = guess, data
        else:
            exceeds, too_large = guess, len(data)
    return 1 + fits / STEPS_PER_QUALITY, best


def decode(
    data: FileSource,
    *,
    model: GenerativeCodec | None = None,
    steps: int | None = None,
    seed: int | None = None,
    device: str | torch.device = "cpu",
    max_pixels: int = MAX_PIXELS,
    **options: Any,
) -> Image.Image:
    """Decompresses a ``.cgen`` file.

    Args:
        data: the bytes of the file, its path, or the open file.
        model: what decodes it; by default the zoo's newest weights that can.
        steps: of the sampler: 0 for the base picture, or 1, 2, 4, 8; the model's default if none are given.
        seed: of the noise, in place of the file's.
        device: where the model runs.
        max_pixels: larger pictures are refused before memory is taken for them.
        **options: further ones of the codec's decoder.

    Returns:
        An RGB image.

    Raises:
        BitstreamError: the file is truncated, damaged, of another format, or needs weights that are not here.
        CodecError: steps or seed are impossible.
    """
    file = CgenFile.from_bytes(_file_bytes(data))
    height, width = file.size
    if height * width > max_pixels:
        raise BitstreamError(
            f"the file states a picture of {width}x{height} pixels, more than the {max_pixels} that are allowed"
        )
    seed = file.seed if seed is None else seed
    codec = _decoder_of(file, str(device)) if model is None else _fitting(_checked(model), file)
    x_hat = codec.decompress([[file.stream]], file.size, steps=steps, seed=seed, **options)["x_hat"]
    return to_pil(x_hat[0].mul_(255).round_().to(torch.uint8))


def describe(data: FileSource, streams: bool = False) -> dict[str, Any]:
    """Tells what a ``.cgen`` file says of itself.

    Args:
        data: as for :func:`decode`.
        streams: also decode its symbols, to tell how many bytes each kind takes.

    Returns:
        ``model``, ``quality``, ``width``, ``height``, ``seed``, ``weights``, ``weights_known``, ``bytes``, ``bpp`` and,
        if asked for, ``streams``: bytes by name.

    Raises:
        BitstreamError: as :func:`decode`; unknown weights are an error only where symbols are asked for.
    """
    data = _file_bytes(data)
    file = CgenFile.from_bytes(data)
    height, width = file.size
    described = describe_file(data)
    if streams:
        if height * width > MAX_PIXELS:
            raise BitstreamError(f"the file states a picture of {width}x{height} pixels, more than can be decoded")
        bits = _decoder_of(file, "cpu").stream_bits(file.stream, file.size)
        described["streams"] = {"headers": len(data) - len(file.stream) + HEADER_BYTES}
        described["streams"] |= {name: round(count / 8, 1) for name, count in bits.items()}
    return described


def _file_bytes(data: FileSource) -> bytes:
    if isinstance(data, Buffer):
        return bytes(data)
    try:
        if isinstance(data, str | os.PathLike):
            return Path(data).read_bytes()
        if callable(getattr(data, "read", None)) and isinstance(read := data.read(), bytes):
            return read
    except (OSError, ValueError) as error:  # a closed file is a ValueError
        raise BitstreamError(f"{data} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    raise BitstreamError(
        f"a .cgen file is given by its bytes, its path, or as a file opened with 'rb', not as {type(data).__name__}"
    )


def load_picture(image: PictureSource) -> Tensor:
    """Returns any picture as a uint8 tensor (3, H, W) in sRGB.

    Files (by path, open, or as bytes) and Pillow images are turned upright as their Exif orientation says and converted
    from their ICC profile or the other colours that they state; transparent pixels are laid over white, 16-bit samples
    lose their low byte. NumPy arrays are (H, W), (H, W, 3) or (H, W, 4), in the order of colours that Pillow has, red
    first, of uint8 or uint16. Tensors are taken as they are.

    Raises:
        ImageError: it is no picture, or a file with more than :data:`MAX_PIXELS`.
    """
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3 or not image.numel():
            raise ImageError(f"a picture is a uint8 tensor (3, H, W), not {image.dtype} {tuple(image.shape)}")
        return image
    if isinstance(image, Image.Image):
        try:
            return rgb_tensor(image, to_srgb=True)
        except (OSError, ValueError, SyntaxError) as error:  # Pillow reads pixels only now
            raise ImageError(f"the Pillow image cannot be read: {error}") from error
    if isinstance(image, np.ndarray):
        return array_tensor(image)
    if isinstance(image, Buffer):
        image = BytesIO(image)
    return read_image(image, to_srgb=True, max_pixels=MAX_PIXELS)


def _importance(roi: Any, size: tuple[int, int]) -> Tensor:
    values = roi if isinstance(roi, Tensor) and roi.dim() == 2 else load_picture(roi).float().mean(0) / 255
    if tuple(values.shape) != size:
        raise ImageError(
            f"the region of interest has {values.shape[1]}x{values.shape[0]} pixels and the picture "
            f"{size[1]}x{size[0]}: they must be the same"
        )
    return values


def _named(model: str, device: str) -> GenerativeCodec:
    """The model of a codec's or of its weights' name."""
    name, dot, _ = model.partition(".")
    find_spec(name)
    return _model(find_weights(name, model if dot else None), name, device)


def _checked(model: Any) -> GenerativeCodec:
    if not isinstance(model, GenerativeCodec):
        raise CodecError(f"model is a name or a codec's model, not {type(model).__name__}")
    if model.training:
        raise CodecError(f"this {model.name} is in training mode: call its eval() first")
    return model


def _fitting(model: GenerativeCodec, file: CgenFile) -> GenerativeCodec:
    if file.model != model.name:
        raise BitstreamError(f"the file was made by {file.model!r}: decode it with that, not with {model.name}")
    if (here := model.fingerprint()[: 2 * FINGERPRINT_BYTES]) != file.weights.hex():
        raise BitstreamError(
            f"the file was made with a coding part {file.weights.hex()}…, that of this {model.name} is {here}…: "
            "decode it with the model that made it"
        )
    return model


def _weights_of(file: CgenFile) -> str | None:
    try:
        return find_fingerprint(file.model, file.weights.hex())
    except ZooError:
        return None


def _decoder_of(file: CgenFile, device: str) -> GenerativeCodec:
    try:
        return _model(find_fingerprint(file.model, file.weights.hex()), file.model, device)
    except ZooError as error:
        raise BitstreamError(f"the file cannot be decoded: {error}") from error


@functools.lru_cache(maxsize=4)
def _model(weights: str, name: str, device: str) -> GenerativeCodec:
    return zoo.load(name, DEFAULT_QUALITY, weights=weights).to(device)
