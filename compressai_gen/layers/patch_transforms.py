"""The second generation's analysis and synthesis transforms: blocks on 16x16 patches, and a renderer.

As in :mod:`compressai_gen.layers.transforms`, a linear block transform that starts as the KLT runs beside each network,
and what the network adds starts at zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressai_gen.configuration import register_part
from compressai_gen.layers.blocks import Block, ChannelRMSNorm, Renderer
from compressai_gen.layers.transforms import BLOCK, zero_conv
from compressai_gen.layers.windows import windowed

__all__ = ["PatchAnalysis", "PatchSynthesis"]

_WINDOW = 128
# Largest side in patches of what ``g_a`` sees at once; its features then take some 25 MB each.


@register_part
class PatchAnalysis(nn.Module):
    """``g_a``: image (N, 3, H, W) in [0, 1] to latent (N, M, H/16, W/16); H and W are multiples of 16.

    Args:
        width: channels at 1/16 of the resolution.
        blocks: how many :class:`~compressai_gen.layers.blocks.Block` there are.
        expansion: of their hidden channels.
        latent_channels: M.
        n_qualities: how many qualities the variable-rate network serves.
    """

    def __init__(
        self, width: int = 384, blocks: int = 4, expansion: int = 4, *, latent_channels: int, n_qualities: int
    ):
        super().__init__()
        self.linear = nn.Conv2d(3, latent_channels, BLOCK, stride=BLOCK)
        self.embed = nn.Conv2d(3, width, BLOCK, stride=BLOCK)
        self.blocks = nn.ModuleList(Block(width, expansion, n_qualities) for _ in range(blocks))
        self.norm = ChannelRMSNorm(width)
        self.head = zero_conv(width, latent_channels, 1)
        self.reach = blocks + 1

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """Returns the latent ``y`` in float32 at quality indexes (N,); large images are transformed in windows."""
        return windowed(lambda part: self._transform(part, index), [x], [BLOCK], _WINDOW, self.reach)

    def _transform(self, x: Tensor, index: Tensor) -> Tensor:
        # The linear path carries values far larger than one quantization step, which bfloat16 would round away.
        with torch.autocast(x.device.type, enabled=False):
            linear = self.linear(x.float() if self.linear.weight.dtype == torch.float32 else x)
        h = self.embed((x - 0.5).contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            h = block(h, index)
        return linear + self.head(self.norm(h)).to(linear.dtype)


@register_part
class PatchSynthesis(nn.Module):
    """``g_s``: latent (N, M, h, w) to image (N, 3, 16h, 16w), not clamped.

    Args:
        width: channels of the body, at 1/16 of the resolution.
        blocks: of the body.
        expansion: of their hidden channels.
        renderer_width: channels of the renderer, at 1/4 of the resolution.
        renderer_blocks: how many it has.
        latent_channels: M.
        n_qualities: how many qualities the variable-rate network serves.
        side_channels: channels that the network sees beside the latent (the linear path does not), such as a mask.

    Attributes:
        feature_widths: channels of what :meth:`features` returns.
    """

    def __init__(
        self,
        width: int = 256,
        blocks: int = 3,
        expansion: int = 3,
        renderer_width: int = 64,
        renderer_blocks: int = 2,
        *,
        latent_channels: int,
        n_qualities: int,
        side_channels: int = 0,
    ):
        super().__init__()
        self.feature_widths = (renderer_width, width)
        self.linear = nn.ConvTranspose2d(latent_channels, 3, BLOCK, stride=BLOCK)
        self.stem = nn.Conv2d(latent_channels + side_channels, width, 1)
        self.stem_norm = ChannelRMSNorm(width)
        self.blocks = nn.ModuleList(Block(width, expansion, n_qualities) for _ in range(blocks))
        self.renderer = Renderer(width, renderer_width, renderer_blocks, n_qualities)
        self.head = zero_conv(renderer_width, 3 * 16, 1)

    def forward(self, y_hat: Tensor, index: Tensor, side: Tensor | None = None) -> Tensor:
        """Returns the image in float32; ``side`` is (N, side_channels, h, w)."""
        return self.picture(y_hat, self.features(y_hat, index, side))

    def features(self, y_hat: Tensor, index: Tensor, side: Tensor | None = None) -> list[Tensor]:
        """Returns the renderer's features at 1/4 and the body's at 1/16; arguments as :meth:`forward`."""
        h = y_hat if side is None else torch.cat((y_hat, side.to(y_hat.dtype)), dim=1)
        h = self.stem_norm(self.stem(h.contiguous(memory_format=torch.channels_last)))
        for block in self.blocks:
            h = block(h, index)
        return [self.renderer(h, index), h]

    def picture(self, y_hat: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Returns the image of a latent and its :meth:`features`."""
        with torch.autocast(y_hat.device.type, enabled=False):
            linear = self.linear(y_hat)
        return linear + F.pixel_shuffle(self.head(F.silu(features[0])), 4).to(linear.dtype)
