"""The example model, a codec in a package of its own, in every program, without a line of ours changed."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from compressai_gen.data import write_image

EXAMPLE = Path(__file__).parents[2] / "examples/blockdct"

USE = """
import sys
from pathlib import Path
from compressai_gen.cli import main

def run(*argv):
    assert main(list(argv)) == 0, argv

run("models")
run("encode", "data/train/a.png", "a.cgen", "--model", "blockdct", "--quality", "2")
run("info", "a.cgen", "--streams")
run("decode", "a.cgen", "a.png")
run("decode", "a.cgen", "b.png", "--option", "smooth=True")
run("encode", "data/train/a.png", "small.cgen", "--model", "blockdct.v1", "--target-bpp", "1.2")
run("eval", "--models", "blockdct", "blockdct:smooth=True", "--qualities", "1", "5", "--dataset", "data/train",
    "--metrics", "psnr", "--output", "results")
run("ablation", "blockdct", "--dataset", "data/train", "--output", "ablation", "--limit", "1")
run("train", "tiny.toml", "--data-root", "data", "--output", "run")
run("leaderboard", "pack", "blockdct", "--dataset", "data/train", "--card", "card.toml", "--output", "b.cgensub",
    "--qualities", "1")
run("leaderboard", "verify", "b.cgensub", "--dataset", "data/train")
assert main(["encode", "data/train/a.png", "c.cgen", "--model", "blockdct", "--roi", "data/train/a.png"]) == 2
assert main(["decode", "a.cgen", "c.png", "--option", "syntax=True"]) == 2
"""


@pytest.fixture
def folder(tmp_path, photograph):
    """Two pictures, a recipe of two steps, and the example's package, as if pip had installed it."""
    for part in ("train", "valid"):
        (tmp_path / "data" / part).mkdir(parents=True)
        for name, left in (("a", 0), ("b", 120)):
            write_image((photograph(176, 192, 60, left)[0] * 255).round().byte(), tmp_path / f"data/{part}/{name}.png")
    recipe = (
        (EXAMPLE / "blockdct.toml").read_text().replace("steps = 80", "steps = 2").replace("warmup = 10", "warmup = 1")
    )
    (tmp_path / "tiny.toml").write_text(recipe)
    (tmp_path / "card.toml").write_text('title = "An example"\nauthor = "Somebody"\n')
    info = tmp_path / "site/blockdct_codec-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: blockdct-codec\nVersion: 0.1.0\n")
    points = (EXAMPLE / "pyproject.toml").read_text().partition('[project.entry-points."compressai_gen.models"]\n')[2]
    line = points.splitlines()[0].replace('"', "")
    (info / "entry_points.txt").write_text(f"[compressai_gen.models]\n{line}\n")
    return tmp_path


def test_every_program_takes_it(folder):
    paths = [str(EXAMPLE.parents[1]), str(EXAMPLE), str(folder / "site")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "blockdct.v1" in done.stdout
    assert "takes no region" in done.stderr or "knows no region of interest" in done.stderr
    assert "blockdct has no option syntax; it has steps, seed, tile, smooth" in done.stderr
    assert (folder / "a.png").read_bytes() != (folder / "b.png").read_bytes()
    assert 8 * (folder / "small.cgen").stat().st_size <= 1.2 * 176 * 192
    summary = pd.read_csv(folder / "results/summary.csv")
    measured = summary[summary["source"] == "measured"]
    assert set(measured["codec"]) == {"blockdct", "blockdct:smooth=True"}
    assert list(pd.read_csv(folder / "ablation/blockdct.csv")["variant"]) == ["plain", "+ smoothing"]
    assert (folder / "run/coding.safetensors").is_file()
    assert (folder / "b.accepted.json").is_file()
