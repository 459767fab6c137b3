"""The README: its pictures, commands, map of lessons and plans, and what to cite."""

import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from exercises import answer_to
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf8")
PICTURES = ROOT / "weights" / "pictures"
NOTEBOOKS = {
    int(path.name[:2]): path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}


def prose(lesson: int) -> list[str]:
    """The lines of a lesson's markdown cells."""
    cells = nbformat.read(NOTEBOOKS[lesson], as_version=4).cells
    markdown = [cell.source for cell in cells if cell.cell_type == "markdown"]
    return "\n".join(markdown).splitlines()


# ---- Pictures ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def still() -> np.ndarray:
    """The picture for people who do not want motion."""
    return np.asarray(Image.open(PICTURES / "front.png").convert("RGB"))


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    """The frames of the moving picture, after the one for viewers that play nothing."""
    found = []
    with Image.open(PICTURES / "drawing.png") as moving:
        for i in range(1, moving.n_frames):
            moving.seek(i)
            found.append(np.asarray(moving.convert("RGB")))
    return found


def test_the_moving_picture_is_the_still_one_where_nothing_is_played(still):
    with Image.open(PICTURES / "drawing.png") as moving:
        assert np.array_equal(np.asarray(moving.convert("RGB")), still)


def test_the_moving_picture_repeats_and_waits_at_its_end():
    with Image.open(PICTURES / "drawing.png") as moving:
        assert moving.info["loop"] == 0
        moving.seek(moving.n_frames - 1)
        assert moving.info["duration"] >= 2000  # milliseconds


def test_the_moving_picture_goes_from_noise_to_the_sprites(frames, still):
    assert len(frames) >= 10
    assert np.array_equal(frames[-1], still)
    assert frames[0].std() > 60
    assert (frames[0] == 255).mean() < (still == 255).mean()


def test_no_sprite_of_the_moving_picture_is_blurred(frames):
    """Each of its pixels is a square of 3x3 equal pixels.

    GitHub would scale a picture that is wider than 838 pixels.
    """
    for frame in frames:
        sharp = frame[1::3, 1::3].repeat(3, 0).repeat(3, 1)
        assert np.array_equal(frame, sharp)
        assert frame.shape[1] <= 838


def test_the_moving_picture_is_a_small_file():
    assert (PICTURES / "drawing.png").stat().st_size <= 250 * 1024


def test_pictures_have_words_and_are_there():
    tags = re.findall(r"<img [^>]*>", README)
    assert len(tags) >= 5
    for tag in tags:
        source = re.search(r'src="([^"]+)"', tag)[1]
        words = re.search(r'alt="([^"]*)"', tag)[1]
        assert (ROOT / source).exists(), tag
        assert len(words) > 20, tag
    for source in re.findall(r'srcset="([^"]+)"', README):
        assert (ROOT / source).exists(), source


# ---- Commands ------------------------------------------------------------------------


def test_the_readme_opens_with_two_commands():
    first, second = re.findall(r"```bash\n(.*?)\n```", README, re.S)
    for command in (first, second):
        assert command.startswith("python3 -m venv .venv && ")
        assert "\n" not in command
    assert "jupyter lab notebooks/01_" in first
    assert second.endswith("pytest")


def test_no_placeholder_is_left():
    assert not re.search(r"\{[A-Z_]+\}", README)


# ---- The map and the plans -----------------------------------------------------------


def seconds_on_the_map() -> dict[int, int]:
    """{lesson: its seconds} in the README's map of lessons."""
    rows = re.findall(r"^\| \[(\d+)\. [^\n]*?\| (\d+) s\*? \|", README, re.M)
    return {int(lesson): int(seconds) for lesson, seconds in rows}


def test_the_map_has_every_lesson_in_order():
    assert list(seconds_on_the_map()) == list(NOTEBOOKS)
    links = re.findall(r"^\| \[[^\]]+\]\((notebooks/[^)]+)\)", README, re.M)
    assert links == [f"notebooks/{path.name}" for path in NOTEBOOKS.values()]


