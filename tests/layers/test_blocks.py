import torch

from compressai_gen.layers.blocks import Block, QualityModulation, Renderer, ResidualBlock
from compressai_gen.layers.transforms import PatchAnalysis, PatchSynthesis


def _randomized(module):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5)
    return module.eval()


@torch.no_grad()
def test_a_part_of_a_picture_comes_out_as_in_the_whole():
    g_a = _randomized(PatchAnalysis(32, 3, 2, latent_channels=8, n_qualities=5))
    g_s = _randomized(PatchSynthesis(32, 3, 2, 16, 2, latent_channels=8, n_qualities=5))
    x, index = torch.rand(1, 3, 256, 256), torch.tensor([1.5])
    y = g_a(x, index)
    inner = g_a(x[..., :192, :192], index)
    reach = g_a.reach
    assert torch.allclose(inner[..., : 12 - reach, : 12 - reach], y[..., : 12 - reach, : 12 - reach], atol=1e-4)
    picture, part = g_s(y, index), g_s(y[..., :12, :12], index)
    seen = 16 * (12 - 5)
    assert torch.allclose(part[..., :seen, :seen], picture[..., :seen, :seen], atol=1e-4)


def test_what_the_networks_add_starts_at_zero():
    g_a = PatchAnalysis(32, 1, 2, latent_channels=8, n_qualities=5)
    x, index = torch.rand(2, 3, 64, 64), torch.tensor([0.0, 4.0])
    assert torch.equal(g_a(x, index), g_a.linear(x))
    g_s = PatchSynthesis(32, 1, 2, 16, 1, latent_channels=8, n_qualities=5)
    y = torch.randn(2, 8, 4, 4)
    assert torch.equal(g_s(y, index), g_s.linear(y))


def test_the_qualities_of_a_batch_do_not_mix():
    block = _randomized(Block(8, 2, 5))
    h, index = torch.randn(2, 8, 4, 4), torch.tensor([0.5, 3.0])
    both = block(h, index)
    assert torch.allclose(both[1:], block(h[1:], index[1:]), atol=1e-5)
    assert not torch.allclose(both[1:], block(h[1:], index[:1]), atol=1e-3)


def test_what_stands_beside_the_renderer_is_added():
    renderer = Renderer(8, 4, 1, 5)
    h, beside, index = torch.randn(1, 8, 2, 2), torch.randn(1, 4, 8, 8), torch.tensor([2.0])
    assert renderer(h, index, beside).shape == beside.shape
    assert not torch.equal(renderer(h, index, beside), renderer(h, index))


@torch.no_grad()
def test_modulation_and_block_are_the_identity_before_training():
    h = torch.randn(2, 6, 5, 7)
    assert torch.equal(QualityModulation(5, 6)(h, torch.tensor([2.0, 2.0])), h)
    assert torch.equal(ResidualBlock(6, 5)(h, torch.tensor([2.0, 2.0])), h)


@torch.no_grad()
def test_each_image_is_modulated_by_its_own_quality():
    modulation = QualityModulation(3, 2)
    # scales, then shifts
    modulation.table.weight.copy_(torch.tensor([[0.0, 0, 0, 0], [1, 2, 0, 0], [0, 0, 3, 4]]))
    out = modulation(torch.ones(3, 2, 1, 1), torch.tensor([0, 1, 2])).flatten(1)
    assert out.tolist() == [[1, 1], [2, 3], [4, 5]]
