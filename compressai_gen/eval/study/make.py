"""The page of a study: which pictures are compared, and one HTML file that holds them all."""

from __future__ import annotations

import base64
import io
import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from compressai_gen.codecs import LearnedCodec, PillowCodec
from compressai_gen.data import ImageDataset, pixel_hash
from compressai_gen.errors import CompressaiGenError, ImageError
from compressai_gen.eval.compare import Column, Nearest, detailed_crop, encode_nearest
from compressai_gen.eval.study.record import STUDY_FORMAT, digest
from compressai_gen.files import replacing

__all__ = ["CHECK", "ORIGINAL", "Study", "design", "far_apart", "write_page"]

CHECK = "check"
"""Stands for a codec on the worse side of an attention check."""

ORIGINAL = "original"
_BLUR = 12  # pixels that one is made of in the damaged picture of a check: nobody who looks can prefer it
_SCALES = {"jpeg2000": range(2000, 3, -1)}  # qualities of a format, from the fewest bytes up
# Of our models between two whole qualities, some 7 % of the bytes each; more would be a model in memory each.
_STEPS = 8
_FAR = 0.1  # a difference in bytes that is told


@dataclass
class Study:
    """A study and its pictures.

    Attributes:
        record: JSON data: ``format``, ``dataset``, ``bpp`` (a text), ``codecs`` and ``trials``. Each trial has ``kind``
            (``pair`` or ``check``), ``image``, ``original`` (a picture's name), and two ``sides`` of ``codec``,
            ``quality`` (a text), ``bytes``, ``pixels`` and ``picture``; of a check, the first side is the right one.
        pictures: lossless WebP files in base64 by name.
    """

    record: dict[str, Any]
    pictures: dict[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """The digest of the record, which covers all pixels: pictures are named by their hash."""
        return digest(self.record)

    def add(self, picture: Tensor) -> str:
        """Keep a picture, a uint8 tensor of shape (3, H, W), and return its name."""
        name = pixel_hash(picture)[:32]
        if name not in self.pictures:
            file = io.BytesIO()
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "WEBP", lossless=True, method=2)
            self.pictures[name] = base64.b64encode(file.getvalue()).decode("ascii")
        return name


