"""The course in JupyterLab, in a real browser, by keyboard alone: `pytest -m browser`.

It needs Debian's chromium. BROWSER_PICTURES=folder keeps screenshots of the instruments
and of an animation, for you to look at.
"""

import os
import re
from pathlib import Path

import nbformat
import pytest
import torch
from browser import (
    CELL,
    FLAGS,
    NOTEBOOKS,
    Lab,
    choose,
    chromium,
    errors,
    open_notebook,
    run_all,
)
from playwright.sync_api import Page, expect, sync_playwright

import diffusion_utilities as du

pytestmark = pytest.mark.browser
# ms, on a slow and busy machine; an instrument is done long before
WAIT = 30_000
expect.set_options(timeout=WAIT)

LESSONS = {path.stem[:2]: path for path in NOTEBOOKS}
SET_UP = """
import sys
sys.path.append("..")
from diffusion_utilities import *
set_up()
"""
# An instrument with many knobs of all kinds, and with a picture as wide as allowed
MANY_KNOBS = """
from PIL import ImageDraw

def draw(**settings):
    words = ", ".join(f"{name} {value}" for name, value in settings.items())
    picture = Image.new("RGB", (1010, 300), "white")
    ImageDraw.Draw(picture).text((10, 140), words, "black")
    return picture, words

share = (0, 0.25, 0.5, 0.75, 1)
hair = ("not said", "brown", "blond", "red", "blue")
outfit = ("not said", "red", "green", "blue", "charcoal")
explore(
    draw, "the settings in words",
    hero=share, non_hero=share, food=share, spell=share, side_facing=share,
    hair_colour=hair, outfit_colour=outfit, square_root=(False, True),
)
"""


