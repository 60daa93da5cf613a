"""Generative image compression for CompressAI; importing this registers the codecs with CompressAI."""

from compressai_gen import models
from compressai_gen._version import __version__

__all__ = ["__version__", "models"]
