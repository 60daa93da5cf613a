import pytest
import torch
from torch import nn

from compressai_gen.errors import RecipeError
from compressai_gen.train.optimizers import make_optimizer, speed_of

SPEEDS = {"linear": 0.05, "latent_codec": 0.5, "log_gain": 3.2, "h_a.conv1": 2}


@pytest.mark.parametrize(
    ("name", "speed"),
    [
        ("g_a.linear.weight", 0.05),
        ("g_a.linear_2.weight", 1.0),
        ("latent_codec.h_s.weight", 0.5),
        ("latent_codec.log_gain", 3.2),
        ("latent_codec.h_a.conv1.weight", 2.0),
        ("conv1.weight", 1.0),
    ],
)
def test_the_last_key_that_a_name_holds_is_its_own(name, speed):
    assert speed_of(name, SPEEDS) == speed


def test_every_parameter_is_in_the_group_of_its_speed():
    named = {
        name: nn.Parameter(torch.ones(3)) for name in ("g_a.linear.weight", "conv.weight", "latent_codec.log_gain")
    }
    optimizer = make_optimizer({"name": "adamw", "weight_decay": 0.0}, SPEEDS, named)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {group["speed"]: len(group["params"]) for group in optimizer.param_groups} == {0.05: 1, 1.0: 1, 3.2: 1}


@pytest.mark.parametrize("options", [{"name": "adaam"}, {"betaas": [0.9, 0.99]}, {"betas": [2, 2]}])
def test_wrong_options_are_told(options):
    with pytest.raises(RecipeError, match="optimizer"):
        make_optimizer(options, {}, {"w": nn.Parameter(torch.ones(3))})
