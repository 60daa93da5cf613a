"""The codecs, one paper a file and its specification beside it; a class is imported when it is first used.

Its import registers it with CompressAI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compressai_gen.specs import own_specs

if TYPE_CHECKING:
    from compressai_gen.models.cgdm import CGDM
    from compressai_gen.models.mridc import MRIDC

__all__ = ["CGDM", "MRIDC"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from compressai_gen._compressai import register_with_compressai

    (spec,) = [spec for spec in own_specs().values() if spec.model.endswith(f":{name}")]
    cls = spec.load()
    register_with_compressai()
    return cls


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
