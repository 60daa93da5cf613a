"""Optimizers by name, with learning rates of their own for some parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from compressai_gen.errors import RecipeError
from compressai_gen.extras import extra

__all__ = ["OPTIMIZERS", "make_optimizer", "speed_of"]

OPTIMIZERS = ("adam", "adamw", "muon", "soap")
"""What a recipe's ``optimizer`` may name: two of PyTorch and, of ``pytorch-optimizer``, Muon (Jordan et al., 2024), for
convolutions that mix channels, beside AdamW for the rest, and SOAP (Vyas et al., ICLR 2025)."""

_DEFAULTS: dict[str, dict[str, Any]] = {
    "adam": {"betas": (0.9, 0.99), "fused": True},
    "adamw": {"betas": (0.9, 0.99), "weight_decay": 0.0, "fused": True},
    # Adjusted, its learning rate means what AdamW's does.
    "muon": {"use_adjusted_lr": True, "adamw_betas": (0.9, 0.99)},
    "soap": {"betas": (0.95, 0.95), "weight_decay": 0.0, "precondition_frequency": 50, "max_precondition_dim": 2048},
}


def speed_of(name: str, speeds: Mapping[str, float]) -> float:
    """Returns the factor on the learning rate of a parameter: that of the last key which its name holds, or 1.

    >>> speed_of("latent_codec.entropy_bottleneck._matrix0", {"latent_codec": 0.5, "entropy_bottleneck": 3.2})
    3.2
    """
    factors = [factor for key, factor in speeds.items() if f".{key}." in f".{name}."]
    return float(factors[-1]) if factors else 1.0


def make_optimizer(
    options: Mapping[str, Any], speeds: Mapping[str, float], named: Mapping[str, nn.Parameter]
) -> torch.optim.Optimizer:
    """Makes an optimizer whose groups have a ``speed`` each, by which the trainer multiplies the learning rate.

    Args:
        options: ``name``, one of :data:`OPTIMIZERS`, and its own arguments.
        speeds: factors by parts of parameters' names, of which whole components count (``g_a.linear``); the last key
            that a name holds is its own.
        named: parameters by name.

    Raises:
        RecipeError: the optimizer or an argument is unknown.
        MissingExtraError: it is one of ``pytorch-optimizer``, which is not installed.
    """
    arguments = {"name": "adam", **options}
    kind = arguments.pop("name")
    if kind not in OPTIMIZERS:
        raise RecipeError(f"no optimizer {kind!r}; known: {', '.join(OPTIMIZERS)}")
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        groups.setdefault((speed_of(name, speeds), _mixes_channels(parameter)), []).append(parameter)
    of_group = [{"params": group, "speed": speed, "use_muon": mixes} for (speed, mixes), group in groups.items()]
    if kind != "muon":
        for group in of_group:
            del group["use_muon"]
    try:
        return _class_of(kind)(of_group, **(_DEFAULTS[kind] | arguments))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"optimizer {kind}: {error}") from error


def _mixes_channels(parameter: nn.Parameter) -> bool:
    return parameter.dim() == 4 and parameter.shape[1] > 1


def _class_of(kind: str) -> Any:
    if kind in ("adam", "adamw"):
        return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
    with extra("train"):
        import pytorch_optimizer
    return {"muon": pytorch_optimizer.Muon, "soap": pytorch_optimizer.SOAP}[kind]
