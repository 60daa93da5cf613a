"""What evaluation needs of a codec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from compressai_gen.errors import CodecError

__all__ = ["Codec", "Encoded", "trained_metrics"]


@dataclass(frozen=True)
class Encoded:
    """One encoded image: all that a decoder gets.

    Attributes:
        strings: the bytes of its streams; all of them count as bits.
        shape: what the codec's ``decompress`` wants beside the strings; not counted, so it must be small and constant
            in size, such as the height and width of the latent. Files of classical codecs leave it empty.
    """

    strings: list[bytes]
    shape: Any = ()

    @property
    def n_bytes(self) -> int:
        """Length of all strings together."""
        return sum(len(string) for string in self.strings)


@runtime_checkable
class Codec(Protocol):
    """An image codec with numbered qualities.

    Third parties offer one by an entry point of group ``compressai_gen.codecs`` whose object is a class or function
    without required arguments that returns an object like this.

    Attributes:
        name: as it stands in tables.
        qualities: what ``encode`` accepts, in the order of increasing rate: different real numbers.

    Codecs get copies of pictures and streams, and what they return is copied.

    A codec may have an attribute ``version: str`` that changes whenever its results might: its measured figures are
    then kept between runs. It may have ``trained_metrics: frozenset[str] | None``, the names of the metrics that it was
    trained to lower (``psnr`` stands for squared error) or that its encoder searches for: tables mark these. Empty
    means none, None or no such attribute unknown.
    """

    name: str
    qualities: tuple[float, ...]

    def encode(self, image: Tensor, quality: float) -> Encoded:
        """Encode a uint8 RGB image of shape (3, H, W)."""

    def decode(self, encoded: Encoded, quality: float | None = None) -> Tensor:
        """Decode to uint8 of shape (3, H, W), from the encoded data alone.

        `quality` only names the network to decode with, where a codec has one network per quality.
        """


def trained_metrics(codec: Codec) -> frozenset[str] | None:
    """Return the metrics that a codec states that it was trained to lower; None where it states nothing.

    Raises:
        CodecError: it states something else than names.
    """
    metrics = getattr(codec, "trained_metrics", None)
    if metrics is None:
        return None
    if isinstance(metrics, str) or not all(isinstance(name, str) for name in metrics):
        raise CodecError(f"trained_metrics of {codec.name} must be a set of names such as 'lpips', not {metrics!r}")
    return frozenset(metrics)
