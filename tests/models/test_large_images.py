"""Large images are coded in windows, which changes memory and nothing else."""

import pytest
import torch
import torch.nn.functional as F
from symbols import decoded_symbols, sent_symbols

from compressai_gen.entropy import two_pass
from compressai_gen.layers import quantizers, transforms
from compressai_gen.models import cgdm, mridc


@pytest.fixture
def small_windows(monkeypatch):
    """Returns a switch to windows and parts far smaller than the images of these tests."""

    def switch():
        for module, name, value in (
            (transforms, "_WINDOW", 6),
            (two_pass, "_WINDOW", 8),
            (cgdm, "_SYNTAX_WINDOW", 2),
            (mridc, "_WINDOW", 8),
            (quantizers, "_VECTORS", 50),
        ):
            monkeypatch.setattr(module, name, value)

    return switch


def test_windows_change_no_symbol(random_model, photograph, small_windows):
    """What an encoder codes in one piece, a decoder decodes in windows, and the other way round."""
    x, quality = F.interpolate(photograph(128, 330, top=100, left=60), size=(128, 660), mode="bilinear"), 4
    whole = random_model.compress(x, quality)
    sent = sent_symbols(random_model, x, quality)
    small_windows()
    assert torch.equal(decoded_symbols(random_model, whole["strings"][0], whole["shape"]), sent)
    windowed = random_model.compress(x, quality)
    symbols = decoded_symbols(random_model, windowed["strings"][0], windowed["shape"])
    # The transforms of a window round otherwise in the last bits, and syntax looks less far; next to nothing moves.
    assert (symbols != sent).float().mean() < 1e-2


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_pictures_of_windows_are_those_of_one_piece(random_model, photograph, small_windows, steps):
    x = photograph(256, 320, top=100, left=60)
    out = random_model.compress(x, 3)
    whole = random_model.decompress(**out, steps=steps)["x_hat"]
    small_windows()
    torch.testing.assert_close(random_model.decompress(**out, steps=steps)["x_hat"], whole, atol=2e-3, rtol=0)
