import pytest

from compressai_gen.entropy.container import HEADER_BYTES, Stream, pack, unpack
from compressai_gen.errors import BitstreamError

STREAM = Stream(quality=4.28125, payload=b"\x00\x10payload\xff")
SIZE = (17, 33)


@pytest.fixture(params=["cgdm", "mridc"])
def codec(request):
    return request.param


@pytest.mark.parametrize("quality", [1, 1.03125, 2.5, 4.96875, 5])
def test_what_was_packed_comes_back(codec, quality):
    stream = Stream(quality, b"abc")
    data = pack(codec, stream, SIZE)
    checksum = int.from_bytes(data[2:HEADER_BYTES], "big")
    assert unpack(codec, data, SIZE) == stream._replace(checksum=checksum)


def test_header_has_its_size(codec):
    assert len(pack(codec, STREAM, SIZE)) == HEADER_BYTES + len(STREAM.payload)


def test_every_flipped_bit_is_noticed(codec):
    data = pack(codec, STREAM, SIZE)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError):
            unpack(codec, bytes(damaged), SIZE)


def test_every_truncation_is_noticed(codec):
    data = pack(codec, STREAM, SIZE)
    for length in range(len(data)):
        with pytest.raises(BitstreamError, match=r"truncated|shorter"):
            unpack(codec, data[:length], SIZE)


def test_appended_bytes_are_noticed(codec):
    with pytest.raises(BitstreamError, match="damaged"):
        unpack(codec, pack(codec, STREAM, SIZE) + b"\0", SIZE)


@pytest.mark.parametrize("size", [(33, 17), (17, 34), (1, 1)])
def test_another_size_is_noticed_and_named(codec, size):
    with pytest.raises(BitstreamError, match=f"{size[1]}x{size[0]} pixels"):
        unpack(codec, pack(codec, STREAM, SIZE), size)


def test_stream_of_the_other_codec_says_whose_it_is():
    with pytest.raises(BitstreamError, match="made by 'mridc'"):
        unpack("cgdm", pack("mridc", STREAM, SIZE), SIZE)


def test_other_files_are_an_unknown_format(codec):
    with pytest.raises(BitstreamError, match="unknown format"):
        unpack(codec, b"\x89PNG\r\n\x1a\n", SIZE)


def test_text_is_not_a_stream(codec):
    with pytest.raises(BitstreamError, match="is bytes, not str"):
        unpack(codec, "a stream", SIZE)


@pytest.mark.parametrize(("first", "name"), [(0xC1, "cgdm"), (0xD3, "mridc")])
def test_streams_of_an_earlier_format_are_named(codec, first, name):
    with pytest.raises(BitstreamError, match=f"'{name}' of another version of compressai-gen"):
        unpack(codec, bytes((first, 0, 0, 0, 1, 2, 3)), SIZE)
