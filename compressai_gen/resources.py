"""Where the files of ``zoo/`` and ``eval/`` lie: inside an installed package, or beside it in a source checkout."""

from __future__ import annotations

from pathlib import Path

__all__ = ["EVAL_DIR", "ZOO_DIR"]

_PACKAGE = Path(__file__).resolve().parent


def _resource_dir(name: str) -> Path:
    installed = _PACKAGE / "resources" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


ZOO_DIR = _resource_dir("zoo")
EVAL_DIR = _resource_dir("eval")
