import pytest
import torch
from torch import nn

from compressai_gen.codecs import Codec, LearnedCodec
from compressai_gen.errors import CodecError


class FakeModel(nn.Module):
    """Sends the mean colour in one byte per channel; quality 2 adds a second string. Decodes out of [0, 1]."""

    def __init__(self, quality):
        super().__init__()
        self.quality = quality
        self.inputs = []

    def compress(self, x):
        assert not self.training
        self.inputs.append(x)
        colour = bytes((x.mean(dim=(0, 2, 3)) * 255).round().int().tolist())
        return {"strings": [[colour], [b"!"]][: self.quality], "shape": tuple(x.shape[2:])}

    def decompress(self, strings, shape):
        assert len(strings) == self.quality
        colour = torch.tensor(list(strings[0][0])) / 255
        return {"x_hat": (1.5 * colour - 0.1).view(1, 3, 1, 1).expand(1, 3, *shape)}


@pytest.fixture
def codec():
    return LearnedCodec("fake", (1, 2), FakeModel)


def test_is_a_codec(codec):
    assert isinstance(codec, Codec)


def test_model_sees_one_unpadded_float_image(codec):
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    codec.encode(image, 1)
    (x,) = codec.model(1).inputs
    assert x.shape == (1, 3, 5, 7)
    torch.testing.assert_close(x[0] * 255, image.float())


def test_all_strings_count_and_go_to_the_decoder(codec):
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    encoded = codec.encode(image, 2)
    assert encoded.strings == [b"\0\0\0", b"!"]
    assert encoded.n_bytes == 4
    assert codec.decode(encoded, 2).shape == image.shape


@pytest.mark.parametrize(("sample", "expected"), [(0, 0), (255, 255), (101, 126)])
def test_reconstruction_is_clamped_and_rounded(codec, sample, expected):
    image = torch.full((3, 2, 2), sample, dtype=torch.uint8)
    decoded = codec.decode(codec.encode(image, 1), 1)  # 1.5 * 101 - 25.5 = 126
    assert decoded.dtype == torch.uint8
    assert (decoded == expected).all()


def test_each_quality_is_loaded_once():
    loaded = []
    codec = LearnedCodec("fake", (1, 2), lambda quality: loaded.append(quality) or FakeModel(quality))
    image = torch.zeros(3, 1, 1, dtype=torch.uint8)
    for quality in (1, 2, 1, 2):
        codec.decode(codec.encode(image, quality), quality)
    assert loaded == [1, 2]


class VariableModel(FakeModel):
    """Notes the quality that it is asked for."""

    def compress(self, x, quality):
        self.asked = quality
        return super().compress(x)


def test_a_model_of_variable_rate_is_loaded_once_for_all_qualities():
    loaded = []
    codec = LearnedCodec("fake", (1, 2), lambda q: loaded.append(q) or VariableModel(q), variable_rate=True)
    image = torch.zeros(3, 1, 1, dtype=torch.uint8)
    for quality in (2, 1.5):
        codec.encode(image, quality)
        assert codec.model(quality).asked == quality
    fixed = codec.variant("fixed", ({"quality": 1.25}, {}))
    fixed.encode(image, 2)
    assert fixed.model(2).asked == 1.25
    assert loaded == [1]


def test_decoding_needs_the_quality_only_with_several_networks(codec):
    image = torch.zeros(3, 1, 1, dtype=torch.uint8)
    with pytest.raises(CodecError, match="quality"):
        codec.decode(codec.encode(image, 1))
    single = LearnedCodec("single", (1,), FakeModel)
    assert single.decode(single.encode(image, 1)).shape == image.shape
