"""Accepting a submission: its streams are decoded and measured here, by the evaluation's own run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from compressai_gen.codecs import Codec, Encoded, decoder_reference, find_decoder, trained_metrics
from compressai_gen.data import ImageDataset, known_datasets, load_dataset, pixel_hash
from compressai_gen.errors import CodecError, DatasetError, SubmissionError, ZooError
from compressai_gen.eval import tables
from compressai_gen.eval.environment import describe_environment
from compressai_gen.eval.runner import Job, measure
from compressai_gen.eval.store import PROTOCOL_VERSION, RowStore
from compressai_gen.eval.trained import UNKNOWN, told
from compressai_gen.files import write_json
from compressai_gen.leaderboard.submission import (
    FORMAT,
    Submission,
    json_rows,
    parse_rows,
    read_json,
    read_submission,
    shape_numbers,
)
from compressai_gen.metrics import ReferenceMetrics
from compressai_gen.resources import cache_dir

__all__ = ["TOLERANCES", "Record", "read_record", "record_path", "verify"]

_DISTANCES = ("lpips", "lpips_complex", "lpips_central", "lpips_vgg", "dists")
TOLERANCES = {
    **{"bpp": 0.0, "psnr": 0.05, "psnr_central": 0.05, "ms_ssim": 0.001, "ssim": 0.001},
    **dict.fromkeys(_DISTANCES, 0.003),
    **{"ssimulacra2": 0.5, "grid": 0.5, "blocking": 0.5},
}
"""How far a figure of one image may lie from the one that is claimed; ``eval/protocol.md`` states them, too."""
_SMALLEST_SIDE = 16
"""Numbers of a shape may be as large as the picture's sides, or as this where the picture is smaller."""


def record_path(submission: Path) -> Path:
    """Return where the record of a submission's acceptance lies: beside it."""
    return submission.with_suffix(".accepted.json")


def verify(
    path: Path, folder: str | None = None, data_root: str | None = None, device: str | torch.device = "cpu"
) -> Path:
    """Decode and measure the streams of a submission and, if all its claims hold, write the record that says so.

    Rows that are measured are kept in the user's cache until there is a verdict, so that a stopped run goes on. They do
    not lie beside the submission, where its sender could have put them.

    Args:
        path: of the submission.
        folder: of the images, if the dataset is not a known one.
        data_root: folder of datasets.
        device: where models and metrics run.

    Returns:
        The path of the record.

    Raises:
        SubmissionError: the submission is refused, with the reason; nothing is written.
        CompressaiGenError: it cannot be verified here, because codec, dataset or metric is missing.
    """
    submission = read_submission(path)
    codec = find_decoder(submission.model, device)
    dataset = _dataset(submission, folder, data_root)
    kept = cache_dir() / "verify" / f"{submission.sha256}.jsonl"
    try:
        _check_decoder(submission, codec)
        _check_images(submission, dataset)
        job = Job(_Replay(codec, submission), submission.qualities)
        store = RowStore(kept, list(submission.metrics), str(device))
        measured = measure([job], dataset, ReferenceMetrics(submission.metrics, device), store=store)
        terms = {column: measured[column].tolist() for column in tables.terms_columns(measured)}
        measured = measured.drop(columns=["codec", "encode_s", *terms])
        _compare(submission, measured)
    except (CodecError, SubmissionError) as error:
        kept.unlink(missing_ok=True)
        raise SubmissionError(f"{path} is refused: {error}") from error
    record = {
        "format": FORMAT,
        "protocol": PROTOCOL_VERSION,
        "sha256": submission.sha256,
        "environment": describe_environment(device),
        "rows": json_rows(measured),
        "terms": json_rows(pd.DataFrame(terms)),
        "trained_on": told(trained_metrics(codec)),
    }
    write_json(record, record_path(path))
    kept.unlink(missing_ok=True)
    return record_path(path)


class Record(NamedTuple):
    """What was measured when a submission was accepted: its rows without ``encode_s`` but with terms, and where.

    ``trained_on`` are the metrics that the codec was trained to lower, as tables say it.
    """

    rows: pd.DataFrame
    environment: dict[str, Any]
    trained_on: str = UNKNOWN


def read_record(path: Path, submission: Submission) -> Record:
    """Read the record of the submission at `path`.

    Raises:
        SubmissionError: the record is damaged, of another protocol, or of another file.
    """
    record = record_path(path)
    try:
        fields = read_json(record.read_bytes())
        if fields.get("sha256") != submission.sha256:
            raise SubmissionError(f"it accepts another file than {path.name}: verify that again")
        rows = parse_rows(fields.get("rows"), submission.streams, ["bpp", *submission.metrics, "decode_s"])
        trained_on = fields.get("trained_on", UNKNOWN)
        if not isinstance(trained_on, str):
            raise SubmissionError("what its codec was trained on is no text")
        return Record(rows.assign(**_terms(fields, rows)), dict(fields.get("environment") or {}), trained_on)
    except OSError as error:
        raise SubmissionError(f"cannot read {record}: {error}") from error
    except SubmissionError as error:
        raise SubmissionError(f"the record {record} is refused: {error}") from error


