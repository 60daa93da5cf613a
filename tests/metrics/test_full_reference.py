import math
import os
from pathlib import Path

import DISTS_pytorch
import lpips
import pytest
import torch
from metric_weights import needs_alex, needs_vgg
from PIL import Image
from pytorch_msssim import ms_ssim
from torchvision.transforms.functional import pil_to_tensor, resize

from compressai_gen.data import read_image
from compressai_gen.errors import MetricError
from compressai_gen.metrics import METRICS, DistsMetric, LpipsMetric, ReferenceMetrics, create_metric

PAIRS = Path(os.environ.get("COMPRESSAI_GEN_DATA", "unset")) / "../reference/metric_pairs"
needs_pairs = pytest.mark.skipif(not PAIRS.is_dir(), reason="the metrics' example pairs are not here")


def _image(height=64, width=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def _value(metric, original, reconstruction):
    with torch.no_grad():
        return metric.compare(metric.prepare(original), reconstruction)


@pytest.fixture(scope="module")
def dists():
    return DistsMetric()


def test_psnr_of_a_known_error():
    original = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    assert _value(create_metric("psnr"), original, original + 5) == pytest.approx(20 * math.log10(255 / 5))
    assert _value(create_metric("psnr"), original, original) == math.inf
    assert _value(create_metric("psnr"), torch.zeros_like(original), original * 0 + 255) == 0


def test_ms_ssim_is_the_packages():
    original, other = _image(170, 180), _image(170, 180, seed=1)
    expected = ms_ssim(original[None].float(), other[None].float(), data_range=255).item()
    assert _value(create_metric("ms_ssim"), original, other) == expected


@needs_alex
def test_cached_lpips_is_the_packages_forward():
    original, other = _image(), _image(seed=1)
    with torch.no_grad():
        package = lpips.LPIPS(net="alex", verbose=False)
        expected = package(original[None] / 127.5 - 1, other[None] / 127.5 - 1).item()
    assert _value(LpipsMetric(), original, other) == pytest.approx(expected, rel=1e-5)


@needs_vgg
def test_cached_dists_is_the_packages_forward(dists):
    original, other = _image(), _image(seed=1)
    expected = DISTS_pytorch.DISTS()(original[None] / 255, other[None] / 255).item()
    assert _value(dists, original, other) == pytest.approx(expected, rel=1e-5)


@needs_vgg
def test_original_passes_the_network_once(dists, monkeypatch):
    passes = []
    stage = dists.model.stage2.forward
    monkeypatch.setattr(dists.model.stage2, "forward", lambda x: passes.append(1) or stage(x))
    prepared = dists.prepare(_image())
    values = [dists.compare(prepared, _image(seed=seed)) for seed in (1, 2, 1)]
    assert len(passes) == 4
    assert values[0] == values[2] != values[1]


@needs_vgg
def test_metrics_share_the_first_stage_of_vgg(monkeypatch):
    metrics = ReferenceMetrics(["dists", "lpips_vgg"])
    stem = metrics.metrics["dists"]._stem
    passes = []
    layers = stem._layers.forward
    monkeypatch.setattr(stem._layers, "forward", lambda x: passes.append(1) or layers(x))
    metrics.set_original(_image())
    for seed in (1, 2):
        metrics.measure(_image(seed=seed))
    assert len(passes) == 3
    assert stem._kept is None  # with the picture it is forgotten


@needs_vgg
def test_vgg_lpips_is_the_packages():
    original, other = _image(100, 120), _image(100, 120, seed=1)
    with torch.no_grad():
        expected = lpips.LPIPS(net="vgg", verbose=False)(original[None] / 127.5 - 1, other[None] / 127.5 - 1).item()
    assert _value(LpipsMetric("vgg"), original, other) == pytest.approx(expected, rel=1e-5)


@needs_pairs
@needs_alex
def test_lpips_example_pairs():
    metric = LpipsMetric("alex")
    reference = read_image(PAIRS / "ex_ref.png")
    assert _value(metric, reference, read_image(PAIRS / "ex_p0.png")) == pytest.approx(0.7219, abs=5e-5)
    assert _value(metric, reference, read_image(PAIRS / "ex_p1.png")) == pytest.approx(0.1376, abs=5e-5)


@needs_pairs
@needs_vgg
def test_dists_example_pair(dists):
    first, second = (
        pil_to_tensor(resize(Image.open(PAIRS / f"dists_{name}.png").convert("RGB"), 256)) for name in ("r0", "r1")
    )
    assert _value(dists, first, second) == pytest.approx(0.3347, abs=5e-5)


@needs_alex
@needs_vgg
def test_metrics_are_undefined_below_their_smallest_side():
    metrics = ReferenceMetrics(METRICS)
    for size in [(1, 1), (15, 40), (30, 200), (31, 160), (161, 161)]:
        metrics.set_original(_image(*size))
        values = metrics.measure(_image(*size, seed=1))
        assert {name for name, value in values.items() if math.isfinite(value)} == {
            name for name, spec in METRICS.items() if spec.min_side <= min(size)
        }


@pytest.mark.parametrize("name", ["ms_ssim", pytest.param("lpips", marks=needs_alex)])
def test_smallest_side_is_really_the_smallest(name):
    side, metric = METRICS[name].min_side, create_metric(name)
    assert math.isfinite(_value(metric, _image(side, side), _image(side, side, seed=1)))
    with pytest.raises((AssertionError, RuntimeError)):
        _value(metric, _image(side - 1, side), _image(side - 1, side))


def test_shape_and_type_are_checked():
    metrics = ReferenceMetrics(["psnr"])
    metrics.set_original(_image(4, 4))
    with pytest.raises(MetricError, match="shape"):
        metrics.measure(_image(4, 5))
    with pytest.raises(MetricError, match="uint8"):
        metrics.measure(_image(4, 4).float())


def test_unknown_metric_lists_the_known():
    with pytest.raises(MetricError, match="lpips_vgg"):
        create_metric("vmaf")


@pytest.mark.parametrize("name", ["lpips", "lpips_vgg", "dists"])
def test_missing_weights_say_what_to_do(name, no_weights):
    with pytest.raises(MetricError, match=r"torch can download .*TORCH_HOME.*PIP_INDEX_URL"):
        create_metric(name)
    missing = []
    metrics = ReferenceMetrics(["psnr", name], on_missing=missing.append)
    assert list(metrics.metrics) == ["psnr"]
    assert len(missing) == 1


@pytest.mark.parametrize(("name", "file"), [("lpips", "alexnet-owt-7be5be79.pth"), ("dists", "vgg16-397923af.pth")])
@pytest.mark.parametrize("content", [b"", b"<html>log in first</html>", b"Forbidden", b"Internal Server Error"])
def test_damaged_weights_say_what_to_do(name, file, content, monkeypatch, tmp_path):
    path = tmp_path / "hub/checkpoints" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MetricError, match=f"{file}.*remove that file"):
        create_metric(name)


