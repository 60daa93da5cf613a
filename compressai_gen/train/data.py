"""Random crops of photographs at random scales: of a few kept decoded in memory, or of any number read by workers."""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

from compressai_gen.data.images import read_image
from compressai_gen.errors import CompressaiGenError, DatasetError, ImageError
from compressai_gen.extras import extra
from compressai_gen.train.members import FolderSource, MemberSource, Slot
from compressai_gen.train.memory import NAMED, CropMemory, decoded_bytes
from compressai_gen.train.shards import ShardSource, is_shards

with extra("train"):
    import psutil  # which accelerate brings
    from accelerate import PartialState

__all__ = ["CropStream", "Crops", "open_crops", "open_source", "sample_patches"]

_MEMORABLE = 50_000
# Pictures in a folder from which on nobody asks their files how large they are.

_PATCH_CROP, _PATCH_BATCH = 128, 32


class Crops(Protocol):
    """Where batches of crops come from; its state goes into checkpoints."""

    def __len__(self) -> int:
        """Return how many pictures there are, or shards of them."""

    def draw(self, batch: int, crop: int) -> Tensor:
        """Return the next batch (N, 3, S, S) in [0, 1], on the device of the training."""

    def state_dict(self) -> dict[str, Any]:
        """Return what decides the next batches, beside PyTorch's random numbers."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""


def sample_patches(crops: Crops, size: int, count: int) -> Tensor:
    """Returns ``count`` random patches (count, 3, size, size) in [0, 1] of crops, for warm starts."""
    per_crop = (_PATCH_CROP // size) ** 2
    drawn = [crops.draw(_PATCH_BATCH, _PATCH_CROP) for _ in range(math.ceil(count / (per_crop * _PATCH_BATCH)))]
    patches = F.unfold(torch.cat(drawn).cpu(), size, stride=size).transpose(1, 2).reshape(-1, 3, size, size)
    return patches[:count].contiguous()


def open_crops(root: Path, data: dict[str, Any], seed: int, state: PartialState) -> Crops:
    """Opens the crops that a recipe's ``[data]`` asks for.

    A folder whose pictures fit into a quarter of the device's free memory is kept there. Of a larger one, and of
    shards, ``workers`` (default: a process per core, but one) read pictures as they are needed, and take
    ``crops_per_image`` (default: 1) of each.

    Args:
        root: folder of the recipe's folders.
        data: ``train``, ``scale`` and, perhaps, the two above.
        seed: of the order in which pictures are read.
        state: of the processes that train together.

    Raises:
        DatasetError: there are no pictures.
    """
    source, device = open_source(root, data["train"]), state.device
    if isinstance(source, FolderSource) and "workers" not in data and _fits(source, device, state.num_processes):
        return CropMemory(source.folder, data["scale"], device, state.is_main_process)
    workers = data.get("workers", max(1, (os.cpu_count() or 1) // state.num_processes - 1))
    return CropStream(
        source,
        tuple(data["scale"]),
        seed,
        workers,
        data.get("crops_per_image", 1),
        state.process_index,
        state.num_processes,
        device,
    )


def _fits(source: FolderSource, device: torch.device, n_processes: int) -> bool:
    if len(source) > _MEMORABLE:
        return False
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available / n_processes
    return decoded_bytes(source.folder) <= free / 4


def open_source(root: Path, data: str) -> MemberSource:
    """Opens what a recipe's ``[data] train`` names: a folder of pictures or shards, below ``root`` or by URL.

    Raises:
        DatasetError: there are no pictures, or shards are missing or end early.
    """
    located = data if "://" in data or data.startswith("pipe:") else str(root / data)
    holds_shards = is_shards(data) or any(is_shards(path.name) for path in Path(located).glob("*"))
    return ShardSource(located) if holds_shards else FolderSource(located)


class _Cursor(NamedTuple):
    """How far a reader has come: ``crops`` of the picture at ``position`` of its share of ``epoch`` are taken."""

    epoch: int = 0
    position: int = 0
    crops: int = 0
    skipped: int = 0


class CropStream:
    """Endless batches of crops, read by workers as they are needed: memory does not grow with the number of pictures.

    Every process makes one. It reads the process's share of each epoch, divided again among its workers. What it
    delivers depends on its arguments and on how much it has delivered, on nothing else: a resumed run sees the crops
    that it would have seen. Pictures that cannot be read are skipped and counted.

    Args:
        source: of the pictures; see :func:`open_source`.
        scale: smallest and largest factor; see :class:`~compressai_gen.train.memory.CropMemory`.
        seed: decides the order of pictures and their crops.
        workers: processes that read and crop; 0: the calling one does.
        crops_per_image: how many are taken of a picture one after the other, where decoding is what takes time.
        rank, world_size: of this process among those that train together.
        device: where batches go.

    Raises:
        DatasetError: a folder has fewer pictures than there are readers.
    """

    def __init__(
        self,
        source: MemberSource,
        scale: tuple[float, float],
        seed: int,
        workers: int = 0,
        crops_per_image: int = 1,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ):
        self.source = source
        self.scale = scale
        self.seed = seed
        self.workers = workers
        self.crops_per_image = crops_per_image
        self.rank = rank
        self.world_size = world_size
        self.device = torch.device(device)
        self._cursors = [_Cursor()] * max(1, workers)
        self._next = 0  # whose batch it is
        self._shape: tuple[int, int] | None = None
        self._reading: Iterator[Tensor] = iter(())
        readers = world_size * max(1, workers)
        if isinstance(source, FolderSource) and len(source) < readers:
            raise DatasetError(f"{source} has {len(source)} images for {readers} readers: take fewer workers")

    @property
    def skipped(self) -> int:
        """How many pictures this process found damaged, epoch after epoch."""
        return sum(cursor.skipped for cursor in self._cursors)

    def batches(self, batch: int, crop: int) -> Iterator[Tensor]:
        """Yields batches (N, 3, S, S) in [0, 1] without end, from where the last one ended.

        Args:
            batch: N.
            crop: S.

        Raises:
            DatasetError: none of the pictures can be read.
        """
        order = [(self._next + i) % len(self._cursors) for i in range(len(self._cursors))]
        readers = _Readers(self, order, batch, crop)
        # A generator of its own: by default a loader draws from PyTorch's numbers as it starts, and a resumed run
        # would go on with others.
        loader = DataLoader(
            readers,
            batch_size=None,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),
        )
        for item in loader:
            if isinstance(item, CompressaiGenError):
                raise item
            x, cursor = item
            self._cursors[self._next] = _Cursor(*cursor)
            self._next = (self._next + 1) % len(self._cursors)
            yield x.to(self.device, non_blocking=True).float().div_(255)

    def __len__(self) -> int:
        return len(self.source)

    def draw(self, batch: int, crop: int) -> Tensor:
        """Returns the next batch (N, 3, S, S) in [0, 1]; readers start anew when N or S changes."""
        if (batch, crop) != self._shape:
            self._shape, self._reading = (batch, crop), self.batches(batch, crop)
        return next(self._reading)

    def state_dict(self) -> dict[str, Any]:
        """Returns how far all processes have come; with several, all of them call it together."""
        own = {"cursors": [tuple(cursor) for cursor in self._cursors], "next": self._next}
        states = [own]
        if self.world_size > 1:
            states = [None] * self.world_size
            dist.all_gather_object(states, own)
        return {"layout": self._layout(), "processes": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where :meth:`state_dict` was called.

        Raises:
            DatasetError: it was called with other pictures or another number of readers, by which crops would repeat.
        """
        if state["layout"] != (here := self._layout()):
            differ = ", ".join(f"{k} was {v}, is {here[k]}" for k, v in state["layout"].items() if v != here[k])
            raise DatasetError(f"the run cannot go on: {differ}; set that as it was, or start anew with --init")
        own = state["processes"][self.rank]
        self._cursors, self._next = [_Cursor(*cursor) for cursor in own["cursors"]], own["next"]
        self._shape = None

    def _layout(self) -> dict[str, Any]:
        return {
            "number of processes": self.world_size,
            "workers per process": self.workers,
            "seed": self.seed,
            "crops per image": self.crops_per_image,
            "number of images or shards": len(self.source),
        }


