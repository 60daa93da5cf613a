"""Of ``encode``, ``decode``, ``info`` and ``models``."""

from __future__ import annotations

import argparse

from compressai_gen.parsers.common import add_machine, add_options, describe, size, takers
from compressai_gen.specs import own_specs

__all__ = ["PICTURE_SUFFIXES", "decode", "encode", "info", "models"]

PICTURE_SUFFIXES = (".png", ".bmp", ".ppm", ".tif", ".tiff", ".webp", ".jpg", ".jpeg")
"""Of the files that ``decode`` writes."""

_PATHS = """
INPUT is a file, a folder (all files of the kind below it), or - for standard input. OUTPUT is a file
for one input file, - for standard output, and otherwise a folder, which is made where it is missing.
Existing files are replaced."""


def encode(parser: argparse.ArgumentParser) -> None:
    """Add what ``encode`` takes."""
    add = describe(
        parser,
        f"Compress pictures.\n{_PATHS}",
        """
        compressai-gen encode photo.jpg photo.cgen
        compressai-gen encode photo.jpg photo.cgen --model {other} --quality 2
        compressai-gen encode photo.jpg photo.cgen --target-bytes 4096
        compressai-gen encode photos/ compressed/
        """,
    )
    add("paths", nargs="+", metavar="INPUT… OUTPUT", help="picture files or folders, then where to write")
    add("--model", default=next(iter(own_specs())), help="codec, or codec.tag, of compressai-gen models (%(default)s)")
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument("--quality", type=float, help="1 (fewest bits) to 5 in steps of 1/32, such as 2.5 (default: 3)")
    rate.add_argument("--target-bpp", type=float, metavar="BPP", help="highest quality within so many bits per pixel")
    rate.add_argument("--target-bytes", type=int, metavar="N", help="highest quality within a file of so many bytes")
    able = takers("online_steps")
    add("--online-steps", type=int, default=0, metavar="N", help=f"search for better bits, seconds a step ({able})")
    able = takers("importance")
    add("--roi", metavar="MASK", help=f"picture of the same size, bright where bits matter most ({able})")
    add_options(add, "encoder_options")
    add("--seed", type=int, help="of the decoder's noise (default: follows from the stream)")
    add_machine(add)


def decode(parser: argparse.ArgumentParser) -> None:
    """Add what ``decode`` takes."""
    add = describe(
        parser,
        f"Decompress files.\n{_PATHS}",
        """
        compressai-gen decode photo.cgen photo.png
        compressai-gen decode compressed/ pictures/ --format webp
        """,
    )
    add("paths", nargs="+", metavar="INPUT… OUTPUT", help=".cgen files or folders, then where to write")
    add(
        "--steps",
        type=int,
        metavar="N",
        help="of the diffusion sampler: 1, 2, 4 or 8; 0: without (default: the model's)",
    )
    add("--seed", type=int, help="of the noise (default: the file's)")
    add_options(add, "decoder_options")
    add(
        "--max-pixels",
        type=int,
        default=16384 * 16384,
        metavar="N",
        help="refuse larger pictures (default: %(default)s)",
    )
    add(
        "--format",
        choices=[suffix[1:] for suffix in PICTURE_SUFFIXES],
        default="png",
        help="of pictures in folders and on standard output (default: %(default)s); a file's name says its own",
    )
    add_machine(add)


def info(parser: argparse.ArgumentParser) -> None:
    """Add what ``info`` takes."""
    add = describe(
        parser,
        "Tell what is in .cgen files.",
        """
        compressai-gen info photo.cgen
        compressai-gen info photo.cgen --streams
        """,
    )
    add("paths", nargs="+", metavar="INPUT", help=".cgen files or folders, or - for standard input")
    add("--streams", action="store_true", help="decode the symbols and tell how many bytes each kind takes")
    add("--json", action="store_true", help="one JSON object per file and line")


def models(parser: argparse.ArgumentParser) -> None:
    """Add what ``models`` takes."""
    add = describe(
        parser,
        "List the pretrained models, or tell what models of a recipe would cost, which needs no weights.",
        """
        compressai-gen models
        compressai-gen models --estimate {codec}-foundation --size 1920x1080
        """,
    )
    add("--json", action="store_true", help="as JSON")
    add(
        "--estimate",
        nargs="*",
        metavar="RECIPE",
        help="count parameters, multiply-adds and memory of the model that a recipe trains: names in zoo/recipes or "
        "TOML files (default: all of the zoo on a pretrained model)",
    )
    add(
        "--size",
        type=size,
        default=(512, 768),
        metavar="WxH",
        help="of the picture, with --estimate (default: 768x512)",
    )
