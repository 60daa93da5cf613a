"""The file format, as docs/format.md describes it."""

import binascii
import re
import struct
from pathlib import Path

import pytest

from compressai_gen.cgen import MAX_SIDE, CgenFile
from compressai_gen.entropy.container import Stream, pack
from compressai_gen.errors import BitstreamError

STREAM = pack("mridc", Stream(2.5, b"payload"), (300, 500))
FILE = CgenFile(b"\1\2\3\4", (300, 500), STREAM)
FORMAT = Path(__file__).parents[2] / "docs/format.md"


def _checked(body):
    return body + struct.pack(">I", binascii.crc32(body))


@pytest.mark.parametrize("seed", [None, 0, 2**32 - 1])
def test_a_file_reads_back(seed):
    file = CgenFile(FILE.weights, FILE.size, STREAM, seed)
    assert CgenFile.from_bytes(file.to_bytes()) == file
    assert file.model == "mridc"


def test_bytes_stand_where_the_document_says():
    with_seed = CgenFile(FILE.weights, FILE.size, STREAM, 0x01020304)
    assert FILE.to_bytes() == _checked(b"CGEN\1\0\1\2\3\4" + struct.pack(">HH", 300, 500) + STREAM)
    assert with_seed.to_bytes() == _checked(b"CGEN\1\1\1\2\3\4" + struct.pack(">HH", 300, 500) + b"\1\2\3\4" + STREAM)
    overheads = re.search(r"(\d+) bytes more than its stream, (\d+) with a seed", FORMAT.read_text(encoding="utf-8"))
    assert [int(n) for n in overheads.groups()] == [len(f.to_bytes()) - len(STREAM) for f in (FILE, with_seed)]


def test_the_format_adds_at_most_24_bytes_to_the_payload():
    assert len(FILE.to_bytes()) - len(b"payload") <= 24


@pytest.mark.parametrize("length", range(len(FILE.to_bytes())))
def test_a_truncated_file_is_refused(length):
    with pytest.raises(BitstreamError, match=r"truncated|not a \.cgen file"):
        CgenFile.from_bytes(FILE.to_bytes()[:length])


@pytest.mark.parametrize("bit", range(8 * len(FILE.to_bytes())))
def test_a_flipped_bit_is_refused(bit):
    data = bytearray(FILE.to_bytes())
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BitstreamError):
        CgenFile.from_bytes(bytes(data))


def test_a_newer_version_is_named():
    with pytest.raises(BitstreamError, match="version 2"):
        CgenFile.from_bytes(_checked(b"CGEN\2" + FILE.to_bytes()[5:-4]))


@pytest.mark.parametrize(
    "body",
    [
        b"CGEN\1\2" + FILE.to_bytes()[6:-4],
        b"CGEN\1\0\1\2\3\4\0\0\1\0" + STREAM,
        b"CGEN\1\1\1\2\3\4\0\1\0\1ab",
        b"CGEN\1\0\1\2\3\4\0\1\0\1",
        b"CGEN\1\0\1\2\3\4\0\1\0\1\x77\0\0\0\0",
    ],
    ids=["flag", "no size", "no room for its seed", "no stream", "unknown codec"],
)
def test_impossible_headers_are_refused_whatever_the_checksum(body):
    with pytest.raises(BitstreamError, match=r"impossible|no codec"):
        CgenFile.from_bytes(_checked(body))


def test_too_large_an_image_is_not_written():
    with pytest.raises(BitstreamError, match=str(MAX_SIDE)):
        CgenFile(FILE.weights, (1, MAX_SIDE + 1), STREAM).to_bytes()
