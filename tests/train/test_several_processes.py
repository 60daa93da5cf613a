"""A foundation restorer on two processes, from shards: it learns, and a killed run goes on as if never stopped."""

import json
import os
import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.multiprocessing as multiprocessing
from metric_weights import needs_alex
from narrow import CGDM_PARTS, NARROW, toml
from ports import free_port
from pretrained_models import save_tiny_autoencoder, save_unet
from safetensors.torch import save_file

from compressai_gen.data import load_dataset, write_image
from compressai_gen.models import CGDM
from compressai_gen.train import loop, shards
from compressai_gen.train.export import half_precision_state
from compressai_gen.train.recipe import load_recipe

SHARDED = Path(__file__).parents[2] / "examples/clusters/sharded.yaml"

STEPS = int(os.environ.get("COMPRESSAI_GEN_TEST_STEPS", 12))
"""By hand: 200, which take ten minutes on two slow cores; the loss falls by a factor of 3.7."""

RECIPE = (
    """
model = "cgdm"
task = "diffusion"
seed = 1
learning_rate = 2e-3
warmup = 2
decay_from = 0.9
final_learning_rate = 1e-4
ema_decay = 0.9
gradient_clip = 1.0
gradient_checkpointing = true
accumulate = 2
pictures_every = {half}
checkpoint_every = {half}
validate_every = 1000

[data]
train = "shards"
valid = "valid"
valid_images = 1
description = "holiday pictures"
scale = [0.6, 2.0]
workers = 1

[optimizer]
name = "adamw"
eps = 1e-3  # of gradients that are all but zero, Adam's steps would be as large, and of either sign by rounding

[adversary]
width = 8
warmup = 1

[[stages]]
steps = {half}
batch = 2
crop = 64

[[stages]]
steps = {half}
batch = 2
crop = 64
adversarial_weight = 0.01

[config]
"""
    + toml(NARROW, CGDM_PARTS)
    + """

[config.restorer.space]
class = "AutoencoderSpace"
pretrained = "{models}"

[config.restorer.denoiser]
class = "LatentUNet"
pretrained = "{models}"
tokens = 2
prediction = "sample"

[config.restorer.guidance]
class = "ControlBranch"
widths = [8, 8]

[objective]
consistency_weight = 1.0

[objective.distortion]
mse_weight = 10.0
lpips_weight = 0.0
"""
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder with recipe, shards, weights to start from, and the small models."""
    pytest.importorskip("webdataset")
    root = tmp_path_factory.mktemp("processes")
    image = load_dataset("samples", limit=1)[0]
    for folder, count in (("train", 24), ("valid", 1)):
        (root / folder).mkdir()
        for i in range(count):
            write_image(image[:, 10 * i : 10 * i + 96, 12 * i : 12 * i + 128].contiguous(), root / folder / f"{i}.png")
    shards.pack(root / "train", root / "shards", shard_bytes=2**17)
    models = save_unet(save_tiny_autoencoder(root))
    recipe = root / "foundation-tiny.toml"
    recipe.write_text(RECIPE.format(half=STEPS // 2, models=models))
    torch.manual_seed(0)
    config = load_recipe(str(recipe)).config | {"restorer": None}
    codec = CGDM(**config)
    codec.update()
    save_file(half_precision_state(codec), root / "codec.safetensors")
    return root


def _sharded_environment():
    """What ``accelerate launch`` tells processes of the example's configuration."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    words = ["--config_file", str(SHARDED), "-m", "compressai_gen.train"]
    with mock.patch("accelerate.commands.launch.torch.cuda.device_count", return_value=8):
        args, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    told = prepare_multi_gpu_env(args)
    return {name: value for name, value in told.items() if name.startswith("FSDP_") or name == "ACCELERATE_USE_FSDP"}


def _sharding(**options):
    """As :class:`accelerate.Accelerator` is where it was launched with FSDP, which it takes for GPUs alone."""
    from accelerate import Accelerator, FullyShardedDataParallelPlugin, PartialState
    from accelerate.utils import DistributedType

    accelerator = Accelerator(**options)
    for state in (accelerator.state._shared_state, PartialState._shared_state):
        state["distributed_type"] = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    return accelerator


def _process(rank, root, output, port, kill, world_size, sharded):
    from accelerate.state import AcceleratorState

    # Readers are forked, as by default: of a server of their own they would outlive a process that is killed.
    multiprocessing.set_start_method("fork", force=True)
    AcceleratorState._reset_state(True)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), ACCELERATE_USE_CPU="true"
    )
    os.environ["WORLD_SIZE"] = str(world_size)
    torch.set_num_threads(1)
    if sharded:
        os.environ.update(_sharded_environment())
        loop.Accelerator = _sharding
    loop.LOG_EVERY = 1

    def keep(_, model, *__):
        torch.save(model.state_dict(), output / "averages.pt")
        return 0.0

    loop._validate_and_export = keep
    add = loop._Means.add

    def record(self, loss, logs):
        with (output / f"losses-{rank}.txt").open("a") as file:
            file.write(f"{float(loss)!r}\n")
        add(self, loss, logs)

    loop._Means.add = record
    save = loop._save

    def save_and_die(*args):
        save(*args)
        torch.distributed.barrier()
        os._exit(0)

    if kill:
        loop._save = save_and_die
    # In bfloat16, rounding alone would make runs differ that compute the same in other orders.
    recipe, init = load_recipe(str(root / "foundation-tiny.toml")), root / "codec.safetensors"
    loop.train(recipe, root, output, init, precision="float32")


