"""Validation: a codec on held-out photographs, as bytes, by image size."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressai_gen.data.images import image_size, list_images, read_image
from compressai_gen.errors import DatasetError
from compressai_gen.metrics import METRICS as SPECS
from compressai_gen.metrics import ReferenceMetrics
from compressai_gen.models.base import GenerativeCodec

__all__ = ["METRICS", "check_validation", "choose", "score", "validate"]

LARGE = 300_000
"""Pixels from which a photograph counts as large."""

METRICS = ("psnr", "lpips", "dists", "lpips_vgg", "ssimulacra2", "grid", "blocking")


def choose(folder: Path, per_class: int) -> dict[str, list[Path]]:
    """Returns photographs of each size class, evenly spaced.

    Raises:
        DatasetError: there are none.
    """
    classes: dict[str, list[Path]] = {"small": [], "large": []}
    for path in list_images(folder) if folder.is_dir() else []:
        width, height = image_size(path)
        classes["large" if width * height >= LARGE else "small"].append(path)
    if not any(classes.values()):
        raise DatasetError(f"no validation images in {folder}: the recipe names it below --data-root")
    return {name: paths[:: max(1, len(paths) // per_class)][:per_class] for name, paths in classes.items()}


def check_validation(folder: Path, per_class: int) -> None:
    """Checks that :func:`validate` will find its photographs, can read them and has its metrics.

    Raises:
        CompressaiGenError: it will not.
    """
    for paths in choose(folder, per_class).values():
        for path in paths:
            read_image(path)
    ReferenceMetrics(METRICS)


def validate(model: GenerativeCodec, folder: Path, per_class: int) -> list[dict[str, float | int | str]]:
    """Measures real rates and the decoded pictures of every quality on held-out photographs, by image size.

    Args:
        model: in evaluation mode; its tables are built again.
        folder: validation photographs.
        per_class: how many to take, evenly spaced, of those below and of those above 300,000 pixels; larger ones are
            cropped to Kodak's 768x512, as time goes with the area and the rate does not.

    Returns:
        A row per quality, steps of the sampler (0 and, where there is one, the default) and size class.
    """
    chosen = choose(folder, per_class)
    model.update(force=True)
    metrics = ReferenceMetrics(METRICS, device=model.quality.device)
    all_steps = [0] if model.restorer is None else [0, model.default_steps]
    sums: dict[tuple[int, int, str], Tensor] = {}
    terms: dict[tuple[int, int, str], dict[str, list[Tensor]]] = {}
    for size, paths in chosen.items():
        for path in paths:
            image = read_image(path)[:, :512, :768].contiguous()
            metrics.set_original(image)
            x = (image[None].float() / 255).to(model.quality.device)
            for quality in range(1, model.n_qualities + 1):
                stream = model.compress(x, quality)
                bpp = 8 * len(stream["strings"][0][0]) / (image.shape[1] * image.shape[2])
                for steps in all_steps:
                    x_hat = model.decompress(**stream, steps=steps)["x_hat"][0]
                    figures, parts = metrics.measure_with_terms((x_hat * 255).round().to(torch.uint8))
                    key = quality, steps, size
                    for name, part in parts.items():
                        terms.setdefault(key, {}).setdefault(name, []).append(part)
                    sums[key] = sums.get(key, 0) + torch.tensor([1, bpp, *figures.values()], dtype=torch.float64)
    rows = []
    for quality, steps, size in sorted(sums):
        n, *totals = sums[quality, steps, size].tolist()
        figures = {k: round(v / n, 5) for k, v in zip(("bpp", *METRICS), totals, strict=True)}
        for name, parts in terms.get((quality, steps, size), {}).items():
            figures[name] = round(SPECS[name].pooled(torch.stack(parts).mean(0)), 5)
        rows.append({"quality": quality, "steps": steps, "size": size, "n_images": int(n)} | figures)
    return rows


_RATE_OF = {
    "ssimulacra2": lambda value: value / 45,
    "lpips_vgg": lambda value: -math.log(max(value, 1e-4)) / 0.45,
}
# Logarithms of the rate that a metric is worth: between 0.1 and 0.5 bpp on Kodak, AVIF gains 45 points of SSIMULACRA 2
# and LPIPS (VGG) falls by a factor of e^0.45 where the rate grows by one of e.


def score(rows: Sequence[Mapping[str, Any]], trained_on: Collection[str]) -> float:
    """Returns how good what :func:`validate` measured is, by metrics that were not trained on: higher is better.

    The unit is the logarithm of the rate: a model that needs one per cent less for the same pictures has 0.01 more.
    That of the full decoder counts, all qualities and sizes alike.
    """
    last = max((row["steps"] for row in rows), default=0)
    worths = []
    for row in rows:
        if row["steps"] == last:
            known = [
                of(row[k]) for k, of in _RATE_OF.items() if k not in trained_on and math.isfinite(row.get(k, math.nan))
            ]
            worths += [worth - math.log(row["bpp"]) for worth in known]
    return sum(worths) / len(worths) if worths else math.nan
