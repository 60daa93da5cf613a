import math

import numpy as np
import pandas as pd
import pytest
import torch

from compressai_gen.eval import tables
from compressai_gen.eval.bootstrap import interval, resample_means
from compressai_gen.metrics import DEFAULT_METRICS, LINES, bd_rate
from compressai_gen.metrics.grid import GridMetric

SUMMARY_COLUMNS = [
    "codec", "quality", "bpp", *DEFAULT_METRICS, "encode_s", "decode_s", "n_images", "source",
]  # fmt: skip


def _measured(codec="mine", gain=0.0, images=6, **extra):
    """Four qualities of a codec, on images of different difficulty."""
    rows = [
        {
            "codec": codec,
            "quality": quality,
            "image": f"i{image}",
            "bpp": 0.1 * 2**quality * (1 + 0.05 * image),
            "psnr": 26 + 2 * quality + gain - 0.3 * image,
            "lpips": 0.4 - 0.07 * quality - 0.01 * gain + 0.01 * image,
            "encode_s": 0.1,
            "decode_s": 0.2,
            **extra,
        }
        for quality in range(4)
        for image in range(images)
    ]
    return tables.per_image(pd.DataFrame(rows))


def test_summary_is_the_mean_over_images():
    images = _measured()
    summary = tables.summarize(images)
    assert list(summary.columns) == SUMMARY_COLUMNS
    first = images[images["quality"] == 0]
    assert summary["psnr"][0] == pytest.approx(first["psnr"].mean())
    assert summary["bpp"][0] == pytest.approx(first["bpp"].mean())
    assert (summary["n_images"] == 6).all()
    assert (summary["source"] == "measured").all()
    assert summary["dists"].isna().all()  # not measured, but the column stands


def test_further_metrics_follow_the_default_ones():
    images = _measured(lpips_complex=0.5)
    assert list(images.columns)[4 : 5 + len(DEFAULT_METRICS)] == [*DEFAULT_METRICS, "lpips_complex"]
    assert tables.summarize(images)["lpips_complex"].tolist() == [0.5] * 4


def _with_grid(strengths):
    """Images whose decoder paints a line of these strengths, of powers that are easy to reckon with."""
    original = torch.ones(len(LINES), 2)
    rows = []
    for image, strength in enumerate(strengths):
        decoded = original.clone()
        decoded[3, 0] = strength
        terms = torch.stack([decoded, original])
        rows.append({"codec": "mine", "quality": 1, "image": f"i{image}", "bpp": 0.1, "encode_s": 0, "decode_s": 0})
        rows[-1] |= {"grid": GridMetric.pooled(terms), "grid_terms": terms.tolist()}
    return tables.per_image(pd.DataFrame(rows))


def test_grid_of_a_set_comes_from_its_mean_spectrum():
    images = _with_grid([1, 1, 10, 28])
    assert images["grid"].tolist() == pytest.approx([0, 0, 10, 10 * math.log10(28)])
    summary = tables.summarize(images)
    assert summary["grid"].item() == pytest.approx(10)  # of the powers' mean
    (row,) = tables.intervals(images).query("metric == 'grid'").to_dict("records")
    assert row["mean"] == pytest.approx(10)
    assert 0 <= row["low"] < 10 < row["high"] <= 10 * math.log10(28)
    assert "grid_terms" not in summary
    images.at[2, "grid_terms"] = float("nan")  # an image that is too small
    assert tables.summarize(images)["grid"].isna().all()
    assert "grid" not in tables.intervals(images)["metric"].tolist()


def test_no_rate_is_compared_at_equal_grids():
    images = pd.concat(
        [_with_grid([1, 10]).assign(codec=codec, quality=q) for codec in ("avif", "mine") for q in (1, 2)]
    )
    deltas = tables.bd_rates(tables.summarize(images), images)
    assert "grid" not in deltas["metric"].tolist()


