"""What a plain installation lacks is said in one line; what it declares is no more than it needs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from compressai_gen.errors import MissingExtraError
from compressai_gen.extras import EXTRAS, extra

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_a_missing_package_names_its_extra():
    said = r"this needs no_such_package.*pip install 'compressai-gen\[study\]'"
    with pytest.raises(MissingExtraError, match=said), extra("study"):
        import no_such_package.part  # noqa: F401


def test_a_missing_module_of_ours_is_a_fault_and_stays_one():
    with pytest.raises(ModuleNotFoundError, match="compressai_gen"), extra("study"):
        import compressai_gen.no_such_module  # noqa: F401
    with pytest.raises(ValueError, match="none of the extras"), extra("typo"):
        pass


PLAIN = """
import sys

for package in ("accelerate", "peft", "gradio", "shtab"):
    sys.modules[package] = None  # as if it were not installed

from compressai_gen.cli import main

train = ["train", "cgdm-v1-base", "--data-root", ".", "--output", "run"]
print(main(train), main(["demo"]), main(["completion", "bash"]))
"""


def test_programs_without_their_extra_say_what_to_install(tmp_path):
    done = subprocess.run([sys.executable, "-c", PLAIN], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["2", "2", "2"], done.stderr
    assert re.findall(r"pip install 'compressai-gen\[(\w+)\]'", done.stderr) == ["train", "demo", "completion"]
    assert list(tmp_path.iterdir()) == []


def test_a_plain_installation_has_at_most_18_direct_dependencies():
    names = {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in PROJECT["dependencies"]}
    assert len(names) == len(PROJECT["dependencies"]) <= 18
    assert {"compressai", "torch", "diffusers", "lpips", "pytorch-fid", "pandas", "matplotlib"} <= names


def test_the_extras_are_those_that_messages_name():
    declared = PROJECT["optional-dependencies"]
    assert set(EXTRAS) | {"all", "test", "dev"} == set(declared)
    assert declared["all"] == [f"compressai-gen[{','.join(EXTRAS)}]"]
