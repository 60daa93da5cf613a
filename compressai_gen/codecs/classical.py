"""JPEG, JPEG 2000, WebP, AVIF and JPEG XL through Pillow. The one string of an encoded image is the real file."""

from __future__ import annotations

import importlib
import importlib.metadata
import io
from collections.abc import Callable, Mapping
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
        qualities: ladder of the option that sets the rate, about 0.05 to 1 bpp on Kodak where the format reaches it.
        options: further options of Pillow's ``save``.
        rate_option: returns the option of ``save`` that sets a quality.
        plugin: package on PyPI and module that add the format to Pillow; none where Pillow itself has it.
    """

    name: str
    qualities: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    rate_option: Callable[[int], dict[str, Any]] = lambda quality: {"quality": quality}
    plugin: tuple[str, str] | None = None

    @property
    def trained_metrics(self) -> frozenset[str]:
        """None are: nothing in a format was fitted to a metric."""
        return frozenset()

    @property
    def version(self) -> str:
        """Options and libraries, which together decide the bytes."""
        library = self.plugin[0] if self.plugin else self._feature
        version = importlib.metadata.version(library) if self.plugin else features.version(library)
        return f"Pillow {PIL.__version__} {library} {version} {dict(self.options)}"

    @property
    def _feature(self) -> str:
        return {"jpeg": "jpg", "jpeg2000": "jpg_2000"}.get(self.name, self.name)

    def require(self) -> None:
        """Make sure that Pillow can write and read this format here.

        Raises:
            CodecError: this Pillow was built without it, or its plugin is not installed.
        """
        if self.plugin is None:
            if not features.check(self._feature):
                raise CodecError(f"this Pillow was built without {self.name}: pip install -U pillow")
            return
        package, module = self.plugin
        try:
            importlib.import_module(module)  # adds the format to Pillow
        except ImportError as error:
            raise CodecError(f"{self.name} needs the package {package}: pip install {package} ({error})") from error

    def encode(self, image: Tensor, quality: int) -> Encoded:
        """Return the bytes of the file.

        Raises:
            CodecError: this Pillow has no such encoder, or the format cannot hold the image.
        """
        self.require()
        buffer = io.BytesIO()
        picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
        try:
            picture.save(buffer, format=self.name, **self.rate_option(quality), **self.options)
        except (OSError, RuntimeError, ValueError) as error:
            raise CodecError(f"{self.name} cannot encode {tuple(image.shape)}: {error}") from error
        return Encoded([buffer.getvalue()])

    def decode(self, encoded: Encoded, quality: int | None = None) -> Tensor:
        """Return the image of the file.

        Raises:
            BitstreamError: the bytes are not a whole file of this format.
            CodecError: this Pillow has no such decoder.
        """
        self.require()
        try:
            with Image.open(io.BytesIO(encoded.strings[0]), formats=[self.name]) as picture:
                pixels = np.array(picture.convert("RGB"))
        except (OSError, RuntimeError, SyntaxError, ValueError) as error:
            raise BitstreamError(f"{self.name}: not a readable stream ({error})") from error
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


CLASSICAL_CODECS: dict[str, PillowCodec] = {
    codec.name: codec
    for codec in (
        PillowCodec("jpeg", (3, 10, 30), {"optimize": True, "subsampling": "4:2:0"}),
        # Its quality is the compression ratio: 480 is 24 bits by 480, 0.05 bpp. The other way, a PSNR for every image,
        # takes over 1 dB less at the same mean rate. Without mct Pillow would code red, green and blue apart.
        PillowCodec(
            "jpeg2000",
            (480, 240, 120, 60),
            {"irreversible": True, "mct": 1, "no_jp2": True},
            lambda ratio: {"quality_mode": "rates", "quality_layers": [ratio]},
        ),
        # More effort than Pillow's defaults: a baseline at its worst would flatter what is compared with it.
        PillowCodec("webp", (1, 15, 50), {"method": 6}),
        # One thread, because libavif splits large pictures into more tiles, thus other bytes, where it has more.
        PillowCodec("avif", (1, 8, 20, 45), {"speed": 3, "max_threads": 1}),
        # libjxl ends at 0.2 bpp or so. Efforts of 8 and 9 take four times as long and give no better PSNR at a rate.
        PillowCodec("jxl", (1, 15, 40), {"effort": 7}, plugin=("pillow-jxl-plugin", "pillow_jxl")),
    )
}
