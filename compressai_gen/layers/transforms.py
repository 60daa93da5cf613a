"""Analysis and synthesis transforms: a linear 16x16 block transform beside a residual convolutional network.

The linear path starts as the Karhunen-Loeve transform (KLT) of training patches and the network beside it starts at
zero, so that training begins from a working transform codec and learns only what a linear transform cannot do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressai_gen.configuration import register_part
from compressai_gen.layers.quality import QualityEmbedding
from compressai_gen.layers.windows import windowed

__all__ = [
    "BLOCK",
    "REGION",
    "AnalysisTransform",
    "QualityModulation",
    "ResidualBlock",
    "SynthesisTransform",
    "init_linear_paths",
    "klt",
    "zero_conv",
]

BLOCK = 16
"""Downsampling factor of the latent: one latent position stands for a block of 16x16 pixels."""

REGION = 64
"""Side in pixels of the region that one vector of a syntax stands for, and what pictures are padded to multiples of."""

_WINDOW = 128
# Largest side in blocks of what ``g_a`` sees at once; its feature maps then take some 100 MB each.


class QualityModulation(nn.Module):
    """Scales and shifts features per channel as the quality asks; the identity before training.

    One variable-rate network serves all qualities, and a decoder at 0.05 bpp must smooth more than one at 0.4 bpp.
    """

    def __init__(self, n_qualities: int, channels: int):
        super().__init__()
        self.table = QualityEmbedding(n_qualities, 2 * channels)
        nn.init.zeros_(self.table.weight)

    def forward(self, h: Tensor, index: Tensor) -> Tensor:
        """Modulates ``h`` (N, C, H, W) as the quality indexes (N,), real numbers from 0, ask."""
        scale, shift = self.table(index)[:, :, None, None].to(h.dtype).chunk(2, dim=1)
        return torch.addcmul(shift, h, 1 + scale)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a quality modulation between; the identity before training."""

    def __init__(self, channels: int, n_qualities: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = QualityModulation(n_qualities, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, h: Tensor, index: Tensor) -> Tensor:
        """Maps (N, C, H, W) to the same shape."""
        r = F.leaky_relu(self.modulation(self.conv1(h), index), 0.1)
        return h + self.conv2(r)


class _Stages(nn.ModuleList):
    """Residual blocks with a resampling convolution between every two stages."""

    def run(self, h: Tensor, index: Tensor) -> list[Tensor]:
        """Returns the features at the end of each stage."""
        features = []
        for module in self:
            if isinstance(module, ResidualBlock):
                h = module(h, index)
            else:
                features.append(h)
                h = module(h)
        return [*features, h]


@register_part
class AnalysisTransform(nn.Module):
    """``g_a``: image (N, 3, H, W) in [0, 1] to latent (N, M, H/16, W/16); H and W are multiples of 16.

    Args:
        widths: channels at 1/4, 1/8 and 1/16 of the resolution.
        blocks: residual blocks at 1/4, 1/8 and 1/16 of the resolution.
        latent_channels: M.
        n_qualities: how many qualities the variable-rate network serves.
    """

    def __init__(
        self,
        widths: Sequence[int] = (96, 160, 224),
        blocks: Sequence[int] = (2, 2, 2),
        *,
        latent_channels: int,
        n_qualities: int,
    ):
        super().__init__()
        self.linear = nn.Conv2d(3, latent_channels, BLOCK, stride=BLOCK)
        self.stem = nn.Conv2d(3 * 16, widths[0], 3, padding=1)
        stages = _Stages()
        for i, (width, n) in enumerate(zip(widths, blocks, strict=True)):
            if i:
                stages.append(nn.Conv2d(widths[i - 1], width, 3, stride=2, padding=1))
            stages.extend(ResidualBlock(width, n_qualities) for _ in range(n))
        self.stages = stages
        self.head = zero_conv(widths[-1], latent_channels, 3)
        # Pixels per side that one position of each stage stands for; a 3x3 convolution reaches one position.
        strides = [4 << i for i in range(len(widths))]
        reach = strides[0] + sum(strides[:-1]) + strides[-1]
        reach += sum(2 * n * stride for n, stride in zip(blocks, strides, strict=True))
        self.reach = -(-reach // BLOCK)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """Returns the latent ``y`` in float32; large images are transformed in windows."""
        return windowed(lambda part: self._transform(part, index), [x], [BLOCK], _WINDOW, self.reach)

    def _transform(self, x: Tensor, index: Tensor) -> Tensor:
        # The linear path carries values far larger than one quantization step, which bfloat16 would round away.
        with torch.autocast(x.device.type, enabled=False):
            linear = self.linear(x.float() if self.linear.weight.dtype == torch.float32 else x)
        h = self.stem(F.pixel_unshuffle(x - 0.5, 4).contiguous(memory_format=torch.channels_last))
        return linear + self.head(F.leaky_relu(self.stages.run(h, index)[-1], 0.1)).to(linear.dtype)


@register_part
class SynthesisTransform(nn.Module):
    """``g_s``: latent (N, M, h, w) to image (N, 3, 16h, 16w), not clamped.

    Args:
        widths: channels at 1/4, 1/8 and 1/16 of the resolution.
        blocks: residual blocks at 1/4, 1/8 and 1/16 of the resolution.
        latent_channels: M.
        n_qualities: how many qualities the variable-rate network serves.
        side_channels: channels that the network sees beside the latent (the linear path does not), such as a mask.

    Attributes:
        feature_widths: channels of what :meth:`features` returns.
    """

    def __init__(
        self,
        widths: Sequence[int] = (96, 160, 224),
        blocks: Sequence[int] = (4, 3, 3),
        *,
        latent_channels: int,
        n_qualities: int,
        side_channels: int = 0,
    ):
        super().__init__()
        self.feature_widths = tuple(widths)
        self.linear = nn.ConvTranspose2d(latent_channels, 3, BLOCK, stride=BLOCK)
        self.stem = nn.Conv2d(latent_channels + side_channels, widths[-1], 3, padding=1)
        stages = _Stages()
        for i in reversed(range(len(widths))):
            stages.extend(ResidualBlock(widths[i], n_qualities) for _ in range(blocks[i]))
            if i:
                stages.append(nn.Sequential(nn.Conv2d(widths[i], 4 * widths[i - 1], 1), nn.PixelShuffle(2)))
        self.stages = stages
        self.head = zero_conv(widths[0], 3 * 16, 3)

    def forward(self, y_hat: Tensor, index: Tensor, side: Tensor | None = None) -> Tensor:
        """Returns the image in float32; ``side`` is (N, side_channels, h, w)."""
        return self.picture(y_hat, self.features(y_hat, index, side))

    def features(self, y_hat: Tensor, index: Tensor, side: Tensor | None = None) -> list[Tensor]:
        """Returns the network's features at 1/4, 1/8 and 1/16 of the resolution; arguments as :meth:`forward`."""
        h = y_hat if side is None else torch.cat((y_hat, side.to(y_hat.dtype)), dim=1)
        return self.stages.run(self.stem(h.contiguous(memory_format=torch.channels_last)), index)[::-1]

    def picture(self, y_hat: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Returns the image of a latent and its :meth:`features`."""
        with torch.autocast(y_hat.device.type, enabled=False):
            linear = self.linear(y_hat)
        return linear + F.pixel_shuffle(self.head(F.leaky_relu(features[0], 0.1)), 4).to(linear.dtype)


def zero_conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    """Returns a convolution of stride 1 that starts at zero: what it adds to is at first left as it is."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


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
def init_linear_paths(g_a: AnalysisTransform, g_s: SynthesisTransform, basis: Tensor, mean: Tensor) -> None:
    """Sets the linear paths of ``g_a`` and ``g_s`` to the block transform of :func:`klt` and its inverse."""
    g_a.linear.weight.copy_(basis)
    g_a.linear.bias.copy_(-(basis * mean).sum(dim=(1, 2, 3)))
    g_s.linear.weight.copy_(basis)
    g_s.linear.bias.copy_(mean[:, 0, 0])
