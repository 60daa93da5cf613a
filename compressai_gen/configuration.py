"""Configurations of models: nested tables, plain JSON, that name the class of each part and all of its arguments.

A *part* is a table with a key ``class``, the name of a class that :func:`register_part` made known, and arguments of
its constructor. Keyword-only arguments are not configured: the model that the part belongs to gives them, such as the
number of channels that another part has.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from compressai_gen.errors import CodecError

__all__ = ["build", "register_part", "resolve"]

T = TypeVar("T", bound=type)

_PARTS: dict[str, type] = {}
_CLASS = "class"


def register_part(cls: T) -> T:
    """Makes a class known to configurations by its name; a decorator.

    Raises:
        CodecError: another class has that name.
    """
    if _PARTS.setdefault(cls.__name__, cls) is not cls:
        taken = _PARTS[cls.__name__].__module__
        raise CodecError(f"two parts are called {cls.__name__}, of {taken} and of {cls.__module__}: rename one")
    return cls


def resolve(
    defaults: Mapping[str, Any],
    given: Mapping[str, Any],
    optional: Collection[str] = (),
    where: str = "the configuration",
) -> dict[str, Any]:
    """Returns a configuration in which nothing is left to defaults.

    Args:
        defaults: names all keys that there are; parts with their class and, where they differ from the class's own,
            arguments.
        given: replaces values, table by table; a part of another class starts from that class's own arguments.
        optional: parts that may be left out, by None or, for TOML's sake, False, such as ``restorer.guidance``.
        where: which table this is, for messages.

    Raises:
        CodecError: a key or class is unknown, or an argument without a default is not given.
    """
    if not isinstance(given, Mapping):
        raise CodecError(f"{where} is a table of options, not {given!r}")
    base = dict(defaults)
    if _CLASS in defaults:
        name = given.get(_CLASS, defaults[_CLASS])
        base = {_CLASS: name} | _arguments(_class(name, where)) | (base if name == defaults[_CLASS] else {})
    if unknown := sorted(given.keys() - base.keys()):
        raise CodecError(f"{where} has no {', '.join(map(str, unknown))}; it has {', '.join(base)}")
    inside = "" if where == "the configuration" else f"{where}."
    resolved = {k: _value(default, given.get(k, default), optional, inside + k) for k, default in base.items()}
    if missing := [key for key, value in resolved.items() if value is inspect.Parameter.empty]:
        raise CodecError(f"{where} needs {', '.join(missing)}")
    return resolved


def _value(default: Any, value: Any, optional: Collection[str], where: str) -> Any:
    if where in optional and (value is None or value is False):
        return None
    if isinstance(default, Mapping):
        return resolve(default, value, optional, where)
    if isinstance(value, Mapping) and _CLASS in value:
        return resolve({_CLASS: value[_CLASS]}, value, optional, where)
    return list(value) if isinstance(value, tuple) else value


def _arguments(cls: type) -> dict[str, Any]:
    """The arguments of a class that are configured, with their defaults."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    }


def _class(name: Any, where: str) -> type:
    if name not in _PARTS:
        raise CodecError(f"{where}: no class {name!r}; known: {', '.join(sorted(_PARTS))}")
    return _PARTS[name]


def build(config: Mapping[str, Any] | None, **context: Any) -> Any:
    """Makes the part of a resolved configuration; None of None.

    Args:
        config: see :func:`resolve`.
        **context: what the model offers its parts; a part gets those of its keyword-only arguments.

    Raises:
        CodecError: the class wants something that the model does not offer, or refuses an argument.
    """
    if config is None:
        return None
    cls = _class(config[_CLASS], "the configuration")
    wanted = [n for n, p in inspect.signature(cls).parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    arguments = {key: value for key, value in config.items() if key != _CLASS}
    try:
        return cls(**arguments, **{name: context[name] for name in wanted if name in context})
    except (TypeError, ValueError) as error:
        raise CodecError(f"{config[_CLASS]} cannot be made of {arguments}: {error}") from error
