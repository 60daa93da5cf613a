"""Files that earlier versions wrote still decode: to the very symbols, and to the picture as far as machines agree.

``python tests/cli/test_vectors.py`` writes vectors for weights that have none yet. A vector goes only with its weights
or, before the first release, with its stream's version.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import compressai_gen
from compressai_gen import zoo
from compressai_gen.cgen import CgenFile
from compressai_gen.data import load_dataset
from compressai_gen.entropy.container import unpack
from compressai_gen.manifest import find_fingerprint, tags

FOLDER = Path(__file__).with_name("vectors")
VECTORS = sorted(FOLDER.glob("*.cgen"))


def _symbols(file):
    weights = find_fingerprint(file.model, file.weights.hex())
    model = zoo.MODELS[file.model](quality=1, weights=weights)
    stream = unpack(file.model, file.stream, file.size)
    padded = tuple(n + -n % model.multiple for n in file.size)
    with torch.no_grad():
        decoded = model.decode_latent(stream.payload, padded, torch.tensor(stream.quality - 1))
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in decoded if part is not None)).hexdigest()


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_a_file_of_an_earlier_version_decodes(path):
    data = path.read_bytes()
    assert _symbols(CgenFile.from_bytes(data)) == path.with_suffix(".sha256").read_text().strip()
    decoded = compressai_gen.decode(data)
    expected = Image.open(path.with_suffix(".png"))
    assert decoded.size == expected.size
    # The networks that make the picture run in bfloat16 on some processors and in float32 on others.
    assert np.abs(np.asarray(decoded, dtype=float) - np.asarray(expected)).mean() < 1


def test_there_are_vectors_of_all_tags():
    files = [CgenFile.from_bytes(path.read_bytes()) for path in VECTORS]
    decoded = {find_fingerprint(file.model, file.weights.hex()) for file in files}
    assert decoded == {name for model in zoo.MODELS for name in tags(model)}


def _write():
    FOLDER.mkdir(exist_ok=True)
    picture = load_dataset("samples", limit=1)[0][:, 40:105, 150:247].contiguous()
    for name in zoo.MODELS:
        for quality, seed in ((1, None), (2.5, None), (5, 12345)):
            data = compressai_gen.encode(picture, name, quality, seed=seed)
            file = CgenFile.from_bytes(data)
            path = FOLDER / f"{find_fingerprint(name, file.weights.hex())}-q{quality}.cgen"
            if not path.exists():
                path.write_bytes(data)
                path.with_suffix(".sha256").write_text(_symbols(file) + "\n")
                compressai_gen.decode(data).save(path.with_suffix(".png"))


if __name__ == "__main__":
    _write()
