"""The command line ``compressai-gen``: encode and decode pictures, and tell what is in a file and in the zoo."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from tqdm import tqdm

from compressai_gen._version import __version__
from compressai_gen.coding import DEFAULT_QUALITY, MAX_PIXELS, decode, describe, encode
from compressai_gen.data.images import list_images
from compressai_gen.diffusion.sampler import STEPS
from compressai_gen.errors import CompressaiGenError, ImageError
from compressai_gen.files import replacing
from compressai_gen.programs import exit_status, prepare_torch
from compressai_gen.zoo import MODELS, QUALITIES
from compressai_gen.zoo.manifest import read_manifest, read_record

__all__ = ["build_parser", "main"]

SUFFIX = ".cgen"
STANDARD = "-"
"""Stands for standard input and output."""

_SAVED_AS = {
    ".png": {"format": "PNG"},
    ".bmp": {"format": "BMP"},
    ".ppm": {"format": "PPM"},
    ".tif": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
    ".tiff": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
    ".webp": {"format": "WEBP", "lossless": True},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}

_PATHS = """
INPUT is a file, a folder (all files of the kind below it), or - for standard input. OUTPUT is a file for one input
file, - for standard output, and otherwise a folder, which is made where it is missing. Existing files are replaced.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="compressai-gen", description="Compress pictures with generative codecs.")
    parser.add_argument("--version", action="version", version=f"compressai-gen {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="encode | decode | info | models")

    sub = commands.add_parser("encode", help="pictures to .cgen files", description=f"Compress pictures.{_PATHS}")
    sub.add_argument("paths", nargs="+", metavar="INPUT… OUTPUT", help="picture files or folders, then where to write")
    sub.add_argument("--model", choices=MODELS, default="cgdm", help="codec (default: %(default)s)")
    rate = sub.add_mutually_exclusive_group()
    rate.add_argument("--quality", type=int, help=f"1 (fewest bits) to 5 (default: {DEFAULT_QUALITY})")
    rate.add_argument("--target-bpp", type=float, metavar="BPP", help="highest quality within so many bits per pixel")
    rate.add_argument("--target-bytes", type=int, metavar="N", help="highest quality within a file of so many bytes")
    sub.add_argument(
        "--online-steps", type=int, default=0, metavar="N", help="search for better bits, seconds a step (cgdm)"
    )
    sub.add_argument("--roi", metavar="MASK", help="picture of the same size, bright where bits matter most (mridc)")
    sub.add_argument("--seed", type=int, help="of the decoder's noise (default: follows from the stream)")
    _add_machine(sub)
    sub.set_defaults(run=_encode)

    sub = commands.add_parser("decode", help=".cgen files to pictures", description=f"Decompress files.{_PATHS}")
    sub.add_argument("paths", nargs="+", metavar="INPUT… OUTPUT", help=".cgen files or folders, then where to write")
    sub.add_argument(
        "--steps", type=int, choices=(0, *STEPS), help="of the diffusion sampler; 0: without (default: the model's)"
    )
    sub.add_argument("--seed", type=int, help="of the noise (default: the file's)")
    sub.add_argument("--max-pixels", type=int, default=MAX_PIXELS, metavar="N", help="refuse larger pictures")
    sub.add_argument(
        "--format",
        choices=[suffix[1:] for suffix in _SAVED_AS],
        default="png",
        help="of pictures in folders and on standard output (default: %(default)s); a file's name says its own",
    )
    _add_machine(sub)
    sub.set_defaults(run=_decode)

    sub = commands.add_parser("info", help="what is in .cgen files", description="Tell what is in .cgen files.")
    sub.add_argument("paths", nargs="+", metavar="INPUT", help=".cgen files or folders, or - for standard input")
    sub.add_argument(
        "--streams", action="store_true", help="decode the symbols and tell how many bytes each kind takes"
    )
    sub.add_argument("--json", action="store_true", help="one JSON object per file and line")
    sub.set_defaults(run=_info)

    sub = commands.add_parser("models", help="what the zoo has", description="List the pretrained models.")
    sub.add_argument("--json", action="store_true", help="as JSON")
    sub.set_defaults(run=_models)
    return parser


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="such as cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of PyTorch (default: its own choice)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status: 0, 2 if anything could not be done, 130 when interrupted."""
    args = build_parser().parse_args(argv)
    return exit_status(lambda: args.run(args), "interrupted; files that are written are whole")


def _encode(args: argparse.Namespace) -> None:
    prepare_torch(args.device, args.threads)
    jobs = _plan(args.paths, list_images, SUFFIX)
    # A forgotten OUTPUT would make the last picture the one that is replaced.
    _check_suffixes(jobs, [SUFFIX], "compressed pictures")

    def one(source: str) -> bytes:
        return encode(
            _standard_input() if source == STANDARD else source,
            args.model,
            args.quality,
            target_bpp=args.target_bpp,
            target_bytes=args.target_bytes,
            online_steps=args.online_steps,
            roi=args.roi,
            seed=args.seed,
            device=args.device,
            progress=len(jobs) == 1,
        )

    _run(jobs, lambda source, _: one(source), "encoding")


def _decode(args: argparse.Namespace) -> None:
    prepare_torch(args.device, args.threads)
    jobs = _plan(args.paths, _list_files, f".{args.format}")
    _check_suffixes(jobs, list(_SAVED_AS), "pictures")

    def one(source: str, target: str) -> bytes:
        image = decode(_read(source), steps=args.steps, seed=args.seed, device=args.device, max_pixels=args.max_pixels)
        suffix = f".{args.format}" if target == STANDARD else Path(target).suffix.lower()
        buffer = BytesIO()
        try:
            image.save(buffer, **_SAVED_AS[suffix])
        except (OSError, ValueError) as error:  # Pillow's, for pictures that the format has no room for
            size = f"{image.width}x{image.height}"
            raise ImageError(f"{size} pixels cannot be written as {suffix[1:]} ({error}): take png") from error
        return buffer.getvalue()

    _run(jobs, one, "decoding")


def _info(args: argparse.Namespace) -> None:
    sources = [source for path in args.paths for source in _expand(path, _list_files)]
    failed = 0
    for source in sources:
        try:
            described = describe(_read(source), args.streams)
        except CompressaiGenError as error:
            failed += _report(source, error)
            continue
        if args.json:
            print(json.dumps({"file": source} | described))
        else:
            print(_sentence(source, described))
    _fail(failed, len(sources))


def _sentence(source: str, d: dict[str, Any]) -> str:
    here = "" if d["weights_known"] else ", which this version does not have"
    lines = [
        f"{source}: {d['model']} quality {d['quality']}, {d['width']}x{d['height']} pixels, {d['bytes']} bytes, "
        f"{d['bpp']:.4f} bpp",
        f"  weights {d['weights']}{here}; seed {'of the stream' if d['seed'] is None else d['seed']}",
    ]
    lines += [f"  {n:>10.1f} bytes {n / d['bytes']:>6.1%} {name}" for name, n in d.get("streams", {}).items()]
    return "\n".join(lines)


def _models(args: argparse.Namespace) -> None:
    rows = []
    for name, entry in read_manifest().items():
        record = read_record(name)
        rates = [row["bpp"] for row in record["validation"]]
        rows.append(
            {
                "model": name,
                "qualities": f"{QUALITIES[name][0]}-{QUALITIES[name][-1]}",
                "validation_bpp": f"{min(rates):.3f}-{max(rates):.3f}",
                "parameters": record["parameters"],
                "weights": entry["sha256"][:8],
                "license": entry["license"],
            }
        )
    if args.json:
        print(json.dumps(rows))
        return
    table = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _plan(paths: Sequence[str], listed: Callable[[Path], list[Path]], suffix: str) -> list[tuple[str, str]]:
    """Returns what to read and where to write it, in pairs.

    Raises:
        CompressaiGenError: nothing to read or nowhere to write it, or two inputs would be written to one file.
    """
    if len(paths) < 2:
        raise CompressaiGenError(f"give what to read and where to write it: {paths[0]} stands alone")
    *inputs, output = paths
    single = len(inputs) == 1 and not Path(inputs[0]).is_dir() and not Path(output).is_dir() and output[-1] != "/"
    if single:
        return [(inputs[0], output)]
    if output == STANDARD:
        raise CompressaiGenError("several files cannot all be written to standard output")
    if Path(output).exists() and not Path(output).is_dir():
        raise CompressaiGenError(f"{output} is a file, and several are to be written: name a folder")
    jobs: dict[str, str] = {}
    for given in inputs:
        if given == STANDARD:
            raise CompressaiGenError("standard input has no name to write under: name the output file")
        for source in _expand(given, listed):
            below = Path(source).relative_to(given) if Path(given).is_dir() else Path(Path(source).name)
            target = str(Path(output) / below.with_suffix(suffix))
            if target in jobs:
                raise CompressaiGenError(f"{jobs[target]} and {source} would both be written to {target}")
            jobs[target] = source
    return [(source, target) for target, source in jobs.items()]


def _check_suffixes(jobs: Sequence[tuple[str, str]], allowed: Sequence[str], what: str) -> None:
    for _, target in jobs:
        if target != STANDARD and Path(target).suffix.lower() not in allowed:
            names = ", ".join(allowed)
            raise CompressaiGenError(f"{target}: the last path says where to write; {what} are written to {names}")


def _expand(path: str, listed: Callable[[Path], list[Path]]) -> list[str]:
    if not Path(path).is_dir():
        return [path]
    found = [str(file) for file in listed(Path(path))]
    if not found:
        raise CompressaiGenError(f"{path}: nothing to read in this folder")
    return found


def _list_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob(f"*{SUFFIX}") if path.is_file())


def _run(jobs: Sequence[tuple[str, str]], convert: Callable[[str, str], bytes], verb: str) -> None:
    """Converts one input after another; one that cannot be is told, and the others go on."""
    failed = 0
    for source, target in tqdm(jobs, desc=verb, unit="file", disable=len(jobs) < 2, file=sys.stderr):
        try:
            _write(convert(source, target), target)
        except CompressaiGenError as error:
            failed += _report(source, error)
    _fail(failed, len(jobs))


def _report(source: str, error: CompressaiGenError) -> int:
    message = str(error)
    tqdm.write(f"error: {message if source in message else f'{source}: {message}'}", file=sys.stderr)
    return 1


def _fail(failed: int, of: int) -> None:
    if failed:
        raise CompressaiGenError(f"{failed} of {of} files could not be read or written")


def _read(source: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if source == STANDARD else Path(source).read_bytes()
    except OSError as error:
        raise CompressaiGenError(f"{source} cannot be read: {error.strerror}") from error


def _standard_input() -> BytesIO:
    file = BytesIO(_read(STANDARD))
    file.name = "standard input"  # which errors call it
    return file


def _write(data: bytes, target: str) -> None:
    if target == STANDARD:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    with replacing(target) as temporary:
        temporary.write_bytes(data)
