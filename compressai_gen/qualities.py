"""Qualities: real numbers from 1, the fewest bits, in steps of 1/32."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from compressai_gen.errors import CodecError, CompressaiGenError

__all__ = ["STEPS_PER_QUALITY", "check_quality", "plain"]

STEPS_PER_QUALITY = 32
"""Qualities per unit that a stream can state; rates of neighbours differ by about 2 %."""


def check_quality(name: str, value: Any, highest: int, error: type[CompressaiGenError] = CodecError) -> float:
    """Returns a quality that a caller asked of the codec ``name``, which has those from 1 to ``highest``.

    Raises:
        CodecError: or another ``error``: it is no such number, or lies between two that a stream can state.
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not 1 <= value <= highest:  # NaN is in no range
        raise error(f"{name} has qualities 1 to {highest}, not {value!r}")
    steps = float(value) * STEPS_PER_QUALITY
    if not steps.is_integer():
        low, high = (plain(step / STEPS_PER_QUALITY) for step in (math.floor(steps), math.ceil(steps)))
        raise error(f"{name} has qualities in steps of 1/{STEPS_PER_QUALITY}, not {value!r}: take {low} or {high}")
    return float(value)


def plain(quality: float) -> float | int:
    """Returns a quality as people write it: 3 rather than 3.0."""
    return int(quality) if float(quality).is_integer() else float(quality)
