import io
import os
import struct
import subprocess
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from compressai_gen.data import list_images, read_image, write_image
from compressai_gen.errors import ImageError


def _pixels(path):
    return read_image(path).permute(1, 2, 0).numpy()


@pytest.fixture
def ramp():
    return np.arange(0, 240, dtype=np.uint8).reshape(4, 20, 3)


def test_rgb_png_is_read_unchanged(tmp_path, ramp):
    Image.fromarray(ramp).save(tmp_path / "x.png")
    image = read_image(tmp_path / "x.png")
    assert image.dtype == torch.uint8
    assert image.shape == (3, 4, 20)
    np.testing.assert_array_equal(image.permute(1, 2, 0), ramp)


def test_grey_is_repeated_in_three_channels(tmp_path, ramp):
    Image.fromarray(ramp[..., 0]).save(tmp_path / "x.png")
    np.testing.assert_array_equal(_pixels(tmp_path / "x.png"), ramp[..., :1].repeat(3, axis=2))


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_grey_keeps_its_high_byte(tmp_path, ramp, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(ramp[..., 0].astype(np.uint16) * 257).save(path)
    np.testing.assert_array_equal(_pixels(path), ramp[..., :1].repeat(3, axis=2))


def test_palette_is_looked_up(tmp_path):
    picture = Image.new("P", (3, 2), 1)
    picture.putpalette([0, 0, 0, 10, 200, 30])
    picture.save(tmp_path / "x.png")
    assert (_pixels(tmp_path / "x.png") == (10, 200, 30)).all()


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (2, 2), (0, 255, 255, 0)).save(tmp_path / "x.tif")
    assert (_pixels(tmp_path / "x.tif") == (255, 0, 0)).all()


def test_transparency_is_laid_over_white(tmp_path):
    picture = Image.new("RGBA", (3, 1), (200, 0, 0, 255))
    picture.putpixel((1, 0), (0, 0, 0, 0))
    picture.putpixel((2, 0), (0, 0, 0, 51))
    picture.save(tmp_path / "x.png")
    np.testing.assert_array_equal(_pixels(tmp_path / "x.png")[0], [(200, 0, 0), (255, 255, 255), (204, 204, 204)])


def test_transparent_palette_colour_becomes_white(tmp_path):
    picture = Image.new("P", (2, 1), 0)
    picture.putpalette([9, 9, 9, 10, 200, 30])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "x.png", transparency=0)
    np.testing.assert_array_equal(_pixels(tmp_path / "x.png")[0], [(255, 255, 255), (10, 200, 30)])


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    Image.new("RGB", (8, 4)).save(tmp_path / "x.jpg", exif=exif)
    assert read_image(tmp_path / "x.jpg").shape == (3, 8, 4)


def _chunk(kind, content):
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


BROKEN_EXIF = [b"garbage", b"", b"Exif\0\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\x05\0\x12\x01"]
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="%s">'


