"""Instruments of the lessons, and what turns their knobs after a lesson's last cell."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from every_knob import turn_every_knob
from PIL import Image

import diffusion_utilities as du

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COLOURS = np.random.default_rng(0).integers(0, 255, (9, 9, 3), dtype=np.uint8)
LESSONS = [path for path in NOTEBOOKS if "explore(" in path.read_text(encoding="utf8")]


def test_the_lessons_that_the_design_names_have_one():
    lessons = {path.stem[:2] for path in LESSONS}
    assert lessons >= {"01", "02", "03", "04", "05", "06", "12"}


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_its_saved_picture_has_alternative_text(path):
    cells = nbformat.read(path, as_version=4).cells
    cells = [cell for cell in cells if cell.cell_type == "code"]
    [cell] = [cell for cell in cells if "explore(" in cell.source]
    [shown] = [output for output in cell.outputs if "data" in output]
    assert "image/png" in shown.data
    assert shown.metadata["image/png"]["alt"] == shown.data["text/plain"]


# ---- what turns the knobs ------------------------------------------------------------


def squares(n, root=False):
    """A picture of n times 9 pixels, and what it is."""
    return Image.fromarray(COLOURS.repeat(n, axis=1)), f"{n}, {root}"


def instrument(draw):
    return du.explore(draw, "squares", n=(1, 2), root=(False, True))


def test_each_option_of_each_knob_is_chosen():
    seen = []

    def draw(n, root):
        seen.append((n, root))
        return squares(n, root)

    turn_every_knob([instrument(draw)])
    assert {n for n, _ in seen} == {1, 2}
    assert {root for _, root in seen} == {False, True}


def test_an_option_that_gives_an_error_is_found():
    def draw(n, root):
        return squares(n) if n == 1 else squares(n / 0)

    with pytest.raises(ZeroDivisionError):
        turn_every_knob([instrument(draw)])


@pytest.mark.parametrize(
    "drawn, words",
    [
        (Image.fromarray(COLOURS), "no words at n = 2"),
        ((Image.new("RGB", (9, 9)), "black"), "empty at n = 2"),
        ((Image.fromarray(COLOURS.repeat(200, axis=1)), "wide"), "too wide at n = 2"),
    ],
)
def test_an_option_that_shows_nothing_fit_for_a_page_is_named(drawn, words):
    def draw(n, root):
        return squares(n, root) if n == 1 else drawn

    with pytest.raises(AssertionError, match=words):
        turn_every_knob([instrument(draw)])


def test_an_instrument_that_a_later_cell_changed_is_found():
    def draw(n, root):
        return squares(n * size, root)

    size = 1
    made = instrument(draw)
    size = 2
    with pytest.raises(AssertionError, match="a later cell changed it"):
        turn_every_knob([made])


def test_a_lesson_without_its_instrument_is_found():
    with pytest.raises(AssertionError, match="there is no instrument"):
        turn_every_knob([])


@pytest.mark.slow
def test_nbval_turns_every_knob_after_the_last_cell(tmp_path):
    """An instrument that works in its cell, and no longer when all cells have run."""
    cells = [
        "from diffusion_utilities import *\nx = torch.randn(8, 3, 8, 8)\nsize = 2",
        'def draw(n):\n    return show_images(x[:n], zoom=size), f"{n}"',
        'explore(draw, "noise", n=(1, 8))',
        'size = "a name that is used again"',
    ]
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in cells]
    nbformat.write(notebook, tmp_path / "lesson.ipynb")
    options = ["--nbval-lax", "--nbval-current-env", "-p", "conftest", "-q"]
    paths = [str(ROOT), str(ROOT / "tests"), os.environ["PYTHONPATH"]]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "lesson.ipynb"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        encoding="utf8",
    )
    assert "1 failed, 4 passed" in result.stdout, result.stdout + result.stderr
    assert "lesson.ipynb::every knob" in result.stdout
    assert "zoom='a name that is used again'" in result.stdout
