"""Programs started with streams that are closed, full or know few characters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PRINT = """
import sys
from compressai_gen.programs import exit_status
from compressai_gen.errors import CompressaiGenError
def run():
    {body}
sys.exit(exit_status(run, "interrupted"))
"""
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
needs_shell = pytest.mark.skipif(os.name == "nt", reason="no POSIX shell here")


def _shell(program, redirections, **environment):
    """Run Python code from a shell; returns status, output and errors."""
    command = f'"$0" -c "$1" {redirections}'
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    run = subprocess.run(
        ["sh", "-c", command, sys.executable, program], capture_output=True, env=environment, timeout=100
    )
    return run.returncode, run.stdout.decode(errors="replace"), run.stderr.decode(errors="replace")


def _help(command="", **environment):
    program = f"import sys; from compressai_gen.cli import main; sys.exit(main({[*command.split(), '--help']}))"
    return lambda redirections: _shell(program, redirections, **environment)


@needs_shell
def test_closed_output_is_one_line():
    status, output, errors = _shell(PRINT.format(body="print('x')"), ">&-")
    assert (status, output) == (2, "")
    assert errors == "error: standard output cannot be written: Bad file descriptor\n"


@needs_shell
def test_closed_output_is_no_fault_of_a_program_that_prints_nothing():
    assert _shell(PRINT.format(body="pass"), ">&-") == (0, "", "")


@needs_shell
def test_no_file_takes_the_place_of_a_closed_stream(tmp_path):
    body = f"file = open({str(tmp_path / 'mine')!r}, 'w'); import os; assert file.fileno() > 2"
    assert _shell(PRINT.format(body=body), "<&- >&- 2>&-")[0] == 0
    assert (tmp_path / "mine").read_text() == ""


@needs_shell
def test_closed_input_is_one_line():
    body = "from compressai_gen.cli import _read; _read('-')"
    status, _, errors = _shell(PRINT.format(body=body), "<&-")
    assert (status, errors) == (2, "error: standard input cannot be read: Bad file descriptor\n")


@needs_shell
@pytest.mark.parametrize("redirections", ["2>&-", pytest.param("2>/dev/full", marks=needs_full)])
def test_errors_that_nobody_sees_end_nothing(redirections):
    body = "from tqdm import tqdm; [print(n) for n in tqdm(range(3), mininterval=0)]; print('w', file=sys.stderr)"
    assert _shell(PRINT.format(body=body), redirections)[:2] == (0, "0\n1\n2\n")
    assert _shell(PRINT.format(body="raise CompressaiGenError('x')"), redirections)[0] == 2


@needs_shell
@needs_full
def test_full_output_is_one_line():
    for body in ("print('x')", "print('x' * 10**6)", "print('x'); sys.stdout.flush()"):
        status, _, errors = _shell(PRINT.format(body=body), ">/dev/full")
        assert status == 2
        assert errors.startswith("error: standard ")
        assert errors.count("\n") == 1
        assert "No space left" in errors


@needs_shell
@pytest.mark.parametrize(
    "error", ["OSError(28, 'No space left on device', 'x.bin')", "FileNotFoundError(2, 'gone', 'x.bin')"]
)
def test_the_systems_errors_are_one_line(error):
    status, _, errors = _shell(PRINT.format(body=f"raise {error}"), "")
    assert status == 2
    assert errors.startswith("error: x.bin: ")
    assert errors.count("\n") == 1


@needs_shell
@pytest.mark.parametrize("command", ["", "encode", "eval", "train"])
def test_help_in_any_encoding(command):
    status, output, errors = _help(command, PYTHONIOENCODING="ascii", LC_ALL="C")("")
    assert (status, errors) == (0, "")
    assert output.startswith("usage: compressai-gen")
    assert output.isascii()


@needs_shell
@needs_full
def test_help_that_cannot_be_printed_is_one_line():
    for redirections in (">/dev/full", ">&-"):
        status, _, errors = _help()(redirections)
        assert status == 2
        assert errors.startswith("error: standard output cannot be written")
        assert errors.count("\n") == 1


@needs_shell
def test_names_that_are_no_text_are_printed():
    assert _shell(PRINT.format(body=r"print('a\udc80')"), "", PYTHONIOENCODING="utf-8:strict")[:2] == (0, "a\\udc80\n")


@pytest.mark.skipif(not hasattr(os, "setuid") or os.getuid() != 0, reason="only root can become a user without a home")
def test_users_without_a_home_have_a_cache(tmp_path):
    program = "from compressai_gen.resources import cache_dir; print(cache_dir())"
    environment = {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents:
        if not folder.stat().st_mode & 1:
            pytest.skip(f"other users cannot enter {folder}")
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        user=54321,
        cwd="/",
        check=False,
    )
    if "No module named" in run.stderr or "Permission denied" in run.stderr:
        pytest.skip("other users cannot read this installation")
    assert run.stdout.strip() == str(tmp_path / "compressai-gen-54321"), run.stderr


@pytest.mark.parametrize("threads", [0, -1, 10_000_000_000])
def test_impossible_numbers_of_threads_are_told(threads):
    from compressai_gen.errors import CompressaiGenError
    from compressai_gen.programs import prepare_torch

    with pytest.raises(CompressaiGenError, match=f"--threads is {threads}; it is a number from 1 to"):
        prepare_torch("cpu", threads)
