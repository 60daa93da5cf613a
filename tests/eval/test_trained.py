"""What codecs were trained on, from the codec to every table and plot."""

import json

import pandas as pd
import pytest

from compressai_gen.codecs import find_codec, published_training, trained_metrics
from compressai_gen.codecs.learned import LearnedCodec
from compressai_gen.codecs.plugins import PluginCodec
from compressai_gen.data import load_dataset, write_image
from compressai_gen.errors import CodecError
from compressai_gen.eval import cli, tables
from compressai_gen.eval.plots import rate_plot, render_plot
from compressai_gen.eval.trained import DAGGER, FOOTNOTE, footnote, told, was_trained_on
from compressai_gen.leaderboard import rank as ranking
from compressai_gen.leaderboard.submission import Submission
from compressai_gen.leaderboard.verify import Record


class Plugin:
    name, qualities = "plugin", (1, 2)

    def encode(self, image, quality):
        return find_codec("webp").encode(image, 15 * quality)

    def decode(self, encoded, quality=None):
        return find_codec("webp").decode(encoded)


def test_what_codecs_state():
    assert trained_metrics(find_codec("jpeg")) == frozenset()
    assert trained_metrics(find_codec("mbt2018-mean")) == {"psnr"}
    assert trained_metrics(find_codec("msillm")) == {"psnr", "lpips"}
    assert trained_metrics(find_codec("cgdm")) >= {"psnr", "lpips"}
    assert trained_metrics(PluginCodec("plugin", "package 1", Plugin())) is None


def test_a_plugin_states_its_own():
    class Stating(Plugin):
        trained_metrics = ("lpips_vgg",)

    assert trained_metrics(PluginCodec("plugin", "package 1", Stating())) == {"lpips_vgg"}
    Stating.trained_metrics = "lpips"
    with pytest.raises(CodecError, match=r"trained_metrics of plugin must be a set of names"):
        PluginCodec("plugin", "package 1", Stating())


def test_an_online_search_lowers_its_metrics_whatever_the_weights_did():
    codec = LearnedCodec("mine", (1,), lambda quality: None, trained_metrics=frozenset({"ms_ssim"}))
    assert codec.variant("mine:steps=0", ({}, {"steps": 0})).trained_metrics == {"ms_ssim"}
    searching = codec.variant("mine:online_steps=8", ({"online_steps": 8}, {}))
    assert searching.trained_metrics == {"ms_ssim", "psnr", "lpips", "dists"}
    unknown = LearnedCodec("mine", (1,), lambda quality: None)
    assert unknown.variant("mine:online_steps=8", ({"online_steps": 8}, {})).trained_metrics is None


def test_what_papers_state():
    assert published_training("VTM [diffeic]") == frozenset()
    assert published_training("HiFiC") == published_training("MS-ILLM [illm]") == {"psnr", "lpips"}
    assert published_training("StableCodec") is None
    assert published_training("Nobody's") is None


def test_texts():
    assert [told(metrics) for metrics in (None, frozenset(), {"psnr", "dists"})] == ["unknown", "none", "dists psnr"]
    assert was_trained_on("dists lpips", "lpips_complex")
    assert not was_trained_on("dists lpips", "lpips_vgg")
    assert footnote(["none"], ["psnr"]) == ""
    assert footnote(["lpips", "none"], ["psnr", "lpips"]) == FOOTNOTE
    assert "unknown" in footnote(["unknown"], ["psnr"])


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, image in load_dataset("samples", limit=2):
        write_image(image[:, 60:130, 100:180], folder / f"{name}.png")
    return folder


def test_every_output_of_a_run(pictures, tmp_path, monkeypatch, capsys):
    class Trained(Plugin):
        name, trained_metrics = "trained", frozenset({"psnr"})

    codecs = {"trained": Trained(), "plugin": Plugin()}
    find = cli.find_codec
    monkeypatch.setattr(cli, "find_codec", lambda name, device: codecs.get(name) or find(name, device))
    output = tmp_path / "out"
    argv = ["--models", "trained", "plugin", "--baselines", "webp", "--dataset", str(pictures), "--output", str(output)]
    assert cli.main([*argv, "--metrics", "psnr", "ssim", "--report"]) == 0

    summary, deltas = pd.read_csv(output / "summary.csv"), pd.read_csv(output / "bd_rate.csv")
    stated = {"trained": "psnr", "plugin": "unknown", "webp": "none"}
    assert dict(zip(summary["codec"], summary["trained_on"], strict=True)) == stated
    assert set(zip(deltas["codec"], deltas["trained_on"], strict=True)) == {("trained", "psnr"), ("plugin", "unknown")}

    for file in ("summary", "bd_rate"):
        lines = (output / f"{file}.md").read_text().splitlines()
        assert all(line.count("†") == 1 for line in lines if line.startswith("| trained"))
        assert not any("†" in line for line in lines if line.startswith(("| plugin", "| webp")))
        assert all("unknown" in line for line in lines if line.startswith("| plugin"))
        assert FOOTNOTE in lines[-1]
        assert "unknown what they were trained on" in lines[-1]
        latex = (output / f"{file}.tex").read_text()
        assert "†" not in latex
        assert r"$\dagger$" in latex  # in the caption
        assert latex.count(r"\dagger}") == len(
            [line for line in latex.splitlines() if line.startswith("trained") and line.endswith(r"\\")]
        )
        assert "^{*}^{" not in latex
    printed = capsys.readouterr().out
    assert FOOTNOTE in printed
    assert "trained_on" in printed

    page = (output / "report.html").read_text()
    assert FOOTNOTE in page
    assert '<th scope="col"><button type="button">trained on</button></th>' in page
    data = json.loads(page.partition('id="plot-data">')[2].partition("</script>")[0])
    assert {curve["name"]: curve["trained"] for curve in data["curves"]} == {
        "trained": ["psnr"],
        "plugin": [],
        "webp": [],
    }
    for metric, marked in (("psnr", True), ("ssim", False)):
        assert (DAGGER in (output / f"rd_{metric}.svg").read_text()) == marked
    assert DAGGER in (output / "rd_overview.svg").read_text()


