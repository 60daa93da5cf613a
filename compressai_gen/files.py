"""Writing a file whole or not at all, and the forms that files take."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import unicodedata
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressai_gen.errors import CompressaiGenError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "escape_markdown",
    "file_name",
    "file_names",
    "ignores_case",
    "list_files",
    "markdown_table",
    "one_name",
    "printable",
    "read_table",
    "replacing",
    "write_json",
    "write_table",
]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` when the block ends without an error.

    What a link leads to is replaced, not the link. Into what is no file, such as a FIFO or ``/dev/stdout``, the whole
    is written at the end. Permissions of a file that is replaced stay.

    Raises:
        CompressaiGenError: the folder cannot be written.
    """
    path = Path(path)
    try:
        try:
            state = path.stat()
        except FileNotFoundError:
            state = None
        if state is not None and not stat.S_ISREG(state.st_mode) and not stat.S_ISDIR(state.st_mode):
            with _pouring(path) as temporary:
                yield temporary
            return
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        # Short, as the name of the file may be as long as names can be, and its own, as several processes and threads
        # may write the same file at the same time.
        temporary = target.with_name(f".{os.getpid()}.{secrets.token_hex(6)}.partial")
        try:
            yield temporary
            if state is not None:
                temporary.chmod(stat.S_IMODE(state.st_mode))
            temporary.replace(target)
        finally:
            with suppress(OSError):
                temporary.unlink()
    except OSError as error:
        raise CompressaiGenError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def _pouring(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder, "whole")
        with Path(folder, "whole").open("rb") as whole, path.open("wb") as sink:
            shutil.copyfileobj(whole, sink)


def list_files(folder: str | Path, suffixes: Container[str]) -> list[Path]:
    """Return all files below a folder whose suffix is one of these in lower case, in the order of their paths.

    Linked folders are looked into, too, each at most once on the way down. Hidden files and folders are left out.
    Links that lead nowhere are listed, so that who reads them tells; pipes and devices are not.

    Raises:
        CompressaiGenError: a folder cannot be looked into.
    """
    folder, found = Path(folder), []

    def look(here: Path, above: frozenset[str]) -> None:
        real = os.path.realpath(here)
        if real in above:
            return
        with os.scandir(here) as entries:
            for entry in entries:
                path = here / entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    look(path, above | {real})
                elif path.suffix.lower() in suffixes and (
                    entry.is_file() or (entry.is_symlink() and not path.exists())
                ):
                    found.append(path)

    try:
        look(folder, frozenset())
    except OSError as error:
        raise CompressaiGenError(f"cannot look into {error.filename or folder}: {error.strerror or error}") from error
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def read_table(path: str | Path) -> pd.DataFrame:
    """Read what :func:`write_table` wrote: only empty fields are undefined, a codec may be called ``null``."""
    import pandas as pd

    return pd.read_csv(path, keep_default_na=False, na_values=[""])


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
    """Return `name` with every character that file systems dislike replaced, and short enough for all of them."""
    plain = re.sub(r"[^\w.+-]+", "_", name)
    return plain if len(plain.encode()) <= _LONGEST else f"{plain[: _LONGEST // 4]}-{_digest(name)}"


def file_names(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Return a file's name for each of some names, such that no two are one file on any file system.

    A name is its own file's where it can be; of names that would share a file, others than the first get some digits of
    their hash behind it.

    Args:
        names: in any order; the same ones get the same files.
        taken: names of files that stand for something else.
    """
    used = {one_name(name) for name in (*taken, *_DEVICES)}
    chosen: dict[str, str] = {}
    # Those that are their own file's name first, whatever stands beside them.
    for name in sorted(set(names), key=lambda name: (file_name(name) != name, name)):
        plain = file_name(name)
        free = bool(plain) and one_name(plain) not in used and not plain.startswith(".")
        chosen[name] = plain if free else f"{plain.lstrip('.')}-{_digest(name)}"
        used.add(one_name(chosen[name]))
    return chosen


def printable(name: str) -> str:
    """Return a file's name as text that any table can hold: what is no character or would break a line is escaped."""
    return "".join(
        f"\\x{ord(c) & 0xFF:02x}" if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in name
    )


def one_name(path: str) -> str:
    """Return what is the same of two paths that are one where a file system ignores case and the forms of accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def ignores_case(folder: str | Path) -> bool:
    """Return whether paths that differ in case are one on the file system of a folder, which need not be there yet."""
    for path in (here := Path(folder).absolute(), *here.parents):
        other = path.with_name(path.name.swapcase())
        if other != path and path.exists():
            return other.exists() and other.samefile(path)
    return False


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]


_LONGEST = 200
"""Bytes of a name: file systems have 255, and callers add a suffix."""

_DEVICES = ("con", "prn", "aux", "nul", *(f"{kind}{n}" for kind in ("com", "lpt") for n in range(1, 10)))
"""Names that are none of files on Windows."""
