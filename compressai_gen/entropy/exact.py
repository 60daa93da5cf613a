"""Probabilities that are the same on every machine.

A range decoder stays in step with its encoder only if both use bit-identical probability tables, yet two machines (or
two thread counts) round the network that predicts them differently. Here such a network runs in float64, its outputs
are *snapped* to integers, and only integers select tables. Two float64 evaluations differ by some 1e-13; the encoder
checks that no output lies within ``MARGIN`` of a rounding boundary, and if one does it starts again with all
boundaries shifted to another *phase*, which the stream's header states. The guarantee is thus the encoder's check.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch
from compressai.ans import BufferedRansEncoder, RansDecoder
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from torch import Tensor, nn

from compressai_gen.entropy.rans import flat_list, tables

__all__ = [
    "PHASES",
    "ExactEntropyBottleneck",
    "ExactGaussianConditional",
    "Snap",
    "encode_at_safe_phase",
    "float64_twin",
    "in_float64",
]

MARGIN = 1e-9
"""Smallest allowed distance to a rounding boundary, in steps; float64 rounding differences are 10,000 times smaller."""

PHASES = 16
"""How many positions of the rounding boundaries a stream can choose from."""

T = TypeVar("T")


class _NearBoundaryError(Exception):
    """An output lies so near to a rounding boundary that another machine might round it the other way."""


class Snap:
    """Rounds float64 tensors to integers, with the boundaries shifted by ``phase`` / 16 of a step.

    Args:
        phase: 0 to 15, from the stream's header.
        check: whether values too near to a boundary are refused, as an encoder must.
    """

    def __init__(self, phase: int = 0, check: bool = False):
        self.shift = (phase if phase < PHASES // 2 else phase - PHASES) / PHASES
        self.check = check

    def __call__(self, values: Tensor) -> Tensor:
        """Returns int64."""
        scaled = values + (self.shift + 0.5)
        floor = scaled.floor()
        if self.check and scaled.numel():
            fraction = scaled - floor
            if torch.minimum(fraction, 1 - fraction).min() < MARGIN:
                raise _NearBoundaryError
        return floor.long()


def encode_at_safe_phase(encode: Callable[[Snap], T]) -> tuple[int, T]:
    """Calls ``encode`` with checking :class:`Snap` objects of rising phase until no value lies near a boundary.

    Returns:
        The phase, and what ``encode`` returned.
    """
    for phase in range(PHASES):
        try:
            return phase, encode(Snap(phase, check=True))
        except _NearBoundaryError:
            continue
    raise RuntimeError("no phase is safe: the network's outputs are not finite or not continuous")


class _Twin(NamedTuple):
    """A float64 copy of a module, and what the module's tensors were when it was made."""

    module: nn.Module
    sources: list[Tensor]

    def is_of(self, module: nn.Module) -> bool:
        """Says whether the module's tensors are still the same, by value: not every change of them is counted."""
        tensors = _tensors(module)
        return len(tensors) == len(self.sources) and all(
            a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
            for a, b in zip(tensors, self.sources, strict=True)
        )


_twins: WeakKeyDictionary[nn.Module, _Twin] = WeakKeyDictionary()
_twins_lock = threading.Lock()


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def float64_twin(module: nn.Module) -> nn.Module:
    """Returns a float64 copy of a module, for :func:`in_float64`.

    It is made once and again only after the module's weights have changed; threads share it. The module itself, what
    it pickles and its state know nothing of it.
    """
    with _twins_lock:
        twin = _twins.get(module)
        if twin is None or not twin.is_of(module):
            # Tensors made in inference mode could never be trained on, and twins outlive the call that makes them.
            with torch.inference_mode(False), torch.no_grad():
                sources = [tensor.detach().clone() for tensor in _tensors(module)]
                twin = _Twin(copy.deepcopy(module).double().requires_grad_(False).eval(), sources)
                twin.module.zero_grad()
            _twins[module] = twin
        return twin.module


