"""The manifest of the zoo: the weights of each model, by tag, and how they are found.

``manifest.json`` is keyed ``name.tag``, in the order of publication. An entry states

===================  ==================================================================================================
model, class         name of the codec and of its class
config               the class' resolved configuration, with all that an encoder and a decoder need beside the weights
trained_on           what the weights were trained to lower
fingerprint          of the coding part; see :mod:`compressai_gen.roles`
coding, networks     the two files: ``file``, ``sha256``, ``bytes`` and, where they are not in the package, ``url``
version              of compressai-gen that had them first
card, record         files that tell people and programs how they came; ``recipe`` is the last one that trained them
license              of the weights
===================  ==================================================================================================

An entry without files is of weights that this version no longer has, so that their streams are told what they need.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compressai_gen import resources
from compressai_gen.errors import ZooError
from compressai_gen.specs import specs

__all__ = ["Entry", "entry_of", "find_fingerprint", "find_weights", "folder_of", "read_manifest", "read_record", "tags"]

Entry = dict[str, Any]

_CODING = "coding"
# Of compressai_gen.roles.ROLES, which takes PyTorch to import; what is only looked up here need not wait for it.


def folder_of(model: str) -> Path:
    """Returns the folder of a codec's weights."""
    spec = specs().get(model)
    return resources.ZOO_DIR if spec is None or spec.zoo is None else Path(spec.zoo)


def read_manifest() -> dict[str, Entry]:
    """Returns the entries of all codecs by ``name.tag``, the oldest of each codec first.

    Raises:
        ZooError: a manifest is missing or not JSON.
    """
    entries = _read_json(resources.ZOO_DIR / "manifest.json", "zoo manifest")
    for spec in specs().values():
        if spec.zoo is not None and (path := Path(spec.zoo) / "manifest.json").exists():
            entries |= {n: e for n, e in _read_json(path, "zoo manifest").items() if e["model"] == spec.name}
    return entries


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ZooError(f"no {what} at {path}: install compressai-gen again") from error
    except json.JSONDecodeError as error:
        raise ZooError(f"the {what} {path} is damaged ({error}): install compressai-gen again") from error


def tags(model: str) -> list[str]:
    """Names of the weights of a model that this version has, the oldest first."""
    return [name for name, entry in read_manifest().items() if entry["model"] == model and _CODING in entry]


def find_weights(model: str, weights: str | None = None) -> str:
    """Returns the name of a model's newest weights, or checks the name of given ones.

    Raises:
        ZooError: there are no such weights, or they are another model's.
    """
    known = tags(model)
    if weights is None:
        if not known:
            raise ZooError(f"the zoo has no weights of {model}: pass pretrained=False, or train them first")
        return known[-1]
    if weights not in known:
        entry = read_manifest().get(weights, {})
        if entry.get("model") == model:
            raise ZooError(_gone(weights, entry))
        raise ZooError(f"{model} has no weights {weights!r}; it has {', '.join(known) or 'none'}")
    return weights


def entry_of(model: str, weights: str | None = None) -> Entry:
    """Returns the manifest's entry of a model's newest or given weights; errors as of :func:`find_weights`."""
    return read_manifest()[find_weights(model, weights)]


def find_fingerprint(model: str, start: str) -> str:
    """Returns the name of a model's newest weights whose coding part's fingerprint begins as given.

    Raises:
        ZooError: this version has none.
    """
    manifest = read_manifest()
    fitting = [n for n, entry in manifest.items() if entry["model"] == model and entry["fingerprint"].startswith(start)]
    if not fitting:
        here = ", ".join(f"{name} {manifest[name]['fingerprint'][:8]}…" for name in tags(model)) or "none"
        raise ZooError(
            f"it needs {model} weights whose coding part is {start[:8]}…; this version has {here}: install the version "
            "of compressai-gen that it was made with, or give the model that made it"
        )
    return find_weights(model, fitting[-1])


def _gone(name: str, entry: Entry) -> str:
    return f"it needs the weights {name}, which this version no longer has: install compressai-gen {entry['version']}"


def read_record(name: str) -> dict[str, Any]:
    """Returns how weights were trained and validated, as training wrote it.

    Raises:
        ZooError: the record is missing or not JSON.
    """
    entry = read_manifest()[name]
    return _read_json(folder_of(entry["model"]) / entry["record"], "record")
