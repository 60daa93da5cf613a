"""What some codecs can do beside encoding and decoding, as protocols that programs ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

__all__ = ["DrawsMask", "SearchesOnline", "TakesRegions"]


@runtime_checkable
class TakesRegions(Protocol):
    """Bits can be steered into a region of interest."""

    def region_options(self, importance: Tensor) -> dict[str, Any]:
        """Return the encoder's options for an importance of pixels (H, W), numbers from 0 up."""


@runtime_checkable
class SearchesOnline(Protocol):
    """The encoder can spend gradient steps on each picture; its options have ``online_steps``."""

    def search_online(
        self,
        latents: Any,
        x: Tensor,
        size: Sequence[int],
        index: Tensor,
        strings: list[bytes],
        steps: int,
        progress: bool,
    ) -> list[bytes]:
        """Return streams of the same pictures, none with a higher objective than the given one.

        Args:
            latents: of padded pictures, as the model's ``analyze`` returned them.
            x: padded pictures (N, 3, H, W).
            size: (height, width) before they were padded.
            index: of the qualities, as the model's ``analyze`` got it.
            strings: of the latents as they are.
            steps: how many.
            progress: whether to show a bar, and take Ctrl-C for the wish to go on with what was found.
        """


@runtime_checkable
class DrawsMask(Protocol):
    """A stream says where in the picture something was sent."""

    def draw_mask(self, string: bytes, shape: Sequence[int]) -> Tensor:
        """Return a grey picture, uint8 (H, W): black where nothing was sent, white where most was.

        Raises:
            BitstreamError: the stream is truncated, damaged or of another codec.
        """
