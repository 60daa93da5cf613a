from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision.models import vgg16

from compressai_gen.errors import RecipeError
from compressai_gen.estimate import with_architectures
from compressai_gen.models import CGDM, MRIDC
from compressai_gen.resources import ZOO_DIR
from compressai_gen.train.__main__ import main
from compressai_gen.train.loop import _build
from compressai_gen.train.recipe import Stage, load_recipe

RECIPES = sorted((ZOO_DIR / "recipes").glob("*.toml"))
SHIPPED = (ZOO_DIR / "recipes" / "cgdm-v1-base.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_makes_a_model_and_an_objective(path, monkeypatch):
    monkeypatch.setattr("compressai_gen.metrics.distortion.LpipsMetric", lambda _: SimpleNamespace(model=nn.Identity()))
    monkeypatch.setattr("compressai_gen.metrics.distortion.DistsLoss", nn.Identity)
    monkeypatch.setattr("compressai_gen.train.discriminator.convolutions", lambda *_: vgg16().features)
    recipe = load_recipe(path.stem)
    assert recipe == load_recipe(str(path))
    if (recipe.config.get("restorer") or {}).get("denoiser", {}).get("lora_rank"):
        pytest.importorskip("peft")
    # Models of the hub by their published configurations; nothing has weights.
    with torch.device("meta"):
        model, objective = _build(replace(recipe, config=with_architectures(recipe.config)))
    assert type(model) is {"cgdm": CGDM, "mridc": MRIDC}[recipe.model]
    assert recipe.steps == sum(stage.steps for stage in recipe.stages) > recipe.warmup
    assert all(stage.crop % 64 == 0 for stage in recipe.stages)
    assert list(objective.trained(model))
    assert {"train", "valid", "valid_images", "scale", "description"} <= set(recipe.data)


@pytest.mark.parametrize("codec", ["cgdm", "mridc"])
def test_a_restorer_of_foundation_size_stands_on_the_codec_that_is_trained_before_it(codec):
    first, second = load_recipe(f"{codec}-foundation-codec"), load_recipe(f"{codec}-foundation")
    assert first.config == second.config | {"restorer": False}
    assert [stage.adversarial_weight > 0 for stage in second.stages] == [False, False, True]


def test_fewer_processes_add_up_more_batches():
    recipe = replace(load_recipe("cgdm-foundation"), accumulate=3)
    assert [recipe.accumulated_by(n) for n in (1, 2, 8, 24)] == [24, 12, 3, 1]
    assert replace(recipe, processes=0).accumulated_by(5) == 3
    with pytest.raises(RecipeError, match="meant for 8 processes, whose 24 batches a step 16 cannot share equally"):
        recipe.accumulated_by(16)


def test_there_is_a_recipe_for_each_codec():
    assert {load_recipe(path.stem).model for path in RECIPES} == {"cgdm", "mridc"}


def test_file_is_read(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(SHIPPED.replace("seed = 1", "seed = 77"))
    recipe = load_recipe(str(path))
    assert recipe.name == "mine"
    assert recipe.seed == 77
    assert isinstance(recipe.stages[0], Stage)


def test_unknown_name_lists_the_known():
    with pytest.raises(RecipeError, match=r"no recipe 'cdgm'.*cgdm-v1-base.*mridc-v1-base"):
        load_recipe("cdgm")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("seed = 1", "seed = ", "not TOML"),
        ("seed = 1", "", "seed"),
        ("seed = 1", "seed = 1\nsped = 2", "sped"),
        ("batch = 8", "bach = 8", "bach"),
        ("[[stages]]", "[[stage]]", "stage"),
        ("[objective]", "[objectives]", "objective"),
    ],
)
def test_malformed_recipe_names_the_file_and_the_fault(tmp_path, old, new, reason):
    path = tmp_path / "broken.toml"
    path.write_text(SHIPPED.replace(old, new))
    with pytest.raises(RecipeError, match=rf"broken\.toml.*{reason}"):
        load_recipe(str(path))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"", b"stages = 3", b"stages = [3]"])
