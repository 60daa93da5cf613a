import math
import warnings

import bjontegaard
import pytest

from compressai_gen.codecs import published_curves
from compressai_gen.metrics import bd_rate

RATE = [0.1, 0.2, 0.4, 0.8]
QUALITY = [28.0, 30.0, 32.5, 35.0]


def _curve(name, metric):
    table = published_curves("kodak")
    curve = table[table["codec"] == name].sort_values("bpp")
    assert len(curve) > 2
    return curve["bpp"].to_numpy(), curve[metric].to_numpy()


@pytest.mark.parametrize("method", ["pchip", "akima"])
@pytest.mark.parametrize(("metric", "sign"), [("psnr", 1), ("lpips", -1), ("dists", -1)])
def test_published_curves_agree_with_the_package(method, metric, sign):
    vtm, other = _curve("VTM [diffeic]", metric), _curve("BPG", metric)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = bjontegaard.bd_rate(
            vtm[0], sign * vtm[1], other[0], sign * other[1], method, require_matching_points=False
        )
    delta = bd_rate(*vtm, *other, method=method, higher_is_better=sign > 0)
    assert delta.percent == pytest.approx(expected, rel=1e-12)
    assert delta.percent > 0  # VTM is the better codec
    assert delta.is_reliable


@pytest.mark.parametrize("method", ["pchip", "akima"])
def test_twice_the_rate_is_100_percent(method):
    delta = bd_rate(RATE, QUALITY, [2 * rate for rate in RATE], QUALITY, method)
    assert delta.percent == pytest.approx(100)
    assert delta.overlap == 1


def test_order_of_points_does_not_matter():
    other = [quality + 0.7 for quality in QUALITY]
    assert bd_rate(RATE, QUALITY, RATE[::-1], other[::-1]) == bd_rate(RATE, QUALITY, RATE, other)


def test_overlap_is_common_range_over_joint_range():
    delta = bd_rate([1, 2], [0.0, 3.0], [1, 2], [2.0, 4.0])
    assert delta.overlap == pytest.approx(1 / 4)
    assert not delta.is_reliable


@pytest.mark.parametrize(
    ("rate", "quality"),
    [
        ([], []),
        ([0.1], [30.0]),
        ([0.1, 0.2, 0.4], [30.0, 29.0, 33.0]),  # more bits, worse quality
        ([0.1, 0.2], [30.0, 30.0]),
        ([0.1, 0.2], [40.0, 42.0]),  # no common quality
        ([0.1, 0.2], [math.nan, 30.0]),
        ([0.0, 0.2], [29.0, 30.0]),
        ([0.1, 0.2], [30.0, math.inf]),
    ],
)
@pytest.mark.parametrize("method", ["pchip", "akima"])
def test_undefined_is_nan_without_warnings(rate, quality, method, recwarn):
    for delta in (bd_rate(RATE, QUALITY, rate, quality, method), bd_rate(rate, quality, RATE, QUALITY, method)):
        assert math.isnan(delta.percent)
        assert not delta.is_reliable
        assert 0 <= delta.overlap <= 1
    assert len(recwarn) == 0


def test_akima_needs_three_points():
    assert math.isnan(bd_rate(RATE, QUALITY, [0.1, 0.2], [29.0, 31.0], "akima").percent)
    assert math.isfinite(bd_rate(RATE, QUALITY, [0.1, 0.2], [29.0, 31.0], "pchip").percent)


def test_unknown_method():
    with pytest.raises(ValueError, match="pchip"):
        bd_rate(RATE, QUALITY, RATE, QUALITY, "cubic")
