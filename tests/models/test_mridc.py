"""MRIDC's own options: regions of interest, masks to compare with, and what a decoder may switch off."""

import math

import pytest
import torch
import torch.nn.functional as F

from compressai_gen.errors import CodecError, ImageError
from compressai_gen.layers.masking import levels_of
from compressai_gen.layers.transforms import BLOCK
from compressai_gen.models.mridc import TOKENS_PER_POSITION
from compressai_gen.models.mridc_spec import MRIDCEncoderOptions

SIZE = (128, 192)


@pytest.fixture
def model(random_models):
    return random_models["mridc"]


@torch.no_grad()
def _levels(model, x, quality, **options):
    """Levels that the stream of an image holds of each position."""
    index = torch.tensor([quality - 1.0])
    (latent,) = model.analyze(model.pad(x), index, **model.analysis_options(x, MRIDCEncoderOptions(**options)))
    return levels_of(latent.densities)


@pytest.mark.parametrize("quality", [1, 3.25, 5])
@pytest.mark.parametrize("masking", ["map", "random", "grid"])
def test_budget_holds_whatever_the_mask(model, photograph, quality, masking):
    levels = _levels(model, photograph(*SIZE), quality, masking=masking)
    below, above = (TOKENS_PER_POSITION[n] for n in (math.floor(quality) - 1, math.ceil(quality) - 1))
    budget = round(below * (above / below) ** (quality % 1) * levels.numel())
    assert budget - 2 <= levels.sum() <= budget


def test_tokens_go_into_the_region_of_interest_at_the_same_budget(model, photograph):
    x = photograph(*SIZE)
    importance = torch.ones(SIZE)
    importance[64:, :64] = 30
    plain, steered = _levels(model, x, 3), _levels(model, x, 3, importance=importance)
    assert steered[4:, :4].sum() > 1.5 * plain[4:, :4].sum()
    assert abs(int(steered.sum() - plain.sum())) <= 2
    assert model.compress(x, 3, importance=importance)["strings"] != model.compress(x, 3)["strings"]


def test_uniform_importance_changes_nothing(model, photograph):
    x = photograph(*SIZE)
    assert model.compress(x, 2, importance=torch.full(SIZE, 0.5))["strings"] == model.compress(x, 2)["strings"]


@pytest.mark.parametrize(
    "importance", [torch.ones(3, 3), -torch.ones(SIZE), torch.full(SIZE, float("nan")), torch.full(SIZE, 1e30)]
)
def test_impossible_importance_is_refused(model, photograph, importance):
    with pytest.raises(ImageError, match=r"one for each pixel of 192x128|not 1e\+30"):
        model.compress(photograph(*SIZE), importance=importance)


def test_unknown_options_are_refused(random_model, photograph):
    with pytest.raises(CodecError, match="has no option colour"):
        random_model.compress(photograph(64, 64), colour="red")


def test_unknown_masking_is_refused(model, photograph):
    with pytest.raises(CodecError, match="map, random, grid"):
        model.compress(photograph(64, 64), masking="spiral")


def test_prediction_can_be_switched_off_and_changes_unsent_positions_only(model, photograph):
    x = photograph(*SIZE)
    levels = _levels(model, x, 1)[None]
    tokens = torch.where(torch.arange(2)[:, None, None] < levels[:, None], 5, -1)
    with torch.no_grad():
        filled, predicted = (model._complete(model.quantizer.embed(tokens), levels, on) for on in (False, True))
    same = (filled == predicted).all(1)
    assert torch.equal(same, levels > 0)
    out = model.compress(x, 1)
    assert not torch.equal(*(model.decompress(**out, prediction=on)["x_hat"] for on in (False, True)))


@pytest.mark.parametrize("steps", [1, 2])
def test_what_was_sent_is_enforced(model, photograph, steps):
    x = photograph(*SIZE)
    out = model.compress(x, 2)
    sent = _levels(model, x, 2) > 0
    with torch.no_grad():
        base, full = (_blocks(model, out, n) for n in (0, steps))
    difference = (base - full).abs()
    assert difference[:, sent].max() < 0.2 * difference[:, ~sent].max()


def _blocks(model, out, steps):
    """Mean colours (3, h, w) of a stream's blocks."""
    return F.avg_pool2d(model.decompress(**out, steps=steps)["x_hat"], BLOCK)[0]
