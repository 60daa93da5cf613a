"""What a run would fail at hours later is told before its first step."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from compressai_gen.errors import CompressaiGenError, DatasetError, ImageError, MetricError, RecipeError
from compressai_gen.train import loop, validate
from compressai_gen.train.__main__ import main
from compressai_gen.train.checks import check_run, telling
from compressai_gen.train.recipe import load_recipe


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Folders of two training and two validation pictures; the metrics are here."""
    for folder in ("train", "valid"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for name in ("a", "b"):
            Image.fromarray(np.full((80, 80, 3), 90, np.uint8)).save(tmp_path / "data" / folder / f"{name}.png")
    monkeypatch.setattr(validate, "ReferenceMetrics", lambda names: None)
    return tmp_path / "data"


def _check(root, **more):
    check_run(load_recipe("cgdm-v1-base"), root, **({"output": root / "out"} | more))


def test_a_whole_run_passes_and_leaves_nothing_behind(root):
    _check(root)
    assert list((root / "out").iterdir()) == []


def test_missing_validation_folder(root):
    shutil.rmtree(root / "valid")
    with pytest.raises(DatasetError, match=r"no validation images in .*valid"):
        _check(root)


@pytest.mark.parametrize("keep", [100, 20])
def test_unreadable_validation_image(root, keep):
    data = (root / "valid/b.png").read_bytes()
    (root / "valid/b.png").write_bytes(data[:keep])
    with pytest.raises(ImageError, match=r"b\.png"):
        _check(root)


def test_missing_metric(root, monkeypatch):
    def missing(names):
        raise MetricError("the weights of lpips cannot be had")

    monkeypatch.setattr(validate, "ReferenceMetrics", missing)
    with pytest.raises(MetricError, match="lpips"):
        _check(root)


def test_output_that_is_a_file_or_cannot_be_made(root):
    (root / "file").write_text("mine")
    for output in (root / "file", root / "file/below", "/proc/out"):
        with pytest.raises(CompressaiGenError, match="cannot write to the output folder"):
            _check(root, output=type(root)(output))
    assert (root / "file").read_text() == "mine"


def test_missing_weights(root):
    with pytest.raises(RecipeError, match="there is no such file as"):
        _check(root, init=root / "gone.safetensors")


def test_a_run_checks_before_it_reads_the_training_images(root, monkeypatch, capsys):
    monkeypatch.setattr(loop, "open_crops", None)
    shutil.rmtree(root / "valid")
    assert main(["cgdm-v1-base", "--data-root", str(root), "--output", str(root / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: no validation images")


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), RuntimeError("failed writing\nmore")])
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, failure):
    class Accelerator:
        is_main_process = True

        def wait_for_everyone(self): ...

        def save_state(self, folder, **_):
            folder.mkdir()
            (folder / "half").touch()
            raise failure

    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/whole").touch()
    with pytest.raises(
        CompressaiGenError, match=r"cannot write the checkpoint .*(No space|failed writing).*; the last"
    ):
        loop._save(Accelerator(), tmp_path / "checkpoint")
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["whole"]


def test_telling_leaves_interrupts_and_our_errors_alone():
    for error in (KeyboardInterrupt(), DatasetError("ours")):
        with pytest.raises(type(error)), telling("what"):
            raise error
    with pytest.raises(CompressaiGenError, match=r"^what: EOFError$"), telling("what"):
        raise EOFError


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    torch.save({"x": torch.zeros(8)}, tmp_path / "state.bin")
    (tmp_path / "state.bin").write_bytes((tmp_path / "state.bin").read_bytes()[:-40])
    one_line = pytest.raises(CompressaiGenError, match=r"^the checkpoint cannot be loaded: .*; remove it$")
    with one_line as caught, telling("the checkpoint cannot be loaded", "remove it"):
        torch.load(tmp_path / "state.bin", weights_only=True)
    assert "\n" not in str(caught.value)
