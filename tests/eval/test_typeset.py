import math
import re

import pandas as pd
import pytest

from compressai_gen.eval.typeset import write_typeset

NASTY = r"a_b & 50% {x}|\$#~^"
SUMMARY = pd.DataFrame(
    [
        (NASTY, 1, 0.1, 25.0, 0.3, 0.5, 0.25, "measured"),
        (NASTY, 2, 0.2, math.inf, math.nan, 0.5, 0.25, "measured"),
        ("[other]", "lo", 0.2, 27.0, 0.2, math.nan, math.nan, "published"),
    ],
    columns=["codec", "quality", "bpp", "psnr", "lpips", "encode_s", "decode_s", "source"],
)
INTERVALS = pd.DataFrame(
    [(NASTY, 1, "psnr", 25.0, 24.5, 26.5)], columns=["codec", "quality", "metric", "mean", "low", "high"]
)
DELTAS = pd.DataFrame(
    [
        (NASTY, "avif", "psnr", -10.04, 0.9, -10.2, -12.0, -8.0),
        ("[other]", "avif", "psnr", -50.0, 0.2, -51.0, math.nan, math.nan),
        (NASTY, "avif", "lpips", 5.0, 0.7, math.nan, 4.0, 6.0),
        ("[other]", "avif", "lpips", 4.0, 0.6, 4.5, math.nan, math.nan),
        ("none", "avif", "lpips", math.nan, 0.0, math.nan, math.nan, math.nan),
    ],
    columns=["codec", "anchor", "metric", "bd_rate_percent", "overlap", "bd_rate_percent_akima", "low", "high"],
)
ORIGINS = {NASTY: "measured", "[other]": "published: a_source", "none": "measured"}


@pytest.fixture
def folder(tmp_path):
    write_typeset(tmp_path, "my_set", SUMMARY, INTERVALS, DELTAS, ORIGINS)
    return tmp_path


def _markdown(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def _latex(path):
    """Return the cells of a LaTeX table, after checking what a parser of LaTeX would stumble over."""
    text = path.read_text(encoding="utf-8")
    plain = re.sub(r"\\[\\&%$#_{}]", "", re.sub(r"^% needs.*\n", "", text))
    depth = 0
    for character in plain:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    assert "%" not in plain
    assert "#" not in plain
    outside_math = re.sub(r"\$[^$]*\$", "", plain)
    assert "$" not in outside_math
    assert "^" not in outside_math
    assert re.findall(r"\\begin\{(.*?)\}", text) == re.findall(r"\\end\{(.*?)\}", text)[::-1]
    (columns,) = re.findall(r"\\begin\{(?:tabular|longtable)\}\{([lr]+)\}", text)
    rows = []
    for line in text.splitlines():
        if line.endswith(r" \\") and not line.startswith((r"\caption", r"\multicolumn")):
            cells = re.split(r"(?<!\\)&", line.removesuffix(r"\\"))
            spans = sum(int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
            assert len(cells) - line.count(r"\multicolumn") + spans == len(columns), line
            assert not line.startswith("[")
            rows.append([cell.strip() for cell in cells])
    return rows


def test_markdown_summary(folder):
    rows = _markdown(folder / "summary.md")
    assert len({len(row) for row in rows}) == 1
    assert rows[0][2:5] == [r"rate \[bpp\]", r"PSNR \[dB\] ↑", "LPIPS (AlexNet) ↓"]
    assert rows[2][2:6] == ["0.1000", "25.00 ± 1.00", "0.3000", "0.500"]
    assert rows[3][3:5] == ["∞", ""]
    assert rows[4][1] == "lo"
    assert rows[4][-1] == r"published: a\_source"


def test_latex_summary_parses(folder):
    rows = _latex(folder / "summary.tex")
    (first,) = [row for row in rows if r"$25.00 \pm 1.00$" in row]
    assert first[0] == r"a\_b \& 50\% \{x\}|\textbackslash{}\$\#\textasciitilde{}\textasciicircum{}"
    assert rows[-1][0] == "{[}other{]}"
    assert r"$\infty$" in rows[-2]


@pytest.mark.parametrize("kind", ["md", "tex"])
def test_best_reliable_figure_of_a_column_is_bold(folder, kind):
    rows = _markdown(folder / "bd_rate.md")[2:] if kind == "md" else _latex(folder / "bd_rate.tex")[2:]
    assert len(rows) == 2  # the codec without a figure is left out
    mine, other = rows
    if kind == "md":
        assert mine[1:4] == ["**-10.0** [-12.0, -8.0]", "**-10.2**", "0.90"]
        assert other[1:4] == [r"-50.0\*", r"-51.0\*", "0.20"]
        assert (mine[4], mine[5]) == ("+5.0 [+4.0, +6.0]", "")
        assert other[4] == "**+4.0**"
    else:
        assert mine[1:3] == [r"$\mathbf{-10.0}$ $[-12.0, -8.0]$", r"$\mathbf{-10.2}$"]
        assert other[1] == "$-50.0^{*}$"
        assert other[4] == r"$\mathbf{+4.0}$"