@pytest.mark.parametrize("exif", BROKEN_EXIF)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "AVIF", "TIFF"])
def test_orientation_that_cannot_be_read_is_none(tmp_path, kind, exif):
    path = tmp_path / "x"
    picture = Image.new("RGB", (8, 4), (200, 100, 50))
    if kind == "PNG":
        picture.save(path, kind)
        data = path.read_bytes()
        path.write_bytes(data[:33] + _chunk(b"eXIf", exif) + data[33:])
    elif kind == "TIFF":
        right = Image.Exif()
        right.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
        picture.save(path, kind, exif=right)
        data = path.read_bytes()
        path.write_bytes(data.replace(struct.pack("<HHI", 0x8769, 4, 1), struct.pack("<HHI", 0x8769, 4, 9)))
    elif kind == "AVIF":
        right = Image.Exif()
        right[0x010F] = "camera"
        picture.save(path, kind, exif=right)
        data = path.read_bytes()
        whole = right.tobytes()[6:]
        assert whole in data
        path.write_bytes(data.replace(whole, exif.ljust(len(whole), b"\0")[: len(whole)]))
    else:
        picture.save(path, kind, exif=exif)
    picture = read_image(path, to_srgb=True)
    assert picture.shape == (3, 4, 8)
    assert picture[:, 2, 4].tolist() == pytest.approx((200, 100, 50), abs=12)


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_unknown_orientation_is_none(tmp_path, value):
    exif = Image.Exif()
    exif[0x0112] = value
    Image.new("RGB", (8, 4)).save(tmp_path / "x.png", exif=exif)
    assert read_image(tmp_path / "x.png").shape == (3, 4, 8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF"])
def test_every_orientation_is_that_of_pillow(tmp_path, ramp, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(ramp).save(tmp_path / "x", kind, exif=exif)
    with Image.open(tmp_path / "x") as file:
        expected = np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
    np.testing.assert_array_equal(_pixels(tmp_path / "x"), expected)


def test_broken_exif_of_other_programs():
    folder = Path(os.environ.get("COMPRESSAI_GEN_DATA", "unset")).parent / "cases"
    if not folder.is_dir():
        pytest.skip("no folder of cases beside COMPRESSAI_GEN_DATA")
    for name in ("png_exif_bad.png", "webp_exif_bad.webp"):
        assert read_image(folder / name).shape == (3, 192, 192)
    upright = read_image(folder / "tiff16grey_white0.tif")
    with Image.open(folder / "tiff16grey_white0.tif") as file:
        np.testing.assert_array_equal(upright[0], 255 - (np.asarray(file) >> 8))


def _grey_tiff(bits, photometric, samples, order="<"):
    """A TIFF of one row and strip, its samples packed from the highest bit."""
    digits = "".join(f"{sample:0{bits}b}" for sample in samples)
    data = int(digits.ljust(-(-len(digits) // 8) * 8, "0"), 2).to_bytes(-(-len(digits) // 8), "big")
    if bits == 16:
        data = struct.pack(f"{order}{len(samples)}H", *samples)
    tags = [(256, 4, len(samples)), (257, 4, 1), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 4, 1), (279, 4, len(data))]
    start = 8 + len(data) + len(data) % 2
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, kind, 1)
        + struct.pack(f"{order}{'I' if kind == 4 else 'HH'}", *([value] if kind == 4 else [value, 0]))
        for tag, kind, value in tags
    )
    return head + data.ljust(start - 8, b"\0") + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_grey_tiff_of_any_depth_is_the_right_way_up(bits, white_is_zero):
    top = 2**bits - 1
    shown = [0, top, top // 2, 0, top, top, 0, 0]
    stored = [top - value if white_is_zero else value for value in shown]
    if bits == 12 and white_is_zero:
        pytest.skip("Pillow knows no such TIFF")
    picture = read_image(io.BytesIO(_grey_tiff(bits, 0 if white_is_zero else 1, stored)))
    expected = [round(255 * value / top) if bits < 8 else value >> (bits - 8) for value in shown]
    assert picture[1, 0].tolist() == expected


def _png(depth, color, row, *chunks):
    bytes_per_pixel = (2 if depth == 16 else 1) * (3 if color == 2 else 1)
    head = struct.pack(">2I5B", len(row) // bytes_per_pixel, 1, depth, color, 0, 0, 0)
    pixels = zlib.compress(b"\0" + row)
    body = _chunk(b"IHDR", head), *chunks, _chunk(b"IDAT", pixels), _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def test_transparent_grey_of_16_bits_is_told_by_all_of_them():
    """Pillow 3379: 0x0700 and 7 are two shades."""
    row, clear = struct.pack(">3H", 0x0700, 7, 0xFFFF), _chunk(b"tRNS", struct.pack(">H", 7))
    assert read_image(io.BytesIO(_png(16, 0, row, clear)))[0, 0].tolist() == [7, 255, 255]
    clear = _chunk(b"tRNS", struct.pack(">H", 0x0700))
    assert read_image(io.BytesIO(_png(16, 0, row, clear)))[0, 0].tolist() == [255, 0, 255]


def test_transparent_colour_of_16_bits_becomes_white():
    row = struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x2234, 0x5678, 0x9ABC)
    clear = _chunk(b"tRNS", struct.pack(">3H", 0x1234, 0x5678, 0x9ABC))
    assert read_image(io.BytesIO(_png(16, 2, row, clear)))[:, 0].T.tolist() == [[255, 255, 255], [0x22, 0x56, 0x9A]]


@pytest.mark.parametrize("cut", [0, 100])
def test_a_second_frame_that_is_broken_costs_nothing(cut):
    """Pillow 4099 and 7879: telephones write JPEG with a second picture that may not be there."""
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "green")]
    file = io.BytesIO()
    frames[0].save(file, "MPO", save_all=True, append_images=frames[1:])
    data = file.getvalue()
    second = data.index(b"\xff\xd8", 2)
    assert read_image(io.BytesIO(data[: second + cut]))[:, 5, 5].tolist() == [254, 0, 0]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "AVIF"])
