"""The tables and the page of accepted submissions."""

from __future__ import annotations

import base64
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd

from compressai_gen.data import known_datasets
from compressai_gen.errors import SubmissionError
from compressai_gen.eval import tables
from compressai_gen.eval.plots import plottable, rate_plot, try_plot
from compressai_gen.eval.store import PROTOCOL_VERSION
from compressai_gen.eval.typeset import LEFT_OUT, anchor_names
from compressai_gen.files import escape_markdown, file_name, markdown_table, replacing, write_table
from compressai_gen.leaderboard.submission import Submission, read_submission
from compressai_gen.leaderboard.verify import Record, read_record, record_path
from compressai_gen.metrics import METRICS, MIN_OVERLAP

__all__ = ["SUFFIX", "rank"]

SUFFIX = ".cgensub"
"""Of submissions, which ``rank`` looks for."""

NOTE = (
    "BD-rates are in percent of the bits of the anchor at equal figures, with 95 % intervals over the images: negative "
    f"is fewer bits. *: the curves share less than {MIN_OVERLAP:.0%} of their range. Empty: not defined. Figures and "
    "decoding times of submissions were measured when they were accepted; encoding times are the sender's. Published "
    f"figures are quoted from papers and not verified. {LEFT_OUT}"
)
_DELTA_COLUMNS = ["bd_rate_percent", "low", "high", "overlap"]


class _Entry(NamedTuple):
    submission: Submission
    record: Record


