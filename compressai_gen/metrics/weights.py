"""Loading the networks of other packages, whose weights torch keeps below ``TORCH_HOME``."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator

import torch

from compressai_gen.errors import MetricError
from compressai_gen.weights import UNREADABLE, unavailable

__all__ = ["loading"]


@contextlib.contextmanager
def loading(metric: str, file_name: str) -> Iterator[None]:
    """Load in peace, and say what to do where weights cannot be had.

    The packages' greetings and deprecation warnings are silenced, and the random numbers that their constructors draw
    before they have their weights leave no trace.

    Raises:
        MetricError: the file is not here and cannot be downloaded, or is not what it should be.
    """
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            yield
    except UNREADABLE as error:
        raise MetricError(unavailable(metric, file_name, error)) from error
