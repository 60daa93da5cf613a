"""Pretrained models: ``compressai_gen.zoo.cgdm(quality=3)``.

``zoo/manifest.json`` is the only place that knows file names and hashes; each weight file has a card beside it.
"""

from __future__ import annotations

from typing import Any

from compressai.zoo import image_models
from compressai.zoo.image import model_architectures

from compressai_gen.configuration import resolve
from compressai_gen.errors import ZooError
from compressai_gen.models import CGDM, MRIDC, HiFiC
from compressai_gen.models.base import GenerativeCodec
from compressai_gen.zoo.manifest import fingerprint, load_weights, model_config

__all__ = ["ARCHITECTURES", "MODELS", "QUALITIES", "cgdm", "fingerprint", "mridc"]

ARCHITECTURES: dict[str, type[GenerativeCodec]] = {cls.name: cls for cls in (CGDM, MRIDC)}
"""Class of each model by name."""

QUALITIES = {name: tuple(range(1, cls.n_qualities + 1)) for name, cls in ARCHITECTURES.items()}
"""Qualities of each model, from the fewest bits up."""


def cgdm(
    quality: int, metric: str = "mse", pretrained: bool = True, progress: bool = True, **kwargs: Any
) -> GenerativeCodec:
    """CGDM, about 0.05 to 0.4 bpp on Kodak; see :class:`compressai_gen.models.CGDM`.

    Args:
        quality: 1 (fewest bits) to 5; one network serves all, so this sets what ``compress`` does by default.
        metric: only ``"mse"``, which CompressAI's tools pass; the network has one set of weights, trained for
            rate, squared error, LPIPS and DISTS together.
        pretrained: whether to load the zoo's weights.
        progress: accepted for CompressAI's sake; weights are read from disk in a moment.
        **kwargs: of the class, in place of the zoo's configuration.

    Raises:
        ZooError: the quality or metric is unknown, or the weights are missing or not what the manifest says.
    """
    return _load("cgdm", quality, metric, pretrained, kwargs)


def mridc(
    quality: int, metric: str = "mse", pretrained: bool = True, progress: bool = True, **kwargs: Any
) -> GenerativeCodec:
    """MRIDC, about 0.007 to 0.055 bpp on Kodak; see :class:`compressai_gen.models.MRIDC`, arguments as :func:`cgdm`."""
    return _load("mridc", quality, metric, pretrained, kwargs)


MODELS = {"cgdm": cgdm, "mridc": mridc}
"""Zoo function of each model by name."""

# CompressAI's tools find models in these two dictionaries; its registry knows them by @register_model.
image_models.update(MODELS)
model_architectures.update(ARCHITECTURES, hific=HiFiC)


def _load(name: str, quality: int, metric: str, pretrained: bool, config: dict[str, Any]) -> GenerativeCodec:
    if quality not in QUALITIES[name]:
        raise ZooError(f"{name} has qualities {QUALITIES[name][0]} to {QUALITIES[name][-1]}, not {quality!r}")
    if metric != "mse":
        raise ZooError(f"{name} has one set of weights, under metric 'mse'; there is none for {metric!r}")
    cls = ARCHITECTURES[name]
    model = cls(**resolve(resolve(cls.defaults, model_config(name), cls.optional), config, cls.optional))
    if pretrained:
        try:
            model.load_state_dict(load_weights(name))
        except RuntimeError as error:
            raise ZooError(f"the zoo's {name} weights do not fit the configuration {config}: {error}") from error
    model.quality.fill_(quality)
    return model.eval()
