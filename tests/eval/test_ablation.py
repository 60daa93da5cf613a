"""The ablation command: a row per variant, from the real codec."""

import pandas as pd
import pytest

from compressai_gen import zoo
from compressai_gen.data import write_image
from compressai_gen.eval import ablation
from compressai_gen.eval.ablation import VARIANTS, Variant, main


@pytest.fixture
def folder(tmp_path, photograph):
    (tmp_path / "images").mkdir()
    write_image((photograph(64, 64)[0] * 255).round().byte(), tmp_path / "images" / "a.png")
    return tmp_path


def test_every_variant_gets_a_row_and_its_options(folder, monkeypatch):
    monkeypatch.setattr(ablation, "DEFAULT_METRICS", ("psnr",))
    variants = {"base": Variant({}, {"steps": 0}), "worse": Variant({"quality": 1}, {})}
    monkeypatch.setitem(VARIANTS, "cgdm", variants)
    argv = ["cgdm", "--qualities", "3", "--dataset", str(folder / "images"), "--output", str(folder / "out")]
    assert main(argv) == 0
    table = pd.read_csv(folder / "out" / "cgdm.csv").set_index("variant")
    assert list(table.index) == ["base", "worse"]
    assert table.loc["worse", "bpp"] < table.loc["base", "bpp"]
    assert table.loc["worse", "psnr"] < table.loc["base", "psnr"]

    monkeypatch.setattr(zoo, "_load", None)  # a second run computes nothing again
    assert main(argv) == 0


def test_unknown_models_and_qualities_are_told(folder, capsys):
    for arguments, message in ((["jpeg"], "no parts to switch off"), (["cgdm", "--qualities", "9"], "no quality 9")):
        assert main([*arguments, "--dataset", str(folder / "images"), "--output", str(folder / "out")]) == 2
        assert message in capsys.readouterr().err
