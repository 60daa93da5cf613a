"""The mask: budgets hold whatever the map, tokens go where importance is, and unsent positions are filled."""

import pytest
import torch

from compressai_gen.layers import masking
from compressai_gen.layers.masking import (
    DENSITIES,
    allocate,
    cell_means,
    coding_groups,
    fill_unsent,
    grid_importance,
    importance_of,
    levels_of,
    random_importance,
    token_counts,
)

SHAPE = (16, 24)  # Kodak's cells


def _tokens(densities):
    return int(token_counts()[densities].sum())


def test_every_position_has_a_group_and_neighbours_in_earlier_ones():
    groups = coding_groups(6, 8)
    assert groups.flatten().bincount().tolist() == [12] * 4
    assert (groups[::2, ::2] == 0).all()
    assert (groups[1::2, 1::2] == 1).all()


def test_levels_are_those_of_the_densities():
    for density, (first, second) in enumerate(DENSITIES):
        levels = levels_of(torch.full((2, 3), density))
        assert levels.shape == (4, 6)
        assert (levels > 0).sum() == 6 * first
        assert (levels > 1).sum() == 6 * second
        assert int(levels.sum()) == _tokens(torch.full((2, 3), density))


def test_levels_of_a_batch_are_those_of_its_images():
    torch.manual_seed(0)
    densities = torch.randint(len(DENSITIES), (3, 4, 5))
    together = levels_of(densities)
    assert all(torch.equal(together[i], levels_of(densities[i])) for i in range(3))


@pytest.mark.parametrize("share", [0.16, 0.32, 0.6, 1.05, 1.7])
@pytest.mark.parametrize("kind", ["flat", "zero", "one hot", "random", "ramp", "grid", "uniform"])
def test_budgets_hold_whatever_the_map(kind, share):
    torch.manual_seed(0)
    importance = {
        "flat": torch.ones(SHAPE),
        "zero": torch.zeros(SHAPE),
        "one hot": torch.zeros(SHAPE).index_put((torch.tensor(3), torch.tensor(7)), torch.tensor(1.0)),
        "random": torch.rand(SHAPE) ** 4,
        "ramp": torch.arange(384.0).reshape(SHAPE),
        "grid": grid_importance(*SHAPE),
        "uniform": random_importance(*SHAPE),
    }[kind]
    budget = round(share * 4 * importance.numel())
    assert 0.98 * budget <= _tokens(allocate(importance, budget)) <= budget


def test_tokens_go_where_importance_is():
    importance = torch.ones(SHAPE)
    importance[4:8, 6:12] = 10
    counts = token_counts()[allocate(importance, 400)].float()
    inside = counts[4:8, 6:12].mean()
    assert inside > 3 * (counts.sum() - 24 * inside) / (384 - 24)


def test_more_budget_takes_no_token_away():
    torch.manual_seed(1)
    importance = torch.rand(SHAPE)
    before = allocate(importance, 200)
    for budget in (300, 500, 1000, 3000):
        after = allocate(importance, budget)
        assert (after >= before).all()
        before = after
    assert (allocate(importance, 10**6) == len(DENSITIES) - 1).all()
    assert (allocate(importance, 0) == 0).all()


def test_edges_are_more_important_than_smooth_parts():
    y = torch.zeros(1, 4, 8, 12)
    y[..., 6:] = 5
    y = y + torch.linspace(0, 1, 8)[:, None]
    importance = importance_of(y)
    assert importance.shape == (1, 4, 6)
    assert importance[0, :, 2:4].min() > 2 * importance[0, 1:-1, [0, 1, 4, 5]].max()


def test_pixels_are_averaged_over_cells():
    values = torch.zeros(1, 64, 96)
    values[:, 32:, 64:] = 3
    assert cell_means(values)[0].tolist() == [[0, 0, 0], [0, 0, 3]]


def test_unsent_positions_are_filled_from_near_ones_first():
    y_hat = torch.zeros(1, 1, 1, 9)
    y_hat[..., 0], y_hat[..., 8] = 1, 2
    sent = y_hat != 0
    filled = fill_unsent(y_hat, sent)[0, 0, 0]
    assert filled[0] == 1
    assert filled[8] == 2
    assert filled[1] == 1
    assert filled[7] == 2
    assert (filled > 0).all()


def test_nothing_sent_is_filled_with_zero():
    y_hat = torch.zeros(1, 3, 4, 4)
    assert not fill_unsent(y_hat, torch.zeros(1, 1, 4, 4, dtype=torch.bool)).any()
    assert masking.CELL == 2
