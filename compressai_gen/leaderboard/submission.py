"""The file of a submission: streams of a whole dataset, and what is claimed about them.

It is a zip file whose members are stored, not deflated, because streams do not deflate; nothing in it can inflate:

===============================  =====================================================
``submission.json``              everything but the streams
``streams/<quality>/<image>.n``  string number n, from 0, of an image at a quality
===============================  =====================================================

Whoever sends a submission may send anything, so reading trusts nothing: the file is read once, never unpacked to disk,
and refused unless it is exactly of this form.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import stat
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NoReturn
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import pandas as pd

from compressai_gen.codecs import Encoded
from compressai_gen.errors import SubmissionError
from compressai_gen.eval.store import PROTOCOL_VERSION
from compressai_gen.files import replacing

__all__ = [
    "MAX_BYTES",
    "Submission",
    "check_card",
    "json_rows",
    "parse_rows",
    "read_json",
    "read_submission",
    "shape_numbers",
    "write_submission",
]

FORMAT = 1
MAX_BYTES = 256 * 2**20
"""Of a submission: 4,000 pictures of two megapixels at 0.25 bpp."""
MAX_JSON_BYTES = 16 * 2**20
MAX_MEMBERS = 50_000
MAX_DIRECTORY_BYTES = 16 * 2**20
MAX_STRINGS = 8
MAX_SHAPE_NUMBERS = 8
MAX_TEXT = 200
MAX_LINKS = 5

_MANIFEST = "submission.json"
_END = struct.Struct("<4s4H2LH")
"""The record that ends a zip file: signature, two disks, entries on this one and in all, size and offset of the
directory, length of a comment."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LINK = re.compile(r"https?://[\w.-]+(:\d+)?(/\S*)?")


@dataclass(frozen=True)
class Submission:
    """Streams of every image of a dataset at every quality, and what their sender measured.

    Attributes:
        card: ``title``, ``author`` and ``links`` (to a paper or code), as the sender gives them.
        model: what :func:`~compressai_gen.codecs.decoder_reference` returned.
        dataset: its name.
        images: SHA-256 of the pixels of each picture by name, in the dataset's order.
        qualities: of the codec, in its order.
        metrics: names of the columns of ``rows`` that claim a metric.
        environment: of the sender's run.
        rows: ``quality, image, bpp``, the metrics, ``encode_s, decode_s``; qualities outermost.
        streams: by (quality, image).
        sha256: of the file; empty before there is one.
    """

    card: dict[str, Any]
    model: dict[str, str]
    dataset: str
    images: dict[str, str]
    qualities: tuple[int, ...]
    metrics: tuple[str, ...]
    environment: dict[str, Any]
    rows: pd.DataFrame
    streams: dict[tuple[int, str], Encoded]
    sha256: str = ""


def write_submission(submission: Submission, path: Path) -> None:
    """Write the file: the same submission gives the same bytes.

    Raises:
        SubmissionError: what is written could not be read back, for one of the reasons of :func:`read_submission`.
    """
    encoded = submission.streams.values()
    manifest = {
        "format": FORMAT,
        "protocol": PROTOCOL_VERSION,
        "card": submission.card,
        "model": submission.model,
        "dataset": submission.dataset,
        "images": submission.images,
        "qualities": submission.qualities,
        "metrics": submission.metrics,
        "environment": submission.environment,
        "strings": max(len(stream.strings) for stream in encoded),
        "shapes": [stream.shape for stream in encoded],
        "rows": json_rows(submission.rows),
    }
    with replacing(path) as temporary:
        with ZipFile(temporary, "w") as archive:
            _add(archive, _MANIFEST, json.dumps(manifest, indent=1, allow_nan=False).encode())
            for (quality, image), stream in submission.streams.items():
                for n, string in enumerate(stream.strings):
                    _add(archive, _stream_name(quality, image, n), string)
        read_submission(temporary, path)


def _add(archive: ZipFile, name: str, data: bytes) -> None:
    info = ZipInfo(name)  # of 1980, stored
    info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16  # the same bytes from every system
    archive.writestr(info, data)


def _stream_name(quality: int, image: str, n: int) -> str:
    return f"streams/{quality}/{image}.{n}"


