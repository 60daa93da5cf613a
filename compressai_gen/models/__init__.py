"""The codecs, one paper a file; importing this package registers them with CompressAI."""

from compressai_gen.models.cgdm import CGDM
from compressai_gen.models.mridc import MRIDC

__all__ = ["CGDM", "MRIDC"]
