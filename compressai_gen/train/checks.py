"""What a training run would fail at after hours: all that can be known is checked before its first step.

What only shows later, such as a full disk, ends the run with one line, and the last checkpoint stays.
"""

from __future__ import annotations

import math
import numbers
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressai_gen.errors import CompressaiGenError, RecipeError

if TYPE_CHECKING:
    from compressai_gen.train.recipe import Recipe

__all__ = ["SMALLEST_CROP", "check_run", "check_values", "telling"]

SMALLEST_CROP = 64
"""Side in pixels of the smallest crops that the networks of the metrics take."""


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


_Rule = tuple[str, Callable[[Any], bool]]
_COUNT: _Rule = ("a whole number from 1", lambda value: _is_whole(value) and value >= 1)
_TEXT: _Rule = ("a text", lambda value: isinstance(value, str) and bool(value))
_POSITIVE: _Rule = ("a number above 0", lambda value: _is_number(value) and value > 0)
_SHARE: _Rule = ("a number from 0 to below 1", lambda value: _is_number(value) and 0 <= value < 1)

_TABLE: _Rule = ("a table", lambda value: isinstance(value, dict))

_OF_RECIPE: dict[str, _Rule] = {
    "model": _TEXT,
    "task": _TEXT,
    "seed": ("a whole number from 0 to 2^32 - 1", lambda value: _is_whole(value) and 0 <= value < 2**32),
    "learning_rate": _POSITIVE,
    "final_learning_rate": ("a number from 0", lambda value: _is_number(value) and value >= 0),
    "warmup": ("a whole number from 0", lambda value: _is_whole(value) and value >= 0),
    "decay_from": _SHARE,
    "ema_decay": _SHARE,
    "gradient_clip": _POSITIVE,
    "optimizer": _TABLE,
    "adversary": _TABLE,
    "speeds": (
        "a table of numbers from 0",
        lambda value: isinstance(value, dict) and all(_is_number(v) and v >= 0 for v in value.values()),
    ),
    "takes": ("a list of texts", lambda value: isinstance(value, list) and all(map(_TEXT[1], value))),
    "accumulate": _COUNT,
    "processes": ("a whole number from 0", lambda value: _is_whole(value) and value >= 0),
    "gradient_checkpointing": ("true or false", lambda value: isinstance(value, bool)),
    "pictures_every": ("a whole number from 0", lambda value: _is_whole(value) and value >= 0),
    "checkpoint_every": _COUNT,
    "checkpoint_minutes": _POSITIVE,
    "preview_minutes": _POSITIVE,
    "patience": ("a whole number from 0", lambda value: _is_whole(value) and value >= 0),
    "validate_every": _COUNT,
    "config": _TABLE,
    "objective": _TABLE,
}
_OF_STAGE: dict[str, _Rule] = {
    "steps": _COUNT,
    "batch": _COUNT,
    "crop": (f"a whole number from {SMALLEST_CROP}", lambda value: _is_whole(value) and value >= SMALLEST_CROP),
    "learning_rate": ("a number above 0", lambda value: value is None or _POSITIVE[1](value)),
    "final_learning_rate": ("a number from 0", lambda value: value is None or (_is_number(value) and value >= 0)),
    "distortion": _TABLE,
    "adversarial_weight": ("a number from 0", lambda value: _is_number(value) and value >= 0),
}
_OF_DATA: dict[str, _Rule] = {
    "train": _TEXT,
    "valid": _TEXT,
    "valid_images": _COUNT,
    "scale": (
        "two numbers above 0, the smaller first",
        lambda value: (
            isinstance(value, list | tuple)
            and len(value) == 2
            and all(map(_is_number, value))
            and 0 < value[0] <= value[1]
        ),
    ),
}

_OF_READERS: dict[str, _Rule] = {  # which [data] may leave out
    "workers": ("a whole number from 0", lambda value: _is_whole(value) and value >= 0),
    "crops_per_image": _COUNT,
}


def check_values(recipe: Recipe) -> None:
    """Checks that every value of a recipe can be trained with.

    Raises:
        RecipeError: one is of another kind or range; the message names it.
    """
    if not recipe.stages:
        raise RecipeError(f"{recipe.name}: it has no [[stages]], so nothing to train")
    parts = [("", vars(recipe), _OF_RECIPE), ("[data] ", recipe.data, _OF_DATA)]
    parts += [(f"[[stages]] {i}: ", vars(stage), _OF_STAGE) for i, stage in enumerate(recipe.stages, 1)]
    parts += [("[data] ", recipe.data, {name: _OF_READERS[name] for name in _OF_READERS.keys() & recipe.data.keys()})]
    for place, values, rules in parts:
        for name, (wanted, holds) in rules.items():
            if not holds(values[name]):
                raise RecipeError(f"{recipe.name}: {place}{name} is {wanted}, not {values[name]!r}")


def check_run(recipe: Recipe, data_root: Path, output: Path, init: Path | None = None) -> None:
    """Checks what a run needs later: a folder that can be written, weights, validation images and their metrics.

    Raises:
        CompressaiGenError: something is missing or cannot be read or written.
    """
    # Imported here, because the recipes need none of it.
    from compressai_gen.train.export import weight_files
    from compressai_gen.train.validate import check_validation

    check_values(recipe)
    if recipe.takes and init is None:
        raise RecipeError(f"{recipe.name} takes {', '.join(recipe.takes)} from other weights: give them with --init")
    check_output(output)
    for file in () if init is None else weight_files(init):
        if not file.is_file():
            raise RecipeError(f"{init} cannot be used to start from: there is no such file as {file}")
    check_validation(data_root / recipe.data["valid"], recipe.data["valid_images"])


def check_output(folder: Path) -> None:
    """Makes a folder, if it is not there, and sees whether files can be written into it.

    Raises:
        CompressaiGenError: it is a file, or nothing can be written there.
    """
    with telling(f"cannot write to the output folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))


@contextmanager
def telling(what: str, advice: str = "") -> Iterator[None]:
    """Turns what the block fails at, in whatever way PyTorch or the system tell it, into one line.

    Raises:
        CompressaiGenError: `what`, why, and what to do about it.
    """
    try:
        yield
    except CompressaiGenError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0] or type(error).__name__
        raise CompressaiGenError(f"{what}: {reason}{advice and f'; {advice}'}") from error
