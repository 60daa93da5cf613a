"""What colours a picture's samples mean, where its file says it, and their conversion to sRGB.

A file says it by an ICC profile, by the code points of ITU-T H.273 (``nclx`` of AVIF and HEIF, ``cICP`` of PNG), by
PNG's older ``gAMA`` and ``cHRM``, or by Exif's mark of Adobe RGB. In PNG code points win over a profile, as its
third edition says; elsewhere a profile wins.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms

from compressai_gen.errors import ImageError

__all__ = ["CodePoints", "convert_to_srgb", "mark_free", "stated_code_points"]


class CodePoints(NamedTuple):
    """Colour primaries and transfer characteristics, as H.273 numbers them."""

    primaries: int
    transfer: int


_UNSPECIFIED, _SRGB = 2, 13
_D65, _C, _DCI, _E = (0.3127, 0.3290), (0.310, 0.316), (0.314, 0.351), (1 / 3, 1 / 3)
_BT709 = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65)
_SMPTE170M = ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65)
_ADOBE = ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060), _D65)
_Chromaticities = tuple[tuple[float, float], ...]

_PRIMARIES: dict[int, _Chromaticities] = {
    1: _BT709,
    _UNSPECIFIED: _BT709,
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), _C),
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65),
    6: _SMPTE170M,
    7: _SMPTE170M,
    8: ((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), _C),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    10: ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0), _E),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _DCI),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
    22: ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), _D65),
}
"""Red, green, blue and white as x and y of CIE 1931, H.273 table 2."""

_BROADCAST = frozenset({1, _UNSPECIFIED, 5, 6, 7})
_BROADCAST_CURVES = frozenset({1, 6, 14, 15})
"""Transfer characteristics of one curve, that of BT.709. Together with primaries of broadcast, programs write and show
them as sRGB; H.273's own curve is that of cameras."""


def _srgb_to_linear(v: np.ndarray) -> np.ndarray:
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def _camera_to_linear(v: np.ndarray, a: float, slope: float, knee: float) -> np.ndarray:
    return np.where(v < slope * knee, v / slope, ((v + a - 1) / a) ** (1 / 0.45))


def _bt709_to_linear(v: np.ndarray) -> np.ndarray:
    return _camera_to_linear(v, 1.099296826809442, 4.5, 0.018053968510807)


_TO_LINEAR: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    **dict.fromkeys((1, 6, 11, 12, 14, 15), _bt709_to_linear),
    **dict.fromkeys((_UNSPECIFIED, _SRGB), _srgb_to_linear),
    4: lambda v: v**2.2,
    5: lambda v: v**2.8,
    7: lambda v: _camera_to_linear(v, 1.1115721959217312, 4.0, 0.022821585529445),
    8: lambda v: v,
}
_WITHOUT_CONVERSION = {9: "logarithmic, 100:1", 10: "logarithmic, 316:1", 16: "PQ", 17: "SMPTE ST 428-1", 18: "HLG"}
"""Transfer characteristics whose pictures have a range that sRGB has no room for, so that a choice has to be made."""


def convert_to_srgb(image: Image.Image, stated: CodePoints | None) -> Image.Image:
    """Return an 8-bit Pillow image in sRGB, as its file says; transparency is kept.

    Args:
        image: of 8 bits.
        stated: see :func:`stated_code_points`.

    Raises:
        ImageError: the colours have no defined conversion, as those of PQ and HLG.
    """
    profile = image.info.get("icc_profile")
    if stated is not None and (image.format == "PNG" or not profile):
        return _from_code_points(image, stated)
    if profile:
        return _from_profile(image, profile)
    if "srgb" in image.info:
        return image
    if image.format == "PNG" and image.info.get("gamma"):
        return _from_gamma(image, image.info["gamma"])
    return _convert(image, _ADOBE, lambda v: v ** (563 / 256)) if _is_adobe_rgb(image) else image


def _from_code_points(image: Image.Image, stated: CodePoints) -> Image.Image:
    primaries, transfer = stated
    if transfer in _WITHOUT_CONVERSION or transfer not in _TO_LINEAR or primaries not in _PRIMARIES:
        curve = _WITHOUT_CONVERSION.get(transfer, transfer)
        raise ImageError(
            f"its colours (H.273 primaries {primaries}, transfer {curve}) have no defined conversion to sRGB: "
            "save the picture in sRGB first"
        )
    if primaries in _BROADCAST and transfer in _BROADCAST_CURVES:
        transfer = _SRGB
    return _convert(image, _PRIMARIES[primaries], _TO_LINEAR[transfer])


def _from_gamma(image: Image.Image, gamma: float) -> Image.Image:
    """Convert from PNG's gAMA and cHRM; 1/2.2 stands for sRGB's curve."""
    chromaticity = image.info.get("chromaticity")
    to_linear = _srgb_to_linear if abs(gamma * 2.2 - 1) < 0.05 else lambda v: v ** (1 / gamma)
    primaries = _BT709
    if chromaticity and len(chromaticity) == 8:
        white, *colors = (tuple(chromaticity[i : i + 2]) for i in range(0, 8, 2))
        primaries = (*colors, white)
    try:
        with np.errstate(divide="raise", invalid="raise"):
            return _convert(image, primaries, to_linear)
    except (np.linalg.LinAlgError, FloatingPointError):  # chromaticities of no colours
        return image


def _is_adobe_rgb(image: Image.Image) -> bool:
    """Whether Exif says so, as cameras do: "uncalibrated", of interoperability R03."""
    try:
        exif = image.getexif()
        return str(exif.get_ifd(ExifTags.IFD.Interop).get(1, "")).strip("\0 ") == "R03"
    except Exception:  # Exif that cannot be read says nothing
        return False


