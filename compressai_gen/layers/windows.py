"""Local functions of large fields, evaluated window by window: their memory does not grow with the picture."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from torch import Tensor

__all__ = ["windowed"]


def windowed(
    function: Callable[..., Tensor],
    fields: Sequence[Tensor],
    per_cell: Sequence[int],
    size: int,
    halo: int,
) -> Tensor:
    """Evaluates a function of fields that looks no farther than a halo around each cell of a common grid.

    The result is that of one call on whole fields, up to rounding.

    Args:
        function: of crops of the fields, to (..., h, w) with a whole number of positions per cell.
        fields: (..., h, w) each.
        per_cell: positions per side of a cell, of each field.
        size: largest side of a window in cells. Windows begin at its multiples.
        halo: cells around a window that the function sees, where there are any.
    """
    height, width = (n // per_cell[0] for n in fields[0].shape[-2:])
    if max(height, width) <= size:
        return function(*fields)
    whole = None
    for top, left in itertools.product(range(0, height, size), range(0, width, size)):
        bottom, right = min(top + size, height), min(left + size, width)
        seen = max(top - halo, 0), min(bottom + halo, height), max(left - halo, 0), min(right + halo, width)
        part = function(*(_crop(field, k, *seen) for field, k in zip(fields, per_cell, strict=True)))
        k = part.shape[-1] // (seen[3] - seen[2])
        if whole is None:
            whole = part.new_empty(*part.shape[:-2], height * k, width * k)
        inner = top - seen[0], bottom - seen[0], left - seen[2], right - seen[2]
        _crop(whole, k, top, bottom, left, right).copy_(_crop(part, k, *inner))
    return whole


def _crop(field: Tensor, k: int, top: int, bottom: int, left: int, right: int) -> Tensor:
    return field[..., top * k : bottom * k, left * k : right * k]