def rank(
    folder: Path,
    output: Path,
    dataset: str = "kodak",
    anchor: str | None = None,
    by: str = "lpips",
    all_published: bool = False,
) -> str:
    """Write ``leaderboard.csv``, ``points.csv``, ``leaderboard.md`` and ``leaderboard.html``.

    Args:
        folder: submissions and the records of their acceptance; a submission is called by its file's name.
        output: folder of the tables.
        dataset: submissions of others are left out, and so are those that are not accepted; both are told.
        anchor: a submission or published curve; by default as in the evaluation.
        by: the metric whose BD-rate gives the order.
        all_published: rank also published curves that share little with the anchor or that newer ones replace.

    Returns:
        What ``leaderboard.md`` says.

    Raises:
        SubmissionError: a submission or its record is refused, two are of different pictures, there are none, or the
            anchor is not among them.
    """
    entries = _read(folder, dataset)
    images = pd.concat([_images(name, entry) for name, entry in entries.items()], ignore_index=True)
    images = tables.per_image(images)
    summary = _with_published(tables.summarize(images), dataset)
    if anchor is not None and not tables.curves_called(summary["codec"], anchor):
        raise SubmissionError(f"no anchor {anchor!r}; there are {', '.join(summary['codec'].unique())}")
    deltas = tables.bd_rates(summary, images, list(entries), anchor)
    if not all_published:
        deltas = tables.notable(deltas, summary)
    standings = _standings(summary, deltas, by)
    anchors = anchor_names(deltas) or "none: there is one curve only"
    page = _page(entries, dataset, standings, anchors, summary, tables.intervals(images))
    text = _markdown(entries, dataset, standings, anchors)
    write_table(standings, output / "leaderboard.csv")
    write_table(summary, output / "points.csv")
    for name, content in (("leaderboard.md", text), ("leaderboard.html", page)):
        with replacing(output / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return text


def _read(folder: Path, dataset: str) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if not record_path(path).is_file():
            print(f"left out: {path} is not accepted; 'verify' accepts it", file=sys.stderr)
            continue
        submission = read_submission(path)
        if submission.dataset != dataset:
            print(f"left out: {path} is of {submission.dataset!r}", file=sys.stderr)
            continue
        entry = _Entry(submission, read_record(path, submission))
        # Intervals draw the same pictures for every codec.
        first = next(iter(entries.values()), entry)
        if submission.images != first.submission.images:
            raise SubmissionError(f"{path} is of other pictures than the first submission of {dataset}")
        name = file_name(path.stem)
        if name in entries:
            raise SubmissionError(f"{path} would be called {name!r}, as another submission is; rename it")
        entries[name] = entry
    if not entries:
        raise SubmissionError(f"{folder} holds no accepted submission of {dataset}")
    return entries


def _images(name: str, entry: _Entry) -> pd.DataFrame:
    return entry.record.rows.assign(codec=name, encode_s=entry.submission.rows["encode_s"])


def _with_published(summary: pd.DataFrame, dataset: str) -> pd.DataFrame:
    if dataset not in known_datasets():  # a folder's name, which may be that of a benchmark
        return summary
    published = tables.published_summary(dataset, summary)
    if clash := set(published["codec"]) & set(summary["codec"]):
        raise SubmissionError(f"{min(clash)!r} is the name of a published curve; rename that submission")
    return pd.concat([summary, published], ignore_index=True) if len(published) else summary


def _standings(summary: pd.DataFrame, deltas: pd.DataFrame, by: str) -> pd.DataFrame:
    """One row per codec, submissions first, each kind from the lowest BD-rate of a metric up."""
    table = summary.groupby(["codec", "source"], sort=False)[["encode_s", "decode_s"]].mean().reset_index()
    table = table[(table["source"] == "measured") | table["codec"].isin([*deltas["codec"], *deltas["anchor"]])]
    table = table.reset_index(drop=True)
    table["anchor"] = table["codec"].map(deltas.groupby("codec")["anchor"].agg(lambda names: "; ".join(names.unique())))
    anchors = table["codec"].isin(deltas["anchor"])
    for metric in deltas["metric"].unique():
        of_metric = deltas[deltas["metric"] == metric].set_index("codec")
        for column in _DELTA_COLUMNS:
            table[f"{metric}_{column}"] = table["codec"].map(of_metric[column])
        table.loc[anchors, f"{metric}_bd_rate_percent"] = 0.0
    order = [f"{by}_bd_rate_percent"] if f"{by}_bd_rate_percent" in table else []
    return table.sort_values(["source", *order], kind="stable", ignore_index=True)


def _rates(standings: pd.DataFrame) -> dict[str, list[str]]:
    """Text of each metric's BD-rates: ``-12.3 [-15.0, -9.8]``."""
    texts = {}
    for metric in (metric for metric in METRICS if f"{metric}_bd_rate_percent" in standings):
        columns = standings[[f"{metric}_{column}" for column in _DELTA_COLUMNS]]
        texts[metric] = [_rate(*values) for values in columns.to_numpy(dtype=float)]
    return texts


def _rate(percent: float, low: float, high: float, overlap: float) -> str:
    if np.isnan(percent):
        return ""
    text = f"{percent:+.1f}" + "*" * bool(overlap < MIN_OVERLAP)
    return text if np.isnan(low) else f"{text} [{low:+.1f}, {high:+.1f}]"


def _seconds(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3g}"


def _markdown(entries: dict[str, _Entry], dataset: str, standings: pd.DataFrame, anchors: str) -> str:
    rates = _rates(standings)
    rows = []
    for i, row in standings.iterrows():
        card = entries[row["codec"]].submission.card if row["codec"] in entries else {"title": "", "author": ""}
        texts = [row["codec"], card["title"], card["author"], row["source"], *(rates[metric][i] for metric in rates)]
        rows.append([escape_markdown(text) for text in (*texts, _seconds(row["encode_s"]), _seconds(row["decode_s"]))])
    columns = ["codec", "title", "author", "source", *rates, "encode_s", "decode_s"]
    table = markdown_table(pd.DataFrame(rows, columns=columns))
    note = escape_markdown(f"Anchor: {anchors}. {NOTE}")
    return f"# Leaderboard on {escape_markdown(dataset)}\n\n{note}\n\n{table}\n"


def _page(
    entries: dict[str, _Entry],
    dataset: str,
    standings: pd.DataFrame,
    anchors: str,
    summary: pd.DataFrame,
    intervals: pd.DataFrame,
) -> str:
    rates = _rates(standings)
    rows: dict[str, list[dict[str, Any]]] = {"measured": [], "published": []}
    for i, row in standings.iterrows():
        cells = [rates[metric][i] for metric in rates] + [_seconds(row["encode_s"]), _seconds(row["decode_s"])]
        entry = entries.get(row["codec"])
        rows[row["source"]].append({"codec": row["codec"], "entry": entry, "cells": cells})
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    # As images they are sealed off: nothing that a picture may hold can reach the page.
    drawn = {name: try_plot(partial(rate_plot, summary, name, dataset), name, ["svg"]) for name in plottable(summary)}
    plots = {metric: files["svg"] for metric, files in drawn.items() if files}
    return environment.get_template("page.html.jinja").render(
        dataset=dataset,
        protocol=PROTOCOL_VERSION,
        anchor=anchors,
        note=NOTE,
        metrics=list(rates),
        rows=rows,
        plots={METRICS[metric].label: base64.b64encode(plot).decode() for metric, plot in plots.items()},
        points=_points(intervals),
    )


def _points(intervals: pd.DataFrame) -> dict[str, Any]:
    """Means with intervals: ``columns``, and ``rows`` of codec, quality and the text of each column."""
    texts = intervals.assign(
        text=[f"{row.mean:.4g} [{row.low:.4g}, {row.high:.4g}]" for row in intervals.itertuples(index=False)]
    )
    table = texts.pivot(index=["codec", "quality"], columns="metric", values="text").fillna("")
    table = table[[metric for metric in ("bpp", *METRICS) if metric in table]]
    return {"columns": list(table), "rows": list(table.reset_index().itertuples(index=False, name=None))}
