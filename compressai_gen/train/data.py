"""Random crops of photographs at random scales, from images kept decoded in memory."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from compressai_gen.data.images import list_images, read_image
from compressai_gen.errors import DatasetError

__all__ = ["CropDataset", "sample_patches"]


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
