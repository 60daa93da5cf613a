"""Conformance of a codec: what every program relies on, as tests for pytest.

A package tests its own codec by::

    from compressai_gen.testing import CodecConformance
    from my_package.spec import SPEC

    class TestMyCodec(CodecConformance):
        spec = SPEC

The model is that of the newest weights or, where there are none, an untrained one; a fixture ``model`` of the class may
make another. Nothing here needs a network or a GPU.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

import compressai_gen
from compressai_gen import zoo
from compressai_gen.cgen import CgenFile
from compressai_gen.configuration import resolve
from compressai_gen.data import load_dataset
from compressai_gen.entropy.container import pack, unpack
from compressai_gen.errors import BitstreamError, CodecError, CompressaiGenError, ImageError
from compressai_gen.manifest import tags
from compressai_gen.models.base import GenerativeCodec
from compressai_gen.roles import ROLES, fingerprint, split
from compressai_gen.specs import CodecSpec, load_object, specs

__all__ = ["CodecConformance", "decoded_symbols"]

SIZE = (72, 104)
"""(height, width) of most pictures; no multiple of anything that codecs pad to."""


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    yield
    torch.set_num_threads(before)


_SETTINGS: dict[str, Callable[[], Any]] = {
    "one thread": lambda: _threads(1),
    "three threads": lambda: _threads(3),
    "bfloat16 autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "without oneDNN": lambda: torch.backends.mkldnn.flags(enabled=False),
}


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for item in value:
            yield from _tensors(item)


def decoded_symbols(model: GenerativeCodec, strings: Sequence[bytes], shape: Sequence[int]) -> list[str]:
    """Returns a digest, for each stream, of all that the entropy decoder hands to the synthesis."""
    seen: list[Any] = []

    def keep(decoded: Sequence[Any], *_: Any) -> Tensor:
        seen.extend(decoded)
        return torch.zeros(len(decoded), 3, *shape)

    with mock.patch.object(model, "synthesize", keep):
        model.decompress([list(strings)], shape)
    return [
        hashlib.sha256(b"".join(t.detach().cpu().numpy().tobytes() for t in _tensors(item))).hexdigest()
        for item in seen
    ]


class CodecConformance:
    """The tests; a subclass gives ``spec``.

    Attributes:
        spec: of the codec.
        tile_difference: by how much, of values in [0, 1] and on average, decoding in tiles may change a picture. Codecs
            with normalization or attention over all of a tile say what they need, and test by other means that no line
            shows.
        batch_difference: by how much at most, of values in [0, 1], a picture may differ that is decoded with others.
    """

    spec: CodecSpec
    tile_difference: float = 1 / 255
    batch_difference: float = 1e-3

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls) -> GenerativeCodec:
        """The model that is tested; tests that change it copy it first."""
        if tags(cls.spec.name):
            return zoo.load(cls.spec.name, cls.spec.qualities[len(cls.spec.qualities) // 2])
        torch.manual_seed(0)
        model = cls.spec.load()().eval()
        model.update()
        return model

    @pytest.fixture(scope="class")
    @classmethod
    def photograph(cls) -> Callable[..., Tensor]:
        """Crops (1, 3, height, width) in [0, 1] of a photograph."""
        image = load_dataset("samples", limit=1)[0].float()[None] / 255

        def crop(height: int, width: int, top: int = 40, left: int = 150) -> Tensor:
            return image[:, :, top : top + height, left : left + width].contiguous()

        return crop

    @pytest.fixture(scope="class")
    @classmethod
    def stream(cls, model: GenerativeCodec, photograph: Callable[..., Tensor]) -> bytes:
        """Of one picture of :data:`SIZE`."""
        return model.compress(photograph(*SIZE))["strings"][0][0]

    # -- contract -----------------------------------------------------------------------------------------------------

    def test_specification_and_class_agree(self) -> None:
        """Names, qualities and objectives are those of the class, and no other codec has the name or the byte."""
        cls = self.spec.load()
        assert issubclass(cls, GenerativeCodec)
        assert cls.spec is self.spec
        assert cls.name == self.spec.name
        assert self.spec.qualities == tuple(range(1, cls.n_qualities + 1))
        others = [other for other in specs().values() if other.name != self.spec.name]
        assert self.spec.byte not in [other.byte for other in others]
        assert self.spec.summary
        for where in self.spec.objectives.values():
            assert isinstance(load_object(where), type)

    def test_options_have_help_and_a_default(self) -> None:
        """Every option can be left out and says what it does."""
        for kind in (self.spec.encoder_options, self.spec.decoder_options):
            kind()
            assert all(field.metadata["help"] for field in dataclasses.fields(kind))
        for variant in self.spec.variants.values():
            self.spec.encoder_options(**variant.encode)
            self.spec.decoder_options(**variant.decode)
        for settings in self.spec.timed:
            self.spec.parse(settings)

    def test_configuration_is_whole_and_plain(self, model: GenerativeCodec) -> None:
        """The configuration is JSON that resolves to itself, makes the same model, and refuses unknown keys."""
        cls = type(model)
        assert json.loads(json.dumps(model.config)) == model.config
        assert resolve(cls.defaults, model.config, cls.optional) == model.config
        assert list(cls(**model.config).state_dict()) == list(model.state_dict())
        with pytest.raises(CodecError, match="no_such_part"):
            cls(**{"no_such_part": 1})

    def test_roles_divide_the_state(self, model: GenerativeCodec) -> None:
        """What decides symbols has a fingerprint that follows its values and nothing else."""
        parts = split(model.state_dict(), model.coding)
        assert set(parts) == set(ROLES)
        assert parts["coding"]
        assert fingerprint(parts["coding"]) == model.fingerprint()
        assert copy.deepcopy(model).fingerprint() == model.fingerprint()
        changed = copy.deepcopy(model)
        name = next(n for n, t in parts["coding"].items() if t.is_floating_point() and t.numel())
        with torch.no_grad():
            changed.state_dict()[name].add_(1)
        assert changed.fingerprint() != model.fingerprint()

    @pytest.mark.parametrize("size", [(1, 1), (17, 33), (1, 130), SIZE])
    def test_a_picture_comes_back_in_its_size(
        self, model: GenerativeCodec, photograph: Callable[..., Tensor], size: tuple[int, int]
    ) -> None:
        """Any size, as float32 in [0, 1]."""
        out = model.compress(photograph(*size))
        assert set(out) == {"strings", "shape"}
        assert tuple(out["shape"]) == size
        x_hat = model.decompress(**out)["x_hat"]
        assert x_hat.shape == (1, 3, *size)
        assert x_hat.dtype == torch.float32
        assert 0 <= x_hat.min() <= x_hat.max() <= 1

    def test_a_decoded_picture_is_the_same_every_time(self, model: GenerativeCodec, stream: bytes) -> None:
        """The same bytes give the same picture, which resembles no other."""
        first, second = (model.decompress([[stream]], SIZE)["x_hat"] for _ in range(2))
        assert torch.equal(first, second)

    def test_streams_state_their_quality(self, model: GenerativeCodec, photograph: Callable[..., Tensor]) -> None:
        """Any model of the class decodes streams of all qualities, together."""
        x, qualities = photograph(64, 64), (self.spec.qualities[0], self.spec.qualities[-1])
        streams = [model.compress(x, quality)["strings"][0][0] for quality in qualities]
        assert [unpack(model.name, data, (64, 64)).quality for data in streams] == list(qualities)
        assert len(streams[0]) < len(streams[1])
        together = model.decompress([streams], (64, 64))["x_hat"]
        apart = torch.cat([model.decompress([[data]], (64, 64))["x_hat"] for data in streams])
        torch.testing.assert_close(together, apart, atol=self.batch_difference, rtol=0)

    def test_forward_estimates_the_stream(self, model: GenerativeCodec, photograph: Callable[..., Tensor]) -> None:
        """Likelihoods, headers included, tell the bytes to within a few percent, and the picture has its size."""
        x = photograph(96, 128)
        with torch.no_grad():
            out = model(x)
        assert set(out) == {"x_hat", "likelihoods", "terms"}
        assert out["x_hat"].shape == x.shape
        assert all(((p > 0) & (p <= 1)).all() for p in out["likelihoods"].values())
        assert -out["likelihoods"]["header"].log2().sum() == 32
        estimate = sum(-p.double().log2().sum().item() for p in out["likelihoods"].values())
        bits = 8 * len(model.compress(x)["strings"][0][0])
        assert abs(estimate - bits) < 0.05 * bits + 128

    def test_bits_of_symbols_sum_up_to_the_stream(self, model: GenerativeCodec, stream: bytes) -> None:
        """What the kinds of symbols take is what the stream holds."""
        bits = sum(model.stream_bits(stream, SIZE).values())
        assert abs(bits + 32 - 8 * len(stream)) < 0.01 * bits + 128

    def test_a_state_dict_makes_the_same_model(
        self, model: GenerativeCodec, photograph: Callable[..., Tensor], stream: bytes
    ) -> None:
        """A model that is built from the state writes the same bytes; so does one whose tables are built again."""
        twin = type(model).from_state_dict(model.state_dict(), **model.config).eval()
        assert twin.compress(photograph(*SIZE))["strings"][0][0] == stream
        twin.update(force=True)
        assert twin.compress(photograph(*SIZE))["strings"][0][0] == stream

    # -- exactness ----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("setting", _SETTINGS)
    def test_symbols_survive_other_settings(
        self, model: GenerativeCodec, photograph: Callable[..., Tensor], setting: str
    ) -> None:
        """A decoder with other threads or kernels gets the very symbols, at the lowest and the highest quality."""
        for quality in (self.spec.qualities[0], self.spec.qualities[-1]):
            out = model.compress(photograph(*SIZE), quality)
            here = decoded_symbols(model, out["strings"][0], SIZE)
            with _SETTINGS[setting]():
                assert decoded_symbols(model, out["strings"][0], SIZE) == here

    @pytest.mark.parametrize("setting", _SETTINGS)
    def test_streams_made_under_other_settings_decode(
        self, model: GenerativeCodec, photograph: Callable[..., Tensor], setting: str
    ) -> None:
        """What is encoded there decodes here to the same symbols."""
        with _SETTINGS[setting]():
            out = model.compress(photograph(*SIZE))
            there = decoded_symbols(model, out["strings"][0], SIZE)
        assert decoded_symbols(model, out["strings"][0], SIZE) == there

    def test_a_batch_changes_no_symbol(self, model: GenerativeCodec, photograph: Callable[..., Tensor]) -> None:
        """Streams of a batch decode alone, and those of single pictures in a batch."""
        x = torch.cat([photograph(*SIZE, top) for top in (40, 200, 330)])
        strings = model.compress(x)["strings"][0]
        alone = [decoded_symbols(model, [data], SIZE)[0] for data in strings]
        assert decoded_symbols(model, strings, SIZE) == alone
        singles = [model.compress(image[None])["strings"][0][0] for image in x]
        apart = [decoded_symbols(model, [data], SIZE)[0] for data in singles]
        assert decoded_symbols(model, singles, SIZE) == apart

    # -- bad input ----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("length", [0, 1, 3, 4, -1])
    def test_truncated_streams_are_refused(self, model: GenerativeCodec, stream: bytes, length: int) -> None:
        """With a :class:`BitstreamError`."""
        with pytest.raises(BitstreamError):
            model.decompress([[stream[:length]]], SIZE)

    @pytest.mark.parametrize("position", [0, 1, 2, 3, 4, -1])
    def test_damaged_streams_are_refused(self, model: GenerativeCodec, stream: bytes, position: int) -> None:
        """With a :class:`BitstreamError` that names the codec."""
        damaged = bytearray(stream)
        damaged[position] ^= 0x10
        with pytest.raises(BitstreamError, match=model.name):
            model.decompress([[bytes(damaged)]], SIZE)

    @pytest.mark.parametrize("payload", [b"", b"\xff" * 37, bytes(range(256)) * 3])
    def test_forged_streams_give_some_picture_or_are_refused(self, model: GenerativeCodec, payload: bytes) -> None:
        """Never another error, whatever follows a valid header."""
        head = unpack(model.name, model.compress(torch.zeros(1, 3, *SIZE))["strings"][0][0], SIZE)
        data = pack(model.name, head._replace(payload=payload), SIZE)
        try:
            x_hat = model.decompress([[data]], SIZE)["x_hat"]
        except BitstreamError:
            return
        assert x_hat.shape == (1, 3, *SIZE)
        assert ((x_hat >= 0) & (x_hat <= 1)).all()

    def test_a_wrong_shape_is_refused(self, model: GenerativeCodec, stream: bytes) -> None:
        """The stream's checksum covers it."""
        for shape in (SIZE[::-1], (SIZE[0], SIZE[1] + 1), (0, 0)):
            with pytest.raises(BitstreamError):
                model.decompress([[stream]], shape)

    @pytest.mark.parametrize("quality", [0, 99, "high", float("nan"), True])
    def test_unknown_qualities_are_refused(
        self, model: GenerativeCodec, photograph: Callable[..., Tensor], quality: Any
    ) -> None:
        """With a :class:`CodecError` that names the codec."""
        with pytest.raises(CodecError, match=model.name):
            model.compress(photograph(16, 16), quality)

    def test_unknown_options_are_refused_by_name(
        self, model: GenerativeCodec, photograph: Callable[..., Tensor], stream: bytes
    ) -> None:
        """Of the encoder, of the decoder and in names."""
        with pytest.raises(CodecError, match="no_such_option"):
            model.compress(photograph(16, 16), no_such_option=1)
        with pytest.raises(CodecError, match="no_such_option"):
            model.decompress([[stream]], SIZE, no_such_option=1)
        with pytest.raises(CodecError, match="no_such_option"):
            self.spec.parse("no_such_option=1")

    @pytest.mark.parametrize("x", [torch.zeros(1, 1, 8, 8), torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8).byte()])
    def test_other_than_rgb_floats_are_refused(self, model: GenerativeCodec, x: Tensor) -> None:
        """With an :class:`ImageError`."""
        with pytest.raises(ImageError):
            model.compress(x)

    # -- files and tiles ----------------------------------------------------------------------------------------------

    def test_files_go_round(self, model: GenerativeCodec, photograph: Callable[..., Tensor]) -> None:
        """``encode`` and ``decode`` with the model; another coding part refuses the file."""
        picture = (photograph(*SIZE)[0] * 255).round().byte()
        data = compressai_gen.encode(picture, model)
        file = CgenFile.from_bytes(data)
        assert file.model == self.spec.name
        assert model.fingerprint().startswith(file.weights.hex())
        decoded = compressai_gen.decode(data, model=model)
        assert decoded.size == SIZE[::-1]
        foreign = dataclasses.replace(file, weights=bytes(b ^ 0xFF for b in file.weights)).to_bytes()
        with pytest.raises(CompressaiGenError, match="coding part"):
            compressai_gen.decode(foreign, model=model)
        if tags(self.spec.name) and zoo.load(self.spec.name, 1).fingerprint() == model.fingerprint():
            assert compressai_gen.encode(picture, self.spec.name) == data
            assert compressai_gen.decode(data).tobytes() == decoded.tobytes()

    def test_tiles_leave_no_trace(self, model: GenerativeCodec, photograph: Callable[..., Tensor]) -> None:
        """Decoding in tiles gives the picture that decoding at once gives, as far as eyes see."""
        out = model.compress(photograph(320, 330))
        whole, tiled = (model.decompress(**out, tile=tile)["x_hat"] for tile in (1024, 256))
        assert (whole - tiled).abs().mean() < self.tile_difference
