"""Where training pictures come from: files, still encoded, in an order that a seed and an epoch decide."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from compressai_gen.data.images import list_images
from compressai_gen.errors import DatasetError

__all__ = ["FolderSource", "Member", "MemberSource", "Slot"]


class Member(NamedTuple):
    """A picture as it lies on disk; ``data`` is empty where it could not be read."""

    name: str
    data: bytes


class Slot(NamedTuple):
    """One of the readers among which an epoch is divided: workers of all processes of all nodes."""

    index: int
    of: int


class MemberSource(Protocol):
    """A set of pictures that is read epoch by epoch, each picture by one slot."""

    def __str__(self) -> str:
        """Return where the pictures are."""

    def members(self, seed: int, epoch: int, slot: Slot, skip: int = 0) -> Iterator[Member]:
        """Yield a slot's share of an epoch in shuffled order, without the first ``skip`` of it.

        The shares of all slots hold every picture once. Nothing but the arguments decides the order.
        """


class FolderSource:
    """The pictures below a folder; each file is opened when its turn comes.

    Args:
        folder: searched recursively.

    Raises:
        DatasetError: it has no pictures.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        paths = list_images(self.folder) if self.folder.is_dir() else []
        names = [os.fsencode(path.relative_to(self.folder)) for path in paths]
        if not names:
            raise DatasetError(f"no images in {folder}: give the folder of training photographs with --data-root")
        # One block of memory: a list of strings would be copied into every worker as it counts their references.
        self._names = b"".join(names)
        self._ends = np.cumsum([len(name) for name in names])

    def __str__(self) -> str:
        return str(self.folder)

    def __len__(self) -> int:
        return len(self._ends)

    def members(self, seed: int, epoch: int, slot: Slot, skip: int = 0) -> Iterator[Member]:
        """See :class:`MemberSource`."""
        order = np.random.default_rng((seed, epoch)).permutation(len(self))
        for i in order[slot.index :: slot.of][skip:]:
            name = os.fsdecode(self._names[self._ends[i - 1] if i else 0 : self._ends[i]])
            try:
                yield Member(name, (self.folder / name).read_bytes())
            except OSError:
                yield Member(name, b"")
