"""How fast codecs are, and how much memory they take: ``python -m compressai_gen.bench``.

Each codec runs in a process of its own, over pictures of rising size; one run with each comes before those that are
timed and counts the multiply-adds of its networks. Models of CompressAI have random weights, which take the same time.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import compressai.zoo
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from compressai_gen.arithmetic import kmacs_per_pixel
from compressai_gen.codecs import CLASSICAL_CODECS, Codec, LearnedCodec, find_codec
from compressai_gen.codecs.baselines import AnySize
from compressai_gen.data import load_dataset
from compressai_gen.errors import CodecError
from compressai_gen.eval.environment import describe_environment
from compressai_gen.files import markdown_table, write_json, write_table
from compressai_gen.parsers.common import make
from compressai_gen.parsers.evaluation import bench as arguments
from compressai_gen.programs import exit_status, prepare_torch
from compressai_gen.specs import specs

__all__ = ["CONTENDERS", "main", "picture", "with_ratios"]

SIZES = ((256, 256), (512, 768), (1080, 1920), (2160, 3840))
REFERENCE_SIZE = "768x512"

ONE_THREAD = (1088, 1920)
"""Size of a picture that is coded on one thread of the processor, too."""

_STATUS = Path("/proc/self/status")
_PEAK_RESET = Path("/proc/self/clear_refs")


def _ours(name: str, quality: int, device: str) -> tuple[Codec, int]:
    return find_codec(name, device), quality


def _compressai(name: str, quality: int, device: str) -> tuple[Codec, int]:
    def load(quality: int) -> AnySize:
        torch.manual_seed(0)
        model = compressai.zoo.image_models[name](quality, pretrained=False)
        model.update(force=True)
        return AnySize(model)

    return LearnedCodec(name, (quality,), load, device), quality


def _avif(quality: int, device: str, **options: Any) -> tuple[Codec, int]:
    codec = CLASSICAL_CODECS["avif"]
    return replace(codec, options=dict(codec.options) | options), quality


def _our_contenders() -> dict[str, Callable[..., tuple[Codec, int]]]:
    """Every model, and its variants that the specification wants timed, at the middle one of its qualities."""
    contenders = {}
    for spec in specs().values():
        for name in (spec.name, *(f"{spec.name}:{settings}" for settings in spec.timed)):
            contenders[name] = functools.partial(_ours, name, spec.qualities[len(spec.qualities) // 2])
    return contenders


CONTENDERS: dict[str, Callable[..., tuple[Codec, int]]] = {
    **_our_contenders(),
    "bmshj2018-hyperprior": functools.partial(_compressai, "bmshj2018-hyperprior", 3),
    "mbt2018-mean": functools.partial(_compressai, "mbt2018-mean", 3),
    "cheng2020-attn": functools.partial(_compressai, "cheng2020-attn", 3),
    "avif speed=0": functools.partial(_avif, 20, speed=0),
    "avif speed=6": functools.partial(_avif, 20, speed=6),
}
"""What is compared, by name: functions of the device that return a codec and the quality to run it at."""


def picture(height: int, width: int) -> Tensor:
    """Returns a photograph (3, H, W) of any size: one of scikit-image's, continued by its mirror image."""
    photograph = load_dataset("samples", limit=1)[0]
    for dim, size in ((1, height), (2, width)):
        while photograph.shape[dim] < size:
            photograph = torch.cat((photograph, photograph.flip(dim)), dim)
    return photograph[:, :height, :width].contiguous()


def _measure(
    name: str,
    sizes: Sequence[tuple[int, int, int | None]],
    repeat: int,
    device: str,
    threads: int | None,
    to: Connection,
) -> None:
    """Sends a row per size, each with a number of threads or None for ``threads``; runs in a process of its own."""
    prepare_torch(device, threads)
    codec, quality = CONTENDERS[name](device=device)
    codec.decode(codec.encode(picture(64, 64), quality), quality)  # loads and builds what is built once
    for height, width, n_threads in sizes:
        image, n_pixels = picture(height, width), height * width
        if n_threads is not None:
            torch.set_num_threads(n_threads)
        encoded, encode = _measured(lambda image=image: codec.encode(image, quality), repeat, device, n_pixels)
        _, decode = _measured(lambda encoded=encoded: codec.decode(encoded, quality), repeat, device, n_pixels)
        row = {"size": _label(height, width, n_threads), "codec": name, "bpp": 8 * encoded.n_bytes / n_pixels}
        to.send(
            row | {f"{of}_{key}": side[key] for key in encode for of, side in (("encode", encode), ("decode", decode))}
        )
    to.close()


