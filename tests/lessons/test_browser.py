"""The course in JupyterLab, in a real browser, worked by keyboard alone: `pytest -m browser`. It needs Debian's chromium.

BROWSER_PICTURES=folder keeps screenshots of every instrument, at two widths in both themes, for you to look at."""

import os
import re
from pathlib import Path

import pytest
from browser import (
    CELL,
    FLAGS,
    NOTEBOOKS,
    Lab,
    cells_that_call,
    choose,
    chromium,
    errors,
    needed_for,
    open_notebook,
    run_all,
)
from playwright.sync_api import Page, expect, sync_playwright

pytestmark = pytest.mark.browser
WHOLE = next(
    path for path in NOTEBOOKS if path.stem.startswith("02")
)  # the lesson that is run from top to bottom
INSTRUMENTS = [
    (path, None if path == WHOLE else i) for path, i in cells_that_call("explore")
]
WAIT = 30_000  # ms, on a slow and busy machine; an instrument that draws in a second is done long before
expect.set_options(timeout=WAIT)


@pytest.fixture(scope="module")
def browser():
    if not (path := chromium()):
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(
            "no chromium here: apt-get install chromium"
        )
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

    def new(width: int = 1280) -> Page:
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(WAIT)
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        return page

    return new


class Opened:
    """A lesson that has been run in JupyterLab, and its instrument."""

    def __init__(self, page: Page, lab: Lab, path: Path, cell: int | None):
        self.page, self.name = (
            page,
            path.stem[:2] if cell is None else f"{path.stem[:2]}_{cell}",
        )
        copy = lab.write(path, None if cell is None else needed_for(path, cell))
        open_notebook(page, lab, copy)
        self.cells = run_all(page, copy)
        assert not errors(self.cells)
        self.cell = page.locator(CELL, has=page.locator(".widget-vbox img")).last
        self.box = self.cell.locator(".jp-OutputArea-output:has(.widget-vbox)")
        self.image = self.box.locator("img")

    def see(self) -> None:
        self.box.scroll_into_view_if_needed()
        self.page.wait_for_timeout(
            300
        )  # cells above are laid out only when they come near

    def picture(self) -> str:
        return self.image.get_attribute("src")

    def knobs(self):
        """What can be turned: the handle of each slider, each box, the next button of each row that is not pressed."""
        sliders, boxes = (
            self.box.locator(".widget-slider .noUi-handle").all(),
            self.box.locator("input[type=checkbox]").all(),
        )
        buttons = [
            row.locator("button:not(.mod-active)").first
            for row in self.box.locator(".widget-toggle-buttons").all()
        ]
        return (
            [(knob, "slider") for knob in sliders]
            + [(knob, "box") for knob in boxes]
            + [(knob, "buttons") for knob in buttons]
        )

    def reach(self, knob) -> None:
        """Go from the notebook's cell to a knob by the Tab key."""
        target = knob.element_handle()
        self.cell.focus()
        for _ in range(40):
            self.page.keyboard.press("Tab")
            if target.evaluate("knob => knob === document.activeElement"):
                return
        raise AssertionError(f"Tab does not reach {knob}")

    def settled(self) -> str:
        """The picture, once nothing changes it any more."""
        before = None
        for _ in range(100):
            self.page.wait_for_timeout(500)
            if self.page.get_by_text("| Idle").count() and self.picture() == before:
                return before
            before = self.picture()
        raise AssertionError("the picture never comes to rest")


@pytest.fixture(
    scope="module", params=INSTRUMENTS, ids=lambda one: f"lesson {int(one[0].stem[:2])}"
)
def opened(request, lab, new_page):
    opened = Opened(new_page(), lab, *request.param)
    yield opened
    opened.page.close()


class TestInstruments:
    def test_it_runs_without_an_error_and_saves_a_picture_beside_its_knobs(
        self, opened
    ):
        expect(opened.image).to_have_count(1)
        outputs = [
            output.get("data", {}) for cell in opened.cells for output in cell.outputs
        ]
        views = [
            data
            for data in outputs
            if "application/vnd.jupyter.widget-view+json" in data
        ]
        assert views and all(
            len(data["image/png"]) > 1000 and data["text/plain"] for data in views
        )
        assert not opened.page.errors

    def test_each_knob_changes_the_picture_by_keyboard_alone(self, opened):
        opened.see()
        assert opened.knobs()
        for knob, kind in opened.knobs():
            before = opened.settled()
            opened.reach(knob)
            right = kind == "slider" and knob.get_attribute(
                "aria-valuenow"
            ) != knob.get_attribute("aria-valuemax")
            opened.page.keyboard.press(
                {
                    "slider": "ArrowRight" if right else "ArrowLeft",
                    "box": "Space",
                    "buttons": "Enter",
                }[kind]
            )
            expect(opened.image).not_to_have_attribute("src", before)
            assert opened.image.get_attribute("alt")

    def test_turned_fast_it_keeps_one_picture_that_of_its_last_setting(self, opened):
        slider, buttons = (
            opened.box.locator(".widget-slider .noUi-handle"),
            opened.box.locator(".widget-toggle-buttons").first.locator("button"),
        )
        if slider.count():
            opened.reach(slider.first)
            opened.page.keyboard.press("Home")
            opened.settled()
            away, back, turn = "ArrowLeft", "ArrowRight", ["ArrowRight"] * 10
            if int(float(slider.first.get_attribute("aria-valuemax"))) > 10:
                away, back = "ArrowRight", "ArrowLeft"
        else:  # a row of buttons: each in turn, and the last but one to come away from the last
            opened.reach(buttons.first)
            turn = ["Tab", "Enter"] * (buttons.count() - 1)
            away, back = "Shift+Tab Enter", "Tab Enter"
        for key in turn:
            opened.page.keyboard.press(key)
        fast = opened.settled()
        expect(opened.image).to_have_count(1)
        expect(opened.cell.locator(".jp-OutputArea-output")).to_have_count(1)
        pictures = []
        for keys in (away, back):
            for key in keys.split():
                opened.page.keyboard.press(key)
            pictures.append(opened.settled())
        assert pictures[1] == fast != pictures[0]

    @pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
    @pytest.mark.parametrize("width", [1280, 800])
    def test_nothing_is_cut_off_or_overlaps_and_its_words_can_be_read(
        self, opened, width, theme
    ):
        page = opened.page
        page.set_viewport_size({"width": width, "height": 900})
        if page.locator("body").get_attribute("data-jp-theme-name") != theme:
            choose(page, "Settings", "Theme", theme)
            expect(page.locator("body")).to_have_attribute("data-jp-theme-name", theme)
        opened.see()
        page.wait_for_timeout(500)
        if folder := os.environ.get("BROWSER_PICTURES"):
            page.screenshot(
                path=Path(folder)
                / f"{opened.name}_{width}_{theme.split()[1].lower()}.png"
            )
        found = opened.box.evaluate(MEASURE)
        assert found["beyond"] == [] and found["overlapping"] == 0
        assert found["enlarged"] <= 1.001 and found["contrast"] >= 4.5