def test_plots_without_the_column_are_unmarked():
    rows = [("mine", q, 0.1 * q, 20.0 + q, "measured") for q in (1, 2, 3)]
    summary = pd.DataFrame(rows, columns=["codec", "quality", "bpp", "psnr", "source"])
    assert DAGGER not in render_plot(rate_plot(summary, "psnr", "t"), "svg").decode()
    assert DAGGER in render_plot(rate_plot(summary.assign(trained_on="psnr"), "psnr", "t"), "svg").decode()


def _rows(gain_psnr, gain_ssim):
    return pd.DataFrame(
        [
            {"quality": q, "image": f"i{i}", "bpp": 0.1 * 2**q, "psnr": 25 + 2 * q + gain_psnr + 0.1 * i,
             "ssim": 0.7 + 0.05 * q + gain_ssim + 0.001 * i, "decode_s": 0.1, "encode_s": 0.1}
            for q in (1, 2, 3, 4)
            for i in range(3)
        ]
    )  # fmt: skip


@pytest.fixture
def entries():
    """Two submissions: one is better at what it was trained on, the other at what neither was."""
    card = {"title": "t", "author": "a", "links": []}
    found = {}
    for name, rows, trained in (
        ("gamed", _rows(2, -0.04), "psnr"), ("honest", _rows(0.5, 0.04), "none"), ("base", _rows(0, 0), "unknown"),
    ):  # fmt: skip
        submission = Submission(card, {"name": name}, "pictures", {}, (1, 2, 3, 4), ("psnr", "ssim"), {}, rows, {})
        found[name] = ranking._Entry(submission, Record(rows.drop(columns="encode_s"), {}, trained))
    return found


def test_the_leaderboard_ranks_by_what_nobody_trained_on(entries, monkeypatch, tmp_path):
    monkeypatch.setattr(ranking, "_read", lambda folder, dataset: entries)
    order = {}
    for by in (None, "psnr"):
        text = ranking.rank(tmp_path, tmp_path / str(by), "pictures", "base", by)
        order[by] = pd.read_csv(tmp_path / str(by) / "leaderboard.csv")["codec"].tolist()
    assert order[None] == ["honest", "base", "gamed"]
    assert order["psnr"] == ["gamed", "honest", "base"]
    assert "Ordered by the BD-rate in PSNR" in text
    table = pd.read_csv(tmp_path / "None" / "leaderboard.csv").set_index("codec")
    assert table["trained_on"].to_dict() == {"gamed": "psnr", "honest": "none", "base": "unknown"}
    for file in ("leaderboard.md", "leaderboard.html"):
        content = (tmp_path / "None" / file).read_text()
        assert "Ordered by the BD-rate in SSIM" in content
        assert FOOTNOTE in content
        assert "unknown" in content
    (row,) = [line for line in text.splitlines() if line.startswith("| gamed")]
    assert row.count("†") == 1


def test_a_leaderboard_on_which_all_was_trained_on_says_what_it_ranks_by(entries, monkeypatch, tmp_path):
    record = {name: entry.record._replace(trained_on="psnr ssim") for name, entry in entries.items()}
    every = {name: entry._replace(record=record[name]) for name, entry in entries.items()}
    monkeypatch.setattr(ranking, "_read", lambda folder, dataset: every)
    text = ranking.rank(tmp_path, tmp_path, "pictures", "base")
    assert r"Ordered by the mean place in the BD-rates in PSNR \[dB\], SSIM." in text


def test_published_rows_say_it_where_the_summary_does():
    images = pd.DataFrame([{"codec": "mine", "quality": 1, "image": "a", "bpp": 0.1, "psnr": 30.0}])
    summary = tables.summarize(tables.per_image(images), trained={"mine": None})
    published = tables.published_summary("kodak", summary)
    stated = dict(zip(published["codec"], published["trained_on"], strict=True))
    assert (stated["VTM [diffeic]"], stated["StableCodec"]) == ("none", "unknown")
    assert "trained_on" not in tables.summarize(tables.per_image(images))
