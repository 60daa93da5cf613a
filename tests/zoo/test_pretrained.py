"""The shipped weights: what the manifest promises is there, and works."""

import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from compressai_gen import resources, zoo
from compressai_gen.configuration import resolve
from compressai_gen.errors import ZooError
from compressai_gen.manifest import find_fingerprint, read_manifest, tags
from compressai_gen.metrics import METRICS
from compressai_gen.roles import ROLES, fingerprint, split
from compressai_gen.zoo.files import load_weights

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
    assert {entry["model"] for entry in read_manifest().values()} == {"cgdm", "mridc"}
    assert all(name == f"{entry['model']}.{name.partition('.')[2]}" for name, entry in read_manifest().items())


def test_manifest_files_and_card_agree(name):
    for weights in tags(name):
        entry = read_manifest()[weights]
        card = (resources.ZOO_DIR / entry["card"]).read_text(encoding="utf-8")
        for role in ROLES:
            data = (resources.ZOO_DIR / entry[role]["file"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == entry[role]["sha256"]
            assert len(data) == entry[role]["bytes"]
            assert entry[role]["sha256"] in card
        assert entry["license"] in card
        assert entry["fingerprint"] in card
        record = json.loads((resources.ZOO_DIR / entry["record"]).read_text(encoding="utf-8"))
        assert record["recipe"]["model"] == name
        assert set(entry["trained_on"]) <= set(METRICS)
        assert (resources.ZOO_DIR / "recipes" / f"{entry['recipe']}.toml").is_file()


def test_manifest_states_the_whole_configuration(name, shipped):
    entry, cls = read_manifest()[tags(name)[-1]], zoo.ARCHITECTURES[name]
    assert entry["class"] == cls.__name__
    assert resolve(cls.defaults, entry["config"], cls.optional) == entry["config"] == shipped[name].config


def test_fingerprint_is_that_of_the_model(name, shipped):
    entry = read_manifest()[tags(name)[-1]]
    assert shipped[name].fingerprint() == entry["fingerprint"]
    coding = load_file(resources.ZOO_DIR / entry["coding"]["file"])
    assert fingerprint(coding) == entry["fingerprint"]
    assert set(split(coding, shipped[name].coding)["coding"]) == set(coding)


def test_no_weights_are_unlisted():
    listed = {entry[role]["file"] for entry in read_manifest().values() for role in ROLES if role in entry}
    assert {path.name for path in resources.ZOO_DIR.rglob("*.safetensors")} == listed


def test_weights_are_small_enough_for_a_repository():
    sizes = [path.stat().st_size for path in resources.ZOO_DIR.rglob("*.safetensors")]
    assert max(sizes) < 40 * MIB
    assert sum(sizes) < 80 * MIB


def test_weights_are_chosen_by_tag(name, photograph):
    x = photograph(64, 64)
    oldest = zoo.MODELS[name](quality=3, weights=tags(name)[0])
    assert oldest.fingerprint() == read_manifest()[tags(name)[0]]["fingerprint"]
    assert oldest.compress(x)["strings"] == zoo.MODELS[name](quality=3, weights=tags(name)[0]).compress(x)["strings"]


def test_unknown_weights_are_told(name):
    with pytest.raises(ZooError, match=rf"{name} has no weights '{name}.v99'; it has {name}\."):
        zoo.MODELS[name](quality=3, weights=f"{name}.v99")


def test_weights_of_an_older_version_are_told(zoo_copy, name):
    manifest = read_manifest()
    retired = {"model": name, "fingerprint": "ab" * 32, "version": "0.1.0"}
    (zoo_copy / "manifest.json").write_text(json.dumps({f"{name}.old": retired} | manifest))
    for call in (
        lambda: zoo.MODELS[name](quality=3, weights=f"{name}.old"),
        lambda: find_fingerprint(name, "abababab"),
    ):
        with pytest.raises(ZooError, match=rf"{name}\.old, .*install compressai-gen 0\.1\.0"):
            call()


def test_weights_elsewhere_are_fetched_and_checked(zoo_copy, name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    manifest = read_manifest()
    part = manifest[tags(name)[-1]]["networks"]
    moved = tmp_path / "elsewhere.safetensors"
    (zoo_copy / part["file"]).rename(moved)
    part["url"] = moved.as_uri()
    (zoo_copy / "manifest.json").write_text(json.dumps(manifest))
    assert zoo.MODELS[name](quality=3).name == name
    moved.unlink()
    assert zoo.MODELS[name](quality=3).name == name  # of the cache
    for cached in (tmp_path / "cache").rglob("*.safetensors"):
        cached.unlink()
    with pytest.raises(ZooError, match=r"cannot be had from file:.*put the file at"):
        zoo.MODELS[name](quality=3)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("quality", [1, 2.5])
def test_quality_is_what_compress_uses(name, quality, photograph):
    model = zoo.MODELS[name](quality=quality)
    assert not model.training
    assert float(model.quality) == quality
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


@pytest.mark.parametrize("quality", [0, 6, float("nan"), "3", True, None])
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
    model = zoo.MODELS[name](quality=1, pretrained=False, g_a={"width": 8, "blocks": 1})
    assert model.g_a.embed.out_channels == 8


def test_weights_do_not_fit_another_architecture(name):
    with pytest.raises(ZooError, match=r"do not fit.*width"):
        zoo.MODELS[name](quality=1, g_a={"width": 8})


def test_weights_are_float32(name):
    assert {value.dtype for value in load_weights(tags(name)[-1]).values() if value.is_floating_point()} == {
        torch.float32
    }


@pytest.mark.parametrize("role", ROLES)
def test_damaged_weights_are_refused(zoo_copy, name, role):
    path = zoo_copy / read_manifest()[tags(name)[-1]][role]["file"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ZooError, match=r"SHA-256.*install compressai-gen again"):
        zoo.MODELS[name](quality=3)


@pytest.mark.parametrize("role", ROLES)
def test_missing_weights_are_told(zoo_copy, name, role):
    path = zoo_copy / read_manifest()[tags(name)[-1]][role]["file"]
    path.unlink()
    with pytest.raises(ZooError, match=rf"{path.name} are missing"):
        zoo.MODELS[name](quality=3)


def test_other_file_with_the_right_hash_is_refused(zoo_copy, name):
    manifest = read_manifest()
    part = manifest[tags(name)[-1]]["coding"]
    (zoo_copy / part["file"]).write_bytes(b"not weights")
    part["sha256"] = hashlib.sha256(b"not weights").hexdigest()
    (zoo_copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ZooError, match="not a safetensors file"):
        zoo.MODELS[name](quality=3)


def test_model_without_weights_is_told(zoo_copy, name):
    manifest = {weights: entry for weights, entry in read_manifest().items() if entry["model"] != name}
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
