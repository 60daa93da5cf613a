"""Any image file as an 8-bit RGB tensor, and back."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from compressai_gen.data.color import convert_to_srgb, mark_free, stated_code_points
from compressai_gen.errors import ImageError
from compressai_gen.files import list_files

__all__ = [
    "IMAGE_SUFFIXES",
    "OUTPUT_MARK",
    "array_tensor",
    "image_size",
    "is_output",
    "list_images",
    "pixel_hash",
    "read_image",
    "rgb_tensor",
    "to_pil",
    "write_image",
]

IMAGE_SUFFIXES = frozenset(
    f".{kind}"
    for kind in (
        *(
            "apng",
            "avif",
            "avifs",
            "bmp",
            "dib",
            "gif",
            "heic",
            "heif",
            "j2c",
            "j2k",
            "jfif",
            "jp2",
            "jpc",
            "jpe",
            "jpeg",
        ),
        *("jpf", "jpg", "jpx", "jxl", "pbm", "pcx", "pgm", "png", "pnm", "ppm", "sgi", "tga", "tif", "tiff", "webp"),
    )
)
"""Of files that are pictures. Some need a plugin of Pillow: without it, they are told as unreadable."""


def read_image(source: str | os.PathLike | BinaryIO, to_srgb: bool = False, max_pixels: int | None = None) -> Tensor:
    """Read an image file as RGB.

    The picture is turned as its Exif orientation says, if that can be read. 16-bit samples are reduced to their high
    byte, grey is repeated in three channels, palettes and CMYK are converted by Pillow, transparent pixels are laid
    over white. Of a file with several frames the first is read.

    Args:
        source: path, or an open binary file.
        to_srgb: convert from the colours that the file states, see :mod:`compressai_gen.data.color`. Benchmarks take
            samples as they are.
        max_pixels: larger pictures are refused before they are read; by default Pillow's own limit holds.

    Returns:
        uint8 tensor of shape (3, H, W).

    Raises:
        ImageError: the file is missing, is not an image, is damaged, too large, or holds 32-bit samples of unknown
            range, or is to be converted and has colours without a conversion, such as PQ's.
    """
    name = source if isinstance(source, str | os.PathLike) else getattr(source, "name", "the picture that was given")
    if isinstance(source, str | os.PathLike):
        source = Path(source)
        _check_file(source)
    elif not callable(getattr(source, "read", None)):
        raise ImageError(f"a picture cannot be a {type(source).__name__}: give a path, an open file or pixels")
    try:
        with _open(source, max_pixels) as file:
            return rgb_tensor(file, to_srgb)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: the picture is too large ({error})") from error
    # Pillow's format readers raise errors of many kinds on damaged files; to the user they all mean the same.
    except Exception as error:
        raise ImageError(f"{name}: not a readable image ({error})") from error


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Return width and height of a picture as its file states them, without decoding it.

    Raises:
        ImageError: the file is missing, or is not an image.
    """
    _check_file(Path(path))
    try:
        with _open(Path(path), None) as file:
            return file.size
    except Exception as error:  # of many kinds, as in read_image
        raise ImageError(f"{path}: not a readable image ({error})") from error


def _check_file(path: Path) -> None:
    try:
        if not path.is_file():
            raise ImageError(f"{path}: {'a folder, not a picture' if path.is_dir() else 'no such file'}")
        if path.stat().st_size == 0:
            raise ImageError(f"{path}: the file is empty")
    except (OSError, ValueError) as error:  # no right to look, a name with a zero byte
        raise ImageError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _formats() -> list[str]:
    """All that Pillow reads by itself: for EPS, it has Ghostscript run the file, whatever its name says it is."""
    Image.init()
    return [name for name in Image.ID if name != "EPS"]


def _open(source: Path | BinaryIO, max_pixels: int | None) -> Image.Image:
    # Pillow's limit and the filter of warnings are the whole process's, and other threads open pictures, too.
    with _OPENING, _pixel_limit(max_pixels):
        try:
            return Image.open(source, formats=_formats())
        except Exception:
            # Pillow's reader of AVIF, unlike others, fails as a whole at Exif that is damaged.
            data = source.read_bytes() if isinstance(source, Path) else _read_again(source)
            if data[4:8] != b"ftyp" or (repaired := mark_free(data)) == data:
                raise
            return Image.open(io.BytesIO(repaired), formats=_formats())


