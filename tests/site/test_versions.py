"""tests/tools/versions.py: what it installs, what it tests, and what it says of it.

Nothing is installed here: the environment is the one that the tests run in.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[1] / "tools" / "versions.py"
FILES = {
    "requirements.txt": "# a comment\nnumpy>=1.26\n",
    "tests/requirements.txt": "pytest>=8.0\n",
    "tests/test_unit.py": "def test_unit():\n    assert True\n",
    "notebooks/test_lesson.py": "def test_lesson():\n    assert False\n",
}


@pytest.fixture
def course(tmp_path):
    """A course of which the unit test passes and the lesson fails."""
    folder = tmp_path / "course"
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf8")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init"], ["add", "."], ["commit", "-m", "the course"]):
        subprocess.run([*git, *command], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def versions(course, monkeypatch):
    """The program, which notes in `installed_here` what it would install."""
    spec = importlib.util.spec_from_file_location("versions_for_tests", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.installed_here = []

    def environment(python, folder, packages):
        module.installed_here += packages
        return sys.executable

    monkeypatch.setattr(module, "environment", environment)
    monkeypatch.setattr(module, "ROOT", course)
    return module


@pytest.mark.parametrize(
    "which, packages",
    [
        ("lowest", ["numpy==1.26", "pytest==8.0"]),
        ("newest", ["numpy>=1.26", "pytest>=8.0"]),
    ],
)
def test_it_installs_the_bounds_or_what_pip_finds(
    versions, which, packages, monkeypatch
):
    monkeypatch.setattr(versions, "PARTS", {})
    versions.main([which])
    assert versions.installed_here == packages


@pytest.mark.slow
def test_it_says_what_was_tested_and_what_failed(versions, course, capsys):
    not_committed = course / "tests" / "test_new.py"
    not_committed.write_text("assert False\n", encoding="utf8")
    with pytest.raises(SystemExit) as stopped:
        versions.main(["newest"])
    assert stopped.value.code == 1
    tested, units, lessons = capsys.readouterr().out.splitlines()[-3:]
    assert tested.startswith(f"Python {sys.version.split()[0]}, numpy ")
    assert tested.endswith(f", pytest {pytest.__version__}")
    assert units.startswith("units passed in ")
    assert lessons.startswith("lessons FAILED in ")
    assert lessons.endswith(", status 1")
