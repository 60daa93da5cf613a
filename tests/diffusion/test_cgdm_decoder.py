"""CGDM's generative half as users switch it: options of the decoder, tiles, seeds, online optimization."""

import copy

import pytest
import torch
from metric_weights import needs_alex, needs_vgg

from compressai_gen import zoo
from compressai_gen.errors import CodecError
from compressai_gen.metrics import ReferenceMetrics
from compressai_gen.models import cgdm, online

SQUARED_ERROR = {"mse_weight": 50.0, "lpips_weight": 0.0, "dists_weight": 0.0}
"""The metrics' networks are not here wherever tests run; the search does not care what it lowers."""


@pytest.fixture(scope="module")
def model(random_models):
    """An untrained denoiser adds next to nothing: this one's guidance, syntax and noise show in the picture."""
    model = copy.deepcopy(random_models["cgdm"])
    model.config["search"] |= SQUARED_ERROR
    torch.manual_seed(1)
    with torch.no_grad():
        branch = model.restorer.guidance
        for conv in (model.restorer.denoiser.head, *branch.outputs, branch.fusion.weights_of[-1]):
            conv.weight.normal_(std=0.05)
    return model


@pytest.fixture(scope="module")
def stream(model, photograph):
    return model.compress(photograph(320, 336), 3)


@pytest.fixture(scope="module")
def decode(model, stream):
    return lambda **options: model.decompress(**stream, **options)["x_hat"]


def test_the_same_bytes_give_the_same_picture(decode):
    assert torch.equal(decode(), decode())
    assert torch.equal(decode(steps=4), decode(steps=4))


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"steps": 2}, {"seed": 1}, {"consistency": False}, {"syntax": False}]
)
def test_every_switch_changes_the_picture(decode, options):
    assert (decode(**options) - decode()).abs().mean() > 1e-4


def test_no_steps_give_the_base_picture_whatever_else_is_asked_for(decode):
    base = decode(steps=0)
    for options in ({"seed": 3}, {"consistency": False}, {"syntax": False}):
        assert torch.equal(decode(steps=0, **options), base)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_tiles_leave_no_trace(decode, steps):
    """Neither on average nor along any line of the grid."""
    whole, tiled = decode(steps=steps, seed=0), decode(steps=steps, seed=0, tile=256)
    difference = (whole - tiled).abs().mean(dim=(0, 1))
    assert 0 < difference.mean() < 1 / 255
    for profile in (difference.mean(0), difference.mean(1)):
        # A seam is a line that stands out from the lines around it.
        second = (profile[2:] - 2 * profile[1:-1] + profile[:-2]).abs()
        assert second.max() < 1 / 255


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("steps", 3), ("steps", -1), ("seed", -1), ("seed", 2**32), ("seed", 1.5), ("tile", 100), ("tile", 192)],
        *[("tile", None), ("consistency", "off"), ("syntax", 0)],
    ],
)
def test_impossible_options_are_told(decode, option, value):
    with pytest.raises(CodecError, match=option):
        decode(**{option: value})


def test_a_codec_without_denoiser_has_the_base_picture_only(tiny_cgdm, photograph):
    model = tiny_cgdm(restorer=None).eval()
    model.update()
    out = model.compress(photograph(64, 64))
    assert torch.equal(model.decompress(**out)["x_hat"], model.decompress(**out, steps=0)["x_hat"])
    with pytest.raises(CodecError, match="steps must be 0"):
        model.decompress(**out, steps=1)


def test_the_syntax_is_a_small_part_of_the_stream(model, photograph):
    with torch.no_grad():
        likelihoods = model(photograph(320, 336), 3)["likelihoods"]
    assert likelihoods["syntax"].shape == (1, 4, 5, 6)  # regions of 64x64
    assert 0 < -likelihoods["syntax"].log2().sum() < -0.1 * likelihoods["y"].log2().sum()


