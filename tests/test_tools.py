"""CompressAI's own tools run on the models, unmodified."""

import json
import sys

import pytest
import torch

from compressai_gen import tools, zoo
from compressai_gen.data import write_image


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a tool in this process: a fresh one takes ten seconds to import all that CompressAI imports."""
    threads = torch.get_num_threads()  # eval_model sets them when it is imported
    monkeypatch.setattr(sys, "argv", [])

    def run(*argv):
        capsys.readouterr()
        assert tools.main([str(arg) for arg in argv]) == 0
        return json.loads(capsys.readouterr().out)

    yield run
    torch.set_num_threads(threads)


@pytest.fixture
def folder(tmp_path, photograph):
    (tmp_path / "pictures").mkdir()
    write_image((photograph(192, 256)[0] * 255).round().byte(), tmp_path / "pictures" / "x.png")
    return tmp_path / "pictures"


def _assert_sane(report, name, bpp):
    assert report["name"] == name
    results = report["results"]
    assert len(results["bpp"]) == len(bpp)
    for value, (low, high) in zip(results["bpp"], bpp, strict=True):
        assert low < value < high
    assert all(15 < value < 40 for value in results["psnr-rgb"])
    assert all(0.3 < value < 1 for value in results["ms-ssim-rgb"])


def test_eval_model_runs_the_pretrained_cgdm(folder, run):
    argv = ["eval_model", "pretrained", folder, "-a", "cgdm", "-q", "1,5"]
    real, estimated = run(*argv), run(*argv, "--entropy-estimation")
    _assert_sane(real, "cgdm-mse", [(0.01, 0.5), (0.1, 2)])
    _assert_sane(estimated, "cgdm-mse", [(0.01, 0.5), (0.1, 2)])
    assert estimated["results"]["bpp"] == pytest.approx(real["results"]["bpp"], rel=0.02, abs=64 / (192 * 256))
    assert real["results"]["bpp"][0] < real["results"]["bpp"][1]


@pytest.mark.parametrize(("name", "bounds"), [("cgdm", (0.01, 0.5)), ("mridc", (0.005, 0.1))])
def test_eval_model_runs_a_checkpoint_whatever_its_networks_are(name, bounds, folder, tmp_path, run):
    torch.save(zoo.load(name, quality=2).state_dict(), tmp_path / "trained.pth.tar")
    argv = ["eval_model", "checkpoint", folder, "-a", name, "-p", tmp_path / "trained.pth.tar"]
    real, estimated = run(*argv), run(*argv, "--entropy-estimation")
    _assert_sane(real, f"{name}-mse", [bounds])
    _assert_sane(estimated, f"{name}-mse", [bounds])
    assert estimated["results"]["bpp"] == pytest.approx(real["results"]["bpp"], rel=0.02, abs=64 / (192 * 256))


@pytest.mark.parametrize("argv", [[], ["no_such_tool"], ["--help"]])
def test_unknown_tool_prints_the_usage(argv, capsys):
    assert tools.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("usage: ")
    assert "eval_model" in error
