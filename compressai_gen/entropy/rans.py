"""How CompressAI's range coder is fed."""

from __future__ import annotations

from compressai.ans import RansDecoder
from compressai.entropy_models import EntropyModel
from torch import Tensor

__all__ = ["flat_list", "open_stream", "tables"]


def tables(model: EntropyModel) -> tuple[list, list, list]:
    """Returns the tables of an entropy model."""
    return model._quantized_cdf.tolist(), model._cdf_length.tolist(), model._offset.tolist()


def flat_list(values: Tensor) -> list[int]:
    """Returns symbols or indexes."""
    return values.reshape(-1).int().tolist()


def open_stream(payload: bytes, n_symbols: int) -> RansDecoder:
    """Returns a decoder of at most ``n_symbols`` symbols."""
    decoder = RansDecoder()
    # The coder reads without bounds; zeros behind the payload keep it inside memory whatever the bytes say.
    decoder.set_stream(payload + bytes(4 * n_symbols + 64))
    return decoder
