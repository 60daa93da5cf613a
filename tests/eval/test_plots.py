import pandas as pd
from PIL import Image

from compressai_gen.eval.plots import curve_styles, rate_plot, write_plot

MEASURED = [("ours", 1, 0.1, 26.0), ("ours", 2, 0.2, 28.0), ("avif", 1, 0.15, 27.0), ("avif", 2, 0.4, 30.0)]
PUBLISHED = [("near", 1, 0.12, 26.5), ("near", 2, 3.0, 40.0), ("far", 1, 5.0, 45.0), ("awful", 1, 0.2, 3.0)]


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


def test_legend_stands_outside_and_says_published():
    figure = rate_plot(_summary(), "psnr", "title")
    figure.canvas.draw()
    legend = figure.axes[0].get_legend()
    assert legend.get_window_extent().x0 >= figure.axes[0].get_window_extent().x1
    assert "published" in legend.get_title().get_text()
    assert rate_plot(_summary([]), "psnr", "title").axes[0].get_legend().get_title().get_text() == ""


def test_legend_of_many_codecs_is_no_taller_than_the_axes():
    figure = rate_plot(_summary([(f"codec {i:02}", 1, 0.2, 25 + i / 10) for i in range(33)]), "psnr", "title")
    figure.canvas.draw()
    axes = figure.axes[0]
    assert len(axes.get_legend().get_texts()) == 35
    assert axes.get_legend().get_window_extent().height <= axes.get_window_extent().height


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
    assert "interval" in axes.get_legend().get_title().get_text()
    assert "interval" not in rate_plot(_summary(), "psnr", "title").axes[0].get_legend().get_title().get_text()


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
        write_plot(rate_plot(_summary(), "psnr", ""), tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{kind}" for name in "ab" for kind in ("png", "svg", "pdf")
    }
    for kind in ("png", "svg", "pdf"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_written_plot_holds_the_legend(tmp_path):
    figure = rate_plot(_summary(), "psnr", "")
    write_plot(figure, tmp_path / "a")
    width = Image.open(tmp_path / "a.png").size[0]
    assert width > figure.axes[0].get_window_extent().width / figure.dpi * 200
    assert "published by others" in (tmp_path / "a.svg").read_text()  # text stays text
