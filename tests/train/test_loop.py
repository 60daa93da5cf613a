"""Very small real trainings, from the command line to weights that code an image."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from metric_weights import needs_alex, needs_vgg
from narrow import CGDM_PARTS, MRIDC_PARTS, NARROW, RESTORER, toml
from PIL import Image
from safetensors.torch import load_file, save_file

from compressai_gen.data import write_image
from compressai_gen.errors import RecipeError
from compressai_gen.metrics.distortion import Distortion
from compressai_gen.models import CGDM, MRIDC
from compressai_gen.specs import load_object, own_specs
from compressai_gen.train import loop, validate
from compressai_gen.train.__main__ import main
from compressai_gen.train.export import half_precision_state
from compressai_gen.train.objectives import DiffusionObjective
from compressai_gen.train.recipe import load_recipe
from compressai_gen.train.validate import score

CLASSES = {"cgdm": CGDM, "mridc": MRIDC}
STEPS, STOP = 6, 4

COMMON = """
model = "{model}"
seed = 1
learning_rate = 4e-4
warmup = 2
decay_from = 0.5
final_learning_rate = 1e-5
ema_decay = 0.9
gradient_clip = 1.0
checkpoint_every = {stop}
validate_every = 1000

[data]
train = "train"
valid = "valid"
valid_images = 1
description = "holiday pictures"
scale = [0.6, 2.0]

[[stages]]
steps = 3
batch = 5
crop = 64

[[stages]]
steps = 3
batch = 5
crop = 64

[config]
""" + toml(NARROW)
OWN = {
    "cgdm": toml({"latent_codec": CGDM_PARTS["latent_codec"]})
    + """
restorer = false

[objective]
target_bpp = [0.08, 0.14, 0.23, 0.38, 0.60]
initial_lambda = [0.25, 0.45, 0.9, 1.6, 3.0]

[objective.distortion]
mse_weight = 75.0
lpips_weight = 1.0
""",
    "mridc": toml(MRIDC_PARTS)
    + """
restorer = false

[objective]
commitment_weight = 0.01
rate_weight = 0.05
completion_weight = 0.02

[objective.distortion]
mse_weight = 30.0
lpips_weight = 1.0
""",
}


DIFFUSION = (
    toml({"restorer": RESTORER, "syntax": CGDM_PARTS["syntax"]})
    + """
[objective]
consistency_weight = 20.0
syntax_bpp = 0.001
syntax_weight = 4.0

