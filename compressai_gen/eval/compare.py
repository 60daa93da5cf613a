"""A figure of crops at matched bytes: ``python -m compressai_gen.eval.compare cgdm avif --dataset kodak --bpp 0.1``.

A row per image: the original, then each codec at the quality whose bytes are nearest to the target, or at a named one
(``mridc@2``). With ``--masks``, the mask of a codec that has one stands beside its picture.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from compressai_gen._matplotlib import backend_set_aside
from compressai_gen.codecs import Codec, Encoded, LearnedCodec, check_qualities, find_codec
from compressai_gen.data import ImageDataset, load_dataset
from compressai_gen.data.images import OUTPUT_MARK
from compressai_gen.errors import CodecError, CompressaiGenError, ImageError
from compressai_gen.eval.plots import house_style
from compressai_gen.files import replacing
from compressai_gen.metrics import METRICS, ReferenceMetrics
from compressai_gen.models.capabilities import DrawsMask
from compressai_gen.parsers.common import make, number
from compressai_gen.parsers.evaluation import compare as arguments
from compressai_gen.programs import exit_status, prepare_torch

with backend_set_aside():
    from matplotlib.figure import Figure

__all__ = [
    "Column",
    "Nearest",
    "compare",
    "comparison_figure",
    "detailed_crop",
    "encode_nearest",
    "main",
    "nearest_quality",
    "parse_column",
]

_METRICS = ("lpips", "dists")
_STRIDE = 8  # pixels between the crops that are tried
_SIDE, _GAP, _LABEL = 1.7, 0.05, 0.42  # inches: of a crop, beside and below it
_MIN_DPI = 150


class Panel(NamedTuple):
    """One crop of the figure: uint8 of shape (3, size, size), and the lines below it."""

    crop: Tensor
    label: str


class Column(NamedTuple):
    """A codec, and the qualities that it may be shown at."""

    codec: Codec
    qualities: tuple[float, ...]


def parse_column(text: str, device: str | torch.device = "cpu") -> Column:
    """Return the column of ``name[@quality][:option=value,…]``; see :func:`~compressai_gen.codecs.find_codec`.

    Raises:
        CodecError: the codec is unknown or has no such quality or option.
    """
    named, colon, settings = text.partition(":")
    name, _, quality = named.partition("@")
    codec = find_codec(name + colon + settings, device)
    try:
        chosen = [number(quality)] if quality else codec.qualities
    except ValueError as error:
        raise CodecError(f"'{text}': after @ stands a quality of {name}, one of {codec.qualities}") from error
    return Column(codec, check_qualities(codec, chosen))


class Nearest(NamedTuple):
    """A quality, and what a codec made of an image at it."""

    quality: float
    encoded: Encoded


def encode_nearest(column: Column, image: Tensor, bpp: float) -> Nearest:
    """Encode an image, uint8 of shape (3, H, W), at every quality of a column; returns the one nearest to a rate."""
    pixels = image.shape[1] * image.shape[2]
    encoded = [Nearest(quality, column.codec.encode(image, quality)) for quality in column.qualities]
    return min(encoded, key=lambda nearest: abs(8 * nearest.encoded.n_bytes / pixels - bpp))


def nearest_quality(
    column: Column, image: Tensor, bpp: float, metrics: ReferenceMetrics
) -> tuple[Tensor, str, Tensor | None]:
    """Encode at every quality of a column, and decode the one whose bytes are nearest to a rate.

    Args:
        column: what codes.
        image: uint8 of shape (3, H, W).
        bpp: the rate in bits per pixel.
        metrics: with `image` as its original.

    Returns:
        The reconstruction, of the shape of the image; a label with quality, rate and metrics; and the mask as a grey
        picture of the image's shape, black where nothing was sent and white where most was, if the codec has one.
    """
    codec = column.codec
    pixels = image.shape[1] * image.shape[2]
    quality, encoded = encode_nearest(column, image, bpp)
    decoded = codec.decode(encoded, quality)
    figures = [f"{METRICS[name].label.split()[0]} {value:.3f}" for name, value in metrics.measure(decoded).items()]
    rate = 8 * encoded.n_bytes / pixels
    label = "\n".join([f"{codec.name}, quality {quality}", f"{rate:.4f} bpp", "  ".join(figures)])
    model = codec.model(quality) if isinstance(codec, LearnedCodec) else None
    if not isinstance(model, DrawsMask):
        return decoded, label, None
    return decoded, label, model.draw_mask(encoded.strings[0], image.shape[1:]).cpu().expand_as(image)


def detailed_crop(image: Tensor, size: int) -> tuple[int, int]:
    """Return left and top of the square crop with the largest mean gradient; the same image gives the same crop.

    Args:
        image: uint8 of shape (3, H, W).
        size: of the crop, at most H and W.
    """
    grey = image.double().mean(dim=0)
    gradient = F.pad(grey.diff(dim=0).abs(), (0, 0, 0, 1)) + F.pad(grey.diff(dim=1).abs(), (0, 1))
    means = F.avg_pool2d(gradient[None], size, _STRIDE)[0]
    top, left = divmod(int(means.argmax()), means.shape[1])
    return left * _STRIDE, top * _STRIDE


def comparison_figure(rows: Sequence[Sequence[Panel]]) -> Figure:
    """Lay rows of equally many panels out, so that a crop's pixel is a square of whole pixels of the file."""
    size = rows[0][0].crop.shape[1]
    side = size * max(2, math.ceil(_MIN_DPI * _SIDE / size))
    dpi = side / _SIDE
    gap, label = round(_GAP * dpi), round(_LABEL * dpi)
    width, height = len(rows[0]) * (side + gap), len(rows) * (side + label)
    with house_style():
        figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi)
        for i, panels in enumerate(rows):
            for j, panel in enumerate(panels):
                left, bottom = j * (side + gap), height - i * (side + label) - side
                axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
                axes.imshow(panel.crop.permute(1, 2, 0).numpy(), interpolation="nearest")
                axes.set_axis_off()
                axes.text(0, -0.02, panel.label, transform=axes.transAxes, va="top", fontsize=6.5, parse_math=False)
    return figure


