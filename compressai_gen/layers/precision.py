"""Half precision where pictures are made; never where probabilities are."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch

__all__ = ["bfloat16_autocast", "cpu_fields", "has_fast_bfloat16"]


def has_fast_bfloat16(device: torch.device) -> bool:
    """Says whether the device multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # Matrix tiles, or products of pairs in AVX-512 registers: of the latter an AMD processor (Zen 4 on) does as
        # many a cycle as of float32's, an Intel one half as many: it gains nothing and pays for the conversions.
        tiles, pairs = torch.cpu._is_amx_tile_supported(), torch.cpu._is_avx512_bf16_supported()
        return torch.backends.mkldnn.enabled and (tiles or (pairs and _is_of_amd()))
    return False


def _is_of_amd() -> bool:
    return "AuthenticAMD" in cpu_fields().get("vendor_id", platform.processor())


@cache
def cpu_fields() -> dict[str, str]:
    """Returns what Linux says of the first processor, by the names of ``/proc/cpuinfo``; nothing elsewhere."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in told.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def bfloat16_autocast(device: torch.device) -> torch.autocast:
    """Returns autocast to bfloat16 where that is fast, and no autocast elsewhere, whatever surrounds it."""
    fast = has_fast_bfloat16(device)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast)
