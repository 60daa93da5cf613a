import weakref

import pytest
import torch

from compressai_gen.codecs import CLASSICAL_CODECS, Encoded
from compressai_gen.data import ImageDataset, load_dataset, read_image, write_image
from compressai_gen.errors import CodecError
from compressai_gen.eval.pictures import KeptPictures
from compressai_gen.eval.runner import Job, measure
from compressai_gen.metrics import ReferenceMetrics


class Halving:
    """Keeps the upper bits of the first pixel; `calls` is a log."""

    name = "halving"
    qualities = (1, 2)

    def __init__(self):
        self.calls = []

    def encode(self, image, quality):
        self.calls.append(("encode", quality))
        return Encoded([bytes([quality, int(image[0, 0, 0])]), b"x"], tuple(image.shape))

    def decode(self, encoded, quality=None):
        self.calls.append(("decode", quality))
        return torch.full(encoded.shape, encoded.strings[0][1], dtype=torch.uint8)


@pytest.fixture
def dataset(tmp_path):
    for index, size in enumerate([(4, 6), (3, 5)]):
        write_image(torch.full((3, *size), 50 * index, dtype=torch.uint8), tmp_path / f"{index}.png")
    return load_dataset(tmp_path)


def _measure(jobs, dataset, **kwargs):
    return measure(jobs, dataset, ReferenceMetrics(["psnr"]), progress=False, **kwargs)


def test_rows_and_bits(dataset):
    table = _measure([Job(CLASSICAL_CODECS["webp"], (1, 20)), Job(Halving(), (2,))], dataset)
    assert table[["codec", "quality", "image"]].to_numpy().tolist() == [
        [codec, quality, image] for codec, quality in (("webp", 1), ("webp", 20), ("halving", 2)) for image in "01"
    ]
    assert table["bpp"].iloc[-2:].tolist() == [8 * 3 / 24, 8 * 3 / 15]  # both strings, unpadded size
    assert (table[["encode_s", "decode_s"]] > 0).all(axis=None)


def test_one_warm_up_for_each_codec_and_quality(dataset):
    codec = Halving()
    _measure([Job(codec, (1, 2))], dataset)
    assert codec.calls.count(("encode", 1)) == codec.calls.count(("decode", 1)) == 1 + len(dataset)
    assert codec.calls[:4] == [("encode", 1), ("decode", 1)] * 2


def test_original_is_prepared_once_per_image(dataset):
    metrics = ReferenceMetrics(["psnr"])
    prepared = []
    prepare = metrics.metrics["psnr"].prepare
    metrics.metrics["psnr"].prepare = lambda image: prepared.append(image.shape) or prepare(image)
    measure([Job(Halving(), (1, 2)), Job(CLASSICAL_CODECS["jpeg"], (5, 30))], dataset, metrics, progress=False)
    assert prepared == [(3, 4, 6), (3, 3, 5)]


def test_one_picture_at_a_time(dataset, monkeypatch):
    alive, most = [], []

    def count(self, on_unreadable=None):
        for name, path in zip(self.image_names, self.paths, strict=True):
            image = read_image(path)
            alive.append(weakref.ref(image))
            yield name, image
            del image

    class Counting(Halving):
        def encode(self, image, quality):
            most.append(sum(reference() is not None for reference in alive))
            return super().encode(image, quality)

    monkeypatch.setattr(ImageDataset, "each", count)
    _measure([Job(Counting(), (1, 2))], dataset)
    assert max(most) == 1


def test_kept_pictures_are_what_was_measured(dataset, tmp_path):
    folder = tmp_path / "out"
    _measure([Job(Halving(), (2,))], dataset, pictures=KeptPictures(folder))
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png")) == [
        "halving-q2/0.png",
        "halving-q2/1.png",
    ]
    assert torch.equal(read_image(folder / "halving-q2/1.png"), torch.full((3, 3, 5), 50, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("method", "result", "message"),
    [
        ("encode", Encoded(["text"], (3, 4, 6)), "not bytes"),
        ("decode", torch.zeros(3, 8, 8, dtype=torch.uint8), "same shape"),
        ("decode", torch.zeros(3, 4, 6), "uint8"),
    ],
)
def test_codec_that_breaks_the_contract(dataset, method, result, message, monkeypatch):
    codec = Halving()
    monkeypatch.setattr(codec, method, lambda *args: result)
    monkeypatch.setattr(codec, "decode", codec.decode if method == "decode" else lambda *args: None)
    with pytest.raises(CodecError, match=message):
        _measure([Job(codec, (1,))], dataset)
