"""Distances between the originals and the reconstructions of a whole set: FID and KID on patches.

The patches are HiFiC's (Mentzer et al., NeurIPS 2020, A.7): each picture is cut into a grid of 256x256 patches without
overlap, and again into a grid shifted by half a patch. ``eval/protocol.md`` fixes the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytorch_fid.inception
import torch
import torchvision
from torch import Tensor, nn

from compressai_gen.errors import MetricError
from compressai_gen.metrics.full_reference import FigureSpec
from compressai_gen.metrics.weights import IMAGENET_MEAN, IMAGENET_STD, convolutions, loading, patience
from compressai_gen.resources import is_offline
from compressai_gen.weights import UNREADABLE, unavailable

__all__ = ["FEATURES", "MIN_PATCHES", "SET_METRICS", "FeatureDistance", "PatchFeatures", "cut_patches"]

MIN_PATCHES = 1000
"""Both distances depend on the number of patches, so that under this one they say nothing beside a paper's."""

_PATCH = 256
_PATCHES_AT_ONCE = 16  # in the network
_FEATURES_AT_ONCE = 2048  # in the kernel


def cut_patches(image: Tensor) -> Tensor:
    """Cut a picture into the patches of both grids, the rest at the right and below is left out.

    Args:
        image: shape (3, H, W).

    Returns:
        Shape (N, 3, 256, 256); N is 0 where a side is shorter than a patch, and the shifted grid is empty where one is
        shorter than one and a half, as in ``update_patch_fid`` of NeuralCompression.
    """
    grids = [image[:, shift:, shift:].unfold(1, _PATCH, _PATCH).unfold(2, _PATCH, _PATCH) for shift in _shifts(image)]
    patches = [grid.permute(1, 2, 0, 3, 4).reshape(-1, 3, _PATCH, _PATCH) for grid in grids]
    return torch.cat([image.new_empty(0, 3, _PATCH, _PATCH), *patches])


