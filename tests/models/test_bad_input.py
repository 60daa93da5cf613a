"""Bad input is told in one sentence that says what to do, and never decoded to a wrong picture."""

import copy
from unittest import mock

import pytest
import torch

from compressai_gen.entropy.container import Stream, pack
from compressai_gen.errors import BitstreamError, CodecError, ImageError

SIZE = (48, 80)


@pytest.fixture
def stream(random_model, photograph):
    return random_model.compress(photograph(*SIZE))["strings"][0][0]


@pytest.mark.parametrize("length", [0, 1, 3, 4, 10, -1])
def test_truncated_stream_raises_bitstream_error(random_model, stream, length):
    with pytest.raises(BitstreamError, match=r"truncated|shorter"):
        random_model.decompress([[stream[:length]]], SIZE)


@pytest.mark.parametrize("position", [0, 1, 2, 3, 4, 20, -1])
def test_one_flipped_bit_raises_bitstream_error(random_model, stream, position):
    damaged = bytearray(stream)
    damaged[position] ^= 0x10
    with pytest.raises(BitstreamError, match=random_model.name):
        random_model.decompress([[bytes(damaged)]], SIZE)


def test_one_damaged_stream_spoils_its_batch(random_model, stream):
    with pytest.raises(BitstreamError):
        random_model.decompress([[stream, stream[:-1]]], SIZE)


def test_stream_of_the_other_codec_is_named(random_models, photograph):
    strings = {name: model.compress(photograph(*SIZE))["strings"] for name, model in random_models.items()}
    with pytest.raises(BitstreamError, match="made by 'mridc': decode it with that model"):
        random_models["cgdm"].decompress(strings["mridc"], SIZE)
    with pytest.raises(BitstreamError, match="made by 'cgdm': decode it with that model"):
        random_models["mridc"].decompress(strings["cgdm"], SIZE)


@pytest.mark.parametrize("shape", [(80, 48), (64, 80), (48, 81), (0, 0), (3, 5)])
def test_wrong_shape_raises_bitstream_error(random_model, stream, shape):
    with pytest.raises(BitstreamError, match=r"the shape that compress\(\) returned"):
        random_model.decompress([[stream]], shape)


@pytest.mark.parametrize("shape", [(-48, 80), (48,), (48, 80, 3), (2**40, 1)])
def test_impossible_shape_raises_bitstream_error(random_model, stream, shape):
    with pytest.raises(BitstreamError, match=r"the shape that compress\(\) returned"):
        random_model.decompress([[stream]], shape)


@pytest.mark.parametrize("strings", [[], [[]], [[b"a"], [b"b"]]])
def test_wrong_nesting_of_strings_is_told(random_model, strings):
    with pytest.raises(BitstreamError, match="a string per image"):
        random_model.decompress(strings, SIZE)


def test_quality_of_a_later_format_is_refused(random_model):
    data = pack(random_model.name, Stream(quality=5.03125, payload=b"abcd"), SIZE)
    with pytest.raises(BitstreamError, match="newer version"):
        random_model.decompress([[data]], SIZE)


@pytest.mark.parametrize("payload", [b"", b"\xff" * 37, bytes(range(256)) * 3])
def test_forged_payload_gives_some_picture(random_model, payload):
    data = pack(random_model.name, Stream(quality=2, payload=payload), SIZE)
    x_hat = random_model.decompress([[data]], SIZE)["x_hat"]
    assert x_hat.shape == (1, 3, *SIZE)
    assert ((x_hat >= 0) & (x_hat <= 1)).all()


@pytest.mark.parametrize("quality", [0, 6, -1, 0.96875, 5.03125, float("nan"), float("inf"), "3", True])
def test_unknown_quality_raises_codec_error(random_model, photograph, quality):
    with pytest.raises(CodecError, match=f"qualities 1 to 5, not {quality!r}"):
        random_model.compress(photograph(*SIZE), quality)
    with pytest.raises(CodecError, match=f"qualities 1 to 5, not {quality!r}"):
        random_model(photograph(*SIZE), quality)


def test_a_quality_between_those_of_streams_names_its_neighbours(random_model, photograph):
    with pytest.raises(CodecError, match=r"steps of 1/32, not 2\.7: take 2\.6875 or 2\.71875"):
        random_model.compress(photograph(*SIZE), 2.7)


