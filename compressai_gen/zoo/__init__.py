"""Pretrained models: ``compressai_gen.zoo.cgdm(quality=3)``.

``zoo/manifest.json`` is the only place that knows file names and hashes; each weight file has a card beside it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from compressai.zoo import image_models
from compressai.zoo.image import model_architectures

from compressai_gen.configuration import resolve
from compressai_gen.errors import ZooError
from compressai_gen.manifest import entry_of, find_weights, tags
from compressai_gen.models.base import GenerativeCodec
from compressai_gen.qualities import check_quality
from compressai_gen.specs import find_spec, own_specs, specs
from compressai_gen.zoo.files import load_weights

__all__ = ["ARCHITECTURES", "MODELS", "QUALITIES", "cgdm", "load", "mridc"]

ARCHITECTURES: dict[str, type[GenerativeCodec]] = {name: spec.load() for name, spec in own_specs().items()}
"""Class of each model of this package by name."""

QUALITIES = {name: spec.qualities for name, spec in own_specs().items()}
"""Qualities of each model of this package, from the fewest bits up."""


def cgdm(
    quality: float,
    metric: str = "mse",
    pretrained: bool = True,
    progress: bool = True,
    weights: str | None = None,
    **kwargs: Any,
) -> GenerativeCodec:
    """CGDM, about 0.05 to 0.4 bpp on Kodak; see :class:`compressai_gen.models.CGDM`.

    Args:
        quality: 1 (fewest bits) to 5 in steps of 1/32; one network serves all, so this sets what ``compress`` does by
            default.
        metric: only ``"mse"``, which CompressAI's tools pass; the network has one set of weights, trained for
            rate, squared error, LPIPS and DISTS together.
        pretrained: whether to load the zoo's weights.
        progress: accepted for CompressAI's sake; weights are read from disk in a moment.
        weights: which ones, ``cgdm.<tag>``, the newest by default; or a folder that ``save_pretrained`` wrote, or a
            repository of the Hugging Face Hub at a revision, ``owner/name@revision``.
        **kwargs: of the class, in place of the configuration of the weights.

    Raises:
        ZooError: the quality, metric or name of the weights is unknown, or the weights are missing or not what the
            manifest says.
        CodecError: the configuration has something that the class has not.
    """
    return load("cgdm", quality, metric, pretrained, progress, weights, **kwargs)


def mridc(
    quality: float,
    metric: str = "mse",
    pretrained: bool = True,
    progress: bool = True,
    weights: str | None = None,
    **kwargs: Any,
) -> GenerativeCodec:
    """MRIDC, about 0.007 to 0.055 bpp on Kodak; see :class:`compressai_gen.models.MRIDC`, arguments as :func:`cgdm`."""
    return load("mridc", quality, metric, pretrained, progress, weights, **kwargs)


def load(
    name: str,
    quality: float,
    metric: str = "mse",
    pretrained: bool = True,
    progress: bool = True,
    weights: str | None = None,
    **config: Any,
) -> GenerativeCodec:
    """Any codec by its name, of this package or another's; arguments and errors otherwise as of :func:`cgdm`."""
    spec = find_spec(name)
    quality = check_quality(name, quality, spec.qualities[-1], ZooError)
    if metric != "mse":
        raise ZooError(f"{name} has one set of weights, under metric 'mse'; there is none for {metric!r}")
    cls, stated = spec.load(), {}
    if weights is not None and ("/" in weights or Path(weights).is_dir()):
        return _load_elsewhere(cls, weights, quality, config)
    if pretrained or weights is not None or tags(name):
        weights = find_weights(name, weights)
        stated = entry_of(name, weights)["config"]
    # In float32 whatever type is the default, and before weights are loaded, as half precision would round them.
    model = cls(**resolve(resolve(cls.defaults, stated, cls.optional), config, cls.optional)).float()
    if pretrained:
        try:
            model.load_state_dict(load_weights(weights))
        except RuntimeError as error:
            raise ZooError(f"the weights {weights} do not fit the configuration {config}: {error}") from error
    model.quality.fill_(quality)
    return model.eval()


MODELS: dict[str, Callable[..., GenerativeCodec]] = {"cgdm": cgdm, "mridc": mridc}
"""Zoo function of each model by name; those of other packages' codecs follow."""
MODELS |= {name: partial(load, name) for name in specs() if name not in MODELS}


def _untrained_by_default(create: Callable[..., GenerativeCodec]) -> Callable[..., GenerativeCodec]:
    """Returns a zoo function with the default of CompressAI's own: whoever wants weights there asks for them."""

    def created(quality: float, metric: str = "mse", pretrained: bool = False, **kwargs: Any) -> GenerativeCodec:
        return create(quality, metric, pretrained, **kwargs)

    return functools.update_wrapper(created, create)


# CompressAI's tools find models in these two dictionaries; its registry knows them by @register_model.
image_models.update({name: _untrained_by_default(create) for name, create in MODELS.items()})
model_architectures.update(ARCHITECTURES)


def _load_elsewhere(cls: type[GenerativeCodec], weights: str, quality: int, config: dict[str, Any]) -> GenerativeCodec:
    """Loads from a folder or a repository of the hub, which is taken at a named revision, so that it stays the same."""
    repository, _, revision = weights.partition("@")
    if not Path(weights).is_dir() and not revision:
        raise ZooError(f"{weights} is no folder; weights on the hub are named owner/name@revision, such as a commit")
    if Path(weights).is_dir():
        repository, revision = weights, ""
    model = cls.from_pretrained(repository, revision=revision or None, **config)
    model.quality.fill_(quality)
    return model
