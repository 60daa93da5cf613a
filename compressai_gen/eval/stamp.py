"""What a run wrote last and from what, so that a second one does not typeset, plot and embed the same again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressai_gen.files import write_json
from compressai_gen.resources import source_hash

__all__ = ["Stamp"]


class Stamp:
    """Says whether the files in a folder are those that the inputs at hand would make.

    They are not if one of them was changed, moved or removed since, if the inputs are others, or if the code that makes
    files of them is.

    Args:
        path: where the stamp lies, among the files.
        inputs: all that decides the files, as JSON data.
    """

    def __init__(self, path: Path, inputs: Any) -> None:
        self._path = path
        text = json.dumps([source_hash("eval", "metrics"), inputs], sort_keys=True)
        self._inputs = hashlib.sha256(text.encode()).hexdigest()

    def is_current(self) -> bool:
        """Return whether nothing needs to be written."""
        inputs, files = self._read()
        return inputs == self._inputs and files.items() <= self._states().items()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Note the files that are written meanwhile, and remove what the last run wrote and this one does not.

        After an error or a kill, none of them counts as current.
        """
        last = self.outdate()
        before = self._states()
        yield
        after = self._states()
        files = {name: state for name, state in after.items() if before.get(name) != state}
        for name, state in last.items():
            if after.get(name) == state:
                (self._path.parent / name).unlink()
        write_json({"inputs": self._inputs, "files": files}, self._path)

    def outdate(self) -> dict[str, list[int]]:
        """Have nothing count as current, and return the files of the last run."""
        _, files = self._read()
        if files:
            write_json({"inputs": None, "files": files}, self._path)
        else:
            self._path.unlink(missing_ok=True)
        return files

    def _read(self) -> tuple[str | None, dict[str, list[int]]]:
        """Inputs and files of the last run; none where there is no stamp, or something else."""
        try:
            stamp = json.loads(self._path.read_text(encoding="utf-8"))
            return stamp["inputs"], dict(stamp["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return None, {}

    def _states(self) -> dict[str, list[int]]:
        if not self._path.parent.is_dir():
            return {}
        stats = {file.name: file.stat() for file in self._path.parent.iterdir() if file.is_file()}
        return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items() if not name.startswith(".")}
