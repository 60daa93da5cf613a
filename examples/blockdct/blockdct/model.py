"""A whole codec: a discrete cosine transform of 8x8 blocks, quantized, with a trained factorized prior per quality."""

import math
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from compressai.ans import BufferedRansEncoder
from compressai.registry import register_model
from torch import Tensor, nn

from blockdct.spec import SPEC
from compressai_gen.entropy.exact import ExactEntropyBottleneck
from compressai_gen.entropy.rans import MeteredDecoder, open_stream
from compressai_gen.models.base import GenerativeCodec

SIZE = 8


class Decoded(NamedTuple):
    """What a stream holds of one image: coefficients (1, C, h, w) in quantization steps."""

    steps: Tensor


@register_model(SPEC.name)
class BlockDCT(GenerativeCodec):
    """Quantizes the coefficients of 8x8 blocks.

    Args:
        **config: replaces ``step_sizes``, one for each quality, of samples in [0, 1].
    """

    spec = SPEC
    name = SPEC.name
    multiple = SIZE
    defaults: ClassVar[dict[str, Any]] = {"step_sizes": [0.5, 0.3, 0.18, 0.1, 0.06]}
    coding = ("priors", "log_step")

    def __init__(self, **config: Any):
        super().__init__(config)
        self.channels = 3 * SIZE**2
        self.register_buffer("basis", _basis())
        self.log_step = nn.Parameter(torch.tensor(self.config["step_sizes"]).log())
        self.priors = nn.ModuleList(
            ExactEntropyBottleneck(self.channels, init_scale=2) for _ in self.config["step_sizes"]
        )

    def _step(self, index: Tensor) -> Tensor:
        """Step sizes (N, 1, 1, 1) at quality indexes (N,), which lie between those of whole qualities."""
        index = index.clamp(0, len(self.priors) - 1)
        low = index.floor().long()
        high = index.ceil().long()
        return self.log_step[low].lerp(self.log_step[high], index - low).exp()[:, None, None, None]

    def _prior(self, index: Tensor) -> ExactEntropyBottleneck:
        return self.priors[int(index.round())]

    def analyze(self, x: Tensor, index: Tensor) -> Tensor:
        """Padded images (N, 3, H, W) to coefficients in steps (N, C, h, w)."""
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x - 0.5, self.basis, stride=SIZE) / self._step(index)

    def _pictures(self, steps: Tensor, index: Tensor) -> Tensor:
        with torch.autocast(steps.device.type, enabled=False):
            return F.conv_transpose2d(steps * self._step(index), self.basis, stride=SIZE) + 0.5

    def forward(self, x: Tensor, quality: Tensor | float | None = None) -> dict[str, Any]:
        """Estimates what compress and decompress do."""
        index = self.quality_indexes(quality, len(x))
        y = self.analyze(self.pad(x), index)
        rounded, likelihoods = [], []
        for y_i, index_i in zip(y.split(1), index, strict=True):
            prior = self._prior(index_i)
            likelihoods.append(prior(y_i, training=self.training)[1])
            rounded.append(y_i + (prior.nearest(y_i) - y_i).detach())
        x_hat = self._pictures(torch.cat(rounded), index)[..., : x.shape[2], : x.shape[3]]
        likelihoods = {"y": torch.cat(likelihoods), "header": self.header_likelihoods(x)}
        return {"x_hat": x_hat, "likelihoods": likelihoods, "terms": {}}

    def update(self, scale_table: Any = None, force: bool = False, **_: Any) -> bool:
        """Builds the tables of the coder."""
        updated = [prior.update(force=force) for prior in self.priors]
        return any(updated)

    def encode_latent(self, latent: Tensor, index: Tensor, x: Tensor) -> bytes:
        """Coefficients (C, h, w) to bytes."""
        encoder = BufferedRansEncoder()
        self._prior(index).encode(latent[None], encoder)
        return encoder.flush()

    def decode_latent(self, payload: bytes, shape: tuple[int, int], index: Tensor) -> Decoded:
        """Bytes to coefficients."""
        return Decoded(self._prior(index).decode(_blocks(shape), self._open(payload, shape)))

    def symbol_bits(self, payload: bytes, shape: tuple[int, int], index: Tensor) -> dict[str, float]:
        """Bits of the coefficients."""
        meter = MeteredDecoder(self._open(payload, shape))
        self._prior(index).decode(_blocks(shape), meter)
        return {"y": sum(meter.bits)}

    def _open(self, payload: bytes, shape: tuple[int, int]) -> Any:
        rows, columns = _blocks(shape)
        return open_stream(payload, self.channels * rows * columns)

    def synthesize(self, decoded: list[Decoded], index: Tensor, seeds: list[int], options: Any) -> Tensor:
        """Coefficients of N images to pictures (N, 3, H, W)."""
        self.steps(options)  # refuses steps of a sampler, which there is none of
        x_hat = self._pictures(torch.cat([d.steps for d in decoded]), index)
        return _smoothed(x_hat) if options.smooth else x_hat


def _blocks(shape: tuple[int, int]) -> tuple[int, int]:
    return shape[0] // SIZE, shape[1] // SIZE


def _basis() -> Tensor:
    """The orthonormal basis as the weight (C, 3, 8, 8) of a convolution."""
    n = torch.arange(SIZE, dtype=torch.float64)
    dct = torch.cos(math.pi / SIZE * (n + 0.5) * n[:, None]) * math.sqrt(2 / SIZE)
    dct[0] /= math.sqrt(2)
    blocks = torch.einsum("ux,vy->uvxy", dct, dct).reshape(-1, SIZE, SIZE)
    weight = torch.zeros(3, SIZE**2, 3, SIZE, SIZE, dtype=torch.float64)
    for colour in range(3):
        weight[colour, :, colour] = blocks
    return weight.flatten(0, 1).float()


def _smoothed(x: Tensor) -> Tensor:
    """Averages the two samples on both sides of each border of blocks."""
    for dim in (2, 3):
        borders = torch.arange(SIZE, x.shape[dim], SIZE, device=x.device)
        mean = (x.index_select(dim, borders - 1) + x.index_select(dim, borders)) / 2
        x = x.index_copy(dim, borders - 1, mean).index_copy(dim, borders, mean)
    return x
