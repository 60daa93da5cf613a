"""Convolutions from bfloat16 halves are as good as float32 ones."""

import pytest
import torch
from torch import nn

from compressai_gen.metrics import convolution
from compressai_gen.metrics.convolution import SplitConv2d, accelerate_convolutions


@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 4, "padding": 2}, {"groups": 4}])
def test_error_is_a_few_times_that_of_float32(options):
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 32, 3, **options)
    x = 20 * torch.randn(2, 64, 48, 50).relu()
    with torch.no_grad():
        exact = nn.Conv2d(64, 32, 3, **options).double()
        exact.load_state_dict({k: v.double() for k, v in conv.state_dict().items()})
        error = (SplitConv2d(conv)(x).double() - exact(x.double())).abs().max() / exact(x.double()).abs().max()
    assert error < 1e-5


def test_training_uses_the_convolution_itself():
    conv = nn.Conv2d(3, 4, 3)
    x = torch.randn(1, 3, 8, 8, requires_grad=True)
    assert torch.equal(SplitConv2d(conv)(x), conv(x))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(SplitConv2d(conv)(x), conv(x))


def test_other_operations_keep_their_precision():
    before = torch.backends.mkldnn.conv.fp32_precision
    with torch.no_grad():
        SplitConv2d(nn.Conv2d(3, 4, 3))(torch.randn(1, 3, 8, 8))
    assert torch.backends.mkldnn.conv.fp32_precision == before


@pytest.mark.parametrize("fast", [True, False])
def test_only_processors_that_gain_are_given_halves(monkeypatch, fast):
    monkeypatch.setattr(convolution, "has_fast_bfloat16", lambda device: fast)
    network = accelerate_convolutions(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.ReLU()), "cpu")
    assert isinstance(network[0][0], SplitConv2d) == fast
