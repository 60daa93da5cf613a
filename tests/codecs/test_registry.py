import sys
from dataclasses import replace

import pytest
import torch

from compressai_gen import manifest
from compressai_gen.codecs import (
    CLASSICAL_CODECS,
    LearnedCodec,
    available_codecs,
    check_qualities,
    decoder_reference,
    find_codec,
    registry,
)
from compressai_gen.entropy.container import quality_of
from compressai_gen.errors import BitstreamError, CodecError, CompressaiGenError
from compressai_gen.specs import own_specs

PLUGIN = """
import torch
from compressai_gen.codecs import Encoded
from compressai_gen.errors import BitstreamError

class Grey:
    name = "anything"
    qualities = (1, 2)
    def encode(self, image, quality):
        if quality == 2:
            raise RuntimeError("out of paint")
        return Encoded([b"g"], tuple(image.shape))
    def decode(self, encoded, quality=None):
        if encoded.strings != [b"g"]:
            raise BitstreamError("not grey")
        return torch.full(encoded.shape, 128, dtype=torch.uint8)

class NoDecoder:
    name, qualities = "x", (1,)
    def encode(self, image, quality): ...

def broken():
    raise ZeroDivisionError("plugin bug")
"""


@pytest.fixture(autouse=True)
def fake_zoo(monkeypatch):
    models = {name: replace(spec, qualities=(1, 2, 3)) for name, spec in own_specs().items()}
    monkeypatch.setattr(registry, "our_models", lambda: models)


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """A package with entry points, as pip would have installed it."""
    (tmp_path / "paintbox.py").write_text(PLUGIN)
    info = tmp_path / "paintbox-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: paintbox\nVersion: 1.2\n")
    entries = {"grey": "Grey", "halved": "NoDecoder", "broken": "broken", "absent": "gone", "jpeg": "Grey"}
    lines = [f"{name} = paintbox:{target}" for name, target in entries.items()]
    lines.append("unimportable = no_such_module:Codec")
    (info / "entry_points.txt").write_text("[compressai_gen.codecs]\n" + "\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("paintbox", None)


def test_classical_and_ours_are_found():
    assert find_codec("avif") is CLASSICAL_CODECS["avif"]
    codec = find_codec("cgdm")
    assert isinstance(codec, LearnedCodec)
    assert (codec.name, codec.qualities) == ("cgdm", (1, 2, 3))


@pytest.mark.parametrize(("name", "close"), [("cdgm", "cgdm"), ("AVIF", "avif"), ("mridc2", "mridc")])
def test_unknown_codec_gets_a_hint_and_the_list(name, close):
    with pytest.raises(CodecError, match=rf"Did you mean '{close}'.*cgdm, mridc, jpeg, jpeg2000, webp"):
        find_codec(name)


def test_unknown_codec_unlike_any_other():
    with pytest.raises(CodecError, match=r"unknown codec 'zzzzzz'\. Available"):
        find_codec("zzzzzz")


class _Recorder(torch.nn.Module):
    def compress(self, x, **options):
        self.encoded = options
        return {"strings": [[b"x"]], "shape": x.shape[2:]}

    def decompress(self, strings, shape, **options):
        self.decoded = options
        return {"x_hat": torch.zeros(1, 3, *shape)}


def test_options_of_ours_reach_encoder_and_decoder(monkeypatch):
    model = _Recorder()
    monkeypatch.setattr(registry, "_zoo_codec", lambda *args: LearnedCodec("cgdm", (1,), lambda q: model, version="1"))
    codec = find_codec("cgdm:online_steps=5,steps=4,consistency=False")
    codec.decode(codec.encode(torch.zeros(3, 8, 8, dtype=torch.uint8), 1))
    assert model.encoded == {"online_steps": 5}
    assert model.decoded == {"steps": 4, "consistency": False}
    assert codec.name == "cgdm:online_steps=5,steps=4,consistency=False"
    assert codec.version != find_codec("cgdm").version
    find_codec("mridc:masking=random").encode(torch.zeros(3, 8, 8, dtype=torch.uint8), 1)
    assert model.encoded == {"masking": "random"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cgdm:", "written option=value, not ''"),
        (
            "cgdm:speed=3",
            r"'cgdm:speed=3': cgdm has no option 'speed'; it has online_steps, steps, seed, tile",
        ),
        ("cgdm:prediction=False", "cgdm has no option 'prediction'"),
        ("cgdm:masking=grid", "cgdm has no option 'masking'"),
        ("mridc:syntax=False", "mridc has no option 'syntax'"),
        ("mridc:online_steps=3", "mridc has no option 'online_steps'; it has masking, steps"),
        ("mridc:importance=3", "mridc has no option 'importance'"),
        ("mridc:masking=even", "masking is one of map, random, grid, not 'even'"),
        ("cgdm:steps", "written option=value, not 'steps'"),
        ("cgdm:steps=many", "steps is a whole number, not 'many'"),
        ("cgdm:online_steps=many", "online_steps is a whole number"),
        ("cgdm:online_steps=-1", "online_steps is a number from 0 up"),
        ("cgdm:syntax=off", "syntax is True or False, not 'off'"),
        ("cgdm.v99", r"cgdm has no weights 'cgdm\.v99'"),
        ("cgdm:steps=3", "steps is 0"),
        ("avif:steps=0", r"avif has no options; only these models have: cgdm, mridc"),
        ("cdgm:steps=0", "Did you mean 'cgdm'"),
    ],
)
def test_wrong_options_are_told(name, message):
    with pytest.raises(CompressaiGenError, match=message):
        find_codec(name)


