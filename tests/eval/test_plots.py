import os
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from compressai_gen.eval.plots import anchors, curve_styles, overview_plot, rate_plot, write_plot
from compressai_gen.resources import EVAL_DIR

MEASURED = [("ours", 1, 0.1, 26.0), ("ours", 2, 0.2, 28.0), ("avif", 1, 0.15, 27.0), ("avif", 2, 0.4, 30.0)]
PUBLISHED = [
    ("near", 1, 0.12, 26.5),
    ("near", 2, 0.2, 27.7),
    ("near", 3, 3.0, 40.0),
    ("far", 1, 5.0, 45.0),
    ("awful", 1, 0.2, 3.0),
]


def _summary(published=PUBLISHED):
    frames = [
        pd.DataFrame(rows, columns=["codec", "quality", "bpp", "psnr"]).assign(source=source)
        for rows, source in ((MEASURED, "measured"), (published, "published"))
    ]
    return pd.concat(frames, ignore_index=True)


def _lines(figure):
    return {line.get_label(): line for line in figure.axes[0].lines}


def test_measured_and_published_look_different():
    lines = _lines(rate_plot(_summary(), "psnr", "title"))
    ours, near = lines["ours"], lines["near"]
    assert ours.get_markerfacecolor() != "none"
    assert near.get_markerfacecolor() == "none"
    assert near.get_linewidth() < ours.get_linewidth()


def test_axes_are_those_of_the_measured_curves():
    figure = rate_plot(_summary(), "psnr", "title")
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert 0.05 < axes.get_xlim()[0] < 0.1
    assert 0.4 < axes.get_xlim()[1] < 1
    assert axes.get_ylim()[0] > 20
    assert set(_lines(figure)) == {"ours", "avif", "near"}  # the others have no point in sight


def _words(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def _crowd(measured=9, published=30):
    """Curves that lie close together, as those of many codecs do."""
    families = published_codecs()
    rows = [
        (name, quality, 0.1 * 2**quality * 1.02**i, 26 + 2 * quality + 0.2 * i)
        for i, name in enumerate([f"codec {i}" for i in range(measured)] + families[:published])
        for quality in range(4)
    ]
    table = pd.DataFrame(rows, columns=["codec", "quality", "bpp", "psnr"])
    return table.assign(source=["published" if name in families else "measured" for name in table["codec"]])


def published_codecs():
    return pd.read_csv(EVAL_DIR / "published_codecs.csv")["codec"].tolist()


def test_names_stand_beside_their_curves_and_cover_nothing():
    figure = rate_plot(_crowd(), "psnr", "title")
    (axes,) = figure.axes
    assert axes.get_legend() is None
    renderer = FigureCanvasAgg(figure).get_renderer()
    names = [text for text in axes.texts if text.get_text().startswith(("codec", *published_codecs()))]
    assert len(names) == 9 + 8  # never more published ones
    boxes = [text.get_window_extent(renderer) for text in names]
    frame = axes.get_window_extent(renderer)
    for i, box in enumerate(boxes):
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1
        assert not any(box.overlaps(other) for other in boxes[:i])
    points = np.concatenate([axes.transData.transform(line.get_xydata()) for line in axes.lines if line.get_marker()])
    covered = sum(box.contains(x, y) for box in boxes for x, y in points[:, :2])
    assert covered <= 3  # of 68 markers, in a crowd
    for text in names:  # each has its curve's colour
        assert text.get_color() == _lines(figure)[text.get_text()].get_color()


def test_the_anchors_are_the_newest_of_their_families():
    table = _crowd()
    chosen = anchors(table, ["psnr"])
    assert len(chosen) == 8
    assert "VTM" in chosen
    assert "BPG" not in chosen
    few = table[table["codec"].isin(["BPG", "HiFiC"]) | (table["source"] == "measured")]
    assert anchors(few, ["psnr"]) == ["BPG", "HiFiC"]


def test_all_published_curves_on_request():
    table = _crowd()
    figure = rate_plot(table, "psnr", "title", all_published=True)
    figure.canvas.draw()
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert {text.get_text() for text in legend.get_texts()} == set(table["codec"])
    assert "published" in legend.get_title().get_text()
    assert legend.get_window_extent().x0 >= axes.get_window_extent().x1
    assert legend.get_window_extent().height <= axes.get_window_extent().height


def test_names_without_room_become_a_legend():
    table = _crowd()
    table["codec"] = table["codec"].str.replace("codec", "a codec with a name that is wider than any plot" * 4)
    (axes,) = rate_plot(table, "psnr", "title").axes
    assert len(axes.get_legend().get_texts()) == 17


@pytest.mark.parametrize("all_published", [False, True])
def test_names_are_shown_as_they_are(tmp_path, all_published):
    names = {"ours": "$x_{", "avif": "_x", "near": "a$b$ \\frac"}
    table = _summary().replace({"codec": names})
    title = "$1 & $\\bad"
    figure = rate_plot(table, "psnr", title, all_published=all_published)
    assert {*names.values(), title} <= set(_words(figure))
    assert {*names.values(), title} <= set(_words(overview_plot(table, ["psnr"], title)))
    write_plot(lambda: figure, tmp_path / "a")
    write_plot(lambda: overview_plot(table, ["psnr"], title), tmp_path / "b")
    assert len(list(tmp_path.iterdir())) == 6
    assert "$x_{" in (tmp_path / "a.svg").read_text()


def test_the_users_matplotlibrc_changes_nothing(tmp_path):
    write_plot(lambda: rate_plot(_summary(), "psnr", "title"), tmp_path / "a")
    with mpl.rc_context({"text.usetex": True, "axes.facecolor": "red", "lines.linestyle": ":"}):
        write_plot(lambda: rate_plot(_summary(), "psnr", "title"), tmp_path / "b")
        assert mpl.rcParams["text.usetex"]  # theirs again
    for kind in ("png", "svg", "pdf"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_a_plot_that_fails_costs_itself_only(tmp_path, capsys):
    def draw():
        raise ValueError("no such glyph")

    write_plot(draw, tmp_path / "rd_psnr")
    assert "plot left out: rd_psnr: ValueError: no such glyph" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_none", "nonsense"])
def test_a_backend_that_is_not_there_stops_nothing(backend):
    program = "import os, compressai_gen.eval.cli, compressai_gen.eval.compare; print(os.environ['MPLBACKEND'])"
    run = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"MPLBACKEND": backend}, capture_output=True, text=True
    )
    assert run.stdout.strip() == backend, run.stderr


