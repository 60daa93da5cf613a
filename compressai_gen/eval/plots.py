"""Rate-quality plots: measured curves stand out, published ones are context."""

from __future__ import annotations

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

__all__ = ["plottable", "rate_plot", "render_plot", "write_plot"]

STYLE = {
    "font.size": 9,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.title_fontsize": 7,
    "savefig.bbox": "tight",
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "svg.hashsalt": "compressai-gen",  # the same data give the same file
}
# Okabe and Ito: told apart by colour-blind readers, too.
_MEASURED_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
_HOLLOW = {"markerfacecolor": "none", "markeredgewidth": 0.8, "alpha": 0.75, "zorder": 2}
_MARGIN = 1.3  # of the rate axis, beyond the measured points


def plottable(summary: pd.DataFrame) -> list[str]:
    """Return the metrics that are defined for some measured point."""
    measured = summary[summary["source"] == "measured"]
    return [
        metric for metric in FIGURES if metric in summary and np.isfinite(measured[metric].to_numpy(dtype=float)).any()
    ]


def rate_plot(summary: pd.DataFrame, metric: str, title: str) -> Figure:
    """Plot a metric over the rate.

    Args:
        summary: as ``summary.csv``; rows of source ``published`` become hollow markers on thin dashed lines.
        metric: a column of it.
        title: of the plot.

    Returns:
        A figure whose axes show the range of the measured curves; published curves outside it are left out.
    """
    table = summary[np.isfinite(summary[metric].to_numpy(dtype=float))]
    measured, published = table[table["source"] == "measured"], table[table["source"] == "published"]
    x_range = (measured["bpp"].min() / _MARGIN, measured["bpp"].max() * _MARGIN)
    y_range = _quality_range(measured, published, metric, x_range)
    visible = published[published["bpp"].between(*x_range) & published[metric].between(*y_range)]["codec"].unique()
    published = published[published["codec"].isin(visible)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6, 4.5))
        axes = figure.subplots()
        ours = _styles(summary.loc[summary["source"] == "measured", "codec"], _MEASURED_COLORS)
        others = _styles(summary.loc[summary["source"] == "published", "codec"], mpl.colormaps["tab10"].colors)
        _draw(axes, measured, metric, ours, linewidth=1.8, markersize=5, zorder=3)
        _draw(axes, published, metric, others, linewidth=0.7, linestyle="--", markersize=3.5, **_HOLLOW)
        _label_axes(axes, metric, title, x_range, y_range)
        # The legend stands outside: with all published curves it is as high as the plot.
        legend_title = "hollow, dashed: published by others" if len(published) else None
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, title=legend_title)
    return figure


def write_plot(figure: Figure, path: Path) -> None:
    """Write ``<path>.png`` and ``<path>.svg``; the same figure gives the same files."""
    for kind in ("png", "svg"):
        with replacing(path.with_name(f"{path.name}.{kind}")) as temporary:
            temporary.write_bytes(render_plot(figure, kind))


def render_plot(figure: Figure, kind: str) -> bytes:
    """Return the file of a figure, ``"png"`` or ``"svg"``; the same figure gives the same bytes."""
    file = BytesIO()
    with mpl.rc_context(STYLE):  # some of the style counts only now
        figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return file.getvalue()


def _quality_range(
    measured: pd.DataFrame, published: pd.DataFrame, metric: str, x_range: tuple[float, float]
) -> tuple[float, float]:
    """The measured range, widened to the published points of the same rates, but at most to twice its height."""
    low, high = measured[metric].min(), measured[metric].max()
    reach = 0.5 * (high - low) or abs(high) * 0.1 or 0.1
    seen = [low, high, *published.loc[published["bpp"].between(*x_range), metric]]
    low, high = max(low - reach, min(seen)), min(high + reach, max(seen))
    pad = 0.04 * (high - low) or reach
    return low - pad, high + pad


def _styles(codecs: Iterable[str], colors: Sequence) -> dict[str, dict[str, Any]]:
    """Colour and marker of each codec, so that it looks the same in the plots of all metrics."""
    # The numbers of colours and markers are coprime: many codecs get different pairs.
    styles = zip(sorted(set(codecs)), cycle(colors), cycle(_MARKERS), strict=False)
    return {codec: {"color": color, "marker": marker} for codec, color, marker in styles}


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
