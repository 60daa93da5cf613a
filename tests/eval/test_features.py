import pandas as pd
import pytest
import torch

from compressai_gen.codecs import CLASSICAL_CODECS, Encoded
from compressai_gen.data import load_dataset, write_image
from compressai_gen.eval.features import FeatureStore, set_figures
from compressai_gen.eval.processes import Processes
from compressai_gen.eval.runner import Job, measure
from compressai_gen.eval.store import RowStore
from compressai_gen.metrics import FEATURES, PatchFeatures, ReferenceMetrics
from compressai_gen.metrics.distribution import FeatureSpec


class Posterize:
    """Keeps the upper bits; stops after `limit` encodings."""

    name = "posterize"
    version = "1"
    qualities = (1, 2)

    def __init__(self, limit=None):
        self.calls, self.limit = 0, limit

    def encode(self, image, quality):
        if self.calls == self.limit:
            raise KeyboardInterrupt
        self.calls += 1
        return Encoded([(image >> (8 - quality)).numpy().tobytes(), bytes([8 - quality])], tuple(image.shape))

    def decode(self, encoded, quality=None):
        levels = torch.frombuffer(bytearray(encoded.strings[0]), dtype=torch.uint8).reshape(encoded.shape)
        return levels << encoded.strings[1][0]


@pytest.fixture
def passes(monkeypatch):
    """Features `colour`, the mean of each patch; returns the log of the network's batches."""
    log = []

    def create(device):
        return lambda x: log.append(len(x)) or x.mean((2, 3))

    monkeypatch.setitem(FEATURES, "colour", FeatureSpec(("colour_fd", "colour_kd"), 3, create))
    return log


@pytest.fixture
def dataset(tmp_path):
    """Two patches from each of four pictures, and a picture that is too small for one."""
    (tmp_path / "set").mkdir()
    generator = torch.Generator().manual_seed(0)
    for index, width in enumerate((520, 520, 40, 520, 520)):
        image = torch.randint(256 - 40 * index, (3, 260, width), dtype=torch.uint8, generator=generator)
        write_image(image, tmp_path / "set" / f"{index}.png")
    return load_dataset(tmp_path / "set")


def run(codec, dataset, output, with_features=True):
    features = FeatureStore(output / "features", PatchFeatures("colour")) if with_features else None
    store = RowStore(output / "rows.jsonl", ["psnr"], "cpu")
    jobs = [Job(codec, (1, 2)), Job(CLASSICAL_CODECS["jpeg"], (3,))]
    rows = measure(jobs, dataset, ReferenceMetrics(["psnr"]), progress=False, store=store, features=features)
    return set_figures(rows, features, Processes(), progress=False) if with_features else None


def test_figures_of_the_set_are_those_of_an_undisturbed_run(dataset, tmp_path, passes):
    expected = run(Posterize(), dataset, tmp_path / "undisturbed")
    assert expected[["codec", "quality"]].to_numpy().tolist() == [["posterize", 1], ["posterize", 2], ["jpeg", 3]]
    assert (expected["n_patches"] == 8).all()
    assert expected["colour_fd"][0] > expected["colour_fd"][1] > 0
    with pytest.raises(KeyboardInterrupt):
        run(Posterize(limit=6), dataset, tmp_path)
    pd.testing.assert_frame_equal(run(Posterize(), dataset, tmp_path), expected)
    passes.clear()
    pd.testing.assert_frame_equal(run(Posterize(limit=0), dataset, tmp_path), expected)
    assert passes == []


def test_originals_pass_the_network_once_for_all_codecs(dataset, tmp_path, passes):
    run(Posterize(), dataset, tmp_path)
    assert passes == [2] * 4 * (1 + 3)


def test_rows_without_features_get_them_and_are_not_measured_again(dataset, tmp_path, passes):
    run(Posterize(), dataset, tmp_path, with_features=False)
    codec = Posterize()
    figures = run(codec, dataset, tmp_path)
    assert codec.calls == 2 * len(dataset)
    for file in (tmp_path / "features").rglob("*.npy"):
        file.unlink()
    pd.testing.assert_frame_equal(run(Posterize(), dataset, tmp_path), figures)
