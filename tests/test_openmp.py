"""How programs say how OpenMP's threads wait."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, runpy, sys
sys.argv = {argv}
sys.modules["compressai_gen.train.loop"] = None  # what a program does stops here, with torch not yet loaded or just so
try:
    runpy.run_module({module!r}, run_name="__main__")
except (SystemExit, ImportError):
    print(os.environ.get("GOMP_SPINCOUNT"))
"""
TRAIN = ["train", "cgdm-v1-base", "--data-root", "."]


def _run(module, argv, **environment):
    inherited = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    run = [sys.executable, "-c", PROGRAM.format(module=module, argv=argv)]
    done = subprocess.run(run, capture_output=True, text=True, env=inherited | environment)
    return done.stdout.strip().split("\n")[-1]


@pytest.mark.parametrize(("module", "argv"), [("compressai_gen.train", TRAIN), ("compressai_gen", ["x", *TRAIN])])
def test_programs_say_it_before_pytorch_is_loaded_and_keep_what_the_user_said(module, argv):
    assert _run(module, argv) == "1000"
    assert _run(module, argv, GOMP_SPINCOUNT="7") == "7"
    assert _run(module, argv, OMP_WAIT_POLICY="active") == "None"


def test_nothing_is_said_too_late(monkeypatch):
    from compressai_gen.openmp import calm_idle_threads

    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    calm_idle_threads()  # PyTorch is here already
    assert "GOMP_SPINCOUNT" not in os.environ
