"""Training pictures in ``webdataset`` shards: tar files that are read from end to end, local or by URL.

``compressai-gen shards pack FOLDER SHARDS`` packs a folder, ``… check SHARDS`` reads shards from end to end.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import io
import json
import re
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from compressai_gen.data.images import IMAGE_SUFFIXES, read_image
from compressai_gen.errors import DatasetError, ImageError
from compressai_gen.extras import extra
from compressai_gen.files import write_json
from compressai_gen.parsers.common import make
from compressai_gen.parsers.training import shards as arguments
from compressai_gen.programs import exit_status
from compressai_gen.train.members import FolderSource, Member, Slot

__all__ = ["INDEX", "ShardSource", "check", "is_shards", "pack"]

INDEX = "index.json"
"""File beside shards that :func:`pack` writes: of each shard its members, bytes and SHA-256."""

_BLOCK = 512
# Members of an epoch are shuffled among as many, which a worker keeps in memory still encoded, and shards among all.

_URL = re.compile(r"^(pipe:|[a-z][a-z0-9+.-]+://)")
_TAR_END = bytes(2 * tarfile.BLOCKSIZE)


def is_shards(data: str) -> bool:
    """Says whether a recipe's data are shards, by name: a URL, tar files, or ``{000..063}`` of them."""
    return bool(_URL.match(data)) or data.endswith((".tar", ".tar.gz", ".tgz")) or "{" in data


class ShardSource:
    """The pictures in shards. All other members are passed over.

    Shards are divided among slots, members of every shard where there are more slots than shards. An epoch's shards
    come in random order, and members are shuffled among 512.

    Args:
        shards: path or URL, with ``{000000..000063}`` for several, as ``webdataset`` reads it (``pipe:`` runs a
            program); or a folder of tar files.

    Raises:
        DatasetError: there are no shards, or a local one ends early.
        MissingExtraError: ``webdataset`` is not installed.
    """

    def __init__(self, shards: str | Path):
        self.name = str(shards)
        self.urls = _expand(self.name)
        self._open: Callable[[str], BinaryIO] = _webdataset("gopen").gopen
        self._counts = _counts_of(self.urls)
        for url in self.urls:
            if not _URL.match(url):
                _check_end(Path(url))

    def __str__(self) -> str:
        return self.name

    def __len__(self) -> int:
        return len(self.urls)

    def members(self, seed: int, epoch: int, slot: Slot, skip: int = 0) -> Iterator[Member]:
        """See :class:`~compressai_gen.train.members.MemberSource`."""
        order = np.random.default_rng((seed, epoch)).permutation(len(self.urls))
        whole_shards = len(self.urls) >= slot.of
        mine = order[slot.index :: slot.of] if whole_shards else order
        every = Slot(0, 1) if whole_shards else slot
        block, taken = divmod(skip, _BLOCK)
        stream = self._in_order(mine, every, block * _BLOCK)
        while buffer := [member for member, _ in zip(stream, range(_BLOCK), strict=False)]:
            shuffled = np.random.default_rng((seed, epoch, slot.index, block)).permutation(len(buffer))
            yield from (buffer[i] for i in shuffled[taken:])
            block, taken = block + 1, 0

    def _in_order(self, shards: Sequence[int], slot: Slot, skip: int) -> Iterator[Member]:
        position = 0  # within the shards, of all slots' members
        to_skip = skip
        for shard in shards:
            count = self._counts.get(self.urls[shard])
            if count is not None:
                own = len(range((slot.index - position) % slot.of, count, slot.of))
                if own <= to_skip:
                    to_skip, position = to_skip - own, position + count
                    continue
            for member in self._read(self.urls[shard], count):
                if position % slot.of == slot.index:
                    if to_skip:
                        to_skip -= 1
                    else:
                        yield member
                position += 1

    def _read(self, url: str, count: int | None) -> Iterator[Member]:
        """Yields a shard's pictures; those that are missing at its end, where the index tells, come without data."""
        seen = 0
        try:
            with self._open(url) as stream:
                for member in _pictures(stream):
                    yield member
                    seen += 1
        # A program or a server that delivers shards fails in ways of its own; to the training all mean the same.
        except Exception as error:
            tqdm.write(f"{url}: ends early ({error}); its other pictures are skipped", file=sys.stderr)
            if count is None:
                yield Member(url, b"")
        for i in range(seen, count or 0):
            yield Member(f"{url}#{i}", b"")


