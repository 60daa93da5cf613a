"""What CompressAI and its tools expect of a model."""

import copy

import compressai.registry
import compressai.zoo
import compressai.zoo.image
import pytest
import torch
from narrow import NARROW

import compressai_gen.zoo
from compressai_gen.entropy.container import unpack
from compressai_gen.models import CGDM, MRIDC
from compressai_gen.train.objectives import DenoisingStep

GENERATIVE = {"restorer", "syntax"}
CLASSES = {"cgdm": CGDM, "mridc": MRIDC}


@pytest.mark.parametrize("name", CLASSES)
def test_compressai_knows_the_model(name):
    assert compressai.registry.MODELS[name] is CLASSES[name]
    assert compressai.zoo.image.model_architectures[name] is CLASSES[name]
    create = compressai.zoo.image_models[name]
    assert create.__wrapped__ is compressai_gen.zoo.MODELS[name]
    assert not create(quality=2).g_a.head.weight.any()  # untrained unless asked for, as CompressAI's own
    assert create(quality=2, pretrained=True).g_a.head.weight.any()


def test_compress_returns_a_string_per_image_and_the_shape(random_model, photograph):
    x = torch.cat([photograph(40, 56), photograph(40, 56, left=30)])
    out = random_model.compress(x)
    assert set(out) == {"strings", "shape"}
    assert tuple(out["shape"]) == (40, 56)
    assert [[type(string) for string in strings] for strings in out["strings"]] == [[bytes, bytes]]


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (64, 64), (1, 130)])
def test_picture_comes_back_in_its_size(random_model, photograph, size):
    x = photograph(*size)
    out = random_model.compress(x)
    x_hat = random_model.decompress(**out)["x_hat"]
    assert x_hat.shape == x.shape
    assert x_hat.dtype == torch.float32
    assert (x_hat.min() >= 0) & (x_hat.max() <= 1)


@pytest.mark.parametrize("quality", [1, 2, 3, 4, 5])
def test_decompressed_picture_is_the_one_that_forward_shows(random_model, photograph, quality):
    x = photograph(96, 160)
    with torch.no_grad():
        expected = random_model(x, quality)["x_hat"].clamp(0, 1)
    x_hat = random_model.decompress(**random_model.compress(x, quality), seed=0)["x_hat"]
    torch.testing.assert_close(x_hat, expected, atol=1e-4, rtol=0)


def test_picture_resembles_the_original(random_model, photograph):
    x = photograph(96, 160)
    for quality in (1, 5):
        x_hat = random_model.decompress(**random_model.compress(x, quality))["x_hat"]
        assert (x_hat - x).square().mean() < 0.9 * x.var()


def test_batch_gives_the_pictures_of_its_images(random_model, photograph):
    x = torch.cat([photograph(64, 96, top, 100) for top in (20, 160, 300)])
    together = random_model.decompress(**random_model.compress(x, 4))["x_hat"]
    singles = [random_model.decompress(**random_model.compress(image[None], 4))["x_hat"] for image in x]
    torch.testing.assert_close(together, torch.cat(singles), atol=1e-3, rtol=0)


def test_quality_is_in_the_stream(random_model, photograph):
    x = photograph(64, 64)
    low, high = (copy.deepcopy(random_model) for _ in range(2))
    low.quality.fill_(1)
    high.quality.fill_(4)
    out = high.compress(x)
    assert unpack(high.name, out["strings"][0][0], out["shape"]).quality == 4
    assert torch.equal(low.decompress(**out)["x_hat"], high.decompress(**out)["x_hat"])
    assert low.compress(x)["strings"] != out["strings"]


def test_argument_overrides_the_models_quality(random_model, photograph):
    x = photograph(64, 64)
    model = copy.deepcopy(random_model)
    model.quality.fill_(5)
    assert random_model.compress(x, quality=5)["strings"] == model.compress(x)["strings"]


