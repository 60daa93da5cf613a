"""Against scores of the reference program (libjxl's ssimulacra2, 2.1), published with the images that it had."""

import pytest
import torch

from compressai_gen.metrics import ReferenceMetrics, create_metric
from compressai_gen.metrics.ssimulacra2 import _kernel

# imazen/ssimulacra2, src/reference_data.rs: names, and scores that the C++ program gave in January 2026.
TEXTURED = {"gradient_vs_uniform_64x64": -64.56872148, "noise_vs_uniform_64x64": -47.33572558}
# Flat pictures, of which one is brighter. There the score depends on rounding: the variance, which is zero, is a
# difference of float32 numbers, and the reference's recursive filter rounds in another order.
FLAT = {
    64: (97.98672126, 91.52357693, 80.24289393, 56.05855584, -8.75942256),
    128: (96.78920738, 88.54070876, 77.84296299, 54.27883917, -9.82383315),
    256: (96.15027098, 89.73209436, 80.29149136, 59.77892918, -0.39085784),
}
SHIFTS = (1, 5, 10, 20, 50)


def _uniform(size, value):
    return torch.full((3, size, size), value, dtype=torch.uint8)


def _gradient(size):
    return (torch.arange(size) * 255 // (size - 1)).byte().expand(3, size, size).contiguous()


def _noise(size, state):
    """Knuth's generator, as the reference's test images have it: red, green, blue of each pixel."""
    values = []
    for _ in range(3 * size * size):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        values.append(state >> 33 & 0xFF)
    return torch.tensor(values, dtype=torch.uint8).reshape(size, size, 3).permute(2, 0, 1).contiguous()


def _score(original, reconstruction):
    metrics = ReferenceMetrics(["ssimulacra2"])
    metrics.set_original(original)
    return metrics.measure(reconstruction)["ssimulacra2"]


def test_textured_pictures_have_the_references_scores():
    flat = _uniform(64, 128)
    assert _score(_gradient(64), flat) == pytest.approx(TEXTURED["gradient_vs_uniform_64x64"], abs=0.002)
    assert _score(_noise(64, 42), flat) == pytest.approx(TEXTURED["noise_vs_uniform_64x64"], abs=0.002)


@pytest.mark.parametrize("size", FLAT)
def test_flat_pictures_have_nearly_the_references_scores(size):
    for shift, expected in zip(SHIFTS, FLAT[size], strict=True):
        assert _score(_uniform(size, 128), _uniform(size, 128 + shift)) == pytest.approx(expected, abs=2)


@pytest.mark.parametrize("image", [_gradient(64), _noise(32, 7), _uniform(9, 30)])
def test_a_perfect_picture_has_100(image):
    assert _score(image, image) == 100


def test_more_noise_is_worse_at_every_size():
    generator = torch.Generator().manual_seed(0)
    for height, width in ((8, 8), (9, 301), (173, 97)):
        original = torch.randint(60, 190, (3, height, width), generator=generator).byte()
        noise = torch.randn(3, height, width, generator=generator)
        scores = [_score(original, (original + strength * noise).round().byte()) for strength in (1, 4, 12)]
        assert 100 > scores[0] > scores[1] > scores[2]


def test_the_kernel_is_normalized_and_of_the_right_variance():
    kernel = torch.tensor(_kernel(), dtype=torch.float64)
    offsets = torch.arange(len(kernel), dtype=torch.float64) - len(kernel) // 2
    assert kernel.sum().item() == pytest.approx(1)
    assert (kernel * offsets**2).sum().item() == pytest.approx(1.5**2)


def test_an_original_is_prepared_once():
    metric, original = create_metric("ssimulacra2"), _noise(40, 1)
    with torch.no_grad():
        prepared = metric.prepare(original)
        first = metric.compare(prepared, _noise(40, 2))
        assert metric.compare(prepared, original) == 100
        assert metric.compare(prepared, _noise(40, 2)) == first
