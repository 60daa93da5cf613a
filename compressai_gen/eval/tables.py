"""From rows per image to the tables that are published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from compressai_gen.codecs import base_name, newest_of_families, published_curves, published_training
from compressai_gen.eval.bootstrap import interval, resample_means
from compressai_gen.eval.trained import stated, told
from compressai_gen.metrics import (
    DEFAULT_METRICS,
    FIGURES,
    METRICS,
    MIN_OVERLAP,
    MIN_PATCHES,
    SET_METRICS,
    BDRate,
    bd_rate,
)
from compressai_gen.metrics.bd_rate import why_undefined

__all__ = [
    "bd_rates",
    "compressai_results",
    "curves_called",
    "few_patches",
    "intervals",
    "notable",
    "origins",
    "per_image",
    "published_summary",
    "summarize",
    "terms_columns",
]

_TIMES = ["encode_s", "decode_s"]
# Figures of a source that another definition gave than the one here: two take MS-SSIM of luma (eval/SOURCES.md), and
# the third does not say of which channels its SSIM is.
_MEASURED_OTHERWISE = {"aeic": ["ms_ssim"], "stablecodec": ["ms_ssim"], "diffeic": ["ssim"]}
# What CompressAI's plotting tool calls these columns.
_COMPRESSAI_NAMES = {
    "psnr": "psnr-rgb",
    "ms_ssim": "ms-ssim-rgb",
    "encode_s": "encoding_time",
    "decode_s": "decoding_time",
}


def _metric_columns(table: pd.DataFrame) -> list[str]:
    """The default metrics, measured or not, so that tables of different runs line up; then further ones."""
    return [*DEFAULT_METRICS, *(name for name in FIGURES if name not in DEFAULT_METRICS and name in table)]


def per_image(measured: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of ``runner.measure`` with the columns of ``images.csv``, and the terms of pooled metrics."""
    columns = ["codec", "quality", "image", "bpp", *_metric_columns(measured), *_TIMES, *terms_columns(measured)]
    return measured.reindex(columns=columns)


def terms_columns(measured: pd.DataFrame) -> list[str]:
    """Return the columns of terms, of which the figures of a set are made; no file shows them."""
    return [name for name in (f"{metric}_terms" for metric in METRICS) if name in measured]


def _pooled(group: pd.DataFrame, metric: str) -> np.ndarray | None:
    """Terms of a pooled metric, images first; None where it is undefined for one of them."""
    terms = group.get(f"{metric}_terms")
    return None if terms is None or terms.isna().any() else np.array(terms.tolist())


def _of_terms(metric: str, means: np.ndarray) -> float:
    return METRICS[metric].pooled(torch.from_numpy(means))


def summarize(
    images: pd.DataFrame,
    of_set: pd.DataFrame | None = None,
    trained: Mapping[str, frozenset[str] | None] | None = None,
) -> pd.DataFrame:
    """Return the means over images, one row per codec and quality, with the columns of ``summary.csv``.

    A metric that is undefined (NaN) for one image is undefined for the set: a mean over other images than the
    neighbouring row's would not be comparable. Of pooled metrics the figure comes from the means of their terms.

    Args:
        images: of :func:`per_image`.
        of_set: figures that are no means, of ``features.set_figures``, with the number of patches behind them.
        trained: metrics that each codec was trained to lower, None where that is unknown; with it the summary has a
            column ``trained_on``.
    """
    keys = ["codec", "quality"]
    groups = images.groupby(keys, sort=False)
    columns = ["bpp", *_metric_columns(images), *_TIMES]
    summary = groups[columns].agg(lambda values: values.mean(skipna=False)).assign(n_images=groups.size())
    for metric in _metric_columns(images):
        if metric in METRICS and METRICS[metric].pooled:
            means = {key: _pooled(group, metric) for key, group in groups}
            summary[metric] = [
                np.nan if means[key] is None else _of_terms(metric, means[key].mean(axis=0)) for key in summary.index
            ]
    counts = ["n_images"]
    if of_set is not None:
        summary = summary.join(of_set.set_index(keys))
        counts.append("n_patches")
    columns = [*keys, "bpp", *_metric_columns(summary), *_TIMES, *counts]
    summary = summary.reset_index()[columns]
    if trained is not None:
        summary["trained_on"] = [told(trained.get(codec)) for codec in summary["codec"]]
    return summary.assign(source="measured")


