"""The conditional denoiser of both codecs: a ``diffusers`` U-Net in the 4x pixel-unshuffled space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

__all__ = ["FACTOR", "SAMPLE_CHANNELS", "ChannelNorm", "create_denoiser", "guidance_channels", "to_image", "to_sample"]

FACTOR = 4
"""Pixels per side that one position of the sample stands for."""

SAMPLE_CHANNELS = 3 * FACTOR**2
"""Channels of a sample: an image, unshuffled."""


def to_sample(x: Tensor) -> Tensor:
    """Images (N, 3, H, W) to samples (N, 48, H/4, W/4)."""
    return F.pixel_unshuffle(x, FACTOR)


def to_image(sample: Tensor) -> Tensor:
    """Samples (N, 48, h, w) to images (N, 3, 4h, 4w)."""
    return F.pixel_shuffle(sample, FACTOR)


class ChannelNorm(nn.LayerNorm):
    """Normalizes each position over its channels; (N, C, H, W) to the same shape.

    It stands where the U-Net has group normalization, whose statistics span the whole picture, so that a tile would
    come out differently from the same part of an untiled picture.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normalized features."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def create_denoiser(
    condition_channels: int, widths: Sequence[int], layers: int, n_qualities: int
) -> UNet2DConditionModel:
    """Makes a U-Net without attention, for any image size.

    Args:
        condition_channels: channels that are stacked onto the noisy sample.
        widths: channels at 1/4, 1/8 and 1/16 of the image's resolution.
        layers: residual blocks per resolution on the way down; one more on the way up.
        n_qualities: how many qualities it is told apart by (``class_labels``).
    """
    unet = UNet2DConditionModel(
        in_channels=SAMPLE_CHANNELS + condition_channels,
        out_channels=SAMPLE_CHANNELS,
        down_block_types=("DownBlock2D",) * len(widths),
        mid_block_type="UNetMidBlock2D",
        up_block_types=("UpBlock2D",) * len(widths),
        block_out_channels=tuple(widths),
        layers_per_block=layers,
        norm_num_groups=1,
        time_embedding_dim=128,
        num_class_embeds=n_qualities,
    )
    for module in list(unet.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, ChannelNorm(child.num_channels, eps=child.eps))
    # Else an untrained network sees little but noise, and takes long to find what lies below it.
    with torch.no_grad():
        unet.conv_in.weight[:, :SAMPLE_CHANNELS] *= 0.2
    # The sampler's first estimate is then zero: no residual, the picture that the codec already has.
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    return unet


def guidance_channels(widths: Sequence[int], layers: int) -> list[tuple[int, int]]:
    """Resolution (index into ``widths``) and channels of each tensor that guidance adds to a skip connection."""
    tensors = [(0, widths[0])]
    for i, width in enumerate(widths):
        tensors += [(i, width)] * layers
        if i + 1 < len(widths):
            tensors.append((i + 1, width))  # the downsampled features keep the channels of the finer resolution
    return tensors
