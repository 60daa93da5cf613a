"""Turns a trained model into the two files that the zoo ships: half-precision weights and a record of how they came."""

from __future__ import annotations

import copy
import hashlib
import json
import platform
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
from compressai_gen.train.recipe import Recipe

__all__ = ["described_weights", "export", "half_precision_state", "load_weights"]


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


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads weights; parts that the file has nothing of, such as a denoiser, stay as they are.

    Raises:
        RecipeError: the file is missing, is not safetensors, or is another model's.
    """
    try:
        state = {k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()}
        parts = {name.split(".")[0] for name in state}
        untouched = {k: v for k, v in model.state_dict().items() if k.split(".")[0] not in parts}
        model.load_state_dict(untouched | state)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RecipeError(f"{path} cannot be used to start from: {error}") from error


def described_weights(path: Path) -> dict[str, Any]:
    """Returns the SHA-256 of a weight file and, where its record lies beside it, the recipe and run that made it.

    A record is ``record.json`` in a run's folder and ``<model>.json`` in the zoo.
    """
    described: dict[str, Any] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    for beside in (path.with_name("record.json"), path.with_suffix(".json")):
        if beside.is_file():
            record = json.loads(beside.read_text(encoding="utf-8"))
            return described | {"recipe": record["recipe"]["name"], "run": record["run"]}
    return described


def export(model: nn.Module, recipe: Recipe, output: Path, validation: list[dict], run: dict[str, Any]) -> None:
    """Writes ``model.safetensors`` and ``record.json`` into ``output``, each whole or not at all."""
    with replacing(output / "model.safetensors") as temporary:
        save_file(half_precision_state(model), temporary, metadata={"model": recipe.model, "recipe": recipe.name})
    record = {
        "recipe": asdict(recipe),
        "run": run,
        "software": {"compressai_gen": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "parameters": sum(p.numel() for p in model.parameters()),
        "validation": validation,
    }
    write_json(record, output / "record.json")
