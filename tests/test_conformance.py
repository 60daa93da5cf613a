"""Our own codecs conform to what programs rely on, and so does the example, a codec in a package of its own."""

import sys
from pathlib import Path

import pytest
import torch
from pretrained_models import save_autoencoder, save_unet, small_codec

from compressai_gen import specs
from compressai_gen.layers.precision import has_fast_bfloat16
from compressai_gen.testing import CodecConformance

EXAMPLE = Path(__file__).parents[1] / "examples/blockdct"
sys.path.insert(0, str(EXAMPLE))
from blockdct.spec import SPEC as BLOCKDCT  # noqa: E402


class TestCGDM(CodecConformance):
    spec = specs.own_specs()["cgdm"]


class TestMRIDC(CodecConformance):
    spec = specs.own_specs()["mridc"]


class _OnPretrained(CodecConformance):
    """At foundation size, with small random instances of the classes of the pretrained models."""

    # Random networks replace the picture by noise, of which tiles share all but a twentieth: 7 of 120 steps of 8 bits.
    # tests/diffusion/test_latent_diffusion.py sees that no line shows between tiles.
    tile_difference = 10 / 255
    # In bfloat16, products of one and of two pictures are rounded differently, and random networks amplify that.
    batch_difference = 10 / 255 if has_fast_bfloat16(torch.device("cpu")) else CodecConformance.batch_difference

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, tmp_path_factory):
        return small_codec(cls.spec.name, save_unet(save_autoencoder(tmp_path_factory.mktemp("pretrained"))))


class TestCGDMOnPretrained(_OnPretrained):
    spec = specs.own_specs()["cgdm"]


class TestMRIDCOnPretrained(_OnPretrained):
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
