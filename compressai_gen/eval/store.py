"""Rows that are already measured, so that a run that was stopped goes on and a second run computes nothing again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressai_gen.codecs import Codec, Encoded
from compressai_gen.data import pixel_hash
from compressai_gen.errors import CompressaiGenError
from compressai_gen.eval.environment import versions_of_figures
from compressai_gen.layers.precision import has_fast_bfloat16
from compressai_gen.resources import source_hash

__all__ = ["PROTOCOL_VERSION", "RowStore"]

PROTOCOL_VERSION = 1
"""Of ``eval/protocol.md``; a row measured under another one is measured again."""


class RowStore:
    """Rows kept in files, a JSON object a line, under everything that decides their figures.

    A key covers protocol, codec and its version, quality, picture, metrics and their code, libraries, device, its
    precision and threads: a changed weight file, library or picture is noticed. Codecs that state no version are always
    measured.

    Processes that share a run append to a file each and read those of all, so that any number of them goes on where any
    other number was stopped.

    Args:
        path: the file of the main process, beside which the others have theirs; made when the first row comes.
        metrics: names of what is measured.
        device: kind of device where models and metrics run.
        process: index of this process.
    """

    _unversioned: str | None = None

    def __init__(self, path: Path, metrics: list[str], device: str, process: int = 0) -> None:
        self.path = path if process == 0 else path.with_suffix(f".{process}{path.suffix}")
        of_metrics = sorted(metrics), source_hash("metrics"), versions_of_figures()
        of_machine = device, has_fast_bfloat16(torch.device(device)), torch.get_num_threads()
        self._setting = [PROTOCOL_VERSION, *of_metrics, *of_machine]
        self._rows: dict[str, dict[str, Any]] = {}
        for file in self.files(path):
            try:
                lines = file.read_text(encoding="utf-8").splitlines()
            except OSError as error:
                raise CompressaiGenError(f"cannot read {file}: {error}") from error
            for line in lines:
                try:
                    entry = json.loads(line)
                    self._rows[entry["key"]] = entry["row"]
                except (json.JSONDecodeError, KeyError, TypeError):
                    continue  # the line that a kill cut short

    @staticmethod
    def files(path: Path) -> list[Path]:
        """Return the files that the processes of earlier runs have left for `path`."""
        return sorted([*path.parent.glob(path.name), *path.parent.glob(f"{path.stem}.*{path.suffix}")])

    @staticmethod
    def picture(image: Tensor) -> list[Any]:
        """Return what stands for a picture in keys."""
        return [pixel_hash(image), list(image.shape)]

    def key(self, codec: Codec, quality: int, picture: list[Any]) -> str | None:
        """Return the key of a row, or None where the codec does not say what version it is."""
        version = getattr(codec, "version", None) or self._unversioned
        if version is None:
            return None
        parts = [*self._setting, codec.name, version, quality, *picture]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def get(self, key: str | None) -> dict[str, Any] | None:
        """Return the row of a key, or None."""
        return self._rows.get(key)

    def add(self, key: str | None, row: dict[str, Any], encoded: Encoded) -> None:
        """Keep a row, on disk at once; the streams behind it are not kept."""
        if key is None:
            return
        self._rows[key] = row
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                # A line of its own even behind one that a kill cut short.
                file.write("\n" * (file.tell() > 0) + json.dumps({"key": key, "row": row}))
        except OSError as error:
            raise CompressaiGenError(f"cannot write {self.path}: {error}") from error
