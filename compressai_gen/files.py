"""Writing a file whole or not at all, and the forms that files take."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressai_gen.errors import CompressaiGenError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["escape_markdown", "file_name", "markdown_table", "replacing", "write_json", "write_table"]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` when the block ends without an error.

    Raises:
        CompressaiGenError: the folder cannot be written.
    """
    path = Path(path)
    # The processes of one run may write the same file at the same time.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise CompressaiGenError(f"cannot write {path}: {error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as CSV with six significant digits; undefined values are empty fields."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")


def markdown_table(table: pd.DataFrame) -> str:
    """Return a table as Markdown; its cells are taken as Markdown, too."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def escape_markdown(text: str) -> str:
    """Return Markdown that shows the text, whatever it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", text)


def write_json(data: Any, path: str | Path) -> None:
    """Write standard JSON, which has no NaN."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def file_name(name: str) -> str:
    """Return `name` with every character that file systems dislike replaced."""
    return re.sub(r"[^\w.+-]+", "_", name)
