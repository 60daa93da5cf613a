"""Pretrained latent diffusion as parts of a restorer: autoencoder, U-Net with learned tokens, and its guidance.

A part names its model by hub id or folder, as ``save_pretrained`` writes it. What was loaded is stated in the model's
configuration as ``architecture``, with which it is built again without hub or folder: trained weights bring the rest.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny, ModelMixin, SchedulerMixin, UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from compressai_gen.configuration import register_part
from compressai_gen.diffusion.guidance import SyntaxFusion
from compressai_gen.diffusion.spaces import Space
from compressai_gen.errors import CodecError
from compressai_gen.extras import extra
from compressai_gen.layers.blocks import ResidualBlock, zero_conv
from compressai_gen.layers.quality import between_qualities
from compressai_gen.layers.transforms import BLOCK

__all__ = ["DTYPES", "LORA_TARGETS", "AutoencoderSpace", "ControlBranch", "LatentUNet", "load_pretrained"]

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Types that pretrained weights may have."""

LORA_TARGETS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
    "conv1",
    "conv2",
)
"""Layers of a U-Net that get an adapter: attention, feed-forward and the convolutions of residual blocks."""

_FACTOR = 8
_WEIGHTS = "diffusion_pytorch_model"
_IN_FILE = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def load_pretrained(
    classes: Sequence[type[ModelMixin]],
    name: str,
    subfolder: str,
    revision: str | None,
    variant: str | None,
    dtype: str,
) -> ModelMixin:
    """Loads a model of ``diffusers`` from safetensors, never from pickles.

    Args:
        classes: it may be of one of them, as its ``config.json`` says.
        name: hub id, such as ``stabilityai/sd-turbo``, or folder.
        subfolder: of the model in it, such as ``unet``; empty for none.
        revision: branch, tag or commit on the hub.
        variant: of the files, such as ``fp16``.
        dtype: of the weights, a key of :data:`DTYPES`.

    Raises:
        CodecError: it cannot be reached, lacks ``config.json``, is of another class, or has weights of another type.
    """
    if dtype not in DTYPES:
        raise CodecError(f"dtype is one of {', '.join(DTYPES)}, not {dtype!r}")
    folder = _located(name, subfolder, revision, variant)
    cls = _class_of(folder, classes)
    files = sorted(folder.glob(f"{_WEIGHTS}*.{variant}*.safetensors" if variant else f"{_WEIGHTS}*.safetensors"))
    files = files if variant else [f for f in files if f.name.count(".") == 1]
    if not files:
        raise CodecError(f"{folder} has no {variant or ''} weights as safetensors: name another variant or revision")
    found = {_dtype_of(file) for file in files}
    if found != {dtype}:
        raise CodecError(
            f"the weights in {folder} are {', '.join(sorted(found))}, not {dtype}: set dtype to what they are, or name "
            "the variant or revision that has others"
        )
    try:
        return cls.from_pretrained(folder, variant=variant, torch_dtype=DTYPES[dtype], use_safetensors=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CodecError(f"{folder} cannot be loaded as {cls.__name__}: {_first_line(error)}") from error


def _located(name: str, subfolder: str, revision: str | None, variant: str | None) -> Path:
    """The folder of a model's files, downloaded where they are on the hub."""
    folder = Path(name)
    if not folder.is_dir():
        folder = _downloaded(name, subfolder, revision, variant)
    folder = folder / subfolder if subfolder and (folder / subfolder).is_dir() else folder
    if not (folder / "config.json").is_file():
        raise CodecError(f"{folder} has no config.json: name a folder that save_pretrained wrote, or a hub id")
    return folder


def _downloaded(name: str, subfolder: str, revision: str | None, variant: str | None) -> Path:
    # Of the packages that diffusers brings; heavy, and not needed for folders.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    inside = f"{subfolder}/" if subfolder else ""
    weights = f"{_WEIGHTS}*.{variant}*.safetensors" if variant else f"{_WEIGHTS}*.safetensors"
    patterns = [f"{inside}config.json", f"{inside}{weights}", f"{inside}{_WEIGHTS}*.index*.json"]
    other = [] if variant else [f"{inside}{_WEIGHTS}.*.safetensors"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=other))
    except HFValidationError as error:
        raise CodecError(f"{name!r} is neither a folder nor a hub id: {_first_line(error)}") from error
    # The hub's client raises errors of many packages: no network, no such model, no access.
    except Exception as error:
        raise CodecError(
            f"{name} is no folder, and cannot be had from the hub ({_first_line(error)}): check the id and revision, "
            "log in where its licence must be accepted, or name a folder"
        ) from error


