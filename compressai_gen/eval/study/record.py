"""What a study consists of and what its page saves, as JSON data with fingerprints that both sides compute alike.

Every number in it is whole, so that a browser writes the same canonical text as this program.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from compressai_gen.errors import VotesError

__all__ = ["STUDY_FORMAT", "VOTES_FORMAT", "Votes", "digest", "read_votes"]

STUDY_FORMAT = "compressai-gen study 1"
VOTES_FORMAT = "compressai-gen votes 1"

_COUNTS = ("trial", "first", "chosen", "switches", "originals", "fitted", "ms")


class Votes(NamedTuple):
    """What one rater has saved.

    Attributes:
        path: of the file.
        fingerprint: of the study.
        study: what was compared; see ``make.design``.
        rater: a random name.
        votes: one for each trial of the study, in the order in which they were given.
    """

    path: Path
    fingerprint: str
    study: dict[str, Any]
    rater: str
    votes: list[dict[str, int]]


def digest(data: Any) -> str:
    """Return the SHA-256 of JSON data, in hexadecimal, whatever order its keys have."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_votes(path: Path) -> Votes:
    """Read the file of one rater.

    Its digest tells of damage and of changes by hand. It is no signature: whoever computes it again for other votes is
    not noticed.

    Raises:
        VotesError: the file cannot be read, is truncated, edited, of another kind, or does not hold a vote for every
            trial.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise VotesError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise VotesError(f"{path} is truncated, or is no JSON: {error}") from error
    if not isinstance(data, dict) or data.get("format") != VOTES_FORMAT:
        raise VotesError(f"{path} holds no votes of this version: its format is not '{VOTES_FORMAT}'")
    said = data.pop("digest", None)
    if said != digest(data) or data.get("fingerprint") != digest(data.get("study")):
        raise VotesError(f"{path} was edited or damaged after it was saved: its digest is another one")
    try:
        votes = Votes(path, data["fingerprint"], data["study"], data["rater"], data["votes"])
        _check(votes)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise VotesError(f"{path} is not what the page of a study saves: {type(error).__name__} {error}") from error
    return votes


def _check(votes: Votes) -> None:
    trials = votes.study["trials"]
    for trial in trials:
        if trial["kind"] not in ("pair", "check") or [len(side["codec"]) > 0 for side in trial["sides"]] != [True] * 2:
            raise ValueError("a trial is neither a pair nor a check")
    if not isinstance(votes.rater, str) or not votes.rater:
        raise ValueError("the rater has no name")
    for vote in votes.votes:
        if any(type(vote[name]) is not int or vote[name] < 0 for name in _COUNTS) or vote["chosen"] > 1:
            raise ValueError("a vote has other values")
    if sorted(vote["trial"] for vote in votes.votes) != list(range(len(trials))):
        raise VotesError(f"{votes.path} does not hold one vote for each of the {len(trials)} comparisons of its study")
