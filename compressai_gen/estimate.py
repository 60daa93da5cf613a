"""What a codec of any size costs: parameters, arithmetic and memory, counted without weights.

Networks run on tensors that have shapes and no values, as on the meta device, but pass for the processor's, so that
autocast and attention do what they do elsewhere.
"""

from __future__ import annotations

import copy
import functools
import json
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compressai_gen import resources
from compressai_gen.arithmetic import multiply_adds
from compressai_gen.diffusion.restore import Conditions, Restorer
from compressai_gen.errors import CodecError, RecipeError
from compressai_gen.layers.transforms import BLOCK, REGION
from compressai_gen.models.base import GenerativeCodec
from compressai_gen.specs import specs
from compressai_gen.train.recipe import load_recipe

__all__ = [
    "architectures",
    "build_on_meta",
    "estimate",
    "estimate_recipe",
    "estimate_training",
    "foundation_recipes",
    "with_architectures",
]

_PARTS = {"space": "vae", "denoiser": "unet"}

_STATE_BYTES = 16
# Of a trained parameter beside itself, all in float32: its gradient, two averages of Adam, and the EMA.


def architectures() -> dict[str, dict[str, Any]]:
    """Returns the published configurations of pretrained models that are known here, by hub id."""
    files = sorted((resources.ZOO_DIR / "architectures").glob("*.json"))
    return {entry["id"]: entry for entry in (json.loads(file.read_text(encoding="utf-8")) for file in files)}


