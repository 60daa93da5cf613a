"""Any image file as an 8-bit RGB tensor, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from compressai_gen.errors import ImageError

__all__ = ["IMAGE_SUFFIXES", "list_images", "pixel_hash", "read_image", "write_image"]

IMAGE_SUFFIXES = frozenset({".avif", ".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def read_image(path: str | Path) -> Tensor:
    """Read an image file as RGB.

    The picture is turned as its EXIF orientation says. 16-bit samples are reduced to their high byte, grey is repeated
    in three channels, palettes and CMYK are converted by Pillow, transparent pixels are laid over white. Colour
    profiles are not applied: the samples are taken as sRGB. Of a file with several frames the first is read.

    Returns:
        uint8 tensor of shape (3, H, W).

    Raises:
        ImageError: the file is missing, is not an image, is damaged, or holds 32-bit samples of unknown range.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise ImageError(f"{path}: the file is empty")
    try:
        with Image.open(path) as file:
            rgb = _to_rgb(ImageOps.exif_transpose(file))
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    # Pillow's format readers raise errors of many kinds on damaged files; to the user they all mean the same.
    except Exception as error:
        raise ImageError(f"{path}: not a readable image ({error})") from error
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255. The high byte is also what it keeps of 16-bit colour.
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ImageError("32-bit samples have no defined range; save the picture with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def write_image(image: Tensor, path: str | Path, texts: Mapping[str, str] | None = None) -> None:
    """Write a uint8 tensor of shape (3, H, W) as a PNG file, with `texts` among its metadata."""
    metadata = PngInfo()
    for key, text in (texts or {}).items():
        metadata.add_text(key, text)
    Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(path, format="PNG", pnginfo=metadata)


def pixel_hash(image: Tensor) -> str:
    """Return the SHA-256 of the samples of a uint8 picture (3, H, W): whatever file it came from, the same."""
    return hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()


def list_images(folder: str | Path) -> list[Path]:
    """All image files below a folder, by suffix, in alphabetical order of their paths; hidden files are left out."""
    folder = Path(folder)
    files = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    visible = (path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    return sorted(visible, key=lambda path: path.relative_to(folder).as_posix())
