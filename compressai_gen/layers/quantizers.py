"""Residual vector quantization (RVQ) with codebooks that follow the data."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from compressai_gen.configuration import register_part

__all__ = ["ResidualVectorQuantizer"]

_VECTORS = 1 << 15
# As many are compared with a codebook at once.


@register_part
class ResidualVectorQuantizer(nn.Module):
    """Quantizes vectors in levels, each coding what the levels before left over.

    Codebooks are exponential moving averages of the vectors that they stand for (van den Oord et al., 2017, appendix
    A.1); an entry that is hardly used is moved onto a vector of the batch, so that the codebook stays in use.

    Args:
        channels: D, length of the vectors.
        entries: K, size of each codebook.
        decay: of the moving averages.
        levels: L, number of codebooks.
    """

    def __init__(self, channels: int = 64, entries: int = 1024, decay: float = 0.99, *, levels: int):
        super().__init__()
        self.decay = decay
        self.learns = True  # a trainer that keeps what decides symbols says no
        self.register_buffer("codebooks", torch.zeros(levels, entries, channels))
        self.register_buffer("counts", torch.ones(levels, entries), persistent=False)
        self.register_buffer("sums", torch.zeros(levels, entries, channels), persistent=False)
        self.register_load_state_dict_post_hook(_restart_averages)

    @property
    def levels(self) -> int:
        """L."""
        return self.codebooks.shape[0]

    @torch.no_grad()
    def set_codebooks(self, codebooks: Tensor, counts: Tensor) -> None:
        """Sets entries (L, K, D) and how often each is used in a batch (L, K)."""
        self.codebooks.copy_(codebooks)
        self.counts.copy_(counts)
        self.sums.copy_(codebooks * counts[..., None])

    def forward(self, y: Tensor, levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantizes ``y``.

        Args:
            y: (N, D, h, w).
            levels: (N, h, w) integers, how many levels each position gets; 0 leaves it out.

        Returns:
            ``y_hat`` (N, D, h, w), zero where nothing is sent; tokens (N, L, h, w), -1 where none; and the commitment
            loss (N,), the mean squared distance of sent vectors to their codes.
        """
        y = y.float()
        tokens = torch.full((y.shape[0], self.levels, *y.shape[2:]), -1, device=y.device)
        residual = y.permute(0, 2, 3, 1)
        y_hat = torch.zeros_like(residual)
        for level in range(self.levels):
            sent = levels > level
            vectors = residual[sent]
            index = self.nearest(vectors.detach(), level)
            tokens[:, level][sent] = index
            codes = self.codebooks[level][index]
            # Where nothing learns from the result, codebooks do not either: other parts train on a frozen quantizer.
            if self.learns and self.training and torch.is_grad_enabled():
                self._update(vectors.detach(), index, level)
            step = torch.zeros_like(y_hat)
            step[sent] = codes
            y_hat = y_hat + step
            residual = residual - step
        y_hat = y_hat.permute(0, 3, 1, 2)
        sent = (levels > 0)[:, None]
        distance = ((y - y_hat) * sent).square().flatten(1).sum(1) / sent.flatten(1).sum(1).clamp_min(1)
        return torch.where(sent, y + (y_hat - y).detach(), 0), tokens, distance

    def nearest(self, vectors: Tensor, level: int) -> Tensor:
        """Index of the entry of ``level`` nearest to each of ``vectors`` (P, D)."""
        # Distances in float32: bfloat16 would confuse neighbouring entries.
        with torch.autocast(vectors.device.type, enabled=False):
            entries = self.codebooks[level]
            squares = entries.square().sum(1)
            # In parts, as there are as many distances to a vector as entries.
            parts = vectors.split(_VECTORS)
            return torch.cat([torch.addmm(squares, part, entries.T, alpha=-2).argmin(1) for part in parts])

    def embed(self, tokens: Tensor) -> Tensor:
        """Sums the codes of tokens (N, L, h, w), -1 for none, to (N, D, h, w) of the codebooks' type."""
        total = 0
        for level in range(self.levels):
            index = tokens[:, level]
            total = total + self.codebooks[level][index.clamp_min(0)] * (index >= 0)[..., None]
        return total.permute(0, 3, 1, 2)

    @torch.no_grad()
    def usage(self) -> Tensor:
        """Share of each level's entries that take at least a tenth of an equal part of the recent vectors (L,)."""
        share = self.counts / self.counts.sum(1, keepdim=True)
        return (share * self.counts.shape[1] > 0.1).float().mean(1)

    @torch.no_grad()
    def _update(self, vectors: Tensor, index: Tensor, level: int) -> None:
        counts, sums = torch.zeros_like(self.counts[level]), torch.zeros_like(self.sums[level])
        counts.index_add_(0, index, torch.ones_like(index, dtype=counts.dtype))
        sums.index_add_(0, index, vectors)
        if dist.is_initialized():
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        self.counts[level].lerp_(counts, 1 - self.decay)
        self.sums[level].lerp_(sums, 1 - self.decay)
        # Entries below a hundredth of an equal part are dead: each moves onto a random vector of this batch.
        dead = (self.counts[level] < 0.01 * self.counts[level].mean()).nonzero().flatten()
        if len(dead) and len(vectors):
            fresh = vectors[torch.randint(len(vectors), (len(dead),), device=vectors.device)]
            if dist.is_initialized():
                dist.broadcast(fresh, 0)
            self.counts[level][dead] = self.counts[level].mean()
            self.sums[level][dead] = fresh * self.counts[level][dead][:, None]
        self.codebooks[level] = self.sums[level] / self.counts[level][:, None].clamp_min(1e-6)


@torch.no_grad()
def _restart_averages(quantizer: ResidualVectorQuantizer, _: Any) -> None:
    """Lets the averages, which no checkpoint holds, start from the codebooks: training goes on where it was.

    A function of the module, as a hook that is none could not be pickled.
    """
    quantizer.sums.copy_(quantizer.codebooks * quantizer.counts[..., None])
