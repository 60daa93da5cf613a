"""Large parts of a model wait in the processor's memory and come to a small GPU when they are called.

The hooks are those of ``accelerate``, as pipelines of ``diffusers`` use them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from compressai_gen.errors import CodecError
from compressai_gen.extras import extra

__all__ = ["offload"]


def offload(model: nn.Module, large: Sequence[nn.Module], device: str | torch.device, by_layer: bool = False) -> None:
    """Puts a model onto a device, but for its large parts, which come there when they are called.

    Args:
        model: in the processor's memory.
        large: parts of it, in the order in which they are called.
        device: to compute on.
        by_layer: whether a layer comes at a time, which takes least memory and most time. Weights of these parts can
            then neither be read nor saved. Otherwise a part comes as a whole and goes when the next one is called.

    Raises:
        CodecError: there is no large part, or no such device.
        MissingExtraError: ``accelerate`` is not installed.
    """
    with extra("foundation"):
        from accelerate import cpu_offload, cpu_offload_with_hook
    if not large:
        raise CodecError("this model has no pretrained part to keep in the processor's memory: call its to(device)")
    try:
        device = torch.zeros(0, device=device).device
    # PyTorch says by errors of several kinds that a device is unknown, absent or not compiled in.
    except Exception as error:
        raise CodecError(f"device '{device}' cannot be used here: {str(error).splitlines()[0]}") from error
    waiting = {id(module) for part in large for module in part.modules()}
    for module in model.modules():
        if id(module) not in waiting:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(device)
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
    if by_layer:
        for part in large:
            cpu_offload(part, device, offload_buffers=True)
        return
    hooks = []
    for part in large:
        hooks.append(cpu_offload_with_hook(part, device, hooks[-1] if hooks else None)[1])
    if len(hooks) > 1:  # after the last one comes the first, of the next tile or picture
        hooks[0].hook.prev_module_hook = hooks[-1]
