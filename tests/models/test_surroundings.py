"""What callers' settings of PyTorch and CompressAI's training tools do to a model: nothing, or one line."""

import copy

import pytest
import torch
from compressai.optimizers import net_aux_optimizer

from compressai_gen import zoo
from compressai_gen.errors import CodecError


@pytest.fixture
def default_dtype():
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("name", zoo.MODELS)
def test_the_default_type_changes_no_stream(name, dtype, photograph, default_dtype):
    x = photograph(64, 64)
    expected = zoo.MODELS[name](quality=2).compress(x)
    default_dtype(dtype)
    model = zoo.MODELS[name](quality=2)
    out = model.compress(x)
    assert out["strings"] == expected["strings"]
    assert model.decompress(**out, steps=0)["x_hat"].dtype == torch.float32


def test_inference_mode_changes_no_stream(random_model, photograph):
    x = photograph(64, 64)
    model = copy.deepcopy(random_model)
    with torch.inference_mode():
        out = model.compress(x.clone(), 2)
        model.decompress(**out, steps=0)
        model(x.clone(), 2)
    assert out["strings"] == random_model.compress(x, 2)["strings"]
    model.train()
    model(x, 2)["x_hat"].sum().backward()  # nothing that was made in inference mode is left


def test_online_optimization_in_inference_mode(tiny_cgdm, photograph):
    model = tiny_cgdm().eval()
    model.update()
    x = photograph(64, 64)
    with torch.inference_mode():
        inside = model.compress(x.clone(), online_steps=1)
        made_inside = tiny_cgdm().eval()
        made_inside.update()
    assert [len(s) for s in model.compress(x, online_steps=1)["strings"]] == [len(s) for s in inside["strings"]]
    with pytest.raises(CodecError, match=r"made inside torch\.inference_mode\(\).*load it outside"):
        made_inside.compress(x, online_steps=1)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_weights_saved_inside_a_wrapper_fit(random_model, prefix):
    state = random_model.state_dict()
    wrapped = {prefix + name: tensor for name, tensor in state.items()}
    model = type(random_model).from_state_dict(wrapped)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    model.load_state_dict(wrapped)


def test_compressais_training_tools_find_what_they_look_for(random_model):
    model = copy.deepcopy(random_model).train()
    optimizers = net_aux_optimizer(model, {"net": {"type": "Adam", "lr": 1e-4}, "aux": {"type": "Adam", "lr": 1e-3}})
    loss = model.aux_loss()
    loss.backward()
    optimizers["aux"].step()
    assert loss.shape == ()
    assert not any(name.startswith("no_quantiles") for name in model.state_dict())


@pytest.mark.parametrize("name", zoo.MODELS)
def test_the_rate_rises_at_steps_of_a_quarter(name, kodak):
    """On all of Kodak's pictures, whole; a part of one here."""
    model, x = zoo.MODELS[name](quality=1), kodak[0][..., :256, :384]
    rates = [len(model.compress(x, 1 + i / 4)["strings"][0][0]) for i in range(17)]
    assert rates == sorted(set(rates))