@pytest.fixture(scope="module")
def browser():
    path = chromium()
    if not path:
        missing = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        missing("no chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.stop()


@pytest.fixture(scope="module")
def new_page(browser):
    """Opens a page whose errors can be asked for: page.errors."""

    def new(**options) -> Page:
        window = {"width": 1280, "height": 900}
        page = browser.new_page(viewport=window, **options)
        page.set_default_timeout(WAIT)
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        return page

    return new


def screenshot(page: Page, name: str) -> None:
    folder = os.environ.get("BROWSER_PICTURES")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png")


# ---- instruments ---------------------------------------------------------------------


class Opened:
    """A notebook that has been run in JupyterLab, and its instrument."""

    def __init__(self, page: Page, lab: Lab, path: Path):
        self.page = page
        self.name = path.stem
        open_notebook(page, lab, path)
        self.cells = run_all(page, path)
        assert not errors(self.cells)
        self.cell = page.locator(CELL, has=page.locator(".widget-vbox img")).last
        self.box = self.cell.locator(".jp-OutputArea-output:has(.widget-vbox)")
        self.image = self.box.locator("img")

    def see(self) -> None:
        self.box.scroll_into_view_if_needed()
        # cells above are laid out only when they come near
        self.page.wait_for_timeout(300)

    def picture(self) -> str:
        return self.image.get_attribute("src")

    def sliders(self):
        return self.box.locator(".widget-slider .noUi-handle").all()

    def boxes(self):
        return self.box.locator("input[type=checkbox]").all()

    def rows_of_buttons(self):
        return self.box.locator(".widget-toggle-buttons").all()

    def reach(self, knob) -> None:
        """Go from the notebook's cell to a knob by the Tab key."""
        self.cell.focus()
        for _ in range(60):
            self.page.keyboard.press("Tab")
            if knob.evaluate("knob => knob === document.activeElement"):
                return
        raise AssertionError(f"Tab does not reach {knob}")

    def press(self, key: str) -> None:
        """Press a key that must change the picture, and wait until it has."""
        before = self.picture()
        self.page.keyboard.press(key)
        expect(self.image).not_to_have_attribute("src", before)
        assert self.image.get_attribute("alt")

    def settled(self) -> str:
        """The picture, once nothing changes it any more."""
        before = None
        for _ in range(100):
            self.page.wait_for_timeout(500)
            idle = self.page.get_by_text("| Idle").count()
            if idle and self.picture() == before:
                return before
            before = self.picture()
        raise AssertionError("the picture never comes to rest")


def value(slider, which: str = "now") -> int:
    """Where a slider stands; `which` may be "min" or "max", its ends."""
    return int(float(slider.get_attribute(f"aria-value{which}")))


@pytest.fixture(scope="module", params=["lesson 02", "lesson 04", "many knobs"])
def opened(request, lab, new_page):
    """Lessons that are run from top to bottom, and the instrument of many knobs."""
    kind, name = request.param.split()
    if kind == "lesson":
        path = lab.copy_lesson(LESSONS[name])
    else:
        path = lab.write_notebook("many_knobs", SET_UP, MANY_KNOBS)
    opened = Opened(new_page(), lab, path)
    yield opened
    opened.page.close()


class TestInstruments:
    def test_it_runs_without_an_error_and_saves_a_picture_beside_its_knobs(
        self, opened
    ):
        expect(opened.image).to_have_count(1)
        outputs = [output for cell in opened.cells for output in cell.outputs]
        kind = "application/vnd.jupyter.widget-view+json"
        [shown] = [output for output in outputs if kind in output.get("data", {})]
        assert len(shown.data["image/png"]) > 1000
        assert shown.metadata["image/png"]["alt"] == shown.data["text/plain"]
        assert not opened.page.errors

    def test_each_option_of_each_knob_changes_the_picture_by_keyboard_alone(
        self, opened
    ):
        opened.see()
        for slider in opened.sliders():
            opened.reach(slider)
            while value(slider) > value(slider, "min"):
                opened.press("ArrowLeft")
            while value(slider) < value(slider, "max"):
                opened.press("ArrowRight")
        for box in opened.boxes():
            opened.reach(box)
            opened.press("Space")
            opened.press("Space")
        for row in opened.rows_of_buttons():
            for button in row.locator("button:not(.mod-active)").element_handles():
                opened.reach(button)
                opened.press("Enter")
        assert not opened.page.errors

    def test_turned_fast_it_keeps_one_picture_that_of_its_last_setting(self, opened):
        slider = opened.sliders()[0]
        opened.reach(slider)
        opened.page.keyboard.press("Home")
        opened.settled()
        for _ in range(10):
            opened.page.keyboard.press("ArrowRight")
        fast = opened.settled()
        expect(opened.image).to_have_count(1)
        expect(opened.cell.locator(".jp-OutputArea-output")).to_have_count(1)
        opened.press("ArrowLeft")
        assert opened.settled() != fast
        opened.press("ArrowRight")
        assert opened.settled() == fast

    @pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
    @pytest.mark.parametrize("width", [1280, 800])
    def test_nothing_is_cut_off_or_overlaps_and_its_words_can_be_read(
        self, opened, width, theme
    ):
        page = opened.page
        page.set_viewport_size({"width": width, "height": 900})
        body = page.locator("body")
        if body.get_attribute("data-jp-theme-name") != theme:
            choose(page, "Settings", "Theme", theme)
            expect(body).to_have_attribute("data-jp-theme-name", theme)
        opened.see()
        page.wait_for_timeout(500)
        screenshot(page, f"{opened.name}_{width}_{theme.split()[1].lower()}")
        found = opened.box.evaluate(MEASURE)
        assert found["beyond"] == []
        assert found["overlapping"] == 0
        assert found["enlarged"] <= 1.001
        assert found["contrast"] >= 4.5


# Which parts of an instrument stick out of the page, how many of its rows overlap, how
# far its picture is enlarged, and the contrast of its caption
MEASURE = """(box) => {
  const parts = "img, button, label, .slider, .widget-readout, "
    + ".widget-html-content > div";
  const image = box.querySelector("img");
  const page = document.querySelector(".jp-Notebook");
  function place(element) {
    return element.getBoundingClientRect();
  }
  function beyond() {
    const end = place(box).right + 1;
    const out = [...box.querySelectorAll(parts)].filter((part) =>
      place(part).right > end);
    const names = out.map((part) => part.outerHTML.slice(0, 80));
    if (box.scrollWidth > box.clientWidth + 1) {
      names.push("the page scrolls");
    }
    return names;
  }
  function overlapping() {
    const rows = [...box.querySelector(".widget-vbox").children].map(place);
    return rows.filter((row, i) => i && row.top < rows[i - 1].bottom - 1).length;
  }
  function linear(share) {
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  }
  function luminance(colour) {
    const channels = colour.match(/[\\d.]+/g).map((text) => Number(text) / 255);
    const [red, green, blue] = channels.map(linear);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  }
  function contrast() {
    const words = luminance(getComputedStyle(image.parentElement).color);
    const ground = luminance(getComputedStyle(page).backgroundColor);
    return (Math.max(words, ground) + 0.05) / (Math.min(words, ground) + 0.05);
  }
  return {
    beyond: beyond(),
    overlapping: overlapping(),
    enlarged: image.clientWidth / image.naturalWidth,
    contrast: contrast(),
  };
}"""


# ---- animations ----------------------------------------------------------------------


class Player:
    """One of the players on a page."""

    def __init__(self, element):
        self.element = element
        self.canvas = element.locator("canvas")
        self.image = element.locator("img")
        self.button = element.locator("button")
        self.slider = element.locator("input[type=range]")

    def frame(self) -> int:
        """The number of the frame that is shown, from 1."""
        words = self.element.locator("output").inner_text()
        return int(re.fullmatch(r"frame (\d+) of 12", words)[1])

    def drawn(self) -> str:
        return self.canvas.evaluate("canvas => canvas.toDataURL()")

    def moves(self) -> bool:
        """Whether another frame comes, with another picture, in two seconds."""
        frame = self.frame()
        picture = self.drawn()
        for _ in range(20):
            self.element.page.wait_for_timeout(100)
            if self.frame() != frame:
                return self.drawn() != picture
        return False


@pytest.fixture
def animation():
    """Twelve frames of noise that play in a second and a half."""
    return du.animate(torch.randn(12, 6, 3, 16, 16))


def players(page: Page) -> list[Player]:
    return [Player(element) for element in page.get_by_role("group").all()]


class TestPlayer:
    """The player on a page of its own."""

    def test_it_plays_and_after_a_while_begins_again(self, animation, new_page):
        page = new_page()
        page.set_content(animation.to_jshtml(fps=50))
        [player] = players(page)
        expect(player.canvas).to_be_visible()
        expect(player.image).to_be_hidden()
        page.wait_for_function("document.querySelector('input').value === '11'")
        page.wait_for_function("document.querySelector('input').value === '3'")
        assert player.moves()
        page.close()

    def test_several_on_a_page_are_moved_one_by_one(self, animation, new_page):
        """Also one that stands there twice, as in a second view of an output."""
        page = new_page()
        twice = animation.to_jshtml()
        page.set_content(animation.to_jshtml() + twice + twice)
        first, second, third = players(page)
        assert first.moves() and second.moves() and third.moves()
        second.button.click()
        assert first.moves() and not second.moves() and third.moves()
        assert not page.errors
        page.close()

    def test_the_slider_stops_it_and_shows_each_frame(self, animation, new_page):
        page = new_page()
        page.set_content(animation.to_jshtml())
        [player] = players(page)
        pictures = set()
        for i in range(12):
            player.slider.fill(str(i))
            assert player.frame() == i + 1
            pictures.add(player.drawn())
        assert len(pictures) == 12
        expect(player.button).to_have_text("Play")
        assert not player.moves()
        player.button.click()
        assert player.moves()
        page.close()

    def test_it_waits_where_little_motion_is_asked_for(self, animation, new_page):
        page = new_page(reduced_motion="reduce")
        page.set_content(animation.to_jshtml())
        [player] = players(page)
        expect(player.button).to_have_text("Play")
        assert not player.moves()
        page.close()

    def test_without_javascript_the_last_frame_is_shown(self, animation, new_page):
        page = new_page(java_script_enabled=False)
        page.set_content(animation.to_jshtml())
        [player] = players(page)
        expect(player.image).to_be_visible()
        expect(player.canvas).to_be_hidden()
        expect(player.button).to_be_hidden()
        page.close()

    def test_it_stops_when_it_is_removed_from_the_page(self, animation, new_page):
        page = new_page()
        page.set_content(animation.to_jshtml())
        [player] = players(page)
        assert player.moves()
        page.evaluate(
            "() => {"
            "  window.removed = document.querySelector('[role=group]');"
            "  removed.remove();"
            "}"
        )
        words = "removed.querySelector('button').textContent"
        page.wait_for_function(f"{words} === 'Play'")
        page.close()


def test_an_animation_is_worked_by_keyboard_in_jupyterlab(lab, new_page):
    """JupyterLab's own shortcuts do not take the keys away."""
    path = lab.write_notebook(
        "animation", SET_UP, "animate(torch.randn(12, 8, 3, 16, 16), zoom=5)"
    )
    page = new_page()
    open_notebook(page, lab, path)
    assert not errors(run_all(page, path))
    player = Player(page.locator(f"{CELL} [role=group]:has(canvas)").last)
    player.element.scroll_into_view_if_needed()
    expect(player.canvas).to_be_visible()
    assert player.canvas.get_attribute("aria-label")
    assert player.image.get_attribute("alt")
    assert player.moves()

    player.button.focus()
    page.keyboard.press("Space")
    expect(player.button).to_have_text("Play")
    assert not player.moves()
    page.keyboard.press("Tab")
    assert player.slider.evaluate("slider => slider === document.activeElement")
    page.keyboard.press("Home")
    assert player.frame() == 1
    first = player.drawn()
    page.keyboard.press("ArrowRight")
    assert player.frame() == 2
    assert player.drawn() != first

    for width in (1280, 800):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(500)
        screenshot(page, f"animation_{width}")
        found = player.canvas.evaluate(SHAPE)
        assert found["right"] <= found["edge"] + 1, f"cut off at {width} px"
        assert abs(found["squeezed"] - 1) < 0.05, f"squeezed at {width} px"
    assert not page.errors
    page.close()


# Where a canvas and its cell's output end, and how the canvas's shape has changed
SHAPE = """(canvas) => {
  const output = canvas.closest(".jp-OutputArea-output");
  const shown = canvas.clientWidth / canvas.clientHeight;
  return {
    right: canvas.getBoundingClientRect().right,
    edge: output.getBoundingClientRect().right,
    squeezed: shown / (canvas.width / canvas.height),
  };
}"""


# ---- saved lessons -------------------------------------------------------------------


def test_a_saved_lesson_shows_its_instrument_before_anything_is_run(lab, new_page):
    """As on the web: the notebook as it is in the repository, its kernel idle."""
    page = new_page()
    cells = nbformat.read(LESSONS["02"], as_version=4).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    [number] = [i for i, source in enumerate(sources) if "explore(" in source]
    open_notebook(page, lab, LESSONS["02"])
    expect(page.locator(CELL)).to_have_count(len(sources), timeout=2 * WAIT)
    cell = page.locator(CELL).nth(number)
    cell.evaluate("cell => cell.scrollIntoView({block: 'end'})")
    expect(cell.locator(".jp-OutputArea-output img")).to_have_count(1)
    page.close()
