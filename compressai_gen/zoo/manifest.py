"""The manifest of the zoo, and weights read by hash."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from compressai_gen import resources
from compressai_gen.errors import ZooError

__all__ = ["fingerprint", "load_weights", "model_config", "read_manifest", "read_record"]


def read_manifest() -> dict[str, dict[str, Any]]:
    """Returns the entry of each model: ``file``, ``sha256``, ``config``, ``recipe``, ``license``.

    Raises:
        ZooError: the manifest is missing or not JSON.
    """
    path = resources.ZOO_DIR / "manifest.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ZooError(f"no zoo manifest at {path}: install compressai-gen again") from error
    except json.JSONDecodeError as error:
        raise ZooError(f"the zoo manifest {path} is damaged ({error}): install compressai-gen again") from error


def model_config(name: str) -> dict[str, Any]:
    """Returns the constructor's arguments of a model's shipped weights; empty where none are shipped."""
    return read_manifest().get(name, {}).get("config", {})


def read_record(name: str) -> dict[str, Any]:
    """Returns how a model's weights were trained and validated, as training wrote it.

    Raises:
        ZooError: the record is missing or not JSON.
    """
    path = resources.ZOO_DIR / read_manifest()[name]["record"]
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ZooError(f"the record {path} cannot be read ({error}): install compressai-gen again") from error


def fingerprint(name: str) -> str:
    """Returns what decides a model's output: the hash of its weights and of the source that runs them."""
    source = resources.source_hash("diffusion", "entropy", "layers", "metrics", "models")
    return f"{read_manifest().get(name, {}).get('sha256')} {source}"


def load_weights(name: str) -> dict[str, Tensor]:
    """Returns a model's state in float32, after checking the file's hash.

    Raises:
        ZooError: no weights are listed, or the file is missing or not what the manifest says.
    """
    entry = read_manifest().get(name)
    if entry is None:
        raise ZooError(f"the zoo has no weights of {name}: pass pretrained=False, or train them first")
    path = resources.ZOO_DIR / entry["file"]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ZooError(f"the weights {path} are missing: install compressai-gen again") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry["sha256"]:
        raise ZooError(
            f"{path} has SHA-256 {digest[:16]}… where the manifest says {entry['sha256'][:16]}…: "
            "the file is damaged or was replaced; install compressai-gen again"
        )
    try:
        state = safetensors.torch.load(data)
    except SafetensorError as error:
        raise ZooError(f"{path} is not a safetensors file: {error}") from error
    state = {k.replace("restorer.denoiser.", "restorer.denoiser.unet."): v for k, v in state.items()}
    state = {k.replace("restorer.consistency.", "restorer.guidance."): v for k, v in state.items()}
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
