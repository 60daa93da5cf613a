"""Of studies without a browser: what is compared, what is refused, and what the scores are."""

import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from compressai_gen.codecs import Encoded, LearnedCodec
from compressai_gen.data import load_dataset
from compressai_gen.eval.compare import Column
from compressai_gen.eval.study.cli import main
from compressai_gen.eval.study.make import ORIGINAL, design
from compressai_gen.eval.study.record import digest
from compressai_gen.eval.study.score import collect, page_fingerprint, score


def record(votes):
    votes = dict(votes)
    votes.pop("digest", None)
    return votes | {"digest": digest(votes)}


@pytest.fixture(scope="module")
def page(tmp_path_factory, small_pictures):
    """A study of three codecs on four images: twelve comparisons and two checks."""
    path = tmp_path_factory.mktemp("study") / "study.html"
    command = ["make", "jpeg", "webp", "jpeg2000", "--dataset", str(small_pictures), "--bpp", "1"]
    assert main([*command, "--output", str(path)]) == 0
    return path


def study_of(page):
    from base64 import b64decode

    (content,) = re.findall(r'id="study"[^>]*>([^<]+)<', page.read_text())
    return json.loads(b64decode(content))


@pytest.fixture
def vote(page, tmp_path):
    """Writes the file of a rater who prefers codecs by their place in an order."""
    study = study_of(page)

    def write(name, order=("webp", "jpeg2000", "jpeg"), careful=True, flips=()):
        votes = []
        for index, trial in enumerate(study["trials"]):
            if trial["kind"] == "check":
                chosen = 0 if careful else 1
            else:
                chosen = int(np.argmin([order.index(side["codec"]) for side in trial["sides"]]))
                chosen ^= index in flips
            counts = {"switches": 1, "originals": 1, "fitted": 0, "ms": 900}
            votes.append({"trial": index, "first": index % 2, "chosen": chosen, **counts})
        data = {"format": "compressai-gen votes 1", "study": study, "fingerprint": digest(study)}
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(record(data | {"rater": name, "votes": votes})))
        return path

    return write


def test_pairs_are_of_matched_bytes(page):
    study = study_of(page)
    pairs = [trial for trial in study["trials"] if trial["kind"] == "pair"]
    assert len(pairs) == 12
    assert len(study["trials"]) == 14
    for trial in pairs:
        a, b = trial["sides"]
        assert a["codec"] != b["codec"]
        assert abs(a["bytes"] / b["bytes"] - 1) < 0.1
        assert 8 * a["bytes"] / a["pixels"] == pytest.approx(1, abs=0.3)
    for trial in study["trials"][2:]:
        if trial["kind"] == "check":
            assert trial["sides"][0]["codec"] == ORIGINAL
            assert trial["sides"][0]["picture"] == trial["original"] != trial["sides"][1]["picture"]


class _Smooth(LearnedCodec):
    """Has 80 % more bytes at each whole quality."""

    def __init__(self, name, scale):
        super().__init__(name, (1, 2, 3, 4, 5), load=None, variable_rate=True)
        self.scale = scale

    def encode(self, image, quality):
        return Encoded([bytes(int(self.scale * 1.8**quality)), image.numpy().tobytes()[:0]])

    def decode(self, encoded, quality=None):
        return torch.full((3, 128, 128), len(encoded.strings[0]) % 256, dtype=torch.uint8)


def test_models_match_bytes_between_their_whole_qualities(small_pictures):
    codecs = [_Smooth("a", 100), _Smooth("b", 134)]
    columns = [Column(codec, codec.qualities) for codec in codecs]
    trials = design(columns, load_dataset(small_pictures), bpp=0.3, progress=False).record["trials"]
    sides = [trial["sides"] for trial in trials if trial["kind"] == "pair"]
    assert {a["quality"] for a, _ in sides} == {"3"}  # the first one's are whole
    assert {b["quality"] for _, b in sides} == {"2.5"}
    assert all(abs(a["bytes"] / b["bytes"] - 1) < 0.04 for a, b in sides)
    named = [columns[0], Column(codecs[1], (2,))]
    trials = design(named, load_dataset(small_pictures), bpp=0.3, progress=False).record["trials"]
    assert {trial["sides"][1]["quality"] for trial in trials if trial["kind"] == "pair"} == {"2"}


