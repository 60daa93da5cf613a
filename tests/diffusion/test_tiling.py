"""Tiles cover the image, their weights sum to one, and each is denoised with its own conditions."""

from typing import NamedTuple

import pytest
import torch

from compressai_gen.configuration import build
from compressai_gen.diffusion.sampler import DDIM, sample
from compressai_gen.diffusion.tiling import OVERLAP, Tile, plan_tiles, tiled


class _Conditions(NamedTuple):
    field: torch.Tensor

    def crop(self, tile: Tile) -> "_Conditions":
        return _Conditions(tile.crop(self.field, 4))


@pytest.mark.parametrize("size", [256, 320, 512])
@pytest.mark.parametrize("shape", [(64, 64), (512, 768), (1088, 320), (256, 2176)])
def test_weights_sum_to_one_everywhere(shape, size):
    total = torch.zeros(1, 1, shape[0] // 4, shape[1] // 4)
    for tile in plan_tiles(*shape, size):
        assert tile.height <= size
        assert tile.width <= size
        tile.crop(total, 4).add_(tile.weight(4))
    torch.testing.assert_close(total, torch.ones_like(total))


def test_a_tile_counts_for_nothing_at_its_inner_edges():
    first, second = plan_tiles(64, 384, 256)
    assert (first.left, second.left, first.width, second.width) == (0, 256 - OVERLAP, 256, 256)
    assert first.weight(4)[:, -8:].max() == 0
    assert second.weight(4)[:, :8].max() == 0
    assert first.weight(4)[:, 0].min() == 1
    assert second.weight(4)[:, -1].min() == 1


def test_what_is_local_comes_out_of_tiles_as_from_the_whole():
    def local(x, t, conditions):
        return 0.5 * x + conditions.field * (t / 1000)

    torch.manual_seed(0)
    noise, conditions = torch.randn(2, 48, 96, 128), _Conditions(torch.randn(2, 48, 96, 128))
    plan, scheduler = plan_tiles(384, 512, 256), build(DDIM)
    assert len(plan) == 6
    for steps in (1, 4):
        whole = sample(local, noise, conditions, scheduler, steps)
        in_tiles = sample(tiled(local, plan, 4), noise, conditions, scheduler, steps)
        torch.testing.assert_close(in_tiles, whole)


@pytest.mark.parametrize("size", [300, 128])
def test_a_tile_size_off_the_grid_is_refused(size):
    with pytest.raises(ValueError, match="multiples of 64"):
        plan_tiles(512, 512, size)