def few_patches(summary: pd.DataFrame) -> int | None:
    """Return the number of patches where it is too small to compare the set's figures with papers, else None."""
    if "n_patches" not in summary:
        return None
    count = int(summary["n_patches"].min())
    return count if count < MIN_PATCHES else None


def published_summary(dataset: str, summary: pd.DataFrame) -> pd.DataFrame:
    """Return the published points of a dataset in the columns of a summary.

    Times and counts are left empty, and so are figures that do not compare with the measured ones: those of the set
    where these are of few patches, and those of a source that measures otherwise.
    """
    table = published_curves(dataset).rename(columns={"point": "quality"})
    for source, columns in _MEASURED_OTHERWISE.items():
        table.loc[table["source"] == source, [column for column in columns if column in table]] = np.nan
    trained = [told(published_training(codec)) for codec in table["codec"]]
    table = table.assign(source="published", trained_on=trained)
    if few_patches(summary) is not None:
        table = table.drop(columns=list(SET_METRICS), errors="ignore")
    return table.reindex(columns=summary.columns)


def origins(summary: pd.DataFrame, dataset: str) -> dict[str, str]:
    """Return where the figures of each codec come from: ``measured``, or ``published: <source>``."""
    sources = published_curves(dataset).drop_duplicates("codec").set_index("codec")["source"]
    rows = summary.drop_duplicates("codec")
    return {
        codec: f"published: {sources[codec]}" if source == "published" else source
        for codec, source in zip(rows["codec"], rows["source"], strict=True)
    }


def intervals(images: pd.DataFrame) -> pd.DataFrame:
    """Return 95 % bootstrap intervals: ``codec, quality, metric, mean, low, high``, bpp among the metrics."""
    rows = []
    for (codec, quality), group in images.groupby(["codec", "quality"], sort=False):
        for metric in ["bpp", *_metric_columns(images)]:
            values = group[metric].to_numpy(dtype=float)
            if metric in METRICS and METRICS[metric].pooled:
                terms = _pooled(group, metric)
                if terms is not None:
                    low, high = interval([_of_terms(metric, means) for means in resample_means(terms)])
                    rows.append((codec, quality, metric, _of_terms(metric, terms.mean(axis=0)), low, high))
            elif not np.isnan(values).any():
                low, high = interval(resample_means(values))
                rows.append((codec, quality, metric, values.mean(), low, high))
    return pd.DataFrame(rows, columns=["codec", "quality", "metric", "mean", "low", "high"])


def bd_rates(
    summary: pd.DataFrame, images: pd.DataFrame, baselines: Sequence[str] = (), anchor: str | None = None
) -> pd.DataFrame:
    """Return BD-rates of every other curve against the anchor, by the metrics that have such.

    Args:
        summary: as :func:`summarize` and :func:`published_summary` return it.
        images: as :func:`per_image` returns it.
        baselines: the first is the anchor of last resort.
        anchor: a curve of the summary, or the name without source of published ones that several sources measured. By
            default it is the measured ``avif``; without it the published VTM of the dataset; without these the first
            baseline. Of several curves, each comparison takes the one with the largest overlap.

    Returns:
        Columns ``codec, anchor, metric, bd_rate_percent, overlap, bd_rate_percent_akima, low, high, reason`` and
        ``trained_on``. The first percentage is by PCHIP; `low` and `high` are its 95 % bootstrap interval over the
        images, for measured codecs and figures of single images; the reason says why a percentage is undefined; the
        last column, all metrics that the codec was trained to lower, is there where the summary has it.
    """
    anchors = curves_called(summary["codec"], anchor) if anchor else _anchor_names(summary, baselines)
    rows = []
    for codec in summary["codec"].unique():
        if codec in anchors:
            continue
        for metric in (name for name in _metric_columns(summary) if FIGURES[name].has_bd_rate):
            usable = [anchor for anchor in anchors if _has(summary, anchor, metric)]
            if usable and _has(summary, codec, metric):
                best = max(usable, key=lambda name: _delta(summary, name, codec, metric).overlap)
                delta = _delta(summary, best, codec, metric)
                akima = _delta(summary, best, codec, metric, method="akima")
                low, high = _bd_interval(summary, images, best, codec, metric)
                figures = delta.percent, delta.overlap, akima.percent, low, high
                rows.append((codec, best, metric, *figures, _reason(summary, best, codec, metric)))
    columns = ["codec", "anchor", "metric", "bd_rate_percent", "overlap", "bd_rate_percent_akima", "low", "high"]
    deltas = pd.DataFrame(rows, columns=[*columns, "reason"])
    if "trained_on" in summary:
        deltas["trained_on"] = deltas["codec"].map(stated(summary))
    return deltas