def _class_of(folder: Path, classes: Sequence[type[ModelMixin]]) -> type[ModelMixin]:
    try:
        stated = json.loads((folder / "config.json").read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CodecError(f"{folder / 'config.json'} says of no model of diffusers what it is: {error!r}") from error
    for cls in classes:
        if cls.__name__ == stated:
            return cls
    raise CodecError(f"{folder} holds {stated}: name a folder or hub id of {' or '.join(c.__name__ for c in classes)}")


def _dtype_of(file: Path) -> str:
    try:
        with safe_open(file, "pt") as tensors:
            name = tensors.get_slice(next(iter(tensors.keys()))).get_dtype()
    except (OSError, SafetensorError, StopIteration) as error:
        raise CodecError(f"{file} cannot be read ({_first_line(error)}): download or copy it again") from error
    return _IN_FILE.get(name, name)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class _Pretrained:
    """What parts that hold a model of ``diffusers`` share."""

    classes: tuple[type[ModelMixin], ...]

    def _model(
        self,
        pretrained: str,
        subfolder: str,
        revision: str | None,
        variant: str | None,
        dtype: str,
        architecture: Mapping[str, Any] | None,
    ) -> ModelMixin:
        if architecture is None:
            if not pretrained:
                raise CodecError(f"{type(self).__name__} needs pretrained, a hub id or folder")
            model = load_pretrained(self.classes, pretrained, subfolder, revision, variant, dtype)
        else:
            by_name = {cls.__name__: cls for cls in self.classes}
            if architecture.get("_class_name") not in by_name:
                raise CodecError(f"architecture must be a config.json of {' or '.join(by_name)}")
            cls = by_name[architecture["_class_name"]]
            model = cls.from_config(dict(architecture))
            if DTYPES[dtype] != model.dtype:
                model.to(DTYPES[dtype])
        self.stated = {"architecture": _plain(model, architecture)}
        return model


def _plain(model: ModelMixin, architecture: Mapping[str, Any] | None) -> dict[str, Any]:
    """A model's ``config.json`` without what does not belong to its architecture."""
    if architecture is not None:
        return dict(architecture)
    config = {
        k: v for k, v in json.loads(model.to_json_string()).items() if k not in ("_name_or_path", "_use_default_values")
    }
    return {"_class_name": type(model).__name__} | config


@register_part
class AutoencoderSpace(Space, _Pretrained):
    """The latent of a pretrained autoencoder, ``AutoencoderKL`` or ``AutoencoderTiny``, which stays as it is.

    Its normalization spans what it is given: large pictures are decoded in tiles that are blended.

    Args:
        pretrained, subfolder, revision, variant, dtype: see :func:`load_pretrained`.
        architecture: its ``config.json``, in place of loading anything.
        residual_scale: see :class:`Space`.

    Raises:
        CodecError: it cannot be loaded, or does not halve the resolution three times.
    """

    classes = (AutoencoderKL, AutoencoderTiny)

    def __init__(
        self,
        pretrained: str = "",
        subfolder: str = "vae",
        revision: str | None = None,
        variant: str | None = None,
        dtype: str = "float32",
        architecture: Mapping[str, Any] | None = None,
        residual_scale: float | None = None,
    ):
        super().__init__()
        self.autoencoder = self._model(pretrained, subfolder, revision, variant, dtype, architecture).requires_grad_(
            False
        )
        config = self.autoencoder.config
        blocks = config.encoder_block_out_channels if self._is_tiny else config.block_out_channels
        self.factor, self.channels, self.residual_scale = 2 ** (len(blocks) - 1), config.latent_channels, residual_scale
        if self.factor != _FACTOR:
            raise CodecError(
                f"the autoencoder has {self.factor} pixels per side of a latent position, not {_FACTOR}: name another"
            )

    @property
    def _is_tiny(self) -> bool:
        return isinstance(self.autoencoder, AutoencoderTiny)

    @property
    def _scale(self) -> tuple[float, float]:
        config = self.autoencoder.config
        return config.scaling_factor, config.shift_factor or 0.0

    def large(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """See :class:`Space`."""
        return [self.autoencoder.encoder], [self.autoencoder.decoder]

    def encode(self, x: Tensor) -> Tensor:
        """See :class:`Space`; of a distribution, the mode."""
        encoded = self.autoencoder.encode((2 * x - 1).to(self.autoencoder.dtype))
        latent = encoded.latents if self._is_tiny else encoded.latent_dist.mode()
        scale, shift = self._scale
        return (latent.float() - shift) * scale

    def decode(self, sample: Tensor) -> Tensor:
        """See :class:`Space`."""
        scale, shift = self._scale
        return self.autoencoder.decode((sample / scale + shift).to(self.autoencoder.dtype)).sample.float() / 2 + 0.5

    def hold(self, estimate: Tensor, sent: Tensor, base: Tensor) -> Tensor:
        """Gives sent blocks the base's mean latents: they are enforced, not suggested."""
        size = BLOCK // self.factor
        drift = estimate if self.residual_scale is not None else estimate - base
        return estimate - F.interpolate(F.avg_pool2d(drift, size) * sent, scale_factor=size, mode="nearest")


class Guidance(NamedTuple):
    """What is added to the U-Net's skip connections and to its middle: a ControlNet's outputs."""

    down: tuple[Tensor, ...]
    mid: Tensor


@register_part
class LatentUNet(nn.Module, _Pretrained):
    """A pretrained U-Net that sees the base picture's latent beside the noisy one, and learned tokens instead of text.

    The first convolution gets the base's channels with weights of zero (Brooks et al., "InstructPix2Pix", CVPR 2023).
    What the network was trained to predict is turned into the clean sample; of a network for ``v_prediction`` that
    holds at pure noise too.

    Args:
        pretrained, subfolder, revision, variant, dtype: see :func:`load_pretrained`.
        architecture: its ``config.json``, in place of loading anything.
        prediction: what its output is: ``epsilon``, ``v_prediction`` or ``sample``.
        tokens: how many stand where a text's were, for each quality.
        lora_rank: of adapters (Hu et al., ICLR 2022), by ``peft``; 0: the whole network is trained.
        lora_targets: ends of the names of layers that get one.
        sample_channels: channels of the space.
        n_qualities: how many qualities it is told apart by.
        scheduler: of the restorer, which knows how much noise there is.

    Attributes:
        widths: channels at each resolution, each half the one before.
        guided: resolution (index into ``widths``) and channels of each tensor that guidance adds to a skip connection.

    Raises:
        CodecError: it cannot be loaded, does not fit the space, or a target has no layer.
        MissingExtraError: ``peft`` is not installed.
    """

    classes = (UNet2DConditionModel,)

    def __init__(
        self,
        pretrained: str = "",
        subfolder: str = "unet",
        revision: str | None = None,
        variant: str | None = None,
        dtype: str = "float32",
        architecture: Mapping[str, Any] | None = None,
        prediction: str = "v_prediction",
        tokens: int = 16,
        lora_rank: int = 0,
        lora_targets: Sequence[str] = LORA_TARGETS,
        *,
        sample_channels: int,
        n_qualities: int,
        scheduler: SchedulerMixin,
    ):
        super().__init__()
        self.unet = self._model(pretrained, subfolder, revision, variant, dtype, architecture)
        config = self.unet.config
        _check_unet(config, sample_channels)
        self.prediction = _checked_prediction(prediction, scheduler)
        self.widths = tuple(config.block_out_channels)
        layers = config.layers_per_block
        self.guided = _guided(self.widths, [layers] * len(self.widths) if isinstance(layers, int) else layers)
        self.unet.conv_in = _widened(self.unet.conv_in, sample_channels)
        self.unet.register_to_config(in_channels=2 * sample_channels)
        self.tokens = nn.Embedding(n_qualities, tokens * config.cross_attention_dim)
        self.n_tokens, self.n_qualities, self.lora = tokens, n_qualities, bool(lora_rank)
        self.register_buffer("alphas_cumprod", scheduler.alphas_cumprod.clone().float(), persistent=False)
        if lora_rank:
            self._add_adapters(lora_rank, lora_targets)

    def _add_adapters(self, rank: int, targets: Sequence[str]) -> None:
        names = [name for name, module in self.unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        missing = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in names)]
        if missing:
            raise CodecError(f"no layer of the U-Net is called {missing[0]}: take it out of lora_targets")
        with extra("foundation"):
            from peft import LoraConfig
        self.unet.requires_grad_(False)
        self.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets)))

    def trained(self) -> list[nn.Module]:
        """The parts that training changes: all of it or, with adapters, these, the tokens and the first convolution."""
        if not self.lora:
            return [self]
        adapters = [m for name, m in self.unet.named_modules() if name.endswith((".lora_A", ".lora_B"))]
        return [self.tokens, self.unet.conv_in, *adapters]

    def large(self) -> list[nn.Module]:
        """See :meth:`compressai_gen.diffusion.restore.Restorer.large`."""
        return [self.unet]

    def forward(self, x: Tensor, t: Tensor, base: Tensor, index: Tensor, guidance: Guidance | None = None) -> Tensor:
        """Estimates the clean sample; see :class:`compressai_gen.diffusion.block_denoiser.BlockDenoiser`."""
        dtype = self.unet.conv_in.weight.dtype

        def cast(field: Tensor) -> Tensor:
            return field.to(dtype)

        out = self.unet(
            cast(torch.cat((x, base), dim=1)),
            t,
            encoder_hidden_states=cast(self._tokens_of(index)),
            down_block_additional_residuals=None if guidance is None else tuple(map(cast, guidance.down)),
            mid_block_additional_residual=None if guidance is None else cast(guidance.mid),
        ).sample.float()
        if self.prediction == "sample":
            return out
        alpha = self.alphas_cumprod[t.to(x.device).long()].reshape(-1, 1, 1, 1)
        signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
        return signal * x - noise * out if self.prediction == "v_prediction" else (x - noise * out) / signal

    def _tokens_of(self, index: Tensor) -> Tensor:
        """Tokens (N, T, D), between those of the whole qualities beside each."""
        return between_qualities(self.tokens.weight, index).unflatten(1, (self.n_tokens, -1))


