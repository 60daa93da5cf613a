"""A small dataset, submissions of it, and ways to tamper with them."""

import json
import zipfile

import pytest

from compressai_gen.data import write_image
from compressai_gen.leaderboard.cli import main
from compressai_gen.leaderboard.pack import pack


@pytest.fixture(scope="session")
def pictures(tmp_path_factory, photograph):
    """Folder of two photographs of the same size."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    folder.mkdir()
    for name, left in (("a", 100), ("b", 190)):
        write_image((photograph(40, 56, left=left)[0] * 255).round().byte(), folder / f"{name}.png")
    return folder


@pytest.fixture
def card(tmp_path):
    path = tmp_path / "card.toml"
    path.write_text('title = "A <b>bold</b> | codec"\nauthor = "Ada"\nlinks = ["https://example.org/paper?x=1&y=2"]\n')
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def run(pictures, card, tmp_path):
    """Runs `pack` or `verify` on the pictures, by PSNR; the file is `<codec>.cgensub` in the folder `board`."""

    def run(command, codec, *options):
        path = str(tmp_path / "board" / f"{codec}.cgensub")
        dataset = ["--dataset", str(pictures)]
        if command == "verify":
            return main(["verify", path, *dataset, *options])
        return main(["pack", codec, "--output", path, "--card", str(card), "--metrics", "psnr", *dataset, *options])

    return run


@pytest.fixture(scope="session")
def good_submission(pictures):
    """Bytes of a submission of JPEG at all its qualities."""
    card, output = pictures.parent / "card.json", pictures.parent / "jpeg.cgensub"
    card.write_text(json.dumps({"title": "JPEG", "author": "Ada"}))
    pack("jpeg", str(pictures), card, output, metrics=["psnr"])
    return output.read_bytes()


@pytest.fixture
def submission(good_submission, tmp_path):
    """A copy of it, where `run` has it."""
    path = tmp_path / "board" / "jpeg.cgensub"
    path.parent.mkdir()
    path.write_bytes(good_submission)
    return path


@pytest.fixture
def tamper():
    """Rewrites a submission: `change` gets its manifest and its streams by name."""

    def tamper(path, change):
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        manifest = json.loads(members.pop("submission.json"))
        change(manifest, members)
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in {"submission.json": json.dumps(manifest), **members}.items():
                archive.writestr(name, data)

    return tamper
