"""The demo's page, in a browser."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ports import free_port

from compressai_gen.coding import decode, describe
from compressai_gen.data import load_dataset, write_image

pytest.importorskip("gradio", reason="the extra 'demo' is not installed")


@pytest.fixture(scope="module")
def url():
    """The page of a program that runs as a user's does."""
    command = [sys.executable, "-m", "compressai_gen", "demo", "--port", str(free_port()), "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert line.startswith("serving http://127.0.0.1:"), process.stderr.read()
    yield line.split()[1].rstrip(";")
    process.terminate()
    process.wait(timeout=30)


@pytest.fixture
def picture(tmp_path):
    image = load_dataset("samples", limit=1)[0][:, 60:316, 180:436].contiguous()
    write_image(image, tmp_path / "photo.png")
    return tmp_path / "photo.png"


class Page:
    """What a visitor does."""

    def __init__(self, driver, url):
        self.driver = driver
        driver.get(url)
        self.find("#encode")

    def find(self, selector, seconds=60):
        return self.until(lambda: self.all(selector), f"{selector} is not there", seconds)[0]

    def all(self, selector):
        return [e for e in self.driver.find_elements("css selector", selector) if e.is_enabled()]

    def until(self, condition, otherwise, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := condition():
                return value
            time.sleep(0.2)
        pytest.fail(f"{otherwise}: {self.driver.find_element('tag name', 'body').text}")

    def text(self, selector):
        return " ".join(e.text for e in self.driver.find_elements("css selector", selector))

    def upload(self, within, path):
        self.find(f"{within} input[type=file]").send_keys(str(path))

    def click(self, text):
        (button,) = [e for e in self.driver.find_elements("css selector", "button, label") if e.text.strip() == text]
        self.driver.execute_script("arguments[0].click()", button)

    def encode(self):
        before = self.text("#figures")
        self.click("Encode and decode")
        said = self.until(
            # While the page works, the figures are those before, with the time that it has taken so far.
            lambda: (text := self.text("#figures")) != before and re.fullmatch(r"codec [^|]*\d s", text) and text,
            "no figures",
            120,
        )
        return int(re.search(r"(\d+) bytes", said)[1]), said

    def download(self, folder):
        """Returns what the button for the file brings."""
        before = set(folder.glob("*.cgen"))
        self.click("Download the .cgen file")
        (path,) = self.until(lambda: set(folder.glob("*.cgen")) - before, "nothing was downloaded")
        return path.read_bytes()


def test_a_visit(open_browser, url, picture, tmp_path):
    driver = open_browser()
    page = Page(driver, url)
    page.upload("#picture", picture)
    page.find("#picture img")
    page.click("mridc")
    page.find("#editor canvas")
    n_bytes, said = page.encode()
    assert "mridc, quality 3" in said
    assert "256 x 256 pixels" in said
    assert "psnr" in said
    assert len(page.driver.find_elements("css selector", "#compared img")) == 2

    data = page.download(tmp_path / "downloads")
    assert len(data) == n_bytes
    assert describe(data)["model"] == "mridc"
    (tmp_path / "again.cgen").write_bytes(data)

    _paint(page)
    painted_bytes, _ = page.encode()
    painted = page.download(tmp_path / "downloads")
    assert painted != data
    assert painted_bytes < 1.3 * n_bytes
    _assert_corner_is_better(painted, data, picture)

    page.click("Open a file")
    page.upload("#file", tmp_path / "again.cgen")
    page.until(lambda: f"{n_bytes} bytes" in page.text("#said"), "the file is not opened")
    page.find("#decoded img")

    (tmp_path / "broken.cgen").write_bytes(data[:-3])
    page = Page(driver, url)
    page.click("Open a file")
    page.upload("#file", tmp_path / "broken.cgen")
    page.until(lambda: "truncated or damaged" in driver.find_element("tag name", "body").text, "the fault is not told")
    outside = [entry for entry in driver.get_log("browser") if "ERR_NAME_NOT_RESOLVED" in entry["message"]]
    assert outside == []


def _paint(page):
    """Strokes over the picture's upper left quarter."""
    from selenium.webdriver import ActionChains

    canvas = page.find("#editor canvas")
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    time.sleep(0.5)
    half = min(canvas.size["width"], canvas.size["height"]) // 3  # of the picture, with some air around it
    chain = ActionChains(page.driver, duration=100)
    for y in range(-half, 0, half // 3):
        chain.move_to_element_with_offset(canvas, -half, y).click_and_hold().pause(0.1)
        chain.move_to_element_with_offset(canvas, -half // 2, y + 2).move_to_element_with_offset(canvas, -8, y).pause(
            0.1
        )
        chain.release()
    chain.perform()
    time.sleep(1)


def _assert_corner_is_better(painted, data, picture):
    from compressai_gen.data import read_image
    from compressai_gen.data.images import rgb_tensor

    x = read_image(picture).float()
    errors = [(rgb_tensor(decode(file)).float() - x).square()[:, :100, :100].mean() for file in (painted, data)]
    assert errors[0] < errors[1]


def test_without_a_browser_files_say_what_is_wrong(tmp_path):
    from compressai_gen.demo import Coder, gr

    (tmp_path / "x.cgen").write_bytes(b"CGEN")
    (tmp_path / "x.png").write_bytes(b"no picture")
    coder = Coder(torch.device("cpu"))
    with pytest.raises(gr.Error, match="truncated"):
        coder.open(str(tmp_path / "x.cgen"))
    with pytest.raises(gr.Error, match=r"x\.png"):
        coder.encode(str(tmp_path / "x.png"), "mridc", 1, None)
    with pytest.raises(gr.Error, match=r"drop a picture"):
        coder.encode(None, "mridc", 1, None)
    assert not [path for path in Path(coder.folder.name).rglob("*") if path.is_file()]
