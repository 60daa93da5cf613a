"""What each codec is trained for: warm start and loss, one class a codec."""

from __future__ import annotations

import math
from typing import Any

import lpips
import torch
from torch import Tensor, nn

from compressai_gen.layers.transforms import BLOCK, init_linear_paths, klt
from compressai_gen.models import CGDM
from compressai_gen.train.data import CropDataset, sample_patches

__all__ = ["OBJECTIVES", "CGDMObjective", "Distortion"]


class Distortion(nn.Module):
    """Squared error and LPIPS (AlexNet), weighted."""

    def __init__(self, mse_weight: float, lpips_weight: float):
        super().__init__()
        self.weights = mse_weight, lpips_weight
        self.lpips = lpips.LPIPS(net="alex", verbose=False).requires_grad_(False)

    def forward(self, x_hat: Tensor, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the weighted distortion of each image (N,) and the mean of each part."""
        mse = (x_hat.float() - x).square().mean(dim=(1, 2, 3))
        perceptual = self.lpips(x_hat, x, normalize=True).float().flatten()
        logs = {"psnr": (-10 * mse.detach().clamp_min(1e-10).log10()).mean(), "lpips": perceptual.detach().mean()}
        return self.weights[0] * mse + self.weights[1] * perceptual, logs

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Tensor]:
        """Nothing: the LPIPS network is public and frozen."""
        return {}


class CGDMObjective(nn.Module):
    """Rate plus distortion, with a Lagrangian weight per quality that is steered to that quality's target rate.

    The weight between rate and distortion decides more than the architecture in short runs, so it is not guessed: after
    every step each quality's ``lambda`` moves towards where the quality's mean rate meets its target.

    Args:
        target_bpp: bits per pixel of training crops, per quality. Crops are denser than whole photographs.
        initial_lambda: starting weights, per quality.
        mse_weight, lpips_weight: of :class:`Distortion`.
        gain: speed of the steering per step.
    """

    def __init__(
        self,
        target_bpp: list[float],
        initial_lambda: list[float],
        mse_weight: float,
        lpips_weight: float,
        gain: float = 0.01,
    ):
        super().__init__()
        self.distortion = Distortion(mse_weight, lpips_weight)
        self.gain = gain
        self.register_buffer("target", torch.tensor(target_bpp).log())
        self.register_buffer("log_lambda", torch.tensor(initial_lambda).log())
        self.register_buffer("log_bpp", self.target.clone())

    @staticmethod
    @torch.no_grad()
    def warm_start(model: CGDM, data: CropDataset) -> None:
        """Starts the linear paths as a KLT of training patches and the prior from its statistics."""
        codec = model.latent_codec
        basis, mean, std = klt(sample_patches(data, BLOCK, 20000), sum(codec.groups))
        init_linear_paths(model.g_a, model.g_s, basis, mean)
        codec.init_statistics(std, steps=(1.6, 1.15, 0.8, 0.55, 0.38))

    def forward(self, model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss of a batch (N, 3, S, S) and what to log."""
        n = x.shape[0]
        # Every quality in turn, from a random start: batches are balanced and small ones still see all qualities.
        quality = (torch.arange(n, device=x.device) + torch.randint(len(self.target), ())) % len(self.target)
        out = model(x, quality + 1)
        bpp = sum(
            -p.log2().flatten(1).sum(1) for k, p in out["likelihoods"].items() if k != "header"
        ) / math.prod(x.shape[2:])
        distortion, logs = self.distortion(out["x_hat"], x)
        weight = self.log_lambda.exp()[quality]
        # Divided by sqrt(lambda), neither the lowest nor the highest quality dominates the gradient.
        loss = ((bpp + weight * distortion) / weight.sqrt()).mean()
        if self.training:
            self._steer(bpp.detach(), quality)
        logs |= {"bpp": bpp.detach().mean()}
        logs |= {f"bpp{i + 1}": v for i, v in enumerate(self.log_bpp.exp())}
        logs |= {f"lambda{i + 1}": v for i, v in enumerate(self.log_lambda.exp())}
        return loss, logs

    @torch.no_grad()
    def _steer(self, bpp: Tensor, quality: Tensor) -> None:
        for i, rate in zip(quality.tolist(), bpp.log().tolist(), strict=True):
            self.log_bpp[i].lerp_(torch.tensor(rate), 0.02)
        self.log_lambda += self.gain * (self.target - self.log_bpp).clamp(-0.5, 0.5)
        self.log_lambda.clamp_(math.log(0.02), math.log(50))


OBJECTIVES = {"cgdm": CGDMObjective}
"""Objective of each registered model that can be trained."""
