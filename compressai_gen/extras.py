"""Optional dependencies: what a plain installation leaves out, and how to say so where it is missed.

Whatever needs packages of an extra imports them under :func:`extra`::

    with extra("train"):
        from accelerate import Accelerator
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from compressai_gen.errors import MissingExtraError

__all__ = ["EXTRAS", "extra"]

EXTRAS = ("train", "foundation", "study", "torchmetrics", "demo", "docs", "completion")
"""Names of the extras that ``pyproject.toml`` declares for users."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Turn the failed import of a third-party package into one line that says which extra to install.

    Args:
        name: the extra that brings what is imported in the block, one of :data:`EXTRAS`.

    Raises:
        MissingExtraError: a package that is imported in the block is not installed. A module of this package that is
            missing is a fault of ours, and stays a :class:`ModuleNotFoundError`.
    """
    if name not in EXTRAS:
        raise ValueError(f"{name!r} is none of the extras {', '.join(EXTRAS)}")
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "compressai_gen"):
            raise
        raise MissingExtraError(
            f"this needs {package}, which is not installed: pip install 'compressai-gen[{name}]'"
        ) from error
