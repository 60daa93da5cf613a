"""Distortions to train on: what a picture lacks of its original, as a weighted sum with gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pytorch_msssim import ms_ssim
from torch import Tensor, nn

from compressai_gen.metrics.blocking import steepness
from compressai_gen.metrics.losses import DistsLoss
from compressai_gen.metrics.perceptual import LpipsMetric

__all__ = ["Distortion", "DistortionOptions", "Original", "blocking", "folded_error", "psnr"]

_FOLDS = ((32, 4), (64, 4), (64, 16), (128, 4), (128, 16), (128, 32))
# Sides in pixels of patches, and of those cells of which such a patch has sixteen at least.


@dataclass(frozen=True)
class DistortionOptions:
    """What a :class:`Distortion` weighs, and what of a batch each part looks at.

    Attributes:
        mse_weight: of the squared error of values in [0, 1].
        charbonnier_weight: of sqrt(error^2 + 0.001^2), which outliers weigh less in (Lai et al., CVPR 2017).
        ms_ssim_weight: of 1 - MS-SSIM, with windows of 7 pixels in crops under 161; crops need more than 96.
        lpips_weight: of LPIPS with AlexNet.
        lpips_vgg_weight: of LPIPS with VGG-16, which costs 20 times as much.
        dists_weight: of :class:`DistsLoss` over the batch.
        fold_weight: of :func:`folded_error`; 1,500 beside a squared error's 40 keeps periodic patterns away.
        blocking_weight: of :func:`blocking`; crops must begin where the codec's blocks do.
        lpips_images, lpips_vgg_images, dists_images: how many crops of a batch each of them looks at, standing for
            all; 0 for all.
        shift: both pictures lose up to so many rows and columns, at random, before a network sees them. Networks that
            stride or pool see the same places of a picture better than others, and a decoder learns to paint there.
        rescale: share of batches that are enlarged or reduced before a network sees them, by up to the root of two.
    """

    mse_weight: float = 0.0
    charbonnier_weight: float = 0.0
    ms_ssim_weight: float = 0.0
    lpips_weight: float = 0.0
    lpips_vgg_weight: float = 0.0
    dists_weight: float = 0.0
    fold_weight: float = 0.0
    blocking_weight: float = 0.0
    lpips_images: int = 0
    lpips_vgg_images: int = 0
    dists_images: int = 5
    shift: int = 0
    rescale: float = 0.0


class Original(NamedTuple):
    """Originals (N, 3, H, W) in [0, 1], and what networks see of them, by name."""

    x: Tensor
    features: dict[str, Any]


class Distortion(nn.Module):
    """A weighted sum of distortions. What has no weight costs nothing and needs no network.

    Args:
        **options: of :class:`DistortionOptions`.

    Raises:
        MetricError: the weights of a network are not here and cannot be downloaded.
        TypeError: an option is unknown.
    """

    def __init__(self, **options: Any):
        super().__init__()
        self.initial = DistortionOptions(**options)
        self.networks = nn.ModuleDict()
        self.configure()

    def configure(self, **options: Any) -> None:
        """Goes on with other options than the initial ones, for a stage of training, and makes what they need."""
        unknown = options.keys() - {field.name for field in fields(DistortionOptions)}
        if unknown:
            raise TypeError(f"a distortion has no option {', '.join(sorted(unknown))}")
        self.options = replace(self.initial, **options)
        makers: dict[str, Callable[[], nn.Module]] = {
            "lpips": lambda: LpipsMetric("alex").model.requires_grad_(False),
            "lpips_vgg": lambda: LpipsMetric("vgg").model.requires_grad_(False),
            "dists": DistsLoss,
        }
        for name, make in makers.items():
            if getattr(self.options, f"{name}_weight") and name not in self.networks:
                self.networks[name] = make()

    @torch.no_grad()
    def prepare(self, x: Tensor) -> Original:
        """Returns originals with what networks see of them, for many comparisons of the whole of all of them."""
        names = (name for name in self.networks if getattr(self.options, f"{name}_weight"))
        return Original(x, {name: self._seen(name, x) for name in names})

    def forward(self, x_hat: Tensor, x: Tensor | Original) -> tuple[Tensor, dict[str, Tensor]]:
        """Compares pictures (N, 3, H, W) with originals, both in [0, 1].

        Returns:
            The weighted distortion of each picture (N,), and of each part its mean, to log.
        """
        options, (x, features) = self.options, x if isinstance(x, Original) else Original(x, {})
        with torch.autocast(x.device.type, enabled=False):
            error = x_hat.float() - x
            parts = {"mse": error.square().mean(dim=(1, 2, 3))}
            if options.charbonnier_weight:
                parts["charbonnier"] = (error.square() + 1e-6).sqrt().mean(dim=(1, 2, 3))
            if options.ms_ssim_weight:
                parts["ms_ssim"] = _lost_ms_ssim(x_hat.float(), x)
            if options.fold_weight:
                parts["fold"] = folded_error(error)
            if options.blocking_weight:
                parts["blocking"] = blocking(x_hat.float(), x)
        for name in ("lpips", "lpips_vgg", "dists"):
            if getattr(options, f"{name}_weight"):
                parts[name] = self._perceived(name, x_hat, x, features.get(name))
        loss = sum(getattr(options, f"{name}_weight") * _for_all(part, len(x)) for name, part in parts.items())
        logs = {name: part.detach().mean() for name, part in parts.items()}
        return loss, logs | {"psnr": psnr(parts["mse"].detach())}

    def _perceived(self, name: str, x_hat: Tensor, x: Tensor, seen: Any) -> Tensor:
        """A network's distances (n,) of the pictures that it looks at, or of all of them together."""
        n_all = len(x)
        if seen is None:
            n = getattr(self.options, f"{name}_images") or n_all
            x_hat, x = self._moved(x_hat[:n], x[:n])
            seen = self._seen(name, x)
        network = self.networks[name]
        if name == "dists":
            return network(x_hat, seen).expand(n_all)
        return network(seen, 2 * x_hat - 1).float().flatten()

    def _seen(self, name: str, x: Tensor) -> Any:
        """What a network sees of originals, and takes in place of them."""
        network = self.networks[name]
        return network.prepare(x) if name == "dists" else network.net(network.scaling_layer(2 * x - 1))

    def _moved(self, x_hat: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Shifts and rescales both in the same way. All numbers are drawn on the CPU: a GPU need not be waited for."""
        shift, (height, width) = self.options.shift, x.shape[2:]
        if shift:
            top, left = torch.randint(shift + 1, (2,)).tolist()
            rows, columns = slice(top, top + height - shift), slice(left, left + width - shift)
            x_hat, x = x_hat[..., rows, columns], x[..., rows, columns]
        if self.options.rescale and torch.rand(()).item() < self.options.rescale:
            factor = 2 ** (torch.rand(()).item() - 0.5)
            size = [round(n * factor) for n in x.shape[2:]]
            x_hat, x = (F.interpolate(v, size=size, mode="bilinear", antialias=True) for v in (x_hat.float(), x))
        return x_hat, x


def psnr(mse: Tensor) -> Tensor:
    """Returns the mean PSNR in dB of pictures in [0, 1] with these squared errors (N,), to log."""
    return -10 * mse.clamp_min(1e-10).log10().mean()


def _for_all(part: Tensor, n: int) -> Tensor:
    """Lets distances (k,) of the first pictures of n stand for all: their gradients weigh as much as all would."""
    return F.pad(part * (n / len(part)), (0, n - len(part)))


def folded_error(error: Tensor) -> Tensor:
    """What is periodic in errors (N, 3, H, W): a pattern that eyes see long before its squared error counts.

    Patches of 32, 64 and 128 pixels are cut into cells of 4, 16 and 32 pixels, sixteen or more of them, and the mean
    cell is taken, in which everything cancels that does not repeat from cell to cell. Its variance, in multiples of
    what it would be of white noise, is averaged over patches and pairs of sizes, so that a weight means the same for
    all of them: white noise costs 1/256 of its squared error, and a pattern of 4 pixels about all of it. Patches start
    at a random place; those larger than the picture are left out.

    Returns:
        The folded error of each picture (N,).
    """
    height, width = error.shape[2:]
    parts = []
    for patch, cell in _FOLDS:
        if patch > min(height, width):
            continue
        rows, columns, n = height // patch, width // patch, patch // cell
        top, left = (int(torch.randint(side % patch + 1, ())) for side in (height, width))
        part = error[..., top : top + rows * patch, left : left + columns * patch]
        folded = part.reshape(*error.shape[:2], rows, n, cell, columns, n, cell).mean(dim=(3, 6))
        folded = folded - folded.mean(dim=(3, 5), keepdim=True)
        parts.append(folded.square().mean(dim=(1, 2, 3, 4, 5)) * (n * n / 256))
    return torch.stack(parts).mean(0) if parts else error.new_zeros(len(error))


def blocking(x_hat: Tensor, x: Tensor) -> Tensor:
    """How much steeper pictures (N, 3, H, W) are at some places of the codec's blocks than at others.

    Steps where blocks meet have random signs, so that no mean over cells sees them, as :func:`folded_error` would;
    LPIPS takes them for detail. What the profile of :func:`~compressai_gen.metrics.blocking.steepness`, divided by its
    mean, lacks of the original's is squared and averaged: 0 of equal profiles, and of steps at every sixteenth pixel
    that are three times as steep as the rest, 0.2.

    Args:
        x_hat, x: in [0, 1], a block's corner at their upper left, sides longer than a block.

    Returns:
        The blocking of each picture (N,).
    """
    shares = []
    for picture in (x_hat, x):
        profile = steepness(picture)
        shares.append(profile / (profile.mean(dim=2, keepdim=True) + 1e-6))
    return (shares[0] - shares[1]).square().mean(dim=(1, 2))


def _lost_ms_ssim(x_hat: Tensor, x: Tensor) -> Tensor:
    window = 11 if min(x.shape[2:]) > 160 else 7  # four halvings of a window must fit
    return 1 - ms_ssim(x_hat, x, data_range=1.0, size_average=False, win_size=window)
