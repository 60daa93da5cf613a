"""Generative image compression for CompressAI; importing this registers the codecs with CompressAI."""

from compressai_gen._compressai import image_models, model_architectures

# isort: split

from compressai_gen import models, zoo
from compressai_gen._version import __version__
from compressai_gen.coding import decode, encode

__all__ = ["__version__", "decode", "encode", "models", "zoo"]

# CompressAI's tools find models in these two dictionaries; its registry knows them by @register_model.
image_models.update(zoo.MODELS)
model_architectures.update(zoo.ARCHITECTURES, hific=models.HiFiC)
