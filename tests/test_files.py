import json
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from compressai_gen.errors import CompressaiGenError
from compressai_gen.files import (
    file_name,
    file_names,
    list_files,
    one_name,
    read_table,
    replacing,
    write_json,
    write_table,
)


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


def test_a_long_name_is_written(tmp_path):
    write_json({}, tmp_path / ("x" * 250 + ".json"))
    assert [len(path.name) for path in tmp_path.iterdir()] == [255]


def test_what_a_link_leads_to_is_written(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/x.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real/x.json")
    (tmp_path / "new.json").symlink_to("real/new.json")  # which is not there yet
    for name in ("link.json", "new.json"):
        write_json({"a": 1}, tmp_path / name)
        assert (tmp_path / name).is_symlink()
        assert json.loads((tmp_path / name).read_text()) == {"a": 1}
    assert sorted(path.name for path in (tmp_path / "real").iterdir()) == ["new.json", "x.json"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_fifo_is_written_into(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_json({}, tmp_path / "pipe")
    reader.join(10)
    assert read == [b"{}\n"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_device_is_told():
    with pytest.raises(CompressaiGenError, match="cannot write /dev/full: No space left"):
        write_json({}, "/dev/full")


def test_permissions_of_what_is_replaced_stay(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("")
    path.chmod(0o600)
    write_json({}, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_threads_write_one_file_at_the_same_time(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: write_json([n] * 1000, tmp_path / "x.json"), range(64)))
    assert len(set(json.loads((tmp_path / "x.json").read_text()))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_files_are_listed_whatever_their_case_and_through_links(tmp_path):
    (tmp_path / "here/.hidden").mkdir(parents=True)
    (tmp_path / "there/deep").mkdir(parents=True)
    for name in (
        "here/a.CGEN",
        "here/b.cgen",
        "here/c.txt",
        "here/.hidden/d.cgen",
        "here/.e.cgen",
        "there/deep/f.Cgen",
    ):
        (tmp_path / name).touch()
    (tmp_path / "here/linked").symlink_to("../there")
    (tmp_path / "there/round").symlink_to("../here")
    (tmp_path / "here/gone.cgen").symlink_to("nowhere")
    os.mkfifo(tmp_path / "here/pipe.cgen")
    found = [path.relative_to(tmp_path / "here").as_posix() for path in list_files(tmp_path / "here", {".cgen"})]
    assert found == ["a.CGEN", "b.cgen", "gone.cgen", "linked/deep/f.Cgen"]


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(CompressaiGenError, match=r"cannot look into .*gone: No such file"):
        list_files(tmp_path / "gone", {".png"})


def test_no_two_names_share_a_file():
    names = ["good x", "good_x", "good:x", "Good_x", "environment", "nul", ".written", "..", "x" * 300, "x" * 301]
    names += ["é", "e\u0301", "straße", "STRASSE", "\udc80", "a/b", "a_b", ""]
    files = file_names(names, taken=["Environment"])
    assert set(files) == set(names)
    assert len({one_name(file) for file in files.values()}) == len(names)
    assert all(file and not file.startswith(".") and "/" not in file and len(file) < 220 for file in files.values())
    assert files["Good_x"] == "Good_x"
    assert files["a_b"] == "a_b"
    assert files["environment"] != "environment"
    assert files == file_names(reversed(names), taken=["Environment"])
    assert file_names(["cgdm:steps=0"]) == {"cgdm:steps=0": "cgdm_steps_0"}


def test_a_codec_may_be_called_null(tmp_path):
    table = pd.DataFrame({"codec": ["null", "NA", "nan"], "figure": [1.5, float("nan"), float("inf")]})
    write_table(table, tmp_path / "x.csv")
    pd.testing.assert_frame_equal(read_table(tmp_path / "x.csv"), table, check_dtype=False)
