"""Tables as a paper prints them: Markdown, and LaTeX with booktabs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from compressai_gen.eval.trained import DAGGER, footnote, stated, was_trained_on
from compressai_gen.files import escape_markdown, markdown_table, replacing
from compressai_gen.metrics import FIGURES, MIN_OVERLAP

__all__ = [
    "LEFT_OUT",
    "anchor_names",
    "digits",
    "figure_columns",
    "format_figure",
    "heading",
    "metric_columns",
    "write_typeset",
]

LEFT_OUT = (
    "Published curves that share too little with the anchor, or that a newer one of the same family replaces, are left "
    "out unless --all-published is given."
)
"""Said wherever BD-rates of published curves stand."""

_HEADINGS = {
    "bpp": "rate [bpp]",
    "encode_s": "encoding [s]",
    "decode_s": "decoding [s]",
    "bd_rate_percent": "PCHIP [%]",
    "bd_rate_percent_akima": "Akima [%]",
}
_DIGITS = {"psnr": 2, "ssimulacra2": 2, "grid": 2, "blocking": 2, "encode_s": 3, "decode_s": 3, "overlap": 2}


class _Markup(NamedTuple):
    """How one of the two languages writes what the tables need.

    Attributes:
        text: escapes a name.
        math: encloses a number.
        bold: of a number, inside `math`.
        plus_minus: between a mean and half its interval.
        marks: encloses the marks behind a figure, inside `math`.
        star, dagger: marks of a figure of little overlap, and of one that the codec was trained for.
        up, down: arrows behind the heading of a metric: the better direction.
        infinity: inside `math`.
    """

    text: Callable[[str], str]
    math: str
    bold: str
    plus_minus: str
    marks: str
    star: str
    dagger: str
    up: str
    down: str
    infinity: str


_LATEX_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # Behind the end of a row, a bracket would be taken for the row's optional argument.
    "[": "{[}",
    "]": "{]}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def _escape_latex(text: str) -> str:
    return "".join(_LATEX_ESCAPES.get(character, character) for character in text)


_MARKDOWN = _Markup(escape_markdown, "{}", "**{}**", " ± ", "{}", r"\*", DAGGER, "↑", "↓", "∞")
_LATEX = _Markup(
    _escape_latex,
    "${}$",
    r"\mathbf{{{}}}",
    r" \pm ",
    "^{{{}}}",
    "*",
    r"\dagger",
    r"$\uparrow$",
    r"$\downarrow$",
    r"\infty",
)


def heading(column: str) -> str:
    """Return a column's heading with its unit."""
    return FIGURES[column].label if column in FIGURES else _HEADINGS.get(column, column)


def digits(column: str) -> int:
    """Return how many digits behind the point the figures of a column have."""
    return _DIGITS.get(column, 4)


def format_figure(column: str, value: float) -> str:
    """Return a figure with the digits of its column, or an empty text where it is undefined."""
    if math.isnan(value):
        return ""
    return "∞" if math.isinf(value) else f"{value:.{digits(column)}f}"


def metric_columns(table: pd.DataFrame) -> list[str]:
    """Return the metrics of a table of which there is at least one figure."""
    return [name for name in table.columns if name in FIGURES and table[name].notna().any()]


def figure_columns(table: pd.DataFrame) -> list[str]:
    """Return rate, metrics and times."""
    return ["bpp", *metric_columns(table), *(name for name in ("encode_s", "decode_s") if name in table)]


def anchor_names(deltas: pd.DataFrame) -> str:
    """Return what BD-rates are relative to."""
    return " or ".join(deltas["anchor"].unique())


def write_typeset(
    output: Path,
    dataset: str,
    summary: pd.DataFrame,
    intervals: pd.DataFrame,
    deltas: pd.DataFrame,
    origins: dict[str, str],
) -> None:
    """Write ``summary.md``, ``summary.tex``, ``bd_rate.md`` and ``bd_rate.tex`` to the folder `output`.

    Args:
        output: folder.
        dataset: its name, for the captions.
        summary, intervals, deltas: as ``summary.csv``, ``intervals.csv`` and ``bd_rate.csv``.
        origins: source of each codec's figures, see ``tables.origins``.
    """
    deltas = deltas[deltas["bd_rate_percent"].notna()]
    summary_note = f"Means over {dataset}. ±: half of the 95 % bootstrap interval over images."
    published = any(origin != "measured" for origin in origins.values())
    source_note = " Published figures are others', not measured here." if published else ""
    delta_note = (
        f"BD-rates on {dataset} against {anchor_names(deltas)}; negative: fewer bits for the same figure. In brackets: "
        f"95 % paired bootstrap interval over images. Overlap: share of the joint quality range on which both curves "
        f"exist; *: under {MIN_OVERLAP}, never bold. Bold: best of a column."
    )
    if "trained_on" in summary:
        note = footnote(stated(summary).values(), metric_columns(summary))
        source_note += f" {note}" if note else ""
    for markup, suffix in ((_MARKDOWN, "md"), (_LATEX, "tex")):
        tables = {"summary": (_summary_table(summary, intervals, origins, markup), summary_note + source_note)}
        if not deltas.empty:
            left_out = f" {LEFT_OUT}" if published else ""
            tables["bd_rate"] = (_delta_table(deltas, origins, markup), delta_note + source_note + left_out)
        for name, (table, note) in tables.items():
            label = re.sub(r"\W+", "-", f"{dataset}-{name}")
            text = _to_markdown(table, note) if suffix == "md" else _to_latex(table, note, label, name == "summary")
            with replacing(output / f"{name}.{suffix}") as temporary:
                temporary.write_text(text, encoding="utf-8")


