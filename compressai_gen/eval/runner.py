"""Measuring: every codec at every quality on every image."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd
from torch import Tensor
from tqdm import tqdm

from compressai_gen.codecs import Codec
from compressai_gen.data import ImageDataset
from compressai_gen.errors import ImageError
from compressai_gen.eval.contract import Coded, Coder
from compressai_gen.eval.features import FeatureStore
from compressai_gen.eval.pictures import KeptPictures
from compressai_gen.eval.processes import Processes
from compressai_gen.eval.store import RowStore
from compressai_gen.metrics import ReferenceMetrics

__all__ = ["Job", "measure"]


class Job(NamedTuple):
    """A codec and the qualities to run it at."""

    codec: Codec
    qualities: tuple[float, ...]


def measure(
    jobs: Sequence[Job],
    dataset: ImageDataset,
    metrics: ReferenceMetrics,
    pictures: KeptPictures | None = None,
    progress: bool = True,
    store: RowStore | None = None,
    features: FeatureStore | None = None,
    processes: Processes = Processes(),  # noqa: B008  (immutable)
    unreadable: dict[str, str] | None = None,
) -> pd.DataFrame:
    """Encode to bytes, decode from them, and measure the 8-bit result.

    Images are the outermost loop: one picture at a time is in memory, and its reference features are computed once.
    The first use of a codec at a quality is preceded by a warm-up on the same image, which is not timed.

    Args:
        jobs: codecs with different names.
        dataset: pictures.
        metrics: what to measure.
        pictures: where the decoded pictures go.
        progress: show a progress bar.
        store: rows of earlier runs, which are not measured again, and where new ones go. Where pictures or features of
            such a row are missing, only they are made.
        features: where the features of the originals and of the decoded pictures go.
        processes: share the images; each returns the rows of all.
        unreadable: gets the pictures that cannot be read, and why, by name; they have no rows. Without it, the first
            one is an error.

    Returns:
        One row per codec, quality and image, in this order: ``codec, quality, image, bpp``, a column per metric,
        ``encode_s, decode_s`` (wall seconds); of pooled metrics also ``<metric>_terms``, nested lists; with features
        also ``original, decoded``, the names of theirs.

    Raises:
        CodecError: a codec returned something else than bytes, or a picture of another shape.
        ImageError: a picture cannot be read.
    """
    steps = [(codec, quality) for codec, qualities in jobs for quality in qualities]
    images = dataset.part(processes.share(range(len(dataset))))
    run = _Run(metrics, pictures, store, features)
    with tqdm(total=len(steps) * len(images), unit="image", disable=not progress) as bar:
        for name, image in images.each(_leave_out(unreadable, bar, len(steps))):
            rows = run.rows_of(name, image)
            for codec, quality in steps:
                bar.set_postfix_str(f"{name} {codec.name}-q{quality}")
                rows.add(codec, quality)
                bar.update()
    if unreadable is not None:
        unreadable.update(processes.gather(list(unreadable.items())))
    return _in_order(processes.gather(run.rows), steps, dataset.image_names)


class _Run:
    """What is kept from one image to the next; arguments as of :func:`measure`."""

    def __init__(
        self,
        metrics: ReferenceMetrics,
        pictures: KeptPictures | None,
        store: RowStore | None,
        features: FeatureStore | None,
    ):
        self.metrics, self.pictures, self.store, self.features = metrics, pictures, store, features
        self.rows: list[dict[str, Any]] = []
        self._coder, self._warm = Coder(), set()

    def rows_of(self, name: str, image: Tensor) -> _RowsOfImage:
        """Begins an image."""
        return _RowsOfImage(self, name, image)

    def code(self, codec: Codec, quality: float, image: Tensor, timed: bool) -> Coded:
        """Encodes and decodes, after a warm-up where the time of a codec and quality is wanted for the first time."""
        if timed and (codec.name, quality) not in self._warm:
            self._coder.code(codec, quality, image)
            self._warm.add((codec.name, quality))
        return self._coder.code(codec, quality, image)


class _RowsOfImage:
    """Adds a row per codec and quality of one image; what belongs to the image is made once."""

    def __init__(self, run: _Run, name: str, image: Tensor):
        self.run, self.name, self.image = run, name, image
        self._picture = run.store.picture(image) if run.store else None
        self._original = {"original": run.features.add(image)} if run.features else {}
        self._original_is_set = False

    def add(self, codec: Codec, quality: float) -> None:
        """Measures what earlier runs have not, and makes the pictures and features that are not there."""
        run, name = self.run, self.name
        key = run.store.key(codec, quality, self._picture) if run.store else None
        row = run.store.get(key) if run.store else None
        lacks_picture = run.pictures and run.pictures.lacks(codec.name, quality, name, key)
        lacks_features = run.features and not (row and run.features.has(row.get("decoded")))
        if row is None or lacks_picture or lacks_features:
            coded = run.code(codec, quality, self.image, timed=row is None)
            measured = row is None
            if measured:
                row = self._figures(coded)
            if lacks_features:
                row = row | {"decoded": run.features.add(coded.decoded)}
            if run.store and (measured or lacks_features):
                run.store.add(key, row, coded.encoded)
            if run.pictures:
                run.pictures.keep(codec.name, quality, name, key, coded.decoded)
        run.rows.append({"codec": codec.name, "quality": quality, "image": name, **row, **self._original})

    def _figures(self, coded: Coded) -> dict[str, Any]:
        if not self._original_is_set:
            self.run.metrics.set_original(self.image)
            self._original_is_set = True
        return _figures(self.image, coded, self.run.metrics)


def _in_order(
    rows: list[dict[str, Any]], steps: Sequence[tuple[Codec, float]], image_names: Sequence[str]
) -> pd.DataFrame:
    step_order = {(codec.name, quality): index for index, (codec, quality) in enumerate(steps)}
    image_order = {name: index for index, name in enumerate(image_names)}
    rows.sort(key=lambda row: (step_order[row["codec"], row["quality"]], image_order[row["image"]]))
    table = pd.DataFrame(rows)
    # Where some codec counts in fractions, the numbers of the others stay whole.
    if table.empty or all(isinstance(quality, int) for _, quality in steps):
        return table
    return table.assign(quality=pd.Series([row["quality"] for row in rows], dtype=object))


def _leave_out(unreadable: dict[str, str] | None, bar: tqdm, steps: int) -> Callable[[str, ImageError], None] | None:
    if unreadable is None:
        return None

    def note(name: str, error: ImageError) -> None:
        unreadable[name] = str(error)
        tqdm.write(f"left out: {error}", file=sys.stderr)
        bar.update(steps)

    return note


def _figures(image: Tensor, coded: Coded, metrics: ReferenceMetrics) -> dict[str, Any]:
    height, width = image.shape[1:]
    figures, terms = metrics.measure_with_terms(coded.decoded)
    return {
        "bpp": 8 * coded.encoded.n_bytes / (height * width),
        **figures,
        "encode_s": coded.encode_s,
        "decode_s": coded.decode_s,
        **{f"{name}_terms": values.tolist() for name, values in terms.items()},
    }
