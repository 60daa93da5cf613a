"""The training loop: one for all codecs, on one CPU or many GPUs."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from compressai_gen.errors import CodecError, RecipeError
from compressai_gen.extras import extra
from compressai_gen.layers.precision import has_fast_bfloat16
from compressai_gen.models.base import GenerativeCodec
from compressai_gen.roles import belongs
from compressai_gen.specs import load_object, specs
from compressai_gen.train.board import Board
from compressai_gen.train.checks import check_run, telling
from compressai_gen.train.data import open_crops
from compressai_gen.train.discriminator import Adversary
from compressai_gen.train.export import coding_part, described_weights, export, load_weights, trained_on
from compressai_gen.train.objectives import Objective, checkpoint_gradients
from compressai_gen.train.optimizers import make_optimizer
from compressai_gen.train.preview import preview
from compressai_gen.train.recipe import Recipe, Stage
from compressai_gen.train.sharding import Averages, check_sharding, whole
from compressai_gen.train.stopwatch import Stopwatch
from compressai_gen.train.validate import score, validate

with extra("train"):
    from accelerate import Accelerator, PartialState
    from accelerate.utils import broadcast, set_seed

__all__ = ["Trainer", "shares_of", "train"]

LOG_EVERY = 100
"""Steps from one row of ``log.jsonl`` to the next."""

_LOOK_SECONDS = 5.0
# How often figures are read for the bar, which a GPU's queue has to be waited for.

_ASK_EVERY = 20
# Steps after which several processes ask the first one what time it is.


class _Progress:
    """Steps done, pixels seen, seconds spent, the best score and how many came since, of some processes.

    They are kept with every checkpoint.
    """

    def __init__(self, processes: int) -> None:
        self.step, self.pixels, self.seconds, self.processes = 0, 0, 0.0, processes
        self.best, self.worse_since = -math.inf, 0

    def state_dict(self) -> dict[str, Any]:
        return vars(self).copy()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        before, here = state.get("processes", self.processes), self.processes
        if before != here:
            raise RecipeError(
                f"the checkpoint is of {before} processes and this run has {here}: start as many in all, "
                "or begin a new run from its weights with --init"
            )
        vars(self).update(state)


class _Unsaved:
    """Buffers that a model's weights leave out, such as the moving averages of codebooks, for checkpoints."""

    def __init__(self, model: nn.Module) -> None:
        self.buffers = {
            f"{path}.{name}": getattr(module, name)
            for path, module in model.named_modules()
            for name in sorted(module._non_persistent_buffers_set)
        }

    def state_dict(self) -> dict[str, Tensor]:
        return self.buffers

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, buffer in self.buffers.items():
            buffer.copy_(state[name])


