"""True sizes of foundation codecs, from the published configurations of their models, without weights."""

import pytest

from compressai_gen.diffusion.pretrained import LORA_TARGETS
from compressai_gen.errors import CodecError
from compressai_gen.estimate import architectures, build_on_meta, estimate
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
