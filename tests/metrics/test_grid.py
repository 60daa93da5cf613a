"""Grids of known strength, and decoders with and without them."""

import math

import numpy as np
import pytest
import torch

from compressai_gen.codecs import find_codec
from compressai_gen.data import load_dataset
from compressai_gen.metrics import LINES, METRICS, ReferenceMetrics, create_metric, grid_excess, line_powers
from compressai_gen.metrics.grid import WINDOW


def _noise(deviation=12.0, size=512, count=1):
    """Grey noise (N, 3, H, W) around 128."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(count, 1, size, size, generator=generator) * deviation + 128).expand(-1, 3, -1, -1)


def _pattern(line, size=512):
    """A cosine of amplitude 1 that is one of the lines."""
    row, column = torch.arange(size)[:, None], torch.arange(size)
    return torch.cos(2 * math.pi * (line.rows * row + line.columns * column) / line.period)


@pytest.fixture(scope="module")
def photographs():
    return [image[:, :448, :448].contiguous() for _, image in load_dataset("samples")]


@pytest.mark.parametrize("line", LINES, ids=str)
@pytest.mark.parametrize("amplitude", [0.5, 3.0])
def test_a_grid_of_known_strength(line, amplitude):
    """A cosine of amplitude a holds a^2 / 4 of (sum w)^2, or all of it at the highest frequency."""
    deviation = 12.0
    original = _noise(deviation)
    excess = grid_excess(line_powers(original + amplitude * _pattern(line)), line_powers(original))[0]
    window = torch.hann_window(WINDOW)[:, None] * torch.hann_window(WINDOW)
    share = 1 if line.period == 2 else 0.25
    signal = share * amplitude**2 * window.sum() ** 2 / window.square().sum()
    expected = 10 * math.log10(1 + signal / (deviation**2 + 1 / 12))
    found = dict(zip(LINES, excess.tolist(), strict=True))
    assert found[line] == pytest.approx(expected, abs=1.5)  # the noise of one picture's spectrum
    assert max(value for other, value in found.items() if other != line) < 0.01


def test_the_figure_of_a_set_is_nearer_to_the_truth_than_those_of_its_images():
    """One kind of noise in the place of another is no grid."""
    original, decoded = _noise(count=12, size=256), _noise(count=24, size=256)[12:]
    metric = create_metric("grid")
    terms = torch.stack([line_powers(decoded), line_powers(original)], dim=1)
    alone = [metric.pooled(term) for term in terms]
    assert 0 < metric.pooled(terms.mean(0)) < np.mean(alone)
    assert metric.pooled(terms.mean(0)) < 1


def test_the_original_has_no_excess_and_flat_pictures_have_a_figure():
    metrics = ReferenceMetrics(["grid"])
    flat = torch.full((3, 64, 80), 77, dtype=torch.uint8)
    metrics.set_original(flat)
    assert metrics.measure(flat) == {"grid": 0.0}
    dotted = flat.clone()
    dotted[:, ::2, ::2] += 1
    assert 15 < metrics.measure(dotted)["grid"] < 40


def test_shifts_contrast_and_colour_of_a_pattern():
    """A pattern counts wherever it begins, by its luma."""
    original, line = _noise(), LINES[5]
    pattern = 3 * _pattern(line)
    figures = [
        grid_excess(line_powers(original + shifted), line_powers(original)).max().item()
        for shifted in (pattern, pattern.roll(1, 0), pattern.roll(3, 1), -pattern)
    ]
    assert max(figures) - min(figures) < 0.5
    green = torch.tensor([0.0, 1.0, 0.0])[:, None, None] * pattern
    blue = green.roll(1, 0)
    in_green, in_blue = (
        grid_excess(line_powers(original + p), line_powers(original)).max().item() for p in (green, blue)
    )
    assert figures[0] > in_green > in_blue


def test_gradients_reach_the_picture():
    original = line_powers(_noise(size=128))
    decoded = (_noise(size=128) + 2 * _pattern(LINES[2], 128)).requires_grad_()
    grid_excess(line_powers(decoded), original).max().backward()
    step = decoded.grad / decoded.grad.norm()
    with torch.no_grad():
        excess = [grid_excess(line_powers(x), original).max() for x in (decoded, decoded - 20 * step)]
    assert excess[1] < excess[0]


@pytest.mark.parametrize(("name", "quality"), [("jpeg", 10), ("jpeg", 30), ("webp", 15), ("avif", 8)])
def test_classical_codecs_paint_none(photographs, name, quality):
    codec, metrics = find_codec(name), ReferenceMetrics(["grid"])
    terms = []
    for image in photographs:
        metrics.set_original(image)
        terms.append(metrics.measure_with_terms(codec.decode(codec.encode(image, quality)))[1]["grid"])
    assert METRICS["grid"].pooled(torch.stack(terms).mean(0)) < 3


def test_upsampling_by_zeros_paints_one(photographs):
    """What a transposed convolution does whose kernel does not tile."""
    metrics = ReferenceMetrics(["grid"])
    terms = []
    for image in photographs:
        metrics.set_original(image)
        decoded = image.clone()
        decoded[:, 1::2, 1::2] = (decoded[:, 1::2, 1::2].int() - 6).clamp_min(0).byte()
        terms.append(metrics.measure_with_terms(decoded)[1]["grid"])
    assert METRICS["grid"].pooled(torch.stack(terms).mean(0)) > 15
