"""Validation: a codec on held-out photographs, as bytes, by image size."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from compressai_gen.data.images import image_size, list_images, read_image
from compressai_gen.errors import DatasetError
from compressai_gen.metrics import ReferenceMetrics
from compressai_gen.models.base import GenerativeCodec

__all__ = ["check_validation", "validate"]

LARGE = 300_000
"""Pixels from which a photograph counts as large."""

METRICS = ("psnr", "lpips", "dists", "lpips_vgg", "ssimulacra2", "grid")


def _choose(folder: Path, per_class: int) -> dict[str, list[Path]]:
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
    for paths in _choose(folder, per_class).values():
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
    chosen = _choose(folder, per_class)
    model.update(force=True)
    metrics = ReferenceMetrics(METRICS, device=model.quality.device)
    all_steps = [0] if model.restorer is None else [0, model.default_steps]
    sums: dict[tuple[int, int, str], Tensor] = {}
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
                    figures = metrics.measure((x_hat * 255).round().to(torch.uint8))
                    key = quality, steps, size
                    sums[key] = sums.get(key, 0) + torch.tensor([1, bpp, *figures.values()], dtype=torch.float64)
    rows = []
    for quality, steps, size in sorted(sums):
        n, *totals = sums[quality, steps, size].tolist()
        figures = {k: round(v / n, 5) for k, v in zip(("bpp", *METRICS), totals, strict=True)}
        rows.append({"quality": quality, "steps": steps, "size": size, "n_images": int(n)} | figures)
    return rows
