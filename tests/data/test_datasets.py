import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from compressai_gen.codecs import published_curves
from compressai_gen.data import datasets, known_datasets, load_dataset
from compressai_gen.errors import DatasetError

DATA_ROOT = os.environ.get("COMPRESSAI_GEN_DATA", "unset")
SIZES = {"one.png": (8, 6), "two.png": (5, 4)}


@pytest.fixture(autouse=True)
def no_user_folders(monkeypatch, tmp_path):
    monkeypatch.delenv("COMPRESSAI_GEN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A dataset `tiny`, whose public source is a folder of this machine."""
    source = tmp_path / "source"
    source.mkdir()
    for name, size in SIZES.items():
        Image.new("RGB", size, "teal").save(source / name)
    files = [
        {
            "name": name,
            "url": (source / name).as_uri(),
            "sha256": hashlib.sha256((source / name).read_bytes()).hexdigest(),
        }
        for name in SIZES
    ]
    (tmp_path / "eval/datasets").mkdir(parents=True)
    (tmp_path / "eval/datasets/tiny.json").write_text(json.dumps({"name": "tiny", "count": 2, "files": files}))
    monkeypatch.setattr(datasets, "EVAL_DIR", tmp_path / "eval")
    return source


def test_downloads_once_to_the_cache(tiny, tmp_path):
    dataset = load_dataset("tiny", progress=False)
    assert dataset.image_names == ("one", "two")
    assert [image.shape for _, image in dataset] == [(3, 6, 8), (3, 4, 5)]
    for name in SIZES:
        (tiny / name).unlink()
    assert load_dataset("tiny", progress=False).paths == (
        tmp_path / "cache/compressai-gen/tiny/one.png",
        tmp_path / "cache/compressai-gen/tiny/two.png",
    )


def test_data_root_wins_over_the_cache(tiny, tmp_path, monkeypatch):
    load_dataset("tiny", progress=False)
    root = tmp_path / "root"
    root.mkdir()
    tiny.rename(root / "tiny")
    assert load_dataset("tiny", data_root=root)[1].shape == (3, 4, 5)
    assert load_dataset("tiny", data_root=root).paths[0] == root / "tiny/one.png"
    monkeypatch.setenv("COMPRESSAI_GEN_DATA", str(root))
    assert load_dataset("tiny").paths[0] == root / "tiny/one.png"


def test_wrong_download_leaves_nothing(tiny, tmp_path):
    (tiny / "one.png").write_bytes(b"something else")
    with pytest.raises(DatasetError, match=r"one\.png"):
        load_dataset("tiny", progress=False)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_wrong_file_in_the_data_root_is_refused(tiny, tmp_path):
    (tmp_path / "tiny").mkdir()
    for name in SIZES:
        (tmp_path / "tiny" / name).write_bytes(b"something else")
    with pytest.raises(DatasetError, match="SHA-256"):
        load_dataset("tiny", data_root=tmp_path)


def test_without_network_three_ways_out_are_named(tiny, tmp_path):
    (tiny / "one.png").unlink()
    with pytest.raises(DatasetError, match=r"--data-root.*network.*folder of your own"):
        load_dataset("tiny", progress=False)


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """A dataset `counted` of two pictures whose hashes are not known; returns a root that has it."""
    definition = {"name": "counted", "count": 2, "archives": ["https://x.org/a.zip"], "pictures": "both images"}
    (tmp_path / "eval/datasets").mkdir(parents=True)
    (tmp_path / "eval/datasets/counted.json").write_text(json.dumps(definition))
    monkeypatch.setattr(datasets, "EVAL_DIR", tmp_path / "eval")
    (tmp_path / "root/counted/sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Image.new("RGB", (2, 2)).save(tmp_path / "root/counted" / name)
    return tmp_path / "root"


def test_pictures_of_a_counted_dataset_are_found_and_counted(counted):
    dataset = load_dataset("counted", data_root=counted)
    assert (dataset.name, dataset.image_names, dataset.is_whole) == ("counted", ("a", "sub/b"), True)
    assert dataset.definition["count"] == 2
    assert not load_dataset("counted", data_root=counted, limit=1).is_whole
    Image.new("RGB", (2, 2)).save(counted / "counted/c.png")
    with pytest.raises(DatasetError, match="holds 3 images, but dataset counted has 2"):
        load_dataset("counted", data_root=counted, limit=1)


def test_dataset_without_hashes_is_not_downloaded(counted, monkeypatch):
    monkeypatch.setattr(torch.hub, "urlopen", None)
    with pytest.raises(DatasetError, match=r"a\.zip.*both images.*<root>/counted/"):
        load_dataset("counted")


def test_limit_takes_the_first_and_is_not_whole(tiny):
    dataset = load_dataset("tiny", limit=1, progress=False)
    assert dataset.image_names == ("one",)
    assert not dataset.is_whole
    assert load_dataset("tiny", progress=False).is_whole


def test_folder_names_are_unique(tmp_path):
    folder = tmp_path / "mine"
    (folder / "sub").mkdir(parents=True)
    for name in ("x.png", "x.bmp", "sub/y.png"):
        Image.new("RGB", (2, 2)).save(folder / name)
    dataset = load_dataset(folder)
    assert dataset.name == "mine"
    assert dataset.image_names == ("sub/y", "x.bmp", "x.png")
    assert dataset.definition == {}
    assert load_dataset("mine", data_root=tmp_path).paths == dataset.paths


@pytest.mark.parametrize("name", ["kodka", "/no/such/folder"])
def test_unknown_name_lists_the_known(name):
    with pytest.raises(DatasetError, match=r"kodak.*samples"):
        load_dataset(name)


def test_empty_folder_missing_root_and_silly_limit(tmp_path):
    with pytest.raises(DatasetError, match="no images"):
        load_dataset(tmp_path)
    with pytest.raises(DatasetError, match="not a folder"):
        load_dataset("samples", data_root=tmp_path / "gone")
    with pytest.raises(DatasetError, match="limit"):
        load_dataset("samples", limit=0)


def test_definitions_are_complete():
    assert {"kodak", "samples"} <= set(known_datasets())
    for name in known_datasets():
        definition = json.loads((datasets.EVAL_DIR / "datasets" / f"{name}.json").read_text())
        assert definition["name"] == name
        assert definition["licence"]
        if "files" in definition:
            assert definition["count"] == len(definition["files"]) == sum(definition["sizes"].values())
            assert all(len(file["sha256"]) == 64 for file in definition["files"])
        else:
            assert definition["archives"]
            assert str(definition["count"]) in definition["pictures"] or definition["name"] == "clic2020"


def test_sets_of_the_published_curves_are_known():
    counts = {"clic2020": 428, "clic2020-professional": 250, "div2k": 100}
    counts |= {"clic2020-768": 428, "tecnick-768": 140, "kodak-crop512": 24}
    for name, count in counts.items():
        definition = json.loads((datasets.EVAL_DIR / "datasets" / f"{name}.json").read_text())
        assert definition["count"] == count
        assert not published_curves(name).empty


def test_pictures_of_a_cut_set_have_its_size(tmp_path):
    folder = tmp_path / "kodak-crop512"
    folder.mkdir()
    for index in range(24):
        Image.new("RGB", (512, 512)).save(folder / f"{index}.png")
    assert load_dataset("kodak-crop512", tmp_path).is_whole
    Image.new("RGB", (768, 512)).save(folder / "7.png")
    with pytest.raises(DatasetError, match=r"7\.png has 768x512 pixels, but dataset kodak-crop512 has 512x512"):
        load_dataset("kodak-crop512", tmp_path)


def test_samples_need_no_download():
    dataset = load_dataset("samples")
    assert dataset.image_names == ("astronaut", "chelsea", "coffee", "rocket")
    sizes = {f"{image.shape[2]}x{image.shape[1]}" for _, image in dataset}
    assert sizes == set(dataset.definition["sizes"])


@pytest.mark.skipif(not (Path(DATA_ROOT) / "kodak").is_dir(), reason="COMPRESSAI_GEN_DATA has no folder kodak")
def test_kodak():
    dataset = load_dataset("kodak", data_root=DATA_ROOT)
    assert len(dataset) == 24
    assert dataset.image_names[22] == "kodim23"
    assert dataset[0].shape == (3, 512, 768)
    assert dataset[0].dtype == torch.uint8
