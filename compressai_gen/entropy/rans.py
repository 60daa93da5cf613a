"""How CompressAI's range coder is fed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from compressai.ans import BufferedRansEncoder, RansDecoder
from compressai.entropy_models import EntropyModel
from torch import Tensor

from compressai_gen.errors import CodecError

__all__ = ["MAX_SYMBOL", "PRECISION", "MeteredDecoder", "encode", "flat_list", "guarded", "open_stream", "tables"]

PRECISION = 16
"""Bits of a probability in the range coder's tables."""

MAX_SYMBOL = 2**24
"""Largest magnitude of a symbol; float32 holds all whole numbers up to it."""

_NIBBLE = 4

_PART = 256
# No part but a pass' last has fewer symbols.


def tables(model: EntropyModel) -> tuple[list, list, list]:
    """Returns the tables of an entropy model."""
    return model._quantized_cdf.tolist(), model._cdf_length.tolist(), model._offset.tolist()


def flat_list(values: Tensor) -> list[int]:
    """Returns symbols or indexes."""
    return values.reshape(-1).int().tolist()


def encode(encoder: BufferedRansEncoder, symbols: Tensor, indexes: Tensor, of_tables: tuple[list, list, list]) -> None:
    """Codes symbols, whole numbers of any type and shape, each by the table of its index.

    Raises:
        CodecError: a symbol is not finite, or too large for the coder, which would never return.
    """
    if symbols.numel() and not symbols.abs().max() <= MAX_SYMBOL:
        raise CodecError(
            f"a symbol is beyond the range coder's range of {-MAX_SYMBOL} to {MAX_SYMBOL}, or not finite: the picture "
            "or the weights are damaged"
        )
    encoder.encode_with_indexes(flat_list(symbols), flat_list(indexes), *of_tables)


def guarded(payload: bytes, n_symbols: int) -> bytes:
    """Returns a payload that at most ``n_symbols`` symbols can be read from.

    The coder reads without bounds; zeros behind the payload keep it inside memory whatever the bytes say. Symbols come
    in parts, and each part takes one or two more.
    """
    return payload + bytes(4 * (n_symbols + n_symbols // _PART + 64))


def open_stream(payload: bytes, n_symbols: int) -> RansDecoder:
    """Returns a decoder of at most ``n_symbols`` symbols."""
    decoder = RansDecoder()
    decoder.set_stream(guarded(payload, n_symbols))
    return decoder


class MeteredDecoder:
    """Decodes as CompressAI's decoder does, and counts the bits of each call."""

    def __init__(self, decoder: RansDecoder) -> None:
        self._decoder = decoder
        self.bits: list[float] = []

    def decode_stream(
        self, indexes: list[int], cdfs: Sequence[Sequence[int]], cdf_lengths: list[int], offsets: list[int]
    ) -> list[int]:
        """Returns the symbols."""
        symbols = self._decoder.decode_stream(indexes, cdfs, cdf_lengths, offsets)
        rows = np.array(indexes, dtype=np.int64)
        values = np.array(symbols, dtype=np.int64) - np.array(offsets)[rows]
        escape = np.array(cdf_lengths)[rows] - 2
        escaped = (values < 0) | (values >= escape)
        slots, table = np.where(escaped, escape, values), np.array(cdfs, dtype=np.int64)
        bits = PRECISION - np.log2(table[rows, slots + 1] - table[rows, slots])
        # What a table does not hold follows it as a number of nibbles, and those.
        rest = np.where(values < 0, -2 * values - 1, 2 * (values - escape))[escaped]
        nibbles = sum(rest >> shift > 0 for shift in range(0, 64, _NIBBLE)) if len(rest) else rest
        self.bits.append(float(bits.sum() + _NIBBLE * (nibbles + 1 + nibbles // 15).sum()))
        return symbols
