"""How fast a recipe trains here, and which part of a step takes how long: ``compressai-gen train RECIPE --profile``."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from compressai_gen.train.loop import Trainer, shares_of
from compressai_gen.train.recipe import Recipe, Stage

__all__ = ["profile"]

_WARM_UP = 2
# Steps before those that are timed: kernels are chosen and memory is had in the first.


def profile(
    recipe: Recipe,
    data_root: Path,
    init: Path | None = None,
    precision: str = "auto",
    compiled: bool = False,
    seconds: float = 20.0,
) -> str:
    """Trains each stage of a recipe for some time, keeps nothing, and returns where the time went.

    Args:
        recipe, data_root, init, precision, compiled: as of :func:`compressai_gen.train.loop.train`. Without ``init``,
            weights are random: they take the same time.
        seconds: about how long each stage's steps are timed.

    Returns:
        A text: of each stage the megapixels per second and the share of each part. The time of processors says how long
        a step would take were nothing else running.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(recipe, data_root, Path(folder), init, precision, compiled, warm_start=False)
        for name, part in trainer.model.named_children():
            trainer.stopwatch.watch(part, f"model: {name}", deep=True)
        for name, network in trainer.objective.distortion.networks.items():
            trainer.stopwatch.watch(network, f"losses: {name}")
        lines = [f"{recipe.name}, {trainer.describe_hardware()}"]
        for i, stage in enumerate(recipe.stages, 1):
            lines += [f"stage {i}: {_of_stage(trainer, stage, seconds)}"]
    return "\n".join(lines)


def _of_stage(trainer: Trainer, stage: Stage, seconds: float) -> str:
    for _ in range(_WARM_UP):
        trainer.make_step(stage)
    _wait(trainer.accelerator.device)
    trainer.stopwatch.take()
    started, worked, n = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - started < seconds:
        trainer.make_step(stage)
        n += 1
        if n % 10 == 0:  # or a GPU's queue would grow without end
            _wait(trainer.accelerator.device)
    _wait(trainer.accelerator.device)
    elapsed, worked = (time.perf_counter() - started) / n, (time.process_time() - worked) / n
    taken = {name: s / n for name, s in trainer.stopwatch.take().items()}
    pixels = stage.batch * stage.crop**2 * trainer.accelerator.num_processes
    lines = [
        f"{stage.batch} crops of {stage.crop}x{stage.crop}, {n} steps, {elapsed:.3f} s a step "
        f"({worked:.3f} s of processors), {pixels / elapsed / 1e6:.3f} megapixels per second"
    ]
    for part, share in shares_of(taken).items():
        lines.append(f"  {part:<12}{share:7.1%}")
        inner = {name: s for name, s in taken.items() if name.startswith(f"{part}: ")}
        lines += [f"    {name.split(': ')[1]:<18}{s / elapsed:7.1%}" for name, s in inner.items()]
    return "\n".join(lines)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