def _webdataset(module: str) -> Any:
    with extra("train"):
        return importlib.import_module(f"webdataset.{module}")


def _expand(shards: str) -> list[str]:
    _webdataset("gopen")
    if not _URL.match(shards) and Path(shards).is_dir():
        urls = sorted(str(path) for path in Path(shards).iterdir() if is_shards(path.name))
        if not urls:
            raise DatasetError(f"no shards (tar files) in {shards}: pack some with compressai-gen shards pack")
        return urls
    urls = _webdataset("shardlists").expand_urls(shards)
    if missing := [url for url in urls if not _URL.match(url) and not Path(url).is_file()]:
        raise DatasetError(f"no shard {missing[0]} ({len(missing)} of {len(urls)} are missing): check the path")
    return urls


def _counts_of(urls: Sequence[str]) -> dict[str, int]:
    """Members of each shard, of those that lie beside an index."""
    counts: dict[str, int] = {}
    indexes: dict[Path, dict[str, Any]] = {}
    for url in urls:
        if _URL.match(url):
            continue
        folder = Path(url).parent
        if folder not in indexes:
            indexes[folder] = _read_index(folder)
        entry = indexes[folder].get(Path(url).name)
        if entry is not None:
            counts[url] = entry["members"]
            if entry["bytes"] != (found := Path(url).stat().st_size):
                raise DatasetError(f"{url} has {found} bytes where {INDEX} says {entry['bytes']}: copy it again")
    return counts


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        return {}
    try:
        return {name: {k: entry[k] for k in ("members", "bytes", "sha256")} for name, entry in _json(path).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path} is no index of shards ({error}): pack the shards again, or delete it") from error


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _check_end(path: Path) -> None:
    """Refuses a tar file without the zeros that end one; compressed ones tell only when they are read."""
    if path.suffix != ".tar":
        return
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - len(_TAR_END)))
        if size % tarfile.BLOCKSIZE or file.read() != _TAR_END:
            raise DatasetError(f"{path} ends early, or is no tar file: copy it again, or leave it out")


def _pictures(stream: BinaryIO) -> Iterator[Member]:
    for entry in _webdataset("tariterators").tar_file_iterator(stream):
        if Path(entry["fname"]).suffix.lower() in IMAGE_SUFFIXES:
            yield Member(entry["fname"], entry["data"])


