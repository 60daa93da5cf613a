"""Tables and page of what is accepted, and of nothing else."""

import json
import shutil
from html.parser import HTMLParser

import pandas as pd
import pytest

from compressai_gen.codecs import published
from compressai_gen.eval import bootstrap, tables
from compressai_gen.leaderboard import rank as ranking
from compressai_gen.leaderboard.cli import main
from compressai_gen.leaderboard.pack import pack
from compressai_gen.leaderboard.verify import verify

HOSTILE = "</title><script>alert(1)</script> | [x](javascript:1)"
LINK = "https://example.org/?a=1&b='\"<i>"


@pytest.fixture(scope="module")
def accepted(tmp_path_factory, pictures):
    """Submissions of JPEG and WebP with a hostile card, and the records of their acceptance."""
    folder = tmp_path_factory.mktemp("accepted")
    card = pictures.parent / "hostile.json"
    card.write_text(json.dumps({"title": HOSTILE, "author": "Ada & co", "links": [LINK]}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(pictures.parent / "cache"))
        for codec in ("jpeg", "webp"):
            pack(codec, str(pictures), card, folder / f"{codec}.cgensub", metrics=["psnr"])
            verify(folder / f"{codec}.cgensub", str(pictures))
    return folder


@pytest.fixture
def board(accepted, tmp_path, monkeypatch):
    """A copy of them; intervals need not be fine."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 40)
    return shutil.copytree(accepted, tmp_path / "board")


def _rank(board, *options):
    return main(["rank", str(board), "--dataset", "pictures", "--by", "psnr", *options])


class Page(HTMLParser):
    """Names of the elements, addresses, and all text."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.addresses, self.text = set(), [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.add(tag)
        self.addresses += [value for name, value in attributes if name in ("href", "src")]

    def handle_data(self, data):
        self.text += data


def test_bd_rates_are_those_of_the_evaluation(board):
    assert _rank(board, "--anchor", "webp") == 0
    table = pd.read_csv(board / "leaderboard.csv").set_index("codec")
    assert list(table.index) == ["webp", "jpeg"]
    images = pd.concat(
        [
            pd.DataFrame(json.loads((board / f"{codec}.accepted.json").read_text())["rows"]).assign(codec=codec)
            for codec in ("webp", "jpeg")
        ]
    )
    images = tables.per_image(images)
    (expected,) = tables.bd_rates(tables.summarize(images), images, anchor="webp").to_dict("records")
    assert expected["bd_rate_percent"] > 0
    for column in ("bd_rate_percent", "low", "high", "overlap"):
        assert table.loc["jpeg", f"psnr_{column}"] == pytest.approx(expected[column], rel=1e-5)
    assert table.loc["webp", "psnr_bd_rate_percent"] == 0
    assert (table[["encode_s", "decode_s"]] > 0).all(axis=None)
    points = pd.read_csv(board / "points.csv")
    assert points.groupby("codec")["quality"].apply(list).to_dict() == {"jpeg": [3, 10, 30], "webp": [1, 15, 50]}


def test_the_page_is_one_file_and_shows_text_as_text(board):
    assert _rank(board) == 0
    page = Page((board / "leaderboard.html").read_text())
    assert "script" not in page.elements
    assert "i" not in page.elements
    assert HOSTILE in page.text
    assert "Ada & co" in page.text
    outside = [address for address in page.addresses if not address.startswith(("#", "data:image/svg+xml;base64,"))]
    assert set(outside) == {LINK}
    markdown = (board / "leaderboard.md").read_text()
    assert "<script>" not in markdown.replace("\\<", "")
    (row,) = [line for line in markdown.splitlines() if line.startswith("| jpeg")]
    assert (
        row.replace("\\|", "").count("|")
        == len(["codec", "title", "author", "source", "trained on", "psnr", "s", "s"]) + 1
    )


def test_published_curves_are_told_apart(board, monkeypatch, tmp_path):
    lines = ["source,dataset,codec,point,bpp,psnr,ms_ssim,lpips,dists"]
    for source, codec, gain in (("paper", "Other", 0), ("blog", "Other", 40), ("paper", "Sole", 1)):
        similarity = "" if (source, codec) == ("paper", "Other") else 0.8
        lines += [
            f"{source},pictures,{codec},q{i},{0.5 * 2**i},{24 + 3 * i + gain},{similarity and similarity + 0.02 * i},,"
            for i in range(4)
        ]
    (tmp_path / "published_curves.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "published_codecs.csv").write_text("codec,family,since\n")
    monkeypatch.setattr(published, "EVAL_DIR", tmp_path)
    assert _rank(board) == 0
    assert set(pd.read_csv(board / "leaderboard.csv")["source"]) == {"measured"}  # 'pictures' may be anyone's folder
    monkeypatch.setattr(ranking, "known_datasets", lambda: ["pictures"])
    assert _rank(board, "--anchor", "Other", "--output", str(tmp_path / "out")) == 0
    table = pd.read_csv(tmp_path / "out" / "leaderboard.csv").set_index("codec")
    others = {"Other [paper]", "Other [blog]", "Sole"}
    assert set(table.index[table["source"] == "measured"]) == {"webp", "jpeg"}
    assert set(table.index[table["source"] == "published"]) == others
    assert set(table.index[table["encode_s"].isna()]) == others
    assert table.loc["webp", "anchor"] == "Other [paper]"  # of both, the one that shares more of the range
    assert table.loc["Sole", "anchor"] == "Other [paper]; Other [blog]"  # only the latter has the other metric
    assert "Anchor: Other \\[paper\\] or Other \\[blog\\]. " in (tmp_path / "out" / "leaderboard.md").read_text()
    assert _rank(board, "--anchor", "webp", "--output", str(tmp_path / "far")) == 0
    assert set(pd.read_csv(tmp_path / "far" / "leaderboard.csv")["codec"]) == {"webp", "jpeg", "Sole"}
    assert _rank(board, "--anchor", "webp", "--all-published", "--output", str(tmp_path / "far")) == 0
    assert set(pd.read_csv(tmp_path / "far" / "leaderboard.csv")["codec"]) == {"webp", "jpeg", *others}
    before, mark, after = (tmp_path / "out" / "leaderboard.html").read_text().partition("Published by others")
    assert mark
    for codec in others:
        assert f"<td>{codec}</td>" not in before
        assert f"<td>{codec}</td>" in after
    (board / "jpeg.cgensub").rename(board / "Sole.cgensub")
    (board / "jpeg.accepted.json").rename(board / "Sole.accepted.json")
    assert _rank(board) == 3  # the name of a published curve


def test_only_what_is_accepted_is_ranked(board, tamper, capsys):
    def refused(reason):
        capsys.readouterr()
        assert _rank(board) == 3
        assert reason in capsys.readouterr().err
        assert not (board / "leaderboard.csv").exists()

    record, good = board / "jpeg.accepted.json", (board / "jpeg.cgensub").read_bytes()
    kept = record.read_text()
    tamper(board / "jpeg.cgensub", lambda manifest, streams: manifest["rows"][0].update(encode_s=0.0))
    refused("accepts another file")
    (board / "jpeg.cgensub").write_bytes(good)
    fields = json.loads(kept)
    for change, reason in (({"protocol": 0}, "make it again"), ({"rows": fields["rows"][1:]}, "not one row for each")):
        record.write_text(json.dumps(fields | change))
        refused(reason)
    record.unlink()
    assert _rank(board) == 0
    assert "jpeg.cgensub is not accepted" in capsys.readouterr().err
    assert set(pd.read_csv(board / "leaderboard.csv")["codec"]) == {"webp"}


def test_nothing_to_rank_and_unknown_anchors_are_told(board, capsys, tmp_path):
    assert _rank(board, "--anchor", "vtm") == 3
    assert "there are jpeg, webp" in capsys.readouterr().err
    assert main(["rank", str(board)]) == 3
    assert "no accepted submission of kodak" in capsys.readouterr().err
