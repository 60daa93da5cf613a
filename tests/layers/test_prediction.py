"""The predictors: what they see, what they must not see, and that any size works."""

import pytest
import torch

from compressai_gen.layers.prediction import MaskPredictor, TokenPredictor


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    predictor = TokenPredictor(channels=6, entries=10, levels=2, width=16, heads=2, window=4)
    for head in predictor.heads:
        torch.nn.init.normal_(head.weight)
    return predictor.double().eval()


@pytest.fixture(scope="module")
def inputs():
    torch.manual_seed(1)
    codes = torch.randn(2, 6, 14, 18, dtype=torch.float64)
    return codes, torch.randint(0, 2, (2, 14, 18)), torch.randint(1, 3, (2, 14, 18))


def test_one_logit_per_entry_and_position(predictor, inputs):
    assert predictor.logits(predictor(*inputs), 0).shape == (2, 14, 18, 10)


def test_untrained_predictor_finds_all_tokens_equally_probable(inputs):
    fresh = TokenPredictor(16, heads=2, window=4, channels=6, entries=10, levels=2).double()
    assert (fresh.logits(fresh(*inputs), 1) == 0).all()


def test_levels_have_heads_of_their_own(predictor, inputs):
    features = predictor(*inputs)
    assert not torch.equal(predictor.logits(features, 0), predictor.logits(features, 1))


def test_the_coder_and_training_compute_the_same_features(predictor, inputs):
    with torch.no_grad():
        coded = predictor(*inputs)
    assert torch.allclose(coded, predictor(*inputs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("flag", ["known", "sent"])
@pytest.mark.parametrize("levels", [1, 2])
def test_how_much_is_known_and_how_much_will_be_sent_is_seen(predictor, levels, flag):
    codes = torch.zeros(1, 6, 6, 6, dtype=torch.float64)
    same, fewer, more = (torch.full((1, 6, 6), n) for n in (2, levels - 1, levels))
    pairs = [(n, same) if flag == "known" else (same, n) for n in (fewer, more)]
    assert not torch.equal(predictor(codes, *pairs[0]), predictor(codes, *pairs[1]))


def test_images_of_a_batch_do_not_see_each_other(predictor, inputs):
    together = predictor(*inputs)
    alone = torch.cat([predictor(*(v[i : i + 1] for v in inputs)) for i in range(2)])
    assert torch.allclose(together, alone, atol=1e-12)


def test_attention_looks_in_all_directions_and_cost_stays_local(predictor, inputs):
    codes, *rest = inputs
    changed = codes.clone()
    changed[:, :, 7, 9] += 1
    difference = (predictor(changed, *rest) - predictor(codes, *rest)).abs().amax((0, 3)) > 1e-12
    rows, columns = difference.any(1).nonzero().flatten(), difference.any(0).nonzero().flatten()
    assert rows.min() < 5 < 9 < rows.max()
    assert columns.min() < 7 < 11 < columns.max()


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (5, 3)])
def test_any_size_works(predictor, size):
    codes = torch.randn(1, 6, *size, dtype=torch.float64)
    levels = torch.ones(1, *size, dtype=torch.int64)
    features = predictor(codes, levels, levels)
    assert features.shape == (1, *size, 16)
    assert torch.isfinite(features).all()


def test_mask_logits_depend_on_neighbours_and_budget():
    torch.manual_seed(0)
    predictor = MaskPredictor(densities=6, width=8)
    torch.nn.init.normal_(predictor.head.weight)
    known = torch.full((1, 4, 5), -1)
    budget = torch.tensor([0.3])
    logits = predictor(known, budget)
    assert logits.shape == (1, 6, 4, 5)
    neighbour = known.clone()
    neighbour[0, 1, 1] = 3
    changed = (predictor(neighbour, budget) - logits).abs().amax((0, 1)) > 0
    assert changed[:4, :4].all()
    assert not changed[:, 4].any()
    assert not torch.equal(predictor(known, budget * 2), logits)
