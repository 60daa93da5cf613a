"""Weights of the zoo, read and checked; :mod:`compressai_gen.manifest` says which there are."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from compressai_gen import resources
from compressai_gen.errors import ZooError
from compressai_gen.files import replacing
from compressai_gen.manifest import Entry, entry_of, folder_of, read_manifest, tags
from compressai_gen.roles import ROLES
from compressai_gen.specs import OWN_PACKAGE, find_spec

__all__ = ["load_weights", "output_version"]


def output_version(model: str | None, weights: str | None = None) -> str:
    """Returns what decides a model's output: the hashes of its weights and of the source that runs them."""
    source = resources.source_hash("diffusion", "entropy", "layers", "metrics", "models")
    if model is None or not tags(model):
        return source
    entry, spec = entry_of(model, weights), find_spec(model)
    parts = [*(entry[role]["sha256"] for role in ROLES), source]
    if spec.package != OWN_PACKAGE:
        parts.append(hashlib.sha256(Path(inspect.getfile(spec.load())).read_bytes()).hexdigest())
    return " ".join(parts)


def load_weights(name: str) -> dict[str, Tensor]:
    """Returns the state of ``name.tag`` in float32, after checking both files' hashes.

    Raises:
        ZooError: a file is missing, cannot be had, or is not what the manifest says.
    """
    entry = read_manifest()[name]
    state: dict[str, Tensor] = {}
    for role in ROLES:
        state |= _read(name, folder_of(entry["model"]), entry[role])
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def _read(name: str, folder: Path, part: Entry) -> dict[str, Tensor]:
    path = _fetch(name, folder, part)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ZooError(f"the weights {path} are missing: install compressai-gen again") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != part["sha256"]:
        raise ZooError(
            f"{path} has SHA-256 {digest[:16]}… where the manifest says {part['sha256'][:16]}…: "
            "the file is damaged or was replaced; install compressai-gen again"
        )
    try:
        return safetensors.torch.load(data)
    except SafetensorError as error:
        raise ZooError(f"{path} is not a safetensors file: {error}") from error


def _fetch(name: str, folder: Path, part: Entry) -> Path:
    """Returns the path of a file of weights: in the package or, once it is downloaded, in the user's cache."""
    path = folder / part["file"]
    if path.exists() or "url" not in part:
        return path
    path = resources.cache_dir() / "weights" / part["sha256"][:16] / part["file"]
    if not path.exists():
        with replacing(path) as temporary:
            _download(name, part, temporary, path)
    return path


def _download(name: str, part: Entry, temporary: Path, path: Path) -> None:
    try:
        torch.hub.download_url_to_file(part["url"], str(temporary), part["sha256"])
    except (OSError, RuntimeError) as error:
        raise ZooError(
            f"{name} needs {part['file']} ({part['bytes'] / 1e6:.0f} MB), which cannot be had from {part['url']} "
            f"({error}): run once with a network, or put the file at {path}"
        ) from error
