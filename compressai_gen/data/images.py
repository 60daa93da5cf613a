"""Any image file as an 8-bit RGB tensor, and back."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from compressai_gen.errors import ImageError

__all__ = [
    "IMAGE_SUFFIXES",
    "array_tensor",
    "image_size",
    "list_images",
    "pixel_hash",
    "read_image",
    "rgb_tensor",
    "to_pil",
    "write_image",
]

IMAGE_SUFFIXES = frozenset({".avif", ".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def read_image(source: str | os.PathLike | BinaryIO, to_srgb: bool = False, max_pixels: int | None = None) -> Tensor:
    """Read an image file as RGB.

    The picture is turned as its EXIF orientation says. 16-bit samples are reduced to their high byte, grey is repeated
    in three channels, palettes and CMYK are converted by Pillow, transparent pixels are laid over white. Of a file with
    several frames the first is read.

    Args:
        source: path, or an open binary file.
        to_srgb: convert from the file's ICC profile, if it has one. Benchmarks take samples as they are.
        max_pixels: larger pictures are refused before they are read; by default Pillow's own limit holds.

    Returns:
        uint8 tensor of shape (3, H, W).

    Raises:
        ImageError: the file is missing, is not an image, is damaged, too large, or holds 32-bit samples of unknown
            range.
    """
    name = source if isinstance(source, str | os.PathLike) else getattr(source, "name", "the picture that was given")
    if isinstance(source, str | os.PathLike):
        source = Path(source)
        _check_file(source)
    elif not callable(getattr(source, "read", None)):
        raise ImageError(f"a picture cannot be a {type(source).__name__}: give a path, an open file or pixels")
    try:
        with _pixel_limit(max_pixels), Image.open(source, formats=_formats()) as file:
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
        with Image.open(path, formats=_formats()) as file:
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
        ImageError: it has 32-bit samples of unknown range.
    """
    profile = image.info.get("icc_profile") if to_srgb else None
    of_16_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    image = _to_8_bits(ImageOps.exif_transpose(image), of_16_bits)
    if profile:
        image = _to_srgb(image, profile)
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


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert colours; an image whose profile is damaged or does not fit its mode is left as it is."""
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    # A profile speaks of the samples without transparency, and palettes are of RGB.
    plain = image if image.mode in ("L", "RGB", "CMYK") else image.convert("L" if image.mode == "LA" else "RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(plain, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return image
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def _to_8_bits(image: Image.Image, of_16_bits: bool) -> Image.Image:
    if of_16_bits:
        # Pillow's own conversion clips at 255. The high byte is also what it keeps of 16-bit colour.
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ImageError("32-bit samples have no defined range; save the picture with 8 or 16 bits")
    return image


def to_pil(image: Tensor) -> Image.Image:
    """Return a uint8 tensor of shape (3, H, W) as a Pillow image."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def write_image(image: Tensor, path: str | Path, texts: Mapping[str, str] | None = None) -> None:
    """Write a uint8 tensor of shape (3, H, W) as a PNG file, with `texts` among its metadata."""
    metadata = PngInfo()
    for key, text in (texts or {}).items():
        metadata.add_text(key, text)
    to_pil(image).save(path, format="PNG", pnginfo=metadata)


def pixel_hash(image: Tensor) -> str:
    """Return the SHA-256 of the samples of a uint8 picture (3, H, W): whatever file it came from, the same."""
    return hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()


def list_images(folder: str | Path) -> list[Path]:
    """All image files below a folder, by suffix, in alphabetical order of their paths; hidden files are left out."""
    folder = Path(folder)
    files = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    visible = (path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    return sorted(visible, key=lambda path: path.relative_to(folder).as_posix())
