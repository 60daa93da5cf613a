"""Latent diffusion from the real classes, small and random: loading, coding, exactness, tiles, training, bad input."""

import copy
import json
import shutil
import sys

import pytest
import torch
from pretrained_models import restorer_of, save_autoencoder, save_tiny_autoencoder, save_unet, small_codec

from compressai_gen.diffusion.pretrained import AutoencoderSpace
from compressai_gen.diffusion.tiling import OVERLAP
from compressai_gen.errors import CodecError, MissingExtraError
from compressai_gen.models import CGDM


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_unet(save_autoencoder(tmp_path_factory.mktemp("pretrained")))


@pytest.fixture(scope="module", params=["cgdm", "mridc"])
def codec(request, folder):
    return small_codec(request.param, folder)


def test_parameters_are_few_and_the_configuration_is_plain(codec):
    assert sum(p.numel() for p in codec.parameters()) < 1e7
    assert json.loads(json.dumps(codec.config)) == codec.config


def test_a_picture_survives_and_is_the_same_each_time(codec, photograph):
    x = photograph(128, 192)
    stream = codec.compress(x, 3)
    x_hat = codec.decompress(**stream)["x_hat"]
    assert x_hat.shape == x.shape
    assert torch.equal(codec.decompress(**stream)["x_hat"], x_hat)
    for options in ({"seed": 1}, {"steps": 4}, {"consistency": False}, {"steps": 0}):
        assert not torch.equal(codec.decompress(**stream, **options)["x_hat"], x_hat), options


def test_a_stream_decodes_alike_on_one_and_two_threads(codec, photograph):
    threads = torch.get_num_threads()
    pictures, streams = [], []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            streams.append(codec.compress(photograph(128, 128), 2)["strings"])
            pictures.append(codec.decompress(streams[0], (128, 128))["x_hat"])
    finally:
        torch.set_num_threads(threads)
    assert streams[0] == streams[1]
    torch.testing.assert_close(pictures[0], pictures[1], atol=0.02, rtol=0)


def test_weights_and_configuration_are_all_that_a_decoder_needs(codec, photograph):
    """Neither hub nor folder: what was loaded is in the state, and its architecture in the configuration."""
    config = json.loads(json.dumps(codec.config))
    for part in ("space", "denoiser"):
        config["restorer"][part]["pretrained"] = "no/such-model"
    rebuilt = type(codec)(**config)
    rebuilt.load_state_dict(codec.state_dict())
    stream = codec.compress(photograph(64, 64), 1)
    assert torch.equal(rebuilt.eval().decompress(**stream)["x_hat"], codec.decompress(**stream)["x_hat"])


@pytest.mark.parametrize("by_layer", [False, True])
def test_parts_that_wait_elsewhere_code_and_decode_the_same(codec, photograph, by_layer):
    pytest.importorskip("accelerate")
    from accelerate.hooks import CpuOffload, UserCpuOffloadHook

    x = photograph(128, 192)
    offloaded = copy.deepcopy(codec)
    offloaded.offload("cpu", by_layer)
    stream = offloaded.compress(x, 2)
    assert stream["strings"] == codec.compress(x, 2)["strings"]
    assert torch.equal(offloaded.decompress(**stream)["x_hat"], codec.decompress(**stream)["x_hat"])
    waiting = offloaded.restorer.large()
    assert [type(part).__name__ for part in waiting] == ["Encoder", "UNet2DConditionModel", "Decoder"]
    if by_layer:
        assert all(parameter.is_meta for part in waiting for parameter in part.parameters())
    else:  # each sends the one before away, the first one the last
        hooks = [part._hf_hook for part in waiting]
        assert all(isinstance(hook, CpuOffload) for hook in hooks)
        before = [hook.prev_module_hook for hook in hooks]
        assert all(isinstance(hook, UserCpuOffloadHook) for hook in before)
        assert [hook.model for hook in before] == [waiting[-1], *waiting[:-1]]
    assert {id(p) for p in offloaded.g_s.parameters() if p.is_meta} == set()


def test_what_cannot_wait_elsewhere_is_told(codec):
    pytest.importorskip("accelerate")
    with pytest.raises(CodecError, match="device 'abacus' cannot be used here"):
        codec.offload("abacus")
    with pytest.raises(CodecError, match="no pretrained part"):
        CGDM().offload("cpu")