def _train(root, output, kill=False, world_size=2, sharded=False):
    output.mkdir(exist_ok=True)
    args = root, output, free_port(), kill, world_size, sharded
    # Forked from a server that has not computed yet: children of a process whose OpenMP has threads hang in their first
    # parallel region.
    multiprocessing.start_processes(_process, args, nprocs=world_size, start_method="forkserver")


def _losses(output):
    return [[float(line) for line in (output / f"losses-{i}.txt").read_text().split()] for i in range(2)]


@pytest.fixture(scope="module")
def whole(run):
    """Folder of a run that was not stopped."""
    _train(run, run / "whole")
    return run / "whole"


@needs_alex
def test_two_processes_learn_from_shards_and_a_killed_run_goes_on_as_if_not_stopped(run, whole):
    losses = _losses(whole)
    assert [len(of_process) for of_process in losses] == [STEPS, STEPS]
    assert losses[0] != losses[1]  # each process has its own crops
    first, last = (
        sum(sum(w[part]) / len(w[part]) for w in losses) / 2 for part in (slice(3), slice(-(STEPS // 4), None))
    )
    print(f"loss of the first three steps {first:.4f}, of the last quarter {last:.4f}")
    assert last < 0.6 * first

    _train(run, run / "killed", kill=True)
    _train(run, run / "killed")
    assert _losses(run / "killed") == losses
    row = json.loads((whole / "log.jsonl").read_text().splitlines()[-1])
    assert row["step"] == STEPS
    assert list((whole / "tensorboard").iterdir())

    shutil.copytree(run / "killed", run / "other")
    with pytest.raises(Exception, match="the checkpoint is of 2 processes and this run has 1"):
        _train(run, run / "other", world_size=1)


@needs_alex
def test_shared_out_parameters_learn_what_whole_ones_do_and_a_killed_run_goes_on(run, whole):
    _train(run, run / "shared", sharded=True)
    for shared, alone in zip(_losses(run / "shared"), _losses(whole), strict=True):
        assert shared[:2] == pytest.approx(alone[:2], rel=5e-4)  # after that, rounding grows tenfold a step
        assert sum(shared[-STEPS // 4 :]) == pytest.approx(sum(alone[-STEPS // 4 :]), rel=0.3)
    _train(run, run / "shared and killed", kill=True, sharded=True)
    _train(run, run / "shared and killed", sharded=True)
    assert _losses(run / "shared and killed") == _losses(run / "shared")
    shared, killed, alone = (
        torch.load(folder / "averages.pt") for folder in (run / "shared", run / "shared and killed", whole)
    )
    assert [*shared] == [*alone]
    for name, tensor in alone.items():
        assert torch.equal(killed[name], shared[name])
        torch.testing.assert_close(shared[name], tensor, rtol=0.1, atol=0.1)
