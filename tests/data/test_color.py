"""Colours that files state, against matrices that standards print."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from compressai_gen.coding import load_picture
from compressai_gen.data import read_image
from compressai_gen.errors import ImageError

COLORS = [(200, 100, 50), (30, 160, 90), (120, 120, 120), (10, 20, 200), (255, 255, 255), (0, 0, 0)]
TO_BT709 = {
    12: [[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]],  # Display P3, CSS Color 4
    9: [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],  # BT.2087
    1: np.eye(3),
}
TO_LINEAR = {
    13: lambda v: np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4),
    14: lambda v: np.where(v < 0.081, v / 4.5, ((v + 0.099) / 1.099) ** (1 / 0.45)),
    4: lambda v: v**2.2,
    8: lambda v: v,
}


def _expected(primaries, transfer):
    linear = TO_LINEAR[transfer](np.array(COLORS) / 255) @ np.array(TO_BT709[primaries]).T
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _picture():
    """Colours in squares of 8 pixels, which codecs keep."""
    return Image.fromarray(np.array(COLORS, np.uint8)[None].repeat(8, 0).repeat(8, 1))


def _avif(primaries, transfer):
    file = io.BytesIO()
    _picture().save(file, "AVIF", quality=100, subsampling="4:4:4")
    data = file.getvalue()
    at = data.index(b"nclx") + 4
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


def _png(kind, content):
    file = io.BytesIO()
    _picture().save(file, "PNG")
    data = file.getvalue()
    body = kind + content
    chunk = struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))
    return data[:33] + chunk + data[33:]  # behind IHDR


def _colors(picture):
    return picture[:, 4, 4::8].T.numpy()


@pytest.mark.parametrize(("primaries", "transfer"), [(12, 13), (9, 14), (9, 15), (9, 13), (9, 4), (1, 8), (12, 4)])
@pytest.mark.parametrize("make", [_avif, lambda p, t: _png(b"cICP", bytes([p, t, 0, 1]))], ids=["avif", "png"])
def test_defined_colours_become_srgb(make, primaries, transfer):
    data = make(primaries, transfer)
    expected = _expected(primaries, {15: 14}.get(transfer, transfer))
    np.testing.assert_allclose(_colors(load_picture(data)), expected, atol=5)
    np.testing.assert_allclose(_colors(load_picture(Image.open(io.BytesIO(data)))), expected, atol=5)


@pytest.mark.parametrize(("primaries", "transfer"), [(1, 13), (2, 2), (1, 1), (1, 6), (2, 13)])
@pytest.mark.parametrize("make", [_avif, lambda p, t: _png(b"cICP", bytes([p, t, 0, 1]))], ids=["avif", "png"])
def test_srgb_and_what_is_shown_as_it_stay(make, primaries, transfer):
    data = make(primaries, transfer)
    assert torch.equal(load_picture(data), read_image(io.BytesIO(data)))


@pytest.mark.parametrize(
    ("primaries", "transfer", "name"),
    [(9, 16, "PQ"), (9, 18, "HLG"), (12, 16, "PQ"), (1, 9, "logarithmic"), (3, 13, "3")],
)
@pytest.mark.parametrize("make", [_avif, lambda p, t: _png(b"cICP", bytes([p, t, 0, 1]))], ids=["avif", "png"])
def test_what_has_no_conversion_is_refused_by_name(make, primaries, transfer, name):
    with pytest.raises(
        ImageError, match=f"primaries {primaries}, transfer .*{name if transfer != 13 else ''}.*sRGB first"
    ):
        load_picture(make(primaries, transfer))
    assert read_image(io.BytesIO(make(primaries, transfer))).shape == (3, 8, 48)  # a benchmark's samples


def test_benchmarks_take_samples_as_they_are():
    np.testing.assert_allclose(_colors(read_image(io.BytesIO(_avif(9, 14)))), COLORS, atol=5)


def test_code_points_of_another_item_do_not_count():
    data = _avif(12, 13)
    at = data.index(b"ipma") + 4
    count = data[at + 10]  # behind version, one item and its number
    numbers = data[at + 11 : at + 11 + count]
    properties = data[data.index(b"ipco") + 4 :]
    place, number = 0, 0
    while True:
        number += 1
        size = struct.unpack_from(">I", properties, place)[0]
        if properties[place + 4 : place + 12] == b"colrnclx":
            break
        place += size
    untied = bytes(1 if n & 0x7F == number else n for n in numbers)
    changed = data[: at + 11] + untied + data[at + 11 + count :]
    assert untied != numbers
    assert torch.equal(load_picture(changed), read_image(io.BytesIO(changed)))


def test_gamma_of_png():
    linear = load_picture(_png(b"gAMA", struct.pack(">I", 100000)))
    np.testing.assert_allclose(_colors(linear), _expected(1, 8), atol=1)
    for gamma in (45455, 0):  # sRGB's, and none
        np.testing.assert_array_equal(_colors(load_picture(_png(b"gAMA", struct.pack(">I", gamma)))), COLORS)


def test_chromaticities_of_png():
    p3 = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
    data = _png(b"cHRM", p3)
    chunk = b"gAMA" + struct.pack(">I", 45455)
    data = data[:33] + struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    np.testing.assert_allclose(_colors(load_picture(data)), _expected(12, 13), atol=1)
    srgb = b"sRGB\0"
    named = data[:33] + struct.pack(">I", 1) + srgb + struct.pack(">I", zlib.crc32(srgb)) + data[33:]
    np.testing.assert_array_equal(_colors(load_picture(named)), COLORS)


def test_impossible_chromaticities_are_left_alone():
    data = _png(b"cHRM", bytes(32))
    chunk = b"gAMA" + struct.pack(">I", 45455)
    data = data[:33] + struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    np.testing.assert_array_equal(_colors(load_picture(data)), COLORS)


def test_adobe_rgb_of_exif():
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 65535
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    file = io.BytesIO()
    _picture().save(file, "JPEG", quality=100, subsampling=0, exif=exif)
    to_xyz = [[0.5767309, 0.1855540, 0.1881852], [0.2973769, 0.6273491, 0.0752741], [0.0270343, 0.0706872, 0.9911085]]
    to_srgb = [
        [3.2404542, -1.5371385, -0.4985314],
        [-0.9692660, 1.8760108, 0.0415560],
        [0.0556434, -0.2040259, 1.0572252],
    ]
    linear = ((np.array(COLORS) / 255) ** 2.19921875 @ np.array(to_xyz).T @ np.array(to_srgb).T).clip(0, 1)
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(_colors(load_picture(file.getvalue())), expected, atol=4)


def test_transparency_and_grey_keep_their_kind():
    picture = _picture()
    picture.putalpha(0)
    file = io.BytesIO()
    picture.save(file, "PNG")
    body = b"cICP" + bytes([9, 14, 0, 1])
    data = file.getvalue()
    data = data[:33] + struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]
    assert (load_picture(data) == 255).all()
