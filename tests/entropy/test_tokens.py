from decimal import Decimal, localcontext

import pytest
import torch

from compressai_gen.entropy import tokens as tokens_module
from compressai_gen.entropy.exact import Snap, safe_phase, snapped
from compressai_gen.entropy.rans import PRECISION, open_stream
from compressai_gen.entropy.tokens import TokenCost, TokenDecoder, TokenEncoder, frequencies

TOTAL = 2**PRECISION


def _logits(positions=200, entries=1024, spread=3.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(positions, entries, generator=generator, dtype=torch.float64) * spread


@pytest.mark.parametrize("entries", [2, 16, 1024, 2**14 - 1])
@pytest.mark.parametrize("spread", [0.0, 3.0, 1e4])
def test_frequencies_fill_the_coders_range(entries, spread):
    table = frequencies(_logits(20, entries, spread), Snap())
    assert table.dtype == torch.int64
    assert (table >= 1).all()
    assert (table.sum(1) == TOTAL).all()


def test_float64_rounding_changes_no_frequency():
    logits = _logits()
    phase, table = safe_phase(logits * tokens_module.LOGIT_STEPS), frequencies(logits, Snap())
    for seed in (1, 2, 3):
        noise = _logits(spread=1e-12, seed=seed)
        assert torch.equal(frequencies(logits + noise, lambda values: snapped(values, phase)), table)


def test_float32_rounding_would_change_frequencies():
    logits = _logits()
    table = frequencies(logits, Snap())
    assert not torch.equal(frequencies(logits + _logits(spread=1e-5, seed=1), Snap()), table)


def test_frequencies_cost_little_more_than_the_logits_own_probabilities():
    logits = _logits()
    log_p = logits.log_softmax(1)
    ideal = -(log_p.exp() * log_p).sum(1).mean()
    coded = -(log_p.exp() * (frequencies(logits, Snap()) / TOTAL).log()).sum(1).mean()
    assert ideal < coded < 1.01 * ideal


def test_equal_logits_get_equal_frequencies():
    assert (frequencies(torch.full((3, 1024), 0.7, dtype=torch.float64), Snap()) == 64).all()


def test_frequencies_depend_on_differences_of_logits_only():
    logits = _logits()
    assert torch.equal(frequencies(logits + 123.0, Snap()), frequencies(logits, Snap()))


def test_exponentials_are_right_and_far_from_rounding_boundaries():
    assert tokens_module._EXP[-1] == 0
    with localcontext() as context:
        context.prec = 40
        for k, value in enumerate(tokens_module._EXP[:-1].tolist()):
            exact = (Decimal(-k) / tokens_module.LOGIT_STEPS).exp() * 2**30
            assert value == round(exact)
            assert abs(exact - value) < Decimal("0.5") - Decimal("1e-6")


def _passes():
    generator = torch.Generator().manual_seed(5)
    tables = [frequencies(_logits(n, seed=n), Snap()) for n in (7, 0, 40)]
    return [(torch.randint(1024, (len(table),), generator=generator), table) for table in tables]


def test_tokens_are_decoded_as_coded():
    encoder = TokenEncoder()
    for tokens, table in _passes():
        assert torch.equal(encoder(tokens, table), tokens)
    decoder = TokenDecoder(open_stream(encoder.flush(), 47))
    for tokens, table in _passes():
        assert torch.equal(decoder(None, table), tokens)


def test_least_probable_tokens_are_coded():
    table = frequencies(_logits(spread=1e4), Snap())
    rarest = table.argmin(1)
    encoder = TokenEncoder()
    encoder(rarest, table)
    assert torch.equal(TokenDecoder(open_stream(encoder.flush(), len(table)))(None, table), rarest)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("spread", [0.1, 1e4])
def test_very_short_streams_stay_inside_the_coders_memory(count, spread):
    """CompressAI's coder reserves too little for fewer than four symbols, which ends the process sooner or later."""
    table = frequencies(_logits(count, spread=spread), Snap())
    tokens = table.argmin(1)
    for _ in range(200):
        encoder = TokenEncoder()
        encoder(tokens, table)
        payload = encoder.flush()
        assert len(payload) <= 8 + 2 * count
    assert torch.equal(TokenDecoder(open_stream(payload, count))(None, table), tokens)


def test_cost_is_the_length_of_the_stream():
    encoder, cost = TokenEncoder(), TokenCost()
    for tokens, table in _passes() * 4:
        encoder(tokens, table)
        cost(tokens, table)
    bits = -torch.cat(cost.likelihoods).log2().sum().item()
    assert 8 * len(encoder.flush()) == pytest.approx(bits, rel=0.01, abs=64)


def test_bytes_that_no_encoder_made_give_some_tokens():
    table = frequencies(_logits(), Snap())
    for payload in (b"", b"\xff" * 9, bytes(range(200))):
        decoded = TokenDecoder(open_stream(payload, len(table)))(None, table)
        assert decoded.shape == (200,)
        assert ((decoded >= 0) & (decoded < 1024)).all()
