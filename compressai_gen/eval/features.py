"""Figures of a whole set, such as FID, from features of its pictures' patches that are kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor
from tqdm import tqdm

from compressai_gen.eval.processes import Processes
from compressai_gen.files import replacing
from compressai_gen.metrics import FEATURES, FeatureDistance, PatchFeatures

__all__ = ["FeatureStore", "set_figures"]


class FeatureStore:
    """Features of pictures, one file each, named by the hash of the pixels.

    What has the same pixels has the same features, so that originals are shared by all codecs and runs, and a row that
    was measured earlier needs only the hash of its reconstruction. A patch takes 8 KiB with Inception, 1 with AlexNet.

    Args:
        folder: where the files lie; made when the first comes.
        features: what to compute.
    """

    def __init__(self, folder: Path, features: PatchFeatures) -> None:
        self.name = features.name
        self._folder = folder / f"{features.name}-{features.device.type}"
        self._features = features

    def add(self, image: Tensor) -> str:
        """Compute the features of a uint8 picture of shape (3, H, W), if they are not here, and return its hash."""
        pixels = image.cpu().contiguous().numpy().tobytes()
        picture = hashlib.sha256(str(tuple(image.shape)).encode() + pixels).hexdigest()
        if not self.has(picture):
            with replacing(self._path(picture)) as temporary, temporary.open("wb") as file:
                np.save(file, self._features(image))
        return picture

    def has(self, picture: str | None) -> bool:
        """Whether the features of the picture with this hash are here."""
        return picture is not None and self._path(picture).is_file()

    def of(self, pictures: Sequence[str]) -> _Stored:
        """Return the features of the pictures with these hashes, as :class:`FeatureDistance` wants them."""
        return _Stored([self._path(picture) for picture in pictures])

    def _path(self, picture: str) -> Path:
        return self._folder / f"{picture}.npy"


@dataclass(frozen=True)
class _Stored:
    """Arrays that are read when they are asked for, one at a time."""

    paths: Sequence[Path]

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(np.load, self.paths)


def set_figures(
    measured: pd.DataFrame, features: FeatureStore, processes: Processes, progress: bool = True
) -> pd.DataFrame:
    """Compare the features of all reconstructions of each codec and quality with those of the originals.

    Args:
        measured: of ``runner.measure``, with the hashes in its columns ``original`` and ``decoded``.
        features: holds them.
        processes: share the work.
        progress: show a progress bar.

    Returns:
        Columns ``codec, quality``, the two distances and ``n_patches``, the same in all processes.
    """
    frechet, kernel = FEATURES[features.name].columns
    rows = []
    groups = processes.share(list(measured.groupby(["codec", "quality"], sort=False)))
    reference = None
    for (codec, quality), group in tqdm(groups, desc=f"{frechet}, {kernel}", unit="point", disable=not progress):
        if reference is None:  # the pictures are the same for all
            reference = FeatureDistance(features.of(group["original"].tolist()))
        decoded = features.of(group["decoded"].tolist())
        rows.append(
            {
                "codec": codec,
                "quality": quality,
                frechet: reference.frechet(decoded),
                kernel: reference.kernel(decoded),
                "n_patches": sum(map(len, decoded)),
            }
        )
    return pd.DataFrame(processes.gather(rows))
