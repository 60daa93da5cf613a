"""Command line of the training."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import compressai_gen  # noqa: F401  (registers the models)
from compressai_gen.errors import DatasetError
from compressai_gen.programs import exit_status
from compressai_gen.train.recipe import load_recipe


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser("python -m compressai_gen.train", description="Train a codec from a recipe.")
    parser.add_argument("recipe", help="a recipe's name in zoo/recipes, or a TOML file")
    parser.add_argument("--data-root", type=Path, help="folder of the recipe's folders (default: COMPRESSAI_GEN_DATA)")
    parser.add_argument("--output", type=Path, help="folder of checkpoints and weights (default: runs/<recipe>)")
    parser.add_argument("--init", type=Path, help="weights (safetensors) to start from instead of the warm start")
    args = parser.parse_args(argv)
    return exit_status(lambda: _run(args), "stopped; the same command goes on from the last checkpoint")


def _run(args: argparse.Namespace) -> None:
    from compressai_gen.train.loop import train  # needs the extra 'train', which is told where it is missing

    recipe = load_recipe(args.recipe)
    root = args.data_root or os.environ.get("COMPRESSAI_GEN_DATA")
    if root is None:
        raise DatasetError("say where the photographs lie: --data-root FOLDER or COMPRESSAI_GEN_DATA=FOLDER")
    train(recipe, Path(root), args.output or Path("runs") / recipe.name, args.init)


if __name__ == "__main__":
    sys.exit(main())
