"""What depends on a quality, between the qualities that have values of their own."""

import pytest
import torch

from compressai_gen.layers.quality import QualityEmbedding, between_qualities

TABLE = torch.tensor([[0.0, 10.0], [1.0, -10.0], [4.0, 0.1]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whole_indexes_are_rows(dtype):
    assert torch.equal(between_qualities(TABLE.to(dtype), torch.tensor([2, 0, 1])), TABLE.to(dtype)[[2, 0, 1]])
    assert torch.equal(between_qualities(TABLE.to(dtype), torch.tensor([2.0, 0.0])), TABLE.to(dtype)[[2, 0]])


def test_between_rows_it_is_linear():
    expected = torch.tensor([[0.25, 5.0], [2.5, -4.95]])
    torch.testing.assert_close(between_qualities(TABLE, torch.tensor([0.25, 1.5])), expected)


def test_float64_is_exact_on_the_grid():
    """No rounding, so that no machine can round otherwise."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(2, 50, generator=generator)
    for k in range(33):
        exact = (table[0].double() * (32 - k) + table[1].double() * k) / 32
        assert torch.equal(between_qualities(table.double(), torch.tensor([k / 32]))[0], exact)


@pytest.mark.parametrize("index", [-1.0, -0.01, 3.0])
def test_an_index_out_of_range_is_an_error(index):
    with pytest.raises(IndexError):
        between_qualities(TABLE, torch.tensor([index]))


def test_gradients_reach_both_rows():
    embedding = QualityEmbedding(3, 2)
    embedding(torch.tensor([0.25])).sum().backward()
    assert embedding.weight.grad.tolist() == [[0.75, 0.75], [0.25, 0.25], [0, 0]]