def _of_set(patches, codec="mine"):
    """FID and KID of the four qualities."""
    rows = [(codec, quality, 40.0 - quality, 0.01, patches) for quality in reversed(range(4))]
    return pd.DataFrame(rows, columns=["codec", "quality", "fid", "kid", "n_patches"])


def test_figures_of_the_set_stand_among_the_metrics_of_their_row():
    summary = tables.summarize(_measured(), _of_set(2000))
    assert list(summary.columns) == [
        *SUMMARY_COLUMNS[:-4],
        "fid",
        "kid",
        *SUMMARY_COLUMNS[-4:-1],
        "n_patches",
        "source",
    ]
    assert summary["fid"].tolist() == [40, 39, 38, 37]


def test_only_enough_patches_are_compared_with_published_figures():
    for patches in (999, 1000):
        summary = tables.summarize(_measured(), _of_set(patches))
        published = tables.published_summary("clic2020", summary)
        assert published["fid"].notna().any() == published["kid"].notna().any() == (patches == 1000)
        assert published["psnr"].notna().any()
        assert tables.few_patches(summary) == (999 if patches == 999 else None)
    assert tables.few_patches(tables.summarize(_measured())) is None


def test_bd_rate_of_a_figure_of_the_set_has_no_interval():
    images = pd.concat([_measured(), _measured("avif")])
    summary = tables.summarize(images, pd.concat([_of_set(2000), _of_set(2000, "avif")]))
    row = tables.bd_rates(summary, images).set_index("metric").loc["fid"]
    assert row["bd_rate_percent"] == pytest.approx(0)
    assert row[["low", "high"]].isna().all()


def test_mean_is_undefined_where_one_image_is():
    images = _measured()
    images.loc[0, "psnr"] = math.nan
    assert tables.summarize(images)["psnr"].isna().tolist() == [True, False, False, False]


def test_published_rows_fit_the_summary():
    published = tables.published_summary("kodak", tables.summarize(_measured()))
    assert list(published.columns) == SUMMARY_COLUMNS
    assert (published["source"] == "published").all()
    assert published["encode_s"].isna().all()
    assert "VTM [diffeic]" in set(published["codec"])
    assert tables.published_summary("samples", tables.summarize(_measured())).empty


def test_bd_rates_against_measured_avif():
    images = pd.concat([_measured(), _measured("avif", gain=-1), _measured("webp", gain=-2)])
    summary = tables.summarize(images)
    summary = pd.concat([summary, tables.published_summary("kodak", summary)])
    deltas = tables.bd_rates(summary, images, ["webp"])
    assert list(deltas.columns)[:5] == ["codec", "anchor", "metric", "bd_rate_percent", "overlap"]
    assert (deltas["anchor"] == "avif").all()
    assert "avif" not in set(deltas["codec"])
    row = deltas.set_index(["codec", "metric"]).loc[("mine", "lpips")]
    curves = [summary[summary["codec"] == name][column] for name in ("avif", "mine") for column in ("bpp", "lpips")]
    expected = bd_rate(*curves, higher_is_better=False)
    assert (row["bd_rate_percent"], row["overlap"]) == tuple(expected)
    assert row["low"] <= row["bd_rate_percent"] <= row["high"] < 0
    published = deltas[deltas["codec"] == "DiffEIC"]
    assert set(published["metric"]) == {"psnr", "lpips"}  # the anchor has no others
    assert published[["low", "high"]].isna().all(axis=None)


def test_published_curves_that_say_little_are_left_out():
    images = pd.concat([_measured(), _measured("avif", gain=-1)])
    summary = tables.summarize(images)
    summary = pd.concat([summary, tables.published_summary("kodak", summary)])
    every = tables.bd_rates(summary, images)
    kept = tables.notable(every, summary)
    assert set(kept[kept["codec"] == "mine"]["metric"]) == set(every[every["codec"] == "mine"]["metric"])
    published = set(kept["codec"]) - {"mine"}
    assert 3 <= len(published) < len(set(every["codec"]) - {"mine"}) / 2
    assert {"BPG", "DiffEIC", "VTM [diffeic]"} & set(every["codec"]) - published  # replaced, or of few common rates
    for codec in published:
        assert (kept.loc[kept["codec"] == codec, "overlap"] >= 0.5).any()
    assert kept.equals(tables.notable(kept, summary))


