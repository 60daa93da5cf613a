"""The denoiser and consistency branch: a trunk of blocks on 16x16 patches, and a renderer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from compressai_gen.configuration import register_part
from compressai_gen.diffusion.guidance import SyntaxFusion
from compressai_gen.layers.blocks import Block, ChannelRMSNorm, Renderer
from compressai_gen.layers.quality import between_qualities

__all__ = ["BlockConsistency", "BlockDenoiser"]

_EMBEDDING = 128
# Channels of the timestep's and the quality's embedding.


@register_part
class BlockDenoiser(ModelMixin, ConfigMixin):
    """Estimates the clean residual, in the 4x pixel-unshuffled space, from a noisy one and the base picture.

    The trunk works on patches of 16x16 pixels, modulated by timestep and quality, and takes the guidance block by
    block; the renderer works on the 1/4 grid, where the noisy sample itself joins it, so that texture is made of noise
    and repeats no pattern.

    Any module may stand in its place that is called alike and has an attribute ``guided`` for the guidance that is made
    for it.

    Args:
        width: channels of the trunk.
        blocks: of the trunk.
        expansion: of their hidden channels.
        renderer_width: channels of the renderer.
        renderer_blocks: how many it has.
        sample_channels: of the noisy sample.
        n_qualities: how many qualities it is told apart by.
    """

    @register_to_config
    def __init__(
        self,
        width: int = 256,
        blocks: int = 4,
        expansion: int = 3,
        renderer_width: int = 64,
        renderer_blocks: int = 2,
        *,
        sample_channels: int,
        n_qualities: int,
    ):
        super().__init__()
        inputs = 2 * sample_channels
        self.patches = nn.Conv2d(inputs, width, 4, stride=4)
        self.norm = ChannelRMSNorm(width)
        self.timesteps = Timesteps(_EMBEDDING, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = TimestepEmbedding(_EMBEDDING, _EMBEDDING)
        self.quality = nn.Parameter(torch.zeros(n_qualities, _EMBEDDING))
        self.trunk = nn.ModuleList(Block(width, expansion, n_qualities) for _ in range(blocks))
        self.modulations = nn.ModuleList(nn.Linear(_EMBEDDING, 2 * width) for _ in range(blocks))
        self.beside = nn.Conv2d(inputs, renderer_width, 1)
        self.renderer = Renderer(width, renderer_width, renderer_blocks, n_qualities)
        self.head = nn.Conv2d(renderer_width, sample_channels, 1)
        with torch.no_grad():
            # Else an untrained network sees little but noise, and takes long to find what lies below it.
            self.patches.weight[:, :sample_channels] *= 0.2
            self.beside.weight[:, :sample_channels] *= 0.2
        # The sampler's first estimate is then zero: no residual, the picture that the codec already has.
        for layer in (self.head, *self.modulations):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def guided(self) -> list[tuple[int, int]]:
        """Positions of the sample per side that one of each guidance tensor stands for, and that tensor's channels."""
        return [(4, self.config.width)] * self.config.blocks + [(1, self.config.renderer_width)]

    def forward(
        self, x: Tensor, t: Tensor, base: Tensor, index: Tensor, guidance: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Estimates the clean sample (N, C, h, w); h and w are multiples of 4.

        Args:
            x: the noisy sample (N, C, h, w).
            t: timestep, a scalar or (N,).
            base: the base picture's sample, in about -1 to 1.
            index: of the quality, real numbers from 0 (N,).
            guidance: tensors as :attr:`guided` says, or None for no guidance.
        """
        inputs = torch.cat((x, base), dim=1).contiguous(memory_format=torch.channels_last)
        time = self.time(self.timesteps(t.expand(len(x))).to(self.quality.dtype))
        embedding = F.silu(time + between_qualities(self.quality, index))
        h = self.norm(self.patches(inputs))
        for i, (block, modulation) in enumerate(zip(self.trunk, self.modulations, strict=True)):
            scale, shift = modulation(embedding)[:, :, None, None].to(h.dtype).chunk(2, dim=1)
            h = torch.addcmul(shift, h, 1 + scale)
            h = block(h if guidance is None else h + guidance[i], index)
        beside = self.beside(inputs)
        h = self.renderer(h, index, beside if guidance is None else beside + guidance[-1])
        return self.head(F.silu(h)).float()


@register_part
class BlockConsistency(nn.Module):
    """The consistency-guided branch: from ``y_hat`` and the base decoder's features to guidance, block by block.

    Args:
        expansion: of its block's hidden channels.
        latent_channels: M.
        feature_widths: channels of the base decoder's features at 1/4 and 1/16 of the resolution.
        denoiser: a :class:`BlockDenoiser` that it is made for.
        n_qualities: how many qualities it serves.
        syntax_channels: S; 0 for a codec without a syntax.
    """

    def __init__(
        self,
        expansion: int = 3,
        *,
        latent_channels: int,
        feature_widths: Sequence[int],
        denoiser: nn.Module,
        n_qualities: int,
        syntax_channels: int = 0,
    ):
        super().__init__()
        fine, coarse = feature_widths
        *of_trunk, (_, of_renderer) = denoiser.guided
        width = of_trunk[0][1]
        self.coarse = nn.Conv2d(latent_channels + coarse, width, 1)
        self.norm = ChannelRMSNorm(width)
        self.block = Block(width, expansion, n_qualities)
        self.fine = nn.Conv2d(fine, of_renderer, 1)
        self.fusion = SyntaxFusion(syntax_channels, (of_renderer, width)) if syntax_channels else None
        self.outputs = nn.ModuleList(nn.Conv2d(width, n, 1) for _, n in of_trunk)

    def forward(
        self,
        features: Sequence[Tensor],
        latent: Tensor,
        syntax: Tensor | None,
        index: Tensor,
        strength: Tensor | float = 1.0,
        syntax_strength: Tensor | float = 1.0,
    ) -> list[Tensor]:
        """Returns the guidance.

        Args:
            features: of the base decoder, at 1/4 and 1/16 of the resolution.
            latent: (N, M, H/16, W/16), at unit variance.
            syntax: (N, S, H/64, W/64); None leaves features as they are.
            index: of the quality (N,), real numbers from 0.
            strength, syntax_strength: factors of the guidance and of the syntax's influence, per image (N, 1, 1, 1).
        """
        fine, coarse = features
        h = torch.cat((coarse, latent.to(coarse.dtype)), dim=1).contiguous(memory_format=torch.channels_last)
        hidden = [self.fine(fine), self.block(self.norm(self.coarse(h)), index)]
        if syntax is not None and self.fusion is not None:
            hidden = self.fusion(hidden, syntax, syntax_strength)
        return [output(hidden[1]) * strength for output in self.outputs] + [hidden[0] * strength]
