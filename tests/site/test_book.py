"""The book as it is built: its pages, links, pictures, and what moves in them."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
LESSONS = [f"notebooks/{path.stem}.html" for path in NOTEBOOKS]
OTHERS = (
    "index.html",
    "run.html",
    "GLOSSARY.html",
    "TEACHING.html",
    "data/README.html",
    "weights/README.html",
)
pytestmark = pytest.mark.browser


# ---- Pages as files ------------------------------------------------------------------


class Page(HTMLParser):
    """What a page links and shows; the names of its places."""

    def __init__(self, path: Path):
        super().__init__()
        self.links = []
        self.loaded = []
        self.pictures = []
        self.names = set()
        self.feed(path.read_text(encoding="utf8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.names.update(found[key] for key in ("id", "name") if found.get(key))
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag == "link" and found.get("rel") in ("stylesheet", "preload", "icon"):
            self.loaded.append(found["href"])
        if found.get("src"):
            self.loaded.append(found["src"])
        if tag == "img":
            self.pictures.append(found)


@pytest.fixture(scope="module")
def pages(book) -> dict[Path, Page]:
    """Every page of the book."""
    paths = [path.resolve() for path in book.rglob("*.html")]
    return {path: Page(path) for path in paths if "_static" not in path.parts}


def is_elsewhere(link: str) -> bool:
    return link.startswith(("http:", "https:", "mailto:", "data:", "javascript:"))


def test_every_lesson_has_a_page_in_the_order_of_the_map(book, pages):
    index = pages[(book / "index.html").resolve()]
    listed = [link for link in dict.fromkeys(index.links) if link in LESSONS]
    assert listed == LESSONS
    for name in OTHERS:
        assert (book / name).exists()


def test_the_lessons_stand_in_four_parts(book):
    text = (book / "index.html").read_text(encoding="utf8")
    parts = re.findall(r'class="caption-text">(\w+)\. ', text)
    assert parts == ["I", "II", "III", "IV"]


def is_broken(link: str, path: Path, pages: dict[Path, Page]) -> bool:
    """Whether a page's link leads to no file of the book, or to no place on a page."""
    target, place = urldefrag(link)
    target = unquote(target.partition("?")[0])
    file = (path.parent / target).resolve() if target else path
    if not file.exists():
        return True
    return bool(place) and file in pages and unquote(place) not in pages[file].names


def test_no_link_is_broken(pages):
    broken = []
    for path, page in pages.items():
        for link in page.links + page.loaded:
            if not is_elsewhere(link) and is_broken(link, path, pages):
                broken.append(f"{path.name}: {link}")
    assert not broken


def test_nothing_is_loaded_from_elsewhere(pages):
    for path, page in pages.items():
        for link in page.loaded:
            assert link.startswith("data:") or not is_elsewhere(link), path


def test_every_picture_has_words(pages):
    """Those of lessons that are not rewritten yet are named in docs/conf.py."""
    settings = (ROOT / "docs" / "conf.py").read_text(encoding="utf8")
    waiting = re.findall(r'"notebooks/(\w+)"', settings)
    for path, page in pages.items():
        if path.stem in waiting:
            continue
        for picture in page.pictures:
            assert picture.get("alt"), f"{path.name}: {picture.get('src', '')[:80]}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_hidden_code_is_folded_under_its_title(book, path):
    cells = json.loads(path.read_text(encoding="utf8"))["cells"]
    hidden = [c for c in cells if "hide-input" in c["metadata"].get("tags", ())]
    page = (book / "notebooks" / f"{path.stem}.html").read_text(encoding="utf8")
    folded = re.findall(
        r'<details class="[^"]*hide[^"]*above-input[^"]*"( open)?', page
    )
    assert len(folded) == len(hidden)
    assert not any(folded)
    if hidden and "".join(hidden[0]["source"]).startswith("# @title Set-up"):
        assert "Set-up: find the course" in page.split("<pre>")[0]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_instrument_says_where_it_can_be_turned(book, path):
    cells = json.loads(path.read_text(encoding="utf8"))["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    instruments = sum("explore(" in source for source in code)
    page = (book / "notebooks" / f"{path.stem}.html").read_text(encoding="utf8")
    assert len(re.findall(r"run this lesson", page)) == instruments


def test_what_a_killed_export_left_is_not_published(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.syspath_prepend(ROOT / "docs")
    import export

    (tmp_path / "strong.onnx.0123abcd.tmp").write_bytes(b"half a network")
    export.export(out=tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"strong.onnx", "student.onnx", "settings.json"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_download_button_gives_the_lesson_itself(book, pages, path):
    page = book / "notebooks" / f"{path.stem}.html"
    [link] = {link for link in pages[page.resolve()].links if link.endswith(".ipynb")}
    assert (page.parent / link).read_bytes() == path.read_bytes()


# ---- Pages in a browser --------------------------------------------------------------


@pytest.mark.parametrize("width", [390, 800, 1280])
@pytest.mark.parametrize("name", [*LESSONS, *OTHERS])
def test_no_page_is_wider_than_the_window(new_page, name, width):
    page = new_page(name, viewport={"width": width, "height": 844})
    page.wait_for_load_state()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


CUT_OFF = """async () => {
  await window.MathJax?.startup.promise;
  const [tables, formulas] = [".pst-scrollable-table-container", "[display=true]"];
  const wide = [...document.querySelectorAll(`${tables}, ${formulas}`)];
  const cut = wide.filter((it) => it.scrollWidth > it.clientWidth + 1);
  return cut.map((it) => it.textContent.trim().slice(0, 60));
}"""


@pytest.mark.parametrize("name", [*LESSONS, *OTHERS])
def test_a_laptop_shows_tables_and_formulas_whole(new_page, name):
    page = new_page(name)
    page.wait_for_load_state()
    assert page.evaluate(CUT_OFF) == []


def test_formulas_are_set_without_another_host(new_page):
    page = new_page(LESSONS[1])
    page.wait_for_selector("mjx-container svg")
    assert len(page.hosts) == 1
    assert not page.errors


@pytest.mark.parametrize("scheme, ground", [("light", 255), ("dark", 0)])
def test_light_and_dark(new_page, scheme, ground):
    page = new_page(LESSONS[1], color_scheme=scheme)
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    levels = [int(level) for level in re.findall(r"\d+", colour)[:3]]
    assert all(abs(level - ground) < 60 for level in levels)
    words = page.evaluate("getComputedStyle(document.body).color")
    levels = [int(level) for level in re.findall(r"\d+", words)[:3]]
    assert all(abs(level - ground) > 150 for level in levels)


def test_animations_play(new_page):
    page = new_page(f"{LESSONS[3]}")
    player = page.locator("[role=group]:has(canvas)").first
    player.scroll_into_view_if_needed()
    slider = player.locator("input[type=range]")
    frame = slider.input_value()
    page.wait_for_function(
        "([slider, frame]) => slider.value !== frame",
        arg=[slider.element_handle(), frame],
    )
    assert not page.errors


def test_the_search_finds_a_word_offline(new_page):
    page = new_page("search.html?q=guidance")
    page.locator("#search-results a", has_text="Lesson 6").first.wait_for()
    page.get_by_text("pages matching the search query").wait_for()
    diary = page.locator("#search-results a", has_text="Lab diary")
    assert diary.count() == 0  # it has the word, too
    assert not page.errors
    assert len(page.hosts) == 1
