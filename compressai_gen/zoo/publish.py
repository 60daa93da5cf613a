"""Puts a finished training run into the zoo: ``python -m compressai_gen.zoo.publish runs/cgdm-v4-restorer --tag v4``.

Copies the weights, updates the manifest and writes the card. ``--results FOLDER`` adds measured figures to the card;
without a training run, it only rewrites the cards of all models.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from compressai_gen._version import __version__
from compressai_gen.arithmetic import kmacs_per_pixel
from compressai_gen.data import load_dataset
from compressai_gen.errors import ZooError
from compressai_gen.files import markdown_table, read_table, replacing
from compressai_gen.manifest import folder_of, read_manifest, read_record
from compressai_gen.metrics import MIN_OVERLAP
from compressai_gen.parsers.common import make
from compressai_gen.parsers.training import publish as arguments
from compressai_gen.programs import exit_status
from compressai_gen.roles import ROLES
from compressai_gen.specs import find_spec
from compressai_gen.zoo import load

LICENSE = "BSD-3-Clause"


def publish(run: Path, tag: str) -> str:
    """Copies a run's weights and record into the zoo and lists them in the manifest.

    Args:
        run: folder of a finished training run.
        tag: of the weights. One that is there already gets the new networks, if the coding part is the same.

    Returns:
        The weights' name, ``model.tag``.

    Raises:
        ZooError: the folder holds no finished run, or the tag is that of another coding part.
    """
    try:
        record = json.loads((run / "record.json").read_text(encoding="utf-8"))
        files = {role: (run / f"{role}.safetensors").read_bytes() for role in ROLES}
    except OSError as error:
        raise ZooError(f"{run} is not a finished training run: {error}") from error
    model = record["recipe"]["model"]
    name = f"{model}.{tag}"
    if not re.fullmatch(r"[\w-]+", tag):
        raise ZooError(f"a tag consists of letters, digits, - and _, not {tag!r}")
    folder = folder_of(model)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    old = manifest.get(name, {"fingerprint": record["fingerprint"], "version": __version__})
    if old["fingerprint"] != record["fingerprint"]:
        raise ZooError(f"{name} has another coding part, whose files would no longer decode: publish under a new tag")
    entry = {
        "model": model,
        "class": find_spec(model).load().__name__,
        "fingerprint": record["fingerprint"],
        "trained_on": record["trained_on"],
        "version": old["version"],
        "card": f"{name}.md",
        "record": f"{name}.json",
        "recipe": record["recipe"]["name"],
        "license": LICENSE,
        "config": record["config"],
    }
    for role, data in files.items():
        file = f"{name}.{role}.safetensors"
        entry[role] = {"file": file, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        _write(folder / file, data)
    _write(folder / entry["record"], json.dumps(record, indent=1).encode() + b"\n")
    _write(path, json.dumps(manifest | {name: entry}, indent=1).encode() + b"\n")
    return name


def card(name: str, entry: dict[str, Any], results: Path | None) -> str:
    """Returns the model card of a manifest entry in Markdown."""
    record, model = read_record(name), entry["model"]
    recipe, run = record["recipe"], record["run"]
    spec = find_spec(model)
    what = spec.load().__doc__.strip().splitlines()[0]
    files = "\n".join(
        f"- {role}: `{entry[role]['file']}`, {entry[role]['bytes'] / 1e6:.1f} MB, SHA-256 `{entry[role]['sha256']}`"
        for role in ROLES
    )
    parts = [
        f"# {name}",
        f"{what} {record['parameters'] / 1e6:.1f} million parameters, float16 on disk.",
        f"{files}\n- fingerprint of the coding part, by which files name it: `{entry['fingerprint']}`\n"
        f"- trained to lower: rate, {', '.join(entry['trained_on'])}\n- licence of the weights: {entry['license']}\n"
        f'- load: `compressai_gen.zoo.load("{model}", quality=3, weights="{name}")`, qualities '
        f"{spec.qualities[0]} to {spec.qualities[-1]}",
        "## Training",
        *[_history(recipe_name, stage) for recipe_name, stage in _stages(record)],
        f"Seed {recipe['seed']}; torch {record['software']['torch']}. Data: {run['images']} photographs "
        f"({run['data']}), none of them in a dataset that `eval/` defines. They keep their own terms and are not part "
        "of the package. The weights are an exponential moving average; settings and figures of the run stand in "
        f"`{entry['record']}`.",
        "## Arithmetic",
        "Thousands of multiply-adds a pixel with the default steps of the sampler, of a photograph of 512x512 pixels, "
        "counted by `torch.utils.flop_counter`.",
        markdown_table(_arithmetic(name, load_dataset("samples", limit=1)[0])),
        "## Validation",
        "Real bytes on held-out photographs, none of which was trained on, by size (`small`: 481x321; `large`: "
        "cropped to at most 768x512).",
        markdown_table(pd.DataFrame(record["validation"])),
    ]
    if results is not None:
        summary = read_table(results / "summary.csv")
        rows = summary[(summary["codec"] == model) & (summary["source"] == "measured")].drop(
            columns=["codec", "source"]
        )
        parts += [
            "## Results",
            f"Real bytes on `{results.name}`, measured as `eval/protocol.md` says; all tables and "
            f"plots are in `results/{results.name}`.",
            # Published points have no counts, so that the file's come back as fractions.
            markdown_table(rows.round(4).astype({column: int for column in rows if column.startswith("n_")})),
        ]
        ablation = results.parent / "ablation" / f"{model}.csv"
        if ablation.is_file():
            parts += [
                "## What the parts are worth",
                f"The same weights with parts switched off: `python -m compressai_gen.eval.ablation {model}`.",
                markdown_table(read_table(ablation).round(4)),
            ]
    parts += [
        "## Limits",
        "Trained on few photographs for a short time on a CPU: text, faces and fine regular texture suffer first. At "
        "its lowest qualities the decoder invents texture; do not use decoded pictures as evidence.",
        *([spec.limits] if spec.limits else []),
    ]
    return "\n\n".join(parts) + "\n"


def _stages(record: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Recipe's name and run of each training that led to the weights, the first first."""
    stages = [(record["recipe"]["name"], record["run"])]
    while "recipe" in (init := stages[0][1].get("init", {})):
        stages.insert(0, (init["recipe"], init["run"]))
    return stages


