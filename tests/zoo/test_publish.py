import json

import pytest
import torch
from narrow import MRIDC_PARTS, NARROW

from compressai_gen import resources, zoo
from compressai_gen.models import MRIDC
from compressai_gen.train.export import export
from compressai_gen.train.recipe import Recipe, Stage
from compressai_gen.zoo import publish

CONFIG = NARROW | MRIDC_PARTS | {"restorer": False}
SUMMARY = "codec,quality,bpp,psnr,source\nmridc,1,0.01234567,21.5,measured\njpeg,5,0.3,25,measured\n"


@pytest.fixture
def empty_zoo(tmp_path, monkeypatch):
    folder = tmp_path / "zoo"
    folder.mkdir()
    monkeypatch.setattr(resources, "ZOO_DIR", folder)
    return folder


@pytest.fixture
def run(tmp_path):
    """What a finished training leaves behind."""
    recipe = Recipe(
        "mridc-tiny", "mridc", 7, (Stage(4, 5, 64),), 1e-4, 0, 1e-5, 0.5, 0.9, 1.0, data={}, objective={}, config=CONFIG
    )
    folder = tmp_path / "run"
    folder.mkdir()
    torch.manual_seed(0)
    model = MRIDC(**CONFIG)
    torch.nn.init.normal_(model.g_a.head.weight)
    rows = [{"quality": 1, "size": "small", "n_images": 2, "bpp": 0.0125}]
    facts = {
        "step": 4,
        "pixels": 2_400_000_000,
        "seconds": 9.0,
        "images": 3,
        "hardware": "on a toaster",
        "data": "holiday pictures",
    }
    export(model, recipe, folder, rows, facts)
    return folder


def test_published_weights_are_what_the_zoo_loads(empty_zoo, run, photograph):
    assert publish.main([str(run), "--tag", "t1"]) == 0
    model = zoo.mridc(quality=2)
    assert model.quantizer.codebooks.shape == (2, 16, 16)
    assert model.g_a.head.weight.any()
    out = model.compress(photograph(40, 40))
    assert model.decompress(**out)["x_hat"].shape == (1, 3, 40, 40)


def test_card_says_what_was_measured_and_how_it_was_trained(empty_zoo, run, tmp_path):
    results = tmp_path / "kodak"
    results.mkdir()
    (results / "summary.csv").write_text(SUMMARY)
    (tmp_path / "ablation").mkdir()
    (tmp_path / "ablation" / "mridc.csv").write_text("variant,quality,bpp\nno mask,2,0.5\n")
    assert publish.main([str(run), "--tag", "t1", "--results", str(results)]) == 0
    card = (empty_zoo / "mridc.t1.md").read_text(encoding="utf-8")
    manifest = json.loads((empty_zoo / "manifest.json").read_text())
    for part in (
        manifest["mridc.t1"]["coding"]["sha256"],
        "mridc-tiny",
        "Seed 7",
        "holiday pictures",
        "4 steps, 2.40 billion pixels, in 0.0 hours on a toaster",
        "0.0125",
    ):
        assert part in card
    assert "| 1 | 0.0123 | 21.5 |" in card
    assert "| no mask | 2 | 0.5 |" in card
    counted = card.partition("## Arithmetic")[2].partition("## Validation")[0]
    rows = [line.strip("| ").split("|") for line in counted.splitlines() if line.startswith("| 1 ")]
    assert len(rows) == 1
    assert all(0.1 < float(kmacs) < 10 for kmacs in rows[0][1:])  # of a tiny model
    assert "jpeg" not in card


def test_publishing_again_replaces_the_entry(empty_zoo, run):
    argv = [str(run), "--tag", "t1"]
    assert publish.main(argv) == publish.main(argv) == 0
    assert sorted(path.name for path in empty_zoo.iterdir()) == [
        "manifest.json",
        "mridc.t1.coding.safetensors",
        "mridc.t1.json",
        "mridc.t1.md",
        "mridc.t1.networks.safetensors",
    ]


def test_a_tag_is_not_given_to_another_coding_part(empty_zoo, run, capsys):
    assert publish.main([str(run), "--tag", "t1"]) == 0
    before = {path.name: path.read_bytes() for path in empty_zoo.iterdir()}
    record = json.loads((run / "record.json").read_text())
    (run / "record.json").write_text(json.dumps(record | {"fingerprint": "0" * 64}))
    assert publish.main([str(run), "--tag", "t1"]) == 2
    assert "publish under a new tag" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in empty_zoo.iterdir()} == before
    assert publish.main([str(run), "--tag", "t2"]) == 0
    assert list(json.loads((empty_zoo / "manifest.json").read_text())) == ["mridc.t1", "mridc.t2"]


@pytest.mark.parametrize("tag", [[], ["--tag", "../v1"]])
def test_a_missing_or_impossible_tag_is_told(empty_zoo, run, tag, capsys):
    assert publish.main([str(run), *tag]) == 2
    assert "tag" in capsys.readouterr().err
    assert not any(empty_zoo.iterdir())


def test_cards_of_other_models_are_left_alone(empty_zoo, run):
    assert publish.main([str(run), "--tag", "t1"]) == 0
    manifest = json.loads((empty_zoo / "manifest.json").read_text())
    (empty_zoo / "manifest.json").write_text(
        json.dumps({"other.v1": {"model": "other", "card": "other.md"}} | manifest)
    )
    (empty_zoo / "other.md").write_text("measured figures")
    assert publish.main([str(run), "--tag", "t1"]) == 0
    assert (empty_zoo / "other.md").read_text() == "measured figures"


def test_results_that_are_none_are_told(empty_zoo, run, tmp_path, capsys):
    assert publish.main([str(run), "--results", str(tmp_path)]) == 2
    assert "summary.csv" in capsys.readouterr().err
    assert not any(empty_zoo.iterdir())


def test_unfinished_run_is_told(empty_zoo, tmp_path, capsys):
    assert publish.main([str(tmp_path), "--tag", "t1"]) == 2
    assert "not a finished training run" in capsys.readouterr().err