def test_no_pretrained_weight_decides_a_symbol(codec, photograph):
    """Only the syntax, which is the encoder's choice, looks at the latent; every decoder reads it alike."""
    changed = copy.deepcopy(codec)
    with torch.no_grad():
        for parameter in changed.restorer.denoiser.parameters():
            parameter.add_(0.1)
    x = photograph(128, 128)
    assert changed.compress(x, 2)["strings"] == codec.compress(x, 2)["strings"]
    assert not any(name.startswith("restorer") for name in codec.coding)


@pytest.mark.parametrize("steps", [1, 2])
def test_no_seam_shows_between_tiles(codec, photograph, steps):
    """Steps across the middles of tiles' overlaps and their edges are as large as elsewhere."""
    x = photograph(256, 448, 100, 20)
    stream = codec.compress(x, 3)
    tiled = codec.decompress(**stream, tile=256, steps=steps)["x_hat"]
    steps_across = tiled.diff(dim=3).abs().mean(dim=(0, 1, 2))
    stride = 256 - OVERLAP
    lines = [
        k
        for left in (stride,)
        for k in (left - 1, left + 31, left + OVERLAP // 2 - 1, left + OVERLAP - 33, left + OVERLAP - 1)
    ]
    around = [steps_across[max(0, k - 8) : k + 9].mean() for k in lines]
    ratio = torch.stack([steps_across[k] / a for k, a in zip(lines, around, strict=True)])
    whole = codec.decompress(**stream, tile=1024, steps=steps)["x_hat"].diff(dim=3).abs().mean(dim=(0, 1, 2))
    of_whole = torch.stack([whole[k] / whole[max(0, k - 8) : k + 9].mean() for k in lines])
    assert (ratio / of_whole).max() < 1.25


def test_sent_blocks_keep_their_mean_latents(folder, photograph):
    model = small_codec("mridc", folder)
    space = model.restorer.space
    sent = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    sent[..., ::2] = True
    base, estimate = space.encode(photograph(128, 128)), torch.randn(1, 4, 16, 16)
    held = space.hold(estimate, sent, base)
    means = [torch.nn.functional.avg_pool2d(field, 2) for field in (held, base, estimate)]
    sent = sent.expand(-1, 4, -1, -1)
    torch.testing.assert_close(means[0][sent], means[1][sent])
    torch.testing.assert_close(means[0][~sent], means[2][~sent])


def test_the_space_scales_as_its_configuration_says(folder, tmp_path, photograph):
    x = photograph(64, 64)
    scaled = AutoencoderSpace(str(save_autoencoder(tmp_path, scaling_factor=1.5, shift_factor=0.1)))
    z = AutoencoderSpace(str(folder)).encode(x)
    torch.testing.assert_close(scaled.encode(x), (z / 0.5 - 0.1) * 1.5)
    torch.testing.assert_close(scaled.decode(scaled.encode(x)), AutoencoderSpace(str(folder)).decode(z))


def test_a_tiny_autoencoder_is_a_space(tmp_path, photograph):
    space = AutoencoderSpace(str(save_tiny_autoencoder(tmp_path)))
    z = space.encode(photograph(64, 128))
    assert z.shape == (1, space.channels, 8, 16)
    assert space.decode(z).shape == (1, 3, 64, 128)


def test_at_first_the_unet_predicts_what_it_did_without_a_base(folder):
    from diffusers import UNet2DConditionModel

    model = small_codec("cgdm", folder, prediction="sample")
    fresh = CGDM(restorer=restorer_of(folder, prediction="sample"))
    denoiser, plain = fresh.restorer.denoiser.eval(), UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    x, base, quality = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([0, 3])
    expected = plain(x, torch.tensor(500), denoiser._tokens_of(quality)).sample
    torch.testing.assert_close(denoiser(x, torch.tensor(500), base, quality), expected)
    assert model.restorer.denoiser.guided == fresh.restorer.denoiser.guided


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_predictions_are_turned_into_the_clean_sample(folder, prediction, monkeypatch):
    scheduler = {
        "class": "DDIMScheduler",
        "rescale_betas_zero_snr": prediction == "v_prediction",
        "prediction_type": "sample",
    }
    restorer = restorer_of(folder, prediction=prediction) | {"scheduler": scheduler}
    denoiser = CGDM(restorer=restorer).restorer.denoiser
    clean, noise, t = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([999, 300])
    alpha = denoiser.alphas_cumprod[t].reshape(-1, 1, 1, 1)
    signal, sigma = alpha.sqrt(), (1 - alpha).sqrt()
    target = noise if prediction == "epsilon" else signal * noise - sigma * clean
    monkeypatch.setattr(denoiser.unet, "forward", lambda *_, **__: type("Out", (), {"sample": target}))
    estimated = denoiser(signal * clean + sigma * noise, t, clean, torch.tensor([0, 1]))
    torch.testing.assert_close(estimated, clean, atol=1e-3, rtol=1e-3)


def test_adapters_alone_are_trained(folder):
    pytest.importorskip("peft")
    model = small_codec("cgdm", folder, lora_rank=2)
    trained = {id(p) for part in model.restorer.trained() for p in part.parameters()}
    names = {name for name, p in model.restorer.named_parameters() if id(p) in trained}
    inside = {name for name in names if name.startswith("denoiser.unet.")}
    assert inside
    assert all(".lora_" in name or ".conv_in." in name for name in inside)
    assert "denoiser.tokens.weight" in names
    assert not any(name.startswith("space.") for name in names)
    for name in ("attn1.to_q", "attn2.to_out.0", "ff.net.2", "resnets.0.conv1"):
        assert any(f"{name}.lora_A" in inside_name for inside_name in inside), name
    assert sum(model.restorer.state_dict()[n].numel() for n in inside) < 0.4 * sum(
        p.numel() for p in model.restorer.denoiser.parameters()
    )


def test_peft_is_named_where_it_is_missing(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"peft.*compressai-gen\[foundation\]"):
        small_codec("cgdm", folder, lora_rank=2)


def _without(folder, tmp_path, name):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / name).unlink()
    return tmp_path / "copy"


