"""Float64 copies of the networks that decide symbols: made once, never stale, nobody else's business."""

import copy
import gc
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from compressai_gen.entropy import exact
from compressai_gen.entropy.exact import float64_twin, in_float64


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def test_a_twin_is_made_once(module):
    twin = float64_twin(module)
    assert float64_twin(module) is twin
    assert {p.dtype for p in twin.parameters()} == {torch.float64}
    assert not any(p.requires_grad for p in twin.parameters())
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def _step(module):
    module[0].weight.sum().backward()
    torch.optim.Adam(module.parameters(), lr=0.1, fused=True).step()


CHANGES = {
    "in place": lambda m: nn.init.constant_(m[0].weight, 0.5),
    "behind autograd's back": lambda m: m[0].weight.data[0].fill_(0.5),
    "of a buffer": lambda m: m[1].running_mean.fill_(3),
    "by an optimizer": _step,
    "by loading": lambda m: m.load_state_dict({k: v + 1 for k, v in m.state_dict().items()}),
    "of precision": lambda m: m.half(),
    "of a parameter": lambda m: setattr(m[0], "weight", nn.Parameter(torch.ones(4, 3, 3, 3))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_twin_follows_every_change_of_the_weights(module, change):
    before = float64_twin(module)
    CHANGES[change](module)
    after = float64_twin(module)
    assert after is not before
    assert all(torch.equal(a, b.double()) for a, b in zip(after.parameters(), module.parameters(), strict=True))


def test_nothing_of_a_twin_is_copied_saved_or_kept(module):
    state, pickled = set(module.state_dict()), len(pickle.dumps(module))
    twin = float64_twin(module)
    assert set(module.state_dict()) == state
    assert len(pickle.dumps(module)) == pickled
    assert float64_twin(copy.deepcopy(module)) is not twin
    count = len(exact._twins)
    del module
    gc.collect()
    assert len(exact._twins) <= count


def test_a_twin_made_in_inference_mode_serves_afterwards(module):
    with torch.inference_mode():
        twin = float64_twin(module)
    assert not any(tensor.is_inference() for tensor in (*twin.parameters(), *twin.buffers()))
    assert float64_twin(module) is twin


def test_threads_share_one_twin(module):
    with ThreadPoolExecutor(8) as pool:
        twins = set(pool.map(lambda _: float64_twin(module), range(50)))
    assert len(twins) == 1
    x = torch.randn(1, 3, 8, 8)
    assert in_float64(twins.pop(), x).dtype == torch.float64
