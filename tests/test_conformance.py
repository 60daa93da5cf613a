"""Our own codecs conform to what programs rely on, and so does the example, a codec in a package of its own."""

import sys
from pathlib import Path

import pytest

from compressai_gen import specs
from compressai_gen.testing import CodecConformance

EXAMPLE = Path(__file__).parents[1] / "examples/blockdct"
sys.path.insert(0, str(EXAMPLE))
from blockdct.spec import SPEC as BLOCKDCT  # noqa: E402


class TestCGDM(CodecConformance):
    spec = specs.own_specs()["cgdm"]


class TestMRIDC(CodecConformance):
    spec = specs.own_specs()["mridc"]


class TestBlockDCT(CodecConformance):
    spec = BLOCKDCT

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _installed(cls):
        """As if its package were installed."""
        found, _ = specs._others()
        found[BLOCKDCT.name] = BLOCKDCT
        yield
        del found[BLOCKDCT.name]
