import re

import pandas as pd
import pytest

from compressai_gen.codecs import newest_of_families, published_curves
from compressai_gen.resources import EVAL_DIR


@pytest.mark.parametrize(
    "dataset", ["kodak", "clic2020", "clic2020-professional", "div2k", "clic2020-768", "tecnick-768", "kodak-crop512"]
)
def test_a_name_is_one_curve(dataset):
    table = published_curves(dataset)
    assert (table["dataset"] == dataset).all()
    assert (table.groupby("codec")["source"].nunique() == 1).all()
    assert not table.duplicated(["codec", "point"]).any()


def test_sources_are_told_apart_only_where_needed():
    names = set(published_curves("kodak")["codec"])
    assert {"VTM [diffeic]", "VTM [compressai]", "HiFiC", "PerCo"} <= names
    assert "VTM" not in names


def test_a_known_figure():
    table = published_curves("kodak").set_index(["codec", "point"])
    assert table.loc[("VTM [diffeic]", "43"), "lpips"] == pytest.approx(0.346, abs=5e-4)
    assert table.loc[("VTM [diffeic]", "43"), "bpp"] == pytest.approx(0.095, abs=5e-4)


def test_unknown_dataset_has_no_rows():
    table = published_curves("samples")
    assert table.empty
    assert {"codec", "bpp", "lpips"} <= set(table.columns)


def test_every_source_is_explained():
    sources = set(published_curves("kodak")["source"])
    explained = set(re.findall(r"^\| `(\w+)`", (EVAL_DIR / "SOURCES.md").read_text(), re.MULTILINE))
    assert sources <= explained


def test_every_curve_has_a_family():
    curves = pd.read_csv(EVAL_DIR / "published_curves.csv")
    known = pd.read_csv(EVAL_DIR / "published_codecs.csv")
    assert set(curves["codec"]) == set(known["codec"])
    assert not known["codec"].duplicated().any()
    assert known["since"].str.match(r"\d{4}(-\d{2})?$").all()


def test_the_newest_of_each_family():
    scores = {"PerCo": 1, "BPG": 3, "VTM [diffeic]": 1, "VTM [compressai]": 2, "DiffEIC": 9, "RDEIC-2": 0, "unknown": 0}
    assert newest_of_families(scores) == ["VTM [compressai]", "RDEIC-2", "PerCo", "unknown"]
    assert newest_of_families({"RDEIC-5": 2, "RDEIC-2": 1}) == ["RDEIC-2"]  # of variants, the file's first
