"""JPEG, WebP and AVIF through Pillow. The one string of an encoded image is the real file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image, features
from torch import Tensor

from compressai_gen.codecs.base import Encoded
from compressai_gen.errors import BitstreamError, CodecError

__all__ = ["CLASSICAL_CODECS", "PillowCodec"]


@dataclass(frozen=True)
class PillowCodec:
    """A file format of Pillow as a codec.

    Args:
        name: of the codec, and of Pillow's format.
        qualities: ladder of Pillow's ``quality`` option, about 0.05 to 1 bpp on Kodak where the format reaches it.
        options: further options of Pillow's ``save``.
    """

    name: str
    qualities: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """Options and libraries, which together decide the bytes."""
        module = "jpg" if self.name == "jpeg" else self.name
        return f"Pillow {PIL.__version__} {module} {features.version(module)} {dict(self.options)}"

    def encode(self, image: Tensor, quality: int) -> Encoded:
        """Return the bytes of the file.

        Raises:
            CodecError: this Pillow has no such encoder, or the format cannot hold the image.
        """
        buffer = io.BytesIO()
        picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
        try:
            picture.save(buffer, format=self.name, quality=quality, **self.options)
        except (KeyError, OSError, ValueError) as error:
            missing = self.name in features.modules and not features.check(self.name)
            reason = "this Pillow was built without it; pip install -U pillow" if missing else str(error)
            raise CodecError(f"{self.name} cannot encode {tuple(image.shape)}: {reason}") from error
        return Encoded([buffer.getvalue()])

    def decode(self, encoded: Encoded, quality: int | None = None) -> Tensor:
        """Return the image of the file.

        Raises:
            BitstreamError: the bytes are not a whole file of this format.
        """
        try:
            with Image.open(io.BytesIO(encoded.strings[0]), formats=[self.name]) as picture:
                pixels = np.array(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise BitstreamError(f"{self.name}: not a readable stream ({error})") from error
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


CLASSICAL_CODECS: dict[str, PillowCodec] = {
    codec.name: codec
    for codec in (
        PillowCodec("jpeg", (3, 10, 30), {"optimize": True, "subsampling": "4:2:0"}),
        # More effort than Pillow's defaults: a baseline at its worst would flatter what is compared with it.
        PillowCodec("webp", (1, 15, 50), {"method": 6}),
        # One thread, because libavif splits large pictures into more tiles, thus other bytes, where it has more.
        PillowCodec("avif", (1, 8, 20, 45), {"speed": 3, "max_threads": 1}),
    )
}
