"""The training loop: one for all codecs, on one CPU or many GPUs."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import lpips
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from compressai.registry import MODELS
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from compressai_gen.data.images import list_images, read_image
from compressai_gen.errors import DatasetError, RecipeError
from compressai_gen.train.data import CropDataset
from compressai_gen.train.export import export
from compressai_gen.train.objectives import OBJECTIVES
from compressai_gen.train.recipe import Recipe

__all__ = ["train", "validate"]


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
        output: gets ``checkpoint/`` (resumable), ``log.jsonl``, ``model.safetensors`` (EMA weights), ``record.json``.
        init: a checkpoint's ``model.safetensors`` to start from instead of the warm start.
    """
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
    if recipe.model not in OBJECTIVES:
        raise RecipeError(f"{recipe.name}: no model {recipe.model!r} can be trained; known: {', '.join(OBJECTIVES)}")
    try:
        model = MODELS[recipe.model](**recipe.config)
        objective = OBJECTIVES[recipe.model](**recipe.objective).to(accelerator.device)
    except TypeError as error:
        raise RecipeError(f"{recipe.name}: {error}") from error
    checkpoint = output / "checkpoint"
    if init is not None:
        from safetensors.torch import load_file

        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(init).items()})
    elif not checkpoint.exists():
        objective.warm_start(model, data)
    model.to(accelerator.device, memory_format=torch.channels_last)
    objective.to(memory_format=torch.channels_last)
    # The factorized prior's quantiles are found by bisection when tables are built, not by an auxiliary loss.
    parameters = [p for name, p in model.named_parameters() if not name.endswith("quantiles")]
    # Gains and the factorized prior have far to go on logarithmic scales: a convolution's step is too slow for them.
    fast = [p for name, p in model.named_parameters() if _is_fast(name)]
    slow = [p for name, p in model.named_parameters() if not _is_fast(name) and not name.endswith("quantiles")]
    groups = [{"params": slow, "speed": 1.0}, {"params": fast, "speed": 8.0}]
    optimizer = torch.optim.Adam([g for g in groups if g["params"]], betas=(0.9, 0.99), fused=True)
    ema = EMAModel(parameters, decay=recipe.ema_decay, use_ema_warmup=True, inv_gamma=1.0, power=0.75, foreach=True)
    progress = _Progress()
    prepared, optimizer = accelerator.prepare(model, optimizer)
    accelerator.register_for_checkpointing(ema, objective, progress)
    if checkpoint.exists():
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
            raise RuntimeError(f"the loss is not finite at step {progress.step}: lower the learning rate and resume")
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
                run = {
                    "step": progress.step,
                    "seconds": progress.seconds,
                    "hardware": f"on {accelerator.num_processes} x {accelerator.device.type}, "
                    f"{torch.get_num_threads()} threads each",
                    "images": len(data.images),
                    "data": recipe.data["description"],
                }
                _validate_and_export(recipe, model, ema, parameters, run, data_root, output)
            accelerator.wait_for_everyone()
        # After the export: a finished checkpoint means that everything was written.
        if done or progress.step % recipe.checkpoint_every == 0:
            _save(accelerator, checkpoint)
    accelerator.end_training()


def _is_fast(name: str) -> bool:
    return name.endswith("log_gain") or ("entropy_bottleneck" in name and not name.endswith("quantiles"))


def _batches(recipe: Recipe, data: CropDataset, accelerator: Accelerator, progress: _Progress):
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


def _save(accelerator: Accelerator, checkpoint: Path) -> None:
    # A kill while writing leaves the earlier checkpoint whole.
    fresh, old = checkpoint.with_suffix(".new"), checkpoint.with_suffix(".old")
    if accelerator.is_main_process:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()
    # Not as safetensors: they merge the empty tables of a model that has none yet, and then refuse to load them.
    accelerator.save_state(fresh, safe_serialization=False)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if checkpoint.exists():
            checkpoint.rename(old)
        fresh.rename(checkpoint)
        shutil.rmtree(old, ignore_errors=True)


def _validate_and_export(
    recipe: Recipe,
    model: nn.Module,
    ema: EMAModel,
    parameters: list[nn.Parameter],
    run: dict[str, Any],
    data_root: Path,
    output: Path,
) -> None:
    ema.store(parameters)
    ema.copy_to(parameters)
    try:
        rows = validate(model.eval(), data_root / recipe.data["valid"], recipe.data["valid_images"])
        export(model, recipe, output, rows, run)
        _append(output / "validation.jsonl", {"step": run["step"], "rows": rows})
        for row in rows:
            tqdm.write(f"step {run['step']} " + " ".join(f"{k} {v}" for k, v in row.items()))
    finally:
        ema.restore(parameters)
        model.train()


@torch.no_grad()
def validate(model: nn.Module, folder: Path, per_class: int) -> list[dict[str, float]]:
    """Measures estimated rate, PSNR and LPIPS of every quality on held-out photographs, by image size.

    Args:
        model: in evaluation mode, tables not needed.
        folder: validation photographs.
        per_class: how many images to take, evenly spaced, of those below and of those above 300,000 pixels.

    Returns:
        A row per quality and size class.
    """
    paths = list_images(folder)
    if not paths:
        raise DatasetError(f"no validation images in {folder}")
    model.update(force=True)
    images = [read_image(path) for path in paths]
    classes = {
        "small": [i for i in images if i.shape[1] * i.shape[2] < 300_000],
        "large": [i for i in images if i.shape[1] * i.shape[2] >= 300_000],
    }
    device = model.quality.device
    metric = lpips.LPIPS(net="alex", verbose=False).to(device)
    rows = []
    for quality in range(1, model.n_qualities + 1):
        for name, members in classes.items():
            chosen = members[:: max(1, len(members) // per_class)][:per_class]
            sums = torch.zeros(3)
            for image in chosen:
                # At most Kodak's size: time goes with the area and the rate does not.
                x = (image[None, :, :512, :768].float() / 255).to(device)
                out = model(x, quality)
                bits = sum(-p.double().log2().sum() for p in out["likelihoods"].values())
                x_hat = (out["x_hat"].clamp(0, 1) * 255).round() / 255
                psnr = -10 * (x_hat - x).square().mean().log10()
                sums += torch.tensor((bits / math.prod(x.shape[2:]), psnr, metric(x_hat, x, normalize=True).item()))
            if chosen:
                bpp, psnr, perceptual = (sums / len(chosen)).tolist()
                rows.append(
                    {"quality": quality, "size": name, "n_images": len(chosen), "bpp": round(bpp, 5)}
                    | {"psnr": round(psnr, 3), "lpips": round(perceptual, 4)}
                )
    return rows


def _append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
