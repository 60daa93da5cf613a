"""The report: one HTML file with tables, plots and pictures, which opens from disk and loads nothing."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from compressai_gen.data import ImageDataset, read_image
from compressai_gen.data.images import image_size
from compressai_gen.errors import ImageError
from compressai_gen.eval.pictures import KeptPictures
from compressai_gen.eval.plots import curve_styles
from compressai_gen.eval.store import PROTOCOL_VERSION
from compressai_gen.eval.trained import DAGGER, footnote, stated, was_trained_on
from compressai_gen.eval.typeset import (
    LEFT_OUT,
    anchor_names,
    digits,
    figure_columns,
    format_figure,
    heading,
    metric_columns,
)
from compressai_gen.files import replacing
from compressai_gen.metrics import FIGURES, MIN_OVERLAP

__all__ = ["illustrated", "write_page"]

MAX_PIXELS = 400_000_000
"""Of all pictures in a report, which keeps the file below about 100 MiB."""

LOSSLESS_PIXELS = 24_000_000
"""Up to so many, pictures are embedded without loss, in about 32 MiB; more are WebP of quality 90."""


def illustrated(dataset: ImageDataset, codings: int) -> dict[str, int]:
    """Return the first images of a dataset whose pictures fit into a report, each with its number of pixels.

    Args:
        dataset: pictures.
        codings: reconstructions of each.
    """
    chosen: dict[str, int] = {}
    left = MAX_PIXELS
    for name, path in zip(dataset.image_names, dataset.paths, strict=True):
        try:
            pixels = math.prod(image_size(path))
        except ImageError:  # measuring tells of it
            continue
        left -= pixels * (1 + codings)
        if left < 0:
            break
        chosen[name] = pixels
    return chosen


def write_page(
    path: Path,
    dataset: ImageDataset,
    images: pd.DataFrame,
    summary: pd.DataFrame,
    intervals: pd.DataFrame,
    deltas: pd.DataFrame,
    origins: dict[str, str],
    environment: dict[str, Any],
    pictures: KeptPictures,
    progress: bool = True,
) -> None:
    """Write the report.

    Args:
        path: of the file.
        dataset: what was coded.
        images, summary, intervals, deltas: as the CSV files of these names.
        origins: source of each codec's figures, see ``tables.origins``.
        environment: as ``environment.json``.
        pictures: the reconstructions, at least of the images that :func:`illustrated` names.
        progress: show a progress bar.
    """
    codings = len(images.drop_duplicates(["codec", "quality"]))
    shown = illustrated(dataset, codings)
    lossless = sum(shown.values()) * (1 + codings) <= LOSSLESS_PIXELS
    loader = jinja2.PackageLoader("compressai_gen.eval", "templates")
    template = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    ).get_template("report.html")
    with tqdm(total=len(shown), desc="report", unit="image", disable=not progress) as bar:
        page = template.stream(
            dataset=environment["dataset"],
            environment=_flat(environment),
            protocol=PROTOCOL_VERSION,
            summary=_summary_table(summary, origins),
            deltas=_delta_table(deltas, origins),
            training=footnote(stated(summary).values(), metric_columns(summary)) if "trained_on" in summary else "",
            anchor=anchor_names(deltas),
            min_overlap=MIN_OVERLAP,
            left_out=LEFT_OUT if any(origin != "measured" for origin in origins.values()) else "",
            plot=_plot(summary, intervals, origins),
            images=_sections(dataset, images, shown, pictures, lossless, bar, stated(summary)),
            shown=len(shown),
            lossless=lossless,
        )
        # Images are encoded while the file is written: one at a time is in memory.
        with replacing(path) as temporary:
            page.dump(str(temporary), encoding="utf-8")


def _cell(column: str, value: float, mark: str = "") -> dict[str, Any]:
    """A number as the page shows it, and what it is sorted by."""
    return {"text": format_figure(column, value) + mark, "value": "" if math.isnan(value) else value}


def _marked(column: str, value: float, trained_on: str) -> dict[str, Any]:
    """A number, with a dagger if the codec was trained for it."""
    return _cell(column, value, DAGGER * (was_trained_on(trained_on, column) and not math.isnan(value)))


def _summary_table(summary: pd.DataFrame, origins: dict[str, str]) -> dict[str, Any]:
    columns = figure_columns(summary)
    trained = stated(summary)
    says = "trained_on" in summary
    rows = [
        {
            "texts": [row["codec"], row["quality"], *[trained[row["codec"]]] * says],
            "numbers": [_marked(name, row[name], trained[row["codec"]]) for name in columns],
            "end": origins[row["codec"]],
        }
        for row in summary.to_dict("records")
    ]
    return {
        "texts": ["codec", "quality", *["trained on"] * says],
        "numbers": [heading(name) for name in columns],
        "end": "source",
        "rows": rows,
    }


def _delta_table(deltas: pd.DataFrame, origins: dict[str, str]) -> dict[str, Any]:
    rows = []
    trained = stated(deltas)
    for row in deltas[deltas["bd_rate_percent"].notna()].to_dict("records"):
        mark = "" if row["overlap"] >= MIN_OVERLAP else "*"
        mark += DAGGER * was_trained_on(trained[row["codec"]], row["metric"])
        percent = [_percent(row[kind], mark) for kind in ("bd_rate_percent", "bd_rate_percent_akima")]
        bounds = [_percent(row[kind]) for kind in ("low", "high")]
        numbers = [percent[0], *bounds, percent[1], _cell("overlap", row["overlap"])]
        texts = [row["codec"], heading(row["metric"])]
        rows.append({"texts": texts, "numbers": numbers, "end": origins[row["codec"]]})
    numbers = [heading("bd_rate_percent"), "95 %, from", "to", heading("bd_rate_percent_akima"), "overlap"]
    return {"texts": ["codec", "metric"], "numbers": numbers, "end": "source", "rows": rows}


def _percent(value: float, mark: str = "") -> dict[str, Any]:
    return {"text": "", "value": ""} if math.isnan(value) else {"text": f"{value:+.1f}{mark}", "value": value}


def _plot(summary: pd.DataFrame, intervals: pd.DataFrame, origins: dict[str, str]) -> dict[str, Any]:
    """What the plots show, as JSON data: metrics, and curves of points with a value and an interval of each metric."""
    metrics = metric_columns(summary)
    finite = intervals[np.isfinite(intervals[["low", "high"]]).all(axis=1)]  # JSON has nothing else
    bounds = {(row.codec, str(row.quality), row.metric): [row.low, row.high] for row in finite.itertuples()}
    styles, trained = curve_styles(summary), stated(summary)
    curves = []
    for codec, curve in summary.groupby("codec", sort=False):
        points = [
            {
                "quality": str(row["quality"]),
                "bpp": row["bpp"],
                "values": {
                    name: [row[name], *bounds.get((codec, str(row["quality"]), name), [])]
                    for name in metrics
                    if math.isfinite(row[name])
                },
            }
            for row in curve.sort_values("bpp").to_dict("records")
        ]
        marked = [name for name in metrics if was_trained_on(trained[codec], name)]
        curves.append({"name": codec, "origin": origins[codec], "trained": marked, **styles[codec], "points": points})
    return {
        "metrics": [
            {
                "key": name,
                "label": heading(name),
                "digits": digits(name),
                "higher": FIGURES[name].higher_is_better,
            }
            for name in metrics
        ],
        "curves": curves,
    }


def _sections(
    dataset: ImageDataset,
    images: pd.DataFrame,
    shown: dict[str, int],
    pictures: KeptPictures,
    lossless: bool,
    bar: tqdm,
    trained: dict[str, str],
) -> Iterator[dict[str, Any]]:
    """Yield name, size, figures and embedded pictures of one image after the other."""
    columns = figure_columns(images)
    for name, original in dataset:
        if name not in shown:
            break
        rows = images[images["image"] == name].to_dict("records")
        decoded = (read_image(pictures.path(row["codec"], row["quality"], name)) for row in rows)
        yield {
            "name": name,
            "height": original.shape[1],
            "width": original.shape[2],
            "columns": [heading(column) for column in columns],
            "rows": [
                {
                    "codec": row["codec"],
                    "quality": row["quality"],
                    "numbers": [_marked(column, row[column], trained[row["codec"]]) for column in columns],
                }
                for row in rows
            ],
            "original": _embedded(original, lossless),
            "decoded": [_embedded(picture, lossless) for picture in decoded],
        }
        bar.update()


def _embedded(picture: Tensor, lossless: bool) -> str:
    """Return the base64 text of a WebP file."""
    buffer = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, "WEBP", lossless=lossless, quality=90, method=2)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _flat(data: dict[str, Any], prefix: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Return nested JSON data as pairs of text."""
    pairs: list[tuple[str, str]] = []
    for key, value in data.items():
        path = (*prefix, key.replace("_", " "))
        pairs += _flat(value, path) if isinstance(value, dict) else [(", ".join(path), str(value))]
    return pairs
