import subprocess

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

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