def test_of_several_frames_the_first_is_read(kind):
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "green")]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    assert read_image(file)[:, 5, 5].tolist() == pytest.approx([255, 0, 0], abs=3)


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_metadata_that_would_fill_the_memory_are_refused(kind):
    """Pillow's limit on texts and profiles of PNG: 80 MiB of one letter take 80 KiB."""
    bomb = _chunk(kind, b"k\0\0" + zlib.compress(b"a" * (80 << 20)))
    with pytest.raises(ImageError, match="too large"):
        read_image(io.BytesIO(_png(8, 0, b"\0\1", bomb)))


def test_what_follows_a_picture_is_passed_over(ramp):
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "JPEG")
    assert torch.equal(read_image(io.BytesIO(file.getvalue() + b"x" * 1000)), read_image(file))


def test_reading_in_threads_leaves_the_limit_of_pillow_alone(tmp_path, ramp):
    Image.fromarray(ramp).save(tmp_path / "x.png")
    before, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda n: read_image(tmp_path / "x.png", max_pixels=1000 + n), range(200)))
    assert before == Image.MAX_IMAGE_PIXELS
    assert list(warnings.filters) == filters


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"])
def test_unreadable_file_is_named(tmp_path, content):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"broken\.png"):
        read_image(path)


def test_no_program_is_started_for_a_picture(tmp_path, monkeypatch):
    """Ghostscript, which Pillow has read what begins as EPS, under any name."""
    Image.new("RGB", (8, 4)).save(tmp_path / "x.jpg", format="EPS")
    monkeypatch.setattr(subprocess, "check_call", None)
    with pytest.raises(ImageError, match="cannot identify"):
        read_image(tmp_path / "x.jpg")


def test_truncated_file_is_named(tmp_path):
    path = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ImageError, match=r"cut\.png"):
        read_image(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png"):
        read_image(tmp_path / "gone.png")


def test_float_samples_have_no_range(tmp_path):
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(ImageError, match="range"):
        read_image(tmp_path / "x.tif")


def test_written_image_reads_back(tmp_path):
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    write_image(image, tmp_path / "x.png")
    assert torch.equal(read_image(tmp_path / "x.png"), image)


def test_list_images_is_recursive_sorted_and_skips_the_rest(tmp_path):
    for name in ("b.png", "a/z.JPG", "a/notes.txt", ".hidden/x.png", "._b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list_images(tmp_path) == [tmp_path / "a/z.JPG", tmp_path / "b.png"]


def test_a_profile_is_applied_where_it_is_asked_for(tmp_path):
    # Red and blue of a profile that has them exchanged: sRGB's own with two tags renamed.
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")
    picture = Image.new("RGBA", (2, 1), (250, 10, 20, 255))
    picture.putpixel((1, 0), (0, 0, 0, 0))
    picture.save(tmp_path / "x.png", icc_profile=swapped)
    np.testing.assert_array_equal(_pixels(tmp_path / "x.png")[0, 0], (250, 10, 20))
    converted = read_image(tmp_path / "x.png", to_srgb=True)[:, 0].T.tolist()
    assert converted[0] == pytest.approx((20, 10, 250), abs=2)
    assert converted[1] == [255, 255, 255]


def test_a_damaged_profile_is_ignored(tmp_path, ramp):
    Image.fromarray(ramp).save(tmp_path / "x.png", icc_profile=b"no profile")
    np.testing.assert_array_equal(read_image(tmp_path / "x.png", to_srgb=True).permute(1, 2, 0), ramp)


def test_too_large_a_picture_is_refused(tmp_path, ramp):
    Image.fromarray(ramp).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png", max_pixels=80).shape == (3, 4, 20)
    with pytest.raises(ImageError, match="too large"):
        read_image(tmp_path / "x.png", max_pixels=78)
