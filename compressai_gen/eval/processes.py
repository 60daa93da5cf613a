"""Several processes that share one evaluation, as ``accelerate launch`` or ``torchrun`` start them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch.distributed

__all__ = ["Processes", "launched_processes"]

Item = TypeVar("Item")


class Processes(NamedTuple):
    """Which of how many processes this one is; by default the only one.

    Attributes:
        index: 0 in the main process, which writes the tables.
        count: of all machines together.
        local_index: among those of this machine.
    """

    index: int = 0
    count: int = 1
    local_index: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.index == 0

    def device(self, name: str) -> str:
        """Return the device of this process: of ``cuda``, a GPU of its own as long as there are enough."""
        gpus = torch.cuda.device_count() if name == "cuda" and self.count > 1 else 0
        return f"cuda:{self.local_index % gpus}" if gpus else name

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this process's part of the items: every `count`-th, so that neighbours are spread."""
        return items[self.index :: self.count]

    def gather(self, items: list[Any]) -> list[Any]:
        """Return the items of all processes, those of the main one first, once all have come."""
        if self.count == 1:
            return items
        parts: list[list[Any]] = [[] for _ in range(self.count)]
        torch.distributed.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the others enter when the main process has left, for example with what all of them need downloaded."""
        if not self.is_main:
            torch.distributed.barrier()
        yield
        if self.is_main and self.count > 1:
            torch.distributed.barrier()


@contextmanager
def launched_processes() -> Iterator[Processes]:
    """Join the processes that a launcher's variables in the environment tell of; without any, this one is alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    # Only rows are exchanged, for which gloo does on all devices. It would give up on a process that has finished its
    # share half an hour before the last one.
    torch.distributed.init_process_group("gloo", timeout=timedelta(days=30))
    try:
        local_index = int(os.environ.get("LOCAL_RANK", "0"))
        yield Processes(torch.distributed.get_rank(), torch.distributed.get_world_size(), local_index)
    finally:
        torch.distributed.destroy_process_group()