def sections_with_an_instrument(lesson: int) -> list[int]:
    section = None
    found = []
    for line in prose(lesson):
        heading = re.match(r"## (\d+)\. ", line)
        if heading:
            section = int(heading[1])
        if line.startswith("### An instrument"):
            found.append(section)
    return found


def test_the_instruments_are_where_the_readme_says():
    sentence = re.search(r"under a second: in lessons (.*?)\.", README)[1]
    listed = re.findall(r"(\d+) \((?:section )?(\d+)\)", sentence)
    found = []
    for lesson in NOTEBOOKS:
        for section in sections_with_an_instrument(lesson):
            found.append((str(lesson), str(section)))
    assert listed == found


def numbers(words: str) -> set[int]:
    """{2, 3, 4, 7} of "2 to 4 and 7"."""
    found = set()
    for first, last in re.findall(r"(\d+)(?: to (\d+))?", words):
        found.update(range(int(first), int(last or first) + 1))
    return found


def sections_of(lesson: int) -> set[int]:
    headings = [re.match(r"## (\d+)\. ", line) for line in prose(lesson)]
    return {int(heading[1]) for heading in headings if heading}


def places_of_exercises(lesson: int) -> dict[str, int]:
    """{exercise: the section that it stands in}."""
    section = None
    places = {}
    for line in prose(lesson):
        heading = re.match(r"## (\d+)\. ", line)
        exercise = re.match(r"### Exercise (\d+\.\d+)", line)
        if heading:
            section = int(heading[1])
        if exercise:
            places[exercise[1]] = section
    return places


def rows_of_plans() -> list[tuple[str, str, str]]:
    """(lesson and sections, seconds, exercises) of each row that names a lesson."""
    teaching = README[README.index("## Teaching") :]
    row = r"^\| \d+ \| (lesson [^|]*) \| ([^|]*) \| ([^|]*)\|"
    return re.findall(row, teaching, re.M)


def test_there_are_two_plans():
    plans = re.findall(r"^\*\*([\w ]+)\*\*, ", README, re.M)
    assert plans == ["Two hours", "One day"]
    assert len(rows_of_plans()) >= 10


@pytest.mark.parametrize("what, seconds, exercises", rows_of_plans())
def test_the_plans_name_sections_and_exercises_that_exist(what, seconds, exercises):
    lesson = int(re.match(r"lesson (\d+)", what)[1])
    named = numbers(what.partition("section")[2])
    places = places_of_exercises(lesson)
    assert named <= sections_of(lesson)
    for exercise in re.findall(r"\d+\.\d+", exercises):
        assert exercise in places
        assert not named or places[exercise] in named
    assert seconds == f"{seconds_on_the_map()[lesson]} s"


def test_what_the_readme_quotes_is_what_the_check_says():
    def my_perturb_input(x, t, noise, schedule):
        ab = schedule.ab[t].float().view(-1, 1, 1, 1)
        return ab.sqrt() * x + (1 - ab) * noise

    answer = answer_to("2.2", my_perturb_input)
    assert f"Exercise 2.2: {answer}\n" in README


# ---- What to cite, and the licence ---------------------------------------------------


def test_licence_citation_and_readme_agree():
    licence = (ROOT / "LICENSE").read_text(encoding="utf8")
    assert licence.startswith("MIT License")
    assert "[MIT](LICENSE)" in README
    year, holder = re.search(r"Copyright \(c\) (\d{4}) (.+)", licence).groups()

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf8"))
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}
    assert citation["license"] == "MIT"
    assert citation["authors"] == [{"name": holder}]

    title = citation["title"]
    assert f"# {title}\n" in README
    assert f"title = {{{title}}}" in README
    assert f"year = {{{year}}}" in README
    assert f"author = {{{{{holder}}}}}" in README
