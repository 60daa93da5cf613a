"""Training with parameters that FSDP shares out among processes, and those parameters made whole where they must be.

Of PyTorch's two, it is the second (``fully_shard``), whose parameters keep their names and stay trainable or frozen one
by one, as restorers with adapters need.
"""

from __future__ import annotations

import os
from typing import Any

from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from compressai_gen.errors import RecipeError

__all__ = ["Averages", "check_sharding", "whole"]


def whole(tensor: Tensor) -> Tensor:
    """Returns a tensor that processes share out as each of them would have it alone; all have to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class Averages(EMAModel):
    """Moving averages of parameters, shared out as those are, and whole in checkpoints."""

    def state_dict(self) -> dict[str, Any]:
        """Returns whole averages; all processes have to ask for them."""
        return super().state_dict() | {"shadow_params": [whole(average) for average in self.shadow_params]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes whole averages, and keeps this process' parts of them."""
        before = self.shadow_params
        super().load_state_dict(state_dict)
        self.shadow_params = [
            distribute_tensor(now.to(was.device), was.device_mesh, was.placements, src_data_rank=None)
            if isinstance(was, DTensor)
            else now
            for was, now in zip(before, self.shadow_params, strict=True)
        ]


def check_sharding() -> None:
    """Checks how ``accelerate launch`` was told to share parameters out.

    Raises:
        RecipeError: in a way that the training does not know.
    """

    def asked(name: str) -> bool:
        return os.environ.get(name, "false").lower() == "true"

    if asked("ACCELERATE_USE_DEEPSPEED"):
        raise RecipeError(
            "this training cannot share a model out by DeepSpeed: start it with FSDP, as examples/clusters/sharded.yaml"
        )
    if asked("ACCELERATE_USE_FSDP") and os.environ.get("FSDP_VERSION", "1") != "2":
        raise RecipeError("of FSDP, this training takes fsdp_version 2, as examples/clusters/sharded.yaml sets it")
