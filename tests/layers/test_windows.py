"""Local functions evaluated in windows give what one call gives."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compressai_gen.entropy.exact import float64_twin, in_float64
from compressai_gen.layers import transforms
from compressai_gen.layers.prediction import TokenPredictor
from compressai_gen.layers.transforms import BLOCK, PatchAnalysis
from compressai_gen.layers.windows import windowed


@pytest.mark.parametrize("shape", [(9, 20), (16, 5), (7, 7)])
def test_windows_with_a_halo_give_what_one_call_gives(shape):
    generator = torch.Generator().manual_seed(1)
    coarse, fine = nn.Conv2d(2, 8, 5, padding=2).double(), nn.Conv2d(3, 2, 3, padding=1).double()
    cells = torch.randn(1, 2, *shape, generator=generator, dtype=torch.float64)
    pixels = torch.randn(1, 3, *(4 * n for n in shape), generator=generator, dtype=torch.float64)

    def both(cells: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        return torch.pixel_shuffle(coarse(cells), 2) + nn.functional.avg_pool2d(fine(pixels), 2)

    with torch.no_grad():
        whole = both(cells, pixels)
        torch.testing.assert_close(windowed(both, [cells, pixels], [1, 4], 4, 2), whole)
        # Without its halo the function misses what lies beside the window.
        assert not torch.allclose(windowed(both, [cells, pixels], [1, 4], 4, 0), whole)


def _gradient_reach(output: torch.Tensor, x: torch.Tensor, edge: int) -> int:
    """How far before ``edge`` the columns of ``x`` reach the output's columns from there on."""
    output.square().sum().backward()
    touched = x.grad.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
    return edge - int(touched.min())


@torch.no_grad()
def _randomize(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.copy_(torch.randn_like(parameter) / parameter[0].numel() ** 0.5)


def test_an_analysis_transform_looks_no_farther_than_it_says(monkeypatch):
    g_a = PatchAnalysis(16, 3, 2, latent_channels=4, n_qualities=5).double()
    _randomize(g_a)
    x = torch.rand(1, 3, 16, 640, dtype=torch.float64, requires_grad=True)
    y = g_a(x, torch.tensor([2]))
    reach = _gradient_reach(y[..., 20:], x, 20 * BLOCK)
    assert (g_a.reach - 2) * BLOCK < reach <= g_a.reach * BLOCK

    monkeypatch.setattr(transforms, "_WINDOW", 12)
    torch.testing.assert_close(g_a(x, torch.tensor([2])), y)


def test_a_token_predictor_looks_no_farther_than_it_says():
    predictor = TokenPredictor(width=24, depth=4, heads=2, channels=4, entries=16, levels=2)
    _randomize(predictor)
    codes = torch.randn(1, 4, 8, 96, requires_grad=True)
    counts = torch.randint(3, (1, 8, 96))
    whole = predictor(codes, counts, counts)
    reach = _gradient_reach(whole[:, :, 64:], codes, 64)
    assert predictor.reach - 8 < reach <= predictor.reach

    def features(*fields: torch.Tensor) -> torch.Tensor:
        return in_float64(float64_twin(predictor), *fields).permute(0, 3, 1, 2)

    parts = windowed(features, [codes.detach(), counts, counts], [1, 1, 1], 32, predictor.reach)
    torch.testing.assert_close(parts.permute(0, 2, 3, 1), in_float64(float64_twin(predictor), codes, counts, counts))