def test_streams_of_different_qualities_are_decoded_together(random_model, photograph):
    x = photograph(64, 64)
    outs = [random_model.compress(x, quality) for quality in (1, 5)]
    together = random_model.decompress([[out["strings"][0][0] for out in outs]], (64, 64))["x_hat"]
    apart = torch.cat([random_model.decompress(**out)["x_hat"] for out in outs])
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (64, 64)])
@torch.no_grad()
def test_forward_takes_any_size(random_model, photograph, size):
    out = random_model(photograph(*size))
    assert out["x_hat"].shape == (1, 3, *size)
    assert all(((p > 0) & (p <= 1)).all() for p in out["likelihoods"].values())


@torch.no_grad()
def test_forward_takes_a_quality_per_image(random_model, photograph):
    x = torch.cat([photograph(64, 64), photograph(64, 64)])
    mixed = random_model(x, torch.tensor([1, 5]))["x_hat"]
    for i, quality in enumerate((1, 5)):
        torch.testing.assert_close(mixed[i], random_model(x[i : i + 1], quality)["x_hat"][0], atol=1e-4, rtol=0)


def test_header_is_counted_in_the_likelihoods(random_model, photograph):
    with torch.no_grad():
        likelihoods = random_model(photograph(64, 64))["likelihoods"]
    assert -likelihoods["header"].log2().sum() == 32


def test_training_the_generative_half_reaches_all_of_it_and_nothing_else(random_models, photograph):
    model = copy.deepcopy(random_models["cgdm"]).train()
    x = torch.cat([photograph(64, 64, top, 100) for top in (0, 90, 180, 270, 360)])
    torch.manual_seed(0)
    out = DenoisingStep(model)(x, torch.arange(5), torch.tensor([999, 999, 499, 124, 749]))
    rate = -out["likelihoods"]["syntax"].log2().sum()
    ((out["x_hat"] - x).square().mean() + rate / x.numel()).backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    wanted = {n for n, _ in model.named_parameters() if n.split(".")[0] in GENERATIVE and not n.endswith("quantiles")}
    assert reached == wanted


@pytest.mark.parametrize("name", CLASSES)
def test_training_reaches_every_weight(random_models, photograph, name):
    model = copy.deepcopy(random_models[name]).train()
    x = torch.cat([photograph(64, 64, top, 100) for top in (0, 90, 180, 270, 360)])
    for seed in range(6):  # MRIDC estimates the tokens of one pass of its coding order, drawn at random
        torch.manual_seed(seed)
        out = model(x, torch.arange(1, 6))
        rate = sum(-p.log2().sum() for key, p in out["likelihoods"].items())
        loss = (
            (out["x_hat"] - x).square().mean()
            + rate / x.numel()
            + out["terms"].get("commitment", torch.zeros(())).mean()
        )
        loss.backward()
    silent = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    silent = {n for n in silent if n.split(".")[0] not in GENERATIVE}
    of_priors = {"cgdm": "latent_codec.entropy_bottleneck.quantiles", "mridc": "no_quantiles.quantiles"}
    assert silent == {of_priors[name]}
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_state_dict_makes_a_model_of_identical_streams(random_model, photograph):
    x = photograph(64, 96)
    twin = type(random_model).from_state_dict(random_model.state_dict()).eval()
    out = random_model.compress(x, 4)
    assert twin.compress(x, 4)["strings"] == out["strings"]
    assert torch.equal(twin.decompress(**out)["x_hat"], random_model.decompress(**out)["x_hat"])


def test_state_dict_remembers_the_quality(random_model):
    model = copy.deepcopy(random_model)
    model.quality.fill_(5)
    assert int(type(model).from_state_dict(model.state_dict()).quality) == 5


def test_from_state_dict_takes_a_configuration():
    for cls in CLASSES.values():
        model = cls.from_state_dict(cls(**NARROW).state_dict(), **NARROW)
        assert model.g_a.embed.out_channels == 8


def test_updating_again_changes_no_stream(random_model, photograph):
    model = copy.deepcopy(random_model)
    model.update(force=True)
    x = photograph(64, 64)
    assert model.compress(x)["strings"] == random_model.compress(x)["strings"]
