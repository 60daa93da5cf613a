"""Few-step sampling: pure functions of a denoiser, noise, conditions, a scheduler and a number of steps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from diffusers import DDIMScheduler, SchedulerMixin
from torch import Tensor

from compressai_gen.configuration import register_part

__all__ = ["DDIM", "Denoise", "sample", "timesteps"]

C = TypeVar("C")
Denoise = Callable[[Tensor, Tensor, C], Tensor]
"""Estimates the clean sample from a noisy one (N, C, h, w), its timestep (a scalar) and conditions."""

DDIM = {
    "class": register_part(DDIMScheduler).__name__,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "prediction_type": "sample",
    "clip_sample": False,
}
"""Configuration of DDIM (Song et al., ICLR 2021), deterministic given the noise.

Its last timestep is pure noise (zero terminal SNR, Lin et al., WACV 2024), which is where a decoder starts: trained on
less, a denoiser would learn to read the true sample through the noise.
"""


def timesteps(scheduler: SchedulerMixin, steps: int) -> tuple[int, ...]:
    """Timesteps of a number of sampling steps, in sampling order; the first is pure noise."""
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps)
    return tuple(scheduler.timesteps.tolist())


def sample(denoise: Denoise[C], noise: Tensor, conditions: C, scheduler: SchedulerMixin, steps: int) -> Tensor:
    """Samples with a scheduler that estimates the clean sample (``prediction_type`` is ``sample``).

    Args:
        denoise: see :data:`Denoise`.
        noise: (N, C, h, w), standard normal.
        conditions: handed to ``denoise``.
        scheduler: of ``diffusers``.
        steps: how many calls of ``denoise``.

    Returns:
        The sample (N, C, h, w).
    """
    scheduler = copy.deepcopy(scheduler)  # others may be sampling with it, too
    scheduler.set_timesteps(steps, device=noise.device)
    x = noise
    for t in scheduler.timesteps:
        x = scheduler.step(denoise(x, t, conditions), t, x).prev_sample
    return x
