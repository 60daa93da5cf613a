"""Training that leaves what decides symbols as it is orphans no file; other training says that it starts a new tag."""

import copy

import pytest
import torch
from narrow import MRIDC_PARTS, NARROW, TINY_CGDM

import compressai_gen
from compressai_gen.cgen import CgenFile
from compressai_gen.data import write_image
from compressai_gen.errors import BitstreamError, RecipeError
from compressai_gen.models import CGDM, MRIDC
from compressai_gen.roles import ROLES, split
from compressai_gen.train.export import half_precision_state, load_weights, write_weights
from compressai_gen.train.loop import train
from compressai_gen.train.recipe import Recipe, Stage


def _recipe(steps=20, **fields):
    data = {"train": "pictures", "valid": "pictures", "valid_images": 1, "description": "two", "scale": [0.6, 1.0]}
    objective = {"distortion": {"mse_weight": 20.0}, "consistency_weight": 0.0, "syntax_weight": 4.0}
    known = {"learning_rate": 1e-3, "warmup": 2, "final_learning_rate": 1e-5, "decay_from": 0.5, "ema_decay": 0.5}
    known |= {"gradient_clip": 1.0, "data": data, "objective": objective, "config": TINY_CGDM, "task": "diffusion"}
    return Recipe("tiny", "cgdm", 1, (Stage(steps, 5, 64),), **known | fields)


def _load(folder):
    model = CGDM(**TINY_CGDM)
    load_weights(model, folder)
    return model.eval()


@pytest.fixture
def before(tmp_path, photograph):
    """The folder of weights, a picture and its file."""
    torch.manual_seed(0)
    model = CGDM(**TINY_CGDM)
    for conv in (model.g_a.head, model.latent_codec.h_a.down, model.syntax.head):
        torch.nn.init.normal_(conv.weight, std=0.5)
    for role, state in split(half_precision_state(model), model.coding).items():
        write_weights(state, tmp_path / "before" / f"{role}.safetensors")
    (tmp_path / "pictures").mkdir()
    for left in (0, 100):
        write_image((photograph(140, 150, 60, left)[0] * 255).round().byte(), tmp_path / f"pictures/{left}.png")
    model = _load(tmp_path / "before")
    picture = (photograph(96, 128)[0] * 255).round().byte()
    return tmp_path / "before", compressai_gen.encode(picture, model, 3), model


def test_a_restorer_trained_on_decodes_yesterdays_files(before, tmp_path, monkeypatch):
    folder, data, old = before
    monkeypatch.setattr("compressai_gen.train.loop.validate", lambda *_: [])
    monkeypatch.setattr("compressai_gen.train.loop.score", lambda *_: 0.0)
    train(_recipe(), tmp_path, tmp_path / "after", folder)
    model = _load(tmp_path / "after")
    assert model.fingerprint() == old.fingerprint()
    assert (tmp_path / "after/coding.safetensors").read_bytes() == (folder / "coding.safetensors").read_bytes()
    assert (tmp_path / "after/networks.safetensors").read_bytes() != (folder / "networks.safetensors").read_bytes()
    stream, size = CgenFile.from_bytes(data).stream, CgenFile.from_bytes(data).size
    symbols = [m.decompress([[stream]], size, steps=0)["x_hat"] for m in (old, model)]
    assert torch.equal(*symbols)  # the base decoder was not trained
    restored, once = (compressai_gen.decode(data, model=m) for m in (model, old))
    assert restored.size == once.size == (128, 96)
    assert restored.tobytes() != once.tobytes()


def test_a_changed_coding_part_refuses_them(before):
    _, data, old = before
    model = copy.deepcopy(old)
    with torch.no_grad():
        model.latent_codec.prior.h_s.up.bias[0] += 1e-3
    with pytest.raises(BitstreamError, match=r"made with a coding part [0-9a-f]{8}….*the model that made it"):
        compressai_gen.decode(data, model=model)
    with pytest.raises(BitstreamError, match=r"needs cgdm weights whose coding part is [0-9a-f]{8}….*cgdm\."):
        compressai_gen.decode(data)


def test_training_what_decides_symbols_is_said(before, tmp_path, monkeypatch, capsys):
    folder, _, old = before
    monkeypatch.setattr("compressai_gen.train.loop.validate", lambda *_: [])
    monkeypatch.setattr("compressai_gen.train.loop.score", lambda *_: 0.0)
    train(_recipe(keep_coding=False, steps=2), tmp_path, tmp_path / "after", folder)
    assert "a tag of their own" in capsys.readouterr().err
    assert _load(tmp_path / "after").fingerprint() != old.fingerprint()


def test_roles_are_whole(before):
    folder, _, old = before
    assert sorted(path.stem for path in folder.iterdir()) == sorted(ROLES)
    parts = split(old.state_dict(), old.coding)
    assert not [name for name in parts["networks"] if "entropy_bottleneck" in name or "gaussian" in name]
    assert [name for name in parts["networks"] if name.startswith("latent_codec.h_a.")]


def test_the_base_of_a_whole_codec_is_trained_on_without_its_restorer(before):
    folder, _, whole = before
    base = CGDM(**TINY_CGDM | {"restorer": None})
    load_weights(base, folder)
    for name, value in base.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name
    (folder / "networks.safetensors").unlink()
    write_weights({"unknown.weight": torch.zeros(1)}, folder / "networks.safetensors")
    with pytest.raises(RecipeError, match=r"unknown\.weight"):
        load_weights(base, folder)


def test_parts_that_a_recipe_takes_come_from_another_models_weights(before):
    folder, _, whole = before
    torch.manual_seed(3)
    model = MRIDC(**NARROW, **MRIDC_PARTS, restorer=None)
    untouched = {name: value.clone() for name, value in model.state_dict().items()}
    load_weights(model, folder, ["g_a.embed", "g_s.blocks"])
    taken = [name for name in untouched if name.startswith(("g_a.embed.", "g_s.blocks."))]
    assert len({name.split(".")[0] for name in taken}) == 2
    for name, value in model.state_dict().items():
        assert torch.equal(value, (whole.state_dict() if name in taken else untouched)[name]), name
    with pytest.raises(RecipeError, match=r"has no part predictor, g_a\.embedded that the recipe takes"):
        load_weights(model, folder, ["predictor", "g_a.embed", "g_a.embedded"])
    with pytest.raises(RecipeError, match=r"g_s\.stem\.weight"):  # of another shape
        load_weights(model, folder, ["g_s"])


def test_parts_to_take_are_wanted_before_training(tmp_path):
    with pytest.raises(RecipeError, match=r"takes g_a\.embed from other weights: give them with --init"):
        train(_recipe(takes=["g_a.embed"]), tmp_path, tmp_path / "after")
