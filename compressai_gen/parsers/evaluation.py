"""Of the programs that measure: ``eval``, ``compare``, ``ablation`` and ``bench``."""

from __future__ import annotations

import argparse
from pathlib import Path

from compressai_gen.parsers.common import add_data, add_machine, describe, number, size

__all__ = ["ablation", "bench", "compare", "evaluate"]


def evaluate(parser: argparse.ArgumentParser) -> None:
    """Add what ``eval`` takes."""
    add = describe(
        parser,
        "Measure codecs on a dataset, by real bytes, and write tables and plots.",
        """
        compressai-gen eval --models {codec} {other} --dataset samples
        compressai-gen eval --models {codec} {codec}:steps=0 --baselines jpeg webp avif --dataset kodak --report
        compressai-gen eval --models {other} --qualities 1 2 --dataset path/to/pictures --metrics psnr lpips
        """,
    )
    add("--models", nargs="*", metavar="NAME", help="codecs under test (default: all models of this package)")
    add("--qualities", nargs="+", type=number, metavar="Q", help="qualities of the models (default: all)")
    add("--dataset", default="samples", help="known name or folder of images (default: %(default)s)")
    add_data(add)
    add(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help="default: psnr ms_ssim ssim lpips dists lpips_vgg ssimulacra2 grid blocking; an unknown name lists all",
    )
    add(
        "--fid-features",
        default="none",
        metavar="NETWORK",
        help="network of FID and KID: inception, alexnet or none (default: %(default)s)",
    )
    add("--baselines", nargs="*", default=[], metavar="NAME", help="codecs to compare with, at all their qualities")
    add(
        "--checkpoint",
        nargs="+",
        action="append",
        default=[],
        metavar=("ARCH", "FILE"),
        help="a further baseline: an architecture of CompressAI or of this package, and a file of weights per quality "
        "from the fewest bits up; may be repeated",
    )
    add("--anchor", metavar="NAME", help="codec that BD-rates are relative to (default: avif, else published VTM)")
    add(
        "--all-published",
        action="store_true",
        help="BD-rates and plots also of published curves that share little with the anchor or that newer ones replace",
    )
    add("--limit", type=int, metavar="N", help="use only the first N images")
    add("--output", type=Path, metavar="FOLDER", help="default: results/<dataset>")
    add_machine(add)
    add("--offline", action="store_true", help="fetch nothing: neither images nor weights")
    add("--fresh", action="store_true", help="measure everything again, whatever an earlier run left in the output")
    add("--reconstructions", action="store_true", help="keep the decoded images")
    add("--report", action="store_true", help="also write report.html, one file with tables, plots and pictures")


def compare(parser: argparse.ArgumentParser) -> None:
    """Add what ``compare`` takes."""
    add = describe(
        parser,
        "Write a figure of crops at matched bytes: a row per image, the original and then each codec.",
        """
        compressai-gen compare {codec} avif --dataset kodak --images kodim05 kodim23 --bpp 0.1
        compressai-gen compare {other}@1 {other}@3 --masks
        """,
    )
    add(
        "codecs",
        nargs="+",
        metavar="CODEC",
        help="name, name@quality, or either with :option=value,… of one of our models, as NAME:steps=0",
    )
    add("--dataset", default="samples", help="known name or folder of images (default: %(default)s)")
    add_data(add)
    add("--images", nargs="+", metavar="NAME", help="images of it (default: the first three)")
    add("--crops", nargs="+", type=_corner, metavar="LEFT,TOP", help="one per image (default: the most detailed)")
    add("--size", type=int, default=192, help="of the crops in pixels (default: %(default)s)")
    add("--bpp", type=float, default=0.1, help="rate that each codec's quality is chosen for (default: %(default)s)")
    add("--masks", action="store_true", help="draw the masks of codecs that have one beside their pictures")
    add_machine(add, threads=False)
    add("--output", type=Path, metavar="PNG", help="default: results/<dataset>/comparison.png")


def _corner(text: str) -> tuple[int, int]:
    left, top = text.split(",")
    return int(left), int(top)


def ablation(parser: argparse.ArgumentParser) -> None:
    """Add what ``ablation`` takes."""
    add = describe(
        parser,
        "Measure what each part of a codec is worth, by switching parts off with the same weights.",
        "compressai-gen ablation {codec} --dataset kodak --qualities 2",
    )
    add("model", help="one of our models; an unknown name lists them")
    add("--qualities", nargs="+", type=number, default=[2], metavar="Q", help="default: 2")
    add("--dataset", default="kodak", help="known name or folder of images (default: %(default)s)")
    add_data(add)
    add("--limit", type=int, metavar="N", help="use only the first N images")
    add("--output", type=Path, default=Path("results/ablation"), help="folder (default: %(default)s)")


def bench(parser: argparse.ArgumentParser) -> None:
    """Add what ``bench`` takes."""
    add = describe(
        parser,
        "Compare speed and memory of codecs, from 256x256 to 3840x2160 pixels.",
        """
        compressai-gen bench
        compressai-gen bench --codecs {codec} 'avif speed=6' --sizes 768x512 --repeat 5
        """,
    )
    add("--codecs", nargs="+", metavar="NAME", help="default: all that it knows; an unknown name lists them")
    add("--sizes", nargs="+", type=size, metavar="WxH", help="of the pictures (default: four, up to 3840x2160)")
    add(
        "--repeat",
        type=int,
        default=3,
        metavar="N",
        help="timed runs, of which the median counts (default: %(default)s)",
    )
    add_machine(add)
    add("--output", type=Path, metavar="FOLDER", help="also write bench.csv and environment.json")
