"""TensorBoard beside ``log.jsonl``: the same figures as curves, and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressai_gen.extras import extra

__all__ = ["Board"]


class Board:
    """Writes what TensorBoard shows of a run.

    Args:
        folder: of its event files.
        step: of the optimizer that the run has reached; what an earlier, killed run wrote after it no longer shows.

    Raises:
        MissingExtraError: ``tensorboard`` is not installed.
    """

    def __init__(self, folder: Path, step: int):
        with extra("train"):
            import tensorboard  # noqa: F401  (whose absence PyTorch tells in its own words)
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder, purge_step=step)

    def figures(self, row: Mapping[str, Any], step: int) -> None:
        """Adds a row of ``log.jsonl``; of tables in it, every entry."""
        for name, value in row.items():
            if isinstance(value, Mapping):
                self.figures({f"{name}/{key}": entry for key, entry in value.items()}, step)
            elif name != "step":
                self._writer.add_scalar(name, value, step)

    def pictures(self, x: Tensor, x_hat: Tensor, step: int) -> None:
        """Adds crops (N, 3, S, S), each above what became of it."""
        rows = [torch.cat(list(batch.detach().float().clamp(0, 1).cpu()), dim=2) for batch in (x, x_hat)]
        self._writer.add_image("original and decoded", torch.cat(rows, dim=1), step)

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()
