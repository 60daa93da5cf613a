"""Generative image compression for CompressAI; importing this registers the codecs with CompressAI.

The import is light: encoding, decoding, models and the zoo, and PyTorch with them, are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from compressai_gen import _compressai
from compressai_gen._version import __version__

if TYPE_CHECKING:
    from compressai_gen import models, zoo
    from compressai_gen.coding import decode, encode

__all__ = ["__version__", "decode", "encode", "models", "zoo"]

_compressai.register_with_compressai()


def __getattr__(name: str) -> Any:
    if name in ("decode", "encode"):
        return getattr(importlib.import_module("compressai_gen.coding"), name)
    if name in ("models", "zoo"):
        return importlib.import_module(f"compressai_gen.{name}")
    raise AttributeError(f"module 'compressai_gen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
