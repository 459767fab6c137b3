"""What every notebook must be, as saved. (nbval executes them: see pyproject.toml. Their set-up cell elsewhere: test_colab.py.)"""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LIMIT = 1.2 * 2**20


def read(path):
    return nbformat.read(path, as_version=4)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def words_of(notebook):
    return "\n".join(
        cell.source for cell in notebook.cells if cell.cell_type == "markdown"
    )


def set_up_cell(path):
    return next(
        cell.source
        for cell in code_of(read(path))
        if "diffusion_utilities" in cell.source
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
        cells = [cell for cell in code_of(read(path)) if cell.source.strip()]
        assert [cell.execution_count for cell in cells] == list(
            range(1, len(cells) + 1)
        )
        outputs = [output for cell in cells for output in cell.outputs]
        assert not [output for output in outputs if output.output_type == "error"]
        texts = [json.dumps(output) for output in outputs]
        assert not [
            text
            for text in texts
            if re.search(r"(/home/|/root/|/tmp/|/Users/|/work/)", text)
        ]
        assert not [text for text in texts if re.search(r"\w+Warning:", text)]

    def test_widget_views_come_with_their_state(self, path):
        notebook = read(path)
        views = [
            output.data["application/vnd.jupyter.widget-view+json"]["model_id"]
            for cell in code_of(notebook)
            for output in cell.outputs
            if "application/vnd.jupyter.widget-view+json" in output.get("data", {})
        ]
        if views:
            state = notebook.metadata.widgets[
                "application/vnd.jupyter.widget-state+json"
            ]["state"]
            assert set(views) <= set(state)

    def test_six_checked_cells_and_three_exercises_with_solutions(self, path):
        notebook = read(path)
        checked = [
            cell for cell in code_of(notebook) if "NBVAL_CHECK_OUTPUT" in cell.source
        ]
        assert len(checked) >= 6
        assert all(
            output.output_type == "stream" or "text/plain" in output.data
            for cell in checked
            for output in cell.outputs
        )
        solutions = re.findall(r"<details>.*?</details>", words_of(notebook), re.S)
        assert len(solutions) >= 3
        for solution in solutions:
            for block in re.findall(r"```python\n(.*?)```", solution, re.S):
                ast.parse(block)

    def test_headed_timed_seeded_summarised_and_referenced(self, path):
        words, code = (
            words_of(read(path)),
            "\n".join(cell.source for cell in code_of(read(path))),
        )
        assert words.startswith("# Lesson ")
        assert re.search(r"(minute|second)s? .*on two", words) and "arXiv" in words
        assert re.search(r"^#+ (Summary|What you now know)", words, re.M)
        if re.search(r"torch\.rand|\.shuffle\(", code):
            assert "manual_seed" in code

    def test_its_set_up_cell_is_the_one_that_all_share(self, path):
        assert set_up_cell(path) == set_up_cell(NOTEBOOKS[0])


def test_nothing_but_loopback_can_be_reached_while_notebooks_run():
    """The kernels that nbval starts inherit this environment."""
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert result.returncode != 0 and "blocked" in result.stderr