def with_architectures(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a model's configuration in which pretrained models of the hub are named by their architecture.

    Raises:
        CodecError: one is not among :func:`architectures`.
    """
    config, known = copy.deepcopy(dict(config)), architectures()
    for part, key in _PARTS.items():
        stated = (config.get("restorer") or {}).get(part, {})
        if stated.get("pretrained") and not stated.get("architecture"):
            if stated["pretrained"] not in known:
                raise CodecError(
                    f"the architecture of {stated['pretrained']!r} is not known here, but those of {', '.join(known)}: "
                    "give it as architecture"
                )
            stated["architecture"] = known[stated["pretrained"]][key]
    return config


def build_on_meta(cls: type[GenerativeCodec], config: Mapping[str, Any]) -> GenerativeCodec:
    """Makes a model that has shapes and no weights, on the meta device."""
    with torch.device("meta"):
        return cls(**with_architectures(config)).eval()


def estimate(
    cls: type[GenerativeCodec], config: Mapping[str, Any], height: int = 512, width: int = 768
) -> list[dict[str, Any]]:
    """Counts what each network of a model costs for a picture of that size, at one step of the sampler.

    Args:
        cls: of the model.
        config: of it; see :func:`with_architectures`.
        height, width: in pixels, rounded up to what the model pads to.

    Returns:
        A row per network: ``part``, ``parameters`` in millions, ``kmac_per_pixel``, ``weights_gib`` in the type that
        the configuration states, and ``activations_gib``, the most that is alive at once while it runs, without what it
        was given. In use, networks run one after the other: of activations the largest counts, of weights all.

    Raises:
        CodecError: the configuration makes no model, or names one whose architecture is not known.
    """
    model, rows = build_on_meta(cls, config), []
    with _without_values(model), torch.no_grad():
        known = _known(model, 1, height, width, rows)
        if model.restorer is not None:
            _restorer_rows(model.restorer, known, rows)
    return rows


def estimate_training(
    cls: type[GenerativeCodec],
    config: Mapping[str, Any],
    crop: int,
    batch: int = 1,
    gradient_checkpointing: bool = False,
) -> dict[str, Any]:
    """Counts what a step of the training of a model's restorer costs, on one process, under bfloat16 autocast.

    Networks of losses and of an adversary, which no configuration of a model knows, come on top.

    Args:
        cls, config: as of :func:`estimate`.
        crop: side of the crops in pixels.
        batch: crops at once.
        gradient_checkpointing: as in a recipe.

    Returns:
        ``parameters``, those trained, in millions; ``kmac_per_pixel`` of forward and backward passes; ``weights_gib``
        of the whole model, ``states_gib`` of gradients, Adam and EMA, ``activations_gib`` of the largest moment.

    Raises:
        CodecError: as of :func:`estimate`.
        RecipeError: the model has no restorer.
    """
    # Of the extra [train], which estimates of models do without.
    from compressai_gen.train import objectives

    rows = estimate(cls, config, crop, crop)
    model = build_on_meta(cls, config).requires_grad_(False)
    for module in objectives.DiffusionObjective({}, 0.0).trained(model):
        module.requires_grad_(True)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if gradient_checkpointing:
        objectives.checkpoint_gradients(model)
    with _without_values(model):
        conditions = _known(model, batch, crop, crop, [])
        step = objectives.DenoisingStep(model).train()
        x, t = torch.empty(batch, 3, crop, crop), torch.empty(batch, dtype=torch.long)

        def run() -> None:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                out = step.restored(x, conditions, t, own=False)
            out["x_hat"].float().square().mean().backward()

        macs, peak = _counted(run, model)
    forward = {row["part"]: row["kmac_per_pixel"] for row in rows}
    encodes = 1 if getattr(model, "syntax", None) is None else 2  # of the base picture, and for the syntax
    other = forward["g_a"] + forward["g_s"] + encodes * forward.get("space, encode", 0.0)
    other += objectives.OWN_ESTIMATE * forward["denoiser"]
    return {
        "parameters": round(trained / 1e6, 2),
        "kmac_per_pixel": round(macs / (batch * crop**2) / 1e3 + other, 1),
        "weights_gib": round(sum(p.numel() * p.element_size() for p in model.parameters()) / 2**30, 3),
        "states_gib": round(trained * _STATE_BYTES / 2**30, 3),
        "activations_gib": round(peak / 2**30, 2),
    }


def foundation_recipes() -> list[str]:
    """Returns the names of the zoo's recipes that train a model with a pretrained part."""
    names = sorted(path.stem for path in (resources.ZOO_DIR / "recipes").glob("*.toml"))
    return [
        name for name in names if (load_recipe(name).config.get("restorer") or {}).get("space", {}).get("pretrained")
    ]


def estimate_recipe(name: str, height: int = 512, width: int = 768) -> dict[str, Any]:
    """Counts what the model of a recipe costs, and its training.

    Args:
        name: of a recipe in the zoo, or path of a TOML file.
        height, width: of a picture in pixels.

    Returns:
        ``recipe``, ``networks`` as of :func:`estimate` and ``training``: of a recipe for a restorer, a row for each of
        its stages as of :func:`estimate_training`, with ``crop``, ``batch`` and ``pixels``, in millions, of the whole
        stage. Recipes for a codec have none.

    Raises:
        RecipeError: there is no such recipe, or it cannot be read or trained.
        CodecError: as of :func:`estimate`.
    """
    recipe = load_recipe(name)
    if recipe.model not in specs():
        raise RecipeError(f"{name}: there is no model {recipe.model!r}; there are {', '.join(specs())}")
    cls = specs()[recipe.model].load()
    training = []
    of_size = functools.cache(
        lambda crop, batch: estimate_training(cls, recipe.config, crop, batch, recipe.gradient_checkpointing)
    )
    for stage in recipe.stages if recipe.task == "diffusion" else ():
        row = of_size(stage.crop, stage.batch)
        pixels = stage.steps * stage.batch * stage.crop**2 * recipe.accumulate * max(1, recipe.processes)
        training.append({"crop": stage.crop, "batch": stage.batch, "pixels": round(pixels / 1e6)} | row)
    return {"recipe": name, "networks": estimate(cls, recipe.config, height, width), "training": training}


@contextmanager
def _without_values(model: nn.Module) -> Iterator[None]:
    """Has tensors that are made in the block, and those of the model, say that they are on the processor."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                shaped = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
                module.register_parameter(name, nn.Parameter(shaped, parameter.requires_grad))
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu"))
        yield


def _known(model: GenerativeCodec, batch: int, height: int, width: int, rows: list[dict[str, Any]]) -> Conditions:
    """What a restorer knows of pictures; adds what the networks cost that find it out."""
    height, width = (-(-side // REGION) * REGION for side in (height, width))
    x, index, n_pixels = torch.empty(batch, 3, height, width), torch.zeros(batch), batch * height * width
    levels = getattr(model, "quantizer", None) and model.quantizer.levels
    # What a decoder network sees beside the latent: a mask per level of a quantizer, if there is one.
    side = [torch.empty(batch, levels, height // BLOCK, width // BLOCK)] if levels else []
    with torch.no_grad():
        y = _row("g_a", model.g_a, lambda: model.g_a(x, index), n_pixels, rows)
        x_base = _row("g_s", model.g_s, lambda: model.g_s(y, index, *side), n_pixels, rows)
        features = model.g_s.features(y, index, *side)
        latent = torch.cat((y, *side), dim=1)
        if model.restorer is None:
            return Conditions(index, latent, features=features)
        space = model.restorer.space
        run = functools.partial(space.encode, x_base)
        counts = any(True for _ in space.parameters())
        x_base = _row("space, encode", space, run, n_pixels, rows) if counts else run()
        return Conditions(index, latent, x_base=x_base, features=features)


def _restorer_rows(restorer: Restorer, known: Conditions, rows: list[dict[str, Any]]) -> None:
    space, sample, guidance = restorer.space, known.x_base, None
    n_pixels, t = sample.shape[-2:].numel() * space.factor**2, torch.zeros(1, dtype=torch.long)
    if restorer.guidance is not None:
        run = functools.partial(restorer.guidance, known.features, known.latent, None, known.index)
        guidance = _row("guidance", restorer.guidance, run, n_pixels, rows)
    _row(
        "denoiser",
        restorer.denoiser,
        functools.partial(restorer.denoiser, sample, t, sample, known.index, guidance),
        n_pixels,
        rows,
    )
    if any(True for _ in space.parameters()):
        _row("space, decode", None, functools.partial(space.decode, sample), n_pixels, rows, space)


def _row(
    name: str,
    module: nn.Module | None,
    run: Callable[[], Any],
    n_pixels: int,
    rows: list[dict[str, Any]],
    of: nn.Module | None = None,
) -> Any:
    """Adds a network's row; returns what it makes."""
    made: list[Any] = []
    macs, peak = _counted(lambda: made.append(run()), module or of)
    parameters = [] if module is None else list(module.parameters())
    rows.append(
        {
            "part": name,
            "parameters": round(sum(p.numel() for p in parameters) / 1e6, 2),
            "kmac_per_pixel": round(macs / n_pixels / 1e3, 1),
            "weights_gib": round(sum(p.numel() * p.element_size() for p in parameters) / 2**30, 3),
            "activations_gib": round(peak / 2**30, 3),
        }
    )
    return made[0]


def _counted(run: Callable[[], Any], model: nn.Module) -> tuple[float, int]:
    """Returns the multiply-adds of a call, and the most bytes that are alive at once beside the model's own."""
    with _Alive([*model.parameters(), *model.buffers()]) as alive:
        macs = multiply_adds(run)[1]
    return macs, alive.most


class _Alive(TorchDispatchMode):
    """Adds up the memory of all tensors that operators return, until nothing refers to it any more.

    Args:
        given: tensors that do not count, nor do views of them.

    Attributes:
        most: bytes that were alive at once.
    """

    def __init__(self, given: Iterable[Tensor]):
        super().__init__()
        self.bytes: dict[int, int] = {tensor.untyped_storage()._cdata: 0 for tensor in given}
        self.now, self.most = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for storage in (leaf.untyped_storage() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)):
            if storage._cdata not in self.bytes:
                self.bytes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._free, storage._cdata)
        return out

    def _free(self, key: int) -> None:
        self.now -= self.bytes.pop(key)
