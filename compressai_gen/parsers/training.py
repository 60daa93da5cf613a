"""Of ``train`` and ``publish``."""

from __future__ import annotations

import argparse
from pathlib import Path

from compressai_gen.parsers.common import describe

__all__ = ["publish", "train"]


def train(parser: argparse.ArgumentParser) -> None:
    """Add what ``train`` takes."""
    add = describe(
        parser,
        "Train a codec from a recipe.",
        """
        compressai-gen train cgdm-base --data-root path/to/photographs
        compressai-gen train my-recipe.toml --init runs/cgdm-base/model.safetensors
        """,
    )
    add("recipe", help="a recipe's name in zoo/recipes, or a TOML file")
    add("--data-root", type=Path, help="folder of the recipe's folders (default: COMPRESSAI_GEN_DATA)")
    add("--output", type=Path, help="folder of checkpoints and weights (default: runs/<recipe>)")
    add("--init", type=Path, help="weights (safetensors) to start from instead of the warm start")


def publish(parser: argparse.ArgumentParser) -> None:
    """Add what ``publish`` takes."""
    add = describe(
        parser,
        "Put finished training runs into the zoo of a checkout, with their cards.",
        """
        compressai-gen publish runs/cgdm-base
        compressai-gen publish --results results/kodak --readme README.md
        """,
    )
    add("run", type=Path, nargs="*", help="folder of a finished training run")
    add("--results", type=Path, help="an evaluation's folder, such as results/kodak")
    add("--readme", type=Path, help="a README whose results section to write, with --results")
