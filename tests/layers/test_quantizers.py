import copy

import pytest
import torch

from compressai_gen.layers.quantizers import ResidualVectorQuantizer

D, K, L = 4, 16, 2


@pytest.fixture
def quantizer():
    torch.manual_seed(0)
    quantizer = ResidualVectorQuantizer(D, K, levels=L)
    quantizer.set_codebooks(torch.randn(L, K, D) * torch.tensor([1.0, 0.4])[:, None, None], torch.full((L, K), 5.0))
    return quantizer.eval()


@pytest.fixture
def y():
    return torch.randn(3, D, 6, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def levels():
    return torch.randint(0, L + 1, (3, 6, 8), generator=torch.Generator().manual_seed(2))


def _everywhere(y, level):
    return torch.full((y.shape[0], *y.shape[2:]), level)


def test_nearest_entry_is_nearest(quantizer, y):
    vectors = y.permute(0, 2, 3, 1).reshape(-1, D)
    for level in range(L):
        distances = (vectors[:, None].double() - quantizer.codebooks[level].double()).norm(dim=2)
        assert torch.equal(quantizer.nearest(vectors, level), distances.argmin(1))


def test_nearest_entry_does_not_depend_on_autocast(quantizer):
    vectors = torch.randn(5000, D)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = quantizer.nearest(vectors, 0)
    assert torch.equal(under_autocast, quantizer.nearest(vectors, 0))


def test_second_level_codes_what_the_first_left_over(quantizer, y):
    y_hat, tokens, _ = quantizer(y, _everywhere(y, 2))
    first = quantizer.codebooks[0][tokens[:, 0]].permute(0, 3, 1, 2)
    second = quantizer.codebooks[1][tokens[:, 1]].permute(0, 3, 1, 2)
    torch.testing.assert_close(y_hat, first + second)
    residual = (y - first).permute(0, 2, 3, 1).reshape(-1, D)
    assert torch.equal(quantizer.nearest(residual, 1), tokens[:, 1].flatten())


def test_positions_left_out_are_zero_without_tokens(quantizer, y, levels):
    y_hat, tokens, _ = quantizer(y, levels)
    assert torch.equal(tokens >= 0, torch.stack([levels > i for i in range(L)], dim=1))
    assert (y_hat.permute(0, 2, 3, 1)[levels == 0] == 0).all()
    assert (y_hat.permute(0, 2, 3, 1)[levels > 0] != 0).any(1).all()


def test_embedded_tokens_are_the_quantized_vectors(quantizer, y, levels):
    y_hat, tokens, _ = quantizer(y, levels)
    torch.testing.assert_close(quantizer.embed(tokens), y_hat)


def test_commitment_is_the_mean_squared_distance_of_sent_vectors(quantizer, y, levels):
    y_hat, _, commitment = quantizer(y, levels)
    for i in range(3):
        sent = levels[i] > 0
        expected = (y[i] - y_hat[i]).square().sum(0)[sent].mean()
        torch.testing.assert_close(commitment[i], expected)


def test_nothing_sent_commits_to_nothing(quantizer, y):
    y_hat, tokens, commitment = quantizer(y, _everywhere(y, 0))
    assert not y_hat.any()
    assert (tokens == -1).all()
    assert not commitment.any()


def test_commitment_pulls_sent_vectors_to_their_codes(quantizer, y, levels):
    y.requires_grad_()
    y_hat, _, commitment = quantizer(y, levels)
    commitment.sum().backward()
    sent = (levels > 0)[:, None]
    expected = 2 * (y - y_hat).detach() * sent / sent.flatten(1).sum(1)[:, None, None, None]
    torch.testing.assert_close(y.grad, expected)


def test_gradient_passes_straight_through_where_something_is_sent(quantizer, y, levels):
    y.requires_grad_()
    quantizer(y, levels)[0].sum().backward()
    assert torch.equal(y.grad, (levels > 0)[:, None].expand_as(y).float())


def test_codebook_follows_the_data_in_training_only(quantizer, y):
    before = quantizer.codebooks.clone()
    quantizer(y, _everywhere(y, 2))
    assert torch.equal(quantizer.codebooks, before)
    first_error = quantizer(y, _everywhere(y, 2))[2].mean()
    quantizer.train()
    for _ in range(200):
        quantizer(y, _everywhere(y, 2))
    assert quantizer(y, _everywhere(y, 2))[2].mean() < 0.5 * first_error


def test_dead_entries_are_moved_onto_the_data(quantizer, y):
    codebooks = quantizer.codebooks.clone()
    codebooks[0, 8:] = 1000.0  # nothing is near
    quantizer.set_codebooks(codebooks, torch.full((L, K), 5.0))
    quantizer.counts[0, 8:] = quantizer.counts[0].mean() / 1000
    assert quantizer.usage()[0] == 0.5
    quantizer.train()
    quantizer(y, _everywhere(y, 1))
    vectors = y.permute(0, 2, 3, 1).reshape(-1, D)
    distance = (quantizer.codebooks[0, 8:, None] - vectors).norm(dim=2).amin(1)
    assert (distance < 1e-4).all()
    assert quantizer.usage()[0] == 1


def test_all_entries_used_alike_is_full_usage(quantizer):
    assert torch.equal(quantizer.usage(), torch.ones(L))


def test_loaded_codebooks_survive_the_next_training_step(quantizer, y):
    """A resumed run goes on from its codebooks: the moving averages behind them must be there too."""
    loaded = ResidualVectorQuantizer(D, K, levels=L)
    loaded.load_state_dict(copy.deepcopy(quantizer.state_dict()))
    before = loaded.codebooks.clone()
    loaded.train()
    # Ten vectors on each entry: the averages stay where they are.
    vectors = before[0].repeat(10, 1).T.reshape(1, D, 10, K)
    loaded(vectors, _everywhere(vectors, 1))
    torch.testing.assert_close(loaded.codebooks, before)
