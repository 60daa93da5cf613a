"""What a reader must know to repeat a run."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import features

from compressai_gen._version import __version__
from compressai_gen.layers.precision import cpu_fields

__all__ = ["PASSING", "describe_environment", "versions_of_figures"]

PASSING = ("commit", "peak_memory_mib", "peak_device_memory_mib")
"""What differs between runs that compute the same; a commit does, as soon as results are written into the checkout."""

_OF_FIGURES = ("compressai", "torch", "torchvision", "diffusers", "pillow", "lpips", "DISTS-pytorch", "pytorch-msssim")
_OF_TABLES = ("pytorch-fid", "bjontegaard", "numpy", "pandas", "scipy")


def describe_environment(device: str | torch.device) -> dict[str, Any]:
    """Return versions, commit, processor, threads and the peak memory of the process so far, as JSON data."""
    return {
        "compressai_gen": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions_of_figures() | {name: _version(name) for name in _OF_TABLES},
        "encoders": {name: features.version(name) for name in ("jpg", "libjpeg_turbo", "jpg_2000", "webp", "avif")},
        "cpu": cpu_fields().get("model name") or platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "device": _device_name(torch.device(device)),
        "peak_memory_mib": _peak_memory(),
        "peak_device_memory_mib": torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None,
    }


def versions_of_figures() -> dict[str, str | None]:
    """Return the version of each package that codes or measures single images; None of one that is not installed."""
    return {name: _version(name) for name in _OF_FIGURES}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the checkout this package runs from, with ``-dirty`` where files differ; None if installed."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _peak_memory() -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
