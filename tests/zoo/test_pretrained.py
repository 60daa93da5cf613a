"""The shipped weights: what the manifest promises is there, and works."""

import hashlib
import json
import shutil

import pytest
import torch

from compressai_gen import resources, zoo
from compressai_gen.errors import ZooError
from compressai_gen.zoo.manifest import load_weights, read_manifest

MIB = 2**20


@pytest.fixture(params=zoo.MODELS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def shipped():
    return {name: function(quality=3) for name, function in zoo.MODELS.items()}


@pytest.fixture
def zoo_copy(tmp_path, monkeypatch):
    """A zoo that a test may damage."""
    copy = tmp_path / "zoo"
    shutil.copytree(resources.ZOO_DIR, copy)
    monkeypatch.setattr(resources, "ZOO_DIR", copy)
    return copy


def test_manifest_lists_both_models():
    assert set(read_manifest()) == {"cgdm", "mridc"}


def test_manifest_files_and_card_agree(name):
    entry = read_manifest()[name]
    weights = (resources.ZOO_DIR / entry["file"]).read_bytes()
    assert hashlib.sha256(weights).hexdigest() == entry["sha256"]
    card = (resources.ZOO_DIR / entry["card"]).read_text(encoding="utf-8")
    assert entry["sha256"] in card
    assert entry["license"] in card
    record = json.loads((resources.ZOO_DIR / entry["record"]).read_text(encoding="utf-8"))
    assert record["recipe"]["model"] == name
    assert record["recipe"]["config"] == entry["config"]
    assert (resources.ZOO_DIR / "recipes" / f"{entry['recipe']}.toml").is_file()


def test_no_weights_are_unlisted():
    listed = {entry["file"] for entry in read_manifest().values()}
    assert {path.name for path in resources.ZOO_DIR.rglob("*.safetensors")} == listed


def test_weights_are_small_enough_for_a_repository():
    sizes = [path.stat().st_size for path in resources.ZOO_DIR.rglob("*.safetensors")]
    assert max(sizes) < 40 * MIB
    assert sum(sizes) < 80 * MIB


@pytest.mark.parametrize("quality", [1, 5])
def test_quality_is_what_compress_uses(name, quality, photograph):
    model = zoo.MODELS[name](quality=quality)
    assert not model.training
    assert int(model.quality) == quality
    x = photograph(64, 64)
    assert model.compress(x)["strings"] == model.compress(x, quality)["strings"]


def test_building_the_tables_again_changes_none(shipped, name):
    model = shipped[name]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.update(force=True)
    after = model.state_dict()
    assert [key for key in before if not torch.equal(before[key], after[key])] == []


def test_rate_and_fidelity_grow_with_quality(shipped, name, photograph):
    model, x = shipped[name], photograph(256, 320)
    rates, errors = [], []
    for quality in zoo.QUALITIES[name]:
        out = model.compress(x, quality)
        rates.append(len(out["strings"][0][0]))
        errors.append((model.decompress(**out)["x_hat"] - x).square().mean().item())
    assert rates == sorted(set(rates))
    assert errors == sorted(errors, reverse=True)
    assert 8 * rates[-1] / (256 * 320) < 1
    assert -10 * torch.tensor(errors).log10()[-1] > 20


def test_symbols_do_not_depend_on_the_number_of_threads(shipped, name, photograph):
    model, x, decoded = shipped[name], photograph(128, 192), []
    out, before = model.compress(x), torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        decoded.append(model.decompress(**out)["x_hat"])
    torch.set_num_threads(before)
    torch.testing.assert_close(*decoded, atol=1e-4, rtol=0)  # a wrong symbol would show


@pytest.mark.parametrize("quality", [0, 6, 2.5, "3", None])
def test_unknown_quality_is_told(name, quality):
    with pytest.raises(ZooError, match=f"{name} has qualities 1 to 5, not"):
        zoo.MODELS[name](quality=quality)


def test_unknown_metric_is_told(name):
    with pytest.raises(ZooError, match="'ms-ssim'"):
        zoo.MODELS[name](quality=3, metric="ms-ssim")


def test_untrained_model_on_request(name, shipped):
    model = zoo.MODELS[name](quality=2, pretrained=False)
    assert int(model.quality) == 2
    assert not model.g_a.head.weight.any()  # as the constructor leaves it
    assert shipped[name].g_a.head.weight.any()
    assert list(model.state_dict()) == list(shipped[name].state_dict())


def test_arguments_go_to_the_class(name):
    model = zoo.MODELS[name](quality=1, pretrained=False, g_a={"blocks": (1, 1, 1), "widths": [8, 8, 8]})
    assert model.g_a.stem.out_channels == 8


def test_weights_do_not_fit_another_architecture(name):
    with pytest.raises(ZooError, match=r"do not fit.*widths"):
        zoo.MODELS[name](quality=1, g_a={"widths": (8, 8, 8)})


def test_weights_are_float32(name):
    assert {value.dtype for value in load_weights(name).values() if value.is_floating_point()} == {torch.float32}


def test_damaged_weights_are_refused(zoo_copy, name):
    path = zoo_copy / read_manifest()[name]["file"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ZooError, match=r"SHA-256.*install compressai-gen again"):
        zoo.MODELS[name](quality=3)


def test_missing_weights_are_told(zoo_copy, name):
    path = zoo_copy / read_manifest()[name]["file"]
    path.unlink()
    with pytest.raises(ZooError, match=rf"{path.name} are missing"):
        zoo.MODELS[name](quality=3)


def test_other_file_with_the_right_hash_is_refused(zoo_copy, name):
    manifest = read_manifest()
    (zoo_copy / manifest[name]["file"]).write_bytes(b"not weights")
    manifest[name]["sha256"] = hashlib.sha256(b"not weights").hexdigest()
    (zoo_copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ZooError, match="not a safetensors file"):
        zoo.MODELS[name](quality=3)


def test_model_without_weights_is_told(zoo_copy, name):
    manifest = read_manifest()
    del manifest[name]
    (zoo_copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ZooError, match=f"no weights of {name}: pass pretrained=False"):
        zoo.MODELS[name](quality=3)
    assert zoo.MODELS[name](quality=3, pretrained=False).name == name


@pytest.mark.parametrize("content", [None, "", "{", "not json"])
def test_missing_or_damaged_manifest_is_told(zoo_copy, name, content):
    path = zoo_copy / "manifest.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(ZooError, match=r"manifest.*install compressai-gen again"):
        zoo.MODELS[name](quality=3)