def _summary_table(
    summary: pd.DataFrame, intervals: pd.DataFrame, origins: dict[str, str], markup: _Markup
) -> pd.DataFrame:
    columns = figure_columns(summary)
    trained = stated(summary)
    halves = {(row.codec, str(row.quality), row.metric): (row.high - row.low) / 2 for row in intervals.itertuples()}

    def cell(row: pd.Series, column: str) -> str:
        figure = format_figure(column, row[column]).replace("∞", markup.infinity)
        half = halves.get((row["codec"], str(row["quality"]), column), math.nan)
        if figure and was_trained_on(trained[row["codec"]], column):
            figure += markup.marks.format(markup.dagger)
        if not figure or not math.isfinite(half):
            return figure and markup.math.format(figure)
        return markup.math.format(figure + markup.plus_minus + format_figure(column, half))

    cells = {
        "codec": summary["codec"].map(markup.text),
        "quality": summary["quality"].astype(str).map(markup.text),
        **{_heading(name, markup): [cell(row, name) for _, row in summary.iterrows()] for name in columns},
        **_training(summary["codec"], summary, markup),
        "source": summary["codec"].map(origins).map(markup.text),
    }
    return pd.DataFrame(cells)


def _training(codecs: pd.Series | list[str], table: pd.DataFrame, markup: _Markup) -> dict[str, list[str]]:
    """The column that says what each codec was trained on, where the table does."""
    if "trained_on" not in table:
        return {}
    trained = stated(table)
    return {"trained on": [markup.text(trained[codec]) for codec in codecs]}


def _delta_table(deltas: pd.DataFrame, origins: dict[str, str], markup: _Markup) -> pd.DataFrame:
    """One row per codec; the columns have two levels, metric and kind of figure."""
    codecs = list(deltas["codec"].unique())
    trained = stated(deltas)
    table = {("", "codec"): [markup.text(codec) for codec in codecs]}
    for metric, rows in deltas.groupby("metric", sort=False):
        rows = rows.set_index("codec").reindex(codecs)
        reliable = rows["overlap"] >= MIN_OVERLAP
        marks = [
            markup.star * (not sure) + markup.dagger * was_trained_on(trained[codec], metric)
            for codec, sure in zip(codecs, reliable, strict=True)
        ]
        for kind in ("bd_rate_percent", "bd_rate_percent_akima"):
            best = rows.loc[reliable, kind].min()
            bounds = rows[["low", "high"]] if kind == "bd_rate_percent" else rows[["low", "high"]] * math.nan
            table[_heading(metric, markup), _heading(kind, markup)] = [
                _percent(value, low, high, mark, sure and value == best, markup)
                for value, sure, mark, low, high in zip(
                    rows[kind], reliable, marks, bounds["low"], bounds["high"], strict=True
                )
            ]
        overlap = [format_figure("overlap", value) for value in rows["overlap"]]
        table[_heading(metric, markup), "overlap"] = [text and markup.math.format(text) for text in overlap]
    ends = _training(codecs, deltas, markup) | {"source": [markup.text(origins[codec]) for codec in codecs]}
    return pd.DataFrame(table | {("", name): texts for name, texts in ends.items()})


def _percent(value: float, low: float, high: float, marks: str, best: bool, markup: _Markup) -> str:
    if math.isnan(value):
        return ""
    text = markup.bold.format(f"{value:+.1f}") if best else f"{value:+.1f}"
    text = markup.math.format(text + markup.marks.format(marks) if marks else text)
    return text if math.isnan(low) else f"{text} {markup.math.format(f'[{low:+.1f}, {high:+.1f}]')}"


def _heading(column: str, markup: _Markup) -> str:
    text = markup.text(heading(column))
    if column not in FIGURES:
        return text
    return f"{text} {markup.up if FIGURES[column].higher_is_better else markup.down}"


def _to_markdown(table: pd.DataFrame, note: str) -> str:
    if table.columns.nlevels > 1:
        table = table.set_axis([": ".join(filter(None, levels)) for levels in table.columns], axis=1)
    return f"{markdown_table(table)}\n\n{escape_markdown(note)}\n"


def _to_latex(table: pd.DataFrame, note: str, label: str, is_long: bool) -> str:
    """Return a ``longtable``, which breaks over pages, or a ``table*`` for both columns of a page."""
    texts = ("codec", "quality", "trained on", "source")
    last = [column[-1] if isinstance(column, tuple) else column for column in table.columns]
    text = table.style.hide(axis="index").to_latex(
        hrules=True,
        column_format="".join("l" if name in texts else "r" for name in last),
        multicol_align="c",
        environment="longtable" if is_long else "table*",
        position_float=None if is_long else "centering",
        caption=_escape_latex(note).replace("±", r"$\pm$").replace(DAGGER, r"$\dagger$"),
        label=f"tab:{label}",
    )
    packages = r"\usepackage{booktabs,longtable}" if is_long else r"\usepackage{booktabs}"
    return f"% needs {packages}\n{text}"
