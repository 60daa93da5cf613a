"""The ablation command: a row per variant, from the real codec."""

from dataclasses import replace

import pandas as pd
import pytest

from compressai_gen import zoo
from compressai_gen.data import write_image
from compressai_gen.eval import ablation
from compressai_gen.eval.ablation import main
from compressai_gen.specs import Variant, own_specs


@pytest.fixture
def folder(tmp_path, photograph):
    (tmp_path / "images").mkdir()
    write_image((photograph(128, 192)[0] * 255).round().byte(), tmp_path / "images" / "a.png")
    return tmp_path


def _change(monkeypatch, name, variants, metrics):
    monkeypatch.setattr(ablation, "DEFAULT_METRICS", ("psnr",))
    spec = replace(own_specs()[name], variants=variants, ablation_metrics=metrics)
    monkeypatch.setattr(ablation, "specs", lambda: {name: spec})


def test_every_variant_gets_a_row_and_its_options(folder, monkeypatch):
    variants = {"base": Variant({}, {"steps": 0}), "worse": Variant({"quality": 1}, {})}
    _change(monkeypatch, "cgdm", variants, ())
    argv = ["cgdm", "--qualities", "3", "--dataset", str(folder / "images"), "--output", str(folder / "out")]
    assert main(argv) == 0
    table = pd.read_csv(folder / "out" / "cgdm.csv").set_index("variant")
    assert list(table.index) == ["base", "worse"]
    assert table.loc["worse", "bpp"] < table.loc["base", "bpp"]
    assert table.loc["worse", "psnr"] < table.loc["base", "psnr"]

    monkeypatch.setattr(zoo, "load", None)  # a second run computes nothing again
    assert main(argv) == 0


def test_region_of_interest_suits_every_picture(folder, monkeypatch):
    """Tokens go into the central quarter of whatever picture there is; a second run finds the first one's rows."""
    chosen = {name: own_specs()["mridc"].variants[name] for name in ("+ diffusion", "region of interest")}
    _change(monkeypatch, "mridc", chosen, ("psnr_central",))
    images = folder / "images"
    argv = ["mridc", "--qualities", "3", "--dataset", str(images), "--output", str(folder / "out")]
    assert main(argv) == 0
    table = pd.read_csv(folder / "out" / "mridc.csv").set_index("variant")
    assert table.loc["region of interest", "psnr_central"] != table.loc["+ diffusion", "psnr_central"]

    monkeypatch.setattr(zoo, "load", None)
    assert main(argv) == 0


def test_unknown_models_and_qualities_are_told(folder, capsys):
    for arguments, message in (
        (["jpeg"], "no parts to switch off"),
        (["cgdm", "--qualities", "9"], "qualities 1 to 5, not 9"),
    ):
        assert main([*arguments, "--dataset", str(folder / "images"), "--output", str(folder / "out")]) == 2
        assert message in capsys.readouterr().err
