"""What README.md says can be done: its commands parse, its Python runs, its links lead somewhere."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from compressai.utils.plot.__main__ import setup_args as plot_parser

import compressai_gen  # noqa: F401  (registers the models that eval_model's parser lists)
from compressai_gen.cli import build_parser as program_parser
from compressai_gen.data import known_datasets, load_dataset, write_image
from compressai_gen.eval import compare
from compressai_gen.eval.cli import build_parser
from compressai_gen.leaderboard.cli import build_parser as leaderboard_parser
from compressai_gen.train.recipe import load_recipe

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def _marked(name):
    (block,) = re.findall(rf"^<!-- {name} command -->\n```sh\n(.*?)\n```$", TEXT, re.MULTILINE | re.DOTALL)
    return block


def _arguments(program):
    """Arguments of every call of `python -m program` in the blocks of shell commands."""
    commands = [command for kind, block in BLOCKS if kind == "sh" for command in re.split(r"\n|&&", block)]
    found = [shlex.split(command.partition(f" -m {program} ")[2]) for command in commands]
    return [arguments for arguments in found if arguments]


def _run_block(marker, namespace=None):
    namespace = {} if namespace is None else namespace
    (block,) = [block for kind, block in BLOCKS if kind == "python" and marker in block]
    exec(compile(block, "README.md", "exec"), namespace)
    return namespace


def test_ci_runs_the_test_command():
    done = subprocess.run([ROOT / ".ci/run", "--print"], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == _marked("test")


@pytest.mark.parametrize("name", ["evaluation", "test"])
def test_quick_start_is_one_line_from_nothing(name):
    command = _marked(name)
    assert "\n" not in command
    subprocess.run(["bash", "-n", "-c", command], check=True, timeout=30)
    steps = [shlex.split(step) for step in command.split("&&")]
    assert steps[0] == ["python3", "-m", "venv", ".venv"]
    assert steps[1][:2] == [".venv/bin/pip", "install"]
    assert steps[2][0] == ".venv/bin/python"


def test_commands_of_our_programs_parse():
    evaluations = [build_parser().parse_args(arguments) for arguments in _arguments("compressai_gen.eval")]
    assert {evaluation.dataset for evaluation in evaluations} == {"samples", "kodak"} <= set(known_datasets())
    submissions = [leaderboard_parser().parse_args(call) for call in _arguments("compressai_gen.leaderboard")]
    assert {submission.command for submission in submissions} == {"pack", "verify", "rank"}
    comparisons = [compare.build_parser().parse_args(arguments) for arguments in _arguments(compare.__name__)]
    assert comparisons
    trainings = _arguments("compressai_gen.train")
    assert trainings
    assert all(load_recipe(recipe) for recipe, *_ in trainings)


def test_commands_of_the_program_parse():
    commands = re.findall(
        r"^compressai-gen (.+)$", "".join(block for kind, block in BLOCKS if kind == "sh"), re.MULTILINE
    )
    parsed = [program_parser().parse_args(shlex.split(command)) for command in commands]
    assert {call.command for call in parsed} == {"encode", "decode", "info", "models"}


def test_commands_of_compressai_parse():
    threads = torch.get_num_threads()
    from compressai.utils.eval_model.__main__ import setup_args as eval_model_parser

    torch.set_num_threads(threads)  # importing that module sets one
    parsers = {"eval_model": eval_model_parser(), "plot": plot_parser()}
    calls = _arguments("compressai_gen.tools")
    assert {tool for tool, *_ in calls} == set(parsers)
    for tool, *arguments in calls:
        parsers[tool].parse_args(arguments)


def test_links_lead_to_files():
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", TEXT) if "://" not in link]
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_results_have_their_place():
    assert re.search(r"^<!-- results -->$.+^<!-- /results -->$", TEXT, re.MULTILINE | re.DOTALL)


def test_python_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = load_dataset("samples", limit=1)[0][:, 100:175, 200:290]
    write_image(image, tmp_path / "photo.png")
    _run_block("compressai_gen.encode")
    assert (tmp_path / "photo.cgen").stat().st_size > 22
    assert (tmp_path / "decoded.png").stat().st_size > 1000
    (tmp_path / "decoded.png").unlink()
    _run_block("read_image")
    assert (tmp_path / "decoded.png").stat().st_size > 1000
    assert (tmp_path / "photo.mridc").stat().st_size > 4
    _run_block("torch.save")
    assert int(torch.load(tmp_path / "cgdm.pth", weights_only=True)["quality"]) == 2
