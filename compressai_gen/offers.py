"""What installed packages offer to this one by entry points, read package by package.

One whose metadata are damaged offers nothing and harms no other.
"""

from __future__ import annotations

from importlib.metadata import Distribution, distributions
from typing import NamedTuple

from entrypoints import BadEntryPoint, EntryPoint

__all__ = ["Offer", "offers"]


class Offer(NamedTuple):
    """An entry point, and the package that it is of, with its version."""

    entry_point: EntryPoint
    package: str


def offers(group: str) -> dict[str, Offer]:
    """Returns what is offered to a group by name; of two packages that offer the same name, the first one's."""
    found: dict[str, Offer] = {}
    for distribution in distributions():
        try:
            text = distribution.read_text("entry_points.txt") or ""
            of_package = [Offer(entry, _package_name(distribution, entry)) for entry in _entry_points(text, group)]
        except Exception:  # of any kind: files that are no text, lack a name or may not be read
            continue
        for offer in of_package:
            found.setdefault(offer.entry_point.name, offer)
    return found


def _entry_points(text: str, group: str) -> list[EntryPoint]:
    """Returns those of a group; lines of no form are passed over, as a parser of the whole file would not."""
    found, of_group = [], False
    for line in map(str.strip, text.splitlines()):
        name, equals, value = (part.strip() for part in line.partition("="))
        if line.startswith("[") and line.endswith("]"):
            of_group = line[1:-1].strip() == group
        elif of_group and name and equals and not line.startswith(("#", ";")):
            try:
                found.append(EntryPoint.from_string(value, name))
            except BadEntryPoint:
                continue
    return found


def _package_name(distribution: Distribution, entry_point: EntryPoint) -> str:
    try:
        metadata = distribution.metadata
        return f"{metadata['Name'] or entry_point.module_name} {metadata['Version'] or ''}".strip()
    except Exception:  # as above
        return str(entry_point.module_name)