def in_float64(twin: nn.Module, *inputs: Tensor | None) -> Tensor:
    """Evaluates a float64 module, such as :func:`float64_twin` returns, on float64 inputs, whatever autocast says."""
    devices = {x.device.type for x in inputs if torch.is_tensor(x)}
    with torch.no_grad(), torch.autocast(devices.pop(), enabled=False):
        return twin(*(x.double() if torch.is_tensor(x) and x.is_floating_point() else x for x in inputs))


def _expand_tables(model: EntropyBottleneck | GaussianConditional, source: nn.Module) -> None:
    for name in ("_offset", "_quantized_cdf", "_cdf_length"):
        device = getattr(model, name).device
        setattr(model, name, getattr(source, name).int().to(device))


class ExactEntropyBottleneck(EntropyBottleneck):
    """CompressAI's factorized prior with tables computed in float64 on the CPU, so that ``update`` is reproducible.

    ``update_quantiles`` changes nothing: the tails are always searched for.
    """

    @torch.no_grad()
    def update(self, force: bool = False, update_quantiles: bool = False) -> bool:
        """Computes the tables from the parameters; see CompressAI."""
        if self._offset.numel() > 0 and not force:
            return False
        twin = EntropyBottleneck(self.channels, tail_mass=self.tail_mass, filters=self.filters)
        # Tables are not parameters: the twin computes its own.
        state = {k: v.cpu() for k, v in self.state_dict().items() if k not in _TABLES}
        twin.load_state_dict(state | {k: getattr(twin, k) for k in _TABLES})
        twin = twin.double()
        # The tails come from a bisection, so no auxiliary loss needs to run in training; medians stay as trained.
        high = torch.full((self.channels, 1, 1), 1e5, dtype=torch.float64)
        for i in (0, 2):
            tail = twin._search_target(lambda v: twin._logits_cumulative(v, True), twin.target[i], -high, high)
            twin.quantiles[:, :, i] = tail[:, :, 0]
        twin.update(force=True)
        _expand_tables(self, twin)
        return True

    @property
    def medians(self) -> Tensor:
        """Centres of the rounding (1, C, 1, 1)."""
        return self._get_medians().detach().reshape(1, -1, 1, 1)

    def nearest(self, values: Tensor) -> Tensor:
        """Returns what a decoder gets of values (N, C, h, w)."""
        return torch.round(values - self.medians) + self.medians

    def encode(self, values: Tensor, encoder: BufferedRansEncoder) -> Tensor:
        """Codes values (1, C, h, w) and returns what the decoder gets."""
        symbols = self.quantize(values, "symbols", self.medians)
        encoder.encode_with_indexes(flat_list(symbols), flat_list(self._build_indexes(symbols.shape)), *tables(self))
        return symbols.float() + self.medians

    def decode(self, shape: Sequence[int], decoder: RansDecoder) -> Tensor:
        """Decodes (1, C, h, w), h and w being ``shape``."""
        size = torch.Size((1, self.channels, *shape))
        symbols = decoder.decode_stream(flat_list(self._build_indexes(size)), *tables(self))
        return torch.tensor(symbols, device=self.medians.device).reshape(size).float() + self.medians


class ExactGaussianConditional(GaussianConditional):
    """CompressAI's Gaussian conditional with tables computed in float64 on the CPU."""

    @torch.no_grad()
    def update(self) -> None:
        """Computes the tables of all scales; see CompressAI, whose code does it in float32."""
        scales = self.scale_table.double().cpu()[:, None]
        center = torch.ceil(scales * -self._standardized_quantile(self.tail_mass / 2)).int()
        length = 2 * center[:, 0] + 1
        distance = (torch.arange(int(length.max())) - center).abs().double()
        upper = self._standardized_cumulative((0.5 - distance) / scales)
        lower = self._standardized_cumulative((-0.5 - distance) / scales)
        device = self.scale_table.device
        self._quantized_cdf = self._pmf_to_cdf(upper - lower, 2 * lower[:, :1], length, int(length.max())).to(device)
        self._offset = -center[:, 0].to(device)
        self._cdf_length = (length + 2).int().to(device)


_TABLES = ("_offset", "_quantized_cdf", "_cdf_length")
