"""The four bytes before every stream, which tell a decoder that it holds the right bytes, whole.

======  =====================================================================
byte 0  codec and version of its format, as the codec's specification says
byte 1  quality, as the number of steps of 1/32 from 1, the lowest
2 to 3  CRC-16/CCITT of bytes 0 and 1, the image size and the payload, big endian
======  =====================================================================
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Sequence
from typing import NamedTuple

from compressai_gen.errors import BitstreamError
from compressai_gen.qualities import STEPS_PER_QUALITY
from compressai_gen.specs import find_spec, problems, spec_of_byte, specs

__all__ = ["HEADER_BYTES", "Stream", "codec_of", "pack", "quality_of", "unpack"]

HEADER_BYTES = 4


class Stream(NamedTuple):
    """A stream without its header."""

    quality: float
    """From 1, in steps of 1/32."""
    payload: bytes
    checksum: int = 0
    """As the header states it; also the seed of the decoder's noise. It is not needed to :func:`pack`."""


def _crc(head: bytes, payload: bytes, size: Sequence[int]) -> int:
    return binascii.crc_hqx(payload, binascii.crc_hqx(head + struct.pack(">2I", *size), 0xFFFF))


def pack(codec: str, stream: Stream, size: Sequence[int]) -> bytes:
    """Puts the header before the payload; ``size`` is the image's (height, width), which the checksum covers."""
    head = bytes((find_spec(codec).byte, round((stream.quality - 1) * STEPS_PER_QUALITY)))
    return head + struct.pack(">H", _crc(head, stream.payload, size)) + stream.payload


def codec_of(data: bytes) -> str:
    """Returns the name of the codec that made a stream.

    Raises:
        BitstreamError: none of this version did.
    """
    spec = spec_of_byte(data[0]) if len(data) >= HEADER_BYTES else None
    if spec is None:
        advice = "; ".join(problems().values()) or "use the version of compressai-gen that wrote it"
        raise BitstreamError(f"the stream is of no codec that is here: {advice}")
    return spec.name


def quality_of(data: bytes) -> float:
    """Returns the quality of a stream, from 1, as its header states it."""
    return 1 + data[1] / STEPS_PER_QUALITY


def unpack(codec: str, data: bytes, size: Sequence[int]) -> Stream:
    """Checks and removes the header.

    Raises:
        BitstreamError: the stream is another codec's, truncated or damaged, or of an image of another size.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise BitstreamError(f"a {codec} stream is bytes, not {type(data).__name__}")
    data = bytes(data)
    if len(data) < HEADER_BYTES:
        raise BitstreamError(f"not a {codec} stream: shorter than its {HEADER_BYTES}-byte header; get the file again")
    if data[0] != find_spec(codec).byte:
        maker = spec_of_byte(data[0])
        what = f"it was made by {maker.name!r}: decode it with that model" if maker else "unknown format"
        for spec in specs().values():
            if data[0] in spec.retired_bytes:
                what = f"{spec.name!r} of another version of {spec.package} made it: decode it with that version"
        raise BitstreamError(f"not a {codec} stream: {what}")
    payload = data[HEADER_BYTES:]
    possible = len(size) == 2 and all(0 < n < 2**32 for n in size)
    (checksum,) = struct.unpack(">H", data[2:HEADER_BYTES])
    if not possible or checksum != _crc(data[:2], payload, size):
        wanted = f"{size[1]}x{size[0]} pixels" if possible else f"of shape {tuple(size)}"
        raise BitstreamError(
            f"the {codec} stream is truncated or damaged, or its image is not {wanted}: "
            "get the file again and pass the shape that compress() returned"
        )
    return Stream(quality_of(data), payload, checksum)
