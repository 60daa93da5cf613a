"""What importing the package loads, and when CompressAI learns of the models."""

import subprocess
import sys
from pathlib import Path

import pytest

VECTORS = Path(__file__).parent / "cli/vectors"

LIGHT = """
import sys
import compressai_gen, compressai_gen.errors, compressai_gen.extras
loaded = {"torch", "numpy", "PIL", "compressai"} & set(sys.modules)
assert not loaded, loaded
assert {"encode", "decode", "models", "zoo"} <= set(dir(compressai_gen))
import compressai.zoo
assert compressai.zoo.image_models["cgdm"].__wrapped__ is compressai_gen.zoo.cgdm
assert compressai.zoo.image.model_architectures["mridc"] is compressai_gen.models.MRIDC
"""


def test_the_package_loads_little_and_compressai_learns_of_the_models_all_the_same():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


CODING = """
import sys
import compressai_gen.models, compressai_gen.zoo
from compressai_gen import decode, encode
loaded = {"lpips", "DISTS_pytorch", "matplotlib", "bjontegaard", "compressai_gen.metrics"} & set(sys.modules)
assert not loaded, loaded
"""


def test_encoding_and_decoding_load_nothing_of_the_evaluation():
    done = subprocess.run([sys.executable, "-c", CODING], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


QUICK = """
import sys
from compressai_gen.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
assert status == 0
loaded = {"torch", "numpy", "pandas", "PIL"} & set(sys.modules)
assert not loaded, loaded
"""


@pytest.mark.parametrize("argv", ["--help", "eval --help", "train --help", "leaderboard pack --help", "info FILE"])
def test_help_and_what_is_in_a_file_need_no_pytorch(argv):
    argv = [str(next(VECTORS.glob("*.cgen"))) if word == "FILE" else word for word in argv.split()]
    done = subprocess.run([sys.executable, "-c", QUICK, *argv], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout
