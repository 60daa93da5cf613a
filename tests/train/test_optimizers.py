import copy

import pytest
import torch
from torch import nn

from compressai_gen.errors import RecipeError
from compressai_gen.train.optimizers import OPTIMIZERS, make_optimizer, speed_of

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


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_a_loss_and_goes_on_from_its_state(name):
    """Convolutions, also depthwise ones, and vectors; a copy that takes up the state makes the same steps."""

    def make():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 3, 1))
        optimizer = make_optimizer({"name": name}, {"2": 0.5}, dict(model.named_parameters()))
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * group["speed"]
        return model, optimizer

    def step(model, optimizer):
        loss = (model(x) - x[..., 2:-2, 2:-2]).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    model, optimizer = make()
    losses = [step(model, optimizer) for _ in range(20)]
    assert losses[-1] < losses[0] / 2
    again, second = make()
    again.load_state_dict(model.state_dict())
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert [step(model, optimizer) for _ in range(3)] == [step(again, second) for _ in range(3)]


@pytest.mark.parametrize("options", [{"name": "adaam"}, {"betaas": [0.9, 0.99]}, {"betas": [2, 2]}])
def test_wrong_options_are_told(options):
    with pytest.raises(RecipeError, match="optimizer"):
        make_optimizer(options, {}, {"w": nn.Parameter(torch.ones(3))})
