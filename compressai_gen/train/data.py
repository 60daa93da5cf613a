"""Random crops of photographs at random scales: of a few kept decoded in memory, or of any number read by workers."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info
from tqdm import tqdm

from compressai_gen.data.images import list_images, read_image
from compressai_gen.errors import CompressaiGenError, DatasetError, ImageError
from compressai_gen.train.members import FolderSource, MemberSource, Slot
from compressai_gen.train.shards import ShardSource, is_shards

__all__ = ["CropDataset", "CropStream", "open_source", "sample_patches"]

_NAMED = 10
# A worker names as many pictures that it skips; it counts them all.


class CropDataset(Dataset):
    """Crops (3, S, S) in [0, 1], flipped and rescaled at random.

    Small photographs are dense and film scans are smooth: a crop of ``S / scale`` pixels is resized to ``S``, with
    ``scale`` log-uniform, so that both are seen. Images stay decoded in memory, as decoding costs more than training
    on the crop.

    Args:
        folder: searched recursively.
        scale: smallest and largest factor.
        length: how many crops make an epoch.
        progress: whether to show a bar while images are read.
    """

    def __init__(self, folder: Path, scale: tuple[float, float], length: int, progress: bool = True):
        paths = list_images(folder)
        if not paths:
            raise DatasetError(f"no images in {folder}: give the folder of training photographs with --data-root")
        self.images = [read_image(path) for path in tqdm(paths, "reading training images", disable=not progress)]
        self.scale = scale
        self.length = length
        self.crop = 128

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, _: int) -> Tensor:
        image = self.images[int(torch.randint(len(self.images), ()))]
        low, high = (math.log(s) for s in self.scale)
        scale = math.exp(low + (high - low) * torch.rand(()).item())
        size = min(round(self.crop / scale), *image.shape[1:])
        top, left = (int(torch.randint(n - size + 1, ())) for n in image.shape[1:])
        crop = image[:, top : top + size, left : left + size].float() / 255
        if size != self.crop:
            crop = F.interpolate(crop[None], size=(self.crop,) * 2, mode="bicubic", antialias=True)[0].clamp_(0, 1)
        return crop.flip(2) if torch.rand(()) < 0.5 else crop


def sample_patches(dataset: CropDataset, size: int, count: int) -> Tensor:
    """Returns ``count`` random patches (count, 3, size, size) in [0, 1] of crops, for warm starts."""
    per_crop = (dataset.crop // size) ** 2
    crops = torch.stack([dataset[0] for _ in range(math.ceil(count / per_crop))])
    patches = F.unfold(crops, size, stride=size).transpose(1, 2).reshape(-1, 3, size, size)
    return patches[:count]


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
        scale: smallest and largest factor; see :class:`CropDataset`.
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
        loader = DataLoader(readers, batch_size=None, num_workers=self.workers, pin_memory=self.device.type == "cuda")
        for item in loader:
            if isinstance(item, CompressaiGenError):
                raise item
            x, cursor = item
            self._cursors[self._next] = _Cursor(*cursor)
            self._next = (self._next + 1) % len(self._cursors)
            yield x.to(self.device, non_blocking=True).float().div_(255)

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
                    if cursor.skipped < _NAMED:
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
    """Returns a crop (3, S, S) of a picture (3, H, W), both uint8; see :class:`CropDataset`."""
    factor = math.exp(rng.uniform(*(math.log(s) for s in scale)))
    size = min(round(crop / factor), *image.shape[1:])
    top, left = (int(rng.integers(n - size + 1)) for n in image.shape[1:])
    part = image[:, top : top + size, left : left + size]
    if size != crop:
        part = F.interpolate(part[None], size=(crop, crop), mode="bicubic", antialias=True)[0]
    return part.flip(2) if rng.random() < 0.5 else part.contiguous()
