"""Where the files of ``zoo/`` and ``eval/`` lie: inside an installed package, or beside it in a source checkout.

And the user's cache.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["EVAL_DIR", "ZOO_DIR", "cache_dir"]

_PACKAGE = Path(__file__).resolve().parent


def _resource_dir(name: str) -> Path:
    installed = _PACKAGE / "resources" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


ZOO_DIR = _resource_dir("zoo")
EVAL_DIR = _resource_dir("eval")


def cache_dir() -> Path:
    """Folder for what can be had again: ``$XDG_CACHE_HOME/compressai-gen``, by default below ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "compressai-gen"
