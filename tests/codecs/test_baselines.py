"""Learned baselines with random weights: the published ones need a network."""

import io
import re
import urllib.error
from email.message import Message
from pathlib import Path

import compressai.zoo
import pandas as pd
import pytest
import torch
from compressai.models import FactorizedPrior, MeanScaleHyperprior

from compressai_gen.codecs import PUBLISHED_MODELS, Encoded, checkpoint_codec, find_codec
from compressai_gen.codecs.hific import HiFiC
from compressai_gen.data import load_dataset, write_image
from compressai_gen.errors import BitstreamError, CodecError
from compressai_gen.eval import cli


@pytest.fixture(scope="module")
def picture():
    return load_dataset("samples", limit=1)[0][:, 60:157, 100:230].contiguous()  # 97x130, no multiple of anything


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    """An empty TORCH_HOME without a network; returns the folder of its files."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", _offline)
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


def _offline(*args, **kwargs):
    raise urllib.error.URLError("no network")


def _saved(model, path, wrap=lambda state: state):
    torch.save(wrap(model.state_dict()), path)
    return path


def _narrow_hific():
    torch.manual_seed(0)
    return HiFiC(N=6, M=4, widths=(4, 6, 8, 10, 12), blocks=1)


def test_names_are_those_of_compressais_zoo_and_msillm():
    assert {"bmshj2018-factorized", "mbt2018-mean", "mbt2018", "cheng2020-attn"} < set(PUBLISHED_MODELS)
    assert set(PUBLISHED_MODELS) - {"msillm"} < set(compressai.zoo.image_models)
    assert not {"cgdm", "mridc"} & set(PUBLISHED_MODELS)
    assert find_codec("mbt2018").qualities == tuple(range(1, 9))
    assert find_codec("cheng2020-anchor").qualities == find_codec("msillm").qualities == tuple(range(1, 7))


@pytest.mark.parametrize(("name", "n_strings"), [("bmshj2018-factorized", 1), ("mbt2018-mean", 2)])
def test_checkpoint_of_compressai(name, n_strings, picture, tmp_path):
    torch.manual_seed(0)
    model = {"bmshj2018-factorized": FactorizedPrior, "mbt2018-mean": MeanScaleHyperprior}[name](8, 12)
    path = _saved(model, tmp_path / "mine.pth.tar", lambda state: {"epoch": 3, "state_dict": state})
    codec = checkpoint_codec(name, [path])
    encoded = codec.encode(picture, 1)
    assert codec.name == f"{name}:mine.pth"
    assert codec.qualities == (1,)
    assert len(encoded.strings) == n_strings
    assert encoded.n_bytes == sum(map(len, encoded.strings)) > 10
    decoded = codec.decode(encoded)
    assert decoded.shape == picture.shape

    model.eval().update()  # by hand: what CompressAI itself decodes from its own bytes
    multiple = model.downsampling_factor
    padding = (0, -picture.shape[2] % multiple, 0, -picture.shape[1] % multiple)
    x = torch.nn.functional.pad(picture[None] / 255, padding, mode="replicate")
    with torch.no_grad():
        out = model.compress(x)
        expected = model.decompress(out["strings"], out["shape"])["x_hat"][0, :, : picture.shape[1], : picture.shape[2]]
    assert [strings[0] for strings in out["strings"]] == encoded.strings
    assert ((expected.clamp(0, 1) * 255).round().int() - decoded.int()).abs().max() <= 1

    # Others' streams: whatever they hold, nothing outside them is read, and no latent is larger than the picture's.
    short = Encoded([string[:4] for string in encoded.strings], encoded.shape)
    assert codec.decode(short).shape == picture.shape
    size, (rows, columns) = encoded.shape
    with pytest.raises(BitstreamError, match="latent"):
        codec.decode(Encoded(encoded.strings, (size, (rows * 64, columns))))


def test_checkpoints_on_the_command_line(picture, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    write_image(picture, tmp_path / "pictures/a.png")
    low, high = (_saved(_narrow_hific(), tmp_path / f"{name}.pt") for name in ("low", "high"))
    factorized = _saved(FactorizedPrior(8, 12), tmp_path / "low.pth")
    argv = ["--models", "--dataset", "pictures", "--metrics", "psnr", "--checkpoint", "hific", str(low), str(high)]
    assert cli.main([*argv, "--checkpoint", "bmshj2018-factorized", str(factorized)]) == 0
    summary = pd.read_csv("results/pictures/summary.csv")
    rows = summary[["codec", "quality"]].to_numpy().tolist()
    assert rows == [["hific:low", 1], ["hific:low", 2], ["bmshj2018-factorized:low", 1]]
    assert (summary["bpp"] > 0).all()

    for wrong, reason in [
        (["hific"], "names no file"),
        (["hific", str(low)], "two codecs would be called hific:low"),
        (["vgg", str(low)], "unknown architecture 'vgg'; known: .*mbt2018.*hific"),
        (["hific", "gone.pt"], "gone.pt"),
    ]:
        capsys.readouterr()
        assert cli.main([*argv, "--checkpoint", *wrong]) == 2
        assert re.search(reason, capsys.readouterr().err)


class _Bomb:
    def __reduce__(self):
        return Path.touch, (Path("bomb"),)


def test_checkpoint_cannot_run_code(picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "args": _Bomb()}, "evil.pth")
    with pytest.raises(CodecError, match="tensors alone"):
        checkpoint_codec("hific", [Path("evil.pth")]).encode(picture, 1)
    assert not Path("bomb").exists()


def test_checkpoint_of_another_architecture(picture, tmp_path):
    path = _saved(_narrow_hific(), tmp_path / "hific.pt")
    with pytest.raises(CodecError, match="does not hold weights of mbt2018"):
        checkpoint_codec("mbt2018", [path]).encode(picture, 1)
    torch.save([1, 2], path)
    with pytest.raises(CodecError, match="no state of a model"):
        checkpoint_codec("hific", [path]).encode(picture, 1)


def test_published_weights_are_found_or_asked_for(picture, torch_home, capsys):
    name = "bmshj2018-factorized-prior-1-446d5c7f.pth.tar"
    with pytest.raises(CodecError, match=rf"bmshj2018-factorized quality 1 needs.*{name}.*TORCH_HOME"):
        find_codec("bmshj2018-factorized").encode(picture, 1)
    assert list(torch_home.iterdir()) == []
    _saved(FactorizedPrior(8, 12), torch_home / name)
    codec = find_codec("bmshj2018-factorized")
    assert codec.decode(codec.encode(picture, 1), 1).shape == picture.shape


def test_a_damaged_download_is_refused(picture, torch_home, monkeypatch):
    class Response(io.BytesIO):
        def info(self):
            return Message()

    monkeypatch.setattr(torch.hub, "urlopen", lambda *args, **kwargs: Response(b"garbage"))
    with pytest.raises(CodecError, match="invalid hash"):
        find_codec("bmshj2018-hyperprior").encode(picture, 1)
    assert list(torch_home.iterdir()) == []


def test_msillm_shows_its_licence_before_a_download(picture, torch_home, capsys):
    with pytest.raises(CodecError, match=r"msillm quality 2 needs the weights msillm_target_0\.07bpp\.ckpt"):
        find_codec("msillm").encode(picture, 2)
    assert "CC-BY-NC 4.0" in capsys.readouterr().err
    _saved(_narrow_hific(), torch_home / "msillm_target_0.07bpp.ckpt")
    codec = find_codec("msillm")
    assert codec.decode(codec.encode(picture, 2), 2).shape == picture.shape
    assert "CC-BY-NC" not in capsys.readouterr().err