class _Means:
    """Running means of what objectives log. They stay on the device, as reading them is waiting for it."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.values = torch.zeros(0)
        self.finite = torch.tensor(True)

    def add(self, loss: Tensor, logs: dict[str, Tensor]) -> None:
        values = torch.stack([value.detach().float() for value in logs.values()])
        if self.names != list(logs):  # another stage may look at other things
            self.names, self.values = list(logs), values
        self.values = self.values.lerp(values, 0.02)
        self.finite = self.finite.to(loss.device) & torch.isfinite(loss.detach())

    def read(self) -> dict[str, float]:
        return dict(zip(self.names, self.values.tolist(), strict=True))


def train(
    recipe: Recipe,
    data_root: Path,
    output: Path,
    init: Path | None = None,
    precision: str = "auto",
    compiled: bool = False,
    minutes: float | None = None,
) -> None:
    """Trains as the recipe says, or goes on where a run in ``output`` was stopped.

    Args:
        recipe: see :func:`compressai_gen.train.recipe.load_recipe`.
        data_root: folder in which the recipe's training and validation folders lie.
        output: gets ``checkpoint/`` (resumable), ``log.jsonl``, ``validation.jsonl``, ``previews/`` and, of the EMA
            weights, the last and, in ``best/``, those of the best score, ``coding.safetensors``,
            ``networks.safetensors`` and ``record.json``.
        init: weights to start from instead of the warm start: a file (safetensors), or the folder of a run.
        precision: one of :data:`compressai_gen.parsers.training.PRECISIONS`.
        compiled: whether networks are compiled with ``torch.compile``, which takes a minute and may pay on a GPU.
        minutes: how long to train now. The run then stops with a checkpoint, validated and exported as at its end.
    """
    check_run(recipe, data_root, output, init)
    Trainer(recipe, data_root, output, init, precision, compiled).run(minutes)


class Trainer:
    """One run: what :func:`train` builds, and its steps."""

    def __init__(
        self,
        recipe: Recipe,
        data_root: Path,
        output: Path,
        init: Path | None,
        precision: str,
        compiled: bool,
        warm_start: bool = True,
    ):
        self.recipe, self.data_root, self.output, self.init = recipe, data_root, output, init
        check_sharding()
        # Without saying so, processes of a machine that has nothing else than CPUs would not know of each other.
        on_cpu = not torch.accelerator.is_available()
        fast = has_fast_bfloat16(PartialState(cpu=on_cpu).device) if precision == "auto" else precision == "bfloat16"
        self.accelerator = Accelerator(cpu=on_cpu, mixed_precision="bf16" if fast else "no")
        if self.accelerator.is_fsdp2:
            # Autocast chooses what computes in bfloat16; gathered in that, linear paths would lose what they are for.
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = None
        self.main = self.accelerator.is_main_process
        self.accumulate = recipe.accumulated_by(self.accelerator.num_processes)
        set_seed(recipe.seed)
        self.data = open_crops(data_root, recipe.data, recipe.seed, PartialState())
        self.model, self.objective = _build(recipe)
        self.checkpoint = output / "checkpoint"
        with self.accelerator.main_process_first():
            if self.main and not self.checkpoint.exists() and _old(self.checkpoint).exists():
                _old(self.checkpoint).rename(self.checkpoint)
        if warm_start and not self.checkpoint.exists() and (init is None or recipe.takes):
            self.objective.warm_start(self.model, self.data)
        if init is not None:
            load_weights(self.model, init, recipe.takes)
        keep = self.objective.keeps_coding if recipe.keep_coding is None else recipe.keep_coding
        self.coding = coding_part(self.model, init) if keep and init is not None else {}
        self._prepare(compiled)

    def _prepare(self, compiled: bool) -> None:
        """Puts everything onto the device and takes up the checkpoint, where there is one."""
        recipe, accelerator, model = self.recipe, self.accelerator, self.model
        # FSDP takes contiguous parameters alone.
        layout = torch.contiguous_format if accelerator.is_fsdp2 else torch.channels_last
        model.to(accelerator.device, memory_format=layout)
        self.objective.to(accelerator.device, memory_format=torch.channels_last)
        model.requires_grad_(False)
        for module in self.objective.trained(model):
            module.requires_grad_(True)
        self._keep_coding()
        # The factorized priors' quantiles are found by bisection when tables are built, not by an auxiliary loss.
        for name, parameter in model.named_parameters():
            if name.endswith("quantiles"):
                parameter.requires_grad_(False)  # several processes would wait for each other's gradients of them
        named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        optimizer = make_optimizer(recipe.optimizer, recipe.speeds, named)
        self.progress, self.means, self.stopwatch = (
            _Progress(accelerator.num_processes),
            _Means(),
            Stopwatch(accelerator.device),
        )
        if recipe.gradient_checkpointing:
            checkpoint_gradients(model)
        step = self.objective.step(model)
        self.stopwatch.watch(step, "model")
        if compiled:
            step.compile(dynamic=False)
        try:
            self.prepared, self.optimizer = accelerator.prepare(step, optimizer)
        except ValueError as error:  # such as layers to wrap that the model has none of
            raise RecipeError(f"{recipe.name} cannot be prepared for training as it was started: {error}") from error
        # Where they are shared out, the parameters are others now.
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.parameters = list(self.trained.values())
        self.ema = Averages(
            self.parameters, decay=recipe.ema_decay, use_ema_warmup=True, inv_gamma=1.0, power=0.75, foreach=True
        )
        self.opponent = _Opponent(recipe, accelerator) if _is_adversarial(recipe) else None
        accelerator.register_for_checkpointing(self.ema, self.objective, self.progress, _Unsaved(model), self.data)
        if self.checkpoint.exists():
            advice = "give the recipe that made it, or remove it to start again"
            with telling(f"the checkpoint {self.checkpoint} cannot be loaded", advice):
                _make_room(self.prepared, self.checkpoint)
                accelerator.load_state(self.checkpoint)
            self.ema.to(accelerator.device)

    def _keep_coding(self) -> None:
        """Freezes the coding part where it is kept, or says that the weights will be new ones."""
        coding = self.model.coding
        if self.coding:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(parameter.requires_grad and not belongs(name, coding))
            for name, module in self.model.named_modules():
                if belongs(name, coding) and hasattr(module, "learns"):
                    module.learns = False
        elif self.init is not None and self.main:
            tqdm.write(
                "trains what decides symbols: files made with the weights that it starts from will not decode with the "
                "new ones, which need a tag of their own",
                file=sys.stderr,
            )

    def run(self, minutes: float | None = None) -> None:
        """Makes all steps that are left, or those that some minutes allow."""
        recipe, progress = self.recipe, self.progress
        bar = tqdm(total=recipe.steps, initial=progress.step, desc=recipe.name, disable=not self.main, mininterval=5)
        self.board = Board(self.output / "tensorboard", progress.step) if self.main else None
        started = time.monotonic() - progress.seconds
        begun = looked = saved = logged = previewed = time.monotonic()
        pixels = progress.pixels
        while progress.step < recipe.steps:
            stage, _ = recipe.stage_at(progress.step)
            self.make_step(stage)
            progress.step += 1
            progress.pixels += self.accumulate * stage.batch * stage.crop**2 * self.accelerator.num_processes
            progress.seconds = time.monotonic() - started
            bar.update()
            if time.monotonic() - looked > _LOOK_SECONDS:
                figures = self.means.read()
                bar.set_postfix({k: f"{figures[k]:.3f}" for k in ("bpp", "psnr", "lpips") if k in figures})
                looked = time.monotonic()
            if progress.step % LOG_EVERY == 0:
                self._log((progress.pixels - pixels) / (time.monotonic() - logged))
                logged, pixels = time.monotonic(), progress.pixels
            over = minutes is not None and time.monotonic() - begun > 60 * minutes
            done = progress.step == recipe.steps or self._agree(over)
            if done or progress.step % recipe.validate_every == 0:
                done = self._validate() or done
                logged, pixels = time.monotonic(), progress.pixels
            elif self._agree(time.monotonic() - previewed > 60 * recipe.preview_minutes):
                self._preview()
                previewed = logged = time.monotonic()
                pixels = progress.pixels
            late = self._agree(time.monotonic() - saved > 60 * recipe.checkpoint_minutes)
            # After the export: a finished checkpoint means that everything was written.
            if done or progress.step % recipe.checkpoint_every == 0 or late:
                self._check_finite()
                _save(self.accelerator, self.checkpoint)
                saved = time.monotonic()
            if done:
                break
        bar.close()
        if self.board is not None:
            self.board.close()
        self.accelerator.end_training()

    def make_step(self, stage: Stage) -> None:
        """Makes a step of the optimizer on a batch; who calls it counts."""
        step, recipe, watch = self.progress.step, self.recipe, self.stopwatch
        self.objective.distortion.configure(**stage.distortion)
        for group in self.optimizer.param_groups:
            group["lr"] = group["speed"] * recipe.learning_rate_at(step)
        against = self.opponent if stage.adversarial_weight else None
        self.objective.judge = None if against is None else against.judging(stage, step)
        for part in range(self.accumulate):
            # Each step's random numbers are its own, whatever was drawn before: a resumed run goes on as if never
            # stopped.
            _seed(recipe.seed, self.accelerator.process_index, step, *([part] if part else []))
            last = part + 1 == self.accumulate
            with nullcontext() if last else self.accelerator.no_sync(self.prepared):
                loss, logs, x = self._accumulate(stage)
        with watch("optimizer"):
            logs["grad_norm"] = whole(self.accelerator.clip_grad_norm_(self.parameters, recipe.gradient_clip))
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.ema.step(self.parameters)
        if against is not None:
            with watch("adversary"):
                logs |= against.learn(step)
        self.means.add(loss, logs)
        if recipe.pictures_every and (step + 1) % recipe.pictures_every == 0:
            self._picture(x[:4])

    def _accumulate(self, stage: Stage) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Adds a batch's gradients; returns its loss, what to log of it, and the batch."""
        watch = self.stopwatch
        with watch("data"):
            x = self.data.draw(stage.batch, stage.crop).to(memory_format=torch.channels_last)
        self.prepared.train()
        with watch("forward"), self.accelerator.autocast():
            loss, logs = self.objective(self.prepared, x)
        with watch("backward"):
            self.accelerator.backward(loss / self.accumulate)
        return loss, logs, x

    @torch.no_grad()
    def _picture(self, x: Tensor) -> None:
        with self._averaged() as model:
            if model is not None:
                with self.accelerator.autocast():
                    x_hat = model(x)["x_hat"]
                self.board.pictures(x, x_hat, self.progress.step + 1)

    def _agree(self, due: bool) -> bool:
        """Whether something is due by the clock: for several processes by the first one's, looked at now and then."""
        if self.accelerator.num_processes == 1:
            return due
        if self.progress.step % _ASK_EVERY:
            return False
        return bool(broadcast(torch.tensor(due, device=self.accelerator.device)))

    def _check_finite(self) -> None:
        if not self.means.finite:
            raise RecipeError(
                f"the loss was not finite before step {self.progress.step}: lower the learning rate and resume from "
                "the last checkpoint, which is of before"
            )

    def _log(self, pixels_per_second: float) -> None:
        self._check_finite()
        seconds = self.stopwatch.take()
        if not self.main:
            return
        shares = shares_of(seconds)
        row: dict[str, Any] = {"step": self.progress.step, "seconds": round(self.progress.seconds, 1)}
        row |= {"megapixels": round(self.progress.pixels / 1e6, 2), "mpx_per_s": round(pixels_per_second / 1e6, 4)}
        row |= {k: round(v, 5) for k, v in self.means.read().items()}
        row |= {"lr": self.recipe.learning_rate_at(self.progress.step - 1)}
        if getattr(self.data, "skipped", 0):
            row |= {"skipped_images": self.data.skipped}
        row |= {"share": {k: round(v, 3) for k, v in shares.items()}}
        _append(self.output / "log.jsonl", row)
        self.board.figures(row, self.progress.step)

    def _validate(self) -> bool:
        """Measures and exports the EMA weights; returns whether they have not become better for too long."""
        self._check_finite()
        self.accelerator.wait_for_everyone()
        progress = self.progress
        with self._averaged() as model:
            if model is not None:
                run = self._described()
                reached = _validate_and_export(
                    self.recipe, model, run, self.data_root, self.output, self.coding, progress.best
                )
                progress.worse_since = 0 if reached > progress.best else progress.worse_since + 1
                progress.best = max(progress.best, reached)
        self.stopwatch.take()
        over = torch.tensor(0 < self.recipe.patience <= progress.worse_since, device=self.accelerator.device)
        return bool(broadcast(over))

    def _described(self) -> dict[str, Any]:
        """What a record says of the run so far."""
        run: dict[str, Any] = {"step": self.progress.step, "pixels": self.progress.pixels}
        run |= {"seconds": round(self.progress.seconds, 1)}
        run |= {"hardware": self.describe_hardware(), "images": len(self.data)}
        run["data"] = self.recipe.data["description"]
        if self.init is not None:
            run["init"] = described_weights(self.init)
        return run

    def _preview(self) -> None:
        self._check_finite()
        with self._averaged() as model:
            if model is not None:
                folder = self.output / "previews"
                folder.mkdir(exist_ok=True)
                path = folder / f"{self.progress.step:08d}.png"
                preview(model, self.data_root / self.recipe.data["valid"], path)
        self.accelerator.wait_for_everyone()
        self.stopwatch.take()

    @contextmanager
    def _averaged(self) -> Iterator[GenerativeCodec | None]:
        """The model with its EMA weights, for evaluation, on the main process; None on others, which take part."""
        if self.accelerator.is_fsdp2:
            yield self._gathered()
        elif self.main:
            self.ema.store(self.parameters)
            self.ema.copy_to(self.parameters)
            try:
                yield self.model.eval()
            finally:
                self.ema.restore(self.parameters)
        else:
            yield None

    @torch.no_grad()
    def _gathered(self) -> GenerativeCodec | None:
        """A copy of the model, with EMA weights gathered from all processes."""
        averages = dict(zip(self.trained, self.ema.shadow_params, strict=True))
        state = {}
        for name, tensor in self.model.state_dict().items():
            gathered = whole(averages.get(name, tensor))
            if self.main:
                state[name] = gathered.cpu()
        if not self.main:
            return None
        model = type(self.model)(**self.recipe.config)
        model.load_state_dict(state)
        return model.to(self.accelerator.device, memory_format=torch.channels_last).eval()

    def describe_hardware(self) -> str:
        """Returns what the run computes on and in which precision."""
        device = self.accelerator.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        threads = f"{torch.get_num_threads()} threads each"
        precision = "bfloat16" if self.accelerator.mixed_precision == "bf16" else "float32"
        return f"on {self.accelerator.num_processes} x {name}, {threads}, {precision}"


