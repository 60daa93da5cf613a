"""Half precision where pictures are made; never where probabilities are."""

from __future__ import annotations

import torch

__all__ = ["bfloat16_autocast", "has_fast_bfloat16"]


def has_fast_bfloat16(device: torch.device) -> bool:
    """Says whether the device multiplies bfloat16 matrices in hardware; elsewhere it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # Matrix tiles of newer Intel processors, or products of pairs in AVX-512 registers (AMD from Zen 4 on).
        has_products = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        return torch.backends.mkldnn.enabled and has_products
    return False


def bfloat16_autocast(device: torch.device) -> torch.autocast:
    """Returns autocast to bfloat16 where that is fast, and no autocast elsewhere, whatever surrounds it."""
    fast = has_fast_bfloat16(device)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast)