def _convert(image: Image.Image, primaries: _Chromaticities, to_linear: Callable) -> Image.Image:
    """Go through linear light, with colours out of sRGB clipped; sRGB itself stays as it is."""
    close = np.allclose(primaries, _BT709, atol=2e-3)
    if close and to_linear is _srgb_to_linear:
        return image
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    table = to_linear(np.arange(256) / 255).astype(np.float32)
    matrix = np.eye(3) if close else np.linalg.inv(_to_xyz(_BT709)) @ _adapted_to_d65(primaries)
    pixels = np.array(image.convert("RGB"))
    for row in range(0, len(pixels), _ROWS):
        linear = table[pixels[row : row + _ROWS]] @ matrix.T.astype(np.float32)
        linear = np.clip(linear, 0, 1)
        encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        pixels[row : row + _ROWS] = np.rint(255 * encoded)
    converted = Image.fromarray(pixels)
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


_ROWS = 256
"""At once, so that a large picture is never whole in floating point."""


def _to_xyz(primaries: _Chromaticities) -> np.ndarray:
    """The matrix from linear red, green and blue to CIE XYZ, of white (1, 1, 1) to Y = 1."""
    x, y = np.array(primaries, dtype=float).T
    xyz = np.stack([x, y, 1 - x - y])
    white = xyz[:, 3] / y[3]
    return xyz[:, :3] * np.linalg.solve(xyz[:, :3], white)


def _adapted_to_d65(primaries: _Chromaticities) -> np.ndarray:
    """The matrix to XYZ under D65, by the method of Bradford where the white is another."""
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    matrix = _to_xyz(primaries)
    here, there = (bradford @ m.sum(axis=1) for m in (matrix, _to_xyz(_BT709)))
    return np.linalg.inv(bradford) @ np.diag(there / here) @ bradford @ matrix


def _from_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert from an ICC profile; an image whose profile is damaged or does not fit its mode is left as it is."""
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


def stated_code_points(image: Image.Image) -> CodePoints | None:
    """Return the code points that the file of a Pillow image states, or None.

    They are read from the file, as Pillow does not tell them; so the image's own pixels must not be read before.
    """
    find = {"PNG": _code_points_of_png, "AVIF": _code_points_of_heif, "HEIF": _code_points_of_heif}.get(image.format)
    file = getattr(image, "fp", None)
    if find is None or file is None:
        return None
    try:
        before = file.tell()
        file.seek(0)
        try:
            return find(file)
        finally:
            file.seek(before)
    except (OSError, ValueError, struct.error, IndexError):  # what is damaged there states nothing
        return None


def _code_points_of_png(file: BinaryIO) -> CodePoints | None:
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"cICP":
            primaries, transfer, *_ = file.read(4)
            return CodePoints(primaries, transfer)
        if kind == b"IDAT":
            return None
        file.seek(length + 4, io.SEEK_CUR)
    return None


def _code_points_of_heif(file: BinaryIO) -> CodePoints | None:
    """Read those of the primary item (ISO/IEC 23008-12); those that are tied to no item count for all."""
    meta = _read_box(file, b"meta")
    if meta is None:
        return None
    boxes = dict(_boxes(meta[4:]))
    properties = dict(_boxes(boxes[b"iprp"])) if b"iprp" in boxes else {}
    version, *_ = boxes[b"pitm"]
    (primary,) = struct.unpack_from(">H" if version == 0 else ">I", boxes[b"pitm"], 4)
    tied = _properties_of(properties[b"ipma"], primary) if b"ipma" in properties else None
    for number, (kind, data) in enumerate(_boxes(properties.get(b"ipco", b"")), 1):
        if kind == b"colr" and data[:4] == b"nclx" and (tied is None or number in tied):
            return CodePoints(*struct.unpack_from(">HH", data, 4))
    return None


def _properties_of(ipma: bytes, item: int) -> list[int] | None:
    version, wide = ipma[0], ipma[3] & 1
    (count,) = struct.unpack_from(">I", ipma, 4)
    at = 8
    for _ in range(count):
        (found,) = struct.unpack_from(">H" if version == 0 else ">I", ipma, at)
        at += 2 if version == 0 else 4
        n, at = ipma[at], at + 1
        numbers = struct.unpack_from(f">{n}{'H' if wide else 'B'}", ipma, at)
        at += n * (2 if wide else 1)
        if found == item:
            return [number & (0x7FFF if wide else 0x7F) for number in numbers]
    return None


def _read_box(file: BinaryIO, wanted: bytes) -> bytes | None:
    """The content of the first box of a kind at the top of a file, without reading the others."""
    while len(head := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        read = 8
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(8))
            read = 16
        if kind == wanted:
            return file.read() if size == 0 else file.read(size - read)
        if size < read:  # to the end of the file, or no box at all
            return None
        file.seek(size - read, io.SEEK_CUR)
    return None


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        size = len(data) - at if size == 0 else size
        if size < 8:
            return
        yield kind, data[at + 8 : at + size]
        at += size


def mark_free(data: bytes) -> bytes:
    """Return an AVIF file whose Exif, which Pillow would fail at, counts as nothing; its pixels are the same."""
    end = data.find(b"mdat")
    head = data if end < 0 else data[:end]
    # An item's entry: version, flags, number, protection, type.
    return re.sub(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", rb"\1none", head, flags=re.DOTALL) + data[len(head) :]
