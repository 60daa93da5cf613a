"""Command line of the training."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import compressai_gen  # noqa: F401  (registers the models)
from compressai_gen.errors import DatasetError
from compressai_gen.openmp import calm_idle_threads
from compressai_gen.parsers.common import make
from compressai_gen.parsers.training import train as arguments
from compressai_gen.programs import exit_status
from compressai_gen.train.recipe import load_recipe


def main(argv: list[str] | None = None, prog: str = "python -m compressai_gen.train") -> int:
    """Runs the command line and returns its exit status."""
    calm_idle_threads()
    args = make(arguments, prog).parse_args(argv)
    return exit_status(lambda: _run(args), "stopped; the same command goes on from the last checkpoint")


def _run(args: argparse.Namespace) -> None:
    from compressai_gen.train.loop import train  # needs the extra 'train', which is told where it is missing

    recipe = load_recipe(args.recipe)
    root = args.data_root or os.environ.get("COMPRESSAI_GEN_DATA")
    if root is None:
        raise DatasetError("say where the photographs lie: --data-root FOLDER or COMPRESSAI_GEN_DATA=FOLDER")
    how = {"init": args.init, "precision": args.precision, "compiled": args.compile}
    if args.profile:
        from compressai_gen.train.profile import profile

        print(profile(recipe, Path(root), **how))
        return
    train(recipe, Path(root), args.output or Path("runs") / recipe.name, minutes=args.minutes, **how)


if __name__ == "__main__":
    sys.exit(main())