def test_luma_ms_ssim_is_not_compared():
    published = tables.published_summary("kodak", tables.summarize(_measured())).set_index("codec")
    for codec in ("AEIC-ME", "StableCodec"):
        assert published.loc[codec, "ms_ssim"].isna().all()
        assert published.loc[codec, "lpips"].notna().all()


def test_anchor_is_published_vtm_then_the_first_baseline():
    images = pd.concat([_measured(), _measured("jpeg", gain=-2)])
    summary = tables.summarize(images)
    assert set(tables.bd_rates(summary, images, ["jpeg"])["anchor"]) == {"jpeg"}
    assert tables.bd_rates(summary, images).empty
    with_published = pd.concat([summary, tables.published_summary("kodak", summary)])
    assert set(_anchors(_measured())) == {"VTM [diffeic]"}  # the VTM curve of low rates
    assert _anchors(_measured(gain=8))["psnr"] == "VTM [compressai]"  # the one of high rates
    assert set(tables.bd_rates(with_published, images, ["jpeg"])["codec"]) >= {"mine", "jpeg", "DiffEIC"}


def test_chosen_anchor_wins():
    images = pd.concat([_measured(), _measured("avif", gain=-1), _measured("webp", gain=-2)])
    deltas = tables.bd_rates(tables.summarize(images), images, anchor="webp")
    assert set(deltas["anchor"]) == {"webp"}
    assert set(deltas["codec"]) == {"mine", "avif"}


def _anchors(images):
    summary = tables.summarize(images)
    with_published = pd.concat([summary, tables.published_summary("kodak", summary)])
    deltas = tables.bd_rates(with_published, images)
    return deltas[deltas["codec"] == "mine"].set_index("metric")["anchor"]


def test_interval_of_a_codec_against_a_published_anchor():
    images = _measured()
    summary = tables.summarize(images)
    with_published = pd.concat([summary, tables.published_summary("kodak", summary)])
    row = tables.bd_rates(with_published, images).set_index(["codec", "metric"]).loc[("mine", "psnr")]
    assert row["low"] < row["bd_rate_percent"] < row["high"]


def test_intervals_enclose_the_means():
    images = _measured()
    table = tables.intervals(images)
    assert set(table["metric"]) == {"bpp", "psnr", "lpips"}
    assert len(table) == 4 * 3
    assert (table["low"] < table["mean"]).all()
    assert (table["mean"] < table["high"]).all()


def test_bootstrap_interval_has_the_width_of_theory():
    values = np.random.default_rng(1).normal(size=400)
    low, high = interval(resample_means(values))
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)
    assert resample_means(values).tolist() == resample_means(values).tolist()


def test_bootstrap_draws_are_common_to_all_columns():
    values = np.arange(10.0)
    resampled = resample_means(np.stack([values, 2 * values], axis=1))
    np.testing.assert_allclose(resampled[:, 1], 2 * resampled[:, 0])


def test_interval_is_undefined_where_many_resamples_are():
    assert math.isnan(interval(np.array([1.0] * 90 + [math.nan] * 10))[0])
    assert interval(np.array([1.0] * 99 + [math.nan])) == (1.0, 1.0)
    assert interval(np.array([1.0, math.inf] * 50)) == (1.0, math.inf)


def test_compressai_results_are_sorted_and_finite():
    summary = tables.summarize(_measured()).iloc[::-1]
    data = tables.compressai_results("mine", summary, "text")
    assert data["name"] == "mine"
    assert set(data["results"]) == {"bpp", "psnr-rgb", "lpips", "encoding_time", "decoding_time"}
    assert data["results"]["bpp"] == sorted(data["results"]["bpp"])
