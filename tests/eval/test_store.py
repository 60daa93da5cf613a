import pandas as pd
import pytest
import torch

from compressai_gen.codecs import Encoded
from compressai_gen.data import load_dataset, write_image
from compressai_gen.eval import store
from compressai_gen.eval.pictures import KeptPictures
from compressai_gen.eval.runner import Job, measure
from compressai_gen.eval.store import RowStore
from compressai_gen.metrics import ReferenceMetrics


class Versioned:
    """Keeps one pixel; stops after `limit` encodings."""

    name = "versioned"
    qualities = (1, 2)

    def __init__(self, version="1", limit=None):
        self.version = version
        self.calls = 0
        self.limit = limit

    def encode(self, image, quality):
        if self.calls == self.limit:
            raise KeyboardInterrupt
        self.calls += 1
        return Encoded([bytes([quality, int(image[0, 0, 0])])], tuple(image.shape))

    def decode(self, encoded, quality=None):
        return torch.full(encoded.shape, encoded.strings[0][1], dtype=torch.uint8)


@pytest.fixture
def dataset(tmp_path):
    (tmp_path / "set").mkdir()
    for index in range(3):
        write_image(torch.randint(256, (3, 4, 6), dtype=torch.uint8), tmp_path / "set" / f"{index}.png")
    return load_dataset(tmp_path / "set")


def run(codec, dataset, path, metrics=("psnr",), pictures=None):
    rows = RowStore(path, list(metrics), "cpu")
    return measure([Job(codec, (1, 2))], dataset, ReferenceMetrics(metrics), pictures, progress=False, store=rows)


def figures(table):
    return table.drop(columns=["encode_s", "decode_s"])


def test_stopped_run_goes_on_and_ends_as_an_undisturbed_one(dataset, tmp_path):
    expected = run(Versioned(), dataset, tmp_path / "undisturbed")
    path = tmp_path / "rows"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(Versioned(limit=4), dataset, path)
    codec = Versioned()
    pd.testing.assert_frame_equal(figures(run(codec, dataset, path)), figures(expected))
    assert 0 < codec.calls < 6


def test_second_run_computes_nothing(dataset, tmp_path):
    first = run(Versioned(), dataset, tmp_path / "rows")
    codec = Versioned(limit=0)
    pd.testing.assert_frame_equal(run(codec, dataset, tmp_path / "rows"), first)


def test_line_cut_short_by_a_kill_is_measured_again(dataset, tmp_path):
    path = tmp_path / "rows"
    first = run(Versioned(), dataset, path)
    text = path.read_text()
    path.write_text(text[: len(text) - 20])
    codec = Versioned()
    pd.testing.assert_frame_equal(figures(run(codec, dataset, path)), figures(first))
    assert codec.calls == 2  # one warm-up, one measured
    codec = Versioned(limit=0)
    run(codec, dataset, path)


@pytest.mark.parametrize("change", ["version", "metrics", "picture", "no version"])
def test_whatever_decides_a_figure_is_noticed(dataset, tmp_path, change):
    path = tmp_path / "rows"
    run(Versioned(), dataset, path)
    codec = Versioned({"version": "2", "no version": None}.get(change, "1"))
    if change == "picture":
        write_image(torch.zeros(3, 4, 6, dtype=torch.uint8), dataset.paths[0])
    run(codec, dataset, path, ("psnr", "ms_ssim") if change == "metrics" else ("psnr",))
    assert codec.calls > 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source_hash", lambda *subpackages: "other code"),
        ("versions_of_figures", lambda: {"torch": "99"}),
        ("has_fast_bfloat16", lambda device: "unlike here"),
    ],
)
def test_another_machine_or_installation_measures_again(dataset, tmp_path, monkeypatch, name, value):
    run(Versioned(), dataset, tmp_path / "rows")
    monkeypatch.setattr(store, name, value)
    codec = Versioned()
    run(codec, dataset, tmp_path / "rows")
    assert codec.calls > 2


def test_row_without_its_picture_is_decoded_again_only_if_pictures_are_asked_for(dataset, tmp_path):
    path, pictures = tmp_path / "rows", KeptPictures(tmp_path / "pictures", {"0", "2"})
    first = run(Versioned(), dataset, path, pictures=pictures)
    assert len(list(pictures.folder.rglob("*.png"))) == 4
    run(Versioned(limit=0), dataset, path, pictures=pictures)

    pictures.path("versioned", 2, "2").unlink()
    run(Versioned(limit=0), dataset, path)
    codec = Versioned()
    pd.testing.assert_frame_equal(run(codec, dataset, path, pictures=pictures), first)  # with the times of then
    assert codec.calls == 1
    assert pictures.path("versioned", 2, "2").exists()


def test_picture_of_another_version_is_decoded_again(dataset, tmp_path):
    path, pictures = tmp_path / "rows", KeptPictures(tmp_path / "pictures")
    run(Versioned("1"), dataset, path, pictures=pictures)
    run(Versioned("2"), dataset, path)
    codec = Versioned("2")
    run(codec, dataset, path, pictures=pictures)
    assert codec.calls == 6