def _shifts(image: Tensor) -> list[int]:
    return [shift for shift in (0, _PATCH // 2) if min(image.shape[1:]) >= _PATCH + shift]


@dataclass(frozen=True)
class FeatureSpec:
    """A network whose features the distances compare.

    Attributes:
        columns: names of the Fréchet and the kernel distance in tables.
        size: numbers per patch.
        create: makes the network, (N, 3, 256, 256) in [0, 1] to (N, size), on a device.
    """

    columns: tuple[str, str]
    size: int
    create: Callable[[str | torch.device], Callable[[Tensor], Tensor]]


def _inception(device: str | torch.device) -> Callable[[Tensor], Tensor]:
    """The pool features of pytorch-fid's InceptionV3, which scales patches to 299x299 itself."""
    url = pytorch_fid.inception.FID_WEIGHTS_URL
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    sha256 = file.stem.rpartition("-")[2]  # its first digits
    if not file.is_file():
        _download_inception(url, file, sha256)
    with loading("FID", file.name):
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if not found.startswith(sha256):
            raise MetricError(f"{file} is damaged (SHA-256 {found}, not {sha256}…): remove it, and it is loaded again")
        network = pytorch_fid.inception.InceptionV3()
    network = network.to(device).eval()
    return lambda x: network(x)[0].flatten(1)


def _download_inception(url: str, file: Path, sha256: str) -> None:
    try:
        if is_offline():
            raise ConnectionError("nothing is fetched offline")
        file.parent.mkdir(parents=True, exist_ok=True)
        with patience():
            torch.hub.download_url_to_file(url, str(file), sha256)
    except UNREADABLE as error:
        raise MetricError(
            f"{unavailable('FID', file.name, error)}. Unlike those of LPIPS and DISTS, these weights are in no package "
            "of a package index; '--fid-features alexnet' gives distances that need none of them"
        ) from error


def _alexnet(device: str | torch.device) -> Callable[[Tensor], Tensor]:
    """The last convolution's features of torchvision's AlexNet, their mean over the patch: so few need few patches."""
    network = convolutions("alexnet_fd", "alexnet")
    normalize = torchvision.transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)
    network = nn.Sequential(normalize, network).to(device).eval()
    return lambda x: network(x).mean((2, 3))


FEATURES: dict[str, FeatureSpec] = {
    "inception": FeatureSpec(("fid", "kid"), 2048, _inception),
    # Public weights that LPIPS needs anyway; no figure of papers compares with these.
    "alexnet": FeatureSpec(("alexnet_fd", "alexnet_kd"), 256, _alexnet),
}
SET_METRICS: dict[str, FigureSpec] = {
    "fid": FigureSpec("FID", False),
    "kid": FigureSpec("KID", False),
    "alexnet_fd": FigureSpec("Fréchet distance (AlexNet)", False),
    "alexnet_kd": FigureSpec("kernel distance (AlexNet)", False),
}


class PatchFeatures:
    """Features of the patches of pictures.

    Args:
        name: key of ``FEATURES``.
        device: where the network runs.

    Raises:
        MetricError: the name is unknown, or the weights cannot be had.
    """

    def __init__(self, name: str, device: str | torch.device = "cpu") -> None:
        if name not in FEATURES:
            raise MetricError(f"unknown features '{name}'; known features: {', '.join(FEATURES)}")
        self.name = name
        self.device = torch.device(device)
        self._network = FEATURES[name].create(device)

    @torch.no_grad()
    def __call__(self, image: Tensor) -> np.ndarray:
        """Return the features of a uint8 picture of shape (3, H, W), float32 of shape (patches, size)."""
        features = [torch.empty(0, FEATURES[self.name].size)]
        for patches in cut_patches(image).split(_PATCHES_AT_ONCE):
            if len(patches):  # a picture without patches is one empty part
                features.append(self._network(patches.to(self.device).float() / 255).cpu())
        return torch.cat(features).numpy()


class FeatureDistance:
    """Distances of sets of features to those of the originals, whose share is computed once.

    A set is anything that can be iterated over several times and yields float arrays of shape (N, D), such as one per
    picture. Only sums of them are held, so that memory does not grow with the set: 8 D^2 bytes a matrix.

    Args:
        originals: the set to compare with.
    """

    def __init__(self, originals: Iterable[np.ndarray]) -> None:
        self._originals = originals
        self._moments = _moments(originals)
        self._similarity = _within(originals)

    def frechet(self, features: Iterable[np.ndarray]) -> float:
        """Return the Fréchet distance of Gaussians with the sets' means and covariances (Heusel et al., 2017).

        NaN for fewer than two patches.
        """
        moments = _moments(features)
        if self._moments is None or moments is None:
            return float("nan")
        (mean_1, root_1), (mean_2, root_2) = self._moments, moments
        # tr (C1 C2)^(1/2) is the sum of the singular values of R1^T R2. Rounding changes these by as little as it does
        # the eigenvalues of C1 C2, of which the square roots would be needed.
        common = np.linalg.svd(root_1.T @ root_2, compute_uv=False).sum()
        return float(((mean_1 - mean_2) ** 2).sum() + (root_1**2).sum() + (root_2**2).sum() - 2 * common)

    def kernel(self, features: Iterable[np.ndarray]) -> float:
        """Return the squared maximum mean discrepancy under the kernel (x·y / D + 1)^3 (Bińkowski et al., 2018).

        This is the unbiased estimate from all patches; may be negative. Others state the mean of such estimates from
        random subsets, which has the same expectation and more noise. NaN for fewer than two patches.
        """
        between, *counts = _kernel_sum(self._originals, features)
        mean = between / np.prod(counts) if all(counts) else np.nan
        return float(self._similarity + _within(features) - 2 * mean)


def _moments(features: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean (D,) and a root R (D, rank) of the covariance R R^T; None for fewer than two patches."""
    count, total, products = 0, 0.0, 0.0
    for block in _blocks(features):
        count += len(block)
        total = total + block.sum(axis=0)
        products = products + block.T @ block
    if count < 2:
        return None
    mean = total / count
    covariance = (products - count * np.outer(mean, mean)) / (count - 1)
    values, vectors = np.linalg.eigh(covariance)
    # Fewer patches than dimensions leave zeros, which rounding makes small numbers whose roots are not small.
    kept = values > values[-1] * len(values) * np.finfo(float).eps
    return mean, vectors[:, kept] * np.sqrt(values[kept])


def _within(features: Iterable[np.ndarray]) -> float:
    """Mean kernel of the pairs of different patches of a set."""
    total, count, _ = _kernel_sum(features, features)
    for block in _blocks(features):
        total -= (((block**2).sum(axis=1) / block.shape[1] + 1) ** 3).sum()
    return total / (count * (count - 1)) if count > 1 else np.nan


def _kernel_sum(a: Iterable[np.ndarray], b: Iterable[np.ndarray]) -> tuple[float, int, int]:
    """Sum of the kernel over all pairs of `a` and `b`, and the sizes of the two."""
    total, count_a, count_b = 0.0, 0, 0
    for x in _blocks(a):
        count_a += len(x)
        count_b = 0
        for y in _blocks(b):
            count_b += len(y)
            total += ((x @ y.T / x.shape[1] + 1) ** 3).sum()
    return total, count_a, count_b


def _blocks(features: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Join small arrays to blocks of `_FEATURES_AT_ONCE` or a little more, in float64; none is empty."""
    waiting: list[np.ndarray] = []
    for array in features:
        waiting.append(array)
        if sum(map(len, waiting)) >= _FEATURES_AT_ONCE:
            yield np.concatenate(waiting, dtype=np.float64)
            waiting = []
    if sum(map(len, waiting)):
        yield np.concatenate(waiting, dtype=np.float64)
