from itertools import pairwise

import pytest
import torch
from compressai.ans import BufferedRansEncoder
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.models.base import get_scale_table
from torch import nn

from compressai_gen.entropy.exact import (
    BLIND,
    PHASES,
    ExactEntropyBottleneck,
    ExactGaussianConditional,
    Snap,
    SnapDecoder,
    SnapEncoder,
    float64_twin,
    in_float64,
    safe_phase,
    snapped,
)
from compressai_gen.entropy.rans import open_stream
from compressai_gen.errors import CodecError


def _float64(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_snap_rounds_to_integers():
    integers = Snap()(_float64(-1.7, -0.2, 0.3, 2.6, 1e6 + 0.4))
    assert integers.dtype == torch.int64
    assert integers.tolist() == [-2, 0, 0, 3, 1_000_000]


@pytest.mark.parametrize("phase", range(PHASES))
def test_every_phase_rounds_to_within_one_step(phase):
    values = torch.linspace(-3, 3, 1001, dtype=torch.float64)
    assert (snapped(values, phase) - values).abs().max() <= 1


def test_phases_have_different_boundaries():
    values = torch.linspace(0, 1, 161, dtype=torch.float64)[:-1] + 0.003
    rounded = [snapped(values, phase) for phase in range(PHASES)]
    assert len({int(r.eq(r.max()).nonzero()[0]) for r in rounded}) == PHASES


def test_blind_sees_nothing():
    assert snapped(_float64(0.1, -7.5, 1e9), BLIND).tolist() == [0, 0, 0]


@pytest.mark.parametrize("offset", [0.0, 1e-10, -1e-10])
def test_value_near_a_boundary_moves_the_encoder_to_the_next_phase(offset):
    assert safe_phase(_float64(0.1, 7.5 + offset, 0.2)) == 1


@pytest.mark.parametrize("offset", [1e-8, -1e-8])
def test_value_off_the_boundary_is_accepted(offset):
    assert safe_phase(_float64(7.5 + offset)) == 0


def test_the_margin_grows_with_large_values():
    assert safe_phase(_float64(7.5 + 1e-8, 1e5)) == 1
    assert safe_phase(_float64(7.5 + 1e-6, 1e5)) == 0


def _boundaries(phases):
    return _float64(*(0.5 - (phase if phase < 8 else phase - PHASES) / PHASES for phase in phases))


def test_first_phase_that_suits_all_values_is_taken():
    assert safe_phase(_boundaries((0, 1, 2, 3, 5))) == 4


def test_values_at_boundaries_of_all_phases_are_not_looked_at():
    assert safe_phase(_boundaries(range(PHASES))) == BLIND


def test_an_empty_part_is_safe():
    assert safe_phase(_float64()) == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_refused(value):
    with pytest.raises(CodecError, match="not finite"):
        Snap()(_float64(0.1, value))


def test_a_decoder_rounds_each_part_as_its_encoder_did():
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(50, generator=generator, dtype=torch.float64) for _ in range(20)]
    parts = [torch.cat((part, _boundaries(range(i)))) for i, part in enumerate(parts)]
    encoder = BufferedRansEncoder()
    snap = SnapEncoder(encoder)
    sent = [snap(part) for part in parts]
    decoder = SnapDecoder(open_stream(encoder.flush(), len(parts)))
    noise = 1e-11 * torch.randn(len(parts), generator=generator, dtype=torch.float64)
    assert all(torch.equal(decoder(part + e), s) for part, e, s in zip(parts, noise, sent, strict=True))


def test_usual_phases_cost_next_to_nothing():
    encoder = BufferedRansEncoder()
    snap = SnapEncoder(encoder)
    for i in range(1000):
        snap(_float64(i))
    assert len(encoder.flush()) <= 8


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


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_tables_of_damaged_weights_are_refused_at_once(value):
    model = _bottleneck(ExactEntropyBottleneck)
    with torch.no_grad():
        model.matrices[0][0] = value
    with pytest.raises(CodecError, match=r"matrices\.0 is not finite"):
        model.update()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30, -(2.0**25)])
def test_symbols_that_the_coder_cannot_hold_are_refused(value):
    """CompressAI's coder never returns from them."""
    model = _bottleneck(ExactEntropyBottleneck)
    model.update()
    with pytest.raises(CodecError, match="beyond the range coder's range"):
        model.encode(torch.full((1, 12, 2, 2), value), BufferedRansEncoder())


def test_the_largest_symbols_are_coded():
    model, encoder = _bottleneck(ExactEntropyBottleneck), BufferedRansEncoder()
    model.update()
    values = torch.tensor([-(2.0**24), 2.0**24 - 1]).reshape(1, 1, 1, 2).expand(1, 12, 1, 2)
    sent = model.encode(values, encoder)
    assert torch.equal(model.decode((1, 2), open_stream(encoder.flush(), 24)), sent)
