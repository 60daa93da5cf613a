"""Any CompressAI model as a codec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from compressai_gen.codecs.base import Encoded
from compressai_gen.errors import CodecError

__all__ = ["LearnedCodec"]

ONLINE_METRICS = frozenset({"psnr", "lpips", "dists"})
"""What an encoder's online search lowers on the very picture that it codes, whatever the weights were trained on."""


class LearnedCodec:
    """A family of models with CompressAI's ``compress`` and ``decompress``: one per quality, or one for all.

    Args:
        name: of the codec.
        qualities: in the order of increasing rate.
        load: returns the model of a quality, with updated entropy coder; called once per quality, or, of a model of
            variable rate, once with the first.
        device: where the models run.
        version: changes with weights and code; see :class:`~compressai_gen.codecs.base.Codec`.
        options: keyword arguments of the models' ``compress`` and of their ``decompress``; one of ``compress`` that can
            be called is called with (H, W).
        trained_metrics: see :class:`~compressai_gen.codecs.base.Codec`.
        variable_rate: whether one model serves all qualities, as ``compress(x, quality=…)``, and numbers between them.

    Attributes:
        coding: fingerprint of the part of the weights that decides symbols, where there is one.
    """

    def __init__(
        self,
        name: str,
        qualities: tuple[int, ...],
        load: Callable[[int], nn.Module],
        device: str | torch.device = "cpu",
        version: str | None = None,
        options: tuple[dict[str, Any], dict[str, Any]] = ({}, {}),
        trained_metrics: frozenset[str] | None = None,
        variable_rate: bool = False,
    ) -> None:
        self.name = name
        self.version = version
        self.trained_metrics = trained_metrics
        self.variable_rate = variable_rate
        self.qualities = tuple(qualities)
        self._load = load
        self._compress_options, self._decompress_options = options
        self._device = torch.device(device)
        self._models: dict[int, nn.Module] = {}
        self.coding: str | None = None

    def model(self, quality: int) -> nn.Module:
        """Return the model of a quality, loaded at its first use."""
        if self.variable_rate:
            quality = self.qualities[0]
        if quality not in self._models:
            self._models[quality] = self._load(quality).to(self._device).eval()
        return self._models[quality]

    def variant(self, name: str, options: tuple[dict[str, Any], dict[str, Any]]) -> LearnedCodec:
        """Return a codec of the same models under another name, with other options."""
        version = None if self.version is None else f"{self.version} {tuple(options)}"
        trained = self.trained_metrics
        if trained is not None and options[0].get("online_steps"):
            trained = trained | ONLINE_METRICS
        variant = LearnedCodec(
            name, self.qualities, self.model, self._device, version, options, trained, self.variable_rate
        )
        variant.coding = self.coding
        return variant

    @torch.no_grad()
    def encode(self, image: Tensor, quality: int) -> Encoded:
        """Compress a uint8 image of shape (3, H, W); the model sees it in [0, 1] as a batch of one, unpadded."""
        x = image.to(self._device).float().unsqueeze(0) / 255
        options = {k: v(*x.shape[2:]) if callable(v) else v for k, v in self._compress_options.items()}
        if self.variable_rate:
            options = {"quality": quality, **options}
        out = self.model(quality).compress(x, **options)
        return Encoded([batch[0] for batch in out["strings"]], out["shape"])

    @torch.no_grad()
    def decode(self, encoded: Encoded, quality: int | None = None) -> Tensor:
        """Decompress, clamp to [0, 1] and round to 8 bits.

        Raises:
            CodecError: the codec has several networks and `quality` does not say which.
        """
        if quality is None:
            if len(self.qualities) > 1:
                raise CodecError(f"{self.name} has one network per quality; name one of {self.qualities} to decode")
            quality = self.qualities[0]
        strings = [[string] for string in encoded.strings]
        out = self.model(quality).decompress(strings, encoded.shape, **self._decompress_options)
        return (out["x_hat"][0].clamp(0, 1) * 255).round().to(torch.uint8).cpu()