def notable(deltas: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """Leave out the BD-rates of published curves that say little beside those that stay.

    Of each family stays the newest codec (:func:`~compressai_gen.codecs.newest_of_families`) among those of which some
    metric has an overlap with the anchor of at least ``MIN_OVERLAP``. Measured curves all stay.

    Args:
        deltas: as :func:`bd_rates` returns them.
        summary: what they are of.
    """
    published = deltas["codec"].isin(summary.loc[summary["source"] == "published", "codec"])
    comparable = deltas[published & (deltas["overlap"] >= MIN_OVERLAP) & deltas["bd_rate_percent"].notna()]
    shared = comparable.groupby("codec", sort=False)["overlap"].sum()
    return deltas[~published | deltas["codec"].isin(newest_of_families(shared.to_dict()))].reset_index(drop=True)


def curves_called(codecs: Iterable[str], name: str) -> list[str]:
    """Return the curves of a name: one, or those of all sources where several published it (``VTM [diffeic]``)."""
    return [codec for codec in dict.fromkeys(codecs) if name in (codec, base_name(codec))]


def _anchor_names(summary: pd.DataFrame, baselines: Sequence[str]) -> list[str]:
    measured = summary[summary["source"] == "measured"]["codec"]
    if "avif" in set(measured):
        return ["avif"]
    vtm = curves_called(summary.loc[summary["source"] == "published", "codec"], "VTM")
    return vtm or [name for name in baselines if name in set(measured)][:1]


def _has(summary: pd.DataFrame, codec: str, metric: str) -> bool:
    return bool(summary.loc[summary["codec"] == codec, metric].notna().any())


def _delta(summary: pd.DataFrame, anchor: str, test: str, metric: str, method: str = "pchip") -> BDRate:
    a, b = summary[summary["codec"] == anchor], summary[summary["codec"] == test]
    return bd_rate(a["bpp"], a[metric], b["bpp"], b[metric], method, FIGURES[metric].higher_is_better)


def _reason(summary: pd.DataFrame, anchor: str, test: str, metric: str) -> str:
    a, b = summary[summary["codec"] == anchor], summary[summary["codec"] == test]
    return why_undefined(a["bpp"], a[metric], b["bpp"], b[metric], "pchip", FIGURES[metric].higher_is_better)


def _bd_interval(
    summary: pd.DataFrame, images: pd.DataFrame, anchor: str, test: str, metric: str
) -> tuple[float, float]:
    """Resample the test codec's images, and the anchor's with them; a published anchor has none and stays as it is.

    Undefined for published codecs and for figures that images do not have.
    """
    if test not in set(images["codec"]) or metric not in images:
        return float("nan"), float("nan")
    a, b = _curve_resamples(summary, images, anchor, metric), _curve_resamples(summary, images, test, metric)
    higher = FIGURES[metric].higher_is_better
    return interval([bd_rate(*x, *y, higher_is_better=higher).percent for x, y in zip(a, b, strict=True)])


def _curve_resamples(summary: pd.DataFrame, images: pd.DataFrame, codec: str, metric: str) -> np.ndarray:
    """Shape (RESAMPLES, 2, qualities): bpp and metric of each resampled curve."""
    if codec in set(images["codec"]):
        curve = images[images["codec"] == codec].pivot(index="image", columns="quality", values=["bpp", metric])
        values = curve.to_numpy(dtype=float).reshape(len(curve), 2, -1)
        return resample_means(values)
    published = summary.loc[summary["codec"] == codec, ["bpp", metric]].to_numpy(dtype=float).T
    return resample_means(published[np.newaxis])


def compressai_results(codec: str, summary: pd.DataFrame, description: str) -> dict[str, Any]:
    """Return a codec's measured curve in CompressAI's results format, which ``compressai.utils.plot`` reads.

    A metric that is undefined at some quality is left out, as JSON has no NaN.
    """
    table = summary[summary["codec"] == codec].sort_values("bpp")
    columns = ["bpp", *_metric_columns(table), *_TIMES]
    finite = [column for column in columns if np.isfinite(table[column].to_numpy(dtype=float)).all()]
    results = {_COMPRESSAI_NAMES.get(column, column): [float(value) for value in table[column]] for column in finite}
    return {"name": codec, "description": description, "results": results}
