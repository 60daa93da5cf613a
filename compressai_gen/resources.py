"""Where the files of ``zoo/`` and ``eval/`` lie: inside an installed package, or beside it in a source checkout.

And the user's cache, and the package's own source.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

from compressai_gen.errors import CompressaiGenError

__all__ = ["EVAL_DIR", "ZOO_DIR", "cache_dir", "go_offline", "is_offline", "source_hash"]

_OFFLINE = "COMPRESSAI_GEN_OFFLINE"
_PACKAGE = Path(__file__).resolve().parent


def _resource_dir(name: str) -> Path:
    installed = _PACKAGE / "resources" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


ZOO_DIR = _resource_dir("zoo")
EVAL_DIR = _resource_dir("eval")


def cache_dir() -> Path:
    """Return the folder for what can be had again: on Linux below ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Users without a home, as containers have, get one below the folder for temporary files.

    Raises:
        CompressaiGenError: that is another user's.
    """
    path = user_cache_path("compressai-gen", appauthor=False)
    if path.is_absolute():
        return path
    path = Path(tempfile.gettempdir(), f"compressai-gen-{os.getuid()}")
    path.mkdir(mode=0o700, exist_ok=True)
    if path.stat().st_uid != os.getuid():
        raise CompressaiGenError(f"{path} is another user's: set HOME or XDG_CACHE_HOME to a folder of your own")
    return path


def go_offline() -> None:
    """Have nothing fetched by this process and those that it starts."""
    os.environ[_OFFLINE] = "1"


def is_offline() -> bool:
    """Return whether nothing may be fetched: the variable ``COMPRESSAI_GEN_OFFLINE`` is 1."""
    return os.environ.get(_OFFLINE, "0") not in ("", "0")


def source_hash(*subpackages: str) -> str:
    """SHA-256 of the files that subpackages consist of, templates included."""
    source = hashlib.sha256()
    for name in subpackages:
        for path in sorted((_PACKAGE / name).rglob("*.*")):
            if path.is_file() and path.suffix != ".pyc":
                source.update(path.read_bytes())
    return source.hexdigest()