def test_other_files_are_told(tmp_path, content):
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"broken\.toml"):
        load_recipe(str(path))


def _fails(capsys, *argv):
    assert main([str(arg) for arg in argv]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error
    return error


def test_command_line_tells_bad_input_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("COMPRESSAI_GEN_DATA", raising=False)
    assert "cgdm-v1-base" in _fails(capsys, "no-such-recipe")
    assert "COMPRESSAI_GEN_DATA" in _fails(capsys, "cgdm-v1-base")
    assert "--data-root" in _fails(capsys, "cgdm-v1-base", "--data-root", tmp_path, "--output", tmp_path / "out")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("scale = [0.6, 2.0]", "scale = [0, 2]", r"\[data\] scale is two numbers above 0, .* not \[0, 2\]"),
        ("scale = [0.6, 2.0]", "scale = [2.0, 0.6]", "scale"),
        ("scale = [0.6, 2.0]", "scale = 2.0", "scale"),
        ("scale = [0.6, 2.0]", "scale = [nan, 1]", "scale"),
        ("batch = 8", "batch = 0", r"\[\[stages\]\] 1: batch is a whole number from 1, not 0"),
        ("steps = 2700", "steps = -1", r"\[\[stages\]\] 2: steps"),
        ("crop = 256", "crop = 8", r"\[\[stages\]\] 2: crop is a whole number from 64, not 8"),
        ("crop = 256", "crop = 256.5", "crop"),
        ("decay_from = 0.25", "decay_from = 1", "decay_from is a number from 0 to below 1, not 1"),
        ("ema_decay = 0.999", "ema_decay = 1.5", "ema_decay"),
        ("learning_rate = 1e-3", "learning_rate = '1e-3'", "learning_rate is a number above 0, not '1e-3'"),
        ("learning_rate = 1e-3", "learning_rate = inf", "learning_rate"),
        ("gradient_clip = 1.0", "gradient_clip = 0", "gradient_clip"),
        ("seed = 1", "seed = 1\ncheckpoint_every = 0", "checkpoint_every"),
        ("validate_every = 20000", "validate_every = true", "validate_every is a whole number from 1, not True"),
        ("valid_images = 3", "valid_images = 0", "valid_images"),
        ('valid = "valid"', "valid = 3", "valid is a text"),
        ("seed = 1", "seed = -1", "seed"),
        ("checkpoint_minutes = 10", "checkpoint_minutes = 0", "checkpoint_minutes"),
        ("crop = 256", "crop = 256\nlearning_rate = -1", r"\[\[stages\]\] 2: learning_rate"),
        ("log_gain = 3.2", "log_gain = 'fast'", "speeds is a table of numbers"),
    ],
)
def test_impossible_values_are_named_when_the_recipe_is_read(tmp_path, old, new, reason):
    path = tmp_path / "broken.toml"
    assert old in SHIPPED
    path.write_text(SHIPPED.replace(old, new))
    with pytest.raises(RecipeError, match=rf"broken: .*{reason}|broken: {reason}"):
        load_recipe(str(path))


def test_learning_rates_and_stages_follow_the_steps(tmp_path):
    path = tmp_path / "staged.toml"
    path.write_text(
        SHIPPED.replace("steps = 2700\n", "steps = 2700\nlearning_rate = 1e-4\nfinal_learning_rate = 2e-5\n")
    )
    recipe = load_recipe(str(path))
    assert recipe.learning_rate_at(0) == pytest.approx(1e-3 / 200)
    assert recipe.learning_rate_at(1000) == pytest.approx(1e-3)
    assert 1e-5 < recipe.learning_rate_at(13900) < 1e-3
    assert recipe.stage_at(13999)[0].crop == 128
    assert recipe.stage_at(14000) == (recipe.stages[1], 14000)
    assert recipe.learning_rate_at(14000) == pytest.approx(1e-4)
    assert recipe.learning_rate_at(15350) == pytest.approx(6e-5)
    assert recipe.learning_rate_at(16699) == pytest.approx(2e-5, rel=0.01)
    with pytest.raises(IndexError):
        recipe.stage_at(16700)
