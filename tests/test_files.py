import pandas as pd
import pytest

from compressai_gen.errors import CompressaiGenError
from compressai_gen.files import file_name, replacing, write_json, write_table


def test_interrupted_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def write_half():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_interrupted_first_writing_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json({"x": float("nan")}, tmp_path / "x.json")
    assert list(tmp_path.iterdir()) == []


def test_folders_are_made(tmp_path):
    write_table(pd.DataFrame({"a": [1, None]}), tmp_path / "deep/er/x.csv")
    assert pd.read_csv(tmp_path / "deep/er/x.csv")["a"].isna().tolist() == [False, True]


def test_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CompressaiGenError, match=r"x\.json"):
        write_json({}, tmp_path / "file" / "x.json")


def test_file_name_has_no_separators():
    assert file_name("VTM [a/b]: 1.0-q2") == "VTM_a_b_1.0-q2"
