"""The file format ``.cgen``, which ``docs/format.md`` describes: one stream, and all that its decoder must know."""

from __future__ import annotations

import binascii
import struct
from dataclasses import dataclass
from typing import Any

from compressai_gen.entropy.container import codec_of, quality_of
from compressai_gen.errors import BitstreamError, ZooError
from compressai_gen.manifest import find_fingerprint
from compressai_gen.qualities import plain

__all__ = ["FINGERPRINT_BYTES", "MAX_SIDE", "CgenFile", "check_size", "describe_file"]

MAGIC = b"CGEN"
VERSION = 1
FINGERPRINT_BYTES = 4
MAX_SIDE = 2**16 - 1
"""Largest width and height that a file may state."""

_HAS_SEED = 1
_FIXED = struct.Struct(f">4sBB{FINGERPRINT_BYTES}s")
_CHECKSUM = struct.Struct(">I")


def check_size(size: tuple[int, int]) -> None:
    """Checks the (height, width) of a picture.

    Raises:
        BitstreamError: it is too large for the format.
    """
    if not all(0 < side <= MAX_SIDE for side in size):
        raise BitstreamError(f"a .cgen file holds at most {MAX_SIDE} pixels a side, not {_pixels(size)}")


@dataclass(frozen=True)
class CgenFile:
    """What a file holds.

    Attributes:
        weights: first four bytes of the fingerprint of the weights' coding part.
        size: the image's (height, width).
        stream: one of :meth:`compressai_gen.models.base.GenerativeCodec.compress`, its header included.
        seed: of the decoder's noise, 0 to 2^32 - 1, in place of the one that follows from the stream; or None.
    """

    weights: bytes
    size: tuple[int, int]
    stream: bytes
    seed: int | None = None

    @property
    def model(self) -> str:
        """Name of the codec that made the stream."""
        return codec_of(self.stream)

    def to_bytes(self) -> bytes:
        """Returns the file.

        Raises:
            BitstreamError: the image is too large for the format.
        """
        check_size(self.size)
        flags, seed = (0, b"") if self.seed is None else (_HAS_SEED, struct.pack(">I", self.seed))
        body = _FIXED.pack(MAGIC, VERSION, flags, self.weights) + struct.pack(">HH", *self.size) + seed + self.stream
        return body + _CHECKSUM.pack(binascii.crc32(body))

    @classmethod
    def from_bytes(cls, data: bytes) -> CgenFile:
        """Reads a file.

        Raises:
            BitstreamError: the file is another format's or a newer version's, truncated or damaged.
        """
        start = _FIXED.size + 4
        if not data.startswith(MAGIC):
            raise BitstreamError("not a .cgen file: it does not begin with 'CGEN'")
        if len(data) < start + _CHECKSUM.size:
            raise BitstreamError("the .cgen file is truncated: get it again")
        body = data[: -_CHECKSUM.size]
        _, version, flags, weights = _FIXED.unpack_from(body)
        if version != VERSION:
            raise BitstreamError(
                f"the .cgen file has format version {version}, this program reads {VERSION}: install a newer one"
            )
        if _CHECKSUM.unpack(data[len(body) :])[0] != binascii.crc32(body):
            raise BitstreamError("the .cgen file is truncated or damaged (its checksum does not fit): get it again")
        size, seed = struct.unpack_from(">HH", body, _FIXED.size), None
        if flags & ~_HAS_SEED or not all(size) or (flags and len(body) < start + 4):
            raise BitstreamError("the .cgen file was written by a faulty program: its header is impossible")
        if flags:
            (seed,) = struct.unpack_from(">I", body, start)
            start += 4
        file = cls(weights, size, body[start:], seed)
        codec_of(file.stream)
        return file


def describe_file(data: bytes) -> dict[str, Any]:
    """Returns what a file says of itself, without a decoder; see :func:`compressai_gen.coding.describe`.

    Raises:
        BitstreamError: as :meth:`CgenFile.from_bytes`.
    """
    file = CgenFile.from_bytes(data)
    height, width = file.size
    try:
        known = bool(find_fingerprint(file.model, file.weights.hex()))
    except ZooError:
        known = False
    return {
        "model": file.model,
        "quality": plain(quality_of(file.stream)),
        "width": width,
        "height": height,
        "seed": file.seed,
        "weights": file.weights.hex(),
        "weights_known": known,
        "bytes": len(data),
        "bpp": round(8 * len(data) / (height * width), 4),
    }


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
