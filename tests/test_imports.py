"""What importing the package loads, and when CompressAI learns of the models."""

import subprocess
import sys

LIGHT = """
import sys
import compressai_gen, compressai_gen.errors, compressai_gen.extras
loaded = {"torch", "numpy", "PIL", "compressai"} & set(sys.modules)
assert not loaded, loaded
assert {"encode", "decode", "models", "zoo"} <= set(dir(compressai_gen))
import compressai.zoo
assert compressai.zoo.image_models["cgdm"] is compressai_gen.zoo.cgdm
assert compressai.zoo.image.model_architectures["mridc"] is compressai_gen.models.MRIDC
"""


def test_the_package_loads_little_and_compressai_learns_of_the_models_all_the_same():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
