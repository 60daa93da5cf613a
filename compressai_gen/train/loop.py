"""The training loop: one for all codecs, on one CPU or many GPUs."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from compressai.registry import MODELS
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from compressai_gen.errors import CodecError, RecipeError
from compressai_gen.extras import extra
from compressai_gen.models.base import GenerativeCodec
from compressai_gen.train.checks import check_run, telling
from compressai_gen.train.data import CropDataset
from compressai_gen.train.export import described_weights, export, load_weights
from compressai_gen.train.objectives import OBJECTIVES, Objective
from compressai_gen.train.recipe import Recipe
from compressai_gen.train.validate import validate

with extra("train"):
    from accelerate import Accelerator
    from accelerate.utils import set_seed

__all__ = ["train"]


class _Progress:
    """Steps done and seconds spent, kept with every checkpoint."""

    def __init__(self) -> None:
        self.step, self.seconds = 0, 0.0

    def state_dict(self) -> dict[str, Any]:
        return vars(self).copy()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


def train(recipe: Recipe, data_root: Path, output: Path, init: Path | None = None) -> None:
    """Trains as the recipe says, or goes on where a run in ``output`` was stopped.

    Args:
        recipe: see :func:`compressai_gen.train.recipe.load_recipe`.
        data_root: folder in which the recipe's training and validation folders lie.
        output: gets ``checkpoint/`` (resumable), ``log.jsonl``, and of the EMA weights ``coding.safetensors``,
            ``networks.safetensors`` and ``record.json``.
        init: weights to start from instead of the warm start: a file (safetensors), or the folder of a run.
    """
    check_run(recipe, data_root, output, init)
    accelerator = Accelerator(mixed_precision="bf16")
    # Several processes must not sample the same crops; a resumed run draws fresh ones.
    set_seed(recipe.seed, device_specific=True)
    output.mkdir(parents=True, exist_ok=True)
    main = accelerator.is_main_process
    data = CropDataset(
        data_root / recipe.data["train"],
        tuple(recipe.data["scale"]),
        length=max(stage.steps * stage.batch for stage in recipe.stages) * accelerator.num_processes,
        progress=main,
    )
    model, objective = _build(recipe)
    checkpoint = output / "checkpoint"
    with accelerator.main_process_first():
        if main and not checkpoint.exists() and _old(checkpoint).exists():
            _old(checkpoint).rename(checkpoint)
    if init is not None:
        load_weights(model, init)
    elif not checkpoint.exists():
        objective.warm_start(model, data)
    model.to(accelerator.device, memory_format=torch.channels_last)
    objective.to(accelerator.device, memory_format=torch.channels_last)
    model.requires_grad_(False)
    for module in objective.trained(model):
        module.requires_grad_(True)
    # The factorized priors' quantiles are found by bisection when tables are built, not by an auxiliary loss.
    named = {n: p for n, p in model.named_parameters() if p.requires_grad and not n.endswith("quantiles")}
    parameters = list(named.values())
    optimizer = _optimizer(named)
    ema = EMAModel(parameters, decay=recipe.ema_decay, use_ema_warmup=True, inv_gamma=1.0, power=0.75, foreach=True)
    progress = _Progress()
    prepared, optimizer = accelerator.prepare(objective.step(model), optimizer)
    accelerator.register_for_checkpointing(ema, objective, progress)
    if checkpoint.exists():
        advice = "give the recipe that made it, or remove it to start again"
        with telling(f"the checkpoint {checkpoint} cannot be loaded", advice):
            accelerator.load_state(checkpoint)
        ema.to(accelerator.device)
        set_seed(recipe.seed + progress.step, device_specific=True)
    bar = tqdm(total=recipe.steps, initial=progress.step, desc=recipe.name, disable=not main, mininterval=5)
    started = time.monotonic() - progress.seconds
    mean: dict[str, Tensor] = {}
    for x in _batches(recipe, data, accelerator, progress):
        for group in optimizer.param_groups:
            group["lr"] = group["speed"] * _learning_rate(recipe, progress.step)
        prepared.train()
        with accelerator.autocast():
            loss, logs = objective(prepared, x.to(memory_format=torch.channels_last))
        if not torch.isfinite(loss):
            raise RecipeError(f"the loss is not finite at step {progress.step}: lower the learning rate and resume")
        accelerator.backward(loss)
        logs["grad_norm"] = accelerator.clip_grad_norm_(parameters, recipe.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(parameters)
        progress.step += 1
        progress.seconds = time.monotonic() - started
        for key, value in logs.items():
            mean[key] = value if key not in mean else mean[key].lerp(value, 0.02)
        bar.update()
        bar.set_postfix({k: f"{float(mean[k]):.3f}" for k in ("bpp", "psnr", "lpips") if k in mean}, refresh=False)
        if progress.step % 100 == 0 and main:
            figures = {k: round(float(v), 5) for k, v in mean.items()}
            _append(output / "log.jsonl", {"step": progress.step, "seconds": round(progress.seconds, 1)} | figures)
        done = progress.step == recipe.steps
        if done or progress.step % recipe.validate_every == 0:
            accelerator.wait_for_everyone()
            if main:
                run = _describe(recipe, progress, accelerator, len(data.images), init)
                ema.store(parameters)
                ema.copy_to(parameters)
                _validate_and_export(recipe, model.eval(), run, data_root, output)
                ema.restore(parameters)
            accelerator.wait_for_everyone()
        # After the export: a finished checkpoint means that everything was written.
        if done or progress.step % recipe.checkpoint_every == 0:
            _save(accelerator, checkpoint)
    accelerator.end_training()


def _build(recipe: Recipe) -> tuple[GenerativeCodec, Objective]:
    if recipe.model not in MODELS or recipe.task not in OBJECTIVES.get(recipe.model, {}):
        known = ", ".join(f"{model}: {task}" for model, tasks in OBJECTIVES.items() for task in tasks)
        raise RecipeError(f"{recipe.name}: {recipe.model!r} has no task {recipe.task!r} to train; known: {known}")
    try:
        return MODELS[recipe.model](**recipe.config), OBJECTIVES[recipe.model][recipe.task](**recipe.objective)
    except (CodecError, TypeError) as error:
        raise RecipeError(f"{recipe.name}: {error}") from error


def _optimizer(named: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    # Gains and the factorized prior have far to go on logarithmic scales: a convolution's step is too slow for them.
    fast = {name: p for name, p in named.items() if name.endswith("log_gain") or "entropy_bottleneck" in name}
    slow = [p for name, p in named.items() if name not in fast]
    groups = [{"params": slow, "speed": 1.0}, {"params": list(fast.values()), "speed": 8.0}]
    return torch.optim.Adam([g for g in groups if g["params"]], betas=(0.9, 0.99), fused=True)


def _batches(recipe: Recipe, data: CropDataset, accelerator: Accelerator, progress: _Progress) -> Iterator[Tensor]:
    """Yields batches, stage by stage, from the step that ``progress`` has reached."""
    end = 0
    for stage in recipe.stages:
        end += stage.steps
        if progress.step >= end:
            continue
        data.crop = stage.crop
        for x in accelerator.prepare(DataLoader(data, batch_size=stage.batch)):
            yield x
            if progress.step >= end:
                break


def _learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, constant, then a cosine from ``decay_from`` of the steps to the end."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    t = max(0.0, (step / recipe.steps - recipe.decay_from) / (1 - recipe.decay_from))
    low, high = recipe.final_learning_rate, recipe.learning_rate
    return low + (high - low) * (1 + math.cos(math.pi * t)) / 2


def _old(checkpoint: Path) -> Path:
    return checkpoint.with_suffix(".old")


def _save(accelerator: Accelerator, checkpoint: Path) -> None:
    # A kill while writing leaves the earlier checkpoint whole, one between the renames leaves it under its old name.
    fresh, old = checkpoint.with_suffix(".new"), _old(checkpoint)
    if accelerator.is_main_process:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()
    with telling(f"cannot write the checkpoint {fresh}", "the last one is whole, and the same command goes on from it"):
        # Not as safetensors: they merge the empty tables of a model that has none yet, and then refuse to load them.
        accelerator.save_state(fresh, safe_serialization=False)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if checkpoint.exists():
            checkpoint.rename(old)
        fresh.rename(checkpoint)
        shutil.rmtree(old, ignore_errors=True)


def _describe(
    recipe: Recipe, progress: _Progress, accelerator: Accelerator, n_images: int, init: Path | None
) -> dict[str, Any]:
    hardware = f"on {accelerator.num_processes} x {accelerator.device.type}, {torch.get_num_threads()} threads each"
    run = progress.state_dict() | {"hardware": hardware, "images": n_images, "data": recipe.data["description"]}
    return run if init is None else run | {"init": described_weights(init)}


def _validate_and_export(
    recipe: Recipe, model: GenerativeCodec, run: dict[str, Any], data_root: Path, output: Path
) -> None:
    rows = validate(model, data_root / recipe.data["valid"], recipe.data["valid_images"])
    export(model, recipe, output, rows, run)
    _append(output / "validation.jsonl", {"step": run["step"], "rows": rows})
    for row in rows:
        tqdm.write(f"step {run['step']} " + " ".join(f"{k} {v}" for k, v in row.items()))


def _append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
