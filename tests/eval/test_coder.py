"""Whatever a codec does, figures are those of the pictures that were given and of what it returned at once."""

import os

import numpy as np
import pytest
import torch

from compressai_gen.codecs import Encoded
from compressai_gen.data import load_dataset, write_image
from compressai_gen.errors import CodecError, ImageError
from compressai_gen.eval.contract import Coder
from compressai_gen.eval.pictures import KeptPictures
from compressai_gen.eval.runner import Job, measure
from compressai_gen.eval.store import RowStore
from compressai_gen.metrics import ReferenceMetrics


class Good:
    """Loses the lower bits."""

    name, qualities, version = "good", (1, 2), "1"

    def encode(self, image, quality):
        return Encoded([(image & (0xC0 if quality == 1 else 0xF0)).numpy().tobytes()], list(image.shape))

    def decode(self, encoded, quality=None):
        return torch.frombuffer(bytearray(encoded.strings[0]), dtype=torch.uint8).reshape(encoded.shape)


class ChangesInput(Good):
    name = "changes its input"

    def encode(self, image, quality):
        image.bitwise_and_(0xC0 if quality == 1 else 0xF0)
        return super().encode(image, quality)


class ChangesInputLater(Good):
    name = "changes its input later"

    def encode(self, image, quality):
        self.image = image
        return super().encode(image, quality)

    def decode(self, encoded, quality=None):
        self.image.zero_()
        return super().decode(encoded, quality)


class OneBuffer(Good):
    name = "has one buffer"

    def decode(self, encoded, quality=None):
        decoded = super().decode(encoded, quality)
        if getattr(self, "buffer", torch.empty(0)).shape != decoded.shape:
            self.buffer = torch.empty_like(decoded)
        self.buffer.copy_(decoded)
        return self.buffer[:]


class ChangesStrings(Good):
    name = "changes strings"

    def encode(self, image, quality):
        self.encoded = super().encode(image, quality)
        return self.encoded

    def decode(self, encoded, quality=None):
        decoded = super().decode(encoded, quality)
        for kept in (encoded, self.encoded):
            kept.strings.clear()
            kept.shape.clear()
        return decoded


class Settings(Good):
    name = "sets what all share"

    def decode(self, encoded, quality=None):
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_num_threads(2)
        os.chdir("/")
        return super().decode(encoded, quality)


class Arrays(Good):
    name = "returns arrays and any bytes"

    def encode(self, image, quality):
        encoded = super().encode(image, quality)
        return Encoded([bytearray(encoded.strings[0])], encoded.shape)

    def decode(self, encoded, quality=None):
        array = np.frombuffer(encoded.strings[0], np.uint8).reshape(encoded.shape)
        assert not array.flags.writeable
        return array


@pytest.fixture
def dataset(tmp_path, folder):
    torch.manual_seed(0)
    for name in ("a", "b", "c"):
        write_image(torch.randint(0, 256, (3, 12, 16), dtype=torch.uint8), tmp_path / "set" / f"{name}.png")
    return load_dataset(tmp_path / "set")


@pytest.fixture(autouse=True)
def folder(tmp_path):
    (tmp_path / "set").mkdir()


def _figures(table, name):
    return table[table["codec"] == name][["quality", "image", "bpp", "psnr"]].to_numpy().tolist()


def _measure(codecs, dataset, **more):
    return measure([Job(codec, codec.qualities) for codec in codecs], dataset, ReferenceMetrics(["psnr"]), **more)


@pytest.mark.parametrize(
    ("codec", "told"),
    [
        (ChangesInput, "changes the picture that it is given"),
        (ChangesInputLater, "changes the picture that it is given"),
        (OneBuffer, "changes pictures that it has returned"),
        (ChangesStrings, ""),
        (Settings, ""),
        (Arrays, ""),
    ],
)
def test_no_codec_changes_a_figure(dataset, tmp_path, capsys, codec, told):
    before = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), os.getcwd()
    alone = _figures(_measure([Good()], dataset, progress=False), "good")
    store = RowStore(tmp_path / "rows.jsonl", ["psnr"], "cpu")
    table = _measure([codec(), Good()], dataset, progress=False, store=store, pictures=KeptPictures(tmp_path / "kept"))
    assert (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), os.getcwd()) == before
    assert _figures(table, "good") == alone
    assert _figures(table, codec.name) == alone
    errors = capsys.readouterr().err
    assert errors.count(f"codec '{codec.name}'") == bool(told)
    assert told in errors
    again = _measure(
        [codec(), Good()], dataset, progress=False, store=RowStore(tmp_path / "rows.jsonl", ["psnr"], "cpu")
    )
    assert _figures(again, codec.name) == _figures(again, "good") == alone


@pytest.mark.parametrize(
    ("method", "result", "message"),
    [
        ("encode", None, "encode returned None; it must be an Encoded"),
        ("encode", b"bytes", "encode returned a bytes"),
        ("encode", Encoded([], ()), "no string at all"),
        ("encode", Encoded(b"bytes", ()), "encode returned"),
        ("encode", Encoded([[1]], ()), "not bytes"),
        ("decode", None, r"shape \(3, 12, 16\) to None; it must be a tensor or array of uint8"),
        ("decode", np.zeros((3, 12, 16)), "to numpy.ndarray of float64 and shape"),
        ("decode", np.zeros((12, 16, 3), np.uint8), r"numpy.ndarray of uint8 and shape \(12, 16, 3\)"),
        ("decode", torch.zeros(1, 3, 12, 16, dtype=torch.uint8), r"torch.Tensor of torch.uint8 and shape \(1, 3"),
        ("decode", "text", "to a str"),
    ],
)
def test_results_of_another_kind_are_named(dataset, monkeypatch, method, result, message):
    codec = Good()
    monkeypatch.setattr(codec, method, lambda *args: result)
    with pytest.raises(CodecError, match=f"good quality 1.*{message}"):
        Coder().code(codec, 1, dataset[0])


def test_a_decoded_view_of_a_parameter_is_a_plain_picture(dataset, monkeypatch):
    codec = Good()
    monkeypatch.setattr(codec, "decode", lambda *args: torch.zeros(1, dtype=torch.uint8).expand(3, 12, 16))
    assert Coder().code(codec, 1, dataset[0]).decoded.is_contiguous()


def test_unreadable_pictures_cost_nothing_but_themselves(dataset, tmp_path, capsys):
    (tmp_path / "set/b.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"b\.png"):
        _measure([Good()], dataset, progress=False)
    unreadable = {}
    table = _measure([Good()], dataset, progress=False, unreadable=unreadable)
    assert table["image"].tolist() == ["a", "c"] * 2
    assert list(unreadable) == ["b"]
    assert "left out: " in capsys.readouterr().err
    assert dataset.without(unreadable).image_names == ("a", "c")


def test_real_qualities_stay_what_they_are(dataset, tmp_path):
    class Real(Good):
        name, qualities = "real", (0.25, 0.5)

    kept = KeptPictures(tmp_path / "kept")
    table = _measure([Real(), Good()], dataset, progress=False, pictures=kept)
    assert [repr(quality) for quality in table["quality"].unique()] == ["0.25", "0.5", "1", "2"]
    assert (tmp_path / "kept/real-q0.25/a.png").is_file()


def test_no_two_codings_share_a_folder(dataset, tmp_path):
    codings = [(name, 1) for name in ("good x", "good_x", "Good_X")]
    kept = KeptPictures(tmp_path / "kept", codings=codings)
    assert len({str(kept.path(codec, quality, "a")).casefold() for codec, quality in codings}) == 3
