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
    rows, coder = [], Coder()
    steps = [(codec, quality) for codec, qualities in jobs for quality in qualities]
    images = dataset.part(processes.share(range(len(dataset))))
    with tqdm(total=len(steps) * len(images), unit="image", disable=not progress) as bar:
        warm: set[tuple[str, int]] = set()
        for name, image in images.each(_leave_out(unreadable, bar, len(steps))):
            original_is_set = False
            picture = store.picture(image) if store else None
            original = {"original": features.add(image)} if features else {}
            for codec, quality in steps:
                bar.set_postfix_str(f"{name} {codec.name}-q{quality}")
                key = store.key(codec, quality, picture) if store else None
                row = store.get(key) if store else None
                lacks_picture = pictures and pictures.lacks(codec.name, quality, name, key)
                lacks_features = features and not (row and features.has(row.get("decoded")))
                if row is None or lacks_picture or lacks_features:
                    if row is None and (codec.name, quality) not in warm:
                        coder.code(codec, quality, image)
                        warm.add((codec.name, quality))
                    coded = coder.code(codec, quality, image)
                    measured = row is None
                    if measured:
                        if not original_is_set:
                            metrics.set_original(image)
                            original_is_set = True
                        row = _figures(image, coded, metrics)
                    if lacks_features:
                        row = row | {"decoded": features.add(coded.decoded)}
                    if store and (measured or lacks_features):
                        store.add(key, row, coded.encoded)
                    if pictures:
                        pictures.keep(codec.name, quality, name, key, coded.decoded)
                rows.append({"codec": codec.name, "quality": quality, "image": name, **row, **original})
                bar.update()
    step_order = {(codec.name, quality): index for index, (codec, quality) in enumerate(steps)}
    image_order = {name: index for index, name in enumerate(dataset.image_names)}
    rows = processes.gather(rows)
    if unreadable is not None:
        unreadable.update(processes.gather(list(unreadable.items())))
    rows.sort(key=lambda row: (step_order[row["codec"], row["quality"]], image_order[row["image"]]))
    table = pd.DataFrame(rows)
    # Where some codec counts in fractions, the numbers of the others stay whole.
    whole = all(isinstance(quality, int) for _, quality in steps)
    return (
        table
        if whole or table.empty
        else table.assign(quality=pd.Series([row["quality"] for row in rows], dtype=object))
    )


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
