"""The estimated rate is the real one, so that training and CompressAI's entropy estimation speak of real bytes."""

import pytest
import torch

from compressai_gen import zoo
from compressai_gen.layers.masking import levels_of
from compressai_gen.layers.precision import bfloat16_autocast

CODER_STATE = 32
"""Bits that the range coder's last state takes at the end of every stream, which no symbol's likelihood says."""


def _bits(likelihoods):
    return sum(-p.double().log2().sum().item() for p in likelihoods.values())


@pytest.mark.parametrize("quality", [1, 3, 5])
def test_likelihoods_are_the_length_of_the_stream(random_model, photograph, quality):
    x = photograph(128, 192)
    with torch.no_grad():
        estimated = _bits(random_model(x, quality)["likelihoods"])
    real = 8 * len(random_model.compress(x, quality)["strings"][0][0])
    assert real == pytest.approx(estimated + CODER_STATE, rel=0.01, abs=48)


@pytest.mark.parametrize("name", zoo.MODELS)
def test_estimated_rate_of_kodak_is_within_2_percent(kodak, name):
    model = zoo.MODELS[name](quality=1)
    for quality in (1, 3, 5):
        for x in kodak:
            with torch.no_grad():
                estimated = _bits(model(x, quality)["likelihoods"])
            real = 8 * len(model.compress(x, quality)["strings"][0][0])
            assert real == pytest.approx(estimated + CODER_STATE, rel=0.02)


@torch.no_grad()
def test_images_of_a_batch_are_estimated_one_by_one(random_model, photograph):
    x = torch.cat([photograph(64, 96), photograph(64, 96, left=30)])
    together = random_model(x, torch.tensor([2, 4]))["likelihoods"]
    for i, quality in enumerate((2, 4)):
        alone = _bits(random_model(x[i : i + 1], quality)["likelihoods"])
        assert _bits({key: p[i] for key, p in together.items()}) == pytest.approx(alone, rel=1e-3)


@pytest.mark.parametrize("quality", [1, 3, 5])
def test_mridcs_training_estimate_is_its_real_rate(random_models, photograph, quality):
    model, x = random_models["mridc"], photograph(128, 192)
    with torch.no_grad():
        index = torch.tensor([quality - 1])
        with bfloat16_autocast(x.device):
            (latent,) = model.analyze(model.pad(x), index)
        densities = latent.densities[None]
        levels = levels_of(densities)
        tokens = model.quantizer(latent.y[None], levels)[1]
        soft = {
            "tokens": model._soft_likelihoods(tokens, levels),
            "mask": model._soft_mask_likelihoods(densities, index),
        }
        coded = model(x, quality)["likelihoods"]
    for name, likelihoods in soft.items():
        assert _bits({name: coded[name]}) == pytest.approx(_bits({name: likelihoods}), rel=0.02)


@torch.no_grad()
def test_cgdms_training_estimate_is_near_its_real_rate(random_models, photograph):
    codec = random_models["cgdm"].latent_codec
    y = random_models["cgdm"].analyze(photograph(128, 192), torch.tensor([4]))
    coded = _bits({"y": codec(y, torch.tensor([4]))["likelihoods"]["y"]})
    codec.train()
    try:
        rounded = _bits({"y": codec(y, torch.tensor([4]))["rounded_likelihoods"]["y"]})
    finally:
        codec.eval()
    assert rounded == pytest.approx(coded, rel=0.03)
