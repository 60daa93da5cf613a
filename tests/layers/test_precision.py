import pytest
import torch

from compressai_gen.layers import precision
from compressai_gen.layers.precision import bfloat16_autocast, has_fast_bfloat16

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("tiles", "pairs", "amd", "fast"),
    [
        (False, False, True, False),
        (True, False, False, True),
        (True, True, False, True),
        (False, True, True, True),
        (False, True, False, False),
    ],
)
def test_processors_that_multiply_bfloat16_fast_use_it(monkeypatch, tiles, pairs, amd, fast):
    monkeypatch.setattr(precision, "_is_of_amd", lambda: amd)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: pairs)
    assert has_fast_bfloat16(CPU) == fast
    with bfloat16_autocast(CPU):
        assert torch.is_autocast_enabled("cpu") == fast


def test_without_onednn_bfloat16_is_slow_everywhere(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not has_fast_bfloat16(CPU)


def test_no_autocast_of_a_caller_reaches_in(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    with torch.autocast("cpu", dtype=torch.bfloat16), bfloat16_autocast(CPU):
        assert not torch.is_autocast_enabled("cpu")