def _check_unet(config: Any, channels: int) -> None:
    if (config.in_channels, config.out_channels) != (channels, channels):
        raise CodecError(
            f"the U-Net maps {config.in_channels} channels to {config.out_channels} and the autoencoder's latent has "
            f"{channels}: name two that belong together"
        )
    if not isinstance(config.cross_attention_dim, int):
        raise CodecError(
            f"the U-Net's cross-attention takes {config.cross_attention_dim} channels: one width is needed"
        )
    if config.encoder_hid_dim_type or config.addition_embed_type or config.class_embed_type or config.num_class_embeds:
        raise CodecError("the U-Net wants more than a text's tokens, such as sizes or classes: name one without")
    if len(config.block_out_channels) > 4:
        raise CodecError("the U-Net halves a latent more than three times, and pictures are padded to 64 pixels only")


def _checked_prediction(prediction: str, scheduler: SchedulerMixin) -> str:
    if prediction not in (known := ("epsilon", "v_prediction", "sample")):
        raise CodecError(f"prediction is one of {', '.join(known)}, not {prediction!r}")
    if prediction == "epsilon" and scheduler.config.get("rescale_betas_zero_snr"):
        raise CodecError(
            "a U-Net that predicts noise tells nothing at pure noise: set the scheduler's rescale_betas_zero_snr to "
            "false, or the denoiser's prediction to v_prediction or sample"
        )
    return prediction


