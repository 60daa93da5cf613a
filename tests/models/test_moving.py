"""Models are pickled, copied, saved and sent to other processes."""

import copy
import io
import pickle

import pytest
import torch
import torch.multiprocessing as mp


def _saved(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


WAYS = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "torch.save": _saved,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_codes_as_the_original(random_model, photograph, way):
    x = photograph(64, 64)
    out = random_model.compress(x)
    other = WAYS[way](random_model)
    assert other.compress(x)["strings"] == out["strings"]
    assert torch.equal(*(m.decompress(**out, steps=0)["x_hat"] for m in (other, random_model)))


def test_a_copy_of_the_quantizer_restarts_its_own_averages(random_models):
    quantizer = random_models["mridc"].quantizer
    other = pickle.loads(pickle.dumps(quantizer))
    other.load_state_dict({"codebooks": torch.ones_like(quantizer.codebooks)})
    assert (other.sums == other.counts[..., None]).all()
    assert not torch.equal(other.sums, quantizer.sums)


def _code(_, models, x, strings):
    torch.set_num_threads(1)
    for name, model in models.items():
        assert model.compress(x)["strings"][0][0] == strings[name]


def test_spawned_processes_get_models(random_models, photograph):
    x = photograph(64, 64)
    strings = {name: model.compress(x)["strings"][0][0] for name, model in random_models.items()}
    models = {name: copy.deepcopy(model) for name, model in random_models.items()}  # spawn moves them to shared memory
    mp.spawn(_code, (models, x, strings), nprocs=1)
