"""Codecs of other packages, found by their entry points.

A package offers a codec by::

    [project.entry-points."compressai_gen.codecs"]
    my-codec = "my_package.codec:MyCodec"

where the object, called without arguments, returns a :class:`~compressai_gen.codecs.base.Codec`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import entrypoints
from torch import Tensor

from compressai_gen.codecs.base import Codec, Encoded, trained_metrics
from compressai_gen.errors import CodecError, CompressaiGenError

__all__ = ["ENTRY_POINT_GROUP", "PluginCodec", "load_plugin", "plugin_names"]

ENTRY_POINT_GROUP = "compressai_gen.codecs"


def plugin_names() -> list[str]:
    """Names of the codecs that installed packages offer; none of their code is run."""
    return sorted(entrypoints.get_group_named(ENTRY_POINT_GROUP))


def load_plugin(name: str) -> PluginCodec:
    """Import and make the codec of an entry point.

    Raises:
        CodecError: the package cannot be imported, or what it offers is not a codec; the message names the package.
    """
    entry_point = entrypoints.get_single(ENTRY_POINT_GROUP, name)
    package = _package_name(entry_point)
    with _blame(name, package):
        codec = entry_point.load()()
    if not isinstance(codec, Codec):
        missing = [member for member in ("name", "qualities", "encode", "decode") if not hasattr(codec, member)]
        raise CodecError(f"codec '{name}' of package {package} is not a codec: it lacks {', '.join(missing)}")
    return PluginCodec(name, package, codec)


class PluginCodec:
    """A third-party codec; whatever it raises becomes a CodecError that names its package."""

    def __init__(self, name: str, package: str, codec: Codec) -> None:
        self.name = name
        self.package = package
        version = getattr(codec, "version", None)
        self.version = None if version is None else f"{package} {version}"
        self._codec = codec
        self.trained_metrics = trained_metrics(codec)
        with _blame(name, package):
            self.qualities = tuple(int(quality) for quality in codec.qualities)

    def encode(self, image: Tensor, quality: int) -> Encoded:
        """Encode with the plugin."""
        with _blame(self.name, self.package):
            return self._codec.encode(image, quality)

    def decode(self, encoded: Encoded, quality: int | None = None) -> Tensor:
        """Decode with the plugin."""
        with _blame(self.name, self.package):
            return self._codec.decode(encoded, quality)


def _package_name(entry_point: Any) -> str:
    return f"{entry_point.distro.name} {entry_point.distro.version}" if entry_point.distro else entry_point.module_name


@contextmanager
def _blame(name: str, package: str) -> Iterator[None]:
    try:
        yield
    except CompressaiGenError:
        raise
    except Exception as error:
        raise CodecError(f"codec '{name}' of package {package} failed: {type(error).__name__}: {error}") from error
