"""How programs start."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from compressai_gen.programs import prepare_torch

if {prepared}:
    prepare_torch("cpu", 1)
faults = []
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(2**26, dtype=torch.uint8).fill_(1)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sorted(faults)[len(faults) // 2])
"""


def _page_faults(prepared: bool) -> int:
    # The median, as small objects get in the way of the first few arrays.
    run = [sys.executable, "-c", PROGRAM.format(prepared=prepared)]
    return int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told how to have memory")
def test_programs_do_not_have_the_system_clear_memory_again():
    assert _page_faults(prepared=True) * 10 < _page_faults(prepared=False)


def test_output_that_nobody_reads_is_no_error():
    program = "import sys; from compressai_gen.programs import exit_status\n"
    program += "sys.exit(exit_status(lambda: print('x' * 2**20), ''))"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141
