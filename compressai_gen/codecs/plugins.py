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
from importlib.metadata import Distribution, EntryPoint, distributions
from typing import Any, NamedTuple

from torch import Tensor

from compressai_gen.codecs.base import Codec, Encoded, trained_metrics
from compressai_gen.errors import CodecError, CompressaiGenError

__all__ = ["ENTRY_POINT_GROUP", "PluginCodec", "load_plugin", "plugin_names"]

ENTRY_POINT_GROUP = "compressai_gen.codecs"


class _Offer(NamedTuple):
    """An entry point, and the package that it is of, with its version."""

    entry_point: EntryPoint
    package: str


def plugin_names() -> list[str]:
    """Names of the codecs that installed packages offer; none of their code is run."""
    return sorted(_offers())


def load_plugin(name: str) -> PluginCodec:
    """Import and make the codec of an entry point.

    Raises:
        CodecError: the package cannot be imported, or what it offers is not a codec; the message names the package.
    """
    entry_point, package = _offers()[name]
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


def _offers() -> dict[str, _Offer]:
    """Read the entry points package by package: one whose metadata are damaged offers nothing and harms no other."""
    offers: dict[str, _Offer] = {}
    for distribution in distributions():
        try:
            text = distribution.read_text("entry_points.txt") or ""
            found = [_Offer(entry, _package_name(distribution, entry)) for entry in _entry_points(text)]
        except Exception:  # of any kind: files that are no text, lack a name or may not be read
            continue
        for offer in found:
            offers.setdefault(offer.entry_point.name, offer)
    return offers


def _entry_points(text: str) -> list[EntryPoint]:
    """Return those of our group; lines of no form are passed over."""
    found, group = [], ""
    for line in map(str.strip, text.splitlines()):
        name, equals, value = (part.strip() for part in line.partition("="))
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1].strip()
        elif group == ENTRY_POINT_GROUP and name and equals and not line.startswith(("#", ";")):
            found.append(EntryPoint(name, value, group))
    return found


def _package_name(distribution: Distribution, entry_point: EntryPoint) -> str:
    try:
        metadata = distribution.metadata
        return f"{metadata['Name'] or entry_point.value} {metadata['Version'] or ''}".strip()
    except Exception:  # as above
        return entry_point.value


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