class _Opponent:
    """The adversary of a run with its optimizer, both in the checkpoint. Every process has them whole."""

    def __init__(self, recipe: Recipe, accelerator: Accelerator):
        self.recipe, self.accelerator = recipe, accelerator
        self.adversary = Adversary(**recipe.adversary).to(accelerator.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(
            self.adversary.parameters(), self.adversary.learning_rate, betas=(0.5, 0.99), weight_decay=0.0, fused=True
        )
        self.prepared = DistributedDataParallel(self.adversary) if accelerator.num_processes > 1 else self.adversary
        accelerator.register_for_checkpointing(self.adversary, self.optimizer)
        self.seen: tuple[Tensor, Tensor, Tensor] | None = None

    def judging(self, stage: Stage, step: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Returns what an objective adds to its loss at a step; what it shows is remembered for :meth:`learn`."""
        begin = self.recipe.stage_at(step)[1]
        weight = stage.adversarial_weight * min(1.0, (step - begin) / max(1, self.adversary.warmup))

        def judge(x_hat: Tensor, x: Tensor, x_base: Tensor) -> Tensor:
            self.seen = x_hat.detach(), x, x_base.detach()
            return weight * self.adversary.judge(x_hat, x, x_base)

        return judge

    def learn(self, step: int) -> dict[str, Tensor]:
        """Makes a step of the adversary on the pictures that it judged."""
        with self.accelerator.autocast():
            loss, logs = self.prepared(*self.seen, step)
        self.accelerator.backward(loss)
        nn.utils.clip_grad_norm_(self.adversary.parameters(), self.recipe.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return logs


def _is_adversarial(recipe: Recipe) -> bool:
    return any(stage.adversarial_weight for stage in recipe.stages)


def shares_of(seconds: dict[str, float]) -> dict[str, float]:
    """Returns what share of a step each part takes; losses are what a forward pass spends outside the model."""
    parts = {k: seconds[k] for k in ("data", "model", "backward", "optimizer", "adversary") if k in seconds}
    parts["losses"] = seconds["forward"] - seconds.get("model", 0.0)
    return {k: v / sum(parts.values()) for k, v in parts.items()}


def _seed(*entropy: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1)))


def _build(recipe: Recipe) -> tuple[GenerativeCodec, Objective]:
    spec = specs().get(recipe.model)
    if spec is None or recipe.task not in spec.objectives:
        known = ", ".join(f"{name}: {task}" for name, other in specs().items() for task in other.objectives)
        raise RecipeError(f"{recipe.name}: {recipe.model!r} has no task {recipe.task!r} to train; known: {known}")
    try:
        model = spec.load()(**recipe.config)
        objective = load_object(spec.objectives[recipe.task])(**recipe.objective)
        for stage in recipe.stages:  # an unknown option or missing network is told now, not after the stages before
            objective.distortion.configure(**stage.distortion)
        if _is_adversarial(recipe) and not objective.has_base:
            raise TypeError("only a restorer has an adversary, which sees its pictures beside base ones")
        Adversary(**recipe.adversary)
    except (CodecError, TypeError) as error:
        raise RecipeError(f"{recipe.name}: {error}") from error
    return model, objective


def _make_room(step: nn.Module, checkpoint: Path) -> None:
    """Gives buffers the sizes that they have in a checkpoint: a model has tables since it was validated."""
    if not (checkpoint / "pytorch_model.bin").exists():  # shared out, it never is as a whole
        return
    saved = torch.load(checkpoint / "pytorch_model.bin", map_location="cpu", weights_only=True, mmap=True)
    for name, buffer in step.named_buffers():
        if name in saved and saved[name].shape != buffer.shape:
            buffer.resize_(saved[name].shape)


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


def _validate_and_export(
    recipe: Recipe,
    model: GenerativeCodec,
    run: dict[str, Any],
    data_root: Path,
    output: Path,
    coding: Mapping[str, Tensor],
    best: float,
) -> float:
    """Returns the score; weights that are better than the best before lie in ``best/``, too."""
    rows = validate(model, data_root / recipe.data["valid"], recipe.data["valid_images"])
    reached = score(rows, trained_on(recipe, run))
    run["score"] = round(reached, 5) if math.isfinite(reached) else None
    export(model, recipe, output, rows, run, coding)
    if reached > best:
        export(model, recipe, output / "best", rows, run, coding)
    _append(output / "validation.jsonl", {"step": run["step"], "score": run["score"], "rows": rows})
    for row in rows:
        tqdm.write(f"step {run['step']} " + " ".join(f"{k} {v}" for k, v in row.items()))
    tqdm.write(f"step {run['step']} score {reached:.3f}")
    return reached


def _append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
