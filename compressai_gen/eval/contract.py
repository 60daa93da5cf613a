"""One coding of one picture, such that nothing that a codec does changes another's figures, or its own of before."""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from compressai_gen.codecs import Codec, Encoded
from compressai_gen.errors import CodecError

__all__ = ["Coded", "Coder"]


class Coded(NamedTuple):
    """What a codec made of a picture: its streams, the decoded uint8 picture (3, H, W), and wall seconds."""

    encoded: Encoded
    decoded: Tensor
    encode_s: float
    decode_s: float


class Coder:
    """Has codecs encode and decode, holds them to their contract, and tells of each that interferes, once.

    Encoder and decoder get copies, and what they return is copied at once. What PyTorch and the process have set for
    all is set again after each call.
    """

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._returned: dict[str, tuple[Tensor, Tensor]] = {}

    def code(self, codec: Codec, quality: float, image: Tensor) -> Coded:
        """Encode a uint8 picture (3, H, W) and decode its bytes.

        Raises:
            CodecError: the codec returned something else than bytes, or a picture of another shape.
        """
        given = image.clone()
        with _own_settings():
            start = time.perf_counter()
            returned = codec.encode(given, quality)
            encode_s = time.perf_counter() - start
        encoded = _copied(codec, quality, returned)
        self._check_given(codec, given, image)
        with _own_settings():
            start = time.perf_counter()
            decoded = codec.decode(Encoded(list(encoded.strings), copy.deepcopy(encoded.shape)), quality)
            decode_s = time.perf_counter() - start
        kept = _picture(codec, quality, decoded, image)
        self._check_given(codec, given, image)
        self._check_returned(codec, decoded, kept)
        return Coded(encoded, kept, encode_s, decode_s)

    def _check_given(self, codec: Codec, given: Tensor, image: Tensor) -> None:
        if not torch.equal(given, image):
            self._tell(codec, "changes the picture that it is given")

    def _check_returned(self, codec: Codec, decoded: Any, kept: Tensor) -> None:
        before = self._returned.get(codec.name)
        if before is not None and before[0] is not decoded and not torch.equal(*before):
            self._tell(codec, "changes pictures that it has returned")
        if isinstance(decoded, Tensor) and decoded.device.type == "cpu":
            self._returned[codec.name] = decoded.detach(), kept

    def _tell(self, codec: Codec, what: str) -> None:
        if codec.name not in self._told:
            self._told.add(codec.name)
            package = f" of package {codec.package}" if hasattr(codec, "package") else ""
            line = (
                f"codec '{codec.name}'{package} {what}: it worked on copies, so that no figure suffers; tell its author"
            )
            tqdm.write(line, file=sys.stderr)


@contextmanager
def _own_settings() -> Iterator[None]:
    """Undo what the block sets for the whole process and would change figures or where they are written."""
    settings = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    folder = Path.cwd()
    try:
        yield
    finally:
        dtype, threads, gradients = settings
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        os.chdir(folder)


def _copied(codec: Codec, quality: float, encoded: Any) -> Encoded:
    if not (hasattr(encoded, "strings") and hasattr(encoded, "shape")) or isinstance(encoded.strings, bytes | str):
        raise CodecError(
            f"{codec.name} quality {quality}: encode returned {_kind(encoded)}; it must be an Encoded with a list of "
            "bytes"
        )
    strings = list(encoded.strings)
    if not strings or not all(isinstance(string, bytes | bytearray | memoryview) for string in strings):
        raise CodecError(
            f"{codec.name} quality {quality} returned "
            + (
                "strings that are not bytes, so they have no length"
                if strings
                else "no string at all, not even an empty one"
            )
        )
    return Encoded([bytes(string) for string in strings], copy.deepcopy(encoded.shape))


def _picture(codec: Codec, quality: float, decoded: Any, image: Tensor) -> Tensor:
    if isinstance(decoded, np.ndarray) and decoded.dtype == np.uint8 and decoded.shape == tuple(image.shape):
        decoded = torch.from_numpy(np.array(decoded))
    if not isinstance(decoded, Tensor) or decoded.shape != image.shape or decoded.dtype != torch.uint8:
        raise CodecError(
            f"{codec.name} quality {quality} decoded an image of shape {tuple(image.shape)} to {_kind(decoded)}; "
            "it must be a tensor or array of uint8 of the same shape"
        )
    return decoded.detach().cpu().clone(memory_format=torch.contiguous_format)


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    what = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}".removeprefix("builtins.")
    if isinstance(value, Tensor | np.ndarray):
        return f"{what} of {value.dtype} and shape {tuple(value.shape)}"
    return f"a {what}"
