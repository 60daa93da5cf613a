import pytest
import torch
from metric_weights import needs_alex, needs_vgg

from compressai_gen.metrics import LpipsMetric
from compressai_gen.metrics.distortion import Distortion, folded_error


def test_fold_sees_what_repeats_and_hardly_anything_else():
    """White noise costs 1/256 of its square, a pattern of four pixels about all of it, a flat error nothing."""
    torch.manual_seed(0)
    noise = torch.randn(8, 3, 128, 128)
    assert folded_error(noise).mean() == pytest.approx(1 / 256, rel=0.1)
    pattern = torch.randn(1, 3, 4, 4)
    pattern -= pattern.mean(dim=(2, 3), keepdim=True)
    tiled = pattern.repeat(1, 1, 32, 32)
    assert folded_error(tiled)[0] == pytest.approx(pattern.square().mean().item(), rel=0.1)
    assert folded_error(torch.full((1, 3, 128, 128), 0.5)).abs().max() < 1e-12


@pytest.mark.parametrize("period", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("side", [128, 150, 192])
def test_every_period_of_the_transforms_is_seen_wherever_patches_lie(period, side):
    torch.manual_seed(1)
    wave = torch.cos(torch.arange(side) * (2 * torch.pi / period))
    noise = torch.randn(1, 3, side, side) / 2**0.5
    periodic = wave.expand(1, 3, side, side)
    assert folded_error(periodic).item() > 2 * folded_error(noise).item()


def test_small_crops_fold_what_fits():
    wave = torch.cos(torch.arange(48) * (torch.pi / 2)).expand(1, 3, 48, 48)
    assert folded_error(wave).item() == pytest.approx(0.5 * 64 / 256, rel=1e-3)
    assert folded_error(torch.ones(2, 3, 16, 16)).tolist() == [0, 0]


def test_only_what_is_weighed_is_computed(photograph):
    x = photograph(128, 128)
    loss, logs = Distortion(mse_weight=2.0)(x + 0.1, x)
    assert loss.item() == pytest.approx(0.02)
    assert logs["psnr"].item() == pytest.approx(20, abs=1e-3)
    assert set(logs) == {"mse", "psnr"}


def test_weights_add_up_and_have_gradients(photograph):
    x = photograph(128, 128)
    x_hat = (0.9 * x).requires_grad_()
    weights = {"mse_weight": 3.0, "charbonnier_weight": 0.5, "ms_ssim_weight": 2.0, "fold_weight": 10.0}
    torch.manual_seed(0)
    loss, logs = Distortion(**weights)(x_hat, x)
    expected = sum(weights[f"{name}_weight"] * logs[name] for name in ("mse", "charbonnier", "ms_ssim", "fold"))
    torch.testing.assert_close(loss[0], expected)
    loss.sum().backward()
    assert x_hat.grad.abs().sum() > 0


@needs_alex
def test_lpips_is_that_of_the_package_and_few_crops_stand_for_all(photograph):
    x = torch.cat([photograph(64, 64, top) for top in (0, 60, 120, 180)])
    x_hat = 0.8 * x + 0.1
    distances = LpipsMetric("alex").model(x_hat, x, normalize=True).flatten()
    loss, _ = Distortion(lpips_weight=2.0)(x_hat, x)
    torch.testing.assert_close(loss, 2 * distances)
    loss, logs = Distortion(lpips_weight=2.0, lpips_images=2)(x_hat, x)
    torch.testing.assert_close(loss, torch.cat((4 * distances[:2], torch.zeros(2))))
    torch.testing.assert_close(logs["lpips"], distances[:2].mean())


@needs_alex
def test_networks_see_both_pictures_moved_alike(photograph):
    """However they are shifted and rescaled, equal pictures stay equal, and different ones are seen from elsewhere."""
    x = photograph(96, 96)
    distortion = Distortion(lpips_weight=1.0, shift=7, rescale=0.5)
    sizes = []
    distortion.networks["lpips"].register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[1].shape[-1]))
    torch.manual_seed(0)
    assert all(distortion(x, x)[0].abs().max() == 0 for _ in range(8))
    assert len({distortion(0.8 * x, x)[0].item() for _ in range(8)}) > 4
    assert 89 in sizes
    assert min(sizes) < 89 < max(sizes)


@needs_alex
@needs_vgg
def test_prepared_originals_are_as_far_away(photograph):
    x = photograph(96, 96)
    distortion = Distortion(mse_weight=1.0, lpips_weight=1.0, lpips_vgg_weight=1.0, dists_weight=1.0)
    expected, logs = distortion(0.8 * x, x)
    prepared = distortion.prepare(x)
    value, logs_of_prepared = distortion(0.8 * x, prepared)
    assert torch.equal(value, expected)
    assert logs == logs_of_prepared
    assert distortion(x, prepared)[0].abs().max() < 1e-6


@needs_alex
@needs_vgg
def test_stages_weigh_differently_and_go_back(photograph):
    x = photograph(64, 64)
    distortion = Distortion(mse_weight=1.0)
    distortion.configure(lpips_vgg_weight=0.5)
    mse = (0.1 * x).square().mean().item()
    assert distortion(0.9 * x, x)[0].item() > mse + 1e-5
    distortion.configure()
    assert distortion(0.9 * x, x)[0].item() == pytest.approx(mse)
    with pytest.raises(TypeError, match="lpips_wait"):
        distortion.configure(lpips_wait=1)
