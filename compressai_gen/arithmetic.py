"""How many multiply-adds code takes, counted while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

__all__ = ["kmacs_per_pixel", "multiply_adds"]

_ATEN = torch.ops.aten

# PyTorch counts the attention of GPUs and passes over that of processors.
_ATTENTION = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: lambda *shapes, **_: sdpa_backward_flop_count(
        *shapes[:4]
    ),
}


def multiply_adds(run: Callable[[], Any]) -> tuple[Any, float]:
    """Calls a function; returns what it returned, and the multiply-adds of its convolutions and matrix products."""
    with FlopCounterMode(display=False, custom_mapping=_ATTENTION) as counter:
        result = run()
    return result, counter.get_total_flops() / 2


def kmacs_per_pixel(run: Callable[[], Any], n_pixels: int) -> tuple[Any, float]:
    """Calls a function; returns what it returned, and its multiply-adds in thousands for each of ``n_pixels``."""
    result, macs = multiply_adds(run)
    return result, macs / n_pixels / 1000
