"""Scores from votes: how often people prefer a codec, by the model of Bradley and Terry."""

from __future__ import annotations

import re
from base64 import b64decode
from collections import Counter
from collections.abc import Sequence
from functools import partial
from json import loads
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from compressai_gen._matplotlib import backend_set_aside
from compressai_gen.errors import CompressaiGenError, VotesError
from compressai_gen.eval.bootstrap import RESAMPLES, interval
from compressai_gen.eval.plots import house_style, write_plot
from compressai_gen.eval.study.record import Votes, digest, read_votes
from compressai_gen.extras import extra
from compressai_gen.files import escape_markdown, markdown_table, replacing, write_table

with backend_set_aside():
    from matplotlib.figure import Figure

with extra("study"):
    from choix import ilsr_pairwise_dense

__all__ = ["Result", "collect", "page_fingerprint", "reject_careless", "score", "scores_plot", "write_scores"]

PRIOR = 0.1
"""Of choix (``alpha``): keeps the score of a codec finite that won, or lost, all its comparisons."""

MIN_CHECKS = 0.8
"""Share of attention checks that a rater has to get right."""


class Result(NamedTuple):
    """Scores and what they come from.

    Attributes:
        table: columns ``codec, score, low, high, preferred, preferred_low, preferred_high, wins, comparisons, bpp``,
            the best first.
        study: the record of the study.
        raters: how many were scored.
        left_out: a line for each file that was not.
    """

    table: pd.DataFrame
    study: dict[str, Any]
    raters: int
    left_out: list[str]


