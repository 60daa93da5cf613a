"""Random crops of photographs that lie decoded in memory, a whole batch at a time, where the networks are."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from compressai_gen.data.images import image_size, list_images, read_image
from compressai_gen.errors import DatasetError, ImageError

__all__ = ["NAMED", "CropMemory", "decoded_bytes", "resampling"]

NAMED = 10
"""A reader names as many pictures that it skips; it counts them all."""


class CropMemory:
    """Batches of crops, flipped and rescaled at random, of photographs that are kept as 8-bit pixels on a device.

    Small photographs are dense and film scans are smooth: a crop of ``S / scale`` pixels is resized to ``S``, with
    ``scale`` log-uniform, so that both are seen. A batch takes a few operations however large it is: a GPU need not
    wait for one crop after the other to be cut.

    Args:
        folder: searched recursively.
        scale: smallest and largest factor.
        device: where pixels are kept and crops are made.
        progress: whether to show a bar while images are read.

    Attributes:
        skipped: how many images could not be read.

    Raises:
        DatasetError: there are no images, or none that can be read.
    """

    def __init__(self, folder: Path, scale: Sequence[float], device: torch.device | str = "cpu", progress: bool = True):
        paths = list_images(folder)
        if not paths:
            raise DatasetError(f"no images in {folder}: give the folder of training photographs with --data-root")
        images, self.skipped = [], 0
        for path in tqdm(paths, "reading training images", disable=not progress):
            try:
                images.append(read_image(path))
            except ImageError as error:
                self.skipped += 1
                if progress and self.skipped <= NAMED:
                    tqdm.write(f"skipped: {error}", file=sys.stderr)
        if not images:
            raise DatasetError(f"none of the {len(paths)} images in {folder} can be read")
        self.device = torch.device(device)
        self.scale = tuple(scale)
        self._sizes = torch.tensor([image.shape[1:] for image in images])
        ends = self._sizes.prod(1).cumsum(0)
        self._starts = ends - self._sizes.prod(1)
        pixels = torch.empty(int(ends[-1]), 3, dtype=torch.uint8)
        for start, end, image in zip(self._starts.tolist(), ends.tolist(), images, strict=True):
            pixels[start:end] = image.flatten(1).T
        self._pixels = pixels.to(self.device)

    def __len__(self) -> int:
        return len(self._sizes)

    def draw(self, batch: int, crop: int) -> Tensor:
        """Returns a batch of crops (N, 3, S, S) in [0, 1], channels last, by PyTorch's random numbers of the CPU.

        Args:
            batch: N.
            crop: S.
        """
        chosen = torch.randint(len(self), (batch,))
        height, width = self._sizes[chosen].T
        low, high = (math.log(s) for s in self.scale)
        scale = torch.exp(low + (high - low) * torch.rand(batch))
        size = torch.minimum((crop / scale).round().long(), torch.minimum(height, width))
        top, left = ((torch.rand(batch) * (side - size + 1)).long() for side in (height, width))
        start = self._starts[chosen] + top * width + left
        flip = torch.rand(batch) < 0.5
        numbers = torch.stack((start, width, size, flip.long()), dim=1)
        if self.device.type == "cpu":
            x = torch.cat([self._cut_one(*row, crop) for row in numbers.tolist()])  # type: ignore[call-arg]
        else:
            start, width, size, flip = numbers.to(self.device, non_blocking=True).T
            x = self._cut(start, width, size, flip.bool(), crop)
        return x.clamp_(0, 1).contiguous(memory_format=torch.channels_last)

    def _cut_one(self, start: int, width: int, size: int, flip: int, crop: int) -> Tensor:
        """One crop (1, 3, S, S) with no more arithmetic than it takes, which a CPU is waited for."""
        window = self._pixels.as_strided((3, size, size), (1, 3 * width, 3), 3 * start)[None].float().div_(255)
        if size != crop:
            window = F.interpolate(window, size=(crop, crop), mode="bicubic", antialias=True)
        return window.flip(3) if flip else window

    def _cut(self, start: Tensor, width: Tensor, size: Tensor, flip: Tensor, crop: int) -> Tensor:
        """All crops at once."""
        n = len(start)
        side = max(crop, math.ceil(crop / self.scale[0]))  # the same for every batch: graphs and memory can be reused
        near = torch.minimum(torch.arange(side, device=self.device), size[:, None] - 1)
        at = (start[:, None] + near * width[:, None])[:, :, None] + near[:, None, :]
        window = self._pixels[at.flatten()].reshape(n, side, side * 3).float()
        rows = resampling(size, side, crop)
        columns = torch.where(flip[:, None, None], rows.flip(1), rows)
        with torch.autocast(self.device.type, enabled=False):
            x = torch.bmm(rows, window).reshape(n, crop, side, 3).permute(0, 1, 3, 2)
            x = torch.matmul(x.reshape(n, crop * 3, side), columns.transpose(1, 2)).reshape(n, crop, 3, crop)
        return x.permute(0, 2, 1, 3).div(255)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: what is drawn depends on the random numbers alone."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :meth:`state_dict`."""


def resampling(size: Tensor, side: int, crop: int) -> Tensor:
    """Returns matrices (N, S, L) that resize the first ``size`` (N,) of L samples to S each.

    Bicubic, with a kernel that widens where samples become fewer, as PyTorch's antialiased interpolation.
    """
    step = size[:, None, None].double() / crop
    center = (torch.arange(crop, device=size.device)[:, None] + 0.5) * step
    place = torch.arange(side, device=size.device)
    distance = ((place + 0.5 - center) / step.clamp_min(1)).abs()
    near = (1.5 * distance - 2.5) * distance.square() + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, far) * (distance < 2) * (place < size[:, None, None])
    return (weights / weights.sum(2, keepdim=True)).float()


def decoded_bytes(folder: Path) -> int:
    """Returns how many bytes the images below a folder take when they are decoded, by what their files state."""
    total = 0
    for path in list_images(folder):
        with suppress(ImageError):  # readers skip it, and say so
            width, height = image_size(path)
            total += 3 * width * height
    return total