[objective.distortion]
mse_weight = 20.0
lpips_weight = 1.0
dists_weight = 1.0
"""
)


@pytest.fixture(autouse=True)
def _few_metrics(monkeypatch):
    """Where a test asks for no more, validation measures what is quick to measure."""
    monkeypatch.setattr(validate, "METRICS", ("psnr", "lpips"))


@pytest.fixture
def data_root(tmp_path, photograph):
    for folder, lefts in (("train", (0, 100, 200)), ("valid", (300,))):
        (tmp_path / folder).mkdir()
        for left in lefts:
            image = (photograph(140, 150, 60, left)[0] * 255).round().byte()
            write_image(image, tmp_path / folder / f"{left}.png")
    return tmp_path


@pytest.fixture(params=CLASSES)
def recipe(request, tmp_path):
    path = tmp_path / f"{request.param}-tiny.toml"
    path.write_text(COMMON.format(model=request.param, stop=STOP) + OWN[request.param])
    return path


class _Killed(BaseException):
    """As if the machine went down."""


@needs_alex
def test_training_stops_resumes_and_leaves_weights_that_code_an_image(recipe, data_root, photograph, monkeypatch):
    output = data_root / "out"
    argv = [str(recipe), "--data-root", str(data_root), "--output", str(output)]
    save = loop._save

    def save_and_die(*args):
        save(*args)
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_save", save_and_die)
        with pytest.raises(_Killed):
            main(argv)
    assert (output / "checkpoint").is_dir()
    assert not (output / "coding.safetensors").exists()
    stopped = torch.load(output / "checkpoint" / "pytorch_model.bin")

    (output / "checkpoint").rename(output / "checkpoint.old")  # as a kill between two renames leaves it

    config = load_recipe(str(recipe))
    objective = load_object(own_specs()[config.model].objectives[config.task])
    batches = []
    forward = objective.forward

    def count(self, model, x):
        batches.append((len(x), {k: v.clone() for k, v in model.state_dict().items()}))
        return forward(self, model, x)

    monkeypatch.setattr(objective, "forward", count)
    monkeypatch.setattr(objective, "warm_start", None)  # would start over
    assert main(argv) == 0
    assert [n for n, _ in batches] == [5] * (STEPS - STOP)
    first = batches[0][1]
    assert all(torch.equal(first[key], value) for key, value in stopped.items())

    record = json.loads((output / "record.json").read_text())
    assert record["run"]["step"] == STEPS
    assert record["run"]["images"] == 3
    assert record["run"]["data"] == "holiday pictures"
    assert record["recipe"]["name"] == recipe.stem
    rows = record["validation"]
    assert [row["quality"] for row in rows] == [1, 2, 3, 4, 5]
    assert all(row["bpp"] > 0 and 8 < row["psnr"] < 40 for row in rows)
    assert len((output / "validation.jsonl").read_text().splitlines()) == 1

    state = load_file(output / "coding.safetensors") | load_file(output / "networks.safetensors")
    assert state["g_a.embed.weight"].dtype == torch.float16
    weights = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    model = CLASSES[config.model].from_state_dict(weights, **config.config).eval()
    x = photograph(64, 64)
    x_hat = model.decompress(**model.compress(x))["x_hat"]
    assert (x_hat - x).square().mean() < x.var()

    batches.clear()
    assert main(argv) == 0  # finished: nothing is left to do
    assert batches == []


@needs_alex
def test_training_starts_from_given_weights(recipe, data_root, monkeypatch):
    config = load_recipe(str(recipe))
    torch.manual_seed(5)
    model = CLASSES[config.model](**config.config)
    model.update()
    weights = data_root / "init.safetensors"
    save_file(half_precision_state(model), weights)
    seen = []

    def stop(self, model, x):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        raise _Killed

    monkeypatch.setattr(load_object(own_specs()[config.model].objectives[config.task]), "forward", stop)
    with pytest.raises(_Killed):
        loop.train(config, data_root, data_root / "out", init=weights)
    for key, value in half_precision_state(model).items():
        torch.testing.assert_close(seen[0][key], value, check_dtype=False)


@needs_alex
def test_a_stopped_run_goes_on_as_if_it_had_never_stopped(recipe, data_root, monkeypatch):
    """Crops, noise, qualities, optimizer, EMA and schedule: losses and weights are those of one run."""
    monkeypatch.setattr(loop, "_validate_and_export", lambda *args: 0.0)
    recipe.write_text(recipe.read_text().replace("lpips_weight = 1.0", "lpips_weight = 1.0\nshift = 7\nrescale = 0.5"))
    add, save, losses = loop._Means.add, loop._save, []
    monkeypatch.setattr(
        loop._Means, "add", lambda self, loss, logs: (losses.append(loss.item()), add(self, loss, logs))
    )

    def run(name):
        losses.clear()
        loop.train(load_recipe(str(recipe)), data_root, data_root / name)
        return list(losses), torch.load(data_root / name / "checkpoint" / "pytorch_model.bin")

    def save_and_die(*args):
        save(*args)
        raise _Killed

    whole, weights = run("whole")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_save", save_and_die)
        with pytest.raises(_Killed):
            run("stopped")
    torch.rand(7)  # a program that was started anew has drawn other numbers before
    rest, resumed = run("stopped")
    assert rest == whole[STOP:]
    assert all(torch.equal(weights[key], value) for key, value in resumed.items())


@needs_alex
@pytest.mark.parametrize("recipe", ["cgdm"], indirect=True)
def test_steps_are_logged(recipe, data_root, monkeypatch):
    rows = []
    monkeypatch.setattr(loop, "_append", lambda path, row: rows.append((path.name, row)))
    monkeypatch.setattr(loop, "_validate_and_export", lambda *args: 0.0)
    recipe.write_text(recipe.read_text().replace("steps = 3\n", "steps = 50\n"))
    loop.train(load_recipe(str(recipe)), data_root, data_root / "out")
    ((name, row),) = rows
    assert name == "log.jsonl"
    assert row["step"] == 100
    assert {"psnr", "lpips", "bpp", "grad_norm", "lr"} <= set(row)
    assert row["psnr"] > 10
    assert row["megapixels"] == pytest.approx(100 * 5 * 64**2 / 1e6, abs=0.01)
    assert row["mpx_per_s"] > 0
    assert row["share"].keys() == {"data", "model", "losses", "backward", "optimizer"}
    assert sum(row["share"].values()) == pytest.approx(1, abs=0.01)


@needs_alex
@pytest.mark.parametrize("recipe", ["cgdm"], indirect=True)
def test_a_recipe_is_profiled_and_leaves_nothing(recipe, data_root, monkeypatch, capsys):
    monkeypatch.setattr("compressai_gen.train.profile.profile.__defaults__", (None, "auto", False, 0.1))
    monkeypatch.chdir(data_root)
    assert main([str(recipe), "--data-root", str(data_root), "--profile"]) == 0
    said = capsys.readouterr().out
    for part in (
        "data",
        "model",
        "g_a",
        "latent_codec",
        "losses",
        "lpips",
        "backward",
        "optimizer",
        "megapixels per s",
    ):
        assert part in said
    assert said.count("stage ") == 2
    assert not (data_root / "runs").exists()


@needs_alex
@pytest.mark.parametrize("recipe", ["cgdm"], indirect=True)
def test_a_run_of_some_minutes_ends_whole_and_goes_on(recipe, data_root):
    output = data_root / "out"
    argv = [str(recipe), "--data-root", str(data_root), "--output", str(output)]
    assert main([*argv, "--minutes", "1e-9"]) == 0
    assert json.loads((output / "record.json").read_text())["run"]["step"] == 1
    assert main(argv) == 0
    assert json.loads((output / "record.json").read_text())["run"]["step"] == STEPS


@needs_alex
@needs_vgg
@pytest.mark.parametrize("recipe", ["cgdm"], indirect=True)
def test_the_best_weights_are_kept_and_a_run_that_no_longer_improves_ends(recipe, data_root, monkeypatch):
    monkeypatch.setattr(validate, "METRICS", ("psnr", "grid", "ssimulacra2"))
    scores = iter([1.0, 3.0, 2.0, 2.5, 9.0])
    monkeypatch.setattr(loop, "score", lambda rows, trained_on: next(scores))
    recipe.write_text(recipe.read_text().replace("validate_every = 1000", "validate_every = 1\npatience = 2"))
    loop.train(load_recipe(str(recipe)), data_root, data_root / "out")
    runs = [json.loads((data_root / "out" / name / "record.json").read_text())["run"] for name in ("", "best")]
    assert [(run["step"], run["score"]) for run in runs] == [(4, 2.5), (2, 3.0)]
    assert {path.name for path in (data_root / "out/best").iterdir()} == {
        "coding.safetensors",
        "networks.safetensors",
        "record.json",
    }


@needs_alex
@pytest.mark.parametrize("recipe", ["cgdm"], indirect=True)
def test_previews_show_the_same_photographs_beside_avif(recipe, data_root, monkeypatch):
    monkeypatch.setattr(loop, "_validate_and_export", lambda *args: 0.0)
    text = recipe.read_text().replace("validate_every = 1000", "validate_every = 1000\npreview_minutes = 1e-9")
    recipe.write_text(text)
    loop.train(load_recipe(str(recipe)), data_root, data_root / "out")
    previews = sorted((data_root / "out/previews").iterdir())
    assert [path.name for path in previews] == [f"{step:08d}.png" for step in range(1, STEPS)]
    first, last = (np.asarray(Image.open(path)).astype(int) for path in (previews[0], previews[-1]))
    assert first.shape == (2 * 270, 3 * 256, 3)  # a photograph at two qualities: original, AVIF, base picture
    photograph = np.asarray(Image.open(data_root / "valid/300.png"))
    assert (first[:140, :150] == photograph).all()
    assert abs(first[:140, 256:406] - photograph).mean() < 30  # AVIF is near
    assert (first[:, :256] == last[:, :256]).all()
    assert (first[:140, 512:662] != last[:140, 512:662]).any()


def test_scores_count_the_full_decoder_by_what_was_not_trained_on_in_logarithms_of_rate():
    row = {"quality": 1, "steps": 1, "size": "small", "bpp": 0.1, "ssimulacra2": 20.0, "lpips_vgg": 0.4, "psnr": 25.0}
    base = row | {"steps": 0, "ssimulacra2": -90.0}
    cheaper = row | {"bpp": 0.1 * 0.99}
    known = ["psnr", "lpips"]
    assert score([row], known) == score([base, row], known)
    assert score([cheaper], known) - score([row], known) == pytest.approx(0.01, rel=0.01)
    assert score([row | {"lpips_vgg": 0.3}], [*known, "lpips_vgg"]) == score([row], [*known, "lpips_vgg"])
    assert score([row | {"lpips_vgg": 0.3}], known) > score([row], known)


@needs_alex
@needs_vgg
def test_the_generative_half_is_trained_on_a_frozen_codec(data_root, tiny_cgdm):
    torch.manual_seed(2)
    codec = tiny_cgdm(restorer=None)
    save_file(half_precision_state(codec), data_root / "codec.safetensors")
    recipe = data_root / "restorer-tiny.toml"
    text = COMMON.format(model="cgdm", stop=STOP) + OWN["cgdm"].split("restorer = false")[0]
    text = text.replace("[data]", 'task = "diffusion"\n\n[data]') + DIFFUSION
    recipe.write_text(text)
    argv = [str(recipe), "--data-root", str(data_root), "--output", str(data_root / "out")]
    assert main(argv) == 2  # there is no warm start
    init = ["--init", str(data_root / "codec.safetensors")]
    assert main([*argv, *init, "--minutes", "1e-9"]) == 0
    assert main(argv) == 0  # goes on from the checkpoint alone, whose model has tables since it was validated
    state = load_file(data_root / "out/coding.safetensors") | load_file(data_root / "out/networks.safetensors")
    for key, value in half_precision_state(codec).items():
        torch.testing.assert_close(state[key], value, rtol=0, atol=0, check_dtype=False)
    assert state["restorer.denoiser.head.weight"].any()
    rows = json.loads((data_root / "out" / "record.json").read_text())["validation"]
    assert {(row["quality"], row["steps"]) for row in rows} == {(q, s) for q in range(1, 6) for s in (0, 1)}


@needs_alex
@needs_vgg
def test_dists_in_training_is_that_of_the_package(photograph):
    distortion = Distortion(dists_weight=1, dists_images=1)
    x = torch.cat([photograph(64, 96, top) for top in (0, 100)])
    x_hat = (0.8 * x + 0.1).requires_grad_()
    expected = distortion.networks.dists.network(x_hat[:1], x[:1], require_grad=True).mean()
    (gradient,) = torch.autograd.grad(expected, x_hat)
    loss = distortion(x_hat, x)[0].mean()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-4)
    loss.backward()
    torch.testing.assert_close(x_hat.grad, gradient, atol=1e-6, rtol=1e-3)


@needs_alex
@needs_vgg
def test_dists_of_equal_crops_together_is_that_of_one(photograph):
    distortion = Distortion(dists_weight=1, dists_images=3)
    x = photograph(64, 96).expand(3, -1, -1, -1)
    expected = distortion.networks.dists.network(0.8 * x[:1] + 0.1, x[:1]).mean()
    torch.testing.assert_close(distortion(0.8 * x + 0.1, x)[0].mean(), expected, atol=1e-5, rtol=1e-4)


@needs_alex
def test_unknown_model_and_wrong_arguments_are_told(recipe, data_root):
    text = recipe.read_text()
    model = load_recipe(str(recipe)).model
    for old, new in (
        (f'model = "{model}"', 'model = "vqgan"'),
        ("mse_weight", "mse_wait"),
        ("g_a.width", "g_a.wide"),
        ('train = "train"', ""),
        ('description = "holiday pictures"', ""),
    ):
        recipe.write_text(text.replace(old, new))
        with pytest.raises(RecipeError, match=recipe.stem):
            loop.train(load_recipe(str(recipe)), data_root, data_root / "out")


@pytest.mark.parametrize("updated", [True, False])
def test_exported_state_is_rounded_once_and_leaves_the_model_alone(tiny_cgdm, updated):
    torch.manual_seed(0)
    model = tiny_cgdm()
    if updated:
        model.update()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = half_precision_state(model)
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert state["g_a.embed.weight"].dtype == torch.float16
    assert {v.dtype for k, v in state.items() if "log_" in k or "entropy_bottleneck._matrix" in k} == {torch.float32}

    weights = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    loaded = tiny_cgdm()
    loaded.load_state_dict(weights)
    tables = {key: value.clone() for key, value in loaded.state_dict().items()}
    loaded.update(force=True)
    assert all(torch.equal(tables[key], value) for key, value in loaded.state_dict().items())


@needs_alex
@pytest.mark.parametrize("shares", [None, [1, 1, 1, 1, 1], [0, 3, 0, 0, 1]])
def test_a_batch_has_every_quality_or_one_that_is_drawn_anew(shares):
    objective = DiffusionObjective({"mse_weight": 1.0}, 1.0, quality_shares=shares)
    batches = []

    class Step(torch.nn.Module):
        codec = SimpleNamespace(n_qualities=5, restorer=SimpleNamespace(scheduler=DDIMScheduler()))

        def forward(self, x, quality, timesteps):
            batches.append(set((quality + 1).tolist()))
            return {"x_hat": x, "x_base": x, "likelihoods": {}}

    torch.manual_seed(0)
    for _ in range(40):
        objective(Step(), torch.rand(5, 3, 64, 64))
    assert {len(batch) for batch in batches} == {5 if shares is None else 1}
    drawn = set.union(*batches)
    assert drawn == {2, 5} if shares and 0 in shares else drawn == {1, 2, 3, 4, 5}


@needs_alex
def test_as_many_shares_as_qualities_are_wanted(tiny_cgdm):
    objective = DiffusionObjective({"mse_weight": 1.0}, 1.0, quality_shares=[1, 2, 3])
    with pytest.raises(RecipeError, match="quality_shares"):
        objective.trained(tiny_cgdm())


@needs_alex
def test_an_adversary_takes_part_in_its_stage_and_resumes(data_root, tiny_cgdm, monkeypatch):
    torch.manual_seed(2)
    codec = tiny_cgdm(restorer=None)
    codec.latent_codec.relaxed(torch.zeros(1, 16, 4, 4), torch.tensor([0]))
    save_file(half_precision_state(codec), data_root / "codec.safetensors")
    text = COMMON.format(model="cgdm", stop=STOP) + OWN["cgdm"].split("restorer = false")[0]
    text = text.replace("[data]", 'task = "diffusion"\n\n[adversary]\nwidth = 8\nwarmup = 1\n\n[data]') + DIFFUSION
    first, second, third = text.replace("dists_weight = 1.0\n", "").partition(
        "steps = 3\nbatch = 5\ncrop = 64\n\n[config]"
    )
    adversarial = "adversarial_weight = 0.5\ndistortion = { lpips_weight = 0.1 }\n\n[config]"
    recipe = data_root / "adversarial-tiny.toml"
    recipe.write_text(first + second.replace("\n[config]", adversarial) + third)
    monkeypatch.setattr(loop, "_validate_and_export", lambda *args: 0.0)
    add, save, seen = loop._Means.add, loop._save, []
    monkeypatch.setattr(loop._Means, "add", lambda self, loss, logs: (seen.append(logs), add(self, loss, logs)))

    def run(name):
        seen.clear()
        loop.train(load_recipe(str(recipe)), data_root, data_root / name, init=data_root / "codec.safetensors")
        return [{k: float(v) for k, v in logs.items()} for logs in seen]

    def save_and_die(*args):
        save(*args)
        raise _Killed

    whole = run("whole")
    assert ["d_loss" in logs for logs in whole] == [False] * 3 + [True] * 3
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_save", save_and_die)
        with pytest.raises(_Killed):
            run("stopped")
    assert run("stopped") == whole[STOP:]
    recipe.write_text(recipe.read_text().replace("width = 8\nwarmup", "breadth = 8\nwarmup"))
    with pytest.raises(RecipeError, match="breadth"):
        run("other")


@needs_alex
@pytest.mark.parametrize("recipe", ["cgdm"], indirect=True)
def test_only_restorers_have_an_adversary(recipe, data_root):
    text = recipe.read_text().replace("crop = 64\n", "crop = 64\nadversarial_weight = 0.1\n", 1)
    recipe.write_text(text)
    with pytest.raises(RecipeError, match="only a restorer has an adversary"):
        loop.train(load_recipe(str(recipe)), data_root, data_root / "out")
