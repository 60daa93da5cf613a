"""Where the time of a training step goes, without waiting for a GPU."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import nn

__all__ = ["Stopwatch"]


class Stopwatch:
    """Sums up the seconds of named parts of steps.

    On a GPU, whose work is done after it was asked for, events are recorded, and read when somebody asks for the sums.

    Args:
        device: what the parts run on.
    """

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._spans: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._open: dict[str, float | torch.cuda.Event] = {}
        self._depth: defaultdict[str, int] = defaultdict(int)

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Times what runs inside as a part, or another stretch of it; what is nested in the same part counts once."""
        self._start(part)
        try:
            yield
        finally:
            self._stop(part)

    def watch(self, module: nn.Module, part: str, deep: bool = False) -> None:
        """Times every forward pass of a module as a part.

        Args:
            module: watched from now on.
            part: may be another module's, too.
            deep: also those of the modules inside, where methods other than ``forward`` are called.
        """
        for watched in module.modules() if deep else (module,):
            watched.register_forward_pre_hook(lambda *_: self._start(part))
            watched.register_forward_hook(lambda *_: self._stop(part), always_call=True)

    def take(self) -> dict[str, float]:
        """Returns the seconds of each part since the last time, and starts anew; waits for a GPU's queue."""
        if self._spans:
            torch.cuda.synchronize()
            for part, started, stopped in self._spans:
                self._seconds[part] += started.elapsed_time(stopped) / 1000
        taken, self._seconds, self._spans = dict(self._seconds), defaultdict(float), []
        return taken

    def _start(self, part: str) -> None:
        self._depth[part] += 1
        if self._depth[part] == 1:
            self._open[part] = self._now()

    def _stop(self, part: str) -> None:
        self._depth[part] -= 1
        if self._depth[part]:
            return
        started = self._open.pop(part)
        if self._cuda:
            self._spans.append((part, started, self._now()))
        else:
            self._seconds[part] += self._now() - started

    def _now(self) -> float | torch.cuda.Event:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
