"""What would be refused is refused before anything is measured, and by the name of the file that was asked for."""

import pytest

from compressai_gen.codecs import CLASSICAL_CODECS
from compressai_gen.errors import CompressaiGenError, ImageError, SubmissionError
from compressai_gen.leaderboard import pack as module
from compressai_gen.leaderboard.pack import pack


@pytest.fixture(autouse=True)
def nothing_is_measured(monkeypatch):
    def measure(*_, **__):
        raise AssertionError("measured before it was refused")

    monkeypatch.setattr(module, "measure", measure)


def _pack(pictures, card, output, **more):
    pack(**({"name": "jpeg", "dataset": str(pictures), "metrics": ["psnr"]} | more), card=card, output=output)


def test_qualities_that_are_fractions(pictures, card, tmp_path, monkeypatch):
    class Real:
        name, qualities = "real", (0.25, 0.5)
        encode = decode = CLASSICAL_CODECS["jpeg"].encode

    monkeypatch.setattr(module, "find_codec", lambda name, device: Real())
    with pytest.raises(SubmissionError, match=r"whole numbers, unlike 0\.25"):
        _pack(pictures, card, tmp_path / "real.cgensub")


def test_an_unreadable_picture(pictures, card, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/bad.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"bad\.png"):
        _pack(tmp_path / "set", card, tmp_path / "jpeg.cgensub")


def test_a_place_that_cannot_be_written(pictures, card, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CompressaiGenError, match=r"cannot write .*file/jpeg\.cgensub"):
        _pack(pictures, card, tmp_path / "file/jpeg.cgensub")
