from itertools import pairwise

import pytest
import torch

from compressai_gen.layers.masking import N_GROUPS, coding_groups, fill_unsent, grid_levels
from compressai_gen.models.mridc import TOKEN_BUDGETS

SIZES = [(1, 1), (2, 3), (7, 5), (8, 12)]


@pytest.mark.parametrize("size", SIZES)
def test_groups_are_quarter_grids(size):
    groups = coding_groups(*size)
    assert groups.shape == size
    assert groups[0, 0] == 0
    if min(size) > 1:
        assert set(groups[:2, :2].flatten().tolist()) == set(range(N_GROUPS))
    assert torch.equal(groups[2:], groups[:-2])
    assert torch.equal(groups[:, 2:], groups[:, :-2])


def test_first_two_groups_are_a_checkerboard():
    rows, columns = torch.arange(6)[:, None], torch.arange(8)
    assert torch.equal(coding_groups(6, 8) < 2, (rows + columns) % 2 == 0)


def test_budget_says_the_share_of_each_level():
    levels = grid_levels(8, 12, (4, 2))
    assert (levels >= 1).all()
    assert (levels == 2).float().mean() == 0.5
    assert (grid_levels(8, 12, (1, 0)) == 1).float().mean() == 0.25


@pytest.mark.parametrize("size", SIZES)
def test_a_higher_quality_sends_all_of_a_lower_one_and_more(size):
    ladder = [grid_levels(*size, budget) for budget in TOKEN_BUDGETS]
    assert ladder[0].sum() >= 1
    assert all((low <= high).all() for low, high in pairwise(ladder))
    if size == (8, 12):
        assert [int(levels.sum()) for levels in ladder] == [24, 48, 96, 144, 192]


def test_sent_positions_are_left_alone():
    y_hat, sent = torch.randn(2, 3, 6, 8), torch.rand(2, 1, 6, 8) < 0.5
    assert torch.equal(fill_unsent(y_hat * sent, sent) * sent, y_hat * sent)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("budget", TOKEN_BUDGETS)
def test_constant_latent_is_filled_with_its_value(size, budget):
    sent = (grid_levels(*size, budget) > 0)[None, None]
    filled = fill_unsent(torch.full((1, 2, *size), 3.0) * sent, sent)
    torch.testing.assert_close(filled, torch.full((1, 2, *size), 3.0))


def test_near_neighbours_weigh_twice_the_diagonal_ones():
    y_hat, sent = torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    for row, column, value in ((0, 1, 6.0), (2, 2, 3.0)):
        y_hat[..., row, column], sent[..., row, column] = value, True
    assert fill_unsent(y_hat, sent)[0, 0, 1, 1] == (2 * 6 + 3) / 3


def test_position_without_sent_neighbours_stays_zero():
    y_hat, sent = torch.zeros(1, 1, 5, 5), torch.zeros(1, 1, 5, 5, dtype=torch.bool)
    y_hat[..., 0, 0], sent[..., 0, 0] = 7.0, True
    filled = fill_unsent(y_hat, sent)[0, 0]
    assert filled[1, 1] == 7
    assert (filled[2:] == 0).all()