def _history(recipe: str, run: dict[str, Any]) -> str:
    start = f", from weights of SHA-256 `{run['init']['sha256']}`" if "init" in run else ""
    pixels = f", {run['pixels'] / 1e9:.2f} billion pixels," if "pixels" in run else ""
    text = f"- recipe `recipes/{recipe}.toml`{start}: {run['step']} steps{pixels} in {run['seconds'] / 3600:.1f} hours "
    return f"{text}{run['hardware']}.{' ' + run['note'] if run.get('note') else ''}"


def _arithmetic(name: str, image: Tensor) -> pd.DataFrame:
    """Counts the multiply-adds that weights spend on an image (3, H, W), at each whole quality."""
    model = load(read_manifest()[name]["model"], 1, weights=name)
    x, rows = image[None].float() / 255, []
    for quality in find_spec(model.name).qualities:
        stream, encode = kmacs_per_pixel(lambda q=quality: model.compress(x, q), x[0, 0].numel())
        _, decode = kmacs_per_pixel(lambda s=stream: model.decompress(**s), x[0, 0].numel())
        rows.append({"quality": quality, "encode_kmac_px": round(encode, 1), "decode_kmac_px": round(decode, 1)})
    return pd.DataFrame(rows)


_README_BPP, _README_ROWS = 0.1, 8
_README_METRICS = ("psnr", "ms_ssim", "lpips", "dists", "lpips_vgg", "ssimulacra2", "grid", "blocking", "fid")
_README_RATES = ("lpips", "dists", "lpips_vgg")


def readme_section(results: Path) -> str:
    """Returns the table of an evaluation's measured codecs that the README shows.

    A row per codec, at the quality whose rate is nearest to 0.1 bpp, with a metric of each family that was measured:
    of errors, of structure, of features, of texture, of none of those that codecs are trained for, and of sets.
    """
    summary = pd.read_csv(results / "summary.csv")
    measured = summary[summary["source"] == "measured"]
    distance = (measured["bpp"] - _README_BPP).abs()
    nearest = measured.loc[distance.groupby(measured["codec"], sort=False).idxmin()].head(_README_ROWS)
    metrics = [name for name in _README_METRICS if name in nearest and nearest[name].notna().any()]
    table = (
        nearest[["codec", "quality", "bpp", *metrics]]
        .round(4)
        .round({"psnr": 2, "ssimulacra2": 1, "grid": 1, "blocking": 1, "fid": 1})
    )
    rates = pd.read_csv(results / "bd_rate.csv")
    for metric in _README_RATES:
        of_metric = rates[rates["metric"] == metric].set_index("codec")
        table[f"BD-rate {metric}"] = [_rate(of_metric, codec) for codec in table["codec"]]
    return "\n\n".join(
        [
            markdown_table(table.astype(object).where(table.notna(), "")),
            f"BD-rates are percent of bits against {' and '.join(rates['anchor'].unique())} over all qualities "
            "(negative: fewer bits for the same figure; *: the curves share less than "
            f"{MIN_OVERLAP:.0%} of their range).",
        ]
    )


def _rate(rates: pd.DataFrame, codec: str) -> str:
    if codec not in rates.index or pd.isna(rates.loc[codec, "bd_rate_percent"]):
        return ""
    value, overlap = rates.loc[codec, ["bd_rate_percent", "overlap"]]
    return f"{value:+.1f}" + "*" * bool(overlap < MIN_OVERLAP)


def update_readme(readme: Path, results: Path) -> None:
    """Replaces what stands between the README's ``results`` marks."""
    before, _, rest = readme.read_text(encoding="utf-8").partition("<!-- results -->")
    _, mark, after = rest.partition("<!-- /results -->")
    if not mark:
        raise ZooError(f"{readme} has no <!-- results --> and <!-- /results --> to write between")
    _write(readme, f"{before}<!-- results -->\n{readme_section(results)}\n{mark}{after}".encode())


def _write(path: Path, data: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def main(argv: list[str] | None = None, prog: str = "python -m compressai_gen.zoo.publish") -> int:
    """Runs the command line and returns its exit status."""
    args = make(arguments, prog).parse_args(argv)
    return exit_status(lambda: _run(args), "interrupted; the same command starts again")


def _run(args: argparse.Namespace) -> None:
    if args.results and not (args.results / "summary.csv").is_file():
        raise ZooError(f"{args.results} holds no evaluation: there is no summary.csv in it")
    if args.run and not args.tag:
        raise ZooError("say under which tag to publish: --tag")
    published = [publish(run, args.tag) for run in args.run]
    if args.results and args.readme:
        update_readme(args.readme, args.results)
    manifest = read_manifest()
    for name in published or [name for name, entry in manifest.items() if ROLES[0] in entry]:
        folder = folder_of(manifest[name]["model"])
        _write(folder / manifest[name]["card"], card(name, manifest[name], args.results).encode())


if __name__ == "__main__":
    sys.exit(main())
