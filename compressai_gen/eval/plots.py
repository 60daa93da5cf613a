"""Rate-quality plots: measured curves stand out, published ones are context."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from compressai_gen._matplotlib import backend_set_aside
from compressai_gen.codecs import family_ranks, newest_of_families
from compressai_gen.data.images import OUTPUT_MARK
from compressai_gen.eval.labels import Curve, label_curves
from compressai_gen.eval.trained import DAGGER, stated, was_trained_on
from compressai_gen.files import replacing
from compressai_gen.metrics import FIGURES

with backend_set_aside():
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

__all__ = [
    "anchors",
    "curve_styles",
    "house_style",
    "overview_plot",
    "plottable",
    "rate_plot",
    "render_plot",
    "try_plot",
    "write_plot",
]

MAX_ANCHORS = 8
"""Published curves in a plot that does not ask for all."""

_STYLE = {
    "font.size": 9,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 3.2,  # a whole period of every line style
    "legend.title_fontsize": 7,
    "pdf.fonttype": 42,  # text stays text
    "savefig.bbox": "tight",
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "svg.hashsalt": "compressai-gen",  # the same data give the same file
}
# Okabe and Ito: told apart by colour-blind readers, too.
_MEASURED_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_PUBLISHED_COLORS = tuple(mpl.colors.to_hex(color) for color in mpl.colormaps["tab10"].colors)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
# Strokes and gaps in line widths; none: solid.
_MEASURED_DASHES = ((), (5, 1.5), (5, 1.5, 1, 1.5), (1.2, 1.2))
_PUBLISHED_DASHES = ((4, 3), (1, 2), (6, 2, 1, 2))
_HOLLOW = {"markerfacecolor": "none", "markeredgewidth": 0.8, "alpha": 0.75, "zorder": 2}
_MARGIN = 1.3  # of the rate axis, beyond the measured points
_LEGEND_ROWS = 20  # as many as are as high as the axes
_PANEL_COLUMNS = 3
_WEIGHTS = {"measured": "bold", "published": "normal"}  # of names
_INTERVAL_NOTE, _PUBLISHED_NOTE = "shaded: 95 % interval", "hollow, thin: published by others"
_TRAINED_NOTE = f"{DAGGER}: trained for this metric"


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in the style of this package, from matplotlib's own defaults on, whatever a ``matplotlibrc`` says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def curve_styles(summary: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return ``color``, ``marker`` and ``dashes`` of each codec, the same for all metrics.

    Measured and published codecs have styles of their own. The numbers of markers and line styles are coprime, so that
    many codecs get different pairs, which print in black and white. The published curves that a plot shows by default
    are of different families, which differ in colour.
    """
    source = summary["source"]
    measured = sorted(set(summary.loc[source == "measured", "codec"]))
    published = sorted(set(summary.loc[source == "published", "codec"]))
    colors = dict(zip(measured, cycle(_MEASURED_COLORS), strict=False))
    families = family_ranks(published)
    colors |= {codec: _PUBLISHED_COLORS[families[codec] % len(_PUBLISHED_COLORS)] for codec in published}
    styles = {}
    for codecs, dashes in ((published, _PUBLISHED_DASHES), (measured, _MEASURED_DASHES)):
        for codec, marker, dash in zip(codecs, cycle(_MARKERS), cycle(dashes), strict=False):
            styles[codec] = {"color": colors[codec], "marker": marker, "dashes": dash}
    return styles


def plottable(summary: pd.DataFrame) -> list[str]:
    """Return the metrics that are defined for some measured point."""
    measured = summary[summary["source"] == "measured"]
    return [
        metric for metric in FIGURES if metric in summary and np.isfinite(measured[metric].to_numpy(dtype=float)).any()
    ]


