import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch
from PIL import features

from compressai_gen.codecs import CLASSICAL_CODECS, Codec, Encoded, PillowCodec
from compressai_gen.data import load_dataset
from compressai_gen.errors import BitstreamError, CodecError
from compressai_gen.metrics import ReferenceMetrics

DATA_ROOT = os.environ.get("COMPRESSAI_GEN_DATA", "unset")
needs_kodak = pytest.mark.skipif(
    not (Path(DATA_ROOT) / "kodak").is_dir(), reason="COMPRESSAI_GEN_DATA has no folder kodak"
)
needs_jxl = pytest.mark.skipif(not importlib.util.find_spec("pillow_jxl"), reason="pillow-jxl-plugin is not installed")
codecs = pytest.mark.parametrize(
    "codec",
    [pytest.param(codec, id=name, marks=[needs_jxl] * (name == "jxl")) for name, codec in CLASSICAL_CODECS.items()],
)


@pytest.fixture(scope="module")
def photograph():
    return load_dataset("samples", limit=1)[0][:, :128, 100:260]


@codecs
def test_is_a_codec(codec):
    assert isinstance(codec, Codec)
    assert CLASSICAL_CODECS[codec.name] is codec


@codecs
def test_rate_and_quality_grow_along_the_ladder(codec, photograph):
    metrics = ReferenceMetrics(["psnr"])
    metrics.set_original(photograph)
    points = []
    for quality in codec.qualities:
        encoded = codec.encode(photograph, quality)
        points.append((encoded.n_bytes, metrics.measure(codec.decode(encoded))["psnr"]))
    assert points == sorted(points)
    assert len({psnr for _, psnr in points}) == len(points)


@codecs
@pytest.mark.parametrize("size", [(1, 1), (1, 30), (17, 3)])
def test_any_size_survives(codec, size):
    image = torch.full((3, *size), 128, dtype=torch.uint8)
    decoded = codec.decode(codec.encode(image, codec.qualities[-1]))
    assert decoded.dtype == torch.uint8
    assert decoded.shape == image.shape
    assert (decoded.int() - 128).abs().max() <= 4


@codecs
def test_string_is_the_file(codec, photograph):
    magic = {
        "jpeg": b"\xff\xd8", "jpeg2000": b"\xff\x4f", "webp": b"RIFF", "avif": b"\0\0\0", "jxl": b"\xff\x0a"
    }  # fmt: skip
    encoded = codec.encode(photograph, codec.qualities[0])
    assert len(encoded.strings) == 1
    assert encoded.strings[0].startswith(magic[codec.name])
    assert encoded.n_bytes == len(encoded.strings[0])


@codecs
@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"x" + data])
def test_damaged_stream(codec, photograph, damage):
    data = codec.encode(photograph, codec.qualities[-1]).strings[0]
    with pytest.raises(BitstreamError, match=codec.name):
        codec.decode(Encoded([damage(data)]))


def test_too_large_for_the_format():
    with pytest.raises(CodecError, match="webp"):
        CLASSICAL_CODECS["webp"].encode(torch.zeros(3, 1, 16384, dtype=torch.uint8), 1)


def test_quality_of_jpeg2000_is_the_ratio(photograph):
    codec = CLASSICAL_CODECS["jpeg2000"]
    assert codec.encode(photograph, 60).n_bytes == pytest.approx(photograph.numel() / 60, rel=0.05)


def test_missing_plugin_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)  # as if it were not installed
    with pytest.raises(CodecError, match="pip install pillow-jxl-plugin"):
        CLASSICAL_CODECS["jxl"].require()


def test_pillow_without_a_format(monkeypatch):
    monkeypatch.setattr(features, "check", lambda feature: feature != "avif")
    CLASSICAL_CODECS["jpeg2000"].require()
    with pytest.raises(CodecError, match="without avif"):
        CLASSICAL_CODECS["avif"].require()


def _kodak_means(codec):
    (quality,), metrics = codec.qualities, ReferenceMetrics(["psnr"])
    rates, values = [], []
    for _, image in load_dataset("kodak", DATA_ROOT):
        encoded = codec.encode(image, quality)
        metrics.set_original(image)
        rates.append(8 * encoded.n_bytes / image[0].numel())
        values.append(metrics.measure(codec.decode(encoded))["psnr"])
    return sum(rates) / len(rates), sum(values) / len(values)


@needs_kodak
@pytest.mark.parametrize(
    ("name", "quality", "effort", "bpp", "psnr"),
    [
        ("webp", 1, {"method": 6}, 0.1545, 26.98),
        ("webp", 1, {"method": 4}, 0.1653, 27.18),
        ("avif", 15, {"speed": 6}, 0.1244, 27.29),
        pytest.param(
            *("avif", 15, {"speed": 3}, 0.1251, 27.61),
            marks=pytest.mark.skipif(not os.environ.get("COMPRESSAI_GEN_SLOW_TESTS"), reason="over a minute"),
        ),
    ],
)
def test_kodak_pins(name, quality, effort, bpp, psnr):
    options = {**CLASSICAL_CODECS[name].options, **effort}
    measured_bpp, measured_psnr = _kodak_means(PillowCodec(name, (quality,), options))
    # Versions of the encoders shift the values slightly; another effort shifts them by more than this.
    assert measured_bpp == pytest.approx(bpp, rel=0.01)
    assert measured_psnr == pytest.approx(psnr, abs=0.05)
