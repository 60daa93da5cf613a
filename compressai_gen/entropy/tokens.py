"""Exact coding of tokens: integer probability tables from snapped logits."""

from __future__ import annotations

import math
from array import array

import torch
from compressai.ans import BufferedRansEncoder, RansDecoder
from torch import Tensor

from compressai_gen.entropy.exact import Snap, SnapDecoder, SnapEncoder
from compressai_gen.entropy.rans import PRECISION, MeteredDecoder

__all__ = ["TokenCoder", "TokenCost", "TokenDecoder", "TokenEncoder", "frequencies"]

LOGIT_STEPS = 16
"""Logits are snapped to 1/16: the rate lost is below 0.1 %."""

_WEIGHT_BITS = 30
_LOWEST = math.ceil(_WEIGHT_BITS * math.log(2)) * LOGIT_STEPS
# exp() of the grid's points as integers: computed once, and no machine's exp() errs by so much as to round otherwise.
_EXP = torch.tensor([round(math.exp(-k / LOGIT_STEPS) * 2**_WEIGHT_BITS) for k in range(_LOWEST)] + [0])


def frequencies(logits: Tensor, snap: Snap) -> Tensor:
    """Turns float64 logits (P, K) into integer frequencies (P, K), at least 1 each, that sum to 2^16; K below 2^14."""
    n, entries = logits.shape
    grid = snap(logits * LOGIT_STEPS).cpu()
    weights = _EXP[(grid.amax(1, keepdim=True) - grid).clamp_max(_LOWEST)]
    # Integers all the way: at most 2^30 times 2^16, and sums of 2^14 times 2^30.
    table = 1 + weights * (2**PRECISION - entries) // weights.sum(1, keepdim=True)
    table[torch.arange(n), table.argmax(1)] += 2**PRECISION - table.sum(1)
    return table


def _cdfs(table: Tensor) -> tuple[list[array[int]], list[int], list[int]]:
    n, entries = table.shape
    cdf = torch.zeros(n, entries + 2, dtype=torch.int32)
    cdf[:, 1:-1] = table.cumsum(1)
    # The coder keeps a table's last interval for escapes, which tokens never need: an empty one.
    cdf[:, -1] = 2**PRECISION
    # The coder takes any sequences; as lists, a million integers take longer to make than to code with.
    return [array("i", row.tobytes()) for row in cdf.numpy()], [entries + 2] * n, [0] * n


class TokenEncoder:
    """Codes tokens with the range coder.

    Attributes:
        snap: for the logits of each part, before its tokens are coded.
    """

    def __init__(self) -> None:
        self._coder = BufferedRansEncoder()
        self.snap = SnapEncoder(self._coder)
        self._n = 0

    def __call__(self, tokens: Tensor | None, table: Tensor) -> Tensor:
        """Codes tokens (P,) by frequencies (P, K)."""
        if len(table):
            self._n += len(table)
            self._coder.encode_with_indexes(tokens.tolist(), list(range(len(table))), *_cdfs(table))
        return tokens

    def flush(self) -> bytes:
        """Returns the bytes of all tokens coded."""
        # CompressAI's coder has room for one word a symbol but ends with two, so that fewer than four tokens might be
        # written past its end. Symbols that are all but certain make room.
        for _ in range(self._n, 4):
            self._coder.encode_with_indexes([0], [0], [[0, 2**PRECISION - 1, 2**PRECISION]], [3], [0])
        return self._coder.flush()


class TokenDecoder:
    """Decodes tokens that :class:`TokenEncoder` coded; ``snap`` as there."""

    def __init__(self, coder: RansDecoder | MeteredDecoder):
        self._coder = coder
        self.snap = SnapDecoder(coder)

    def __call__(self, tokens: Tensor | None, table: Tensor) -> Tensor:
        """Decodes tokens (P,) by frequencies (P, K)."""
        if not len(table):
            return torch.zeros(0, dtype=torch.int64)
        return torch.tensor(self._coder.decode_stream(list(range(len(table))), *_cdfs(table)))


class TokenCost:
    """Stands in for the encoder where only likelihoods are asked for."""

    snap = Snap()

    def __init__(self) -> None:
        self.likelihoods: list[Tensor] = []

    def __call__(self, tokens: Tensor | None, table: Tensor) -> Tensor:
        """Keeps the likelihood of each of tokens (P,)."""
        self.likelihoods.append(table.gather(1, tokens.cpu()[:, None])[:, 0].float() / 2**PRECISION)
        return tokens


TokenCoder = TokenEncoder | TokenDecoder | TokenCost
"""What a walk through an image's tokens hands logits and tokens to."""
