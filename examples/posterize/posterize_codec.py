"""A complete codec: keeps the highest bits of every sample, and packs them by zlib."""

import zlib

import numpy as np
import torch
from torch import Tensor

from compressai_gen.codecs import Encoded


class Posterize:
    """Keeps as many bits of each sample as the quality says.

    Attributes:
        name: as it stands in tables.
        qualities: in the order of increasing rate.
        version: changes whenever results might; figures of earlier runs are then measured again.
    """

    name = "posterize"
    qualities = (1, 2, 3)
    version = "0.1.0"

    def encode(self, image: Tensor, quality: int) -> Encoded:
        """Encode a uint8 RGB image (3, H, W). All strings count as bits; the shape does not."""
        levels = (image >> (8 - quality)).numpy()
        return Encoded([bytes([quality]) + zlib.compress(levels.tobytes(), 9)], tuple(image.shape))

    def decode(self, encoded: Encoded, quality: int | None = None) -> Tensor:
        """Decode to uint8 (3, H, W), from the encoded data alone."""
        data = encoded.strings[0]
        levels = np.frombuffer(zlib.decompress(data[1:]), np.uint8).reshape(encoded.shape)
        return torch.from_numpy(levels << (8 - data[0]))
