"""What depends on a quality, at qualities between those that have values of their own.

Networks know a quality by its *index*: a real number from 0, where callers say *quality*, from 1.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["QualityEmbedding", "between_qualities"]


def between_qualities(table: Tensor, index: Tensor) -> Tensor:
    """Returns rows (N, ...) of a table (Q, ...) at real indexes (N,) from 0 to Q - 1, linear between two rows.

    Gains between those of neighbouring qualities, if the table holds their logarithms, follow Cui et al., CVPR 2021. In
    float64, of float32 rows and at indexes that are multiples of 1/32, the products are exact, so that every machine
    gets the same numbers.

    Raises:
        IndexError: an index is out of range; on a GPU, its kernel fails.
    """
    low = index.detach().floor().long()
    high = (low + 1).clamp_max(len(table) - 1)
    fraction = (index - low).to(table.dtype).reshape(-1, *[1] * (table.dim() - 1))
    return table.index_select(0, low) * (1 - fraction) + table.index_select(0, high) * fraction


class QualityEmbedding(nn.Embedding):
    """An embedding (N, C) of quality indexes (N,), real numbers from 0."""

    def forward(self, index: Tensor) -> Tensor:
        """Returns the embeddings."""
        return between_qualities(self.weight, index)