def page_fingerprint(page: Path) -> str:
    """Return the fingerprint of the study whose page, ``study.html``, this is.

    Raises:
        VotesError: the file cannot be read or is no page of a study.
    """
    try:
        text = page.read_text(encoding="utf-8")
        content: str
        (content,) = re.findall(r'<script type="text/plain" id="study"[^>]*>([A-Za-z0-9+/=]+)</script>', text)
        return digest(loads(b64decode(content)))
    except OSError as error:
        raise VotesError(f"{page} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise VotesError(f"{page} is not the page of a study, which 'study make' writes") from error


def collect(paths: Sequence[Path], fingerprint: str | None = None) -> tuple[list[Votes], list[str]]:
    """Read the files of raters.

    Args:
        paths: of the files.
        fingerprint: of the study; None: the one that most of the files are of, or the first of several.

    Returns:
        The votes of that study, and a line for each file that is refused.
    """
    read, refused = [], []
    for path in dict.fromkeys(paths):
        try:
            read.append(read_votes(path))
        except VotesError as error:
            refused.append(str(error))
    if fingerprint is None and read:
        fingerprint = Counter(votes.fingerprint for votes in read).most_common(1)[0][0]
    kept: dict[str, Votes] = {}
    for votes in read:
        if votes.fingerprint != fingerprint:
            refused.append(f"{votes.path} is of another study ({votes.fingerprint[:8]}, not {fingerprint[:8]})")
        elif votes.rater in kept:
            refused.append(f"{votes.path} is of the same rater as {kept[votes.rater].path}")
        else:
            kept[votes.rater] = votes
    return list(kept.values()), refused


def reject_careless(all_votes: Sequence[Votes], min_checks: float = MIN_CHECKS) -> tuple[list[Votes], list[str]]:
    """Return the votes of raters who got a share of their attention checks right, and a line for each other one."""
    kept, rejected = [], []
    for votes in all_votes:
        trials = votes.study["trials"]
        right = [vote["chosen"] == 0 for vote in votes.votes if trials[vote["trial"]]["kind"] == "check"]
        if right and sum(right) < min_checks * len(right):
            rejected.append(f"{votes.path}: its rater got {sum(right)} of {len(right)} attention checks right")
        else:
            kept.append(votes)
    return kept, rejected


def score(all_votes: Sequence[Votes], left_out: Sequence[str] = ()) -> Result:
    """Return scores with 95 % bootstrap intervals.

    A score is the log-odds of being preferred over a codec of score 0, the mean of all (Bradley and Terry, 1952).
    Intervals resample raters and images at once (Owen, "The pigeonhole bootstrap", 2007): other people would have been
    asked about other pictures. With one rater or one image, that side has no spread.

    Args:
        all_votes: of one study; attention checks are not scored.
        left_out: told with the result.

    Raises:
        VotesError: there are no votes.
    """
    if not all_votes:
        raise VotesError("there are no votes to score: no file is left")
    study = all_votes[0].study
    wins = _wins(all_votes, study)
    raters, images = wins.shape[:2]
    estimate = _scores(wins.sum(axis=(0, 1)))
    draws = np.random.default_rng(0)
    resampled = np.empty((RESAMPLES, len(estimate)))
    for index in range(RESAMPLES):
        of_raters = draws.multinomial(raters, np.full(raters, 1 / raters))
        of_images = draws.multinomial(images, np.full(images, 1 / images))
        resampled[index] = _scores(np.einsum("rijk,r,i->jk", wins, of_raters, of_images))
    rows = []
    total = wins.sum(axis=(0, 1))
    for index, codec in enumerate(study["codecs"]):
        low, high = interval(resampled[:, index])
        won, shown = int(total[index].sum()), int(total[index].sum() + total[:, index].sum())
        rows.append((codec, estimate[index], low, high, won, shown, _rate(study, codec)))
    table = pd.DataFrame(rows, columns=["codec", "score", "low", "high", "wins", "comparisons", "bpp"])
    for place, column in enumerate(("score", "low", "high")):
        table.insert(4 + place, ("preferred", "preferred_low", "preferred_high")[place], _odds(table[column]))
    table = table.sort_values("score", ascending=False, kind="stable", ignore_index=True)
    return Result(table, study, raters, list(left_out))


def _wins(all_votes: Sequence[Votes], study: dict[str, Any]) -> np.ndarray:
    """Shape (raters, images, codecs, codecs): how often the third won against the fourth."""
    codecs = {codec: index for index, codec in enumerate(study["codecs"])}
    images = {image: index for index, image in enumerate(dict.fromkeys(trial["image"] for trial in study["trials"]))}
    wins = np.zeros((len(all_votes), len(images), len(codecs), len(codecs)))
    for rater, votes in enumerate(all_votes):
        for vote in votes.votes:
            trial = study["trials"][vote["trial"]]
            if trial["kind"] == "pair":
                winner, loser = (codecs[trial["sides"][side]["codec"]] for side in (vote["chosen"], 1 - vote["chosen"]))
                wins[rater, images[trial["image"]], winner, loser] += 1
    compared = wins.any(axis=(0, 2, 3))  # an image of checks only is no sample of anything
    return wins[:, compared]


def _scores(wins: np.ndarray) -> np.ndarray:
    scores = ilsr_pairwise_dense(wins, alpha=PRIOR)
    return scores - scores.mean()


def _odds(scores: pd.Series) -> pd.Series:
    """How often a codec of this score is preferred over one of the mean score."""
    return 1 / (1 + np.exp(-scores))


def _rate(study: dict[str, Any], codec: str) -> float:
    sides = [side for trial in study["trials"] for side in trial["sides"] if side["codec"] == codec]
    return sum(8 * side["bytes"] for side in sides) / sum(side["pixels"] for side in sides)


def write_scores(result: Result, output: Path) -> str:
    """Write ``scores.csv``, ``scores.md`` and the plot ``scores.png``, ``.svg``, ``.pdf``; returns the Markdown."""
    write_table(result.table, output / "scores.csv")
    text = _markdown(result)
    with replacing(output / "scores.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    write_plot(partial(scores_plot, result), output / "scores")
    return text


def _markdown(result: Result) -> str:
    rows = [
        [
            escape_markdown(row.codec),
            f"{row.score:+.2f} [{row.low:+.2f}, {row.high:+.2f}]",
            f"{row.preferred:.0%} [{row.preferred_low:.0%}, {row.preferred_high:.0%}]",
            f"{row.wins} of {row.comparisons}",
            f"{row.bpp:.4f}",
        ]
        for row in result.table.itertuples(index=False)
    ]
    columns = ["codec", "Bradley-Terry score", "preferred over the mean codec", "comparisons won", "rate [bpp]"]
    study = result.study
    lines = [
        f"# {escape_markdown(study['dataset'])} at about {study['bpp']} bpp, asked of people",
        "",
        markdown_table(pd.DataFrame(rows, columns=columns)),
        "",
        f"{_count(result.raters, 'rater')}; blind comparisons: which of two versions is closer to the original? "
        "Scores are log-odds with mean 0; in brackets 95 % bootstrap intervals over raters and images.",
    ]
    if result.left_out:
        lines += ["", "Left out:", "", *(f"- {escape_markdown(line)}" for line in result.left_out)]
    return "\n".join(lines) + "\n"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def scores_plot(result: Result) -> Figure:
    """Return a plot of the scores with their intervals, a line a codec."""
    table = result.table[::-1].reset_index(drop=True)
    with house_style():
        figure = Figure(figsize=(6, 1.3 + 0.4 * len(table)))
        axes = figure.subplots()
        spread = np.array([table["score"] - table["low"], table["high"] - table["score"]])
        axes.errorbar(table["score"], table.index, xerr=spread, fmt="o", capsize=3, color="#0072B2")
        axes.set_yticks(range(len(table)), ["" for _ in table.index])
        for position, row in enumerate(table.itertuples(index=False)):
            label = f"{row.codec}\n{row.bpp:.4f} bpp"
            axes.annotate(
                label,
                (0, position),
                xytext=(-6, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                va="center",
                fontsize=8,
                parse_math=False,
            )
        axes.set_ylim(-0.6, len(table) - 0.4)
        axes.axvline(0, color="0.5", linewidth=0.8)
        axes.set_xlabel("Bradley-Terry score [log-odds of being preferred], 95 % interval")
        title = f"{result.study['dataset']}, {_count(result.raters, 'rater')}: which is closer to the original?"
        axes.set_title(title, parse_math=False, fontsize=9)
    return figure


def check_share(share: float) -> float:
    """Return the least share of right checks, a number from 0 to 1."""
    if not 0 <= share <= 1:
        raise CompressaiGenError(f"--min-checks is {share:g}; it is a share from 0 to 1")
    return share
