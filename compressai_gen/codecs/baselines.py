"""Learned baselines: CompressAI's zoo, MS-ILLM, and checkpoint files of any architecture known here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import compressai.zoo
import torch
import torch.nn.functional as F
from compressai.models import CompressionModel
from compressai.zoo.image import model_architectures, model_urls
from torch import Tensor, nn

from compressai_gen.codecs import hific  # noqa: F401  (registers it as an architecture)
from compressai_gen.codecs.learned import LearnedCodec
from compressai_gen.entropy.rans import guarded
from compressai_gen.errors import BitstreamError, CodecError
from compressai_gen.files import printable
from compressai_gen.weights import download_state, first_line, read_state
from compressai_gen.zoo.files import output_version

__all__ = ["PUBLISHED_MODELS", "checkpoint_codec", "published_codec"]

_MSILLM_URL = "https://dl.fbaipublicfiles.com/NeuralCompression/2023-muckley-msillm/msillm_target_{}bpp.ckpt"
# Target rates in bits per pixel of qualities 1 to 6, as in the file names.
_MSILLM_TARGETS = ("0.035", "0.07", "0.14", "0.3", "0.45", "0.9")
_MSILLM_NOTICE = (
    "MS-ILLM's weights are Meta's, under CC-BY-NC 4.0 (no commercial use): "
    "https://github.com/facebookresearch/NeuralCompression/blob/main/WEIGHTS_LICENSE"
)

# Squared error and LPIPS (AlexNet) before the discriminator's stage (projects/illm/README.md of NeuralCompression).
_MSILLM_TRAINED = frozenset({"psnr", "lpips"})

# Of the latents of CompressAI's models at most: 320 channels at a 16th of the resolution, 192 at a 64th.
_SYMBOLS_PER_PIXEL = 2


class AnySize(nn.Module):
    """Lets a model of CompressAI code images of any size.

    Pads at the bottom and right by repeating the last row and column; a decoder gets the size of the image beside the
    model's own shape.
    """

    def __init__(self, model: CompressionModel) -> None:
        super().__init__()
        self.model = model

    def compress(self, x: Tensor) -> dict[str, Any]:
        """Compress images (N, 3, H, W) in [0, 1]."""
        height, width = x.shape[-2:]
        multiple = self.model.downsampling_factor
        out = self.model.compress(F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate"))
        return {"strings": out["strings"], "shape": ((height, width), tuple(out["shape"]))}

    def decompress(self, strings: list[list[bytes]], shape: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Decompress what :meth:`compress` returned.

        Raises:
            BitstreamError: the model's own shape does not follow from the image's.
        """
        (height, width), latent_shape = shape
        rows, columns = (-(-side // self.model.downsampling_factor) for side in (height, width))
        if tuple(latent_shape) != (rows, columns):
            raise BitstreamError(f"{width}x{height} pixels have a latent of {rows}x{columns}, not {latent_shape}")
        n_symbols = _SYMBOLS_PER_PIXEL * rows * columns * self.model.downsampling_factor**2
        strings = [[guarded(string, n_symbols) for string in of_kind] for of_kind in strings]
        return {"x_hat": self.model.decompress(strings, latent_shape)["x_hat"][..., :height, :width]}


def _build(architecture: str, state: dict[str, Tensor], source: str, force_update: bool) -> nn.Module:
    """Return the model of a state, with probability tables."""
    try:
        model = model_architectures[architecture].from_state_dict(state)
    except (IndexError, KeyError, RuntimeError) as error:
        raise CodecError(f"{source} does not hold weights of {architecture}: {first_line(error)}") from error
    model.update(force=force_update)
    # CompressAI's models leave padding to the caller, those of this package do not.
    return AnySize(model) if hasattr(model, "downsampling_factor") else model


def _load_compressai(name: str, quality: int) -> nn.Module:
    url = model_urls[name]["mse"][quality]
    # CompressAI names its files by their hash. Its own loading would run any code that a file holds.
    state = compressai.zoo.load_state_dict(download_state(f"{name} quality {quality}", url, check_hash=True))
    return _build(name, state, url, force_update=False)


def _load_msillm(name: str, quality: int) -> nn.Module:
    url = _MSILLM_URL.format(_MSILLM_TARGETS[quality - 1])
    state = download_state(f"{name} quality {quality}", url, notice=_MSILLM_NOTICE)
    return _build("hific", state, url, force_update=False)


# CompressAI's models of one rate each whose weights are published, so neither ours nor its variable-rate ones.
PUBLISHED_MODELS: dict[str, tuple[tuple[int, ...], Callable[[str, int], nn.Module]]] = {
    **{
        name: (tuple(urls["mse"]), _load_compressai)
        for name, urls in model_urls.items()
        if name in compressai.zoo.image_models
    },
    "msillm": (tuple(range(1, len(_MSILLM_TARGETS) + 1)), _load_msillm),
}
"""Qualities of each model and what loads one of them."""


def published_codec(name: str, device: str | torch.device = "cpu") -> LearnedCodec:
    """Return a codec of ``PUBLISHED_MODELS``; the weights of a quality are downloaded when it is first used.

    CompressAI's are those trained for squared error.
    """
    qualities, load = PUBLISHED_MODELS[name]
    trained = _MSILLM_TRAINED if name == "msillm" else frozenset({"psnr"})
    return LearnedCodec(
        name, qualities, lambda quality: load(name, quality), device, _version(name), trained_metrics=trained
    )


def checkpoint_codec(architecture: str, paths: Sequence[Path], device: str | torch.device = "cpu") -> LearnedCodec:
    """Return the codec of checkpoint files of one architecture, loaded as CompressAI's ``eval_model`` does.

    Args:
        architecture: of CompressAI's zoo or of this package.
        paths: one file per quality, numbered from 1, in the order of increasing rate.
        device: where the models run.

    Raises:
        CodecError: the architecture is unknown, or a file is missing.
    """
    if architecture not in model_architectures:
        raise CodecError(f"unknown architecture '{architecture}'; known: {', '.join(model_architectures)}")
    try:
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    except OSError as error:
        raise CodecError(f"the checkpoint cannot be read: {error}") from error

    def load(quality: int) -> nn.Module:
        path = paths[quality - 1]
        return _build(architecture, read_state(path), str(path), force_update=True)

    qualities = tuple(range(1, len(paths) + 1))
    name, fixed = f"{architecture}:{printable(paths[0].stem)}", " ".join([_version(architecture), *digests])
    return LearnedCodec(name, qualities, load, device, fixed)


def _version(name: str) -> str:
    """What decides the figures of given weights."""
    return f"compressai {version('compressai')} torch {torch.__version__} {output_version(None)}"