def _label(height: int, width: int, threads: int | None) -> str:
    return f"{width}x{height}" + ("" if threads is None else f", {threads} thread")


def _measured(run: Callable[[], Any], repeat: int, device: str, n_pixels: int) -> tuple[Any, dict[str, float]]:
    """Returns what a function returns; median seconds, peak memory in GiB and multiply-adds in thousands a pixel."""
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    elif _PEAK_RESET.exists():
        _PEAK_RESET.write_text("5")
    result, kmacs = kmacs_per_pixel(run, n_pixels)
    times = []
    for _ in range(repeat):
        if on_gpu:  # or the first run would be timed with what the one before left in the queue
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        run()
        if on_gpu:
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else _peak_of_process()
    return result, {"s": statistics.median(times), "gib": peak / 2**30, "kmac_px": kmacs}


def _peak_of_process() -> float:
    """Peak resident memory in bytes since it was last reset, or nan where the system does not tell."""
    if not _STATUS.exists():
        return float("nan")
    (line,) = [line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM")]
    return 1024.0 * int(line.split()[1])


def with_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Adds to rows of ``_measure`` what their times are relative to others'; see what the program prints below them."""
    total = table["encode_s"] + table["decode_s"]
    first = table["codec"].iloc[0]
    of_first = total[table["codec"] == first].set_axis(table["size"][table["codec"] == first])
    pixels = table["size"].map(_pixels)
    per_pixel = total / pixels
    unit = _reference_size(table)
    of_unit = per_pixel[table["size"] == unit].set_axis(table["codec"][table["size"] == unit])
    table = table.assign(
        times_first=total / table["size"].map(of_first), per_pixel=per_pixel / table["codec"].map(of_unit)
    )
    speeds = {f"{side}_mp_s": pixels / table[f"{side}_s"] / 1e6 for side in ("encode", "decode")}
    table = table.assign(**speeds)
    return table.sort_values("size", kind="stable", key=lambda size: size.map(list(dict.fromkeys(size)).index))


def _pixels(label: str) -> float:
    return float(np.prod([int(side) for side in label.partition(",")[0].split("x")]))


def _reference_size(table: pd.DataFrame) -> str:
    return REFERENCE_SIZE if REFERENCE_SIZE in set(table["size"]) else table["size"].iloc[0]


def main(argv: Sequence[str] | None = None, prog: str = "python -m compressai_gen.bench") -> int:
    """Run the program and return its exit status: 0, 2 on an error of the user's, 130 when interrupted."""
    args = make(arguments, prog).parse_args(argv)
    return exit_status(lambda: _run(args), "interrupted; nothing was written")


def _run(args: argparse.Namespace) -> None:
    prepare_torch(args.device, args.threads)
    if args.repeat < 1:
        raise CodecError(f"--repeat is {args.repeat}; at least one run is needed")
    codecs = list(dict.fromkeys(args.codecs or CONTENDERS))
    sizes = [(*size, None) for size in dict.fromkeys(args.sizes or SIZES)]
    if not args.sizes and torch.device(args.device).type == "cpu":
        sizes.append((*ONE_THREAD, 1))
    unknown = [name for name in codecs if name not in CONTENDERS]
    if unknown:
        raise CodecError(f"no codec {unknown[0]!r} is measured here; there are {', '.join(CONTENDERS)}")
    rows = []
    processes = multiprocessing.get_context("spawn")
    for name in tqdm(codecs, "measuring", unit="codec", file=sys.stderr):
        here, there = processes.Pipe(duplex=False)
        arguments = (name, sizes, args.repeat, args.device, args.threads, there)
        process = processes.Process(target=_measure, args=arguments, daemon=True)
        process.start()
        there.close()
        for _ in sizes:
            try:
                rows.append(here.recv())
            except EOFError:
                raise CodecError(f"{name} could not be measured; its process ended early, perhaps for memory") from None
        process.join()
    table = with_ratios(pd.DataFrame(rows))
    print(markdown_table(table.round(3)))
    print(
        "\nencode_s, decode_s: median seconds; _mp_s: megapixels per second; _gib: peak memory;\n"
        "_kmac_px: thousand multiply-adds a pixel, of convolutions and matrix products;\n"
        f"times_first: encode and decode together, relative to {rows[0]['codec']};\n"
        f"per_pixel: the same per pixel, relative to the codec's own at {_reference_size(table)}"
    )
    if args.output is not None:
        write_table(table, args.output / "bench.csv")
        write_json(describe_environment(args.device), args.output / "environment.json")


if __name__ == "__main__":
    sys.exit(main())