def compare(
    columns: Sequence[Column],
    dataset: ImageDataset,
    corners: Sequence[tuple[int, int]] | None,
    size: int,
    bpp: float,
    metrics: ReferenceMetrics,
    output: Path,
    masks: bool = False,
) -> None:
    """Code the images of a dataset and write the figure.

    Args:
        columns: what codes.
        dataset: a row each.
        corners: left and top of each image's crop; None: the most detailed ones.
        size: of the crops in pixels.
        bpp: the target rate.
        metrics: measured on whole images.
        output: a PNG file.
        masks: also show the masks of codecs that have one.

    Raises:
        ImageError: a crop does not lie in its image.
    """
    rows = []
    with tqdm(total=len(dataset) * len(columns), unit="image") as bar:
        for index, (name, image) in enumerate(dataset):
            if min(image.shape[1:]) < size:
                raise ImageError(f"{name} is smaller than the crops of {size} pixels; choose a smaller --size")
            left, top = detailed_crop(image, size) if corners is None else corners[index]
            if not (0 <= left <= image.shape[2] - size and 0 <= top <= image.shape[1] - size):
                raise ImageError(f"the crop of {size} pixels at {left},{top} does not lie in {name}")
            crop = (slice(None), slice(top, top + size), slice(left, left + size))
            metrics.set_original(image)
            panels = [Panel(image[crop], f"{name}\noriginal")]
            for column in columns:
                bar.set_postfix_str(f"{name} {column.codec.name}")
                decoded, label, mask = nearest_quality(column, image, bpp, metrics)
                panels.append(Panel(decoded[crop], label))
                if masks and mask is not None:
                    panels.append(Panel(mask[crop], "mask: tokens per position\nblack 0, grey 1, white 2"))
                bar.update()
            rows.append(panels)
    figure = comparison_figure(rows)
    with replacing(output) as temporary:
        figure.savefig(temporary, format="png", metadata=OUTPUT_MARK)


def main(argv: Sequence[str] | None = None, prog: str = "python -m compressai_gen.eval.compare") -> int:
    """Run the program and return its exit status: 0, 2 on an error of the user's, 130 when interrupted."""
    args = make(arguments, prog).parse_args(argv)
    return exit_status(lambda: _run(args), "interrupted; nothing was written")


def _run(args: argparse.Namespace) -> None:
    device = prepare_torch(args.device, None)
    columns = [parse_column(text, device) for text in args.codecs]
    dataset = load_dataset(args.dataset, args.data_root)
    names = args.images or dataset.image_names[:3]
    chosen = dataset.called(names)
    if args.crops and len(args.crops) != len(names):
        raise CompressaiGenError(f"--crops wants a corner for each image: {len(names)}, not {len(args.crops)}")
    if args.size < _STRIDE or not args.bpp > 0:
        raise CompressaiGenError(f"--size is at least {_STRIDE} and --bpp above 0, not {args.size} and {args.bpp}")
    metrics = ReferenceMetrics(
        _METRICS, device, on_missing=lambda error: print(f"metric skipped: {error}", file=sys.stderr)
    )
    output = args.output or Path("results") / dataset.name / "comparison.png"
    compare(columns, chosen, args.crops, args.size, args.bpp, metrics, output, args.masks)
    print(f"written to {output}")


if __name__ == "__main__":
    sys.exit(main())