def _guided(widths: Sequence[int], counts: Sequence[int]) -> list[tuple[int, int]]:
    """Resolution and channels of each tensor that is added to a skip connection; ``counts`` blocks at each."""
    tensors = [(0, widths[0])]
    for i, width in enumerate(widths):
        tensors += [(i, width)] * counts[i]
        if i + 1 < len(widths):
            tensors.append((i + 1, width))  # the downsampled features keep the channels of the finer resolution
    return tensors


def _widened(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    wide = nn.Conv2d(
        conv.in_channels + channels, conv.out_channels, conv.kernel_size, padding=conv.padding, dtype=conv.weight.dtype
    )
    with torch.no_grad():
        wide.weight.zero_()
        wide.weight[:, : conv.in_channels] = conv.weight
        wide.bias.copy_(conv.bias)
    return wide


@register_part
class ControlBranch(nn.Module):
    """The consistency-guided branch for a pretrained U-Net: from the base decoder to a ControlNet's outputs.

    Features of any resolution and the latent meet at the U-Net's finest one; the branch goes down from there beside it,
    narrower. Its outputs start at zero, so that training begins from the U-Net as it is (ControlNet, Zhang et al., ICCV
    2023).

    Args:
        widths: channels at each resolution of the U-Net.
        latent_channels: M.
        feature_widths: channels of the base decoder's features.
        denoiser: that it is made for.
        n_qualities: how many qualities it serves.
        syntax_channels: S; 0 for a codec without a syntax.

    Raises:
        CodecError: the U-Net has another number of resolutions.
    """

    def __init__(
        self,
        widths: Sequence[int] = (128, 192, 256, 256),
        *,
        latent_channels: int,
        feature_widths: Sequence[int],
        denoiser: nn.Module,
        n_qualities: int,
        syntax_channels: int = 0,
    ):
        super().__init__()
        if len(widths) != len(denoiser.widths):
            raise CodecError(f"the U-Net has {len(denoiser.widths)} resolutions: give the guidance as many widths")
        inputs = (*feature_widths, latent_channels)
        self.inputs = nn.ModuleList(nn.Conv2d(n, widths[0], 3, padding=1) for n in inputs)
        self.down = nn.ModuleList(
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in itertools.pairwise(widths)
        )
        self.blocks = nn.ModuleList(ResidualBlock(width, n_qualities) for width in widths)
        self.fusion = SyntaxFusion(syntax_channels, widths) if syntax_channels else None
        self.outputs = nn.ModuleList(zero_conv(widths[i], n, 1) for i, n in denoiser.guided)
        self.mid = zero_conv(widths[-1], denoiser.widths[-1], 1)
        self.resolutions = [i for i, _ in denoiser.guided]

    def forward(
        self,
        features: Sequence[Tensor],
        latent: Tensor,
        syntax: Tensor | None,
        index: Tensor,
        strength: Tensor | float = 1.0,
        syntax_strength: Tensor | float = 1.0,
    ) -> Guidance:
        """Returns the guidance; see :class:`compressai_gen.diffusion.block_denoiser.BlockConsistency`."""
        size = [n * BLOCK // _FACTOR for n in latent.shape[-2:]]
        h = sum(_resized(conv(f), size) for conv, f in zip(self.inputs, (*features, latent), strict=True))
        hidden = [self.blocks[0](h, index)]
        for halve, block in zip(self.down, self.blocks[1:], strict=True):
            hidden.append(block(halve(hidden[-1]), index))
        if syntax is not None and self.fusion is not None:
            hidden = self.fusion(hidden, syntax, syntax_strength)
        down = tuple(conv(hidden[i]) * strength for conv, i in zip(self.outputs, self.resolutions, strict=True))
        return Guidance(down, self.mid(hidden[-1]) * strength)


def _resized(field: Tensor, size: Sequence[int]) -> Tensor:
    finer = field.shape[-1] > size[-1]
    return F.interpolate(field, size=size, mode="area") if finer else F.interpolate(field, size=size, mode="nearest")