@needs_alex
def test_loading_prints_nothing(capsys, recwarn):
    LpipsMetric()
    assert capsys.readouterr().out == ""
    assert len(recwarn) == 0


@needs_vgg
def test_loading_dists_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    DistsMetric()
    assert torch.equal(torch.get_rng_state(), state)


def test_central_figures_see_the_central_quarter_alone():
    original = _image(64, 48)
    reconstruction = original.clone()
    reconstruction[:, :16] = 0
    reconstruction[:, :, 36:] = 0
    metric = create_metric("psnr_central")
    assert _value(metric, original, reconstruction) == math.inf
    reconstruction[:, 16, 12] += 1
    assert _value(metric, original, reconstruction) < math.inf


@needs_alex
def test_lpips_of_the_complex_half_weighs_what_happens_there():
    """Features look around, so that nothing is wholly outside; but an error counts for more where detail is."""
    original = torch.full((3, 128, 256), 90, dtype=torch.uint8)
    original[:, :, 128:] = _image(128, 128)
    smooth, detailed = original.clone(), original.clone()
    smooth[:, 32:96, :16] += 60
    detailed[:, 32:96, 240:] = 90
    half, whole = create_metric("lpips_complex"), create_metric("lpips")
    assert _value(half, original, original) == 0
    assert _value(half, original, detailed) > 1.5 * _value(whole, original, detailed)
    assert _value(half, original, smooth) < 0.5 * _value(whole, original, smooth)
