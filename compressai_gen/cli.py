"""The command line ``compressai-gen``: one program for all that the package does.

What a command takes stands in :mod:`compressai_gen.parsers`, which is quick to import; what it does is imported when
its arguments are read, so that help and mistyped options need not wait for PyTorch.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from compressai_gen._version import __version__
from compressai_gen.errors import CompressaiGenError, ImageError, MissingExtraError
from compressai_gen.extras import extra
from compressai_gen.files import ignores_case, list_files, one_name, replacing
from compressai_gen.openmp import calm_idle_threads
from compressai_gen.options import words
from compressai_gen.parsers import pictures
from compressai_gen.parsers.common import Fill, Parser, make
from compressai_gen.parsers.pictures import PICTURE_SUFFIXES
from compressai_gen.parsers.tools import completion as completion_parser
from compressai_gen.programs import exit_status, prepare_torch

__all__ = ["COMMANDS", "build_parser", "main", "run"]

PROGRAM = "compressai-gen"
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


class Command(NamedTuple):
    """A command of the program.

    Attributes:
        help: what it does, in a few words.
        parser: ``module:function`` that adds what it takes to a parser, below :mod:`compressai_gen.parsers`.
        program: ``module:function`` that runs it, with its arguments and the name that its messages call it by, and
            returns the exit status.
    """

    help: str
    parser: str
    program: str


COMMANDS = {
    "encode": Command("pictures to .cgen files", "pictures:encode", "cli:encode_files"),
    "decode": Command(".cgen files to pictures", "pictures:decode", "cli:decode_files"),
    "info": Command("what is in .cgen files", "pictures:info", "cli:tell_files"),
    "models": Command("what the zoo has", "pictures:models", "cli:list_models"),
    "eval": Command("measure codecs on a dataset", "evaluation:evaluate", "eval.cli:main"),
    "compare": Command("draw crops of codecs at matched bytes", "evaluation:compare", "eval.compare:main"),
    "ablation": Command("measure what each part of a codec is worth", "evaluation:ablation", "eval.ablation:main"),
    "study": Command("ask people which codec is closer to the original", "study:study", "eval.study.cli:main"),
    "bench": Command("measure speed and memory of codecs", "evaluation:bench", "bench:main"),
    "train": Command("train a codec from a recipe", "training:train", "train.__main__:main"),
    "shards": Command("pack training pictures, check shards", "training:shards", "train.shards:main"),
    "publish": Command("put a training run into the zoo", "training:publish", "zoo.publish:main"),
    "leaderboard": Command("submit, verify and rank streams", "leaderboard:leaderboard", "leaderboard.cli:main"),
    "demo": Command("try the codecs in a browser", "demo:demo", "demo:main"),
    "tools": Command("run CompressAI's own programs", "tools:tools", "tools:main"),
    "completion": Command("print a shell's completion script", "tools:completion", "cli:print_completion"),
}
"""All commands, in the order of the help page."""


def build_parser(filled: bool = True) -> argparse.ArgumentParser:
    """Return the parser of the whole program.

    Args:
        filled: whether its commands have their arguments; without, it only knows their names, and is there at once.
    """
    parser = Parser(
        prog=PROGRAM,
        description="Compress pictures with generative codecs, and measure codecs.",
        epilog=f"{PROGRAM} COMMAND --help tells what a command takes, with examples.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="program_command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help)
        if filled:
            _fill_of(command)(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status: 0, 2 if anything could not be done, 130 when interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] not in COMMANDS:
        build_parser(filled=False).parse_args(argv)  # prints help, the version or an error, and ends the program
    return run(argv[0], argv[1:], f"{PROGRAM} {argv[0]}")


def run(name: str, argv: Sequence[str] | None, prog: str) -> int:
    """Run one command.

    Args:
        name: of :data:`COMMANDS`.
        argv: the command's arguments; None: those of this process.
        prog: what its help and errors call the program.

    Returns:
        The exit status.
    """
    calm_idle_threads()
    argv = list(sys.argv[1:] if argv is None else argv)
    command = COMMANDS[name]
    if name != "tools" or argv[:1] in (["-h"], ["--help"]):  # whose own arguments only the tool can read
        make(_fill_of(command), prog).parse_args(argv)
    try:
        program = _imported(command.program)
    except MissingExtraError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return program(argv, prog)


def _fill_of(command: Command) -> Fill:
    return _imported(f"parsers.{command.parser}")


def _imported(where: str) -> Any:
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(f"compressai_gen.{module}"), name)


def _program(fill: Fill, do: Callable[[argparse.Namespace], None], argv: Sequence[str], prog: str) -> int:
    args = make(fill, prog).parse_args(argv)
    return exit_status(lambda: do(args), "interrupted; files that are written are whole")


def _encode(args: argparse.Namespace) -> None:
    from compressai_gen.coding import encode
    from compressai_gen.data.images import list_images

    prepare_torch(args.device, args.threads)
    jobs = _plan(args.paths, list_images, SUFFIX)
    # A forgotten OUTPUT would make the last picture the one that is replaced.
    _check_suffixes(jobs, [SUFFIX], "compressed pictures")

    options = words(args.option)

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
            **options,
        )

    _run(jobs, lambda source, _: one(source), "encoding")


def _decode(args: argparse.Namespace) -> None:
    from compressai_gen.coding import decode

    prepare_torch(args.device, args.threads)
    jobs = _plan(args.paths, _list_files, f".{args.format}")
    _check_suffixes(jobs, list(PICTURE_SUFFIXES), "pictures")
    options = {"steps": args.steps, "seed": args.seed} | words(args.option)

    def one(source: str, target: str) -> bytes:
        image = decode(_read(source), device=args.device, max_pixels=args.max_pixels, **options)
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
    from compressai_gen.cgen import describe_file

    sources = [source for path in args.paths for source in _expand(path, _list_files)]
    failed = 0
    for source in sources:
        try:
            described = _described_streams(_read(source)) if args.streams else describe_file(_read(source))
        except CompressaiGenError as error:
            failed += _report(source, error)
            continue
        if args.json:
            print(json.dumps({"file": source} | described))
        else:
            print(_sentence(source, described))
    _fail(failed, len(sources))


def _described_streams(data: bytes) -> dict[str, Any]:
    from compressai_gen.coding import describe

    return describe(data, streams=True)


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
    if args.estimate is not None:
        _estimates(args)
        return
    from compressai_gen.manifest import read_manifest, read_record
    from compressai_gen.roles import ROLES
    from compressai_gen.specs import problems, specs

    rows = []
    for name, entry in read_manifest().items():
        if ROLES[0] not in entry:
            continue
        record, spec = read_record(name), specs()[entry["model"]]
        rates = [row["bpp"] for row in record["validation"]]
        rows.append(
            {
                "model": entry["model"],
                "weights": name,
                "qualities": f"{spec.qualities[0]}-{spec.qualities[-1]}",
                "validation_bpp": f"{min(rates):.3f}-{max(rates):.3f}",
                "parameters": record["parameters"],
                "coding": entry["fingerprint"][:8],
                "license": entry["license"],
            }
        )
    for problem in problems().values():
        print(f"warning: {problem}", file=sys.stderr)
    if args.json:
        print(json.dumps(rows))
        return
    _print_table(rows)


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    table = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _estimates(args: argparse.Namespace) -> None:
    from compressai_gen.estimate import estimate_recipe, foundation_recipes

    height, width = args.size
    for name in args.estimate or foundation_recipes():
        found = estimate_recipe(name, height, width)
        if args.json:
            print(json.dumps(found))
            continue
        print(f"{name}: {width}x{height} pixels, one step; parameters in millions")
        _print_table(found["networks"])
        if found["training"]:
            print("training, without networks of losses, on each process")
            _print_table(found["training"])
        print()


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
    jobs: dict[str, tuple[str, str]] = {}
    folds = ignores_case(output)
    for given in inputs:
        if given == STANDARD:
            raise CompressaiGenError("standard input has no name to write under: name the output file")
        for source in _expand(given, listed):
            below = Path(source).relative_to(given) if Path(given).is_dir() else Path(Path(source).name)
            target = str(Path(output) / below.with_suffix(suffix))
            key = one_name(target) if folds else target
            if key in jobs:
                raise CompressaiGenError(f"{jobs[key][0]} and {source} would both be written to {target}")
            jobs[key] = source, target
    return list(jobs.values())


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
    return list_files(folder, {SUFFIX})


def _run(jobs: Sequence[tuple[str, str]], convert: Callable[[str, str], bytes], verb: str) -> None:
    """Converts one input after another; one that cannot be is told, and the others go on."""
    from tqdm import tqdm

    failed = 0
    for source, target in tqdm(jobs, desc=verb, unit="file", disable=len(jobs) < 2, file=sys.stderr):
        try:
            _write(convert(source, target), target)
        except CompressaiGenError as error:
            failed += _report(source, error)
    _fail(failed, len(jobs))


def _report(source: str, error: CompressaiGenError) -> int:
    from tqdm import tqdm

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
        name = "standard input" if source == STANDARD else source
        raise CompressaiGenError(f"{name} cannot be read: {error.strerror}") from error


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


def _completion(args: argparse.Namespace) -> None:
    with extra("completion"):
        import shtab
    print(shtab.complete(build_parser(), args.shell))


encode_files = functools.partial(_program, pictures.encode, _encode)
decode_files = functools.partial(_program, pictures.decode, _decode)
tell_files = functools.partial(_program, pictures.info, _info)
list_models = functools.partial(_program, pictures.models, _models)
print_completion = functools.partial(_program, completion_parser, _completion)
