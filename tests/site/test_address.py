"""The address of a copy of this course: tests/tools/set_address.py."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ADDRESS = "https://github.com/you/course"
NO_ADDRESSES = [
    "github.com/you/course",
    "https://github.com/you",
    'https://a.b/c"d',
    "https://github.com/you/course/tree/main",
    "../course",
]


class Copy:
    """A copy of the files that hold the address."""

    def __init__(self, folder: Path):
        self.folder = folder
        others = ("pyproject.toml", "README.md", "CITATION.cff")
        program = ROOT / "tests" / "tools" / "set_address.py"
        for file in (*NOTEBOOKS, *(ROOT / name for name in others), program):
            target = folder / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)

    def set_address(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run the program there."""
        return subprocess.run(
            [sys.executable, "tests/tools/set_address.py", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
        )

    def contents(self) -> dict[str, bytes]:
        """Each file's name and content."""
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }

    def text(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf8")


@pytest.fixture
def copy(tmp_path) -> Copy:
    """A copy without an address."""
    copy = Copy(tmp_path)
    assert copy.set_address("").returncode == 0
    return copy


def test_every_file_has_the_address_of_pyproject(tmp_path):
    """If this fails, run `python tests/tools/set_address.py`."""
    copy = Copy(tmp_path)
    result = copy.set_address()
    assert result.stdout.startswith("0 of"), result.stdout + result.stderr


def test_an_address_goes_to_pyproject_readme_and_citation(copy):
    assert copy.set_address(f"{ADDRESS}.git/").returncode == 0
    assert f'repository = "{ADDRESS}"\n' in copy.text("pyproject.toml")
    assert " It is at <https://you.github.io/course/>.\n" in copy.text("README.md")
    citation = yaml.safe_load(copy.text("CITATION.cff"))
    assert citation["repository-code"] == ADDRESS


def test_each_lesson_gets_a_badge_in_the_readme(copy):
    copy.set_address(ADDRESS)
    colab = "https://colab.research.google.com/github/you/course/blob/main/"
    badges = re.findall(rf"\]\({re.escape(colab)}(\S+?)\)", copy.text("README.md"))
    assert badges == [f"notebooks/{path.name}" for path in NOTEBOOKS]


def test_only_github_has_badges(copy):
    address = "https://gitlab.com/group/sub/course"
    assert copy.set_address(address).returncode == 0
    assert "colab.research" not in copy.text("README.md")
    assert "github.io" not in copy.text("README.md")
    for path in NOTEBOOKS:
        assert f'REPOSITORY = \\"{address}\\"' in copy.text(f"notebooks/{path.name}")


@pytest.mark.parametrize("name", [path.name for path in NOTEBOOKS])
def test_an_address_changes_one_cell_of_each_notebook(copy, name):
    before = json.loads(copy.text(f"notebooks/{name}"))["cells"]
    copy.set_address(ADDRESS)
    after = json.loads(copy.text(f"notebooks/{name}"))["cells"]
    assert len(after) == len(before)
    changed = [new for old, new in zip(before, after) if new != old]
    assert len(changed) == 1
    assert f'REPOSITORY = "{ADDRESS}"' in "".join(changed[0]["source"])


def test_a_second_time_changes_nothing(copy):
    copy.set_address(ADDRESS)
    after = copy.contents()
    assert copy.set_address().stdout.startswith("0 of")
    assert copy.set_address(ADDRESS).stdout.startswith("0 of")
    assert copy.contents() == after


def test_an_address_comes_off_again(copy):
    before = copy.contents()
    copy.set_address(ADDRESS)
    assert copy.contents().keys() == before.keys()
    assert copy.set_address("").returncode == 0
    assert copy.contents() == before


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_other_words_are_refused_and_nothing_is_written(copy, address):
    before = copy.contents()
    result = copy.set_address(address)
    assert result.returncode != 0
    assert "https://github.com/" in result.stderr
    assert "Traceback" not in result.stderr
    assert copy.contents() == before


def test_a_notebook_without_the_field_is_named_and_nothing_is_written(copy):
    new = copy.folder / "notebooks" / "12_new.ipynb"
    new.write_text('{"cells": []}', encoding="utf8")
    before = copy.contents()
    result = copy.set_address(ADDRESS)
    assert result.returncode != 0
    assert "12_new.ipynb" in result.stderr
    assert copy.contents() == before
