import pytest
import torch
import torch.nn.functional as F

from compressai_gen.layers.transforms import BLOCK, PatchAnalysis, PatchSynthesis, init_linear_paths, klt

QUALITIES = 5
ALL = 3 * BLOCK * BLOCK


@pytest.fixture(scope="module")
def patches(photograph):
    return F.unfold(photograph(464, 336), BLOCK, stride=BLOCK)[0].T.reshape(-1, 3, BLOCK, BLOCK)


def _transforms(channels):
    context = {"latent_channels": channels, "n_qualities": QUALITIES}
    return PatchAnalysis(8, 1, 2, **context), PatchSynthesis(8, 1, 2, 8, 1, **context)


def _quality(n, value=2):
    return torch.full((n,), value)


def test_klt_is_orthonormal(patches):
    basis = klt(patches, 100)[0].flatten(1)
    torch.testing.assert_close(basis @ basis.T, torch.eye(100), atol=1e-5, rtol=0)


def test_klt_orders_components_by_their_spread(patches):
    basis, mean, std = klt(patches, 50)
    assert (std.diff() <= 0).all()
    coefficients = (patches - mean).flatten(1) @ basis.flatten(1).T
    torch.testing.assert_close(coefficients.square().mean(0).sqrt(), std, rtol=1e-3, atol=1e-4)


def test_klt_mean_is_one_colour(patches):
    mean = klt(patches, 1)[1]
    torch.testing.assert_close(mean, patches.mean((0, 2, 3))[:, None, None].expand_as(mean))


def test_klt_of_a_constant_is_finite():
    assert all(torch.isfinite(t).all() for t in klt(torch.full((9, 3, BLOCK, BLOCK), 0.5), 8))


@torch.no_grad()
def test_linear_paths_reconstruct_the_image(patches, photograph):
    basis, mean, _ = klt(patches, ALL)
    g_a, g_s = _transforms(ALL)
    init_linear_paths(g_a, g_s, basis, mean)
    x = photograph(64, 48)
    torch.testing.assert_close(g_s(g_a(x, _quality(1)), _quality(1)), x, atol=1e-4, rtol=0)


@torch.no_grad()
def test_linear_paths_of_fewer_components_keep_the_most_of_the_image(patches, photograph):
    x, errors = photograph(64, 48), []
    for channels in (1, 8, 64):
        basis, mean, _ = klt(patches, channels)
        g_a, g_s = _transforms(channels)
        init_linear_paths(g_a, g_s, basis, mean)
        errors.append((g_s(g_a(x, _quality(1)), _quality(1)) - x).square().mean().item())
    assert x.var() > errors[0] > errors[1] > errors[2] > 0
    assert errors[2] < 0.005


@pytest.mark.parametrize("size", [(16, 16), (48, 80)])
@torch.no_grad()
def test_shapes(size):
    g_a, g_s = _transforms(12)
    y = g_a(torch.rand(2, 3, *size), _quality(2))
    assert y.shape == (2, 12, size[0] // BLOCK, size[1] // BLOCK)
    assert g_s(y, _quality(2)).shape == (2, 3, *size)


@torch.no_grad()
def test_latent_and_image_are_float32_under_autocast():
    g_a, g_s = _transforms(12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = g_a(torch.rand(1, 3, 32, 32), _quality(1))
        x_hat = g_s(y, _quality(1))
    assert (y.dtype, x_hat.dtype) == (torch.float32, torch.float32)


@torch.no_grad()
def test_linear_path_keeps_its_precision_under_autocast(photograph):
    g_a, _ = _transforms(12)  # untrained: only the linear path speaks
    x = photograph(64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = g_a(x, _quality(1))
    torch.testing.assert_close(under_autocast, g_a(x, _quality(1)), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_network_sees_side_channels():
    g_s = PatchSynthesis(8, 1, 2, 8, 1, latent_channels=12, n_qualities=QUALITIES, side_channels=2)
    torch.nn.init.normal_(g_s.head.weight, std=0.1)
    y, side = torch.randn(1, 12, 3, 4), torch.zeros(1, 2, 3, 4)
    assert not torch.equal(g_s(y, _quality(1), side), g_s(y, _quality(1), side + 1))
