"""Optimizers by name, with learning rates of their own for some parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from compressai_gen.errors import RecipeError

__all__ = ["OPTIMIZERS", "make_optimizer", "speed_of"]

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
"""What a recipe's ``optimizer`` may name."""


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
        options: ``name``, a key of :data:`OPTIMIZERS`, and its own arguments.
        speeds: factors by parts of parameters' names, of which whole components count (``g_a.linear``); the last key
            that a name holds is its own.
        named: parameters by name.

    Raises:
        RecipeError: the optimizer or an argument is unknown.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in named.items():
        groups.setdefault(speed_of(name, speeds), []).append(parameter)
    arguments = {"name": "adam", "betas": (0.9, 0.99), "fused": True, **options}
    name = arguments.pop("name")
    if name not in OPTIMIZERS:
        raise RecipeError(f"no optimizer {name!r}; known: {', '.join(OPTIMIZERS)}")
    try:
        return OPTIMIZERS[name]([{"params": group, "speed": speed} for speed, group in groups.items()], **arguments)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"optimizer {name}: {error}") from error