def test_the_page_stands_alone_and_hides_the_codecs(page):
    text = page.read_text()
    assert not re.findall(r"https?://", text)
    assert not re.findall(r"\b(src|href)=\"(?!data:)", text)
    assert "jpeg2000" not in text
    assert page_fingerprint(page) == re.search(r'data-fingerprint="(\w+)"', text)[1] == digest(study_of(page))
    for trial in study_of(page)["trials"]:
        for picture in (trial["original"], *(side["picture"] for side in trial["sides"])):
            assert f'id="data-{picture}"' in text


def test_few_comparisons_are_drawn_evenly(tmp_path, small_pictures):
    command = ["make", "jpeg", "webp", "jpeg2000", "--dataset", str(small_pictures), "--bpp", "1", "--crop", "64"]
    command += ["--comparisons", "6", "--checks", "1"]
    for name in "ab":
        assert main([*command, "--output", str(tmp_path / name)]) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    trials = study_of(tmp_path / "a")["trials"]
    pairs = ["-".join(side["codec"] for side in trial["sides"]) for trial in trials if trial["kind"] == "pair"]
    assert sorted(pairs.count(pair) for pair in set(pairs)) == [2, 2, 2]
    assert len(trials) == 7


def test_scores(page, vote, tmp_path, capsys):
    files = [vote(f"r{i}", flips=range(i, 12, 5)) for i in range(5)]
    careless = vote("careless", order=("jpeg", "jpeg2000", "webp"), careful=False)
    output = tmp_path / "scores"
    command = ["score", *map(str, files), str(careless), "--study", str(page), "--output", str(output)]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert re.search(r"rejected: .*careless\.json: its rater got 0 of 2 attention checks right", captured.err)
    table = pd.read_csv(output / "scores.csv").set_index("codec")
    assert list(table.index) == ["webp", "jpeg2000", "jpeg"]
    assert (table["low"] < table["score"]).all()
    assert (table["score"] < table["high"]).all()
    assert table["score"].sum() == pytest.approx(0, abs=1e-4)
    assert table["wins"].sum() == 60
    assert (table["comparisons"] == 40).all()
    assert {path.name for path in output.iterdir()} == {f"scores.{kind}" for kind in ("csv", "md", "png", "svg", "pdf")}
    text = (output / "scores.md").read_text()
    assert "5 raters" in text
    assert "careless" in text
    first = {path.name: path.read_bytes() for path in output.iterdir()}
    assert main(command) == 0
    assert {path.name: path.read_bytes() for path in output.iterdir()} == first


def test_scores_are_those_of_the_model(vote):
    """Of two codecs, the score's difference is the log-odds of the wins; a third changes nothing about it."""
    votes, refused = collect([vote(f"r{i}", flips=[i, i + 3, i + 6]) for i in range(3)])
    assert not refused
    table = score(votes).table.set_index("codec")
    # Every vote weighs the same, whoever gave it.
    assert score(votes[::-1]).table.set_index("codec")["score"].to_dict() == pytest.approx(table["score"].to_dict())
    assert table["preferred"].between(0, 1).all()
    assert np.log(table["preferred"] / (1 - table["preferred"])).to_dict() == pytest.approx(table["score"].to_dict())


def test_one_sided_votes_have_finite_scores(vote):
    votes, _ = collect([vote("sure")])
    table = score(votes).table
    assert np.isfinite(table[["score", "low", "high"]]).all(axis=None)
    assert list(table["wins"]) == [8, 4, 0]


def _edit(change, seal):
    def edit(path):
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(record(data) if seal else data))

    return edit


