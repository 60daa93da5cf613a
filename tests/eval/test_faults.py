"""Whole runs of the evaluation where people put their output, names and broken files."""

import json
import os
import shutil

import pandas as pd
import pytest
import torch
from PIL import Image

from compressai_gen.codecs import CLASSICAL_CODECS, Encoded, registry
from compressai_gen.data import load_dataset, write_image
from compressai_gen.errors import DatasetError
from compressai_gen.eval import cli, compare
from compressai_gen.files import read_table


@pytest.fixture(autouse=True)
def photos(tmp_path, monkeypatch):
    """The working folder holds two photographs; only classical codecs are known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "our_models", dict)
    monkeypatch.setattr(cli, "our_models", dict)
    threads = torch.get_num_threads()
    for (name, image), left in zip(load_dataset("samples", limit=2), (100, 50), strict=True):
        write_image(image[:, 60:140, left : left + 90], tmp_path / f"{name}.png")
    yield tmp_path
    torch.set_num_threads(threads)


def _run(*argv):
    return cli.main(["--models", "webp", "--metrics", "psnr", *argv])


@pytest.mark.parametrize("output", [[], ["--output", "."], ["--output", "deep/er"]])
def test_what_a_run_writes_is_never_measured(photos, output):
    for _ in range(2):
        assert _run("--dataset", ".", "--reconstructions", *output) == 0
        folder = photos / (output[1] if output else f"results/{photos.name}")
        assert sorted(read_table(folder / "images.csv")["image"].unique()) == ["astronaut", "chelsea"]
    compare.main(["webp", "--dataset", ".", "--size", "64", "--output", "crops.png"])
    shutil.copytree(folder, photos / "copied", ignore=lambda folder, names: ["copied"])
    assert load_dataset(".").image_names == ("astronaut", "chelsea") or output == ["--output", "."]
    names = load_dataset(".").image_names
    assert {name.rpartition("/")[2] for name in names} == {"astronaut", "chelsea"}
    with pytest.raises(DatasetError, match="only images that an evaluation wrote"):
        load_dataset(folder / "reconstructions")


def test_one_unreadable_picture_costs_only_itself(photos, capsys):
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (photos / "gone.png").symlink_to("nowhere.png")
    assert _run("--dataset", ".", "--report", "--output", "out") == 2
    captured = capsys.readouterr()
    summary = read_table(photos / "out/summary.csv")
    assert (summary["n_images"] == 2).all()
    assert sorted(read_table(photos / "out/images.csv")["image"].unique()) == ["astronaut", "chelsea"]
    environment = json.loads((photos / "out/environment.json").read_text())
    assert environment["unreadable"] == ["broken", "gone"]
    assert environment["dataset"]["images"] == 2
    assert "Left out of every mean, as unreadable: broken, gone" in (photos / "out/summary.md").read_text()
    assert captured.err.count("left out: ") == 2
    last = captured.err.strip().splitlines()[-1]
    assert last == "error: 2 of 4 pictures could not be read and are left out of every mean: broken.jpg, gone.png"
    assert (photos / "out/report.html").exists()


def test_nothing_readable_is_one_line(photos, capsys):
    for name in ("astronaut", "chelsea"):
        (photos / f"{name}.png").write_bytes(b"no picture")
    assert _run("--dataset", ".") == 2
    assert "error: none of the 2 pictures can be read" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["$", "a$b_c", "%d{}", "null", "_x", "NA", "dots...", "ünïcode"])
def test_any_name_of_a_dataset(photos, name):
    folder = photos / "sets" / name
    folder.mkdir(parents=True)
    Image.open(photos / "astronaut.png").save(folder / f"{name}.png")
    assert _run("--dataset", str(folder), "--output", "out") == 0
    assert json.loads((photos / "out/environment.json").read_text())["dataset"]["name"] == name
    assert (photos / "out/summary.tex").exists()
    assert read_table(photos / "out/images.csv")["image"].unique().tolist() == [name]


NAMES = ("good x", "good_x", "Good_X", "null", "environment", "summary", "_x", "$x$")


def test_any_names_of_codecs(photos, monkeypatch, capsys):
    class Named:
        version = "1"

        def __init__(self, name):
            self.name, self.qualities = name, (1, 15)

        def __getattr__(self, name):
            return getattr(CLASSICAL_CODECS["webp"], name)

    known = {name: Named(name) for name in NAMES} | {"avif": CLASSICAL_CODECS["avif"]}
    monkeypatch.setattr(cli, "find_codec", lambda name, device: known[name])
    argv = ["--models", *NAMES, "--baselines", "avif", "--metrics", "psnr", "--dataset", ".", "--output", "out"]
    assert cli.main([*argv, "--reconstructions"]) == 0
    results = [json.loads(path.read_text()) for path in (photos / "out").glob("*.json")]
    assert sorted(result["name"] for result in results if "results" in result) == sorted((*NAMES, "avif"))
    assert "encoders" in json.loads((photos / "out/environment.json").read_text())
    assert len(list((photos / "out/reconstructions").iterdir())) == 2 * len(NAMES) + 4
    deltas = capsys.readouterr().out.partition("\n\n")[2]
    for name in NAMES:
        assert f"{name} " in deltas


def test_undefined_rates_have_a_reason(photos, capsys):
    argv = ["--models", "webp", "jpeg", "--metrics", "psnr", "--dataset", ".", "--output", "out"]
    assert cli.main([*argv[:1], "webp", "--baselines", "avif", "--qualities", "15", *argv[3:]]) == 0
    reason = "the codec has 1 point, and at least 2 are needed"
    assert f"undefined: webp, psnr: {reason}" in capsys.readouterr().out
    assert pd.read_csv(photos / "out/bd_rate.csv")["reason"].tolist() == [reason]
    assert cli.main(argv) == 0
    assert "no BD-rates: avif was not measured" in capsys.readouterr().out


def test_any_name_of_a_picture(photos):
    """Pandas 22610 and 10018: names that are no text, or would break a row."""
    names = [b"n\xff", b"car\rriage", b"new\nline", b'comma, "quote"', "日本".encode(), b"'=1+1", b"NA", b"a|b*c"]
    (photos / "set").mkdir()
    for name in names:
        (photos / "small.png").write_bytes((photos / "astronaut.png").read_bytes())
        try:
            os.rename(os.fsencode(photos / "small.png"), os.fsencode(photos / "set") + b"/" + name + b".png")
        except OSError:
            pytest.skip("this file system has no such names")
    assert _run("--dataset", "set", "--qualities", "15", "--reconstructions", "--report", "--output", "out") == 0
    shown = {"n\\xff", "car\\x0driage", "new\\x0aline", 'comma, "quote"', "日本", "'=1+1", "NA", "a|b*c"}
    assert set(read_table(photos / "out/images.csv")["image"]) == shown
    assert {path.stem for path in (photos / "out/reconstructions/webp-q15").iterdir()} == shown


def test_a_perfect_copy_has_infinite_psnr(photos, monkeypatch):
    """A mean of infinite figures is infinite: tables say inf, JSON, which has none, leaves it out, nothing fails."""

    class Perfect:
        name, qualities, version = "perfect", (1, 2), "1"

        def encode(self, image, quality):
            return Encoded([image.numpy().tobytes()], tuple(image.shape))

        def decode(self, encoded, quality=None):
            return torch.frombuffer(bytearray(encoded.strings[0]), dtype=torch.uint8).reshape(encoded.shape)

    known = {"perfect": Perfect(), "avif": CLASSICAL_CODECS["avif"]}
    monkeypatch.setattr(cli, "find_codec", lambda name, device: known[name])
    argv = ["--models", "perfect", "--baselines", "avif", "--metrics", "psnr", "--dataset", ".", "--output", "out"]
    assert cli.main([*argv, "--report"]) == 0
    table = read_table(photos / "out/summary.csv")
    assert table[table["codec"] == "perfect"]["psnr"].tolist() == [float("inf")] * 2
    assert "psnr-rgb" not in json.loads((photos / "out/perfect.json").read_text())["results"]
