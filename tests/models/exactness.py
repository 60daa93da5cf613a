"""Decodes every stream of a dataset under many settings: ``python tests/models/exactness.py --dataset kodak``.

Both codecs encode every image at every quality, with this machine's own settings. Then a process for each setting
decodes all streams, and its symbols must be those that the encoder meant.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from symbols import WITHOUT_AVX, decoded_symbols, digest, sent_symbols
from torch import nn
from tqdm import tqdm

from compressai_gen.data import load_dataset
from compressai_gen.zoo import MODELS


class Setting(NamedTuple):
    """How a machine decodes: environment of the process, what is switched on in it, and images at once."""

    environment: Mapping[str, str] = MappingProxyType({})
    context: Callable[[], AbstractContextManager] = nullcontext
    prepare: Callable[[nn.Module], object] = lambda model: None
    batch: int = 1


SETTINGS = {
    "as encoded": Setting(),
    "1 thread": Setting({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}),
    "2 threads, batches of 4": Setting({"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}, batch=4),
    "without oneDNN": Setting(context=lambda: torch.backends.mkldnn.flags(enabled=False)),
    "bfloat16 autocast": Setting(context=lambda: torch.autocast("cpu", dtype=torch.bfloat16)),
    "denormals flushed": Setting(prepare=lambda model: torch.set_flush_denormal(True)),
    "channels last": Setting(prepare=lambda model: model.to(memory_format=torch.channels_last)),
    "processor without AVX": Setting(WITHOUT_AVX),
} | ({"GPU": Setting(prepare=lambda model: model.cuda())} if torch.cuda.is_available() else {})


def encode(dataset: str, limit: int | None) -> list[dict]:
    """Returns streams with their shapes and what the encoder meant by them."""
    images, jobs = load_dataset(dataset, limit=limit), []
    with tqdm(desc="encoding", total=len(images) * sum(5 for _ in MODELS)) as bar:
        for codec, create in MODELS.items():
            model = create(quality=1)
            for _, image in images:
                x = image[None].float() / 255
                for quality in range(1, model.n_qualities + 1):
                    out = model.compress(x, quality)
                    jobs.append({"codec": codec, "string": out["strings"][0][0], "shape": tuple(out["shape"])})
                    jobs[-1]["sent"] = digest(sent_symbols(model, x, quality)[0])
                    bar.update()
    return jobs


def decode(jobs: list[dict], setting: Setting) -> list[int]:
    """Returns which streams' symbols are not those that were sent."""
    wrong = []
    for codec, create in MODELS.items():
        model = create(quality=1)
        setting.prepare(model)
        for shape in sorted({job["shape"] for job in jobs}):
            chosen = [i for i, job in enumerate(jobs) if (job["codec"], job["shape"]) == (codec, shape)]
            for start in range(0, len(chosen), setting.batch):
                part = chosen[start : start + setting.batch]
                with setting.context():
                    rows = decoded_symbols(model, [jobs[i]["string"] for i in part], shape)
                wrong += [i for i, row in zip(part, rows, strict=True) if digest(row) != jobs[i]["sent"]]
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="kodak")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--python", nargs="+", default=[], help="also decode with these interpreters, of other PyTorch")
    parser.add_argument("--decode", nargs=2, metavar=("JOBS", "SETTING"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.decode:
        print(json.dumps(decode(torch.load(args.decode[0]), SETTINGS[args.decode[1]])))
        return 0
    jobs, mismatches = encode(args.dataset, args.limit), 0
    with tempfile.TemporaryDirectory() as folder:
        torch.save(jobs, Path(folder) / "jobs.pt")
        runs = [(name, sys.executable, name) for name in SETTINGS]
        runs += [(python, python, next(iter(SETTINGS))) for python in args.python]
        for name, python, setting in runs:
            command = [python, __file__, "--decode", f"{folder}/jobs.pt", setting]
            environment = os.environ | SETTINGS[setting].environment
            output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
            wrong = json.loads(output.splitlines()[-1])
            mismatches += len(wrong)
            print(f"{name}: {len(jobs)} streams, {len(wrong)} decoded to other symbols", flush=True)
    return int(mismatches > 0)


if __name__ == "__main__":
    sys.exit(main())