@pytest.mark.parametrize("qualities", [[0.5], [1, 5.5], [float("nan")], [1, 2, 3]])
def test_impossible_tensors_of_qualities_are_refused(random_model, photograph, qualities):
    x = photograph(*SIZE).expand(2, -1, -1, -1)
    with pytest.raises(CodecError, match=r"qualities 1 to 5|one for each of 2 images"):
        random_model(x, torch.tensor(qualities))


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
        torch.zeros(1, 1, 32, 32),
        torch.zeros(1, 4, 32, 32),
        torch.zeros(3, 32, 32),
        torch.zeros(0, 3, 32, 32),
        torch.zeros(1, 3, 0, 32),
    ],
    ids=["uint8", "grey", "transparent", "3-dimensional", "no image", "no pixels"],
)
@pytest.mark.parametrize("method", ["compress", "forward"])
def test_other_than_rgb_floats_raise_image_error(random_model, x, method):
    with pytest.raises(ImageError, match=r"takes RGB images.*\(N, 3, H, W\), not"):
        getattr(random_model, method)(x)


def test_model_without_tables_says_how_to_build_them(tiny_cgdm, photograph):
    model = tiny_cgdm()
    for call in (lambda: model.compress(photograph(*SIZE)), lambda: model.decompress([[b"abcd"]], SIZE)):
        with pytest.raises(CodecError, match=r"call its update\(\) once"):
            call()


@pytest.mark.parametrize("method", ["compress", "forward"])
def test_samples_of_8_bits_are_refused(random_model, photograph, method):
    with pytest.raises(ImageError, match=r"in \[0, 1\].*numbers from 0 to 2[0-9]+.*divide samples of 8 bits by 255"):
        getattr(random_model, method)((photograph(64, 64) * 255).round())


def test_values_a_little_out_of_range_are_coded(random_model, photograph):
    out = random_model.compress(photograph(*SIZE) * 1.4 - 0.2)
    x_hat = random_model.decompress(**out, steps=0)["x_hat"]
    assert ((x_hat >= 0) & (x_hat <= 1)).all()


NOT_FINITE = [torch.nan, torch.inf, -torch.inf, 1e30]


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("method", ["compress", "forward"])
def test_pictures_that_are_not_finite_are_refused(random_model, photograph, value, method):
    x = photograph(*SIZE).clone()
    x[0, 1, 7, 9] = value
    with pytest.raises(ImageError, match=r"NaN or infinity|1e\+30"):
        getattr(random_model, method)(x)


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("name", ["g_a.embed.weight", "g_s.head.bias", "restorer.denoiser.patches.weight"])
def test_weights_that_are_not_finite_are_named(random_model, photograph, stream, name, value):
    model = copy.deepcopy(random_model)
    model.get_parameter(name).data.flatten()[3] = value
    with pytest.raises(CodecError, match=f"weights of this {model.name} are damaged: {name} holds"):
        model.compress(photograph(*SIZE))
    with pytest.raises(CodecError, match=f"{name} holds"):
        model.decompress([[stream]], SIZE)


def test_a_latent_that_is_not_finite_is_refused(random_model, photograph):
    original = random_model.analyze

    def damaged(*args, **kwargs):
        latents = original(*args, **kwargs)
        (latents[0] if random_model.name == "cgdm" else latents[0].y).fill_(torch.nan)
        return latents

    with (
        mock.patch.object(random_model, "analyze", damaged),
        pytest.raises(CodecError, match="latent of this picture is not finite"),
    ):
        random_model.compress(photograph(*SIZE))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_pictures_of_other_precision_are_converted(random_model, photograph, dtype):
    x = photograph(64, 64)
    rounded = x.to(dtype)
    out = random_model.compress(rounded, 2)
    assert out["strings"] == random_model.compress(rounded.float(), 2)["strings"]
    assert random_model.decompress(**out, steps=0)["x_hat"].dtype == torch.float32
    with torch.no_grad():
        assert random_model(rounded, 2)["x_hat"].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_precision_say_what_to_do(random_model, photograph, stream, dtype):
    model = copy.deepcopy(random_model).to(dtype)
    for call in (
        lambda: model.compress(photograph(*SIZE)),
        lambda: model.decompress([[stream]], SIZE),
        lambda: model(photograph(*SIZE)),
    ):
        with pytest.raises(CodecError, match=rf"{dtype}: call the model's float\(\)"):
            call()


def test_failed_call_leaves_the_model_usable(random_model, photograph):
    model = copy.deepcopy(random_model)
    before = model.compress(photograph(*SIZE))["strings"]
    with pytest.raises(CodecError):
        model.compress(photograph(*SIZE), 7)
    assert model.compress(photograph(*SIZE))["strings"] == before