def _another(data):
    data["study"]["bpp"] = "7"
    data["fingerprint"] = digest(data["study"])


FAULTS = {
    "a vote turned": (
        _edit(lambda data: data["votes"][0].update(chosen=1 - data["votes"][0]["chosen"]), False),
        "edited",
    ),
    "the digest gone": (_edit(lambda data: data.pop("digest"), False), "edited"),
    "the study changed": (_edit(lambda data: data["study"].update(bpp="7"), True), "edited"),
    "another study": (_edit(_another, True), "of another study"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-40]), "truncated"),
    "empty": (lambda path: path.write_bytes(b""), "truncated"),
    "no text": (lambda path: path.write_bytes(b"\xff\xfe\x00"), "truncated"),
    "a list": (lambda path: path.write_text("[1]"), "holds no votes"),
    "a vote missing": (_edit(lambda data: data["votes"].pop(), True), "one vote for each of the 14"),
    "a vote twice": (_edit(lambda data: data["votes"].append(data["votes"][0]), True), "one vote for each of the 14"),
    "a third side": (_edit(lambda data: data["votes"][0].update(chosen=2), True), "not what the page"),
    "text as a number": (_edit(lambda data: data["votes"][0].update(ms="9"), True), "not what the page"),
    "no rater": (_edit(lambda data: data.update(rater=None), True), "not what the page"),
    "gone": (lambda path: path.unlink(), "cannot be read"),
    "the same rater": (_edit(lambda data: data.update(rater="good"), True), "of the same rater as"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("with_page", [False, True])
def test_bad_files_are_refused_by_name(page, vote, fault, with_page):
    files = [vote("good"), vote("better"), vote("bad")]
    spoil, reason = FAULTS[fault]
    spoil(files[2])
    votes, refused = collect(files, page_fingerprint(page) if with_page else None)
    assert [one.path for one in votes] == files[:2]
    (line,) = refused
    assert re.search(rf"^\S*bad\.json .*{reason}", line)


def test_the_others_are_scored(vote, tmp_path, capsys):
    files = [vote("good"), vote("better"), *(vote(f"bad{i}") for i in range(len(FAULTS)))]
    for path, (spoil, _) in zip(files[2:], FAULTS.values(), strict=True):
        spoil(path)
    assert main(["score", *map(str, files), "--output", str(tmp_path / "out")]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("refused: ")]
    assert len(lines) == len(FAULTS)
    assert "2 raters" in (tmp_path / "out" / "scores.md").read_text()


def test_nothing_left_to_score_is_one_line(page, vote, tmp_path, capsys):
    path = vote("bad", careful=False)
    assert main(["score", str(path), "--output", str(tmp_path / "out")]) == 2
    assert "error: there are no votes to score" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    for wrong in (path, tmp_path / "none.html"):
        assert main(["score", str(path), "--study", str(wrong)]) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["jpeg"], "at least two codecs"),
        (["jpeg", "jpeg"], "jpeg stands twice"),
        (["jpeg", "webp", "--bpp", "0"], "--bpp is above 0"),
        (["jpeg", "webp", "--images", "nobody"], "has no image nobody"),
        (["jpeg", "webp", "--comparisons", "0"], "--comparisons is 0"),
        (["jpeg", "webp", "--crop", "5000"], "smaller than the crops"),
    ],
)
def test_what_cannot_be_asked_is_one_line(tmp_path, capsys, arguments, said):
    assert main(["make", *arguments, "--output", str(tmp_path / "study.html")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "study.html").exists()


def test_without_the_extra_scoring_says_what_to_install(vote, monkeypatch, capsys):
    path = vote("good")
    monkeypatch.delitem(sys.modules, "compressai_gen.eval.study.score")
    monkeypatch.setitem(sys.modules, "choix", None)
    assert main(["score", str(path)]) == 2
    assert "pip install 'compressai-gen[study]'" in capsys.readouterr().err
