"""Options of encoders and decoders: dataclasses whose fields carry their help and that refuse what they do not know."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral
from typing import Any, TypeVar

from compressai_gen.errors import CodecError

__all__ = [
    "ALIGN",
    "OVERLAP",
    "STEPS",
    "DecoderOptions",
    "EncoderOptions",
    "check_switch",
    "check_whole",
    "choose",
    "option",
    "parse",
    "words",
]

STEPS = (1, 2, 4, 8)
"""Numbers of sampling steps to choose from at decode time."""

ALIGN = 64
"""Tiles begin at multiples of this many pixels, so that they can be cut out of every condition's grid."""

OVERLAP = 128
"""Pixels that neighbouring tiles share."""

T = TypeVar("T")


def option(default: Any, help: str, word: bool = True) -> Any:
    """Returns the field of an option.

    Args:
        default: value without it.
        help: a phrase for command lines and documentation.
        word: whether its value can be written as a word, as in ``codec:option=value``.
    """
    return field(default=default, metadata={"help": help, "word": word})


def choose(kind: type[T], codec: str, given: Mapping[str, Any]) -> T:
    """Returns options of a kind.

    Raises:
        CodecError: the codec has no such option, or a value is impossible.
    """
    known = [f.name for f in fields(kind)]
    if unknown := [name for name in given if name not in known]:
        raise CodecError(f"{codec} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}")
    return kind(**given)


def parse(kinds: Mapping[str, type], codec: str, settings: str) -> dict[str, dict[str, Any]]:
    """Returns the options that ``option=value,…`` states, sorted into kinds of options by name.

    Raises:
        CodecError: a kind has no such option, or a value is impossible.
    """
    owners = {f.name: name for name, kind in kinds.items() for f in fields(kind) if f.metadata["word"]}
    parsed: dict[str, dict[str, Any]] = {name: {} for name in kinds}
    for name, value in words(settings.split(",")).items():
        if name not in owners:
            raise CodecError(f"'{codec}:{settings}': {codec} has no option {name!r}; it has {', '.join(owners)}")
        parsed[owners[name]][name] = value
    for name, kind in kinds.items():
        choose(kind, codec, parsed[name])
    return parsed


def words(settings: Iterable[str]) -> dict[str, Any]:
    """Returns what settings ``option=value`` state: numbers, True, False and None, or else texts.

    Raises:
        CodecError: one is not of that form.
    """
    stated = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not (name and equals):
            raise CodecError(f"an option is written option=value, not {setting!r}")
        try:
            stated[name] = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            stated[name] = text
    return stated


def check_whole(name: str, value: Any, lowest: int | None = None) -> None:
    """Refuses what is no whole number.

    Raises:
        CodecError: see above, or it is below ``lowest``.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise CodecError(f"{name} is a whole number, not {value!r}")
    if lowest is not None and value < lowest:
        raise CodecError(f"{name} is a number from {lowest} up, not {value!r}")


def check_switch(name: str, value: Any) -> None:
    """Refuses what is neither True nor False.

    Raises:
        CodecError: see above.
    """
    if not isinstance(value, bool):
        raise CodecError(f"{name} is True or False, not {value!r}")


@dataclass(frozen=True)
class EncoderOptions:
    """What any encoder can be told beside the quality: nothing. Codecs derive theirs."""


@dataclass(frozen=True)
class DecoderOptions:
    """How any stream is turned into a picture; codecs derive theirs. No option changes what the stream holds."""

    steps: int | None = option(None, "of the sampler: 1, 2, 4 or 8; 0: the base picture (default: the model's)")
    seed: int | None = option(None, "of the noise, 0 to 2^32 - 1 (default: follows from the stream)")
    tile: int = option(1024, "largest side in pixels of the tiles of large pictures, a multiple of 64 from 256 up")

    def __post_init__(self) -> None:
        for name in ("steps", "seed", "tile"):
            value = getattr(self, name)
            if value is not None or name == "tile":
                check_whole(name, value)
        if self.steps is not None and self.steps not in (0, *STEPS):
            raise CodecError(f"steps is 0 (the base picture) or one of {STEPS}, not {self.steps!r}")
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise CodecError(f"seed is a number from 0 to 2^32 - 1, not {self.seed!r}")
        if self.tile % ALIGN or self.tile < 2 * OVERLAP:
            raise CodecError(f"tile is a multiple of {ALIGN} and at least {2 * OVERLAP}, not {self.tile!r}")
