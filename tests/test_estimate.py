"""True sizes of foundation codecs, from the published configurations of their models, without weights."""

import json

import pytest
import torch

from compressai_gen import resources
from compressai_gen.cli import main
from compressai_gen.diffusion.pretrained import LORA_TARGETS
from compressai_gen.errors import CodecError
from compressai_gen.estimate import _Alive, architectures, build_on_meta, estimate, foundation_recipes
from compressai_gen.models import CGDM, MRIDC

TURBO, V2 = "stabilityai/sd-turbo", "stabilityai/stable-diffusion-2-1"
PREDICTIONS = {TURBO: "epsilon", V2: "v_prediction"}


def _config(name, **denoiser):
    return {
        "restorer": {
            "space": {"class": "AutoencoderSpace", "pretrained": name},
            "denoiser": {"class": "LatentUNet", "pretrained": name, "prediction": PREDICTIONS.get(name, "sample")}
            | denoiser,
            "guidance": {"class": "ControlBranch"},
            "scheduler": {"rescale_betas_zero_snr": name != TURBO},
        }
    }


def test_parameters_are_as_many_as_are_published():
    rows = {row["part"]: row for row in estimate(MRIDC, _config(V2), 256, 256)}
    assert rows["denoiser"]["parameters"] == pytest.approx(865.9, abs=0.2)  # and ours: tokens, the base's channels
    assert rows["space, encode"]["parameters"] == pytest.approx(83.65, abs=0.01)
    assert rows["space, decode"]["kmac_per_pixel"] > rows["denoiser"]["kmac_per_pixel"] > rows["g_s"]["kmac_per_pixel"]


def test_every_target_of_adapters_and_every_guidance_fits_the_true_size():
    pytest.importorskip("peft")
    model = build_on_meta(CGDM, _config(TURBO, lora_rank=16))
    denoiser, guidance = model.restorer.denoiser, model.restorer.guidance
    adapted = [name for name, _ in denoiser.named_modules() if name.endswith(".lora_A")]
    assert all(any(name.endswith(f"{target}.lora_A") for name in adapted) for target in LORA_TARGETS)
    assert [conv.out_channels for conv in guidance.outputs] == [320] * 4 + [640] * 2 + [640] + [1280] * 5
    assert guidance.mid.out_channels == 1280


def test_an_unknown_architecture_is_told():
    assert set(architectures()) == {TURBO, V2}
    with pytest.raises(CodecError, match="give it as architecture"):
        estimate(CGDM, _config("nobody/else"))


def test_the_program_tells_what_a_recipe_costs(capsys):
    pytest.importorskip("peft")
    assert main(["models", "--estimate", "mridc-foundation", "--size", "250x256", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {row["part"]: row for row in found["networks"]}
    assert list(rows) == ["g_a", "g_s", "space, encode", "guidance", "denoiser", "space, decode"]
    assert rows["denoiser"]["weights_gib"] == pytest.approx(4e6 * rows["denoiser"]["parameters"] / 2**30, rel=1e-2)
    assert rows["space, decode"]["activations_gib"] > rows["denoiser"]["activations_gib"] > 0
    step, *_ = found["training"]
    assert len(found["training"]) == 3
    assert 20 < step["parameters"] < 60  # adapters, tokens, guidance
    assert step["kmac_per_pixel"] > 2 * sum(row["kmac_per_pixel"] for row in rows.values())
    assert step["activations_gib"] > 8 * rows["space, decode"]["activations_gib"]


def test_what_cannot_be_estimated_is_told_in_a_line(capsys, tmp_path):
    assert main(["models", "--estimate", "no-such-recipe"]) == 2
    assert "no recipe 'no-such-recipe'" in capsys.readouterr().err
    text = (resources.ZOO_DIR / "recipes" / "cgdm-foundation.toml").read_text(encoding="utf-8")
    (tmp_path / "other.toml").write_text(text.replace("stabilityai/sd-turbo", "nobody/else"))
    assert main(["models", "--estimate", str(tmp_path / "other.toml")]) == 2
    assert "give it as architecture" in capsys.readouterr().err


def test_foundation_recipes_are_those_on_a_pretrained_model():
    assert foundation_recipes() == ["cgdm-foundation", "mridc-foundation"]


def test_memory_is_what_is_alive_at_once_beside_what_was_given():
    x = torch.zeros(1024, dtype=torch.float32)
    with _Alive([x]) as alive:
        y = x.view(2, 512) + 1  # 4 KiB; a view is none
        y = y * 2  # 4 KiB, and the ones before are still there
        del y
        assert alive.now == 0
        x.double()  # 8 KiB
    assert alive.most == 8192
