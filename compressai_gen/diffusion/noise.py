"""Gaussian noise that depends on a seed and an absolute position only: any tile of the field can be made alone."""

from __future__ import annotations

import numpy as np
import torch
from numpy.random import Philox
from torch import Tensor

__all__ = ["noise_field"]

_WORDS_PER_COUNT = 4  # 64-bit words that Philox-4x64 gives per step of its counter


def noise_field(
    seed: int, channels: int, height: int, width: int, top: int = 0, left: int = 0, field: int = 0
) -> Tensor:
    """Makes a window of an unbounded field of independent standard normal numbers.

    The generator is counter-based (Philox-4x64, Salmon et al., SC 2011): the key is the seed, the field and the row,
    the counter is the column, and a number is the normal quantile of 32 of its bits.

    Args:
        seed: 0 to 2^32 - 1, from the stream.
        channels: numbers per position.
        height, width: of the window.
        top, left: of the window in the field, not negative.
        field: which of a seed's fields.

    Returns:
        (channels, height, width) in float32 on the CPU.
    """
    counts = -(-channels // (2 * _WORDS_PER_COUNT))
    if channels < 1 or min(top, left, seed, field) < 0 or max(seed, field, top + height) >= 2**32:
        raise ValueError("there must be channels, and seed, field and position lie within 0 and 2^32")
    words = np.empty((height, width * counts * _WORDS_PER_COUNT), dtype="<u8")
    for i, row in enumerate(words):
        key = np.array([seed << 32 | field, top + i], dtype=np.uint64)
        row[:] = Philox(key=key, counter=left * counts).random_raw(len(row))
    uniform = torch.from_numpy(words.view("<u4").astype(np.float64)).add_(0.5).mul_(2.0**-32)
    # PyTorch's quantile function, after SciPy's, uses all threads.
    normal = torch.special.ndtri(uniform).float()
    return normal.reshape(height, width, -1)[..., :channels].permute(2, 0, 1)