def test_the_overview_has_a_panel_for_each_metric():
    table = _crowd().assign(lpips=lambda rows: 1 / rows["psnr"])
    figure = overview_plot(table, ["psnr", "lpips"], "title")
    assert [axes.get_ylabel().split()[0] for axes in figure.axes] == ["PSNR", "LPIPS"]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(names) == len(set(names)) == 17
    for axes in figure.axes:
        assert {line.get_label() for line in axes.lines} == set(names)


def test_curves_differ_without_colour():
    codecs = [f"codec {i:02}" for i in range(33)]
    for source in ("measured", "published"):
        styles = curve_styles(pd.DataFrame({"codec": codecs, "source": source})).values()
        assert len({(style["marker"], style["dashes"]) for style in styles}) == 33


def test_intervals_are_shaded_and_seen():
    intervals = pd.DataFrame(
        [("ours", 1, "psnr", 26.0, 20.0, 27.0), ("ours", 2, "psnr", 28.0, 27.0, float("inf"))],
        columns=["codec", "quality", "metric", "mean", "low", "high"],
    )
    axes = rate_plot(_summary(), "psnr", "title", intervals).axes[0]
    assert axes.get_ylim()[0] < 20
    assert axes.get_ylim()[1] < 40
    assert "interval" in " ".join(_words(axes))
    assert "interval" not in " ".join(_words(rate_plot(_summary(), "psnr", "title")))


def test_a_codec_looks_the_same_whoever_else_is_plotted():
    full = _lines(rate_plot(_summary(), "psnr", "title"))
    summary = _summary()
    summary.loc[summary["codec"] == "avif", "psnr"] = float("nan")
    alone = _lines(rate_plot(summary, "psnr", "title"))
    assert set(alone) == {"ours", "near"}
    for name in alone:
        assert alone[name].get_color() == full[name].get_color()
        assert alone[name].get_marker() == full[name].get_marker()


def test_distances_say_lower_is_better():
    summary = _summary().rename(columns={"psnr": "lpips"})
    assert "lower is better" in rate_plot(summary, "lpips", "").axes[0].get_ylabel()
    assert "lower" not in rate_plot(_summary(), "psnr", "").axes[0].get_ylabel()


def test_single_point_can_be_plotted():
    axes = rate_plot(_summary([]).iloc[:1], "psnr", "").axes[0]
    assert axes.get_xlim()[0] < 0.1 < axes.get_xlim()[1]
    assert axes.get_ylim()[0] < 26 < axes.get_ylim()[1]


def test_the_same_data_give_the_same_files(tmp_path):
    for name in "ab":
        write_plot(lambda: rate_plot(_summary(), "psnr", ""), tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{kind}" for name in "ab" for kind in ("png", "svg", "pdf")
    }
    for kind in ("png", "svg", "pdf"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_written_plot_holds_the_legend(tmp_path):
    figure = rate_plot(_summary(), "psnr", "", all_published=True)
    write_plot(lambda: figure, tmp_path / "a")
    width = Image.open(tmp_path / "a.png").size[0]
    assert width > figure.axes[0].get_window_extent().width / figure.dpi * 200
    assert "published by others" in (tmp_path / "a.svg").read_text()  # text stays text
