"""Steps between blocks of known strength, and codecs with and without blocks."""

import math

import pytest
import torch

from compressai_gen.codecs import find_codec
from compressai_gen.data import load_dataset
from compressai_gen.metrics import ReferenceMetrics, blocking_excess, create_metric, steepness
from compressai_gen.metrics.distortion import blocking


def _noise(size=256, deviation=8.0, count=1, seed=0):
    """Grey noise (N, 3, H, W) around 128."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(count, 1, size, size, generator=generator) * deviation + 128).expand(-1, 3, -1, -1)


def _blocks(side, size=256, deviation=8.0):
    """Blocks (1, 1, size, size) of levels of their own."""
    generator = torch.Generator().manual_seed(1)
    levels = torch.randn(1, 1, size // side, size // side, generator=generator) * deviation
    return levels.repeat_interleave(side, 2).repeat_interleave(side, 3)


@pytest.mark.parametrize("size", [(32, 48), (33, 50), (17, 31), (100, 18)])
def test_steepness_is_the_mean_by_place(size):
    picture = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    rows, columns = steepness(picture)[0]
    for profile, axis, side in ((rows, 2, size[0]), (columns, 3, size[1])):
        squares = picture.diff(dim=axis).square()
        for place in range(16):
            chosen = torch.arange(place, side - 1, 16)
            torch.testing.assert_close(profile[place], squares.index_select(axis, chosen).mean())


@pytest.mark.parametrize("side", [4, 8, 16])
@pytest.mark.parametrize("deviation", [2.0, 8.0])
def test_steps_of_a_known_strength(side, deviation):
    """Neighbouring levels differ by twice their variance, and so do those of white noise."""
    original = _noise(1024)
    excess = blocking_excess(*(steepness(x) for x in (original + _blocks(side, 1024, deviation), original)))[0]
    noise, step = 2 * 8.0**2 + 2 / 12, 2 * deviation**2
    expected = 10 * math.log10((1 + step / noise) / (1 + step / noise / side))
    meet = torch.arange(16) % side == side - 1
    assert excess[:, meet].mean().item() == pytest.approx(expected, abs=0.25)
    assert excess[:, ~meet].max().item() < 0.2


def test_the_original_has_none_and_flat_pictures_have_a_figure():
    metrics = ReferenceMetrics(["blocking"])
    flat = torch.full((3, 64, 80), 77, dtype=torch.uint8)
    metrics.set_original(flat)
    assert metrics.measure(flat) == {"blocking": 0.0}
    stepped = flat.clone()
    stepped[:, :32, :48] += 3
    assert 5 < metrics.measure(stepped)["blocking"] < 13
    metrics.set_original(flat[:, :16])
    assert math.isnan(metrics.measure(flat[:, :16])["blocking"])


def test_the_figure_of_a_set_is_nearer_to_the_truth_than_those_of_its_images():
    originals, decoded = _noise(64, count=12), _noise(64, count=12, seed=1)
    metric = create_metric("blocking")
    terms = torch.stack([steepness(decoded), steepness(originals)], dim=1)
    alone = [metric.pooled(term) for term in terms]
    assert 0 < metric.pooled(terms.mean(0)) < sum(alone) / len(alone)


def test_jpeg_has_blocks_that_are_no_lines():
    """Its steps have all signs, which a spectral line does not see."""
    jpeg, metrics = find_codec("jpeg"), ReferenceMetrics(["blocking", "grid"])
    terms = {"blocking": [], "grid": []}
    for _, image in load_dataset("samples"):
        metrics.set_original(image)
        _, parts = metrics.measure_with_terms(jpeg.decode(jpeg.encode(image, 10)))
        for name, part in parts.items():
            terms[name].append(part)
    figures = {name: create_metric(name).pooled(torch.stack(parts).mean(0)) for name, parts in terms.items()}
    assert figures["grid"] < 3 < figures["blocking"]


def test_blocking_as_a_distortion_sees_steps_and_has_gradients():
    x = _noise(128) / 255
    assert blocking(x, x).tolist() == [0]
    stepped = (x + _blocks(16, 128, 16.0) / 255).requires_grad_()
    found = blocking(stepped, x)
    # Steps of 2 * 16^2 and noise of 2 * 8^2: a share of 5 beside fifteen of 1, over their mean of 1.25.
    assert found.item() == pytest.approx(((5 / 1.25 - 1) ** 2 + 15 * (1 / 1.25 - 1) ** 2) / 16, rel=0.35)
    found.sum().backward()
    with torch.no_grad():
        assert blocking(stepped - 1e-3 * stepped.grad / stepped.grad.norm() * 10, x).item() < found.item()
