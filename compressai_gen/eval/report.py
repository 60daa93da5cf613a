"""The files of a run, and the table that it prints."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from compressai_gen.eval import tables
from compressai_gen.eval.plots import overview_plot, plottable, rate_plot, write_plot
from compressai_gen.eval.trained import DAGGER, FOOTNOTE, stated, was_trained_on
from compressai_gen.eval.typeset import write_typeset
from compressai_gen.files import escape_markdown, file_names, replacing, write_json, write_table
from compressai_gen.metrics import MIN_OVERLAP, SET_METRICS

__all__ = ["format_report", "write_report"]


def write_report(
    output: Path,
    images: pd.DataFrame,
    summary: pd.DataFrame,
    intervals: pd.DataFrame,
    deltas: pd.DataFrame,
    environment: dict[str, Any],
    all_published: bool = False,
) -> None:
    """Write tables, plots and environment of a run to the folder `output`, each file whole or not at all."""
    dataset = environment["dataset"]
    description = f"{dataset['name']}, {dataset['images']} images, compressai-gen {environment['compressai_gen']}"
    write_table(images.drop(columns=tables.terms_columns(images)), output / "images.csv")
    write_table(summary, output / "summary.csv")
    write_table(intervals, output / "intervals.csv")
    write_table(deltas, output / "bd_rate.csv")
    write_typeset(output, dataset["name"], summary, intervals, deltas, tables.origins(summary, dataset["name"]))
    for codec, name in file_names(images["codec"].unique(), taken=["environment"]).items():
        write_json(tables.compressai_results(codec, summary, description), output / f"{name}.json")
    write_json(environment, output / "environment.json")
    _note_unreadable(environment.get("unreadable", []), output / "summary.md")
    _write_plots(output, dataset["name"], summary, intervals, all_published)


def _note_unreadable(names: list[str], table: Path) -> None:
    if names:
        text = table.read_text(encoding="utf-8")
        with replacing(table) as temporary:
            left_out = ", ".join(map(escape_markdown, names))
            temporary.write_text(f"{text}\nLeft out of every mean, as unreadable: {left_out}.\n", encoding="utf-8")


def _write_plots(output: Path, name: str, summary: pd.DataFrame, intervals: pd.DataFrame, all_published: bool) -> None:
    metrics = plottable(summary)
    for metric in metrics:
        title = f"{name}{_doubt(summary)}" if metric in SET_METRICS else name
        draw = partial(rate_plot, summary, metric, title, intervals, all_published)
        write_plot(draw, output / f"rd_{metric}")
    if len(metrics) > 1:
        write_plot(partial(overview_plot, summary, metrics, name, intervals), output / "rd_overview")


def _doubt(summary: pd.DataFrame) -> str:
    patches = tables.few_patches(summary)
    return "" if patches is None else f" ({patches} patches: not comparable with papers)"


def format_report(summary: pd.DataFrame, deltas: pd.DataFrame) -> str:
    """Return the measured means and their BD-rates as text."""
    measured = summary[summary["source"] == "measured"].drop(columns="source").dropna(axis=1, how="all")
    text = measured.to_string(index=False, float_format="{:.4f}".format)
    if doubt := _doubt(summary):
        text += f"\n{', '.join(metric for metric in SET_METRICS if metric in measured)}{doubt}"
    deltas = deltas[deltas["codec"].isin(measured["codec"])]
    if deltas.empty:
        several = measured["codec"].nunique() > 1
        return f"{text}\n\n{_NO_ANCHOR}" if several else text
    trained = stated(deltas)
    marks = np.where(deltas["overlap"] < MIN_OVERLAP, "*", "") + np.array(
        [DAGGER * was_trained_on(trained[row.codec], row.metric) for row in deltas.itertuples()], dtype=object
    )
    rates = deltas["bd_rate_percent"]
    percent = ["" if pd.isna(rate) else f"{rate:+.1f}{mark}" for rate, mark in zip(rates, marks, strict=True)]
    lines = deltas[["codec", "anchor", "metric"]].assign(bd_rate_percent=percent, overlap=deltas["overlap"].round(2))
    reasons = "".join(
        f"\nundefined: {row['codec']}, {row['metric']}: {row['reason']}"
        for row in deltas[rates.isna()].to_dict("records")
        if isinstance(row.get("reason"), str) and row["reason"]
    )
    note = f"\n*: the curves share less than {MIN_OVERLAP:.0%} of their quality range" if "*" in "".join(marks) else ""
    note += f"\n{FOOTNOTE}" if DAGGER in "".join(marks) else ""
    return f"{text}\n\n{lines.to_string(index=False)}{note}{reasons}"


_NO_ANCHOR = (
    "no BD-rates: avif was not measured, and there are no published curves and no baselines; measure it with "
    "--baselines avif, or name one of the codecs with --anchor"
)
