"""What a codec of any size costs: parameters, arithmetic and memory, counted without weights."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compressai_gen import resources
from compressai_gen.diffusion.restore import Restorer
from compressai_gen.errors import CodecError
from compressai_gen.layers.transforms import BLOCK
from compressai_gen.models.base import GenerativeCodec

__all__ = ["architectures", "build_on_meta", "estimate", "with_architectures"]

_PARTS = {"space": "vae", "denoiser": "unet"}


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
        height, width: multiples of 64.

    Returns:
        A row per network: ``part``, ``parameters`` in millions, ``kmac_per_pixel``, and ``weights_gib`` in the type
        that the configuration states.
    """
    config = with_architectures(config)
    codec = cls(**config | {"restorer": None}).eval()
    x, quality = torch.rand(1, 3, height, width), torch.zeros(1, dtype=torch.long)
    with torch.no_grad():
        y, side, n_pixels = codec.g_a(x, quality), _side(codec, height, width), height * width
        features = codec.g_s.features(y, quality, *side)
        rows = [_row("g_a", codec.g_a, lambda: codec.g_a(x, quality), n_pixels)]
        rows.append(_row("g_s", codec.g_s, lambda: codec.g_s(y, quality, *side), n_pixels))
        if config.get("restorer"):
            restorer = build_on_meta(cls, config).restorer
            picture, latent, index = (f.to("meta") for f in (x, torch.cat((y, *side), dim=1), quality))
            rows += _restorer_rows(restorer, picture, latent, index, [f.to("meta") for f in features], n_pixels)
    return rows


def _side(codec: GenerativeCodec, height: int, width: int) -> list[Tensor]:
    """What a decoder network sees beside the latent: a mask per level of a quantizer, if there is one."""
    quantizer = getattr(codec, "quantizer", None)
    return [] if quantizer is None else [torch.zeros(1, quantizer.levels, height // BLOCK, width // BLOCK)]


def _restorer_rows(
    restorer: Restorer, x: Tensor, latent: Tensor, quality: Tensor, features: list[Tensor], n_pixels: int
) -> list[dict[str, Any]]:
    space, rows = restorer.space, []
    sample, t = space.encode(x), torch.zeros(1, dtype=torch.long, device="meta")
    if any(True for _ in space.parameters()):
        rows.append(_row("space, encode", space, lambda: space.encode(x), n_pixels))
        rows.append(_row("space, decode", None, lambda: space.decode(sample), n_pixels))
    guidance = None
    if restorer.guidance is not None:
        guidance = restorer.guidance(features, latent, None, quality)
        run = partial(restorer.guidance, features, latent, None, quality)
        rows.append(_row("guidance", restorer.guidance, run, n_pixels))
    run = partial(restorer.denoiser, sample, t, sample, quality, guidance)
    return [*rows, _row("denoiser", restorer.denoiser, run, n_pixels)]


def _row(name: str, module: nn.Module | None, run: Callable[[], Any], n_pixels: int) -> dict[str, Any]:
    with FlopCounterMode(display=False) as counter:
        run()
    parameters = [] if module is None else list(module.parameters())
    return {
        "part": name,
        "parameters": round(sum(p.numel() for p in parameters) / 1e6, 2),
        "kmac_per_pixel": round(counter.get_total_flops() / 2 / n_pixels / 1e3, 1),
        "weights_gib": round(sum(p.numel() * p.element_size() for p in parameters) / 2**30, 3),
    }