def _terms(fields: dict[str, Any], rows: pd.DataFrame) -> dict[str, list[Any]]:
    """The columns of terms of a record's rows; older records have none."""
    columns = pd.DataFrame(fields.get("terms") or [])
    for name in columns:
        try:
            known = np.array(columns[name].dropna().tolist(), dtype=float)
        except (TypeError, ValueError):
            known = np.array(np.nan)
        if len(columns) != len(rows) or not np.isfinite(known).all():
            raise SubmissionError(f"its {name} are no numbers of each row: verify the submission again")
    return {name: columns[name].tolist() for name in tables.terms_columns(columns)}


class _Replay:
    """A codec whose encoder hands out the streams of a submission; :func:`measure` then decodes and measures those."""

    def __init__(self, codec: Codec, submission: Submission) -> None:
        self.name, self.qualities = codec.name, submission.qualities
        version = getattr(codec, "version", None)
        self.version = version and f"{submission.sha256} {version}"
        self._codec = codec
        self._streams = {
            (submission.images[image], quality): encoded for (quality, image), encoded in submission.streams.items()
        }

    def encode(self, image: Tensor, quality: int) -> Encoded:
        return self._streams[pixel_hash(image), quality]

    def decode(self, encoded: Encoded, quality: int) -> Tensor:
        try:
            return self._codec.decode(encoded, quality)
        except ZooError:  # of this installation, not of the stream
            raise
        # A decoder may fail on a forged stream in any way.
        except Exception as error:
            raise SubmissionError(f"a stream of quality {quality} does not decode: {error}") from error


def _check_decoder(submission: Submission, codec: Codec) -> None:
    here = decoder_reference(codec)
    if submission.model != here:
        raise SubmissionError(
            f"it was made with {_text(submission.model)}, but {_text(here)} is what decodes here: install that, or "
            "make the submission again with this"
        )
    if not set(submission.qualities) <= set(codec.qualities):
        raise SubmissionError(f"it has qualities {submission.qualities}, but {codec.name} has {codec.qualities}")
    if unknown := set(submission.metrics) - set(TOLERANCES):
        raise SubmissionError(f"it claims {min(unknown)!r}, which is no metric of the protocol")


def _text(reference: dict[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in reference.items())


def _dataset(submission: Submission, folder: str | None, data_root: str | None) -> ImageDataset:
    # A name that the submission chose is never taken as a path.
    if submission.dataset in known_datasets():
        if folder is not None:
            raise DatasetError(f"the submission is of the known dataset '{submission.dataset}'; leave --dataset out")
        return load_dataset(submission.dataset, data_root)
    if folder is None:
        raise DatasetError(f"'{submission.dataset}' is not a known dataset; name the folder of its images by --dataset")
    return load_dataset(folder, data_root)


def _check_images(submission: Submission, dataset: ImageDataset) -> None:
    """Every image of the dataset is there, and the shapes beside its streams carry no hidden bits."""
    if tuple(submission.images) != dataset.image_names:
        apart = sorted(set(submission.images) ^ set(dataset.image_names)) or ["their order"]
        raise SubmissionError(f"it is not of all {len(dataset)} images of {dataset.name}; {apart[0]!r} differs")
    shapes = {}
    for name, image in dataset:
        if submission.images[name] != pixel_hash(image):
            raise SubmissionError(f"its image {name!r} has other pixels than that of {dataset.name}")
        size = tuple(image.shape[1:])
        for quality in submission.qualities:
            shape = submission.streams[quality, name].shape
            if max(shape_numbers(shape), default=0) > max(*size, _SMALLEST_SIDE):
                raise SubmissionError(f"the shape {shape} of {name!r} at quality {quality} is larger than the picture")
            if shapes.setdefault((quality, size), shape) != shape:
                raise SubmissionError(f"at quality {quality}, pictures of the same size have different shapes")


def _compare(submission: Submission, measured: pd.DataFrame) -> None:
    """Refuse figures that lie further from the measured ones than the protocol allows."""
    wrong = []
    for column in ("bpp", *submission.metrics):
        claims, found = submission.rows[column], measured[column]
        apart = ~((claims == found) | ((claims - found).abs() <= TOLERANCES[column]) | (claims.isna() & found.isna()))
        if apart.any():
            i = apart.idxmax()
            quality, image = measured.loc[i, ["quality", "image"]]
            wrong.append(
                f"{apart.sum()} of {len(apart)} figures of {column}, such as that of {image} at quality {quality} "
                f"(claimed {claims[i]:.6g}, measured {found[i]:.6g}, tolerance {TOLERANCES[column]:g})"
            )
    if wrong:
        raise SubmissionError(f"these do not reproduce: {'; '.join(wrong)}")
