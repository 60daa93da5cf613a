import pytest
import torch
from torch import nn

from compressai_gen.train import stopwatch as stopwatch_module
from compressai_gen.train.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for what is added."""
    now = [0.0]
    monkeypatch.setattr(stopwatch_module.time, "perf_counter", lambda: now[0])

    def go(seconds):
        now[0] += seconds

    return go


def test_parts_add_up_and_nested_ones_count_once(clock):
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with watch("data"):
            clock(1)
            with watch("data"):
                clock(2)
    clock(5)
    with watch("backward"):
        clock(4)
    assert watch.take() == {"data": 6, "backward": 4}
    assert watch.take() == {}


def test_modules_are_watched_from_inside_too(clock):
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def forward(self, x):
            clock(1)
            return self.features(x)

        def features(self, x):
            return self.inner(x)

    class Inner(nn.Module):
        def forward(self, x):
            clock(2)
            if x is None:
                raise ValueError("nothing")
            return x

    part, watch = Part(), Stopwatch(torch.device("cpu"))
    watch.watch(part, "part", deep=True)
    part(1)
    part.features(1)
    with pytest.raises(ValueError, match="nothing"):
        part(None)
    assert watch.take() == {"part": 8}
