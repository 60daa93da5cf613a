"""Codecs of other packages by entry points: those that work, and those that cannot."""

import sys

import pytest

from compressai_gen import specs
from compressai_gen.cgen import CgenFile
from compressai_gen.cli import main
from compressai_gen.codecs import find_codec
from compressai_gen.errors import BitstreamError, CodecError
from compressai_gen.manifest import tags
from compressai_gen.specs import CodecSpec

MODULE = """
from compressai_gen.specs import CodecSpec
def spec(**fields):
    return CodecSpec(**{"model": "thirdparty:Model", "summary": "of others"} | fields)
GOOD = spec(name="good", byte=0x11)
BYTE = spec(name="byte", byte=0xC2)
NAME = spec(name="cgdm", byte=0x12)
SAME = spec(name="same", byte=0x11)
"""


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """A package with entry points, as pip would have installed it."""
    (tmp_path / "thirdparty.py").write_text(MODULE)
    info = tmp_path / "thirdparty-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1.2\n")
    lines = [f"{name.lower()} = thirdparty:{name}" for name in ("GOOD", "BYTE", "NAME", "SAME", "MODULE", "GONE")]
    lines.append("unimportable = no_such_module:SPEC")
    (info / "entry_points.txt").write_text("[compressai_gen.models]\n" + "\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    specs._others.cache_clear()
    yield
    specs._others.cache_clear()
    sys.modules.pop("thirdparty", None)


def test_a_spec_of_another_package_is_found(third_party):
    assert list(specs.specs()) == ["cgdm", "mridc", "good"]
    assert specs.find_spec("good").package == "thirdparty 1.2"
    assert specs.spec_of_byte(0x11).name == "good"
    assert specs.spec_of_byte(0xC2).name == "cgdm"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("byte", "first byte 0xC2 of its streams is taken by cgdm of package compressai-gen"),
        ("name", "its name 'cgdm' is taken by package compressai-gen: uninstall one of them"),
        ("same", "first byte 0x11 of its streams is taken by good of package thirdparty 1.2"),
        ("gone", "AttributeError"),
        ("unimportable", "codec 'unimportable' of package thirdparty 1.2 cannot be used: ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_used_is_told_in_a_line_and_hinders_nothing_else(third_party, name, message):
    assert specs.own_specs()["cgdm"] is specs.find_spec("cgdm")
    assert message in specs.problems()[name]
    assert "\n" not in specs.problems()[name]
    with pytest.raises(CodecError, match="cannot be used"):
        find_codec(name)
    with pytest.raises(CodecError, match="cannot be used"):
        specs.find_spec(name)


def test_the_list_of_models_tells_of_them(third_party, capsys):
    assert main(["models"]) == 0
    out, err = capsys.readouterr()
    assert tags("cgdm")[-1] in out
    assert err.count("warning: codec '") == 6


def test_a_class_that_cannot_be_imported_is_told(third_party):
    with pytest.raises(CodecError, match="thirdparty:Model cannot be imported"):
        specs.find_spec("good").load()


def test_a_stream_of_a_codec_that_is_not_here_is_told():
    data = CgenFile(bytes(4), (8, 8), b"\x77" * 9).to_bytes()
    with pytest.raises(BitstreamError, match="the stream is of no codec that is here"):
        CgenFile.from_bytes(data)


@pytest.mark.parametrize("fields", [{"name": "My Codec"}, {"name": "a.b"}, {"byte": 256}, {"byte": "x"}])
def test_impossible_names_and_bytes_are_refused(fields):
    with pytest.raises(CodecError, match=r"the name of a codec|a number from 0 to 255"):
        CodecSpec(**{"name": "fine", "byte": 1, "model": "a:B", "summary": ""} | fields)
