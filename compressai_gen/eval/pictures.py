"""Decoded pictures that a run keeps."""

from __future__ import annotations

from collections.abc import Container, Iterable
from pathlib import Path

from PIL import Image
from torch import Tensor

from compressai_gen.data import write_image
from compressai_gen.data.images import OUTPUT_MARK
from compressai_gen.files import file_name, file_names, replacing

__all__ = ["KeptPictures"]

_KEY = "compressai-gen row"


class KeptPictures:
    """A folder of lossless files, ``<codec>-q<quality>/<image>.png``.

    Each file holds the key of its row (see ``store.RowStore``): one that an earlier run left from other weights or of
    another picture is noticed.

    Args:
        folder: made when the first picture comes.
        images: names of the images whose reconstructions are kept; None: all.
        codings: codecs and qualities of the run, so that no two share a folder.
    """

    def __init__(
        self,
        folder: Path,
        images: Container[str] | None = None,
        codings: Iterable[tuple[str, float]] = (),
    ) -> None:
        self.folder = folder
        self._images = images
        self._folders = file_names(f"{codec}-q{quality}" for codec, quality in codings)

    def path(self, codec: str, quality: float, image: str) -> Path:
        """Return where a picture lies or would lie."""
        name = f"{codec}-q{quality}"
        return self.folder / self._folders.get(name, file_name(name)) / f"{image}.png"

    def lacks(self, codec: str, quality: float, image: str, key: str | None) -> bool:
        """Return whether the picture of a row is wanted and not there."""
        if not self._wants(image):
            return False
        try:
            with Image.open(self.path(codec, quality, image)) as picture:
                return key is None or picture.info.get(_KEY) != key
        except OSError:
            return True

    def keep(self, codec: str, quality: float, image: str, key: str | None, decoded: Tensor) -> None:
        """Write a picture, a uint8 tensor of shape (3, H, W), where it is wanted."""
        if self._wants(image):
            with replacing(self.path(codec, quality, image)) as path:
                write_image(decoded, path, OUTPUT_MARK if key is None else OUTPUT_MARK | {_KEY: key})

    def _wants(self, image: str) -> bool:
        return self._images is None or image in self._images
