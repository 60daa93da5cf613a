"""The examples for clusters: their configurations and commands are what accelerate, torchrun and we take."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("accelerate")
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from torch.distributed.run import get_args_parser

from compressai_gen.errors import RecipeError
from compressai_gen.parsers.common import make
from compressai_gen.parsers.training import train as arguments
from compressai_gen.train.recipe import load_recipe
from compressai_gen.train.sharding import check_sharding

CLUSTERS = Path(__file__).parents[2] / "examples/clusters"
MACHINES = {"one-machine.yaml": 1, "nodes.yaml": 2, "sharded.yaml": 1}


def test_every_example_is_known():
    assert {path.name for path in CLUSTERS.iterdir()} == {*MACHINES, "train.slurm", "torchrun.sh"}


@pytest.mark.parametrize("name", MACHINES)
def test_accelerate_takes_its_configuration(name, monkeypatch):
    monkeypatch.setattr("accelerate.commands.launch.torch.cuda.device_count", lambda: 8)
    config = load_config_from_file(str(CLUSTERS / name))
    shared = name == "sharded.yaml"
    assert config.distributed_type == (DistributedType.FSDP if shared else DistributedType.MULTI_GPU)
    assert (config.num_machines, config.num_processes) == (MACHINES[name], 8 * MACHINES[name])
    words = ["--config_file", str(CLUSTERS / name), "-m", "compressai_gen.train", "cgdm-foundation"]
    args, found, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    assert found.num_processes == args.num_processes == config.num_processes
    assert args.use_fsdp if shared else args.multi_gpu
    assert load_recipe("cgdm-foundation").accumulated_by(8) == 1


@pytest.mark.parametrize("name", ["train.slurm", "torchrun.sh"])
def test_scripts_call_torchrun_and_the_training_as_they_take_it(name, tmp_path):
    """Run with a torchrun, srun and scontrol that say what they were called with."""
    for program, text in {
        "torchrun": 'printf "%s\\n" "$@"',
        "srun": 'exec "$@"',
        "scontrol": "echo first; echo second",
    }.items():
        (tmp_path / program).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / program).chmod(0o755)
    given = ["cgdm-foundation", "--init", "runs/cgdm-foundation-codec"]
    slurm = {
        "SLURM_NNODES": "2",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "COMPRESSAI_GEN_DATA": "/data",
    }
    if name == "torchrun.sh":
        given, slurm = ["first", "2", *given], {}
    run = subprocess.run(
        [shutil.which("bash"), CLUSTERS / name, *given],
        env=os.environ | slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    args = get_args_parser().parse_args(run.stdout.splitlines())
    assert (args.nnodes, args.rdzv_endpoint, args.module) == ("2", "first:29500", True)
    assert args.training_script == "compressai_gen.train"
    ours = make(arguments, "train").parse_args(args.training_script_args)
    assert (ours.recipe, ours.init) == ("cgdm-foundation", Path("runs/cgdm-foundation-codec"))


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_other_ways_of_sharing_a_model_out_are_refused_in_a_line(name, monkeypatch):
    check_sharding()
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(RecipeError, match=r"examples/clusters/sharded\.yaml") as caught:
        check_sharding()
    assert "\n" not in str(caught.value)
    if name == "FSDP":
        monkeypatch.setenv("FSDP_VERSION", "2")
        check_sharding()