def anchors(summary: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Return the published curves that plots show by default: the newest of each family, at most ``MAX_ANCHORS``.

    Args:
        summary: as ``summary.csv``.
        metrics: of the plots; a curve counts where two of its points, or its only one, lie near the measured curves.
    """
    seen: dict[str, float] = {}
    for metric in metrics:
        measured, published = _split(summary, metric)
        x_range = _rate_range(measured)
        y_range = _reach(measured[metric])
        near = published["bpp"].between(*x_range) & published[metric].between(*y_range)
        for codec, points in near.groupby(published["codec"], sort=False):
            if points.sum() >= min(2, len(points)):
                seen[codec] = seen.get(codec, 0) + int(points.sum())
    return newest_of_families(seen)[:MAX_ANCHORS]


def rate_plot(
    summary: pd.DataFrame,
    metric: str,
    title: str,
    intervals: pd.DataFrame | None = None,
    all_published: bool = False,
) -> Figure:
    """Plot a metric over the rate.

    Args:
        summary: as ``summary.csv``; rows of source ``published`` become hollow markers on thin lines.
        metric: a column of it.
        title: of the plot.
        intervals: as ``intervals.csv``, shaded behind the measured curves.
        all_published: show all published curves, and a legend, in place of those of :func:`anchors`.

    Returns:
        A figure whose axes show the range of the measured curves; published curves outside it are left out. Names stand
        beside their curves, where there is room for them.
    """
    styles, trained = curve_styles(summary), stated(summary)
    if not all_published:
        shown = (summary["source"] == "measured") | summary["codec"].isin(anchors(summary, [metric]))
        summary = summary[shown]
    with house_style():
        figure = Figure(figsize=(6, 4.5) if all_published else (7.2, 5.2))
        axes = figure.subplots()
        drawn = _draw(axes, summary, metric, styles, intervals)
        _label_axes(axes, metric, title)
        curves = [
            Curve(_marked(codec, trained, metric), points, styles[codec]["color"], _WEIGHTS[source])
            for codec, source, points in drawn
        ]
        notes = _notes(drawn, axes, trained, metric)
        if not all_published and label_curves(axes, curves):
            axes.annotate(
                notes,
                (0, 0),
                xytext=(0, -34),
                xycoords="axes fraction",
                textcoords="offset points",
                fontsize=7,
                va="top",
            )
        else:
            _add_legend(axes, [curve.name for curve in curves], notes)
    return figure


def overview_plot(
    summary: pd.DataFrame, metrics: Sequence[str], title: str, intervals: pd.DataFrame | None = None
) -> Figure:
    """Plot all metrics over the rate in one figure of small panels, with the same curves and one legend.

    Args:
        summary, intervals: as for :func:`rate_plot`.
        metrics: columns of the summary, a panel each.
        title: of the figure.
    """
    styles, trained = curve_styles(summary), stated(summary)
    chosen = anchors(summary, metrics)
    summary = summary[(summary["source"] == "measured") | summary["codec"].isin(chosen)]
    columns = min(_PANEL_COLUMNS, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    with house_style():
        figure = Figure(figsize=(3.1 * columns, 2.5 * rows + 1), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        lines: dict[str, Any] = {}
        notes = ""
        for axes, metric in zip(panels, metrics, strict=False):
            drawn = _draw(axes, summary, metric, styles, intervals, scale=0.7)
            _label_axes(axes, metric, "")
            axes.yaxis.label.set_size(8)
            axes.tick_params(labelsize=7)
            lines |= dict(zip((codec for codec, _, _ in drawn), axes.lines, strict=True))
            notes = max(notes, _notes(drawn, axes, trained, metric), key=len)
            if any(_marked(codec, trained, metric) != codec for codec, source, _ in drawn if source == "measured"):
                axes.set_ylabel(f"{axes.get_ylabel()} {DAGGER}", fontsize=8)
        for axes in panels[len(metrics) :]:
            axes.set_axis_off()
        for axes in panels[: len(metrics) - columns]:
            axes.set_xlabel("")
        figure.suptitle(title, parse_math=False)
        order = [codec for codec in dict.fromkeys(summary["codec"]) if codec in lines]
        legend = figure.legend(
            [lines[codec] for codec in order],
            [str(index) for index in range(len(order))],
            loc="outside lower center",
            ncols=max(1, min(5, 2 * columns - 1)),
            title=notes or None,
        )
        _name_legend(legend, order)
    return figure


def write_plot(draw: Callable[[], Figure], path: Path) -> None:
    """Draw and write ``<path>.png``, ``.svg`` and ``.pdf``, or tell why not; the same figure gives the same files."""
    for kind, file in try_plot(draw, path.name, ("png", "svg", "pdf")).items():
        with replacing(path.with_name(f"{path.name}.{kind}")) as temporary:
            temporary.write_bytes(file)


def try_plot(draw: Callable[[], Figure], name: str, kinds: Sequence[str]) -> dict[str, bytes]:
    """Return the files of a figure, or none where it cannot be drawn, which costs nothing but this plot and is told."""
    try:
        figure = draw()
        return {kind: render_plot(figure, kind) for kind in kinds}
    except Exception as error:  # of any kind: fonts and libraries differ, and names are the user's
        print(f"plot left out: {name}: {type(error).__name__}: {error}", file=sys.stderr)
        return {}


def render_plot(figure: Figure, kind: str) -> bytes:
    """Return the file of a figure, ``png``, ``svg`` or ``pdf``; the same figure gives the same bytes."""
    file = BytesIO()
    metadata = {"png": OUTPUT_MARK, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with house_style(), warnings.catch_warnings():  # some of the style counts only now
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of names in other scripts; SVG and tables have them
        figure.savefig(file, format=kind, metadata=metadata.get(kind))
    return file.getvalue()


def _split(summary: pd.DataFrame, metric: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the measured and the published rows where a metric is finite."""
    table = summary[np.isfinite(summary[metric].to_numpy(dtype=float))]
    return table[table["source"] == "measured"], table[table["source"] == "published"]


def _rate_range(measured: pd.DataFrame) -> tuple[float, float]:
    return measured["bpp"].min() / _MARGIN, measured["bpp"].max() * _MARGIN


def _reach(values: pd.Series | pd.DataFrame) -> tuple[float, float]:
    """Return the range of measured values, and half of its height beyond, in which published ones are worth a look."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    reach = 0.5 * (high - low) or abs(high) * 0.1 or 0.1
    return low - reach, high + reach


def _with_bands(measured: pd.DataFrame, metric: str, intervals: pd.DataFrame | None) -> pd.DataFrame:
    """Add the columns ``low`` and ``high``, NaN where there is no finite interval."""
    if intervals is None:
        return measured.assign(low=np.nan, high=np.nan)
    bands = intervals.loc[intervals["metric"] == metric, ["codec", "quality", "low", "high"]]
    # Published points may have names of qualities, so that a summary's are no numbers.
    bands = bands.astype({"quality": measured["quality"].dtype})
    return measured.merge(bands, on=["codec", "quality"], how="left").replace([np.inf, -np.inf], np.nan)


def _quality_range(
    measured: pd.DataFrame, published: pd.DataFrame, metric: str, x_range: tuple[float, float]
) -> tuple[float, float]:
    """The measured range, widened to the published points of the same rates within reach."""
    ours = measured[[metric, "low", "high"]]
    lowest, highest = _reach(ours)
    others = published.loc[published["bpp"].between(*x_range), metric]
    seen = [np.nanmin(ours), np.nanmax(ours), *others[others.between(lowest, highest)]]
    low, high = min(seen), max(seen)
    pad = 0.04 * (high - low) or (highest - lowest) / 2
    return low - pad, high + pad


def _draw(
    axes: Axes,
    summary: pd.DataFrame,
    metric: str,
    styles: dict[str, dict[str, Any]],
    intervals: pd.DataFrame | None,
    scale: float = 1,
) -> list[tuple[str, str, np.ndarray]]:
    """Draw the curves of a metric, set the axes' ranges, and return codec, source and points of each line."""
    measured, published = _split(summary, metric)
    measured = _with_bands(measured, metric, intervals)
    x_range = _rate_range(measured)
    y_range = _quality_range(measured, published, metric, x_range)
    visible = published["bpp"].between(*x_range) & published[metric].between(*y_range)
    published = published[published["codec"].isin(published[visible]["codec"])]
    axes.set_xscale("log")
    axes.set_xlim(*x_range)
    axes.set_ylim(*y_range)
    drawn = []
    looks = (
        (measured, "measured", {"linewidth": 1.8 * scale, "markersize": 5 * scale, "zorder": 3}),
        (published, "published", {"linewidth": 0.7, "markersize": 3.5 * scale, **_HOLLOW}),
    )
    for table, source, look in looks:
        for codec, curve in table.groupby("codec", sort=False):
            curve = curve.sort_values("bpp")
            if source == "measured":
                band = curve[["bpp", "low", "high"]].to_numpy(dtype=float).T
                axes.fill_between(*band, color=styles[codec]["color"], alpha=0.12, linewidth=0)
            axes.plot(curve["bpp"], curve[metric], label=codec, **styles[codec], **look)
            drawn.append((codec, source, curve[["bpp", metric]].to_numpy(dtype=float)))
    return drawn


def _label_axes(axes: Axes, metric: str, title: str) -> None:
    spec = FIGURES[metric]
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("rate [bits per pixel]")
    axes.set_ylabel(spec.label if spec.higher_is_better else f"{spec.label}, lower is better")
    axes.set_title(title, parse_math=False)


def _marked(codec: str, trained: dict[str, str], metric: str) -> str:
    """Return a codec's name, with a dagger if it was trained for the metric."""
    return codec + DAGGER * was_trained_on(trained[codec], metric)


def _notes(drawn: Sequence[tuple[str, str, np.ndarray]], axes: Axes, trained: dict[str, str], metric: str) -> str:
    """What the looks of bands and curves and the marks of names mean, as far as the axes show them."""
    banded = any(len(path.vertices) for band in axes.collections for path in band.get_paths())
    notes = [_INTERVAL_NOTE] if banded else []
    notes += [_PUBLISHED_NOTE] if any(source == "published" for _, source, _ in drawn) else []
    notes += [_TRAINED_NOTE] if any(_marked(codec, trained, metric) != codec for codec, _, _ in drawn) else []
    return "; ".join(notes)


def _add_legend(axes: Axes, names: Sequence[str], notes: str) -> None:
    """Name the curves outside the axes, as a legend of all published ones is as high as the plot."""
    legend = axes.legend(
        axes.lines,
        [str(index) for index in range(len(names))],
        loc="upper left",
        bbox_to_anchor=(1.02, 1),
        borderaxespad=0,
        ncols=math.ceil(len(names) / _LEGEND_ROWS),
        title=notes.replace("; ", "\n") or None,
        alignment="left",
    )
    _name_legend(legend, names)


def _name_legend(legend: Legend, names: Sequence[str]) -> None:
    """Give a legend its names, which matplotlib would leave out where they begin with an underscore."""
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)