class _Readers(IterableDataset):
    """The workers of a :class:`CropStream`; each yields batches (N, 3, S, S) in uint8 with its cursor after them."""

    def __init__(self, stream: CropStream, order: list[int], batch: int, crop: int):
        self.source, self.scale, self.seed = stream.source, stream.scale, stream.seed
        self.crops_per_image = stream.crops_per_image
        self.batch, self.crop = batch, crop
        n = len(order)
        # The loader asks its workers in turn: the first must be the reader whose turn it is.
        self.readers = [(Slot(stream.rank * n + i, stream.world_size * n), stream._cursors[i]) for i in order]

    def __iter__(self) -> Iterator[tuple[Tensor, _Cursor] | CompressaiGenError]:
        worker = get_worker_info()
        slot, start = self.readers[0 if worker is None else worker.id]
        try:
            crops = []
            for crop, cursor in self._crops(slot, start):
                crops.append(crop)
                if len(crops) == self.batch:
                    yield torch.stack(crops), cursor
                    crops = []
        # Raised in a worker, it would reach the user with a stack trace for its message.
        except CompressaiGenError as error:
            yield error

    def _crops(self, slot: Slot, cursor: _Cursor) -> Iterator[tuple[Tensor, _Cursor]]:
        while True:
            from_start, skipped_before = cursor.position == 0, cursor.skipped
            for name, data in self.source.members(self.seed, cursor.epoch, slot, cursor.position):
                try:
                    image = read_image(io.BytesIO(data))
                except ImageError as error:
                    if cursor.skipped < NAMED:
                        tqdm.write(f"skipped: {name}: {str(error).split(': ', 1)[-1]}", file=sys.stderr)
                    cursor = cursor._replace(skipped=cursor.skipped + 1)
                else:
                    for i in range(cursor.crops, self.crops_per_image):
                        key = self.seed, cursor.epoch, slot.index, cursor.position, i
                        cursor = cursor._replace(crops=i + 1)
                        yield _random_crop(image, self.crop, self.scale, np.random.default_rng(key)), cursor
                cursor = cursor._replace(position=cursor.position + 1, crops=0)
            if from_start and cursor.skipped - skipped_before == cursor.position:
                raise DatasetError(
                    f"{self.source}: reader {slot.index + 1} of {slot.of} finds no picture that can be read: give it "
                    "other pictures, or take fewer workers"
                )
            cursor = cursor._replace(epoch=cursor.epoch + 1, position=0)


def _random_crop(image: Tensor, crop: int, scale: tuple[float, float], rng: np.random.Generator) -> Tensor:
    """Returns a crop (3, S, S) of a picture (3, H, W), both uint8, as a ``CropMemory`` has them."""
    factor = math.exp(rng.uniform(*(math.log(s) for s in scale)))
    size = min(round(crop / factor), *image.shape[1:])
    top, left = (int(rng.integers(n - size + 1)) for n in image.shape[1:])
    part = image[:, top : top + size, left : left + size]
    if size != crop:
        part = F.interpolate(part[None], size=(crop, crop), mode="bicubic", antialias=True)[0]
    return part.flip(2) if rng.random() < 0.5 else part.contiguous()
