"""The command line ``compressai-gen``."""

import json
import sys
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from compressai_gen.cli import main
from compressai_gen.data import load_dataset, read_image, write_image


@pytest.fixture
def photo(tmp_path, monkeypatch):
    """A small picture in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_image(load_dataset("samples", limit=1)[0][:, 60:124, 180:270].contiguous(), "photo.png")
    return tmp_path / "photo.png"


def test_encode_info_decode(photo, capsys):
    assert main(["encode", "photo.png", "photo.cgen", "--model", "mridc", "--quality", "2"]) == 0
    assert main(["info", "photo.cgen", "--streams"]) == 0
    said = capsys.readouterr().out
    assert "mridc quality 2, 90x64 pixels" in said
    assert "tokens" in said
    assert main(["decode", "photo.cgen", "decoded.png"]) == 0
    assert read_image("decoded.png").shape == (3, 64, 90)
    assert sorted(path.name for path in photo.parent.iterdir()) == ["decoded.png", "photo.cgen", "photo.png"]


def test_standard_input_and_output(photo, monkeypatch, capsysbinary):
    def through(data, *argv):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=BytesIO(data)))
        assert main([*argv]) == 0
        return capsysbinary.readouterr().out

    file = through(photo.read_bytes(), "encode", "-", "-", "--model", "mridc")
    picture = Image.open(BytesIO(through(file, "decode", "-", "-", "--format", "webp")))
    assert (picture.format, picture.size) == ("WEBP", (90, 64))
    assert json.loads(through(file, "info", "-", "--json"))["bytes"] == len(file)


@pytest.mark.parametrize(
    ("name", "format"), [("x.png", "PNG"), ("x.JPG", "JPEG"), ("x.tif", "TIFF"), ("x.webp", "WEBP"), ("x.bmp", "BMP")]
)
def test_the_name_chooses_the_pictures_format(photo, name, format):
    main(["encode", "photo.png", "photo.cgen", "--model", "mridc", "--quality", "1"])
    assert main(["decode", "photo.cgen", name]) == 0
    assert Image.open(name).format == format


def test_a_format_that_has_no_room_for_the_picture_is_told(photo, capsys):
    Image.new("RGB", (16400, 1)).save("long.png")
    assert main(["encode", "photo.png", "long.png", "files", "--model", "mridc", "--quality", "1"]) == 0
    assert main(["decode", "files/long.cgen", "files/photo.cgen", "pictures", "--format", "webp"]) == 2
    assert "16400x1 pixels cannot be written as webp" in capsys.readouterr().err
    assert [path.name for path in Path("pictures").iterdir()] == ["photo.webp"]


def test_an_unknown_format_of_pictures_is_told(photo, capsys):
    main(["encode", "photo.png", "photo.cgen", "--model", "mridc", "--quality", "1"])
    assert main(["decode", "photo.cgen", "x.gif"]) == 2
    assert "written to .png, .bmp" in capsys.readouterr().err


def test_folders_keep_their_form_and_one_bad_file_does_not_stop_the_others(photo, capsys):
    (photo.parent / "in/deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.png", "deep/c.png"):
        (photo.parent / "in" / name).write_bytes(photo.read_bytes())
    (photo.parent / "in/deep/c.png").write_bytes(b"no picture")
    assert main(["encode", "in", "out", "--model", "mridc", "--quality", "1"]) == 2
    said = capsys.readouterr().err
    assert "c.png" in said
    assert "1 of 3 files" in said
    assert _files(photo.parent / "out") == ["a.cgen", "deep/b.cgen"]
    assert main(["decode", "out", "back"]) == 0
    assert _files(photo.parent / "back") == ["a.png", "deep/b.png"]


def _files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_nothing_is_overwritten_by_a_namesake(photo, capsys):
    Image.open("photo.png").save("photo.jpg")
    assert main(["encode", "photo.png", "photo.jpg", "out", "--model", "mridc"]) == 2
    assert "both be written to out/photo.cgen" in capsys.readouterr().err
    assert not (photo.parent / "out").exists()


def test_a_failed_file_leaves_nothing_behind(photo, capsys):
    photo.with_name("bad.cgen").write_bytes(b"CGEN" + bytes(30))
    assert main(["decode", "bad.cgen", "bad.png"]) == 2
    assert "error: bad.cgen" in capsys.readouterr().err
    assert sorted(path.name for path in photo.parent.iterdir()) == ["bad.cgen", "photo.png"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["encode", "gone.png", "x.cgen"], "no such file"),
        (["encode", "photo.png"], "stands alone"),
        (["encode", "x.png", "photo.png"], "the last path says where to write"),
        (["encode", "photo.png", "x.cgen", "--quality", "9"], "1 to 5"),
        (["encode", "photo.png", "x.cgen", "--target-bytes", "20"], "needs"),
        (["encode", "photo.png", "x.cgen", "--device", "abacus"], "abacus"),
        (["encode", "-", "photo.png", "folder"], "no name"),
        (["encode", "photo.png", "photo.png", "-"], "standard output"),
        (["decode", "photo.png", "x.png"], "not a .cgen file"),
        (["decode", "gone.cgen", "x.png"], "cannot be read"),
        (["info", "photo.png"], "not a .cgen file"),
    ],
)
def test_mistakes_are_told_in_a_line(photo, capsys, argv, message):
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert [path.name for path in photo.parent.iterdir()] == ["photo.png"]


def test_models_are_listed(capsys):
    assert main(["models"]) == 0
    assert capsys.readouterr().out.split()[0] == "model"
    assert main(["models", "--json"]) == 0
    assert {row["model"] for row in json.loads(capsys.readouterr().out)} == {"cgdm", "mridc"}
