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
from compressai_gen.eval.trained import DAGGER, footnote, stated, was_trained_on
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
    by: str | None = None,
    all_published: bool = False,
) -> str:
    """Write ``leaderboard.csv``, ``points.csv``, ``leaderboard.md`` and ``leaderboard.html``.

    Args:
        folder: submissions and the records of their acceptance; a submission is called by its file's name.
        output: folder of the tables.
        dataset: submissions of others are left out, and so are those that are not accepted; both are told.
        anchor: a submission or published curve; by default as in the evaluation.
        by: the metric whose BD-rate gives the order; by default the mean place in those of all metrics that no
            submission's codec was trained to lower.
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
    summary = _with_trained(tables.summarize(images), {name: entry.record for name, entry in entries.items()})
    summary = _with_published(summary, dataset)
    if anchor is not None and not tables.curves_called(summary["codec"], anchor):
        raise SubmissionError(f"no anchor {anchor!r}; there are {', '.join(summary['codec'].unique())}")
    deltas = tables.bd_rates(summary, images, list(entries), anchor)
    if not all_published:
        deltas = tables.notable(deltas, summary)
    order = _order(summary, deltas, by)
    standings = _standings(summary, deltas, order)
    note = _note(summary, deltas, order)
    page = _page(entries, dataset, standings, note, summary, tables.intervals(images))
    text = _markdown(entries, dataset, standings, note)
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


def _with_trained(summary: pd.DataFrame, records: dict[str, Record]) -> pd.DataFrame:
    """Say what each submission's codec was trained on, as its record does."""
    trained = [records[codec].trained_on for codec in summary["codec"]]
    return summary.drop(columns="source").assign(trained_on=trained, source=summary["source"])


def _order(summary: pd.DataFrame, deltas: pd.DataFrame, by: str | None) -> list[str]:
    """Metrics whose BD-rates rank: the one asked for, or those that no submission's codec was trained on."""
    metrics = list(deltas["metric"].unique())
    if by is not None:
        return [by] if by in metrics else []
    trained = set(stated(summary[summary["source"] == "measured"]).values())
    return [metric for metric in metrics if not any(was_trained_on(names, metric) for names in trained)] or metrics


def _note(summary: pd.DataFrame, deltas: pd.DataFrame, order: list[str]) -> str:
    """What the tables are relative to, ordered by, and what their marks mean."""
    anchors = anchor_names(deltas) or "none: there is one curve only"
    labels = ", ".join(METRICS[metric].label if metric in METRICS else metric for metric in order)
    ranking = "the BD-rate" if len(order) == 1 else "the mean place in the BD-rates"
    ordered = f"Ordered by {ranking} in {labels}. " if order else ""
    training = footnote(stated(summary).values(), deltas["metric"].unique())
    return f"Anchor: {anchors}. {ordered}{NOTE} {training}".strip()


def _standings(summary: pd.DataFrame, deltas: pd.DataFrame, order: list[str]) -> pd.DataFrame:
    """One row per codec, submissions first, each kind from the lowest mean place in the metrics' BD-rates up."""
    table = summary.groupby(["codec", "source"], sort=False)[["encode_s", "decode_s"]].mean().reset_index()
    table["trained_on"] = table["codec"].map(stated(summary))
    table = table[(table["source"] == "measured") | table["codec"].isin([*deltas["codec"], *deltas["anchor"]])]
    table = table.reset_index(drop=True)
    table["anchor"] = table["codec"].map(deltas.groupby("codec")["anchor"].agg(lambda names: "; ".join(names.unique())))
    anchors = table["codec"].isin(deltas["anchor"])
    for metric in deltas["metric"].unique():
        of_metric = deltas[deltas["metric"] == metric].set_index("codec")
        for column in _DELTA_COLUMNS:
            table[f"{metric}_{column}"] = table["codec"].map(of_metric[column])
        table.loc[anchors, f"{metric}_bd_rate_percent"] = 0.0
    kinds = table.groupby("source")
    places = [kinds[f"{metric}_bd_rate_percent"].rank(method="min", na_option="bottom") for metric in order]
    table["place"] = sum(places) if places else 0
    return table.sort_values(["source", "place"], kind="stable", ignore_index=True).drop(columns="place")


def _rates(standings: pd.DataFrame) -> dict[str, list[str]]:
    """Text of each metric's BD-rates: ``-12.3 [-15.0, -9.8]``."""
    texts = {}
    for metric in (metric for metric in METRICS if f"{metric}_bd_rate_percent" in standings):
        columns = standings[[f"{metric}_{column}" for column in _DELTA_COLUMNS]]
        texts[metric] = [
            _rate(*values, was_trained_on(trained_on, metric))  # type: ignore[call-arg]
            for values, trained_on in zip(columns.to_numpy(dtype=float), standings["trained_on"], strict=True)
        ]
    return texts


def _rate(percent: float, low: float, high: float, overlap: float, is_trained: bool) -> str:
    if np.isnan(percent):
        return ""
    text = f"{percent:+.1f}" + "*" * bool(overlap < MIN_OVERLAP) + DAGGER * is_trained
    return text if np.isnan(low) else f"{text} [{low:+.1f}, {high:+.1f}]"


def _seconds(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3g}"


def _markdown(entries: dict[str, _Entry], dataset: str, standings: pd.DataFrame, note: str) -> str:
    rates = _rates(standings)
    rows = []
    for i, row in standings.iterrows():
        card = entries[row["codec"]].submission.card if row["codec"] in entries else {"title": "", "author": ""}
        texts = [row["codec"], card["title"], card["author"], row["source"], row["trained_on"]]
        texts += [rates[metric][i] for metric in rates]
        rows.append([escape_markdown(text) for text in (*texts, _seconds(row["encode_s"]), _seconds(row["decode_s"]))])
    columns = ["codec", "title", "author", "source", "trained on", *rates, "encode_s", "decode_s"]
    table = markdown_table(pd.DataFrame(rows, columns=columns))
    return f"# Leaderboard on {escape_markdown(dataset)}\n\n{escape_markdown(note)}\n\n{table}\n"


def _page(
    entries: dict[str, _Entry],
    dataset: str,
    standings: pd.DataFrame,
    note: str,
    summary: pd.DataFrame,
    intervals: pd.DataFrame,
) -> str:
    rates = _rates(standings)
    rows: dict[str, list[dict[str, Any]]] = {"measured": [], "published": []}
    for i, row in standings.iterrows():
        cells = [row["trained_on"], *(rates[metric][i] for metric in rates)]
        cells += [_seconds(row["encode_s"]), _seconds(row["decode_s"])]
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
        note=note,
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
