import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from compressai_gen.codecs import PillowCodec
from compressai_gen.data import load_dataset, read_image, write_image
from compressai_gen.eval import cli, page, report

VOID = {"meta", "input", "img", "br", "link"}
NAMES = ["<i>&amp;'a", "b"]


class Page(HTMLParser):
    """Collects tags with attributes, texts and scripts, and checks that every tag is closed where it should be."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.scripts, self._open = [], [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        (self.scripts if self._open[-1:] in (["script"], ["style"]) else self.texts).append(data.strip())

    def find(self, tag, **attributes):
        return [found for name, found in self.tags if name == tag and attributes.items() <= found.items()]


@pytest.fixture
def run(tmp_path, photograph, monkeypatch):
    """Returns the output folder of a run with a report, and a function that runs it again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "write_plot", lambda *args: None)  # takes longer than all else
    folder = tmp_path / 'a "set" & <more>'
    folder.mkdir()
    for name, left in zip(NAMES, (100, 200), strict=True):
        write_image((photograph(40, 56, left=left)[0] * 255).round().byte(), folder / f"{name}.png")
    argv = ["--models", "webp", "--qualities", "1", "50", "--baselines", "jpeg", "--metrics", "psnr", "--threads", "1"]
    argv += ["--dataset", str(folder), "--output", "out"]

    def again(*more):
        assert cli.main([*argv, *more]) == 0

    again("--report")
    return folder, tmp_path / "out", again


def test_report_is_one_escaped_file_with_every_picture(run):
    folder, output, _ = run
    text = (output / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(https?:)?//[a-z0-9]", re.sub(r'<script type="text/plain".*?</script>', "", text))
    parsed = Page(text)
    assert {"src", "href"}.isdisjoint(
        key for _, attributes in parsed.tags for key in attributes if not (attributes[key] or "").startswith("#")
    )
    assert 'a "set" & <more>' in parsed.texts
    assert "<i>&amp;'a" in parsed.texts
    assert not parsed.find("i")
    for slider in parsed.find("input", type="range"):
        assert slider["aria-label"]
    assert len(parsed.find("input", type="range")) == 2

    pictures = [Image.open(io.BytesIO(base64.b64decode(script))) for script in parsed.scripts if script[:4] == "UklG"]
    assert len(pictures) == 2 * (1 + 2 + 3)
    original = next(iter(load_dataset(folder)))[1]
    assert np.array_equal(np.asarray(pictures[0]), original.permute(1, 2, 0))
    decoded = read_image(output / "reconstructions/webp-q50" / f"{NAMES[0]}.png")
    assert np.array_equal(np.asarray(pictures[2]), decoded.permute(1, 2, 0))

    (data,) = [script for script in parsed.scripts if script.startswith("{")]
    data = json.loads(data)
    assert [curve["name"] for curve in data["curves"]] == ["webp", "jpeg"]
    assert [metric["key"] for metric in data["metrics"]] == ["psnr"]
    value, low, high = data["curves"][0]["points"][0]["values"]["psnr"]
    assert low <= value <= high


def test_report_of_a_measured_run_codes_nothing_again(run, monkeypatch):
    _, output, again = run
    first = (output / "report.html").read_text(encoding="utf-8")
    monkeypatch.setattr(PillowCodec, "encode", None)
    (output / "report.html").unlink()
    again("--report")
    second = (output / "report.html").read_text(encoding="utf-8")
    volatile = r"<dt>(peak memory mib|command)</dt><dd>.*?</dd>"
    assert re.sub(volatile, "", second) == re.sub(volatile, "", first)


def test_large_sets_are_shown_in_part(run, monkeypatch):
    folder, output, again = run
    dataset = load_dataset(folder)
    monkeypatch.setattr(page, "MAX_PIXELS", 40 * 56 * 6)
    monkeypatch.setattr(page, "LOSSLESS_PIXELS", 0)
    assert list(page.illustrated(dataset, 5)) == [NAMES[0]]
    assert page.illustrated(dataset, 6) == {}
    (output / "report.html").unlink()
    again("--report")
    text = (output / "report.html").read_text(encoding="utf-8")
    assert text.count('class="picture"') == 6
    assert "quality 90" in text
    assert "first 1 images" in text