def test_coding_part_is_stated_with_options_too():
    fingerprint = manifest.entry_of("cgdm")["fingerprint"]
    assert decoder_reference(find_codec("cgdm:steps=0")) == {"name": "cgdm:steps=0", "weights": fingerprint}


def test_qualities_are_checked_and_ordered():
    assert check_qualities(find_codec("cgdm"), [3, 1]) == (1, 3)
    with pytest.raises(CodecError, match=r"jpeg2000 has no quality 7, 9; it has 480"):
        check_qualities(find_codec("jpeg2000"), [9, 7])
    with pytest.raises(CodecError, match=r"jpeg2000 has no quality 2\.5"):
        check_qualities(find_codec("jpeg2000"), [2.5])


def test_models_have_the_qualities_between_their_whole_ones():
    for name in ("cgdm", "mridc", "cgdm:steps=0"):
        assert check_qualities(find_codec(name), [1.25, 1, 2, 1.25]) == (1, 1.25, 2)
    for quality, message in ((9, "qualities 1 to 3, not 9"), (1.7, r"take 1\.6875 or"), (float("nan"), "not nan")):
        with pytest.raises(CodecError, match=message):
            check_qualities(find_codec("mridc"), [quality])


def test_a_quality_in_between_is_what_is_coded(photograph):
    codec = find_codec("mridc")
    image = (255 * photograph(64, 64)[0]).round().to(torch.uint8)
    encoded = codec.encode(image, 1.5)
    assert quality_of(encoded.strings[0]) == 1.5
    assert codec.decode(encoded, 1.5).shape == image.shape


def test_third_party_codec_runs(third_party):
    assert {"grey", "broken"} <= set(available_codecs())
    codec = find_codec("grey")
    image = torch.zeros(3, 4, 5, dtype=torch.uint8)
    encoded = codec.encode(image, 1)
    assert codec.name == "grey"  # the name the user typed
    assert codec.qualities == (1, 2)
    assert encoded.n_bytes == 1
    assert (codec.decode(encoded, 1) == 128).all()


def test_plugins_are_not_imported_before_they_are_used(third_party):
    available_codecs()
    find_codec("webp")
    assert "paintbox" not in sys.modules


def test_ours_wins_over_a_plugin_of_the_same_name(third_party):
    assert find_codec("jpeg") is CLASSICAL_CODECS["jpeg"]
    assert available_codecs().count("jpeg") == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("halved", "lacks decode"),
        ("broken", "ZeroDivisionError: plugin bug"),
        ("absent", "AttributeError"),
        ("unimportable", "no_such_module"),
    ],
)
def test_broken_plugin_names_its_package(third_party, name, reason):
    with pytest.raises(CodecError, match=f"'{name}' of package paintbox 1.2.*{reason}"):
        find_codec(name)


