"""Turns a trained model into what the zoo ships: half-precision weights of each role, and a record of how they came."""

from __future__ import annotations

import copy
import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compressai_gen._version import __version__
from compressai_gen.errors import RecipeError
from compressai_gen.files import replacing, write_json
from compressai_gen.manifest import folder_of, read_manifest, read_record
from compressai_gen.models.base import GenerativeCodec
from compressai_gen.roles import ROLES, belongs, fingerprint, split
from compressai_gen.train.recipe import Recipe

__all__ = [
    "coding_part",
    "described_weights",
    "export",
    "half_precision_state",
    "load_weights",
    "trained_on",
    "weight_files",
    "write_weights",
]

_LOWERED = {
    "psnr": ("mse_weight", "charbonnier_weight"),
    "ms_ssim": ("ms_ssim_weight",),
    "lpips": ("lpips_weight",),
    "lpips_vgg": ("lpips_vgg_weight",),
    "dists": ("dists_weight",),
    "grid": ("fold_weight",),
    "blocking": ("blocking_weight",),
}
# Metrics by name, and what a distortion weighs them by.


@torch.no_grad()
def half_precision_state(model: nn.Module) -> dict[str, Tensor]:
    """Returns the model's state in float16, with tables built from just those rounded weights.

    Tables must follow from the weights that are shipped, so that ``update(force=True)`` on a loaded model changes
    nothing. The small vectors that decide rates stay in float32.
    """
    model = copy.deepcopy(model)
    model.update(force=True)  # a state without tables could not be loaded over one with them
    rounded = {k: v.half().float() if _is_weight(k, v) else v for k, v in model.state_dict().items()}
    model.load_state_dict(rounded)
    model.update(force=True)
    shipped = {k: v.half() if _is_weight(k, v) else v for k, v in model.state_dict().items()}
    return {k: v.detach().cpu().contiguous() for k, v in shipped.items()}


def _is_weight(name: str, tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dim() >= 2 and "entropy_bottleneck" not in name and "log_" not in name


def write_weights(state: dict[str, Tensor], path: Path) -> None:
    """Writes tensors as safetensors; the same tensors give the same bytes."""
    with replacing(path) as temporary:
        save_file(state, temporary)
        temporary.chmod(0o644)


def weight_files(path: Path) -> list[Path]:
    """Files of weights that a path names: itself, those of both roles in a run's folder, or a tag's, as ``cgdm.v0``."""
    if not path.exists() and (entry := read_manifest().get(str(path))):
        return [folder_of(entry["model"]) / entry[role]["file"] for role in ROLES]
    return [path / f"{role}.safetensors" for role in ROLES] if path.is_dir() else [path]


def load_weights(model: nn.Module, path: Path, takes: Sequence[str] = ()) -> None:
    """Loads weights; parts that the files have nothing of stay as they are, those that the model does without are left.

    So a codec is given a restorer, and one that has a restorer is trained on without.

    Args:
        model: gets them.
        path: a file, the folder of a run, or the name of weights of the zoo.
        takes: parts, such as ``g_s.blocks``, that are all that is loaded, maybe from another model; by default
            everything is.

    Raises:
        RecipeError: a file is missing, is not safetensors, or is another model's, or lacks a part that is taken.
    """
    try:
        state = {k: v for file in weight_files(path) for k, v in load_file(file).items()}
        if takes:
            if absent := [part for part in takes if not any(belongs(k, [part]) for k in state)]:
                raise RecipeError(f"{path} has no part {', '.join(absent)} that the recipe takes")
            untouched = {k: v for k, v in model.state_dict().items() if not belongs(k, takes)}
            state = {k: v for k, v in state.items() if belongs(k, takes)}
        else:
            state = {k: v for k, v in state.items() if not _left_out(model, k)}
            parts = {name.split(".")[0] for name in state}
            untouched = {k: v for k, v in model.state_dict().items() if k.split(".")[0] not in parts}
        state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        model.load_state_dict(untouched | state)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RecipeError(f"{path} cannot be used to start from: {error}") from error


def _left_out(model: nn.Module, key: str) -> bool:
    return getattr(model, key.split(".")[0], model) is None


def coding_part(model: GenerativeCodec, path: Path) -> dict[str, Tensor]:
    """Returns the coding part of weights, as it is in their files; arguments as of :func:`load_weights`.

    Empty where they lack any of it: a codec that has just got a restorer, say, has no prior for its syntax yet.
    """
    state = {k: v for file in weight_files(path) for k, v in load_file(file).items() if belongs(k, model.coding)}
    return state if state.keys() == split(model.state_dict(), model.coding)["coding"].keys() else {}


def described_weights(path: Path) -> dict[str, Any]:
    """Returns the SHA-256 of weights and, where their record is found, the recipe and run that made them.

    Of a folder, both roles' files count, one after the other. A record is ``record.json`` in a run's folder.
    """
    data = b"".join(file.read_bytes() for file in weight_files(path))
    described: dict[str, Any] = {"sha256": hashlib.sha256(data).hexdigest()}
    folder = path if path.is_dir() else path.parent
    zoo = not path.exists()
    for beside in (folder / "record.json", path.with_suffix(".json")):
        if zoo or beside.is_file():
            record = read_record(str(path)) if zoo else json.loads(beside.read_text(encoding="utf-8"))
            known = {key: record[key] for key in ("run", "fingerprint", "trained_on") if key in record}
            return described | {"recipe": record["recipe"]["name"]} | known
    return described


def export(
    model: GenerativeCodec,
    recipe: Recipe,
    output: Path,
    validation: list[dict],
    run: dict[str, Any],
    coding: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes ``coding.safetensors``, ``networks.safetensors`` and ``record.json``, each whole or not at all.

    ``coding`` is the part that training left as it was; see :func:`coding_part`.
    """
    parts = split(half_precision_state(model), model.coding)
    parts["coding"] |= coding or {}  # to the bit, whatever this machine makes of its tables
    for role, state in parts.items():
        write_weights(state, output / f"{role}.safetensors")
    record = {
        "recipe": asdict(recipe),
        "run": run,
        "software": {"compressai_gen": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "config": model.config,
        "fingerprint": fingerprint(parts["coding"]),
        "trained_on": trained_on(recipe, run),
        "parameters": sum(p.numel() for p in model.parameters()),
        "validation": validation,
    }
    write_json(record, output / "record.json")


def trained_on(recipe: Recipe, run: dict[str, Any]) -> list[str]:
    """Returns the metrics that a recipe lowers in any stage, and those of the weights that it started from."""
    before = run.get("init", {}).get("trained_on", [])
    stated = recipe.objective | recipe.objective.get("distortion", {})
    weighed = [stated, *(stage.distortion for stage in recipe.stages)]
    lowered = {name for options in weighed for name, value in options.items() if value}
    return [metric for metric, weights in _LOWERED.items() if metric in before or lowered.intersection(weights)]
