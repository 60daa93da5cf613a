"""The example package, installed by pip, is found by its entry point and runs."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from compressai_gen.codecs import available_codecs, find_codec
from compressai_gen.data import load_dataset

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/posterize"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    pytest.importorskip("hatchling", reason="the extra 'test' is not installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(tmp_path), str(EXAMPLE)], check=True, timeout=300)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("posterize_codec", None)


def test_installed_example_runs(installed):
    assert "posterize" in available_codecs()
    codec = find_codec("posterize")
    assert codec.package.replace("_", "-") == "posterize-codec 0.1.0"
    image = load_dataset("samples", limit=1)[0]
    coded = [codec.encode(image, quality) for quality in codec.qualities]
    assert coded[0].n_bytes < coded[-1].n_bytes
    for encoded, quality in zip(coded, codec.qualities, strict=True):
        decoded = codec.decode(encoded)
        assert decoded.dtype == torch.uint8
        assert (image - decoded).max() < 2 ** (8 - quality)


def test_the_documentation_shows_its_entry_point():
    entry_point = '[project.entry-points."compressai_gen.codecs"]\nposterize = "posterize_codec:Posterize"\n'
    assert entry_point in (EXAMPLE / "pyproject.toml").read_text(encoding="utf-8")
    assert entry_point in (ROOT / "docs/writing-a-codec.md").read_text(encoding="utf-8")