def _read_again(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


_OPENING = threading.RLock()


@contextmanager
def _pixel_limit(pixels: int | None) -> Iterator[None]:
    before = Image.MAX_IMAGE_PIXELS
    if pixels is not None:
        # Pillow warns above its limit and refuses above twice that.
        Image.MAX_IMAGE_PIXELS = pixels // 2
    try:
        with warnings.catch_warnings():
            if pixels is not None:
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def rgb_tensor(image: Image.Image, to_srgb: bool = False) -> Tensor:
    """Return a Pillow image, converted as :func:`read_image` says, as a uint8 tensor (3, H, W).

    Raises:
        ImageError: it has 32-bit samples of unknown range, or is to be converted and its colours have no conversion.
    """
    stated = stated_code_points(image) if to_srgb else None
    clear = image.info.get("transparency")
    if isinstance(clear, tuple) and any("16" in str(part[3]) for part in image.tile):
        # Of 16-bit colour, Pillow keeps the high byte, but of the colour that is transparent both.
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    image.load()
    image = _upright(_to_8_bits(image))
    if to_srgb:
        image = convert_to_srgb(image, stated)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def array_tensor(array: np.ndarray) -> Tensor:
    """Return a NumPy array as a uint8 tensor (3, H, W).

    Args:
        array: uint8, or uint16, of which the high byte is kept; (H, W) or (H, W, 1) is grey, (H, W, 3) red, green and
            blue, as Pillow has them, (H, W, 4) has opacity, too, and is laid over white. The order (3, H, W) of
            PyTorch is taken where it can be nothing else.

    Raises:
        ImageError: it is of another type or shape.
    """
    wide = array.dtype.kind == "u" and array.dtype.itemsize == 2
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    pixels = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if not fits or not pixels.size or not (wide or array.dtype == np.uint8):
        raise ImageError(
            f"a picture is an array (H, W, 3) of uint8, 0 to 255, not {array.shape} of {array.dtype}"
            + (": multiply by 255, round and convert" if fits and array.dtype.kind == "f" else "")
        )
    return rgb_tensor(Image.fromarray(np.ascontiguousarray(pixels >> 8 if wide else pixels, dtype=np.uint8)))


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its Exif or XMP says; what cannot be read there says nothing."""
    try:
        with _OPENING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            method = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # of many kinds: Pillow parses TIFF tags, hexadecimal digits and XML here
        return image
    if method is None:
        return image
    return _like(image, image.transpose(method))


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture of each orientation of Exif upright."""


def _to_8_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        samples, tags = np.asarray(image).astype(np.uint16), getattr(image, "tag_v2", {})
        bits, clear = tags.get(_BITS_PER_SAMPLE, (16,))[0], image.info.get("transparency")
        opaque = None if clear is None else samples != clear  # of all 16 bits
        # Pillow's own conversion clips at 255. The high byte is also what it keeps of 16-bit colour.
        samples = (samples >> max(0, bits - 8)).clip(0, 255).astype(np.uint8)
        if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # which Pillow heeds for samples of up to 8 bits
            samples = 255 - samples
        if opaque is None:
            return _like(image, Image.fromarray(samples))
        return _like(image, Image.fromarray(np.dstack([samples, 255 * opaque.astype(np.uint8)])))
    if image.mode in ("I", "F"):
        raise ImageError("32-bit samples have no defined range; save the picture with 8 or 16 bits")
    return image


def _like(image: Image.Image, converted: Image.Image) -> Image.Image:
    """Give a converted image what the file said beside the samples."""
    converted.info = {
        key: value for key, value in image.info.items() if key != "transparency" or converted.mode != "LA"
    }
    converted.format = image.format
    return converted


_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
"""Tags of TIFF, and a value of the second."""


def to_pil(image: Tensor) -> Image.Image:
    """Return a uint8 tensor of shape (3, H, W) as a Pillow image."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def write_image(image: Tensor, path: str | Path, texts: Mapping[str, str] | None = None) -> None:
    """Write a uint8 tensor of shape (3, H, W) as a PNG file, with `texts` among its metadata."""
    metadata = PngInfo()
    for key, text in (texts or {}).items():
        metadata.add_text(key, text)
    to_pil(image).save(path, format="PNG", pnginfo=metadata)


OUTPUT_MARK = {"Software": "compressai-gen evaluation"}
"""Text in every PNG file that an evaluation writes, plots and reconstructions, by which it never measures one."""

_OLD_MARK = "compressai-gen row"


def is_output(path: str | Path) -> bool:
    """Return whether a picture was written by an evaluation."""
    if Path(path).suffix.lower() != ".png":
        return False
    try:
        with _open(Path(path), None) as file:
            return file.info.get("Software") == OUTPUT_MARK["Software"] or _OLD_MARK in file.info
    except Exception:  # what cannot be read, readers tell
        return False


def pixel_hash(image: Tensor) -> str:
    """Return the SHA-256 of the samples of a uint8 picture (3, H, W): whatever file it came from, the same."""
    return hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()


def list_images(folder: str | Path) -> list[Path]:
    """All image files below a folder, by suffix, as :func:`~compressai_gen.files.list_files` lists them."""
    return list_files(folder, IMAGE_SUFFIXES)
