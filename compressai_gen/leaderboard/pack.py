"""Making a submission: the evaluation's own run, whose streams are kept."""

from __future__ import annotations

import base64
import json
import secrets
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from compressai_gen.codecs import Codec, Encoded, check_qualities, decoder_reference, find_codec
from compressai_gen.data import ImageDataset, known_datasets, load_dataset, pixel_hash
from compressai_gen.errors import CodecError, CompressaiGenError, DatasetError, SubmissionError
from compressai_gen.eval.environment import describe_environment
from compressai_gen.eval.runner import Job, measure
from compressai_gen.eval.store import RowStore
from compressai_gen.files import write_json
from compressai_gen.leaderboard.submission import Submission, check_card, write_submission
from compressai_gen.metrics import DEFAULT_METRICS, ReferenceMetrics

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["pack", "read_card"]


def pack(
    name: str,
    dataset: str,
    card: Path,
    output: Path,
    qualities: Sequence[int] | None = None,
    data_root: str | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    device: str | torch.device = "cpu",
) -> Submission:
    """Encode and measure a whole dataset, and write a submission.

    What is done is kept beside `output` until the file is whole, so that a stopped run goes on.

    Args:
        name: of a codec.
        dataset: known name, or folder of images.
        card: TOML or JSON file with ``title``, ``author`` and ``links``.
        output: the file, by custom ``<codec>.cgensub``.
        qualities: of the codec; all by default.
        data_root: folder of datasets.
        metrics: what to claim.
        device: where models and metrics run.

    Raises:
        CompressaiGenError: codec, dataset or metric is not here, the card is malformed, the codec does not separate
            encoding from decoding by bytes, or the file cannot be written.
    """
    fields = read_card(card)
    codec = find_codec(name, device)
    chosen = check_qualities(codec, qualities or codec.qualities)
    pictures = load_dataset(dataset, data_root)
    if not pictures.definition and pictures.name in known_datasets():
        raise DatasetError(f"a folder of your own cannot be called '{pictures.name}': that name means fixed pictures")
    images = {image_name: pixel_hash(image) for image_name, image in pictures}
    claims = {
        "card": fields,
        "model": decoder_reference(codec),
        "dataset": pictures.name,
        "images": images,
        "qualities": chosen,
        "metrics": tuple(metrics),
        "environment": describe_environment(device),
    }
    _rehearse(claims, output)
    work = output.with_name(f".{output.name}.work")
    store = StreamStore(work, list(metrics), str(device))
    rows = measure([Job(codec, chosen)], pictures, ReferenceMetrics(metrics, device), store=store)
    submission = Submission(
        **claims,
        rows=rows[["quality", "image", "bpp", *metrics, "encode_s", "decode_s"]],
        streams=_streams(store, codec, chosen, pictures),
    )
    write_submission(submission, output)
    shutil.rmtree(work, ignore_errors=True)
    return submission


def _rehearse(claims: dict[str, Any], output: Path) -> None:
    """Write a submission of the same claims without figures and streams where the real one will be, and remove it.

    Raises:
        CompressaiGenError: it is refused, or cannot be written: so would the real one be, after hours.
    """
    if unusual := [quality for quality in claims["qualities"] if not isinstance(quality, int)]:
        raise SubmissionError(
            f"qualities of a submission are whole numbers, unlike {unusual[0]}: number those of the codec"
        )
    pairs = [(quality, image) for quality in claims["qualities"] for image in claims["images"]]
    columns = ("bpp", *claims["metrics"], "encode_s", "decode_s")
    rows = pd.DataFrame([{"quality": q, "image": image, **dict.fromkeys(columns, 0.0)} for q, image in pairs])
    rehearsal = output.with_name(f".{secrets.token_hex(8)}.rehearsal")
    try:
        write_submission(Submission(**claims, rows=rows, streams=dict.fromkeys(pairs, Encoded([b"x"]))), rehearsal)
    except CompressaiGenError as error:
        raise type(error)(str(error).replace(str(rehearsal), str(output))) from error
    finally:
        with suppress(OSError):
            rehearsal.unlink()


def read_card(path: Path) -> dict[str, Any]:
    """Read the card that the sender wrote; ``links`` may be left out.

    Raises:
        SubmissionError: the file cannot be read, or is not such a card.
    """
    parse = json.loads if path.suffix == ".json" else tomllib.loads
    try:
        card = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SubmissionError(f"the card {path} cannot be read: {error}") from error
    if isinstance(card, dict):
        card.setdefault("links", [])
    check_card(card)
    return card


def _streams(
    store: StreamStore, codec: Codec, qualities: Sequence[int], pictures: ImageDataset
) -> dict[tuple[int, str], Encoded]:
    found = {}
    for name, image in pictures:
        picture = store.picture(image)
        for quality in qualities:
            found[quality, name] = store.encoded(store.key(codec, quality, picture))
    if len({len(encoded.strings) for encoded in found.values()}) > 1:
        raise CodecError(f"{codec.name} makes now more, now fewer strings; a submission needs as many for every image")
    return {(quality, name): found[quality, name] for quality in qualities for name in pictures.image_names}


class StreamStore(RowStore):
    """Rows and the streams behind them, in a folder.

    A codec that states no version gets one that is new in each run, so that it is measured anew, as by the evaluation.
    """

    def __init__(self, folder: Path, metrics: list[str], device: str) -> None:
        super().__init__(folder / "rows.jsonl", metrics, device)
        self._folder = folder
        self._unversioned = secrets.token_hex(8)

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the row of a key whose stream is here, too, or None."""
        return super().get(key) if self._path(key).is_file() else None

    def add(self, key: str, row: dict[str, Any], encoded: Encoded) -> None:
        """Keep a row and its stream, on disk at once."""
        strings = [base64.b64encode(string).decode() for string in encoded.strings]
        try:
            write_json({"strings": strings, "shape": encoded.shape}, self._path(key))
        except TypeError as error:
            raise CodecError(
                f"the shape {encoded.shape!r} beside a stream does not consist of integers: {error}"
            ) from error
        super().add(key, row, encoded)

    def encoded(self, key: str) -> Encoded:
        """Return the stream of a key that has been added."""
        kept = json.loads(self._path(key).read_text(encoding="utf-8"))
        return Encoded([base64.b64decode(string) for string in kept["strings"]], kept["shape"])

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"
