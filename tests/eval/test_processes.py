import os
import subprocess
import sys

import pandas as pd
import pytest
import torch
from ports import free_port

from compressai_gen.codecs import PillowCodec
from compressai_gen.data import write_image
from compressai_gen.eval.processes import Processes

PROGRAM = """
import sys
from compressai_gen.eval import cli
from compressai_gen.metrics import FEATURES
from compressai_gen.metrics.distribution import FeatureSpec

FEATURES["alexnet"] = FeatureSpec(("alexnet_fd", "alexnet_kd"), 3, lambda device: lambda x: x.mean((2, 3)))
status = cli.main(sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def threads():
    """Runs in this process set the number of threads."""
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


def _evaluate(monkeypatch, *argv):
    """Run in this process."""
    monkeypatch.setattr(sys, "argv", ["eval", *argv])
    namespace = {}
    exec(PROGRAM, namespace)
    assert namespace["status"] == 0


def _launch(count, *argv):
    """Run as a launcher does."""
    common = os.environ | {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    program = f"{PROGRAM}sys.exit(status)"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, *argv], env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank in range(count)
    ]
    try:
        assert [process.wait(timeout=240) for process in running] == [0] * count
    finally:
        for process in running:
            process.kill()


def _tables(folder):
    """What the tables say but for times."""
    tables = {path.name: pd.read_csv(path, dtype=str) for path in folder.glob("*.csv")}
    return {
        name: table.drop(columns=["encode_s", "decode_s"], errors="ignore").to_csv() for name, table in tables.items()
    }


def test_two_processes_measure_what_one_does(tmp_path, monkeypatch, capfd):
    from compressai_gen.metrics import FEATURES

    monkeypatch.setitem(FEATURES, "alexnet", FEATURES["alexnet"])  # the program changes it
    generator = torch.Generator().manual_seed(0)
    (tmp_path / "set").mkdir()
    for index in range(5):
        image = torch.randint(256, (3, 8, 9), dtype=torch.uint8, generator=generator)
        image = image.repeat_interleave(33, 1).repeat_interleave(30, 2)
        write_image(image, tmp_path / "set" / f"{index}.png")
    (tmp_path / "set/5.png").write_bytes((tmp_path / "set/4.png").read_bytes())  # both write the same features
    options = ["--models", "webp", "--qualities", "1", "15", "--dataset", str(tmp_path / "set"), "--metrics", "psnr"]
    options += ["--fid-features", "alexnet", "--threads", "1", "--output"]
    _evaluate(monkeypatch, *options, str(tmp_path / "one"))
    assert "alexnet_fd, alexnet_kd (6 patches: not comparable with papers)" in capfd.readouterr().out
    assert (tmp_path / "one/rd_alexnet_fd.png").is_file()
    _launch(2, *options, str(tmp_path / "two"))
    assert capfd.readouterr().out.count("written to") == 1
    expected = _tables(tmp_path / "one")
    assert set(expected) == {"images.csv", "summary.csv", "intervals.csv", "bd_rate.csv"}
    assert "alexnet_fd" in expected["summary.csv"]
    assert _tables(tmp_path / "two") == expected
    assert {path.name for path in (tmp_path / "two").glob(".rows*")} == {".rows.jsonl", ".rows.1.jsonl"}

    # One process goes on from the rows of both.
    monkeypatch.setattr(PillowCodec, "encode", None)
    _evaluate(monkeypatch, *options, str(tmp_path / "two"))
    assert _tables(tmp_path / "two") == expected


@pytest.mark.parametrize("count", [1, 2, 5])
def test_shares_are_even_and_complete(count):
    shares = [Processes(index, count).share(range(7)) for index in range(count)]
    assert sorted(item for share in shares for item in share) == list(range(7))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
