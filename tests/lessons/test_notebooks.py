"""What every lesson is as it is saved.

nbval executes the lessons: see pyproject.toml and conftest.py. Their set-up cell is run
elsewhere by test_colab.py.
"""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import diffusion_utilities

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LIMIT = 1.0 * 2**20
FOREIGN_PATH = r"(/home/|/root/|/tmp/|/Users/|/work/)"


def read(path):
    return nbformat.read(path, as_version=4)


def code_of(notebook):
    """The code cells that are not empty."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell for cell in cells if cell.source.strip()]


def outputs_of(notebook):
    return [output for cell in code_of(notebook) for output in cell.outputs]


def words_of(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    return "\n".join(cell.source for cell in cells)


def set_up_cell(path):
    sources = [cell.source for cell in code_of(read(path))]
    return next(source for source in sources if "diffusion_utilities" in source)


def syntax(source):
    """The syntax tree of a cell; lines for IPython alone are left out."""
    lines = source.splitlines()
    return ast.parse(
        "\n".join(line for line in lines if not line.startswith(("%", "!")))
    )


def test_the_five_lessons_are_there_in_order():
    assert [path.name[:2] for path in NOTEBOOKS[:5]] == ["01", "02", "03", "04", "05"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestSaved:
    def test_valid_small_and_with_a_kernel(self, path):
        nbformat.validate(read(path))
        assert path.stat().st_size <= LIMIT
        assert read(path).metadata.kernelspec.name == "python3"

    def test_executed_in_order_without_errors_warnings_or_absolute_paths(self, path):
        cells = code_of(read(path))
        counts = [cell.execution_count for cell in cells]
        assert counts == list(range(1, len(cells) + 1))
        for output in outputs_of(read(path)):
            assert output.output_type != "error"
            text = json.dumps(output)
            assert not re.search(FOREIGN_PATH, text)
            assert not re.search(r"\w+Warning:", text)

    def test_no_widget_is_saved(self, path):
        """If this fails: `python tests/tools/slim.py`."""
        notebook = read(path)
        assert "widgets" not in notebook.metadata
        for output in outputs_of(notebook):
            kinds = output.get("data", {})
            assert "application/vnd.jupyter.widget-view+json" not in kinds

    def test_what_nbval_compares_is_text(self, path):
        for cell in code_of(read(path)):
            if "NBVAL_CHECK_OUTPUT" in cell.source:
                for output in cell.outputs:
                    is_stream = output.output_type == "stream"
                    assert is_stream or "text/plain" in output.data

    def test_the_code_of_solutions_parses(self, path):
        folded = r"<details>.*?</details>"
        solutions = re.findall(folded, words_of(read(path)), re.DOTALL)
        assert solutions
        for solution in solutions:
            for block in re.findall(r"```python\n(.*?)```", solution, re.DOTALL):
                ast.parse(block)

    def test_its_set_up_cell_is_the_one_that_all_share(self, path):
        assert set_up_cell(path) == set_up_cell(NOTEBOOKS[0])

    def test_every_listing_is_the_present_source(self, path):
        """If this fails: execute the lesson again."""
        names = names_in(read(path))
        for cell in code_of(read(path)):
            saved = listings_in(cell)
            shown = [eval(call, names).data for call in calls_of_show_source(cell)]
            assert saved == shown
            for listing in saved:
                ast.parse(listing.removeprefix("```python\n").removesuffix("\n```"))


def listings_in(cell):
    """The listings among a cell's outputs, as Markdown."""
    texts = [output.get("data", {}).get("text/markdown") for output in cell.outputs]
    return [text for text in texts if text and "```python" in text]


def calls_of_show_source(cell):
    """The calls of show_source in a cell, as text, from top to bottom."""
    nodes = [
        node for node in ast.walk(syntax(cell.source)) if isinstance(node, ast.Call)
    ]
    calls = [node for node in nodes if ast.unparse(node.func) == "show_source"]
    calls.sort(key=lambda node: node.lineno)
    return [ast.unparse(node) for node in calls]


def names_in(notebook):
    """The names that a lesson has from the helper, and those that it imports."""
    names = dict(vars(diffusion_utilities))
    cells = code_of(notebook)
    if any(calls_of_show_source(cell) for cell in cells):
        statements = [one for cell in cells for one in syntax(cell.source).body]
        for statement in statements:
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                exec(ast.unparse(statement), names)
    return names


def test_nothing_but_loopback_can_be_reached_while_notebooks_run():
    """The kernels that nbval starts inherit this environment."""
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert result.returncode != 0
    assert "blocked" in result.stderr
