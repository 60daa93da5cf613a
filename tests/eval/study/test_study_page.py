"""The page of a study in a real browser: clicks, keys, touches, closing and coming back."""

import json
import time

import pytest

from compressai_gen.eval.study.cli import main
from compressai_gen.eval.study.record import read_votes

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

SIZE = 128


@pytest.fixture(scope="module")
def page(tmp_path_factory, small_pictures):
    """Ten comparisons and two checks."""
    path = tmp_path_factory.mktemp("study") / "a study.html"
    command = ["make", "jpeg", "webp", "jpeg2000", "--dataset", str(small_pictures), "--bpp", "1"]
    assert main([*command, "--comparisons", "10", "--output", str(path)]) == 0
    return path


class Visitor:
    """Somebody at the page."""

    def __init__(self, driver, page):
        self.driver = driver
        driver.get(page.as_uri())

    def __getitem__(self, name):
        return self.driver.find_element(By.ID, name)

    def press(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    def wait(self, condition):
        return WebDriverWait(self.driver, 10, 0.02).until(lambda _: condition())

    def at(self, position):
        """Wait until the pictures of a comparison are there."""
        self.wait(lambda: self["count"].text == f"Comparison {position} of 12" and self["show-b"].is_enabled())

    def visible(self):
        return [image.get_attribute("id")[-1] for image in self.driver.find_elements(By.CSS_SELECTOR, "img.visible")]

    def closer(self):
        """The side that looks more like the original: mean squared difference, as the browser shows the pictures."""
        return self.driver.execute_script("""
            const pixels = (id) => {
              const image = document.getElementById(id), canvas = document.createElement("canvas");
              [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
              const context = canvas.getContext("2d");
              context.drawImage(image, 0, 0);
              return context.getImageData(0, 0, canvas.width, canvas.height).data;
            };
            const [a, b, o] = ["picture-a", "picture-b", "picture-o"].map(pixels);
            const error = (x) => x.reduce((sum, value, i) => sum + (value - o[i]) ** 2, 0);
            return error(a) <= error(b) ? "a" : "b";
        """)


def test_a_whole_study_closed_and_resumed_in_the_middle(page, open_browser, tmp_path):
    visitor = Visitor(open_browser(), page)
    visitor["start"].click()
    chosen = {}
    for position in range(1, 13):
        visitor.at(position)
        assert visitor.visible() == ["a"]
        assert not visitor["choose-a"].is_enabled()  # before B was seen
        visitor.press(Keys.ENTER)
        assert visitor["count"].text.startswith(f"Comparison {position} ")
        side = chosen[position] = visitor.closer()
        if position % 2:  # by keys
            visitor.press(Keys.ARROW_RIGHT)
            assert visitor.visible() == ["b"]
            ActionChains(visitor.driver).key_down("o").perform()
            assert visitor.visible() == ["o"]
            ActionChains(visitor.driver).key_up("o").perform()
            assert visitor.visible() == ["b"]
            visitor.press(Keys.ARROW_LEFT if side == "a" else "b", Keys.ENTER)
        else:  # by clicks
            visitor["show-b"].click()
            assert visitor.visible() == ["b"]
            ActionChains(visitor.driver).click_and_hold(visitor["show-o"]).perform()
            assert visitor.visible() == ["o"]
            ActionChains(visitor.driver).release().perform()
            visitor["stage"].click()
            assert visitor.visible() == ["a"]
            visitor[f"choose-{side}"].click()
        if position == 5:
            visitor.at(6)
            visitor.driver.quit()
            visitor = Visitor(open_browser(), page)
            assert "5 of 12 are done" in visitor["start"].text
            visitor["start"].click()
    visitor.wait(lambda: visitor["end"].is_displayed())
    visitor["save"].click()
    visitor.wait(lambda: list((tmp_path / "downloads").glob("votes-*.json")))
    (path,) = (tmp_path / "downloads").glob("votes-*.json")
    votes = read_votes(path)  # of the digest that the page computed
    assert json.loads(visitor["text"].get_attribute("value")) == json.loads(path.read_text())
    assert visitor.driver.get_log("browser") == []
    for position, vote in enumerate(votes.votes, 1):
        assert vote["chosen"] == (vote["first"] if chosen[position] == "a" else 1 - vote["first"])
        assert vote["switches"] >= 1
        assert vote["originals"] == 1
        if votes.study["trials"][vote["trial"]]["kind"] == "check":
            assert vote["chosen"] == 0  # the original itself
    assert len({vote["trial"] for vote in votes.votes}) == 12
    assert [vote["trial"] for vote in votes.votes] != sorted(vote["trial"] for vote in votes.votes)
    assert {vote["first"] for vote in votes.votes} == {0, 1}
    assert main(["score", str(path), "--study", str(page), "--output", str(tmp_path / "scores")]) == 0


def test_a_finished_study_waits_to_be_saved(page, open_browser):
    """Who closes the page at the end finds the votes there, and another person gets another order."""
    driver = open_browser()
    visitor = Visitor(driver, page)
    visitor["start"].click()
    for position in range(1, 13):
        visitor.at(position)
        visitor.press("b", Keys.ENTER)
    visitor.wait(lambda: visitor["end"].is_displayed())
    first = json.loads(visitor["text"].get_attribute("value"))
    visitor = Visitor(driver, page)
    visitor["start"].click()
    visitor.wait(lambda: visitor["end"].is_displayed())
    assert json.loads(visitor["text"].get_attribute("value")) == first
    visitor["again"].click()
    driver.switch_to.alert.accept()
    state = json.loads(driver.execute_script("return localStorage.getItem(localStorage.key(0))"))
    assert state["votes"] == []
    assert state["rater"] != first["rater"]
    assert state["order"] != [vote["trial"] for vote in first["votes"]]


@pytest.mark.parametrize("scale", [1, 1.5, 2])
def test_a_pixel_of_the_picture_is_a_pixel_of_the_screen(page, open_browser, tmp_path, scale):
    import io

    import numpy as np
    from PIL import Image

    visitor = Visitor(open_browser(scale=scale, size=(700, 620)), page)
    visitor["start"].click()
    visitor.at(1)
    assert visitor["zoom"].text == "Zoom: 100 %"
    box = visitor.driver.execute_script("""
        const box = document.getElementById("picture-a").getBoundingClientRect(), ratio = devicePixelRatio;
        return [box.left, box.top, box.width, box.height].map((value) => value * ratio);
    """)
    assert box == pytest.approx(np.round(box), abs=1e-2)
    left, top, width, height = np.round(box).astype(int)
    assert (width, height) == (SIZE, SIZE)
    screen = np.array(Image.open(io.BytesIO(visitor.driver.get_screenshot_as_png())).convert("RGB")).astype(int)
    shown = screen[top : top + height, left : left + width]
    pixels = visitor.driver.execute_script("""
        const image = document.getElementById("picture-a"), canvas = document.createElement("canvas");
        canvas.width = canvas.height = image.naturalWidth;
        const context = canvas.getContext("2d");
        context.drawImage(image, 0, 0);
        return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
    """)
    picture = np.array(pixels).reshape(SIZE, SIZE, 4)[..., :3]
    assert np.abs(shown - picture).max() <= 1
    visitor["zoom"].click()
    assert "whole picture" in visitor["zoom"].text


def test_touch(page, open_browser):
    """A tap switches, a long press shows the original while it lasts."""
    driver = open_browser()
    driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    visitor = Visitor(driver, page)
    visitor["start"].click()
    visitor.at(1)
    center = driver.execute_script("""
        const box = document.getElementById("picture-a").getBoundingClientRect();
        return [box.left + box.width / 2, box.top + box.height / 2];
    """)

    def touch(kind):
        points = [] if kind == "touchEnd" else [{"x": center[0], "y": center[1]}]
        driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    for expected in ("b", "a"):
        touch("touchStart")
        touch("touchEnd")
        visitor.wait(lambda side=expected: visitor.visible() == [side])
    touch("touchStart")
    time.sleep(0.5)
    assert visitor.visible() == ["o"]
    touch("touchEnd")
    visitor.wait(lambda: visitor.visible() == ["a"])
    assert visitor["choose-b"].is_enabled()
