import pytest
import torch

from compressai_gen.data import write_image
from compressai_gen.errors import DatasetError
from compressai_gen.train.data import CropDataset, sample_patches


@pytest.fixture
def folder(tmp_path, photograph):
    (tmp_path / "deep").mkdir()
    for name, size in (("a.png", (150, 200)), ("deep/b.png", (90, 70))):
        write_image((photograph(*size)[0] * 255).round().byte(), tmp_path / name)
    return tmp_path


def _dataset(folder, scale=(0.6, 2.0), length=10):
    return CropDataset(folder, scale, length, progress=False)


@pytest.mark.parametrize("crop", [64, 128, 192])
@pytest.mark.parametrize("scale", [(0.3, 0.3), (1.0, 1.0), (2.0, 2.0), (0.6, 2.0)])
def test_crops_have_their_size_and_range_whatever_the_images_size(folder, crop, scale):
    torch.manual_seed(0)
    data = _dataset(folder, scale)
    data.crop = crop
    for i in range(8):
        x = data[i]
        assert x.shape == (3, crop, crop)
        assert x.dtype == torch.float32
        assert 0 <= x.min() < x.max() <= 1


def test_unscaled_crop_is_a_window_of_the_image_or_its_mirror(tmp_path, photograph):
    image = (photograph(80, 100)[0] * 255).round().byte()
    write_image(image, tmp_path / "x.png")
    data = _dataset(tmp_path, (1.0, 1.0))
    data.crop = 64
    windows = image.unfold(1, 64, 1).unfold(2, 64, 1).permute(1, 2, 0, 3, 4).reshape(-1, 3, 64, 64)
    torch.manual_seed(0)
    mirrored = set()
    for i in range(12):
        crop = (data[i] * 255).round().byte()
        straight, mirror = ((windows == c).flatten(1).all(1).any() for c in (crop, crop.flip(2)))
        assert straight or mirror
        mirrored.add(bool(mirror))
    assert mirrored == {True, False}


def test_larger_scale_shows_less_of_the_image(tmp_path):
    """On a ramp, the range of a crop is the stretch that it shows."""
    ramp = torch.arange(240, dtype=torch.uint8).expand(3, 240, 240)
    write_image(ramp.contiguous(), tmp_path / "x.png")
    spans = []
    for scale in (0.6, 1.0, 2.0):
        data = _dataset(tmp_path, (scale, scale))
        crop = data[0] * 255
        spans.append((crop.max() - crop.min()).item())
    assert spans == pytest.approx([128 / 0.6, 128, 64], abs=4)


def test_length_is_an_epochs(folder):
    assert len(_dataset(folder, length=17)) == 17


def test_same_seed_gives_the_same_crops(folder):
    data, crops = _dataset(folder), []
    for _ in range(2):
        torch.manual_seed(3)
        crops.append(torch.stack([data[i] for i in range(4)]))
    assert torch.equal(*crops)
    assert not torch.equal(crops[0][0], crops[0][1])


def test_folder_without_images_is_told(tmp_path):
    with pytest.raises(DatasetError, match="--data-root"):
        _dataset(tmp_path)


@pytest.mark.parametrize("count", [1, 64, 100])
def test_patches_are_blocks_of_crops(folder, count):
    patches = sample_patches(_dataset(folder), 16, count)
    assert patches.shape == (count, 3, 16, 16)
    assert 0 <= patches.min() < patches.max() <= 1


def test_patch_keeps_the_order_of_its_pixels(tmp_path):
    rows = torch.arange(128, dtype=torch.uint8)[:, None].expand(128, 128)
    write_image(torch.stack((rows, rows // 2, rows * 0)).contiguous(), tmp_path / "x.png")
    patches = sample_patches(_dataset(tmp_path, (1.0, 1.0)), 16, 64) * 255
    assert (patches.diff(dim=2)[:, 0].round() == 1).all()
    assert (patches.diff(dim=3).abs() < 1e-3).all()
    assert (patches[:, 2] == 0).all()
