"""Few-step sampling: pure functions of a denoiser, noise, conditions and a number of steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar

from diffusers import DDIMScheduler
from torch import Tensor

__all__ = ["STEPS", "Denoise", "create_scheduler", "sample", "timesteps"]

STEPS = (1, 2, 4, 8)
"""Numbers of sampling steps to choose from at decode time."""

C = TypeVar("C")
Denoise = Callable[[Tensor, Tensor, C], Tensor]
"""Estimates the clean sample from a noisy one (N, C, h, w), its timestep (a scalar) and conditions."""


def create_scheduler() -> DDIMScheduler:
    """Returns the noise schedule that training and sampling share.

    Its last timestep is pure noise (zero terminal SNR, Lin et al., WACV 2024), which is where a decoder starts: trained
    on less, a denoiser would learn to read the true sample through the noise.
    """
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        prediction_type="sample",
        clip_sample=False,
    )


@cache
def timesteps(steps: int) -> tuple[int, ...]:
    """Timesteps of a number of sampling steps, in sampling order; the first is pure noise."""
    scheduler = create_scheduler()
    scheduler.set_timesteps(steps)
    return tuple(scheduler.timesteps.tolist())


def sample(denoise: Denoise[C], noise: Tensor, conditions: C, steps: int) -> Tensor:
    """Samples with DDIM (Song et al., ICLR 2021), deterministic given the noise.

    Args:
        denoise: see :data:`Denoise`.
        noise: (N, C, h, w), standard normal.
        conditions: handed to ``denoise``.
        steps: how many calls of ``denoise``.

    Returns:
        The sample (N, C, h, w).
    """
    scheduler = create_scheduler()
    scheduler.set_timesteps(steps, device=noise.device)
    x = noise
    for t in scheduler.timesteps:
        x = scheduler.step(denoise(x, t, conditions), t, x).prev_sample
    return x
