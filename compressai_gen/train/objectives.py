"""What codecs are trained for: warm start and loss, one class a task; specifications name them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers import ModelMixin
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from compressai_gen.diffusion.restore import Conditions
from compressai_gen.diffusion.sampler import timesteps
from compressai_gen.errors import RecipeError
from compressai_gen.layers.transforms import BLOCK, init_linear_paths, klt
from compressai_gen.metrics.distortion import Distortion, psnr
from compressai_gen.models.base import GenerativeCodec
from compressai_gen.options import STEPS
from compressai_gen.train.data import Crops, sample_patches

__all__ = [
    "DenoisingStep",
    "DiffusionObjective",
    "Objective",
    "RateObjective",
    "TokenObjective",
    "checkpoint_gradients",
]

OWN_ESTIMATE = 0.3
"""Share of training batches whose noisy samples hold the denoiser's own estimates, at the price of another pass."""


class Objective(nn.Module):
    """What a training run minimizes. Checkpoints leave out the metric networks, which are public and frozen."""

    distortion: Distortion
    judge: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    """What an adversary adds to the loss, of a picture, its original and its base picture; only restorers have one."""
    has_base = False
    """Whether it calls :attr:`judge`."""
    keeps_coding = False
    """Whether a run from whole weights leaves their coding part as it is, unless the recipe says ``keep_coding``."""

    def warm_start(self, model: GenerativeCodec, data: Crops) -> None:
        """Sets the untrained model's weights to something better than chance."""
        raise RecipeError("this task goes on from trained weights: give them with --init")

    def trained(self, model: GenerativeCodec) -> Iterable[nn.Module]:
        """Returns the parts of the model that are trained."""
        return (model,)

    def step(self, model: GenerativeCodec) -> nn.Module:
        """Returns the module that :meth:`forward` is called with: what runs in one step, as a whole."""
        return model

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """As usual, without the metric networks."""
        return {k: v for k, v in super().state_dict(*args, **kwargs).items() if not k.startswith("distortion.")}

    def load_state_dict(self, state_dict: dict[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """Loads what :meth:`state_dict` returned."""
        return super().load_state_dict(self.distortion.state_dict(prefix="distortion.") | state_dict, strict, assign)


class RateObjective(Objective):
    """Rate plus distortion, with a Lagrangian weight per quality that is steered to that quality's target rate.

    The weight between rate and distortion decides more than the architecture in short runs, so it is not guessed: after
    every step each quality's ``lambda`` moves towards where the quality's mean rate meets its target.

    Args:
        target_bpp: bits per pixel of training crops, per quality. Crops are denser than whole photographs.
        initial_lambda: starting weights, per quality.
        distortion: options of :class:`compressai_gen.metrics.distortion.Distortion`.
        gain: speed of the steering per step.
        between: share of crops at qualities between the whole ones, whose lambda and target lie between, too.
    """

    def __init__(
        self,
        target_bpp: list[float],
        initial_lambda: list[float],
        distortion: dict[str, Any],
        gain: float = 0.004,
        between: float = 0.0,
    ):
        super().__init__()
        self.distortion = Distortion(**distortion)
        self.gain = gain
        self.between = between
        self.register_buffer("target", torch.tensor(target_bpp).log())
        self.register_buffer("log_lambda", torch.tensor(initial_lambda).log())
        self.register_buffer("log_bpp", self.target.clone())

    @torch.no_grad()
    def warm_start(self, model: GenerativeCodec, data: Crops) -> None:
        """Starts the linear paths as a KLT of training patches and the prior from its statistics."""
        codec = model.latent_codec
        basis, mean, std = klt(sample_patches(data, BLOCK, 20000), codec.channels)
        init_linear_paths(model.g_a, model.g_s, basis, mean)
        codec.init_statistics(std, steps=(1.6, 1.15, 0.8, 0.55, 0.38))

    def forward(self, model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss of a batch (N, 3, S, S) and what to log."""
        index = _every_index(x, len(self.target), self.between)
        out = model(x, index + 1)
        bpp = _bits(out["likelihoods"]) / math.prod(x.shape[2:])
        true_bpp = out["terms"].get("rounded_bits", _bits(out["likelihoods"])).detach() / math.prod(x.shape[2:])
        distortion, logs = self.distortion(out["x_hat"], x)
        shares = _shares(index, len(self.target))
        weight = (shares @ self.log_lambda).exp()
        # Divided by sqrt(lambda), neither the lowest nor the highest quality dominates the gradient.
        loss = ((bpp + weight * distortion) / weight.sqrt()).mean()
        if self.training:
            self._steer(true_bpp, shares)
        logs |= {"bpp": true_bpp.mean(), "noisy_bpp": bpp.detach().mean()}
        logs |= {f"bpp{i + 1}": v for i, v in enumerate(self.log_bpp.exp())}
        logs |= {f"lambda{i + 1}": v for i, v in enumerate(self.log_lambda.exp())}
        return loss, logs

    @torch.no_grad()
    def _steer(self, bpp: Tensor, shares: Tensor) -> None:
        self.log_bpp += 0.02 * (bpp.log() - shares @ self.log_bpp) @ shares
        self.log_lambda += self.gain * (self.target - self.log_bpp).clamp(-0.5, 0.5)
        self.log_lambda.clamp_(math.log(0.05), math.log(50))


class TokenObjective(Objective):
    """Distortion at fixed token budgets, commitment to the codes, and the predictors' cross-entropies.

    Args:
        distortion: options of :class:`compressai_gen.metrics.distortion.Distortion`.
        commitment_weight: per squared distance of a block's vector to its code.
        rate_weight: per bit of a sent token, and of a cell of the mask; no gradient of it reaches the transforms.
        completion_weight: per bit of a token that was not sent.
        between: share of crops at qualities between the whole ones.
    """

    def __init__(
        self,
        distortion: dict[str, Any],
        commitment_weight: float,
        rate_weight: float,
        completion_weight: float,
        between: float = 0.0,
    ):
        super().__init__()
        self.distortion = Distortion(**distortion)
        self.between = between
        self.commitment_weight = commitment_weight
        self.rate_weight = rate_weight
        self.completion_weight = completion_weight

    @torch.no_grad()
    def warm_start(self, model: GenerativeCodec, data: Crops) -> None:
        """Starts the linear paths as a KLT of training patches and the codebooks by residual k-means on it."""
        quantizer = model.quantizer
        levels, entries, channels = quantizer.codebooks.shape
        patches = sample_patches(data, BLOCK, 40000)
        basis, mean, std = klt(patches, channels)
        init_linear_paths(model.g_a, model.g_s, basis, mean)
        model.code_std.copy_(std)
        residual = (patches - mean).flatten(1) @ basis.flatten(1).T
        codebooks, counts = [], []
        for _ in range(levels):
            centroids, labels = kmeans2(residual.numpy(), entries, iter=12, minit="points", rng=0)
            codebooks.append(torch.from_numpy(centroids).float())
            counts.append(torch.bincount(torch.from_numpy(labels).long(), minlength=entries).float() / len(labels))
            residual = residual - codebooks[-1][torch.from_numpy(labels).long()]
        # As many vectors as a batch has, so that the moving averages start in balance.
        quantizer.set_codebooks(torch.stack(codebooks), torch.stack(counts).clamp_min(1e-4) * 400)

    def forward(self, model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss of a batch (N, 3, S, S) and what to log."""
        codec = getattr(model, "module", model)  # inside a wrapper where several processes train
        out = model(x, _every_index(x, codec.n_qualities, self.between) + 1)
        distortion, logs = self.distortion(out["x_hat"], x)
        bits = {name: _mean_bits(out["likelihoods"][name]) for name in ("tokens", "mask")}
        completion = _mean_bits(out["terms"]["completion"])
        loss = (distortion + self.commitment_weight * out["terms"]["commitment"]).mean()
        loss = loss + self.rate_weight * sum(bits.values()) + self.completion_weight * completion
        logs |= {f"bits_per_{name}": value.detach() for name, value in bits.items()}
        logs |= {f"codebook_usage{i + 1}": v for i, v in enumerate(codec.quantizer.usage())}
        return loss, logs | {
            "completion": completion.detach(),
            "commitment": out["terms"]["commitment"].detach().mean(),
        }


def _drawn_by_all(probability: float, device: torch.device) -> bool:
    """Draws for all processes alike: those that compute less would wait, and shared out parameters need all of them."""
    drawn = torch.rand(())
    if dist.is_initialized():
        drawn = drawn.to(device)
        dist.broadcast(drawn, 0)
    return bool(drawn < probability)


def checkpoint_gradients(model: nn.Module) -> None:
    """Has parts of a model that can do so compute activations again instead of keeping them."""
    for module in model.modules():
        if isinstance(module, ModelMixin) and module._supports_gradient_checkpointing:
            module.enable_gradient_checkpointing()


class DenoisingStep(nn.Module):
    """One denoising step of a codec's restorer from a noisy sample, with gradients, as a module that can be wrapped.

    One image in ten goes without syntax and one in ten without guidance, so that a decoder may switch them off. The
    noisy sample holds the true one or, in some batches, the denoiser's own estimate of it from pure noise, as in a
    sampler's second step.
    """

    def __init__(self, codec: GenerativeCodec):
        super().__init__()
        self.codec = codec

    def forward(self, x: Tensor, index: Tensor, timesteps: Tensor) -> dict[str, Any]:
        """Restores images.

        Args:
            x: (N, 3, H, W) in [0, 1], of sides that the codec takes without padding.
            index: of the quality, real numbers from 0 (N,).
            timesteps: (N,).

        Returns:
            ``x_hat``, ``x_base`` (N, 3, H, W) and the ``likelihoods`` of what is sent for the restorer alone.
        """
        conditions, likelihoods = self.codec.conditions(x, index)
        return self.restored(x, conditions, timesteps) | {"likelihoods": likelihoods}

    def restored(self, x: Tensor, conditions: Conditions, timesteps: Tensor, own: bool | None = None) -> dict[str, Any]:
        """Returns ``x_hat`` and ``x_base`` of images under their conditions.

        Args:
            x, timesteps: as of :meth:`forward`.
            conditions: completed.
            own: whether the noisy sample holds the denoiser's own estimate; by chance if None.
        """
        base, restorer = self.codec.base_decoder, self.codec.restorer
        space, scheduler = restorer.space, restorer.scheduler
        target = space.target(space.encode(x), conditions.x_base)
        keep = (torch.rand(2, len(x), 1, 1, 1, device=x.device) >= 0.1).float()
        denoise = partial(restorer.estimate, restorer.guide(base, conditions, keep))
        noise = torch.randn_like(target)
        if _drawn_by_all(OWN_ESTIMATE, x.device) if own is None else own:
            first = scheduler.config.num_train_timesteps - 1
            with torch.no_grad():
                target = denoise(noise, torch.full_like(timesteps, first), conditions)
        noisy = scheduler.add_noise(target, noise, timesteps)
        x_hat = space.decode(space.restored(denoise(noisy, timesteps, conditions), conditions.x_base))
        return {"x_hat": x_hat, "x_base": space.decode(conditions.x_base)}


class DiffusionObjective(Objective):
    """Trains the generative half at the timesteps that samplers visit; the end-to-end codec is frozen.

    The first timestep of every sampler, pure noise, gets most of the weight. At later ones the noisy sample holds the
    true residual or the denoiser's own estimate of it, which is what it meets at decode time.

    Args:
        distortion: options of :class:`compressai_gen.metrics.distortion.Distortion`.
        consistency_weight: per squared distance of the picture's low frequencies (means of 8x8) to the base picture's.
        syntax_bpp: bits per pixel that the syntax may take for nothing. A price from the first bit on kills it before
            the denoiser has learnt to use it.
        syntax_weight: per bit and pixel above that.
        first_share: share of samples at pure noise.
        quality_shares: how often each quality is drawn, where a batch has crops of one quality; without, a batch has
            every quality's. DISTS is of all crops together: what low qualities lack there hides what high ones lack.
        between: share of crops at qualities between the whole ones, where a batch has every quality.
    """

    keeps_coding = True
    has_base = True

    def __init__(
        self,
        distortion: dict[str, Any],
        consistency_weight: float,
        syntax_bpp: float = 0.0,
        syntax_weight: float = 0.0,
        first_share: float = 0.6,
        quality_shares: list[float] | None = None,
        between: float = 0.0,
    ):
        super().__init__()
        self.distortion = Distortion(**distortion)
        self.between = between
        self.consistency_weight = consistency_weight
        self.syntax_bpp = syntax_bpp
        self.syntax_weight = syntax_weight
        self.first_share = first_share
        self.quality_shares = quality_shares and torch.tensor(quality_shares, dtype=torch.float32)

    def trained(self, model: GenerativeCodec) -> Iterable[nn.Module]:
        """See :class:`Objective`."""
        shares = self.quality_shares
        if shares is not None and len(shares) != model.n_qualities:
            raise RecipeError(f"quality_shares wants {model.n_qualities} numbers, one a quality, not {len(shares)}")
        if model.restorer is None:
            raise RecipeError("this task trains a restorer, and [config] leaves it out")
        syntax = getattr(model, "syntax", None)
        return model.restorer.trained() if syntax is None else [*model.restorer.trained(), syntax]

    def step(self, model: GenerativeCodec) -> nn.Module:
        """See :class:`Objective`."""
        return DenoisingStep(model)

    def forward(self, model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss of a batch (N, 3, S, S) and what to log."""
        codec = getattr(model, "module", model).codec  # inside a wrapper where several processes train
        first, *later = timesteps(codec.restorer.scheduler, max(STEPS))
        chosen = torch.tensor(later)[torch.randint(len(later), (x.shape[0],))]
        t = torch.where(torch.rand(x.shape[0]) < self.first_share, first, chosen).to(x.device)
        if self.quality_shares is None:
            index = _every_index(x, codec.n_qualities, self.between)
        else:
            index = torch.multinomial(self.quality_shares, 1).to(x.device).expand(len(x))
        out = model(x, index, t)
        distortion, logs = self.distortion(out["x_hat"], x)
        drift = (F.avg_pool2d(out["x_hat"] - out["x_base"], 8)).square().mean(dim=(1, 2, 3))
        loss = (distortion + self.consistency_weight * drift).mean()
        if self.judge is not None:
            loss = loss + self.judge(out["x_hat"], x, out["x_base"])
        logs["base_psnr"] = psnr((out["x_base"] - x).float().square().mean(dim=(1, 2, 3)))
        if out["likelihoods"]:
            bpp = (_bits(out["likelihoods"]) / math.prod(x.shape[2:])).mean()
            loss = loss + self.syntax_weight * (bpp - self.syntax_bpp).clamp_min(0)
            logs["bpp"] = bpp.detach()
        return loss, logs


def _every_index(x: Tensor, n_qualities: int, between: float) -> Tensor:
    """Every quality's index (N,) in turn from a random start: batches are balanced, and small ones see all in time.

    Integers from 0, or, where a share of them is to lie between, floats.
    """
    whole = (torch.arange(x.shape[0]) + torch.randint(n_qualities, ())) % n_qualities
    if not between:
        return whole.to(x.device)
    anywhere = torch.rand(x.shape[0]) * (n_qualities - 1)
    return torch.where(torch.rand(x.shape[0]) < between, anywhere, whole.float()).to(x.device)


def _shares(index: Tensor, n_qualities: int) -> Tensor:
    """What each whole quality has to say (N, n) about quality indexes (N,), which may lie between two of them."""
    whole = torch.arange(n_qualities, device=index.device)
    return (1 - (index[:, None].float() - whole).abs()).clamp_min(0)


def _bits(likelihoods: dict[str, Tensor]) -> Tensor:
    """Bits of each image (N,), without the header's, which no training changes."""
    return sum(-p.log2().flatten(1).sum(1) for name, p in likelihoods.items() if name != "header")


def _mean_bits(likelihoods: Tensor) -> Tensor:
    """Mean bits of what was coded at all: a likelihood of one stands where nothing was."""
    return -likelihoods.clamp_min(1e-9).log2().sum() / (likelihoods < 1).sum().clamp_min(1)
