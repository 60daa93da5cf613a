import pytest
import torch

from compressai_gen.layers.prediction import TokenPredictor


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    predictor = TokenPredictor(channels=6, entries=10, levels=2, width=16)
    for head in predictor.heads:
        torch.nn.init.normal_(head.weight)
    return predictor.double().eval()


@pytest.fixture(scope="module")
def inputs():
    return torch.randn(2, 6, 15, 17, dtype=torch.float64), torch.randint(0, 3, (2, 15, 17))


def test_one_logit_per_entry_and_position(predictor, inputs):
    assert predictor(*inputs, 0).shape == (2, 10, 15, 17)


def test_untrained_predictor_finds_all_tokens_equally_probable(inputs):
    logits = TokenPredictor(6, 10, 2, 16).double()(*inputs, 1)
    assert (logits == 0).all()


def test_levels_have_heads_of_their_own(predictor, inputs):
    assert not torch.equal(predictor(*inputs, 0), predictor(*inputs, 1))


@pytest.mark.parametrize("levels", [1, 2])
def test_knowing_a_zero_code_is_not_the_same_as_knowing_nothing(predictor, levels):
    nothing = torch.zeros(1, 6, 5, 5, dtype=torch.float64)
    fewer, more = (torch.full((1, 5, 5), n) for n in (levels - 1, levels))
    assert not torch.equal(predictor(nothing, fewer, 0), predictor(nothing, more, 0))


def test_a_code_is_seen_five_positions_away_in_all_directions_and_no_further(predictor, inputs):
    codes, known = inputs
    changed = codes.clone()
    changed[:, :, 7, 8] += 1
    difference = (predictor(changed, known, 0) - predictor(codes, known, 0)).abs().amax((0, 1)) > 1e-12
    rows, columns = difference.any(1).nonzero().flatten(), difference.any(0).nonzero().flatten()
    assert (rows.min(), rows.max()) == (7 - 5, 7 + 5)
    assert (columns.min(), columns.max()) == (8 - 5, 8 + 5)
