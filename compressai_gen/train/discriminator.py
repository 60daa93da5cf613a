"""The adversary of a restorer: a discriminator that sees a picture beside the base picture, and how both learn."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from compressai_gen.metrics.weights import IMAGENET_MEAN, IMAGENET_STD, convolutions

__all__ = ["DISCRIMINATORS", "KINDS", "Adversary", "FeatureDiscriminator", "PatchDiscriminator"]

KINDS = ("hinge", "relativistic")
"""Losses: of pictures by themselves (Lim and Ye, 2017), or against their originals (Huang et al., NeurIPS 2024)."""

_STAGES = {2: (9, 128), 4: (16, 256), 8: (23, 512)}
# Of VGG-16, by stride: how many layers there are up to the last activation before a pooling, and its channels.


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

    def forward(self, x: Tensor, x_base: Tensor) -> tuple[Tensor]:
        """Returns logits (N, 1, H / 4, W / 4), high for originals, of pictures (N, 3, H, W) beside base ones."""
        h = F.leaky_relu(self.stem(2 * torch.cat((x, x_base), dim=1) - 1), 0.2)
        return (self.head(self.body(h)),)


class _Head(nn.Module):
    """Judges features of one stride beside the pixels of the base picture that lie under each of their positions."""

    def __init__(self, stride: int, in_channels: int, width: int):
        super().__init__()
        self.unshuffle = nn.PixelUnshuffle(stride)
        self.features = spectral_norm(nn.Conv2d(in_channels, width, 1))
        self.base = spectral_norm(nn.Conv2d(3 * stride**2, width, 1, bias=False))
        self.body = spectral_norm(nn.Conv2d(width, width, 3, padding=1))
        self.logits = spectral_norm(nn.Conv2d(width, 1, 1))

    def forward(self, features: Tensor, x_base: Tensor) -> Tensor:
        h = F.leaky_relu(self.features(features) + self.base(self.unshuffle(2 * x_base - 1)), 0.2)
        return self.logits(F.leaky_relu(self.body(h), 0.2))


class FeatureDiscriminator(nn.Module):
    """Tells decoded pictures from originals by what VGG-16, trained on ImageNet and frozen, sees of them.

    Small heads with spectral normalization on frozen features learn what is real from far fewer pictures than a network
    of its own (Projected GANs, Sauer et al., NeurIPS 2021). It pools, so that it sees some positions better than
    others: give its :class:`Adversary` a ``shift``, lest its opponent learns to paint there.

    Args:
        width: channels of each head, of which features at a half, a quarter and an eighth of the resolution have one.

    Raises:
        MetricError: the weights of VGG-16 are not here and cannot be downloaded.
    """

    def __init__(self, width: int = 64):
        super().__init__()
        self.heads = nn.ModuleDict({str(s): _Head(s, channels, width) for s, (_, channels) in _STAGES.items()})
        self.network = convolutions("the discriminator", "vgg16")[: max(end for end, _ in _STAGES.values())]
        for layer in self.network:
            # Buffers, since a frozen network is neither trained nor part of a checkpoint.
            for name, parameter in list(layer.named_parameters()):
                delattr(layer, name)
                layer.register_buffer(name, parameter.detach(), persistent=False)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor, x_base: Tensor) -> tuple[Tensor, ...]:
        """Returns logits, high for originals, of pictures (N, 3, H, W) beside base ones, a map for each stride.

        Rows and columns beyond a multiple of the coarsest stride are not seen.
        """
        height, width = (side // max(_STAGES) * max(_STAGES) for side in x.shape[2:])
        x, x_base = x[..., :height, :width], x_base[..., :height, :width]
        h, begin, logits = (x - self.mean) / self.std, 0, []
        for stride, (end, _) in _STAGES.items():
            h = self.network[begin:end](h)
            logits.append(self.heads[str(stride)](h, x_base))
            begin = end
        return tuple(logits)


DISCRIMINATORS: dict[str, type[nn.Module]] = {
    network.__name__: network for network in (PatchDiscriminator, FeatureDiscriminator)
}


class Adversary(nn.Module):
    """A discriminator and what it and its opponent minimize. It has gradients in its own loss alone.

    Args:
        kind: one of :data:`KINDS`.
        discriminator: one of :data:`DISCRIMINATORS`.
        width: of its layers.
        images: how many pictures of a batch it looks at, standing for all; 0 for all.
        shift: pictures lose up to so many rows and columns at random before the discriminator sees them.
        learning_rate: of its own AdamW.
        r1, r2: weights of the squared gradients at originals and at decoded pictures (Mescheder et al., ICML 2018).
        penalty_every: steps after which these are computed, weighing as much more.
        warmup: steps of an adversarial stage over which the opponent comes to feel it.
    """

    def __init__(
        self,
        kind: str = "relativistic",
        discriminator: str = "PatchDiscriminator",
        width: int = 64,
        images: int = 0,
        shift: int = 0,
        learning_rate: float = 2e-4,
        r1: float = 0.1,
        r2: float = 0.1,
        penalty_every: int = 4,
        warmup: int = 500,
    ):
        super().__init__()
        if kind not in KINDS:
            raise TypeError(f"an adversary's kind is one of {', '.join(KINDS)}, not {kind!r}")
        if discriminator not in DISCRIMINATORS:
            raise TypeError(
                f"an adversary's discriminator is one of {', '.join(DISCRIMINATORS)}, not {discriminator!r}"
            )
        self.kind = kind
        self.images = images
        self.shift = shift
        self.learning_rate = learning_rate
        self.r1, self.r2 = r1, r2
        self.penalty_every = penalty_every
        self.warmup = warmup
        self.discriminator = DISCRIMINATORS[discriminator](width)

    def judge(self, x_hat: Tensor, x: Tensor, x_base: Tensor) -> Tensor:
        """Returns what the opponent is to lower, with gradients to ``x_hat`` (N, 3, H, W) alone."""
        x_hat, x, x_base = self._seen(x_hat, x, x_base)
        self.discriminator.requires_grad_(False)
        fake = self._logits(x_hat, x_base)
        if self.kind == "hinge":
            loss = -_mean(fake)
        else:
            with torch.no_grad():
                real = self._logits(x, x_base)
            loss = _mean(F.softplus(r - f) for r, f in zip(real, fake, strict=True))
        self.discriminator.requires_grad_(True)
        return loss

    def forward(self, x_hat: Tensor, x: Tensor, x_base: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the discriminator's own loss at a step of the training, and what to log."""
        x_hat, x, x_base = self._seen(x_hat.detach().float(), x.detach(), x_base.detach().float())
        penalized = step % self.penalty_every == 0 and (self.r1 > 0 or self.r2 > 0)
        if penalized:
            x_hat, x = x_hat.requires_grad_(), x.clone().requires_grad_()
        # Gradients of gradients are too coarse in bfloat16.
        with torch.autocast(x.device.type, enabled=torch.is_autocast_enabled(x.device.type) and not penalized):
            real, fake = (self._logits(v, x_base) for v in (x, x_hat))
        if self.kind == "hinge":
            loss = _mean(F.relu(1 - r) for r in real) + _mean(F.relu(1 + f) for f in fake)
        else:
            loss = _mean(F.softplus(f - r) for r, f in zip(real, fake, strict=True))
        right = _mean((r > f).float() for r, f in zip(real, fake, strict=True))
        logs = {"d_loss": loss.detach(), "d_right": right}
        if penalized:
            for weight, logits, at in ((self.r1, real, x), (self.r2, fake, x_hat)):
                of_each = sum(v.mean(dim=(1, 2, 3)) for v in logits) / len(logits)
                (gradient,) = torch.autograd.grad(of_each.sum(), at, create_graph=True)
                slope = gradient.square().sum(dim=(1, 2, 3)).mean()
                loss = loss + weight / 2 * self.penalty_every * slope
        return loss, logs

    def _seen(self, *pictures: Tensor) -> list[Tensor]:
        top, left = torch.randint(self.shift + 1, (2,)).tolist()
        height, width = (side - self.shift for side in pictures[0].shape[2:])
        n = self.images or len(pictures[0])
        return [picture[:n, :, top : top + height, left : left + width] for picture in pictures]

    def _logits(self, x: Tensor, x_base: Tensor) -> list[Tensor]:
        return [logits.float() for logits in self.discriminator(x, x_base)]


def _mean(maps: Iterable[Tensor]) -> Tensor:
    """Returns the mean of the means of maps, of which each weighs the same."""
    return torch.stack([values.mean() for values in maps]).mean()
