"""docs/TEACHING.md: its plans name sections and exercises that exist."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
TEACHING = (ROOT / "docs" / "TEACHING.md").read_text(encoding="utf8")
NOTEBOOKS = {
    int(path.name[:2]): path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}


def places_of_exercises(lesson: int) -> tuple[set[int], dict[str, int]]:
    """(a lesson's sections, {exercise: the section that it stands in})."""
    cells = nbformat.read(NOTEBOOKS[lesson], as_version=4).cells
    section = None
    sections = set()
    places = {}
    for cell in cells:
        for line in cell.source.splitlines():
            heading = re.match(r"## (\d+)\. ", line)
            exercise = re.match(r"(?:\*\*|### )Exercise (\d+\.\d+)", line)
            if heading and cell.cell_type == "markdown":
                section = int(heading[1])
                sections.add(section)
            if exercise:
                places[exercise[1]] = section
    return sections, places


def numbers(words: str) -> set[int]:
    """{2, 3, 4, 7} of "2 to 4 and 7"."""
    found = set()
    for first, last in re.findall(r"(\d+)(?: to (\d+))?", words):
        found.update(range(int(first), int(last or first) + 1))
    return found


def rows_of_plans() -> list[tuple[str, str]]:
    """(lesson and sections, exercises) of each row that names a lesson."""
    row = r"^\| \d+ \| (lesson [^|]*) \| ([^|]*)\|"
    return re.findall(row, TEACHING, re.M)


def test_there_are_three_plans():
    plans = re.findall(r"^## (Two hours|One day|A semester)$", TEACHING, re.M)
    assert plans == ["Two hours", "One day", "A semester"]
    assert len(rows_of_plans()) >= 10


@pytest.mark.parametrize("what, exercises", rows_of_plans())
def test_the_plans_name_sections_and_exercises_that_exist(what, exercises):
    lesson = int(re.match(r"lesson (\d+)", what)[1])
    named = numbers(what.partition("section")[2])
    sections, places = places_of_exercises(lesson)
    assert named <= sections
    for exercise in re.findall(r"\d+\.\d+", exercises):
        assert exercise in places
        assert not named or places[exercise] in named
