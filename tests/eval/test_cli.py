import json
import subprocess
import sys

import compressai.utils.plot.__main__ as compressai_plot
import pandas as pd
import pytest
import torch
from PIL import Image

from compressai_gen.codecs import LearnedCodec, PillowCodec, registry
from compressai_gen.data import load_dataset, write_image
from compressai_gen.eval import cli
from compressai_gen.metrics import DEFAULT_METRICS


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Runs write below the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "our_models", dict)
    monkeypatch.setattr(cli, "our_models", dict)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def pictures(tmp_path):
    """Two photographs, just large enough for MS-SSIM."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for (name, image), left in zip(load_dataset("samples", limit=2), (100, 50), strict=True):
        write_image(image[:, 60:224, left : left + 170], folder / f"{name}.png")
    return folder


def _fails(capsys, *argv):
    """Run, expect the status of a user's error, and return its one line."""
    assert cli.main([str(arg) for arg in argv]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_all_files_of_a_run(pictures, tmp_path, capsys):
    argv = ["--models", "webp", "--qualities", "50", "1", "15", "--baselines", "avif", "--dataset", str(pictures)]
    argv += ["--metrics", "psnr", "ms_ssim", "--threads", "1", "--reconstructions"]
    assert cli.main(argv) == 0
    output = tmp_path / "results/pictures"
    files = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert {file for file in files if not file.startswith("reconstructions/")} == {
        "images.csv", "summary.csv", "intervals.csv", "bd_rate.csv", "webp.json", "avif.json", "environment.json",
        "rd_psnr.png", "rd_psnr.svg", "rd_psnr.pdf", "rd_ms_ssim.png", "rd_ms_ssim.svg", "rd_ms_ssim.pdf",
        "rd_overview.png", "rd_overview.svg", "rd_overview.pdf",
        "summary.md", "summary.tex", "bd_rate.md", "bd_rate.tex", ".rows.jsonl", ".written.json",
    }  # fmt: skip
    assert {f"reconstructions/webp-q{q}/{name}.png" for q in (1, 15, 50) for name in ("astronaut", "chelsea")} <= files

    images, summary = pd.read_csv(output / "images.csv"), pd.read_csv(output / "summary.csv")
    metrics = list(DEFAULT_METRICS)
    assert list(images) == ["codec", "quality", "image", "bpp", *metrics, "encode_s", "decode_s"]
    ends = ["encode_s", "decode_s", "n_images", "trained_on", "source"]
    assert list(summary) == ["codec", "quality", "bpp", *metrics, *ends]
    assert (summary["trained_on"] == "none").all()
    assert len(images) == 2 * len(summary)
    assert summary[summary["codec"] == "webp"]["quality"].tolist() == [1, 15, 50]
    assert (summary["source"] == "measured").all()
    deltas = pd.read_csv(output / "bd_rate.csv")
    assert list(deltas)[:5] == ["codec", "anchor", "metric", "bd_rate_percent", "overlap"]
    assert deltas[["codec", "anchor", "metric"]].to_numpy().tolist() == [
        ["webp", "avif", "psnr"],
        ["webp", "avif", "ms_ssim"],
    ]
    environment = json.loads((output / "environment.json").read_text())
    assert environment["threads"] == 1
    assert environment["dataset"] == {"name": "pictures", "images": 2, "images_of_whole_set": 2}
    assert environment["command"].startswith("python -m compressai_gen.eval --models webp")
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert environment["peak_memory_mib"] > 1
    printed = capsys.readouterr().out
    assert "webp" in printed
    assert str(output.relative_to(tmp_path)) in printed

    for metric in ("psnr", "ms-ssim"):
        plot = tmp_path / f"{metric}.png"
        results = [str(output / "webp.json"), str(output / "avif.json")]
        compressai_plot.main(["-f", *results, "-m", metric, "-o", str(plot)])
        assert Image.open(plot).size[0] > 100
    results = json.loads((output / "webp.json").read_text())["results"]
    assert results["psnr-rgb"] == pytest.approx(summary[summary["codec"] == "webp"]["psnr"], rel=1e-5)


CHANGES = {
    "nothing": lambda output: None,
    "a file removed": lambda output: (output / "rd_psnr.svg").unlink(),
    "a file changed": lambda output: (output / "summary.csv").write_text("codec\n"),
    "a file of somebody else's": lambda output: (output / "comparison.png").touch(),
    "the stamp damaged": lambda output: (output / ".written.json").write_text("{"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_second_run_writes_only_what_is_not_there(pictures, tmp_path, capsys, change):
    argv = ["--models", "webp", "--dataset", str(pictures), "--metrics", "psnr", "--report"]
    assert cli.main(argv) == 0
    output, first = tmp_path / "results/pictures", capsys.readouterr().out
    whole = (output / "summary.csv").read_bytes()
    CHANGES[change](output)
    states = {path.name: path.stat().st_mtime_ns for path in output.iterdir() if path.is_file()}
    assert cli.main(argv) == 0
    assert capsys.readouterr().out == first
    assert (output / "rd_psnr.svg").exists()
    assert (output / "summary.csv").read_bytes() == whole
    kept = [name for name, state in states.items() if (output / name).stat().st_mtime_ns == state]
    assert ("report.html" in kept) == (change in ("nothing", "a file of somebody else's"))


def test_tables_follow_their_inputs(pictures, tmp_path):
    argv = ["--models", "webp", "jpeg", "--dataset", str(pictures), "--metrics", "psnr"]
    output = tmp_path / "results/pictures"
    assert cli.main(argv) == 0
    assert cli.main([*argv, "--anchor", "jpeg"]) == 0
    assert pd.read_csv(output / "bd_rate.csv")["anchor"].unique().tolist() == ["jpeg"]
    assert cli.main([*argv, "--anchor", "webp"]) == 0
    assert pd.read_csv(output / "bd_rate.csv")["anchor"].unique().tolist() == ["webp"]
    (output / "notes.md").write_text("mine")
    assert cli.main([*argv[:2], *argv[3:]]) == 0
    assert not {"jpeg.json", "bd_rate.md", "bd_rate.tex"} & {path.name for path in output.iterdir()}
    assert (output / "notes.md").exists()
    assert cli.main([*argv, "--fresh"]) == 0
    assert cli.main([*argv[:2], *argv[3:], "--fresh"]) == 0
    assert not (output / "jpeg.json").exists()


def test_learned_model_without_baselines(pictures, monkeypatch):
    class Model(torch.nn.Module):
        def compress(self, x):
            return {"strings": [[b"abc"]], "shape": tuple(x.shape[2:])}

        def decompress(self, strings, shape):
            return {"x_hat": torch.full((1, 3, *shape), 0.5)}

    codec = LearnedCodec("grey", (1, 2), lambda quality: Model())
    monkeypatch.setattr(cli, "our_models", lambda: {"grey": None})
    monkeypatch.setattr(cli, "find_codec", lambda name, device: codec)
    assert cli.main(["--dataset", str(pictures), "--metrics", "psnr", "--limit", "1", "--output", "here"]) == 0
    images = pd.read_csv("here/images.csv")
    assert images["quality"].tolist() == [1, 2]
    assert images["bpp"].tolist() == pytest.approx([24 / (164 * 170)] * 2, rel=1e-5)
    assert pd.read_csv("here/bd_rate.csv").empty


def test_one_pixel_image(tmp_path):
    (tmp_path / "dot").mkdir()
    Image.new("RGB", (1, 1), "red").save(tmp_path / "dot/dot.png")
    argv = ["--models", "jpeg", "webp", "avif", "--dataset", "dot", "--metrics", "psnr", "ms_ssim"]
    assert cli.main(argv) == 0
    summary = pd.read_csv("results/dot/summary.csv")
    assert summary["ms_ssim"].isna().all()
    assert summary["psnr"].notna().all()
    assert not (tmp_path / "results/dot/rd_ms_ssim.png").exists()


def test_published_curves_join_only_the_whole_set(monkeypatch, capsys, pictures):
    from compressai_gen.data import ImageDataset

    paths = tuple(sorted(pictures.iterdir()))
    for count in (2, 24):
        kodak = ImageDataset("kodak", paths, ("a", "b"), count, {"name": "kodak"})
        monkeypatch.setattr(cli, "load_dataset", lambda *args, kodak=kodak: kodak)
        assert cli.main(["--models", "webp", "--qualities", "1", "15", "--metrics", "psnr"]) == 0
        sources = set(pd.read_csv("results/kodak/summary.csv")["source"])
        assert sources == ({"measured", "published"} if count == 2 else {"measured"})
        anchors = set(pd.read_csv("results/kodak/bd_rate.csv")["anchor"])
        assert all(anchor.startswith("VTM") for anchor in anchors)
        assert bool(anchors) == (count == 2)
    assert "of all 24 images" in capsys.readouterr().err


def test_users_errors_are_one_line(pictures, tmp_path, capsys):
    assert "known datasets" in _fails(capsys, "--models", "webp", "--dataset", "gone")
    assert "Did you mean 'webp'" in _fails(capsys, "--models", "wepb", "--dataset", pictures)
    assert "has no quality 1000" in _fails(capsys, "--models", "webp", "--qualities", 1000, "--dataset", pictures)
    assert "known metrics" in _fails(capsys, "--models", "webp", "--metrics", "vmaf", "--dataset", pictures)
    assert "device" in _fails(capsys, "--models", "webp", "--device", "abacus", "--dataset", pictures)
    assert "--threads" in _fails(capsys, "--models", "webp", "--threads", 0, "--dataset", pictures)
    assert "none of the curves" in _fails(capsys, "--models", "webp", "--anchor", "VTM", "--dataset", pictures)
    assert "nothing to evaluate" in _fails(capsys, "--models", "--dataset", pictures)
    (tmp_path / "file").write_text("")
    argv = ["--models", "webp", "--qualities", 1, "--metrics", "psnr", "--dataset", pictures, "--output", "file"]
    assert "cannot write" in _fails(capsys, *argv)
    (pictures / "bad.png").write_bytes(b"not an image")
    assert "bad.png" in _fails(capsys, "--models", "webp", "--metrics", "psnr", "--dataset", pictures)


def test_metric_without_weights(pictures, no_weights, capsys):
    argv = ["--models", "webp", "--qualities", "1", "--dataset", str(pictures)]
    assert "TORCH_HOME" in _fails(capsys, *argv, "--metrics", "lpips")
    assert "TORCH_HOME" in _fails(capsys, *argv, "--metrics", "psnr", "--fid-features", "inception")
    assert cli.main(argv) == 0  # by default what can be measured is measured
    skipped = [line for line in capsys.readouterr().err.splitlines() if line.startswith("metric skipped")]
    assert len(skipped) == 3, skipped
    assert all("TORCH_HOME" in line and "PIP_INDEX_URL" in line for line in skipped)
    summary = pd.read_csv("results/pictures/summary.csv")
    assert summary[["psnr", "ssim", "ssimulacra2", "grid"]].notna().all(axis=None)
    assert summary[["lpips", "dists", "lpips_vgg"]].isna().all(axis=None)


def test_offline_fetches_nothing(pictures, no_weights, monkeypatch, capsys):
    monkeypatch.setenv("COMPRESSAI_GEN_OFFLINE", "0")  # what the option changes is restored
    argv = ["--models", "webp", "--qualities", "1", "--offline"]
    assert cli.main([*argv, "--dataset", str(pictures)]) == 0
    assert not no_weights
    assert len([line for line in capsys.readouterr().err.splitlines() if "not fetched offline" in line]) == 3
    monkeypatch.delenv("COMPRESSAI_GEN_DATA", raising=False)
    assert "nothing is fetched offline" in _fails(capsys, *argv, "--dataset", "kodak")


def test_the_help_names_the_default_metrics(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert f"default: {' '.join(DEFAULT_METRICS)};" in " ".join(capsys.readouterr().out.split())


def test_interrupt_is_a_clean_end(pictures, monkeypatch, capsys, tmp_path):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(PillowCodec, "decode", interrupt)
    assert cli.main(["--models", "webp", "--dataset", str(pictures), "--metrics", "psnr"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "compressai_gen.eval", "--dataset", "gone", "--models", "webp"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: 'gone'")
