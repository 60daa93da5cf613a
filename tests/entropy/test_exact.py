from itertools import pairwise

import pytest
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.models.base import get_scale_table
from torch import nn

from compressai_gen.entropy.exact import (
    PHASES,
    ExactEntropyBottleneck,
    ExactGaussianConditional,
    Snap,
    encode_at_safe_phase,
    float64_twin,
    in_float64,
)


def _float64(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_snap_rounds_to_integers():
    snapped = Snap()(_float64(-1.7, -0.2, 0.3, 2.6, 1e6 + 0.4))
    assert snapped.dtype == torch.int64
    assert snapped.tolist() == [-2, 0, 0, 3, 1_000_000]


@pytest.mark.parametrize("phase", range(PHASES))
def test_every_phase_rounds_to_within_one_step(phase):
    values = torch.linspace(-3, 3, 1001, dtype=torch.float64)
    assert (Snap(phase)(values) - values).abs().max() <= 1


def test_phases_have_different_boundaries():
    values = torch.linspace(0, 1, 161, dtype=torch.float64)[:-1] + 0.003
    first_ones = {int(Snap(phase)(values).eq(Snap(phase)(values).max()).nonzero()[0]) for phase in range(PHASES)}
    assert len(first_ones) == PHASES


@pytest.mark.parametrize("offset", [0.0, 1e-10, -1e-10])
def test_value_near_a_boundary_moves_the_encoder_to_the_next_phase(offset):
    values = _float64(0.1, 7.5 + offset, 0.2)
    phase, snapped = encode_at_safe_phase(lambda snap: snap(values))
    assert phase == 1
    assert torch.equal(snapped, Snap(1)(values))


@pytest.mark.parametrize("offset", [1e-8, -1e-8])
def test_value_off_the_boundary_is_accepted(offset):
    assert encode_at_safe_phase(lambda snap: snap(_float64(7.5 + offset)))[0] == 0


def test_first_phase_that_suits_every_call_is_taken():
    boundaries = [0.5 - Snap(phase).shift for phase in (0, 1, 2, 3, 5)]

    def encode(snap):
        return [snap(_float64(value)) for value in boundaries]

    assert encode_at_safe_phase(encode)[0] == 4


def test_no_safe_phase_is_an_error():
    everywhere = _float64(*(0.5 - Snap(phase).shift for phase in range(PHASES)))
    with pytest.raises(RuntimeError, match="no phase is safe"):
        encode_at_safe_phase(lambda snap: snap(everywhere))


def test_decoder_accepts_what_an_encoder_refuses():
    assert Snap()(_float64(7.5)).item() in (7, 8)


def test_networks_run_in_float64_whatever_autocast_says():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.LeakyReLU(0.1), nn.Conv2d(8, 4, 1))
    x = torch.randn(1, 3, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = in_float64(float64_twin(module), x)
    assert out.dtype == torch.float64
    assert torch.equal(out, module.double()(x.double()))


def test_in_float64_leaves_the_module_alone():
    module = nn.Conv2d(3, 8, 3)
    in_float64(float64_twin(module), torch.randn(1, 3, 6, 6))
    assert module.weight.dtype == torch.float32


def _assert_valid_tables(model):
    for cdf, length in zip(model._quantized_cdf.tolist(), model._cdf_length.tolist(), strict=True):
        row = cdf[:length]
        assert row[0] == 0
        assert row[-1] == 1 << 16
        assert all(a < b for a, b in pairwise(row))


def test_gaussian_tables_are_compressais_up_to_float32_rounding():
    scales = get_scale_table(0.11, 64, 16)
    exact, theirs = ExactGaussianConditional(None, scale_bound=0.11), GaussianConditional(None, scale_bound=0.11)
    for model in (exact, theirs):
        model.update_scale_table(scales)
    _assert_valid_tables(exact)
    assert torch.equal(exact._offset, theirs._offset)
    assert torch.equal(exact._cdf_length, theirs._cdf_length)
    assert (exact._quantized_cdf - theirs._quantized_cdf).abs().max() <= 8


def _bottleneck(cls):
    torch.manual_seed(0)
    model = cls(12, init_scale=2)
    for parameter in model.parameters():
        if parameter is not model.quantiles:
            nn.init.normal_(parameter, parameter.detach().mean().item(), 0.1)
    return model


def test_bottleneck_tables_are_compressais_up_to_their_tails():
    exact, theirs = _bottleneck(ExactEntropyBottleneck), _bottleneck(EntropyBottleneck)
    with torch.no_grad():
        theirs.quantiles[:, :, 1] = exact.quantiles[:, :, 1] = 0.25
        for i in (0, 2):  # what the auxiliary loss of CompressAI trains towards
            high = torch.full((12, 1, 1), 1e3)
            tail = theirs._search_target(lambda v: theirs._logits_cumulative(v, True), theirs.target[i], -high, high)
            theirs.quantiles[:, :, i] = tail[:, :, 0]
    exact.update()
    theirs.update()
    _assert_valid_tables(exact)
    for row in range(12):
        ours, reference = (m._quantized_cdf[row].diff() for m in (exact, theirs))
        shift = int(exact._offset[row] - theirs._offset[row])
        assert abs(shift) <= 1
        middle = torch.arange(5, int(exact._cdf_length[row]) - 6)
        assert (ours[middle] - reference[middle + shift]).abs().max() <= 64


def test_bottleneck_tables_do_not_depend_on_threads():
    before, tables = torch.get_num_threads(), []
    for n in (1, 3):
        torch.set_num_threads(n)
        model = _bottleneck(ExactEntropyBottleneck)
        model.update()
        tables.append(model._quantized_cdf)
    torch.set_num_threads(before)
    assert torch.equal(*tables)


def test_bottleneck_is_updated_once_unless_forced():
    model = _bottleneck(ExactEntropyBottleneck)
    assert model.update()
    assert not model.update()
    assert model.update(force=True)
