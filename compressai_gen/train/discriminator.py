"""The adversary of a restorer: a discriminator that sees a picture beside the base picture, and how both learn."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["KINDS", "Adversary", "PatchDiscriminator"]

KINDS = ("hinge", "relativistic")
"""Losses: of pictures by themselves (Lim and Ye, 2017), or against their originals (Huang et al., NeurIPS 2024)."""


class _Down(nn.Module):
    """Halves the resolution: a binomial blur, so that no position is seen better than its neighbours, then a stride."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("blur", torch.outer(taps, taps).expand(in_channels, 1, 4, 4).clone(), persistent=False)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        blurred = F.conv2d(F.pad(h, (1, 2, 1, 2), mode="replicate"), self.blur.to(h.dtype), groups=h.shape[1])
        return F.leaky_relu(self.conv(blurred[..., ::2, ::2]), 0.2)


class PatchDiscriminator(nn.Module):
    """Tells decoded pictures from originals, patch by patch (Isola et al., CVPR 2017), without normalization layers.

    Args:
        width: channels at full resolution; twice and four times as many at a half and a quarter.
    """

    def __init__(self, width: int = 64):
        super().__init__()
        self.stem = nn.Conv2d(6, width, 3, padding=1)
        self.body = nn.Sequential(_Down(width, 2 * width), _Down(2 * width, 4 * width))
        self.head = nn.Conv2d(4 * width, 1, 3, padding=1)

    def forward(self, x: Tensor, x_base: Tensor) -> Tensor:
        """Returns logits (N, 1, H / 4, W / 4), high for originals, of pictures (N, 3, H, W) beside base ones."""
        h = F.leaky_relu(self.stem(2 * torch.cat((x, x_base), dim=1) - 1), 0.2)
        return self.head(self.body(h))


class Adversary(nn.Module):
    """A discriminator and what it and its opponent minimize. It has gradients in its own loss alone.

    Args:
        kind: one of :data:`KINDS`.
        width: of the :class:`PatchDiscriminator`.
        learning_rate: of its own AdamW.
        r1, r2: weights of the squared gradients at originals and at decoded pictures (Mescheder et al., ICML 2018).
        penalty_every: steps after which these are computed, weighing as much more.
        warmup: steps of an adversarial stage over which the opponent comes to feel it.
    """

    def __init__(
        self,
        kind: str = "relativistic",
        width: int = 64,
        learning_rate: float = 2e-4,
        r1: float = 0.1,
        r2: float = 0.1,
        penalty_every: int = 4,
        warmup: int = 500,
    ):
        super().__init__()
        if kind not in KINDS:
            raise TypeError(f"an adversary's kind is one of {', '.join(KINDS)}, not {kind!r}")
        self.kind = kind
        self.learning_rate = learning_rate
        self.r1, self.r2 = r1, r2
        self.penalty_every = penalty_every
        self.warmup = warmup
        self.discriminator = PatchDiscriminator(width)

    def judge(self, x_hat: Tensor, x: Tensor, x_base: Tensor) -> Tensor:
        """Returns what the opponent is to lower, with gradients to ``x_hat`` (N, 3, H, W) alone."""
        self.discriminator.requires_grad_(False)
        fake = self.discriminator(x_hat, x_base).float()
        if self.kind == "hinge":
            loss = -fake.mean()
        else:
            with torch.no_grad():
                real = self.discriminator(x, x_base).float()
            loss = F.softplus(real - fake).mean()
        self.discriminator.requires_grad_(True)
        return loss

    def forward(self, x_hat: Tensor, x: Tensor, x_base: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the discriminator's own loss at a step of the training, and what to log."""
        x_hat, x, x_base = x_hat.detach().float(), x.detach(), x_base.detach().float()
        penalized = step % self.penalty_every == 0 and (self.r1 > 0 or self.r2 > 0)
        if penalized:
            x_hat, x = x_hat.requires_grad_(), x.clone().requires_grad_()
        # Gradients of gradients are too coarse in bfloat16.
        with torch.autocast(x.device.type, enabled=torch.is_autocast_enabled(x.device.type) and not penalized):
            real, fake = (self.discriminator(v, x_base).float() for v in (x, x_hat))
        if self.kind == "hinge":
            loss = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        else:
            loss = F.softplus(fake - real).mean()
        logs = {"d_loss": loss.detach(), "d_right": (real > fake).float().mean()}
        if penalized:
            for weight, logits, at in ((self.r1, real, x), (self.r2, fake, x_hat)):
                (gradient,) = torch.autograd.grad(logits.mean(dim=(1, 2, 3)).sum(), at, create_graph=True)
                slope = gradient.square().sum(dim=(1, 2, 3)).mean()
                loss = loss + weight / 2 * self.penalty_every * slope
        return loss, logs
