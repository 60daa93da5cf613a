"""Models in folders, and on a hub that is not there."""

import json

import huggingface_hub
import pytest
import torch

from compressai_gen import zoo
from compressai_gen.errors import CompressaiGenError, ZooError
from compressai_gen.models import CGDM, MRIDC


@pytest.fixture
def saved(tiny_cgdm, tmp_path):
    model = tiny_cgdm().eval()
    model.update()
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def test_a_folder_gives_the_model_back(saved):
    model, folder = saved
    names = {"README.md", "coding.safetensors", "config.json", "networks.safetensors"}
    assert {path.name for path in folder.iterdir()} == names
    loaded = CGDM.from_pretrained(folder)
    assert loaded.config == model.config
    assert loaded.fingerprint() == model.fingerprint()
    state = loaded.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert model.fingerprint() in (folder / "README.md").read_text(encoding="utf-8")
    assert zoo.cgdm(quality=2, weights=str(folder)).fingerprint() == model.fingerprint()


def test_other_or_damaged_files_are_told(saved, tmp_path):
    _, folder = saved
    with pytest.raises(ZooError, match="holds 'cgdm', not 'mridc'"):
        MRIDC.from_pretrained(folder)
    with pytest.raises(ZooError, match=r"config\.json"):
        CGDM.from_pretrained(tmp_path)
    data = bytearray((folder / "coding.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "coding.safetensors").write_bytes(data)
    with pytest.raises(ZooError, match="damaged or was replaced"):
        CGDM.from_pretrained(folder)
    (folder / "coding.safetensors").unlink()
    with pytest.raises(ZooError, match=r"coding\.safetensors cannot be read"):
        CGDM.from_pretrained(folder)


@pytest.mark.parametrize("name", ["someone/model", "no such folder/at/all"])
def test_a_hub_that_cannot_be_reached_is_one_line(name, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's attempts
    with pytest.raises(ZooError, match="check the name and the network") as told:
        CGDM.from_pretrained(name, revision="a" * 40, cache_dir=tmp_path)
    assert "\n" not in str(told.value)


def test_the_zoo_wants_a_pinned_revision():
    with pytest.raises(CompressaiGenError, match="owner/name@revision"):
        zoo.cgdm(quality=2, weights="someone/model")


def test_pushing_uploads_weights_configuration_and_card(saved, monkeypatch):
    model, _ = saved
    uploaded = {}

    class Created:
        repo_id = "someone/model"

    def upload_folder(self, *, repo_id, folder_path, **_):
        uploaded.update({path.name: path.read_bytes() for path in folder_path.iterdir()}, repo_id=repo_id)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, **_: Created)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    model.push_to_hub("someone/model")
    assert uploaded.pop("repo_id") == "someone/model"
    assert set(uploaded) == {"README.md", "coding.safetensors", "config.json", "networks.safetensors"}
    assert json.loads(uploaded["config.json"])["model"] == "cgdm"
    assert b"library_name: compressai-gen" in uploaded["README.md"]
