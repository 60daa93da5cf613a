"""The wheel works by itself: built, installed elsewhere and used from a folder that is not the checkout."""

import json
import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]

USE = """
import json, sys, torch
import compressai_gen
from compressai_gen import resources
from compressai_gen.data import known_datasets, load_dataset

image = load_dataset("samples", limit=1)[0][:, 100:175, 200:290]
model = compressai_gen.zoo.mridc(quality=2)
out = model.compress(image[None].float() / 255)
x_hat = model.decompress(out["strings"], out["shape"])["x_hat"]
report = {
    "package": compressai_gen.__file__,
    "resources": [str(resources.ZOO_DIR), str(resources.EVAL_DIR)],
    "datasets": known_datasets(),
    "bytes": len(out["strings"][0][0]),
    "shape": list(x_hat.shape),
    "range": [x_hat.min().item(), x_hat.max().item()],
}
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("build", reason="the extra 'test' is not installed")
    pytest.importorskip("hatchling", reason="the extra 'test' is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    _run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)])
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Folder of the installed wheel; its dependencies are those of the running environment."""
    target = tmp_path_factory.mktemp("site")
    _run([sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)])
    return target


def _run(command, site=None):
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "COMPRESSAI_GEN_DATA")}
    if site is not None:
        environment["PYTHONPATH"] = str(site)
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_wheel_carries_what_is_used_and_nothing_else(wheel):
    names = ZipFile(wheel).namelist()
    resources = "compressai_gen/resources"
    assert f"{resources}/zoo/manifest.json" in names
    assert f"{resources}/eval/protocol.md" in names
    assert "compressai_gen/leaderboard/page.html.jinja" in names
    assert {f"compressai_gen/eval/templates/report.{kind}" for kind in ("html", "css", "js")} <= set(names)
    manifest = json.loads((ROOT / "zoo/manifest.json").read_text(encoding="utf-8"))
    for entry in (entry for entry in manifest.values() if "networks" in entry):
        files = [entry["card"], entry["record"], *(entry[role]["file"] for role in ("coding", "networks"))]
        assert {f"{resources}/zoo/{file}" for file in files} <= set(names)
        assert f"{resources}/zoo/recipes/{entry['recipe']}.toml" in names
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"compressai_gen"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.endswith((".tmp", ".pyc", ".pth"))]


def test_installed_package_loads_its_own_weights_and_codes(installed):
    report = json.loads(_run([sys.executable, "-c", USE], installed))
    for path in (report["package"], *report["resources"]):
        assert Path(path).is_relative_to(installed)
    assert {"kodak", "samples"} <= set(report["datasets"])
    assert 4 < report["bytes"] < 75 * 90 * 3 / 8
    assert report["shape"] == [1, 3, 75, 90]
    assert 0 <= report["range"][0] < report["range"][1] <= 1


def test_installed_evaluation_runs(installed, tmp_path):
    options = "--models mridc --qualities 1 --dataset samples --limit 1 --metrics psnr --output"
    _run([sys.executable, "-m", "compressai_gen.eval", *options.split(), str(tmp_path)], installed)
    summary = pd.read_csv(tmp_path / "summary.csv")
    assert summary[["codec", "quality", "n_images"]].to_numpy().tolist() == [["mridc", 1, 1]]
    assert summary["psnr"].between(5, 60).all()
    assert summary["bpp"].between(0, 1).all()
