"""Analysis and synthesis transforms: a linear 16x16 block transform beside a network of blocks and a renderer.

The linear path starts as the Karhunen-Loeve transform (KLT) of training patches and what the network beside it adds
starts at zero, so that training begins from a working transform codec and learns only what a linear transform cannot
do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressai_gen.configuration import register_part
from compressai_gen.layers.blocks import Block, ChannelRMSNorm, Renderer, zero_conv
from compressai_gen.layers.windows import windowed

__all__ = ["BLOCK", "REGION", "PatchAnalysis", "PatchSynthesis", "init_linear_paths", "klt"]

BLOCK = 16
"""Downsampling factor of the latent: one latent position stands for a block of 16x16 pixels."""

REGION = 64
"""Side in pixels of the region that one vector of a syntax stands for, and what pictures are padded to multiples of."""

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


@torch.no_grad()
def klt(patches: Tensor, components: int) -> tuple[Tensor, Tensor, Tensor]:
    """Karhunen-Loeve transform of image patches.

    Args:
        patches: (P, 3, 16, 16) in [0, 1].
        components: how many eigenvectors to keep, by falling variance.

    Returns:
        basis (components, 3, 16, 16) with orthonormal rows, mean colour as a patch (3, 16, 16), and the standard
        deviation of each component (components,).
    """
    mean = patches.mean(dim=(0, 2, 3))
    flat = (patches - mean[:, None, None]).flatten(1).double()
    variances, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
    basis = vectors.flip(1)[:, :components].T.reshape(components, *patches.shape[1:])
    std = variances.flip(0)[:components].clamp_min(0).sqrt()
    return basis.float(), mean[:, None, None].expand(patches.shape[1:]).contiguous(), std.float()


@torch.no_grad()
def init_linear_paths(g_a: PatchAnalysis, g_s: PatchSynthesis, basis: Tensor, mean: Tensor) -> None:
    """Sets the linear paths of ``g_a`` and ``g_s`` to the block transform of :func:`klt` and its inverse."""
    g_a.linear.weight.copy_(basis)
    g_a.linear.bias.copy_(-(basis * mean).sum(dim=(1, 2, 3)))
    g_s.linear.weight.copy_(basis)
    g_s.linear.bias.copy_(mean[:, 0, 0])
