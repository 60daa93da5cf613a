"""Of ``train``, ``shards`` and ``publish``."""

from __future__ import annotations

import argparse
from pathlib import Path

from compressai_gen.parsers.common import describe

__all__ = ["PRECISIONS", "publish", "shards", "train"]

PRECISIONS = ("auto", "float32", "bfloat16")
"""What networks may be trained in; ``auto`` is bfloat16 where the hardware multiplies it faster, and else float32."""


def train(parser: argparse.ArgumentParser) -> None:
    """Add what ``train`` takes."""
    add = describe(
        parser,
        "Train a codec from a recipe.",
        """
        compressai-gen train {codec}-base --data-root path/to/photographs
        compressai-gen train {codec}-base --data-root path/to/photographs --profile
        compressai-gen train my-recipe.toml --init runs/{codec}-base
        """,
    )
    add("recipe", help="a recipe's name in zoo/recipes, or a TOML file")
    add("--data-root", type=Path, help="folder of the recipe's folders (default: COMPRESSAI_GEN_DATA)")
    add("--output", type=Path, help="folder of checkpoints and weights (default: runs/<recipe>)")
    add("--init", type=Path, help="weights (safetensors) to start from instead of the warm start")
    add("--precision", choices=PRECISIONS, default="auto", help="of the networks; auto: bfloat16 where that is fast")
    add("--compile", action="store_true", help="compile networks with torch.compile, which may pay on a GPU")
    add("--minutes", type=float, help="stop after so many, with a checkpoint, a validation and weights")
    add("--profile", action="store_true", help="print how fast the recipe trains here and where the time goes")


def shards(parser: argparse.ArgumentParser) -> None:
    """Add the two commands, each with its own arguments."""
    describe(
        parser,
        "Pack training pictures into webdataset shards, and check shards.",
        """
        compressai-gen shards pack path/to/photographs path/to/shards
        compressai-gen shards check "path/to/shards/{00000000..00000063}.tar"
        """,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="pack | check")
    summary = "Pack the pictures below a folder, in random order; what cannot be read is left out."
    add = commands.add_parser("pack", help="pack a folder of pictures", description=summary).add_argument
    add("folder", type=Path, help="searched recursively for pictures")
    add("shards", type=Path, help="new folder of the shards")
    add("--shard-mib", type=int, default=256, metavar="N", help="size of a shard (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the pictures' order (default: %(default)s)")
    summary = "Read shards from end to end; exit status 2 if anything is wrong with them."
    add = commands.add_parser("check", help="read shards from end to end", description=summary).add_argument
    add("shards", help="folder, path or URL; {000..063} for several")
    add("--no-decode", action="store_true", help="leave the pictures encoded")


def publish(parser: argparse.ArgumentParser) -> None:
    """Add what ``publish`` takes."""
    add = describe(
        parser,
        "Put finished training runs into the zoo of a checkout, with their cards.",
        """
        compressai-gen publish runs/{codec}-base
        compressai-gen publish --results results/kodak --readme README.md
        """,
    )
    add("run", type=Path, nargs="*", help="folder of a finished training run")
    add("--tag", help="of the weights of the runs, such as v1; needed with runs")
    add("--results", type=Path, help="an evaluation's folder, such as results/kodak")
    add("--readme", type=Path, help="a README whose results section to write, with --results")
