"""Multiply-adds, counted while code runs."""

import pytest
import torch

from compressai_gen.arithmetic import kmacs_per_pixel, multiply_adds


def test_multiply_adds_are_counted():
    convolution = torch.nn.Conv2d(3, 8, 5, padding=2)
    out, kmacs = kmacs_per_pixel(lambda: convolution(torch.rand(1, 3, 16, 24)), 16 * 24)
    assert out.shape == (1, 8, 16, 24)
    assert kmacs == pytest.approx(3 * 8 * 25 / 1000)


def test_attention_of_processors_is_counted():
    q = torch.zeros(1, 2, 64, 8)
    _, macs = multiply_adds(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert macs == 2 * 2 * 64 * 64 * 8
