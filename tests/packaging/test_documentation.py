"""What README and documentation say can be done: commands parse or run, snippets run, links lead somewhere.

A block of code whose command or snippet cannot run here stands below a comment ``<!-- not run: reason -->``.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from compressai_gen.cli import COMMANDS, main
from compressai_gen.cli import _fill_of as fill_of
from compressai_gen.coding import encode
from compressai_gen.data import known_datasets, load_dataset, write_image
from compressai_gen.parsers.common import make
from compressai_gen.train.recipe import load_recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RUN = ("encode", "decode", "info", "models")
"""Commands that are run; others take too long, and their arguments are read."""
MODULES = {
    "compressai_gen.eval": "eval",
    "compressai_gen.eval.compare": "compare",
    "compressai_gen.eval.study": "study",
    "compressai_gen.eval.ablation": "ablation",
    "compressai_gen.bench": "bench",
    "compressai_gen.train": "train",
    "compressai_gen.zoo.publish": "publish",
    "compressai_gen.leaderboard": "leaderboard",
    "compressai_gen.tools": "tools",
}
OTHERS = {
    ".",
    ".ci/run",
    "accelerate",
    "apt-get",
    "cd",
    "git",
    "mkdocs",
    "mypy",
    "pip",
    "pre-commit",
    "ruff",
    "torchrun",
}
"""Programs that are not ours."""


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    kind: str
    text: str
    runs: bool


def _blocks(page):
    text = page.read_text(encoding="utf-8")
    found = re.findall(
        r"(<!-- not run: [^>]+ -->\n+)?^[ ]*```(\w+)[^\n]*\n(.*?)^[ ]*```$", text, re.MULTILINE | re.DOTALL
    )
    return [Block(page, kind, block, not skipped) for skipped, kind, block in found]


BLOCKS = [block for page in PAGES for block in _blocks(page)]


def _steps(block):
    """Commands of a block of shell, as lists of words, without redirections."""
    lines = re.sub(r"\\\n\s*", " ", block.text).splitlines()
    for line in lines:
        for step in line.split("&&"):
            words = shlex.split(step.partition(" > ")[0], comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # a variable for this command
                words.pop(0)
            if words:
                yield words


def _call(words):
    """Returns the command of ours that is called and its arguments, or None if it is another program."""
    if words[0].endswith("compressai-gen"):
        return words[1], words[2:]
    for module in (module for module in MODULES if module in words[1:]):
        at = words.index(module)
        if words[at - 1] == "-m":
            return MODULES[module], words[at + 1 :]
    assert words[0] in OTHERS or words[0].rpartition("/")[2] in ("pip", "python", "python3"), words
    return None


CALLS = [
    pytest.param(block, *call, id=f"{block.page.stem}-{call[0]}")
    for block in BLOCKS
    if block.kind in ("sh", "bash", "console")
    for call in map(_call, _steps(block))
    if call
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with what the commands and snippets of the pages read."""
    folder = tmp_path_factory.mktemp("pages")
    image = load_dataset("samples", limit=1)[0][:, 100:175, 200:290].contiguous()
    (folder / "photos").mkdir()
    for name in ("photo.png", "photo.jpg", "photos/one.png", "photos/two.png", "mask.png"):
        write_image(image, folder / "x.png")
        (folder / "x.png").rename(folder / name)
    (folder / "photo.cgen").write_bytes(encode(folder / "photo.png"))
    return folder


@pytest.mark.parametrize(("block", "command", "arguments"), CALLS)
def test_commands(block, command, arguments, folder, monkeypatch):
    assert command in COMMANDS
    monkeypatch.chdir(folder)
    if "--help" in arguments:
        assert arguments == ["--help"]
        return
    if command == "tools":
        _parse_compressai(*arguments)
        return
    args = make(fill_of(COMMANDS[command]), f"compressai-gen {command}").parse_args(arguments)
    dataset = getattr(args, "dataset", None)
    assert dataset is None or "/" in dataset or dataset in known_datasets()
    if command == "train" and not args.recipe.endswith(".toml"):
        assert load_recipe(args.recipe)
    if command in RUN and block.runs:
        assert main([command, *arguments]) == 0


def _parse_compressai(tool, *arguments):
    threads = torch.get_num_threads()
    from compressai.utils.eval_model.__main__ import setup_args as eval_model
    from compressai.utils.plot.__main__ import setup_args as plot

    torch.set_num_threads(threads)  # importing eval_model sets one
    {"eval_model": eval_model, "plot": plot}[tool]().parse_args(arguments)


def test_every_command_is_documented():
    assert {call.values[1] for call in CALLS} >= {"encode", "decode", "info", "models", "eval"}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.kind == "python" for b in _blocks(page))], ids=lambda p: p.stem
)
def test_snippets_of_a_page_run_one_after_the_other(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    namespace = {"__name__": page.stem}
    for block in _blocks(page):
        if block.kind == "python" and block.runs:
            exec(compile(block.text, str(page), "exec"), namespace)


def test_toml_is_toml():
    blocks = [block for block in BLOCKS if block.kind == "toml"]
    assert blocks
    for block in blocks:
        tomllib.loads(block.text)


def test_ci_runs_both_commands_of_the_quick_start():
    for name in ("evaluation", "test"):
        done = subprocess.run(
            [ROOT / ".ci/run", "--print", name], capture_output=True, text=True, check=True, timeout=30
        )
        assert done.stdout.strip() == _marked(name)


def _marked(name):
    (block,) = re.findall(rf"^<!-- {name} command -->\n```sh\n(.*?)\n```$", README, re.MULTILINE | re.DOTALL)
    return block


@pytest.mark.parametrize("name", ["evaluation", "test"])
def test_quick_start_is_one_line_from_nothing(name):
    command = _marked(name)
    assert "\n" not in command
    steps = [shlex.split(step) for step in command.split("&&")]
    assert steps[0] == ["python3", "-m", "venv", ".venv"]
    assert steps[1][:2] == [".venv/bin/pip", "install"]
    assert steps[2][0].startswith(".venv/bin/")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []


def test_readme_is_short_and_has_its_results():
    assert len(README.splitlines()) <= 150
    assert re.search(r"^<!-- results -->$.+^<!-- /results -->$", README, re.MULTILINE | re.DOTALL)
