"""Pictures of a run for people: parts of validation photographs beside AVIF at the same bytes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from compressai_gen.codecs.classical import CLASSICAL_CODECS
from compressai_gen.data.images import read_image
from compressai_gen.errors import CodecError
from compressai_gen.files import replacing
from compressai_gen.models.base import GenerativeCodec
from compressai_gen.train.validate import choose

__all__ = ["preview"]

QUALITIES = (1, 3)
PER_CLASS = 2
SIDE = 256
"""Pixels of a side of what is shown of a photograph, its middle."""

_LABEL = 14
_AVIF_QUALITIES = (0, 2, 4, 6, 8, 11, 14, 18, 22, 27, 33, 40, 50, 60)


def preview(model: GenerativeCodec, folder: Path, path: Path) -> None:
    """Writes a PNG: a row per photograph and quality, of the original, AVIF, the base picture and the full one.

    Photographs are coded whole, as files are, and those of AVIF are the smallest that have no fewer bytes.

    Args:
        model: in evaluation mode; its tables are built again.
        folder: validation photographs; always the same ones are shown.
        path: of the PNG.
    """
    model.update(force=True)
    all_steps = [0] if model.restorer is None else [0, model.default_steps]
    rows = []
    for paths in choose(folder, PER_CLASS).values():
        for photograph in paths:
            image = _photograph(photograph)
            x = (image[None].float() / 255).to(model.quality.device)
            for quality in QUALITIES:
                stream = model.compress(x, quality)
                n_bytes = len(stream["strings"][0][0])
                shown = [("original", image), *_avif_of(photograph, n_bytes)]
                for steps in all_steps:
                    x_hat = model.decompress(**stream, steps=steps)["x_hat"][0]
                    name = f"quality {quality}, {steps} steps, {n_bytes} bytes"
                    shown.append((name, (x_hat * 255).round().to(torch.uint8)))
                rows.append(shown)
    with replacing(path) as temporary:
        _sheet(rows).save(temporary, format="PNG")


@cache
def _photograph(path: Path) -> Tensor:
    return read_image(path)[:, :512, :768].contiguous()


@cache
def _avif(path: Path, quality: int) -> tuple[int, Tensor]:
    avif = CLASSICAL_CODECS["avif"]
    encoded = avif.encode(_photograph(path), quality)
    return len(encoded.strings[0]), _middle(avif.decode(encoded))


def _avif_of(path: Path, n_bytes: int) -> list[tuple[str, Tensor]]:
    """AVIF's panel; none where this Pillow has no AVIF, for which no training is to end."""
    try:
        coded = (_avif(path, quality) for quality in _AVIF_QUALITIES)
        size, picture = next((found for found in coded if found[0] >= n_bytes), None) or _avif(
            path, _AVIF_QUALITIES[-1]
        )
    except CodecError:
        return []
    return [(f"AVIF, {size} bytes", picture)]


def _middle(image: Tensor) -> Tensor:
    top, left = (max(0, (n - SIDE) // 2) for n in image.shape[1:])
    return image[:, top : top + SIDE, left : left + SIDE]


def _sheet(rows: list[list[tuple[str, Tensor]]]) -> Image.Image:
    sheet = Image.new("RGB", (SIDE * len(rows[0]), (SIDE + _LABEL) * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, row in enumerate(rows):
        for j, (label, image) in enumerate(row):
            place = j * SIDE, i * (SIDE + _LABEL)
            pixels = np.ascontiguousarray(_middle(image).permute(1, 2, 0).cpu().numpy())
            sheet.paste(Image.fromarray(pixels), place)
            draw.text((place[0] + 2, place[1] + SIDE), label, fill="black")
    return sheet