def pack(folder: Path, output: Path, shard_bytes: int = 2**28, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Packs the pictures below a folder into shards, in random order, as the files are.

    Files that are not readable pictures are left out, and named.

    Args:
        folder: searched recursively.
        output: folder of the shards, which must not exist yet; gets ``00000000.tar`` and so on, and the index. The same
            files and seed give the same bytes.
        shard_bytes: about how large a shard becomes.
        seed: of the order.

    Returns:
        The index: ``members``, ``bytes`` and ``sha256`` of each shard by file name.

    Raises:
        DatasetError: there are no readable pictures, or ``output`` exists.
        MissingExtraError: ``webdataset`` is not installed.
    """
    writer = _webdataset("writer")
    if output.exists():
        raise DatasetError(f"{output} exists: name a new folder for the shards")
    source = FolderSource(folder)
    staging = output.with_name(f".{output.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        index = _write_shards(writer, source, staging, shard_bytes, seed)
        if not index:
            raise DatasetError(f"none of the {len(source)} images in {folder} can be read")
        write_json(index, staging / INDEX)
        staging.rename(output)
    except OSError as error:
        raise DatasetError(f"cannot write {output}: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return index


def _write_shards(
    writer: Any, source: FolderSource, folder: Path, shard_bytes: int, seed: int
) -> dict[str, dict[str, Any]]:
    index: dict[str, dict[str, Any]] = {}
    tar, path, n_members = None, folder, 0

    def finish() -> None:
        if tar is not None:
            tar.close()
            index[path.name] = {"members": n_members, "bytes": path.stat().st_size, "sha256": _sha256(path)}

    for name, data in tqdm(source.members(seed, 0, Slot(0, 1)), "packing", total=len(source), unit="image"):
        if (fault := _fault(data)) is not None:
            tqdm.write(f"left out: {name}: {fault}", file=sys.stderr)
            continue
        if tar is None or path.stat().st_size >= shard_bytes:
            finish()
            path, n_members = folder / f"{len(index):08d}.tar", 0
            tar = writer.TarWriter(str(path), mtime=0)
        # webdataset takes what follows the first dot of a file's name for the kind of the member.
        stem, suffix = Path(name).with_suffix("").as_posix().replace(".", "_"), Path(name).suffix[1:].lower()
        tar.write({"__key__": stem, suffix: data})
        n_members += 1
    finish()
    return index


def _fault(data: bytes) -> str | None:
    """Says what is wrong with a picture; None for nothing."""
    try:
        read_image(io.BytesIO(data))
    except ImageError as error:
        return str(error).split(": ", 1)[-1]
    return None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def check(shards: str, decode: bool = True) -> tuple[int, list[str]]:
    """Reads shards from end to end.

    Args:
        shards: as of :class:`ShardSource`.
        decode: whether pictures are decoded, too.

    Returns:
        How many pictures are good, and a line for every fault: a picture that cannot be read, a shard that ends early
        or is not what the index says.
    """
    good, faults = 0, []
    opener = _webdataset("gopen").gopen
    urls = _expand(shards)
    for url in tqdm(urls, "checking", unit="shard"):
        seen = 0
        try:
            with opener(url) as stream:
                for name, data in _pictures(stream):
                    seen += 1
                    fault = _fault(data) if decode else None
                    if fault is None:
                        good += 1
                    else:
                        faults.append(f"{url}: {name}: {fault}")
        except Exception as error:  # see ShardSource._read
            faults.append(f"{url}: ends early ({error})")
        if not _URL.match(url):
            faults += _index_faults(Path(url), seen)
    return good, faults


def _index_faults(path: Path, n_members: int) -> list[str]:
    faults = []
    try:
        _check_end(path)
    except DatasetError as error:
        faults.append(str(error))
    entry = _read_index(path.parent).get(path.name)
    if entry is not None and (entry["members"] != n_members or entry["sha256"] != _sha256(path)):
        faults.append(f"{path}: is not what {INDEX} says ({entry['members']} pictures, SHA-256 {entry['sha256'][:8]}…)")
    return faults


def main(argv: list[str] | None = None, prog: str = "python -m compressai_gen.train.shards") -> int:
    """Runs the command line and returns its exit status."""
    args = make(arguments, prog).parse_args(argv)
    run = {"pack": _pack, "check": _check}[args.command]
    return exit_status(lambda: run(args), "interrupted; nothing was written")


def _pack(args: argparse.Namespace) -> None:
    if args.shard_mib < 1:
        raise DatasetError(f"--shard-mib is {args.shard_mib}; at least 1 is needed")
    index = pack(args.folder, args.shards, args.shard_mib * 2**20, args.seed)
    members, size = (sum(entry[k] for entry in index.values()) for k in ("members", "bytes"))
    print(f"{args.shards}: {members} pictures in {len(index)} shards, {size / 2**20:.1f} MiB")


def _check(args: argparse.Namespace) -> None:
    good, faults = check(args.shards, not args.no_decode)
    for fault in faults:
        print(fault)
    print(f"{args.shards}: {good} good pictures, {len(faults)} faults")
    if faults:
        raise DatasetError(f"{args.shards} has faults: training skips such pictures, and refuses shards that end early")


if __name__ == "__main__":
    sys.exit(main())
