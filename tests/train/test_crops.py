from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from compressai_gen.data import write_image
from compressai_gen.errors import DatasetError
from compressai_gen.train import data as data_module
from compressai_gen.train.data import CropStream, open_crops, sample_patches
from compressai_gen.train.memory import CropMemory, resampling


@pytest.fixture
def folder(tmp_path, photograph):
    (tmp_path / "deep").mkdir()
    for name, size in (("a.png", (150, 200)), ("deep/b.png", (90, 70))):
        write_image((photograph(*size)[0] * 255).round().byte(), tmp_path / name)
    return tmp_path


def _memory(folder, scale=(0.6, 2.0)):
    return CropMemory(folder, scale, progress=False)


def _both_ways(memory, batch, crop):
    """Crops as a CPU cuts them and as a GPU does, here both on the CPU."""
    torch.manual_seed(0)
    one_by_one = memory.draw(batch, crop)
    torch.manual_seed(0)
    memory.device = SimpleNamespace(type="cuda")  # draws go on to the batched way, on tensors of the CPU
    cut = memory._cut

    def on_cpu(*numbers):
        memory.device = torch.device("cpu")
        return cut(*numbers)

    memory._cut = on_cpu
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "to", lambda tensor, *args, **_: tensor)
        return one_by_one, memory.draw(batch, crop)


@pytest.mark.parametrize("crop", [64, 128, 192])
@pytest.mark.parametrize("scale", [(0.3, 0.3), (1.0, 1.0), (2.0, 2.0), (0.6, 2.0)])
def test_crops_have_their_size_and_range_whatever_the_images_size(folder, crop, scale):
    torch.manual_seed(0)
    x = _memory(folder, scale).draw(8, crop)
    assert x.shape == (8, 3, crop, crop)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert x.min() >= 0
    assert x.max() <= 1
    assert (x.flatten(1).std(1) > 0.01).all()


@pytest.mark.parametrize("scale", [(0.6, 2.0), (1.0, 1.0), (0.3, 0.5)])
def test_a_gpu_cuts_the_crops_that_a_cpu_cuts(folder, scale):
    torch.testing.assert_close(*_both_ways(_memory(folder, scale), 12, 64), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("size", "crop"), [(213, 128), (64, 128), (128, 128), (77, 64)])
def test_resampling_is_pytorchs(size, crop):
    torch.manual_seed(0)
    x = torch.rand(1, 3, size, size)
    matrix = resampling(torch.tensor([size]), 220, crop)[0]
    assert (matrix[:, size:] == 0).all()
    expected = F.interpolate(x, size=(crop, crop), mode="bicubic", antialias=True)
    torch.testing.assert_close(matrix[:, :size] @ x @ matrix[:, :size].T, expected, atol=1e-5, rtol=0)


def test_unscaled_crop_is_a_window_of_the_image_or_its_mirror(tmp_path, photograph):
    image = (photograph(80, 100)[0] * 255).round().byte()
    write_image(image, tmp_path / "x.png")
    windows = image.unfold(1, 64, 1).unfold(2, 64, 1).permute(1, 2, 0, 3, 4).reshape(-1, 3, 64, 64)
    torch.manual_seed(0)
    mirrored = set()
    for crop in (_memory(tmp_path, (1.0, 1.0)).draw(12, 64) * 255).round().byte():
        straight, mirror = ((windows == c).flatten(1).all(1).any() for c in (crop, crop.flip(2)))
        assert straight or mirror
        mirrored.add(bool(mirror))
    assert mirrored == {True, False}


def test_larger_scale_shows_less_of_the_image(tmp_path):
    """On a ramp, the range of a crop is the stretch that it shows."""
    ramp = torch.arange(240, dtype=torch.uint8).expand(3, 240, 240)
    write_image(ramp.contiguous(), tmp_path / "x.png")
    crops = [_memory(tmp_path, (scale, scale)).draw(1, 128) * 255 for scale in (0.6, 1.0, 2.0)]
    assert [(crop.max() - crop.min()).item() for crop in crops] == pytest.approx([128 / 0.6, 128, 64], abs=4)


def test_same_seed_gives_the_same_crops(folder):
    memory, crops = _memory(folder), []
    for _ in range(2):
        torch.manual_seed(3)
        crops.append(memory.draw(4, 128))
    assert torch.equal(*crops)
    assert not torch.equal(crops[0][0], crops[0][1])


def test_folder_without_images_is_told(tmp_path):
    with pytest.raises(DatasetError, match="--data-root"):
        _memory(tmp_path)


@pytest.mark.parametrize("count", [1, 64, 100])
def test_patches_are_blocks_of_crops(folder, count):
    patches = sample_patches(_memory(folder), 16, count)
    assert patches.shape == (count, 3, 16, 16)
    assert 0 <= patches.min() < patches.max() <= 1


def test_patch_keeps_the_order_of_its_pixels(tmp_path):
    rows = torch.arange(128, dtype=torch.uint8)[:, None].expand(128, 128)
    write_image(torch.stack((rows, rows // 2, rows * 0)).contiguous(), tmp_path / "x.png")
    patches = sample_patches(_memory(tmp_path, (1.0, 1.0)), 16, 64) * 255
    assert (patches.diff(dim=2)[:, 0].round() == 1).all()
    assert (patches.diff(dim=3).abs() < 1e-3).all()
    assert (patches[:, 2] == 0).all()


def test_pictures_stay_in_memory_where_they_fit_and_are_streamed_where_not(folder, monkeypatch):
    state = SimpleNamespace(device=torch.device("cpu"), num_processes=1, process_index=0, is_main_process=False)
    data = {"train": ".", "scale": [1.0, 1.0], "workers": 0}
    decoded = 3 * (150 * 200 + 90 * 70)
    for free, kind in ((4 * decoded, CropMemory), (4 * decoded - 4, CropStream)):
        monkeypatch.setattr(data_module.psutil, "virtual_memory", lambda free=free: SimpleNamespace(available=free))
        crops = open_crops(folder, {k: v for k, v in data.items() if k != "workers"}, 1, state)
        assert isinstance(crops, kind)
        assert len(crops) == 2
    streamed = open_crops(folder, data, 1, state)
    assert isinstance(streamed, CropStream)
    assert streamed.draw(3, 64).shape == (3, 3, 64, 64)
    kept = streamed.state_dict()
    following = [streamed.draw(2, 64), streamed.draw(2, 32)]
    streamed.load_state_dict(kept)
    assert all(torch.equal(x, streamed.draw(2, x.shape[-1])) for x in following)


def test_what_cannot_be_read_is_skipped_and_counted(folder, capsys):
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes()[:100])
    (folder / "d.jpg").write_text("no picture")
    state = SimpleNamespace(device=torch.device("cpu"), num_processes=1, process_index=0, is_main_process=True)
    crops = open_crops(folder.parent, {"train": folder.name, "scale": [1.0, 1.0]}, 0, state)
    assert (len(crops), crops.skipped) == (2, 2)
    assert capsys.readouterr().err.count("skipped: ") == 2
    (folder / "a.png").unlink()
    (folder / "deep/b.png").unlink()
    with pytest.raises(DatasetError, match="none of the 2 images"):
        open_crops(folder.parent, {"train": folder.name, "scale": [1.0, 1.0]}, 0, state)
