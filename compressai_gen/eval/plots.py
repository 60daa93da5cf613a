"""Rate-quality plots: measured curves stand out, published ones are context."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from compressai_gen.files import replacing
from compressai_gen.metrics import FIGURES

__all__ = ["STYLE", "curve_styles", "plottable", "rate_plot", "render_plot", "write_plot"]

STYLE = {
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


def curve_styles(summary: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return ``color``, ``marker`` and ``dashes`` of each codec, the same for all metrics.

    Measured and published codecs have styles of their own. The numbers of markers and line styles are coprime, so that
    many codecs get different pairs, which print in black and white.
    """
    source = summary["source"]
    measured = _styles(summary.loc[source == "measured", "codec"], _MEASURED_COLORS, _MEASURED_DASHES)
    return _styles(summary.loc[source == "published", "codec"], _PUBLISHED_COLORS, _PUBLISHED_DASHES) | measured


def plottable(summary: pd.DataFrame) -> list[str]:
    """Return the metrics that are defined for some measured point."""
    measured = summary[summary["source"] == "measured"]
    return [
        metric for metric in FIGURES if metric in summary and np.isfinite(measured[metric].to_numpy(dtype=float)).any()
    ]


def rate_plot(summary: pd.DataFrame, metric: str, title: str, intervals: pd.DataFrame | None = None) -> Figure:
    """Plot a metric over the rate.

    Args:
        summary: as ``summary.csv``; rows of source ``published`` become hollow markers on thin lines.
        metric: a column of it.
        title: of the plot.
        intervals: as ``intervals.csv``, shaded behind the measured curves.

    Returns:
        A figure whose axes show the range of the measured curves; published curves outside it are left out.
    """
    table = summary[np.isfinite(summary[metric].to_numpy(dtype=float))]
    measured, published = table[table["source"] == "measured"], table[table["source"] == "published"]
    measured = _with_bands(measured, metric, intervals)
    x_range = (measured["bpp"].min() / _MARGIN, measured["bpp"].max() * _MARGIN)
    y_range = _quality_range(measured, published, metric, x_range)
    visible = published[published["bpp"].between(*x_range) & published[metric].between(*y_range)]["codec"].unique()
    published = published[published["codec"].isin(visible)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6, 4.5))
        axes = figure.subplots()
        styles = curve_styles(summary)
        for codec, curve in measured.groupby("codec", sort=False):
            band = curve.sort_values("bpp")[["bpp", "low", "high"]].to_numpy(dtype=float).T
            axes.fill_between(*band, color=styles[codec]["color"], alpha=0.12, linewidth=0)
        _draw(axes, measured, metric, styles, linewidth=1.8, markersize=5, zorder=3)
        _draw(axes, published, metric, styles, linewidth=0.7, markersize=3.5, **_HOLLOW)
        _label_axes(axes, metric, title, x_range, y_range)
        notes = ["shaded: 95 % interval"] if measured["low"].notna().any() else []
        notes += ["hollow, thin: published by others"] if len(published) else []
        columns = math.ceil(len(axes.get_legend_handles_labels()[0]) / _LEGEND_ROWS)
        # The legend stands outside: with all published curves it is as high as the plot.
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(1.02, 1),
            borderaxespad=0,
            ncols=columns,
            title="\n".join(notes) or None,
            alignment="left",
        )
    return figure


def write_plot(figure: Figure, path: Path) -> None:
    """Write ``<path>.png``, ``.svg`` and ``.pdf``; the same figure gives the same files."""
    for kind in ("png", "svg", "pdf"):
        with replacing(path.with_name(f"{path.name}.{kind}")) as temporary:
            temporary.write_bytes(render_plot(figure, kind))


def render_plot(figure: Figure, kind: str) -> bytes:
    """Return the file of a figure, ``png``, ``svg`` or ``pdf``; the same figure gives the same bytes."""
    file = BytesIO()
    dateless = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with mpl.rc_context(STYLE):  # some of the style counts only now
        figure.savefig(file, format=kind, metadata=dateless.get(kind))
    return file.getvalue()


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
    """The measured range, widened to the published points of the same rates up to half its height away."""
    ours = measured[[metric, "low", "high"]]
    low, high = ours.min(axis=None), ours.max(axis=None)
    reach = 0.5 * (high - low) or abs(high) * 0.1 or 0.1
    others = published.loc[published["bpp"].between(*x_range), metric]
    seen = [low, high, *others[others.between(low - reach, high + reach)]]
    low, high = min(seen), max(seen)
    pad = 0.04 * (high - low) or reach
    return low - pad, high + pad


def _styles(codecs: Iterable[str], colors: Sequence[str], dashes: Sequence[tuple]) -> dict[str, dict[str, Any]]:
    styles = zip(sorted(set(codecs)), cycle(colors), cycle(_MARKERS), cycle(dashes), strict=False)
    return {codec: {"color": color, "marker": marker, "dashes": dash} for codec, color, marker, dash in styles}


def _draw(axes: Axes, curves: pd.DataFrame, metric: str, styles: dict[str, dict[str, Any]], **common: Any) -> None:
    for codec, curve in curves.groupby("codec", sort=False):
        curve = curve.sort_values("bpp")
        axes.plot(curve["bpp"], curve[metric], label=codec, **styles[codec], **common)


def _label_axes(
    axes: Axes, metric: str, title: str, x_range: tuple[float, float], y_range: tuple[float, float]
) -> None:
    spec = FIGURES[metric]
    axes.set_xscale("log")
    axes.set_xlim(*x_range)
    axes.set_ylim(*y_range)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("rate [bits per pixel]")
    axes.set_ylabel(spec.label if spec.higher_is_better else f"{spec.label}, lower is better")
    axes.set_title(title)