def design(
    columns: Sequence[Column],
    dataset: ImageDataset,
    bpp: float,
    comparisons: int | None = None,
    checks: int | None = None,
    crop: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Study:
    """Code the images of a dataset and pair the results.

    Args:
        columns: the codecs. The first is shown at the quality whose bytes of that image are nearest to the target, each
            other one at the quality whose bytes are nearest to the first one's.
        dataset: what they code.
        bpp: the target in bits per pixel.
        comparisons: how many pairs are shown, drawn so that all pairs of codecs are about equally many; None: all.
        checks: attention checks, the original against a picture that is blurred beyond doubt; None: one for every six
            comparisons, at least two.
        crop: show only the most detailed square of so many pixels; None: whole pictures.
        seed: of the draw.
        progress: show a progress bar.

    Raises:
        CompressaiGenError: there are fewer than two codecs, two of one name, or nothing to compare.
        ImageError: an image is smaller than the crop, or than the decoder of WebP takes.
    """
    names = [_name(column) for column in columns]
    if len(names) < 2 or (twice := [name for name, count in Counter(names).items() if count > 1]):
        wrong = f"{', '.join(twice)} stands twice" if len(names) > 1 else f"{names} is one"
        raise CompressaiGenError(f"a study compares at least two codecs of different names: {wrong}")
    pairs = _pairs(len(dataset), len(columns), comparisons, seed)
    draws = np.random.default_rng([seed, 1])
    count = max(2, -(-len(pairs) // 6)) if checks is None else checks
    checked = Counter(int(index) for index in draws.choice(len(dataset), count, replace=count > len(dataset)))
    trials: list[dict[str, Any]] = []
    about = {"dataset": _text(dataset.name), "bpp": f"{bpp:g}", "codecs": names}
    study = Study({"format": STUDY_FORMAT, **about, "trials": trials})
    with tqdm(total=len(dataset) * len(columns), unit="image", disable=not progress) as bar:
        for index, (name, image) in enumerate(dataset):
            wanted = sorted({codec for image_index, *pair in pairs if image_index == index for codec in pair})
            window = _window(name, image, crop)
            original = study.add(image[window])
            sides: dict[int, dict[str, Any]] = {}
            target = bpp
            for codec, column in enumerate(columns):
                bar.set_postfix_str(f"{name} {names[codec]}")
                if codec in wanted or codec == 0:
                    sides[codec] = _side(study, names[codec], column, image, target, window, finely=codec > 0)
                    target = 8 * sides[0]["bytes"] / sides[0]["pixels"]
                bar.update()
            common = {"image": _text(name), "original": original}
            for image_index, a, b in pairs:
                if image_index == index:
                    trials.append({"kind": "pair", "sides": [sides[a], sides[b]], **common})
            trial = {"kind": "check", "sides": _check_sides(study, image[window], original), **common}
            trials += [trial] * checked[index]
    return study


def far_apart(study: Study) -> list[str]:
    """Return a line for each pair of codecs whose bytes differ by more than a tenth over all its comparisons."""
    totals: dict[tuple[str, str], np.ndarray] = {}
    for trial in study.record["trials"]:
        if trial["kind"] == "pair":
            a, b = trial["sides"]
            key = (a["codec"], b["codec"])
            totals[key] = totals.get(key, np.zeros(2)) + np.array([a["bytes"], b["bytes"]])
    return [
        f"{a} has {x / y - 1:+.0%} of the bytes of {b}: their qualities come no nearer; try another --bpp"
        for (a, b), (x, y) in totals.items()
        if not 1 / (1 + _FAR) <= x / y <= 1 + _FAR
    ]


def write_page(study: Study, path: Path) -> None:
    """Write the page of a study, one HTML file that opens from disk and loads nothing."""
    loader = jinja2.PackageLoader("compressai_gen.eval", "templates")
    template = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template(
        "study.html"
    )
    page = template.render(
        title="Which picture is closer to the original?",
        trials=len(study.record["trials"]),
        fingerprint=study.fingerprint,
        study=base64.b64encode(json.dumps(study.record).encode()).decode("ascii"),
        pictures=study.pictures.items(),
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _name(column: Column) -> str:
    """A codec's name, with the quality where it is shown at one only."""
    only = f"@{column.qualities[0]}" if len(column.qualities) == 1 < len(column.codec.qualities) else ""
    return _text(f"{column.codec.name}{only}")


def _text(name: str) -> str:
    """Names may hold bytes that are no UTF-8, which JSON has no room for."""
    return name.encode("utf-8", "replace").decode("utf-8")


def _pairs(images: int, codecs: int, comparisons: int | None, seed: int) -> list[tuple[int, int, int]]:
    """Return image and two codecs of each comparison."""
    kinds = list(combinations(range(codecs), 2))
    every = [(image, a, b) for image in range(images) for a, b in kinds]
    if comparisons is None or comparisons >= len(every):
        return every
    if comparisons < 1:
        raise CompressaiGenError(f"--comparisons is {comparisons}; at least one is needed")
    draws = np.random.default_rng(seed)
    # Round after round, each pair of codecs takes an image that it has not had, preferring those that were used least.
    used: Counter[int] = Counter()
    taken: set[tuple[int, int, int]] = set()
    while len(taken) < comparisons:
        for kind in draws.permutation(len(kinds))[: comparisons - len(taken)]:
            a, b = kinds[kind]
            left = [image for image in draws.permutation(images).tolist() if (image, a, b) not in taken]
            if left:
                image = min(left, key=lambda index: used[index])
                used[image] += 1
                taken.add((image, a, b))
    return sorted(taken)


def _window(name: str, image: Tensor, crop: int | None) -> tuple[slice, slice, slice]:
    height, width = image.shape[1:]
    if crop is None:
        if max(height, width) > 16383:
            raise ImageError(f"{name} has {width}x{height} pixels, more than a page shows: choose a --crop")
        return slice(None), slice(None), slice(None)
    if min(height, width) < crop:
        raise ImageError(f"{name} is smaller than the crops of {crop} pixels; choose a smaller --crop")
    left, top = detailed_crop(image, crop)
    return slice(None), slice(top, top + crop), slice(left, left + crop)


def _side(
    study: Study, name: str, column: Column, image: Tensor, bpp: float, window: tuple, finely: bool
) -> dict[str, Any]:
    nearest = _nearest(column, image, bpp, finely)
    return {
        "codec": name,
        "quality": f"{nearest.quality:g}",
        "bytes": nearest.encoded.n_bytes,
        "pixels": image.shape[1] * image.shape[2],
        "picture": study.add(column.codec.decode(nearest.encoded, nearest.quality)[window]),
    }


def _nearest(column: Column, image: Tensor, bpp: float, finely: bool) -> Nearest:
    """As `encode_nearest`, and where a codec has qualities between those of its ladder, among these.

    Args:
        column, image, bpp: as there.
        finely: whether our models are searched so, too; formats of Pillow always are.
    """
    codec = column.codec
    scale: Sequence[float] = ()
    if column.qualities != codec.qualities:
        return encode_nearest(column, image, bpp)  # the user named one
    if isinstance(codec, PillowCodec):
        scale = _SCALES.get(codec.name, range(1, 96))
    elif isinstance(codec, LearnedCodec) and codec.variable_rate and finely:
        first, last = codec.qualities[0], codec.qualities[-1]
        scale = [first + step / _STEPS for step in range(_STEPS * (last - first) + 1)]
    if not scale:
        return encode_nearest(column, image, bpp)
    n_bytes = bpp * image.shape[1] * image.shape[2] / 8
    index = bisect_left(scale, n_bytes, key=lambda quality: codec.encode(image, quality).n_bytes)
    return encode_nearest(Column(codec, tuple(scale[max(0, index - 1) : index + 1])), image, bpp)


def _check_sides(study: Study, image: Tensor, original: str) -> list[dict[str, Any]]:
    size = image.shape[1:]
    small = F.interpolate(image[None].float(), [max(1, side // _BLUR) for side in size], mode="area")
    blurred = F.interpolate(small, size, mode="bilinear").round().clamp(0, 255).byte()[0]
    common = {"quality": "", "bytes": 0, "pixels": size[0] * size[1]}
    return [
        {"codec": ORIGINAL, "picture": original, **common},
        {"codec": CHECK, "picture": study.add(blurred), **common},
    ]
