"""The codecs, one paper a file, and the baseline HiFiC; importing this package registers them with CompressAI."""

import compressai_gen.diffusion.pretrained  # noqa: F401  (parts that configurations may name)
from compressai_gen._compressai import register_with_compressai
from compressai_gen.models.cgdm import CGDM
from compressai_gen.models.hific import HiFiC
from compressai_gen.models.mridc import MRIDC

__all__ = ["CGDM", "MRIDC", "HiFiC"]

register_with_compressai()
