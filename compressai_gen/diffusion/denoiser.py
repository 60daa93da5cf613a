"""The conditional denoiser of both codecs: a ``diffusers`` U-Net."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from compressai_gen.configuration import register_part
from compressai_gen.diffusion.guidance import Guidance, guidance_channels
from compressai_gen.layers.quality import QualityEmbedding

__all__ = ["ChannelNorm", "UNetDenoiser"]


class ChannelNorm(nn.LayerNorm):
    """Normalizes each position over its channels; (N, C, H, W) to the same shape.

    It stands where the U-Net has group normalization, whose statistics span the whole picture, so that a tile would
    come out differently from the same part of an untiled picture.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normalized features."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@register_part
class UNetDenoiser(nn.Module):
    """A U-Net without attention, for any image size, that sees the base picture beside the noisy sample.

    Any module may stand in its place that is called alike and has its attribute ``guided``.

    Args:
        widths: channels at each resolution, each half the one before; the first is the sample's.
        layers: residual blocks per resolution on the way down; one more on the way up.
        sample_channels: channels of the space.
        n_qualities: how many qualities it is told apart by (``class_labels``).

    Attributes:
        guided: resolution (index into ``widths``) and channels of each tensor that guidance adds to a skip connection,
            for the guidance that is made for this denoiser.
    """

    def __init__(
        self, widths: Sequence[int] = (96, 128, 144), layers: int = 1, *, sample_channels: int, n_qualities: int
    ):
        super().__init__()
        self.widths = tuple(widths)
        self.guided = guidance_channels(widths, layers)
        self.unet = _unet(widths, layers, sample_channels, n_qualities)

    def forward(self, x: Tensor, t: Tensor, base: Tensor, index: Tensor, guidance: Guidance | None = None) -> Tensor:
        """Estimates the clean sample (N, C, h, w).

        Args:
            x: the noisy sample (N, C, h, w).
            t: timestep, a scalar or (N,).
            base: the base picture's sample, in about -1 to 1.
            index: of the quality, real numbers from 0 (N,).
            guidance: what the restorer's guidance made; None: without.
        """
        return self.unet(
            torch.cat((x, base), dim=1).contiguous(memory_format=torch.channels_last),
            t,
            encoder_hidden_states=None,
            class_labels=index,
            down_block_additional_residuals=None if guidance is None else guidance.down,
            mid_block_additional_residual=None if guidance is None else guidance.mid,
        ).sample.float()


def _unet(widths: Sequence[int], layers: int, channels: int, n_qualities: int) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        in_channels=2 * channels,
        out_channels=channels,
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
    unet.class_embedding = QualityEmbedding.from_pretrained(unet.class_embedding.weight, freeze=False)
    # Else an untrained network sees little but noise, and takes long to find what lies below it.
    with torch.no_grad():
        unet.conv_in.weight[:, :channels] *= 0.2
    # The sampler's first estimate is then zero: no residual, the picture that the codec already has.
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    return unet