def _refused(said, part, **config):
    with pytest.raises(CodecError, match=said) as caught:
        part(**config)
    assert "\n" not in str(caught.value)


def test_bad_models_are_told_before_anything_is_done(folder, tmp_path, monkeypatch):
    def unet(**config):
        CGDM(restorer=restorer_of(config.pop("folder", folder), **config))

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _refused("cannot be had from the hub", AutoencoderSpace, pretrained="nobody/no-such-model")
    _refused("neither a folder nor a hub id", AutoencoderSpace, pretrained="/no/such/folder")
    _refused("config.json", AutoencoderSpace, pretrained=str(_without(folder, tmp_path, "vae/config.json")))
    _refused("has no fp16 weights", AutoencoderSpace, pretrained=str(folder), variant="fp16")
    _refused("float32, not float16", AutoencoderSpace, pretrained=str(folder), dtype="float16")
    _refused("dtype is one of", AutoencoderSpace, pretrained=str(folder), dtype="int8")
    _refused("holds UNet2DConditionModel", AutoencoderSpace, pretrained=str(folder), subfolder="unet")
    _refused("no layer of the U-Net is called to_x", unet, lora_rank=1, lora_targets=["to_x"])
    _refused("prediction is one of", unet, prediction="flow")
    _refused("tells nothing at pure noise", unet, prediction="epsilon")


@pytest.mark.parametrize(
    ("said", "config"),
    [
        ("autoencoder's latent has 4", {"in_channels": 8, "out_channels": 8}),
        (
            "halves a latent more than three times",
            {
                "block_out_channels": (8,) * 5,
                "down_block_types": ("DownBlock2D",) * 5,
                "up_block_types": ("UpBlock2D",) * 5,
                "attention_head_dim": 2,
            },
        ),
        ("more than a text's tokens", {"class_embed_type": "identity"}),
        ("cross-attention takes", {"cross_attention_dim": (24, 24)}),
    ],
)
def test_unets_that_do_not_fit_are_told(folder, tmp_path, said, config):
    save_unet(tmp_path, **config)
    restorer = restorer_of(folder, pretrained=str(tmp_path))
    _refused(said, CGDM, restorer=restorer)


def test_an_autoencoder_of_another_factor_is_told(tmp_path):
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    save_autoencoder(tmp_path, block_out_channels=(8, 8, 16), **blocks)
    _refused("4 pixels per side of a latent position, not 8", AutoencoderSpace, pretrained=str(tmp_path))


def test_guidance_of_another_depth_is_told(folder):
    restorer = restorer_of(folder) | {"guidance": {"class": "ControlBranch", "widths": [8, 8, 8]}}
    _refused("2 resolutions", CGDM, restorer=restorer)


def test_damaged_weights_are_told(folder, tmp_path):
    shutil.copytree(folder / "unet", tmp_path / "unet")
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    _refused(r"cannot be (read|loaded)", CGDM, restorer=restorer_of(folder, pretrained=str(tmp_path)))