class TestOnlineOptimization:
    def test_lowers_the_objective_of_the_real_stream(self, photograph):
        model, x, quality = zoo.cgdm(3, search=SQUARED_ERROR), photograph(64, 128), torch.tensor(2)
        plain, tuned = (model.compress(x, 3, online_steps=n)["strings"][0][0] for n in (0, 12))
        of_plain, of_tuned = model.objective(x, quality, [plain, tuned])
        assert of_tuned < of_plain
        assert model.decompress([[tuned]], x.shape[-2:])["x_hat"].shape == x.shape

    def test_never_returns_a_worse_stream(self, model, photograph, monkeypatch):
        x = photograph(64, 64)
        plain = model.compress(x, 3)["strings"]
        monkeypatch.setattr(online.OnlineSearch, "__call__", lambda self, y, *_: 3 * y)
        assert model.compress(x, 3, online_steps=5)["strings"] == plain

    def test_can_be_interrupted(self, model, photograph, monkeypatch):
        calls = []

        def interrupted(*args, **weights):
            objective = online.rate_distortion(*args, **weights)

            def call(*args):
                calls.append(args)
                if len(calls) == 3:
                    raise KeyboardInterrupt
                return objective(*args)

            return call

        monkeypatch.setattr(cgdm, "rate_distortion", interrupted)
        x = torch.cat([photograph(64, 64), photograph(64, 64, 64)])
        with pytest.raises(KeyboardInterrupt):  # or an evaluation would take what was found so far for the result
            model.compress(x, 3, online_steps=1000)
        calls.clear()
        out = model.compress(x, 3, online_steps=1000, progress=True)
        assert model.decompress(**out)["x_hat"].shape == (2, 3, 64, 64)
        assert len(calls) < 10

    def test_searches_a_large_picture_in_windows(self, photograph, monkeypatch):
        model, x, quality = zoo.cgdm(3, search=SQUARED_ERROR), photograph(128, 192), torch.tensor(4)
        plain = model.compress(x, 5)["strings"][0][0]
        seen = []
        search = model._search
        monkeypatch.setattr(cgdm, "_SEARCH_WINDOW", 2)
        monkeypatch.setattr(model, "_search", lambda *args: seen.append(args[-2].shape[-2:]) or search(*args))
        tuned = model.compress(x, 5, online_steps=12)["strings"][0][0]
        assert seen == [(128, 192), (128, 128)]  # one region of halo where there is one
        of_plain, of_tuned = model.objective(x, quality, [plain, tuned])
        assert of_tuned < of_plain

    def test_judges_a_large_picture_in_parts(self, model, photograph, monkeypatch):
        x = photograph(130, 200)
        strings = model.compress(x, 3)["strings"][0] + model.compress(x, 4)["strings"][0]
        whole = model.objective(x, torch.tensor(2), strings)
        monkeypatch.setattr(cgdm, "_SEARCH_WINDOW", 1)
        assert model.objective(x, torch.tensor(2), strings) == pytest.approx(whole, rel=1e-4)

    def test_looks_at_no_padding(self, model, photograph, monkeypatch):
        seen = []

        def seeing(x, *args, **weights):
            objective = online.rate_distortion(x, *args, **weights)

            def call(bits, x_hat):
                seen.append((x.shape[-2:], x_hat.shape[-2:]))
                return objective(bits, x_hat)

            return call

        monkeypatch.setattr(cgdm, "rate_distortion", seeing)
        model.compress(photograph(70, 5), 3, online_steps=2)
        assert set(seen) == {((70, 31), (70, 31))}  # but for what the metrics' networks need

    def test_a_negative_number_of_steps_is_told(self, model, photograph):
        with pytest.raises(CodecError, match="online_steps"):
            model.compress(photograph(64, 64), 3, online_steps=-1)


@needs_alex
@needs_vgg
def test_online_optimization_lowers_lpips_and_dists_at_about_the_same_rate(photograph):
    model, x = zoo.cgdm(4), photograph(128, 192)
    metrics = ReferenceMetrics(["lpips", "dists"])
    metrics.set_original(_to_uint8(x))
    sizes, figures = [], []
    for steps in (0, 8):
        out = model.compress(x, online_steps=steps)
        sizes.append(len(out["strings"][0][0]))
        figures.append(metrics.measure(_to_uint8(model.decompress(**out)["x_hat"])))
    plain, tuned = figures
    assert tuned["lpips"] < 0.95 * plain["lpips"]
    assert tuned["dists"] < 0.95 * plain["dists"]
    assert sizes[1] < 1.1 * sizes[0]


@needs_alex
@needs_vgg
def test_online_optimization_takes_tiny_pictures(model, photograph):
    out = model.compress(photograph(5, 17), 3, online_steps=1)
    assert model.decompress(**out)["x_hat"].shape == (1, 3, 5, 17)


def _to_uint8(x):
    return (x[0] * 255).round().to(torch.uint8)


def test_mridc_says_that_it_has_none(random_models, photograph):
    with pytest.raises(CodecError, match="mridc has no option online_steps"):
        random_models["mridc"].compress(photograph(64, 64), online_steps=1)
