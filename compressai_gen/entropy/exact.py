"""Probabilities that are the same on every machine.

A range decoder stays in step with its encoder only if both use bit-identical probability tables, yet two machines (or
two thread counts) round the network that predicts them differently. Here such a network runs in float64, its outputs
are *snapped* to integers, and only integers select tables.

Two float64 evaluations differ: a sum of n products, in whatever order, errs by at most n times 1.1e-16 of the sum of
their magnitudes. With all sums of all layers in reverse order, outputs for a photograph moved by at most 1.1e-12 of a
step (``cgdm``) and 2.3e-13 (``mridc``). The encoder checks that no output lies within ``MARGIN``, 1e-9, of a rounding
boundary. If one does, it shifts the boundaries to another *phase*.

Outputs are snapped in *parts*, each with a phase of its own that is coded before what the part decides. Near-boundary
values are rare: a fraction 2e-9 of them. The largest part, the logits of 2,048 tokens of 1,024 entries, has one with a
probability of 0.4 % in one phase, and in all 16 with 0.004^16, or 1e-38; one phase for the whole of a picture of
16384x16384 pixels, of up to 1.8e9 logits, would have been safe for one in forty. For networks whose outputs are not
spread like that, such as constants at boundaries of all phases, there is a last resort that cannot fail: *blind*,
which snaps all values of the part to zero, whatever they are. So every picture of every size can be encoded, and that
its symbols are decoded everywhere is the encoder's check, not a matter of probability.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from compressai.ans import BufferedRansEncoder, RansDecoder
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from torch import Tensor, nn

from compressai_gen.entropy.rans import PRECISION, MeteredDecoder, encode, flat_list, tables
from compressai_gen.errors import CodecError

__all__ = [
    "BLIND",
    "PHASES",
    "ExactEntropyBottleneck",
    "ExactGaussianConditional",
    "Snap",
    "SnapDecoder",
    "SnapEncoder",
    "float64_twin",
    "in_float64",
    "safe_phase",
    "snapped",
]

MARGIN = 1e-9
"""Smallest allowed distance to a rounding boundary, in steps."""

PHASES = 16
"""How many positions of the rounding boundaries a part can choose from."""

BLIND = PHASES
"""In place of a phase: all values of the part are snapped to zero."""

_LARGE = 2.0**10
# Steps; where values are larger, the margin grows with them, as float64's rounding does.

_PHASE_TABLES = [[0, *range(2**PRECISION - PHASES, 2**PRECISION + 1), 2**PRECISION]], [PHASES + 3], [0]
# Phase 0 costs 0.0004 bits, every other one and "blind" 16.


def snapped(values: Tensor, phase: int) -> Tensor:
    """Rounds float64 values to int64, with the boundaries shifted by ``phase`` / 16 of a step, or to zeros."""
    return torch.zeros_like(values, dtype=torch.int64) if phase == BLIND else _shifted(values, phase).floor().long()


def _shifted(values: Tensor, phase: int) -> Tensor:
    shift = (phase if phase < PHASES // 2 else phase - PHASES) / PHASES
    return values + (shift + 0.5)


def safe_phase(values: Tensor) -> int:
    """Returns the first phase in which none of the values lies near a boundary.

    Raises:
        CodecError: the values are not finite.
    """
    if not values.numel():
        return 0
    low, high = values.aminmax()
    largest = float(torch.maximum(-low, high))
    if not math.isfinite(largest):
        raise CodecError("what the codec's networks predict of its symbols is not finite: its weights are damaged")
    margin = MARGIN * max(1.0, largest / _LARGE)
    for phase in range(PHASES):
        scaled = _shifted(values, phase)
        # The distance to the nearest integer.
        if (scaled - scaled.round()).abs_().min() >= margin:
            return phase
    return BLIND


class Snap:
    """Rounds the float64 values of a part to integers that are the same on every machine.

    This one chooses phases as an encoder does and codes nothing, to estimate.
    """

    def __call__(self, values: Tensor) -> Tensor:
        """Returns int64."""
        return snapped(values, self._phase(values))

    def _phase(self, values: Tensor) -> int:
        return safe_phase(values)


class SnapEncoder(Snap):
    """Chooses the phase of each part and codes it."""

    def __init__(self, encoder: BufferedRansEncoder):
        self._encoder = encoder

    def _phase(self, values: Tensor) -> int:
        phase = safe_phase(values)
        self._encoder.encode_with_indexes([phase], [0], *_PHASE_TABLES)
        return phase


class SnapDecoder(Snap):
    """Decodes the phase of each part."""

    def __init__(self, decoder: RansDecoder | MeteredDecoder):
        self._decoder = decoder

    def _phase(self, values: Tensor) -> int:
        return self._decoder.decode_stream([0], *_PHASE_TABLES)[0]


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
        for name, parameter in self.named_parameters():
            if not torch.isfinite(parameter).all():  # the search for the tails would never end
                raise CodecError(f"the factorized prior's {name} is not finite: the weights are damaged")
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
        symbols = torch.round(values - self.medians)
        encode(encoder, symbols, self._build_indexes(symbols.shape), tables(self))
        return symbols + self.medians

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
