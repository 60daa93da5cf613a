"""Training recipes: TOML files in ``zoo/recipes`` that say everything a training run needs but where the data lies."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressai_gen.errors import RecipeError
from compressai_gen.resources import ZOO_DIR
from compressai_gen.train.checks import check_values

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Recipe", "Stage", "load_recipe"]


@dataclass(frozen=True)
class Stage:
    """A stretch of training with one crop size.

    Attributes:
        steps: of the optimizer.
        batch: crops a process and step.
        crop: their side in pixels.
        learning_rate: at its start, in place of the recipe's schedule.
        final_learning_rate: which it falls to by a cosine over the stage; by default it stays.
        distortion: options that differ from ``[objective.distortion]`` here.
        adversarial_weight: of the adversary's judgement; 0: it takes no part.
    """

    steps: int
    batch: int
    crop: int
    learning_rate: float | None = None
    final_learning_rate: float | None = None
    distortion: dict[str, Any] = field(default_factory=dict)
    adversarial_weight: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """What :func:`compressai_gen.train.loop.train` follows; the fields are documented in ``zoo/recipes``.

    Batches are of one process. ``processes`` says how many of them a recipe is meant for: fewer add up as many more
    batches, so that a step sees as many crops. With 0, whatever number there is takes part. ``takes`` names the parts,
    such as ``g_s.blocks``, that come from the weights of ``--init``, which may be another model's; the rest starts as
    it would without them. Where it is empty, everything is theirs.
    """

    name: str
    model: str
    seed: int
    stages: tuple[Stage, ...]
    learning_rate: float
    warmup: int
    final_learning_rate: float
    decay_from: float
    ema_decay: float
    gradient_clip: float
    data: dict[str, Any]
    objective: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    task: str = "codec"
    keep_coding: bool | None = None
    takes: list[str] = field(default_factory=list)
    optimizer: dict[str, Any] = field(default_factory=dict)
    adversary: dict[str, Any] = field(default_factory=dict)
    speeds: dict[str, float] = field(default_factory=dict)
    accumulate: int = 1
    processes: int = 0
    gradient_checkpointing: bool = False
    pictures_every: int = 0
    checkpoint_every: int = 500
    checkpoint_minutes: float = 10.0
    preview_minutes: float = 60.0
    validate_every: int = 2000
    patience: int = 0

    @property
    def steps(self) -> int:
        """Optimizer steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def accumulated_by(self, processes: int) -> int:
        """Returns how many batches each of some processes adds up for a step.

        Raises:
            RecipeError: those that the recipe is meant for cannot be shared equally.
        """
        if not self.processes:
            return self.accumulate
        batches, rest = divmod(self.accumulate * self.processes, processes)
        if rest:
            raise RecipeError(
                f"{self.name} is meant for {self.processes} processes, whose {self.accumulate * self.processes} "
                f"batches a step {processes} cannot share equally: start another number, or change its processes"
            )
        return batches

    def stage_at(self, step: int) -> tuple[Stage, int]:
        """Returns the stage that a step belongs to and the step at which the stage begins."""
        begin = 0
        for stage in self.stages:
            if step < begin + stage.steps:
                return stage, begin
            begin += stage.steps
        raise IndexError(step)

    def learning_rate_at(self, step: int) -> float:
        """Returns the learning rate of a step.

        Linear warm-up, constant, then a cosine from ``decay_from`` of all steps to the end; a stage with a rate of its
        own goes by a cosine from that to its final one instead.
        """
        stage, begin = self.stage_at(step)
        high, low = self.learning_rate, self.final_learning_rate
        done = max(0.0, (step / self.steps - self.decay_from) / (1 - self.decay_from))
        if stage.learning_rate is not None:
            high = stage.learning_rate
            low = high if stage.final_learning_rate is None else stage.final_learning_rate
            done = (step - begin) / stage.steps
        rate = low + (high - low) * (1 + math.cos(math.pi * done)) / 2
        return rate * min(1.0, (step + 1) / self.warmup) if self.warmup else rate


def load_recipe(name_or_path: str) -> Recipe:
    """Reads a recipe by its name in the zoo (``cgdm-v1-base``) or from a file.

    Raises:
        RecipeError: there is no such recipe, or a field is missing, unknown or of an impossible value.
    """
    path = Path(name_or_path)
    if not path.is_file():
        path = ZOO_DIR / "recipes" / f"{name_or_path}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in (ZOO_DIR / "recipes").glob("*.toml")))
        raise RecipeError(f"no recipe {name_or_path!r}: give a TOML file or one of {known}")
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
        stages = tuple(Stage(**stage) for stage in fields.pop("stages"))
        recipe = Recipe(name=path.stem, stages=stages, **fields)
        missing = {"description", "scale", "train", "valid", "valid_images"} - recipe.data.keys()
        if missing:
            raise KeyError(f"[data] lacks {', '.join(sorted(missing))}")
        check_values(recipe)
        return recipe
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    except (KeyError, TypeError) as error:
        raise RecipeError(f"{path}: {error}; the recipes in zoo/recipes show every field") from error
