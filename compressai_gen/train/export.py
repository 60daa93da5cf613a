"""Turns a trained model into the two files that the zoo ships: half-precision weights and a record of how they came."""

from __future__ import annotations

import copy
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from compressai_gen._version import __version__
from compressai_gen.train.recipe import Recipe

__all__ = ["export", "half_precision_state"]


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


def export(model: nn.Module, recipe: Recipe, output: Path, validation: list[dict], run: dict[str, Any]) -> None:
    """Writes ``model.safetensors`` and ``record.json`` into ``output``, each whole or not at all."""
    temporary = output / "model.safetensors.tmp"
    save_file(half_precision_state(model), temporary, metadata={"model": recipe.model, "recipe": recipe.name})
    os.replace(temporary, output / "model.safetensors")
    record = {
        "recipe": asdict(recipe),
        "run": run,
        "software": {"compressai_gen": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "parameters": sum(p.numel() for p in model.parameters()),
        "validation": validation,
    }
    temporary = output / "record.json.tmp"
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, output / "record.json")