# Which of an instrument's parts stick out of the page, how many of its rows overlap, how far its picture is enlarged, the contrast of its caption.
MEASURE = """box => {
  const end = box.getBoundingClientRect().right + 1, seen = "img, button, label, .slider, .widget-readout, .widget-html-content > div";
  const parts = [...box.querySelectorAll(seen)];
  const beyond = parts.filter(part => part.getBoundingClientRect().right > end).map(part => part.outerHTML.slice(0, 80));
  const rows = [...box.querySelector(".widget-vbox").children].map(row => row.getBoundingClientRect());
  const overlapping = rows.filter((row, i) => i && row.top < rows[i - 1].bottom - 1).length;
  if (box.scrollWidth > box.clientWidth + 1) beyond.push(`scrolls by ${box.scrollWidth - box.clientWidth}`);
  const image = box.querySelector("img"), luminance = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const words = luminance(getComputedStyle(image.parentElement).color);
  const ground = luminance(getComputedStyle(document.querySelector(".jp-Notebook")).backgroundColor);
  const contrast = (Math.max(words, ground) + 0.05) / (Math.min(words, ground) + 0.05);
  return {beyond, overlapping, enlarged: image.clientWidth / image.naturalWidth, contrast}; }"""


def test_an_animation_plays_stops_and_is_moved_by_keyboard(lab, new_page):
    path, cell = next(
        (path, i) for path, i in cells_that_call("animate") if path == WHOLE
    )
    copy = lab.write(path, needed_for(path, cell))
    page = new_page()
    open_notebook(page, lab, copy)
    assert not errors(run_all(page, copy))
    player = page.locator(f"{CELL} [role=group]:has(canvas)").last
    canvas, button, slider = (
        player.locator("canvas"),
        player.locator("button"),
        player.locator("input[type=range]"),
    )
    player.scroll_into_view_if_needed()
    expect(canvas).to_be_visible()
    assert canvas.get_attribute("aria-label") and player.locator("img").get_attribute(
        "alt"
    )

    def frame() -> tuple[int, str]:
        shown = re.fullmatch(
            r"frame (\d+) of \d+", player.locator("output").inner_text()
        )
        return int(shown[1]), canvas.evaluate("canvas => canvas.toDataURL()")

    seen = set()
    for _ in range(30):
        seen.add(frame())
        page.wait_for_timeout(100)
    assert len({picture for _, picture in seen}) >= 3  # it plays
    button.focus()
    page.keyboard.press("Space")
    expect(button).to_have_text("Play")
    stopped = frame()
    page.wait_for_timeout(1000)
    assert frame() == stopped
    page.keyboard.press("Tab")
    assert slider.evaluate("slider => slider === document.activeElement")
    page.keyboard.press("Home")
    first = frame()
    page.keyboard.press("ArrowRight")
    second = frame()
    assert (first[0], second[0]) == (1, 2) and first[1] != second[1]
    for width in (1280, 800):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(500)
        if folder := os.environ.get("BROWSER_PICTURES"):
            page.screenshot(path=Path(folder) / f"animation_{width}.png")
        right, edge, shape, drawn = canvas.evaluate("""canvas => {
            const page = canvas.closest(".jp-OutputArea-output"), rights = [canvas, page].map(part => part.getBoundingClientRect().right);
            return [...rights, canvas.clientWidth / canvas.clientHeight, canvas.width / canvas.height]; }""")
        assert right <= edge + 1 and abs(shape / drawn - 1) < 0.05, (
            f"cut off or squeezed at {width} px"
        )
    assert not page.errors
    page.close()


def test_a_saved_lesson_shows_pictures_before_anything_is_run(lab, new_page):
    """As on the web: the notebook as it is in the repository, its kernel idle."""
    page = new_page()
    open_notebook(page, lab, WHOLE)
    cell = page.locator(CELL, has_text="explore(").last
    cell.wait_for(state="attached", timeout=60_000)
    cell.evaluate("cell => cell.scrollIntoView({block: 'end'})")
    expect(cell.locator(".jp-OutputArea-output img")).to_have_count(1)
    page.close()
