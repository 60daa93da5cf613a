"""Codecs of other packages, found by their entry points.

A package offers a codec by::

    [project.entry-points."compressai_gen.codecs"]
    my-codec = "my_package.codec:MyCodec"

where the object, called without arguments, returns a :class:`~compressai_gen.codecs.base.Codec`.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from compressai_gen.codecs.base import Codec, Encoded, trained_metrics
from compressai_gen.errors import CodecError, CompressaiGenError
from compressai_gen.offers import offers

__all__ = ["ENTRY_POINT_GROUP", "PluginCodec", "load_plugin", "plugin_names"]

ENTRY_POINT_GROUP = "compressai_gen.codecs"


def plugin_names() -> list[str]:
    """Names of the codecs that installed packages offer; none of their code is run."""
    return sorted(offers(ENTRY_POINT_GROUP))


def load_plugin(name: str) -> PluginCodec:
    """Import and make the codec of an entry point.

    Raises:
        CodecError: the package cannot be imported, or what it offers is not a codec; the message names the package.
    """
    entry_point, package = offers(ENTRY_POINT_GROUP)[name]
    with _blame(name, package):
        codec = entry_point.load()()
        missing = [member for member in ("name", "qualities", "encode", "decode") if not hasattr(codec, member)]
    if missing:
        raise CodecError(f"codec '{name}' of package {package} is not a codec: it lacks {', '.join(missing)}")
    return PluginCodec(name, package, codec)


class PluginCodec:
    """A third-party codec; whatever it raises becomes a CodecError that names its package.

    Raises:
        CodecError: its qualities are not different real numbers.
    """

    def __init__(self, name: str, package: str, codec: Codec) -> None:
        self.name = name
        self.package = package
        self._codec = codec
        with _blame(name, package):
            self.trained_metrics = trained_metrics(codec)
            version = getattr(codec, "version", None)
            self.version = None if version is None else f"{package} {version}"
            self.qualities = _checked_qualities(list(codec.qualities))

    def encode(self, image: Tensor, quality: float) -> Encoded:
        """Encode with the plugin."""
        with _blame(self.name, self.package):
            return self._codec.encode(image, quality)

    def decode(self, encoded: Encoded, quality: float | None = None) -> Tensor:
        """Decode with the plugin."""
        with _blame(self.name, self.package):
            return self._codec.decode(encoded, quality)


def _checked_qualities(qualities: list[Any]) -> tuple[float, ...]:
    plain = [value.item() if hasattr(value, "item") else value for value in qualities]  # NumPy's and PyTorch's
    for value in plain:
        if not isinstance(value, numbers.Real) or isinstance(value, bool) or not math.isfinite(value):
            raise ValueError(f"its qualities must be real numbers, not {value!r}")
    values = [value if isinstance(value, int) else float(value) for value in plain]
    if not values:
        raise ValueError("it has no qualities")
    if len(set(values)) < len(values):
        raise ValueError(f"its qualities must differ: {', '.join(map(str, values))}")
    return tuple(values)


@contextmanager
def _blame(name: str, package: str) -> Iterator[None]:
    try:
        yield
    except (CompressaiGenError, KeyboardInterrupt, GeneratorExit):
        raise
    # Even one that ends the process, which is not the codec's to end.
    except BaseException as error:
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        raise CodecError(f"codec '{name}' of package {package} failed: {said}") from error
