"""Specifications of codecs: all that the programs know of a codec stands in one :class:`CodecSpec`, in its own module.

Another package adds a codec by the entry point::

    [project.entry-points."compressai_gen.models"]
    my-codec = "my_package.spec:SPEC"

whose object is a :class:`CodecSpec`. Its module should import no PyTorch, since command lines read it for their help;
the model's class is named by a text and imported when it is used. What a model must do,
:class:`compressai_gen.models.base.GenerativeCodec` says, and :mod:`compressai_gen.testing` tests.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from compressai_gen.errors import CodecError
from compressai_gen.offers import offers
from compressai_gen.options import DecoderOptions, EncoderOptions, parse

__all__ = [
    "ENTRY_POINT_GROUP",
    "OWN_PACKAGE",
    "CodecSpec",
    "Variant",
    "find_spec",
    "load_object",
    "own_specs",
    "problems",
    "spec_of_byte",
    "specs",
]

ENTRY_POINT_GROUP = "compressai_gen.models"
OWN_PACKAGE = "compressai-gen"

_OWN = ("compressai_gen.models.cgdm_spec:SPEC", "compressai_gen.models.mridc_spec:SPEC")


class Variant(NamedTuple):
    """Options of the encoder and of the decoder that leave some parts of a codec at work."""

    encode: Mapping[str, Any]
    decode: Mapping[str, Any]


@dataclass(frozen=True)
class CodecSpec:
    """A codec, for programs.

    Attributes:
        name: lower-case letters, digits and hyphens.
        byte: the first of its streams; a change of their format takes another.
        retired_bytes: the first of streams in formats that it had before.
        model: where its class is, ``package.module:Class``, a
            :class:`compressai_gen.models.base.GenerativeCodec` whose ``spec`` is this.
        summary: a phrase that lists show.
        qualities: whole ones, from the fewest bits up.
        encoder_options, decoder_options: dataclasses; see :mod:`compressai_gen.options`.
        objectives: where the class of each training task is, ``package.module:Class``.
        variants: what an ablation compares, by name.
        ablation_metrics: what it measures beside the default.
        timed: settings, as in ``name:steps=0``, that the benchmark times beside the defaults.
        limits: what the model card says that the codec cannot do.
        zoo: folder of its weights with their ``manifest.json``; None: that of this package.
        package: who offers it, for messages; set where an entry point is read.
    """

    name: str
    byte: int
    model: str
    summary: str
    qualities: tuple[int, ...] = (1, 2, 3, 4, 5)
    encoder_options: type = EncoderOptions
    decoder_options: type = DecoderOptions
    objectives: Mapping[str, str] = field(default_factory=dict)
    variants: Mapping[str, Variant] = field(default_factory=dict)
    ablation_metrics: tuple[str, ...] = ()
    timed: tuple[str, ...] = ()
    limits: str = ""
    retired_bytes: tuple[int, ...] = ()
    zoo: Path | None = None
    package: str = OWN_PACKAGE

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[a-z][a-z0-9-]*", self.name):
            raise CodecError(f"the name of a codec consists of a-z, 0-9 and -, not {self.name!r}")
        if not isinstance(self.byte, int) or not 0 <= self.byte < 256:
            raise CodecError(f"{self.name}: the first byte of streams is a number from 0 to 255, not {self.byte!r}")

    def load(self) -> type:
        """Imports and returns the model's class."""
        return load_object(self.model)

    def parse(self, settings: str) -> Variant:
        """Returns the options that ``option=value,…`` states.

        Raises:
            CodecError: the codec has no such option, or a value is impossible.
        """
        kinds = {"encode": self.encoder_options, "decode": self.decoder_options}
        return Variant(**parse(kinds, self.name, settings))


def load_object(where: str) -> Any:
    """Returns what ``package.module:name`` names.

    Raises:
        CodecError: it cannot be imported.
    """
    module, _, name = where.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise CodecError(f"{where} cannot be imported ({error}): install its package again") from error


@functools.cache
def own_specs() -> dict[str, CodecSpec]:
    """Returns the codecs of this package by name; the first is what programs take by default."""
    return {spec.name: spec for spec in map(load_object, _OWN)}


def specs() -> dict[str, CodecSpec]:
    """Returns all codecs by name: this package's, then those of others that can be had; see :func:`problems`."""
    return own_specs() | _others()[0]


def problems() -> dict[str, str]:
    """Returns why an entry point's codec is not among :func:`specs`, one line each, by the entry point's name."""
    return dict(_others()[1])


@functools.cache
def _others() -> tuple[dict[str, CodecSpec], dict[str, str]]:
    found: dict[str, CodecSpec] = {}
    failed: dict[str, str] = {}
    for name, (entry_point, package) in sorted(offers(ENTRY_POINT_GROUP).items()):
        try:
            spec = _checked(entry_point.load(), package, own_specs() | found)
        # Whatever a package does when it is imported, the other codecs go on.
        except Exception as error:
            told = error if isinstance(error, CodecError) else f"{type(error).__name__}: {error}"
            failed[name] = f"codec '{name}' of package {package} cannot be used: {told}"
        else:
            found[spec.name] = spec
    return found, failed


def _checked(spec: Any, package: str, known: Mapping[str, CodecSpec]) -> CodecSpec:
    if not isinstance(spec, CodecSpec):
        raise CodecError(f"its entry point is no CodecSpec but {type(spec).__name__}")
    for other in known.values():
        if spec.name == other.name:
            raise CodecError(f"its name {spec.name!r} is taken by package {other.package}: uninstall one of them")
        if spec.byte == other.byte:
            raise CodecError(
                f"the first byte 0x{spec.byte:02X} of its streams is taken by {other.name} of package {other.package}: "
                "its author must choose another"
            )
    object.__setattr__(spec, "package", package)
    return spec


def find_spec(name: str) -> CodecSpec:
    """Returns the codec of a name.

    Raises:
        CodecError: there is none, or the package that offers it is broken.
    """
    known = specs()
    if name in known:
        return known[name]
    if name in problems():
        raise CodecError(problems()[name])
    raise CodecError(f"no codec {name!r}; there are {', '.join(known)}")


def spec_of_byte(byte: int) -> CodecSpec | None:
    """Returns the codec whose streams begin with a byte; None where there is none."""
    return next((spec for spec in specs().values() if spec.byte == byte), None)
