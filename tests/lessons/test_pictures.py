"""A lesson's pictures are in its notebook and on the page that nbconvert makes."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Methods of plt that begin a figure, and functions whose result is a picture
FIGURES = {"figure", "subplots", "subplot_mosaic"}
PICTURES = {"animate", "explore", "filmstrip", "show_images"}
EMBEDDED = re.compile(r'<img[^>]*\ssrc="data:image/')


def code_of(path):
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures_of(cell):
    """How many pictures a cell's outputs hold: their own, and those in HTML."""
    count = 0
    for output in cell.outputs:
        data = output.get("data", {})
        kinds = [kind for kind in data if kind.startswith("image/")]
        count += len(kinds)
        count += len(EMBEDDED.findall(data.get("text/html", "")))
    return count


def draws(source):
    """Whether a cell begins a figure, or ends with a function that draws."""
    lines = source.splitlines()
    code = "\n".join(line for line in lines if not line.startswith(("%", "!")))
    statements = ast.parse(code).body
    for statement in statements:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            continue
        names = {ast.unparse(node) for node in ast.walk(statement) if is_name(node)}
        if names & {f"plt.{name}" for name in FIGURES}:
            return True
    last = statements[-1] if statements else None
    if isinstance(last, ast.Expr) and isinstance(last.value, ast.Call):
        return ast.unparse(last.value.func) in PICTURES
    return False


def is_name(node):
    return isinstance(node, (ast.Name, ast.Attribute))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_that_draws_has_saved_a_picture(path):
    drawing = [cell for cell in code_of(path) if draws(cell.source)]
    assert drawing
    for cell in drawing:
        assert pictures_of(cell), cell.source


@pytest.mark.slow  # together; a page takes two seconds
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nbconvert_shows_every_picture(path):
    """Those of instruments and the last frames of animations included."""
    expected = sum(pictures_of(cell) for cell in code_of(path))
    page, _ = HTMLExporter().from_filename(str(path))
    assert len(EMBEDDED.findall(page)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("backend", [None, "Agg", "svg"])
def test_a_figure_is_shown_whatever_the_backend(backend, monkeypatch):
    """Without set_up() Agg draws the figure and shows nothing."""
    if backend:
        monkeypatch.setenv("MPLBACKEND", backend)
    else:
        monkeypatch.delenv("MPLBACKEND", raising=False)
    cells = ["from diffusion_utilities import *\nset_up()", "plt.plot([1, 2]);"]
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in cells]
    folder = {"metadata": {"path": str(ROOT)}}
    NotebookClient(notebook, kernel_name="python3", resources=folder).execute()
    assert [pictures_of(cell) for cell in notebook.cells] == [0, 1]
