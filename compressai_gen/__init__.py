"""Generative image compression for CompressAI; importing this registers the codecs with CompressAI."""

import compressai.zoo
import compressai.zoo.image

from compressai_gen import models, zoo
from compressai_gen._version import __version__
from compressai_gen.coding import decode, encode

__all__ = ["__version__", "decode", "encode", "models", "zoo"]

# CompressAI's tools find models in these two dictionaries; its registry knows them by @register_model.
compressai.zoo.image_models.update(zoo.MODELS)
compressai.zoo.image.model_architectures.update(zoo.ARCHITECTURES, hific=models.HiFiC)
