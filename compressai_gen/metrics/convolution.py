"""Float32 convolutions in bfloat16 hardware, with nearly float32's accuracy.

The feature networks of LPIPS-VGG and DISTS take most of an evaluation's time on a CPU. Processors with AMX multiply
bfloat16 matrices some fifteen times as fast as float32 ones and add the products up in float32. A float32 number is the
sum of two bfloat16 numbers to within 2^-16, so three convolutions of such halves make one whose error is a few times
float32's own (the product of the two small halves, some 2^-16 of the whole, is left out).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressai_gen.layers.precision import has_fast_bfloat16

__all__ = ["SplitConv2d", "accelerate_convolutions"]


class SplitConv2d(nn.Module):
    """Computes what a ``Conv2d`` does, (N, C, H, W) to (N, C', H', W'), from bfloat16 halves.

    With gradients or under autocast it is the convolution itself.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.conv = conv
        large, small = _halves(conv.weight.detach())
        self.register_buffer("large", large.contiguous(memory_format=torch.channels_last))
        self.register_buffer("small", small.contiguous(memory_format=torch.channels_last))
        self.options = conv.stride, conv.padding, conv.dilation, conv.groups

    def forward(self, x: Tensor) -> Tensor:
        """Returns the convolution's output."""
        if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
            return self.conv(x)
        x_large, x_small = _halves(x.contiguous(memory_format=torch.channels_last))
        backend = torch.backends.mkldnn.conv
        before, backend.fp32_precision = backend.fp32_precision, "bf16"
        try:
            out = F.conv2d(x_large, self.large, self.conv.bias, *self.options)
            out += F.conv2d(x_small, self.large, None, *self.options)
            out += F.conv2d(x_large, self.small, None, *self.options)
        finally:
            backend.fp32_precision = before
        return out


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    large = x.bfloat16().to(x.dtype)
    return large, x - large


def accelerate_convolutions(network: nn.Module, device: str | torch.device) -> nn.Module:
    """Replaces a network's convolutions in place where this is faster, on CPUs with AMX; returns the network."""
    if torch.device(device).type == "cpu" and has_fast_bfloat16(torch.device(device)):
        for module in list(network.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Conv2d):
                    setattr(module, name, SplitConv2d(child))
    return network
