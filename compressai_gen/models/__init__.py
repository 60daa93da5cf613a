"""The codecs, one paper a file; importing this package registers them with CompressAI."""

from compressai_gen.models.cgdm import CGDM

__all__ = ["CGDM"]
