"""Errors that compressai-gen raises on bad input, each with a message that says what to do.

Programs catch :class:`CompressaiGenError`, print its message in one line and exit with its status, so that a user never
sees a stack trace for something that he can mend himself.
"""

from __future__ import annotations

__all__ = [
    "BitstreamError",
    "CodecError",
    "CompressaiGenError",
    "DatasetError",
    "ImageError",
    "MetricError",
    "MissingExtraError",
    "RecipeError",
    "SubmissionError",
    "VotesError",
    "ZooError",
]


class CompressaiGenError(Exception):
    """Base of every error of this package."""

    exit_status = 2
    """Of a program that ends with this error."""


class BitstreamError(CompressaiGenError):
    """A stream is truncated, damaged, or was made by another codec."""


class CodecError(CompressaiGenError):
    """A codec name or quality is unknown, or the codec cannot run here."""


class DatasetError(CompressaiGenError):
    """A dataset cannot be found, downloaded or verified."""


class ImageError(CompressaiGenError):
    """A file is not an image that can be evaluated."""


class MetricError(CompressaiGenError):
    """A metric is unknown, or its weights cannot be had."""


class MissingExtraError(CompressaiGenError):
    """A package of one of the extras is not installed."""


class RecipeError(CompressaiGenError):
    """A training recipe is malformed."""


class SubmissionError(CompressaiGenError):
    """A submission to the leaderboard is refused: it is malformed, or does not reproduce."""

    exit_status = 3


class VotesError(CompressaiGenError):
    """A file is not the whole and unchanged votes of one rater of the study at hand."""


class ZooError(CompressaiGenError):
    """Pretrained weights are unknown, missing, or not what the manifest says."""