def read_submission(path: Path, name: Path | None = None) -> Submission:
    """Read and check a submission; whether it reproduces is for :mod:`compressai_gen.leaderboard.verify` to say.

    Args:
        path: of the file.
        name: what errors call it, in place of its path.

    Raises:
        SubmissionError: the file is missing, too large, truncated, or anything but a submission of this form.
    """
    try:
        if not path.is_file():
            raise SubmissionError(f"{path}: no such file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)  # once: what was checked and what is used are the same bytes
    except OSError as error:
        raise SubmissionError(f"cannot read {path}: {error}") from error
    try:
        members = _members(data)
        fields = _fields(read_json(members.pop(_MANIFEST, b"")))
        streams = _streams(members, **fields)
    except SubmissionError as error:
        raise SubmissionError(f"{name or path} is refused: {error}") from error
    # Of hostile input, zipfile and the constructors below raise errors of many kinds; they all mean the same.
    except Exception as error:
        raise SubmissionError(f"{name or path} is refused: it is damaged ({type(error).__name__}: {error})") from error
    del fields["strings"], fields["shapes"]
    return Submission(**fields, streams=streams, sha256=hashlib.sha256(data).hexdigest())


def _refuse(reason: str) -> NoReturn:
    raise SubmissionError(reason)


def _members(data: bytes) -> dict[str, bytes]:
    if len(data) > MAX_BYTES:
        _refuse(f"it is larger than {MAX_BYTES >> 20} MiB")
    _check_directory(data)
    with ZipFile(io.BytesIO(data)) as archive:
        infos = archive.infolist()
        for name, count in Counter(info.filename for info in infos).items():
            if count > 1:
                _refuse(f"it holds {name!r} {count} times")
        for info in infos:
            _check_member(info)
        if sum(info.file_size for info in infos) > len(data):
            _refuse("its files are larger together than the archive, so they overlap")
        return {info.filename: archive.read(info) for info in infos}


def _check_directory(data: bytes) -> None:
    """Look at the end before zipfile does, which reads a directory of any length into memory."""
    if len(data) < _END.size or data[-_END.size :][:4] != b"PK\5\6":
        _refuse("it is truncated, or not a file that 'pack' made")
    _, _, _, _, entries, size, offset, _ = _END.unpack(data[-_END.size :])
    if entries > MAX_MEMBERS or size > MAX_DIRECTORY_BYTES:
        _refuse(f"it claims {entries} files in a directory of {size} bytes; {MAX_MEMBERS} files are allowed")
    # A 64-bit directory would stand between, and may claim other numbers.
    if offset + size + _END.size != len(data) or data[-_END.size - 20 :][:4] == b"PK\6\7":
        _refuse("it is truncated, or bytes were added to it")


def _check_member(info: ZipInfo) -> None:
    name = info.filename
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        _refuse(f"the path {name!r} leads out of the archive")
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        _refuse(f"{name!r} is a link or a special file")
    if info.compress_type != ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
        _refuse(f"{name!r} is compressed or encrypted; files must be stored as they are")
    if name == _MANIFEST and info.file_size > MAX_JSON_BYTES:
        _refuse(f"{name} is larger than {MAX_JSON_BYTES >> 20} MiB")


def read_json(data: bytes) -> dict[str, Any]:
    """Parse an object of standard JSON.

    Raises:
        SubmissionError: it is anything else, or not of this version's format and protocol.
    """
    try:
        parsed = json.loads(data, parse_constant=lambda name: _refuse(f"its JSON holds {name}"))
    except (ValueError, RecursionError) as error:
        raise SubmissionError(f"its JSON is missing or damaged ({error})") from error
    if not isinstance(parsed, dict):
        _refuse("its JSON is not an object")
    found = parsed.pop("format", None), parsed.pop("protocol", None)
    if found != (FORMAT, PROTOCOL_VERSION):
        _refuse(
            f"it is of format {found[0]} and protocol {found[1]}; this version of compressai-gen reads format {FORMAT} "
            f"and protocol {PROTOCOL_VERSION}: make it again with this version"
        )
    return parsed


def _fields(manifest: dict[str, Any]) -> dict[str, Any]:
    """Check everything in the manifest by itself; returns its fields in the types of :class:`Submission`."""
    expected = {"card", "model", "dataset", "images", "qualities", "metrics"}
    expected |= {"environment", "strings", "shapes", "rows"}
    if set(manifest) != expected:
        _refuse(f"{_MANIFEST} must have {', '.join(sorted(expected))}, not {', '.join(sorted(manifest))[:MAX_TEXT]}")
    check_card(manifest["card"])
    if not _is_texts(manifest["model"]) or "name" not in manifest["model"]:
        _refuse("'model' must name a codec")
    if not _is_text(manifest["dataset"]):
        _refuse("'dataset' must be a name")
    images, qualities, metrics = manifest["images"], manifest["qualities"], manifest["metrics"]
    if not _is_texts(images) or not images or not all(_SHA256.fullmatch(value) for value in images.values()):
        _refuse("'images' must give the SHA-256 of each picture's pixels by its name")
    if not _is_list(qualities, int) or not qualities or len(set(qualities)) < len(qualities):
        _refuse("'qualities' must be different integers")
    if not _is_list(metrics, str) or not metrics or len(set(metrics)) < len(metrics):
        _refuse("'metrics' must be different names")
    if not isinstance(manifest["environment"], dict):
        _refuse("'environment' must be an object")
    if type(manifest["strings"]) is not int or not 1 <= manifest["strings"] <= MAX_STRINGS:
        _refuse(f"'strings' must be the number of strings of each stream, 1 to {MAX_STRINGS}")
    if len(images) * len(qualities) * manifest["strings"] > MAX_MEMBERS:
        _refuse(f"it claims more than {MAX_MEMBERS} streams")
    pairs = list(product(qualities, images))
    if not isinstance(manifest["shapes"], list) or len(manifest["shapes"]) != len(pairs):
        _refuse(f"it has not a shape for each of {len(pairs)} streams")
    shapes = [_checked_shape(shape) for shape in manifest["shapes"]]
    rows = parse_rows(manifest["rows"], pairs, ["bpp", *metrics, "encode_s", "decode_s"])
    times = rows[["encode_s", "decode_s"]]
    if not (times.ge(0) & times.lt(math.inf)).all(axis=None):
        _refuse("one of its times is no number of seconds")
    return manifest | {"qualities": tuple(qualities), "metrics": tuple(metrics), "shapes": shapes, "rows": rows}


def check_card(card: Any) -> None:
    """Check what the sender says about himself and his codec.

    Raises:
        SubmissionError: the card has not a short printable ``title`` and ``author``, and a list ``links`` of web
            addresses.
    """
    if not isinstance(card, dict) or set(card) != {"title", "author", "links"}:
        _refuse("the card must have a title, an author and a list of links, and nothing else")
    if not _is_text(card["title"]) or not _is_text(card["author"]):
        _refuse(f"title and author of the card must be printable texts of 1 to {MAX_TEXT} characters")
    links = card["links"]
    if not isinstance(links, list) or len(links) > MAX_LINKS or not all(_is_link(link) for link in links):
        _refuse(f"links of the card must be at most {MAX_LINKS} addresses that begin with https:// or http://")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= MAX_TEXT and value.isprintable()


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_text(text) for item in value.items() for text in item)


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in value)  # True is no integer