def test_plugin_failure_while_coding_names_its_package(third_party):
    codec = find_codec("grey")
    image = torch.zeros(3, 4, 5, dtype=torch.uint8)
    with pytest.raises(CodecError, match=r"paintbox 1.2.*out of paint"):
        codec.encode(image, 2)
    encoded = codec.encode(image, 1)
    with pytest.raises(BitstreamError, match="not grey"):  # our own errors pass unchanged
        codec.decode(type(encoded)([b"x"], encoded.shape))


MISBEHAVING = """
import sys
import numpy as np
from compressai_gen.codecs import Encoded

class Real:
    name = "x"
    qualities = np.array([0.25, 0.5, 0.75])
    def encode(self, image, quality):
        sys.exit(0)
    def decode(self, encoded, quality=None):
        class Own(BaseException):
            pass
        raise Own("mine")

def ends():
    sys.exit(0)

def made(qualities):
    codec = Real()
    codec.qualities = qualities
    return lambda: codec

empty, twice, words, truth, none, endless = map(made, ((), (1, 2, 1.0), ("low",), (True,), None, (float("inf"),)))

class Raising:
    name, encode, decode = "x", None, None
    @property
    def qualities(self):
        raise OSError("no disk")
"""


@pytest.fixture
def misbehaving(tmp_path, monkeypatch):
    (tmp_path / "mischief.py").write_text(MISBEHAVING)
    info = tmp_path / "mischief-2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mischief\nVersion: 2\n")
    names = ("Real", "ends", "empty", "twice", "words", "truth", "none", "endless", "Raising")
    (info / "entry_points.txt").write_text(
        "[compressai_gen.codecs]\n# ours\n" + "\n".join(f"{name} = mischief:{name}" for name in names) + "\nno form\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("mischief", None)


def test_qualities_may_be_real_numbers(misbehaving):
    codec = find_codec("Real")
    assert codec.qualities == (0.25, 0.5, 0.75)
    assert {type(quality) for quality in codec.qualities} == {float}
    assert check_qualities(codec, [0.75, 0.25]) == (0.25, 0.75)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty", "has no qualities"),
        ("twice", "must differ: 1, 2, 1.0"),
        ("words", "real numbers, not 'low'"),
        ("truth", "real numbers, not True"),
        ("none", "TypeError"),
        ("endless", "real numbers, not inf"),
        ("Raising", "OSError: no disk"),
        ("ends", "SystemExit: 0"),
    ],
)
def test_impossible_codecs_are_refused_when_they_are_loaded(misbehaving, name, reason):
    with pytest.raises(CodecError, match=rf"codec '{name}' of package mischief 2 failed: .*{reason}"):
        find_codec(name)


def test_a_codec_cannot_end_the_process(misbehaving):
    codec = find_codec("Real")
    with pytest.raises(CodecError, match="mischief 2 failed: SystemExit: 0"):
        codec.encode(torch.zeros(3, 4, 5, dtype=torch.uint8), 0.25)
    with pytest.raises(CodecError, match="mischief 2 failed: Own: mine"):
        codec.decode(None)


BROKEN_METADATA = {
    "no section": b"grey = paintbox:Grey\n[[[\n",
    "no text": b"\xff\xfe[compressai_gen.codecs]\nx\n",
    "no value": b"[compressai_gen.codecs]\nnothing\n = empty\nspoilt =\n",
    "other groups": b"[console_scripts]\nrun\n[compressai_gen.other]\nx = y\n",
    "a folder": None,
}


@pytest.mark.parametrize("kind", BROKEN_METADATA)
def test_damaged_metadata_of_another_package_harm_nobody(third_party, tmp_path, kind):
    info = tmp_path / "aaa_broken-1.dist-info"
    info.mkdir()
    if BROKEN_METADATA[kind] is None:
        (info / "entry_points.txt").mkdir()
    else:
        (info / "entry_points.txt").write_bytes(BROKEN_METADATA[kind])
    assert find_codec("grey").package == "paintbox 1.2"
    with pytest.raises(CodecError, match="Did you mean"):
        find_codec("gray")
    assert "nothing" not in available_codecs()
