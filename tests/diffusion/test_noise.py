"""The noise field: standard normal, and the same wherever a window of it is cut."""

import pytest
import torch
from scipy import stats

from compressai_gen.diffusion.noise import noise_field


def test_a_window_is_a_part_of_the_field():
    whole = noise_field(7, 48, 20, 30)
    assert torch.equal(noise_field(7, 48, 9, 11, top=5, left=13), whole[:, 5:14, 13:24])


def test_noise_is_standard_normal_and_independent():
    noise = noise_field(3, 48, 64, 64)
    assert stats.kstest(noise.flatten()[::7].numpy(), "norm").pvalue > 1e-3
    for shifted in (noise[:, 1:] * noise[:, :-1], noise[:, :, 1:] * noise[:, :, :-1], noise[1:] * noise[:-1]):
        assert abs(shifted.mean().item()) < 5 / shifted.numel() ** 0.5


def test_seeds_and_fields_are_independent():
    noise = noise_field(3, 8, 64, 64)
    for other in (noise_field(4, 8, 64, 64), noise_field(3, 8, 64, 64, field=1)):
        assert abs((noise * other).mean().item()) < 5 / noise.numel() ** 0.5


def test_values_do_not_change_between_versions():
    # Streams name a seed: another generator would decode them to other pictures.
    expected = torch.tensor(
        [0.0938467, -0.2512013, -0.1699829, -0.9612473, 0.9461688, 2.1872639, -1.8235368, -1.1505225]
    )
    torch.testing.assert_close(noise_field(12345, 8, 1, 1, top=100, left=200).flatten(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", [{"channels": 0}, {"seed": -1}, {"seed": 2**32}, {"top": -1}, {"left": -3}])
def test_what_cannot_be_keyed_is_refused(bad):
    with pytest.raises(ValueError, match="must be channels"):
        noise_field(**({"seed": 1, "channels": 8, "height": 2, "width": 2} | bad))


def test_any_number_of_channels_is_that_of_more():
    assert torch.equal(noise_field(3, 4, 8, 8), noise_field(3, 8, 8, 8)[:4])
