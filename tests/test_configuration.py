"""Configurations of models: nothing left to defaults, nothing that is not known."""

import json

import pytest
import torch
from narrow import NARROW
from torch import nn

from compressai_gen.configuration import build, register_part, resolve
from compressai_gen.diffusion.spaces import PixelUnshuffle, Space
from compressai_gen.errors import CodecError
from compressai_gen.models import CGDM


@register_part
class _Coarse(Space):
    """An averaging space, as an autoencoder's latent: no residual, four channels, and tiles must be blended."""

    def __init__(self, factor: int = 8):
        super().__init__()
        self.factor, self.channels = factor, 4

    def encode(self, x):
        grey = nn.functional.avg_pool2d(x, self.factor)
        return torch.cat((grey, grey[:, :1]), dim=1)

    def decode(self, sample):
        return nn.functional.interpolate(sample[:, :3], scale_factor=self.factor, mode="bilinear")


@register_part
class _Pointwise(nn.Module):
    """A denoiser that takes no guidance."""

    def __init__(self, width: int = 8, *, sample_channels: int, n_qualities: int):
        super().__init__()
        self.width = width
        self.conv = nn.Conv2d(2 * sample_channels, sample_channels, 1)

    def forward(self, x, t, base, quality, guidance=None):
        assert guidance is None
        return 0.1 * self.conv(torch.cat((x, base), dim=1)) + base


def test_a_resolved_configuration_leaves_nothing_to_defaults():
    config = CGDM(g_a={"width": 8, "blocks": 1}).config
    assert config["g_a"] == {"class": "PatchAnalysis", "width": 8, "blocks": 1, "expansion": 4}
    assert config["restorer"]["scheduler"]["num_train_timesteps"] == 1000
    assert json.loads(json.dumps(config)) == config
    assert resolve(CGDM.defaults, config, CGDM.optional) == config


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"g_b": {}}, "has no g_b; it has g_a"),
        ({"g_a": {"wide": 1}}, "g_a has no wide; it has class, width, blocks, expansion"),
        ({"restorer": {"denoiser": {"depth": 1}}}, "restorer.denoiser has no depth"),
        ({"g_a": {"class": "Analysis"}}, "g_a: no class 'Analysis'; known:.*PatchAnalysis"),
        ({"g_a": 3}, "g_a is a table of options, not 3"),
        ({"g_a": None}, "g_a is a table of options, not None"),
        ({"latent_codec": {"latent_channels": 3}}, "latent_codec has no latent_channels"),
    ],
)
def test_what_is_unknown_is_refused_by_name(given, message):
    with pytest.raises(CodecError, match=message):
        CGDM(**given)


def test_a_class_that_refuses_its_arguments_is_told():
    with pytest.raises(CodecError, match=r"PatchAnalysis cannot be made of .*'width': '8'"):
        CGDM(g_a={"width": "8"})


def test_a_part_of_another_class_starts_from_its_own_arguments():
    defaults = {"part": {"class": "PatchAnalysis", "width": 3}}
    assert resolve(defaults, {"part": {"class": "_Pointwise"}}) == {"part": {"class": "_Pointwise", "width": 8}}


def test_two_classes_of_one_name_are_told():
    with pytest.raises(CodecError, match="two parts are called PatchAnalysis"):
        register_part(type("PatchAnalysis", (), {}))


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_restorer_of_other_parts_decodes(photograph, steps):
    """In one tile and in several: another space, denoiser and scheduler, and no guidance."""
    torch.manual_seed(0)
    restorer = {
        "space": {"class": "_Coarse"},
        "denoiser": {"class": "_Pointwise"},
        "guidance": None,
        "scheduler": {"steps_offset": 0},
    }
    model = CGDM(**NARROW, latent_codec={"channels": 16, "width": 8}, restorer=restorer).eval()
    model.update()
    out = model.compress(photograph(320, 336), 2)
    whole, tiled = (model.decompress(**out, steps=steps, tile=tile)["x_hat"] for tile in (1024, 256))
    assert whole.shape == (1, 3, 320, 336)
    assert (whole - tiled).abs().mean() < 0.01
    assert (whole - model.decompress(**out, steps=0)["x_hat"]).abs().mean() > (0.001 if steps else -1)


def test_pixels_come_back_from_their_space():
    space, x = build(resolve({"class": PixelUnshuffle.__name__}, {})), torch.rand(2, 3, 16, 32)
    assert torch.equal(space.decode(space.encode(x)), x)
    base = space.encode(torch.rand(2, 3, 16, 32))
    restored = space.restored(space.target(space.encode(x), base), base)
    torch.testing.assert_close(space.decode(restored), x)
