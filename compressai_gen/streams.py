"""Standard streams that programs can rely on, whatever they were started with."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, TextIO

__all__ = ["discard_output", "flush_output", "secure_streams", "tell"]


def secure_streams() -> None:
    """Have all three standard streams there and able to show any text; what is already right stays.

    A closed stream is opened such that using it is an error of the system, which programs tell: else the next file that
    is opened would take its number, and what is printed would end up in it. Only what goes to a closed or full standard
    error is lost, as there is nowhere to tell it.
    """
    # In the order of their numbers: the system gives the lowest free one.
    for name, flags, mode in (("stdin", os.O_WRONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w")):
        if getattr(sys, name) is None:
            stream = open(os.open(os.devnull, flags), mode, encoding="utf-8")  # noqa: SIM115  (as long as the process)
            setattr(sys, name, stream)
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if sys.stderr is sys.__stderr__ or sys.__stderr__ is None:
        sys.stderr = sys.stderr if isinstance(sys.stderr, _Forgiving) else _Forgiving(sys.stderr)


class _Forgiving:
    """A text stream whose failures to write are ignored: progress that nobody sees must not end what progresses."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def tell(line: str) -> None:
    """Print a line to standard error, if there is one."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def flush_output() -> OSError | None:
    """Write what is buffered for standard output, and return what it fails with; it is then discarded."""
    try:
        sys.stdout.flush()
    except OSError as error:
        discard_output()
        return error
    return None


def discard_output() -> None:
    """Have nothing that is buffered for standard output be written, neither now nor when the process ends."""
    with suppress(OSError, ValueError):  # one that has no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