def _is_link(value: Any) -> bool:
    return _is_text(value) and bool(_LINK.fullmatch(value))


def _checked_shape(shape: Any) -> Any:
    """Nested lists of integers as nested tuples, which codecs return."""
    if len(list(shape_numbers(shape))) > MAX_SHAPE_NUMBERS:
        _refuse(f"a shape has more than {MAX_SHAPE_NUMBERS} numbers")
    return _tuples(shape)


def shape_numbers(shape: Any) -> Iterator[int]:
    """Yield every number of a shape.

    Raises:
        SubmissionError: something in it is not an integer from 0.
    """
    if isinstance(shape, list | tuple):
        for item in shape:
            if item in ([], ()):
                _refuse("a shape has something empty in it, which would say something beside the streams")
            yield from shape_numbers(item)
    elif type(shape) is int and shape >= 0:
        yield shape
    else:
        _refuse("a shape must consist of integers from 0")


def _tuples(shape: Any) -> Any:
    return tuple(_tuples(item) for item in shape) if isinstance(shape, list) else shape


def _streams(
    members: dict[str, bytes],
    images: dict[str, str],
    qualities: tuple[int, ...],
    strings: int,
    shapes: list[Any],
    **_: Any,
) -> dict[tuple[int, str], Encoded]:
    pairs = list(product(qualities, images))
    names = [[_stream_name(*pair, n) for n in range(strings)] for pair in pairs]
    expected = {name for group in names for name in group}
    if missing := expected - members.keys():
        _refuse(f"it lacks {len(missing)} of {len(expected)} streams, such as {min(missing)!r}")
    if unexpected := members.keys() - expected:
        _refuse(f"it holds {min(unexpected)!r}, which is no stream of an image and quality that it names")
    return {
        pair: Encoded([members[name] for name in group], shape)
        for pair, group, shape in zip(pairs, names, shapes, strict=True)
    }


def json_rows(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as JSON data, which has no NaN (here null) and no infinity (here ``"inf"``)."""
    plain = rows.astype(object).where(rows.notna(), None)
    return plain.replace(math.inf, "inf").to_dict("records")


def parse_rows(rows: Any, pairs: Iterable[tuple[int, str]], columns: list[str]) -> pd.DataFrame:
    """Return what :func:`json_rows` made, with the columns ``quality``, ``image`` and these.

    Raises:
        SubmissionError: there is not one row for each pair, in this order, with a number in each column.
    """
    pairs = list(pairs)
    expected = {"quality", "image", *columns}
    if not isinstance(rows, list) or not all(isinstance(row, dict) and set(row) == expected for row in rows):
        _refuse(f"each of its rows must have {', '.join(sorted(expected))}")
    if [(row["quality"], row["image"]) for row in rows] != pairs:
        _refuse(f"it has not one row for each of {len(pairs)} pairs of quality and image, in this order")
    figures = [(*pair, *(_number(row[column]) for column in columns)) for pair, row in zip(pairs, rows, strict=True)]
    return pd.DataFrame(figures, columns=["quality", "image", *columns])


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if type(value) not in (int, float) and value != "inf":
        _refuse("one of its figures is not a number")
    return float(value)
