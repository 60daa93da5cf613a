"""The four bytes before every stream, which tell a decoder that it holds the right bytes, whole.

======  =====================================================================
byte 0  codec and format version, e.g. 0xC2
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

__all__ = ["HEADER_BYTES", "Stream", "codec_of", "pack", "quality_of", "unpack"]

HEADER_BYTES = 4
CODECS = {0xC2: "cgdm", 0xD4: "mridc"}
"""First byte of a stream, per codec; a format change takes the next number."""

_RETIRED = {0xC1: "cgdm", 0xD3: "mridc"}
# Of streams that were written before the first release.


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
    magic = next(byte for byte, name in CODECS.items() if name == codec)
    head = bytes((magic, round((stream.quality - 1) * STEPS_PER_QUALITY)))
    return head + struct.pack(">H", _crc(head, stream.payload, size)) + stream.payload


def codec_of(data: bytes) -> str:
    """Returns the name of the codec that made a stream.

    Raises:
        BitstreamError: none of this version did.
    """
    if len(data) < HEADER_BYTES or data[0] not in CODECS:
        raise BitstreamError(
            "the stream is of no codec that this version decodes: use the version of compressai-gen that wrote it"
        )
    return CODECS[data[0]]


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
    if CODECS.get(data[0]) != codec:
        maker = CODECS.get(data[0])
        what = f"it was made by {maker!r}: decode it with that model" if maker else "unknown format"
        if data[0] in _RETIRED:
            what = f"{_RETIRED[data[0]]!r} of another version of compressai-gen made it: decode it with that version"
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
