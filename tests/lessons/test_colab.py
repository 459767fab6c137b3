"""Each notebook's set-up cell wherever it is opened: in the course, on Colab with nothing beside it, read-only, under any path, with old widgets.

Colab is a stand-in: a module `google.colab`, an empty folder, a pip that only writes down what it is asked, and a local repository as the address."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
COLAB = """
import sys, types
google, colab = types.ModuleType("google"), types.ModuleType("google.colab")
google.colab = colab
sys.modules.update({"google": google, "google.colab": colab})
"""
# What `import` finds of a package is hidden; what the set-up cell asks of pip is written to asked.json instead of installed.
MISSING = """
import importlib.util, json, subprocess
find, run = importlib.util.find_spec, subprocess.run
importlib.util.find_spec = lambda name, *more: None if name in {hidden} else find(name, *more)
def record(command, *more, **options):
    if "pip" not in command:
        return run(command, *more, **options)
    json.dump(command, open("asked.json", "w"))
    return subprocess.CompletedProcess(command, 0)
subprocess.run = record
"""
# Every instrument's kind of knob, turned; printed: how often it was drawn, and what a page shows.
TURN = """
import ipywidgets
drawn = []
def draw(t, schedule, square_root):
    drawn.append((t, schedule, square_root))
    fig, ax = plt.subplots(figsize=(2, 1))
    ax.plot([0, t])
    return fig, f"{t} {schedule} {square_root}"
instrument = explore(draw, "a line", {"t": 5}, t=(1, 5, 9), schedule=("linear", "cosine"), square_root=(False, True))
for name, value in (("t", 9), ("schedule", "cosine"), ("square_root", True)):
    instrument.knobs[name].value = value
assert drawn == [(5, "linear", False), (9, "linear", False), (9, "cosine", False), (9, "cosine", True)], drawn
assert instrument.caption == "9 cosine True" and not plt.get_fignums()
data = instrument._repr_mimebundle_()
assert data["image/png"] and data["application/vnd.jupyter.widget-view+json"]["model_id"]
print("ipywidgets", ipywidgets.__version__)
"""
# What a lesson does with the course after its set-up cell: its data, weights, an exercise's check, the factory, an instrument's picture.
USE = """
import torch
data = load_sprites("train")
assert len(data) > 1000 and sprite_factory()
model = load_weights(ContextUnet(3, 64, 5, 16), WEIGHTS / "model_31.pth")
check("2.1", None)
check("2.1", lambda *given: 1 / 0)
show_source(sample_ddpm)
"""


def set_up_cell(path: Path = NOTEBOOKS[0]) -> str:
    return next(
        cell.source
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code" and "diffusion_utilities" in cell.source
    )


def with_address(source: str, address: str) -> str:
    """A set-up cell with this address in its form field, whatever stands there now."""
    source, count = re.subn(
        r'^REPOSITORY = ".*?"',
        lambda _: f"REPOSITORY = {address!r}",
        source,
        flags=re.M,
    )
    assert count == 1
    return source


def run_set_up(
    folder: Path,
    before: str = "",
    address: str = "",
    after: str = "",
    **environment: str,
) -> subprocess.CompletedProcess:
    """Run the set-up cell in a folder in a fresh process that finds nothing of this repository by itself."""
    code = f"{before}\n{with_address(set_up_cell(), address)}\n{after}\nprint('device', device, COURSE.name)"
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    clean = {
        **inherited,
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUTF8": "1",
        "MPLBACKEND": "Agg",
        **environment,
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        encoding="utf8",
        env=clean,
    )


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """A copy of what a lesson needs of the course, under a path with a space and a letter beyond ASCII."""
    folder = tmp_path_factory.mktemp("copy") / "Kurs für alle"
    ignored = shutil.ignore_patterns(
        "__pycache__", ".ipynb_checkpoints", "*.png", "*.json"
    )
    for name in ("notebooks", "data"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    (folder / "weights").mkdir()
    for name in ("diffusion_utilities.py", "weights/model_31.pth"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def repository(course, tmp_path_factory) -> str:
    """The address of a repository that holds this copy."""
    return committed(course, tmp_path_factory.mktemp("address"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A stand-in for the course, for what the set-up cell does before it: importing the real one takes seconds, because of torch."""
    folder = tmp_path_factory.mktemp("tiny")
    helper = "from pathlib import Path\nCOURSE = Path(__file__).resolve().parent\nset_up = 'cpu, seed {seed}'.format"
    for name, text in (
        ("diffusion_utilities.py", helper),
        ("notebooks/exercises/__init__.py", "check = print"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def tiny_repository(tiny, tmp_path_factory) -> str:
    return committed(tiny, tmp_path_factory.mktemp("address"))


def committed(course: Path, folder: Path) -> str:
    """The address of a new repository that holds these files."""
    git = [
        "git",
        "-c",
        "user.name=test",
        "-c",
        "user.email=test@localhost",
        "-c",
        "core.compression=0",
    ]
    for command in (
        ["init", "--quiet"],
        ["add", "."],
        ["commit", "--quiet", "-m", "the course"],
    ):
        subprocess.run(
            [
                *git,
                f"--git-dir={folder / 'course.git'}",
                f"--work-tree={course}",
                *command,
            ],
            check=True,
            capture_output=True,
        )
    return (folder / "course.git").as_uri()


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("folder", ["", "notebooks", "notebooks/exercises"])
def test_the_set_up_cell_finds_the_course(tiny, folder):
    result = run_set_up(tiny / folder)
    assert result.stdout == f"device cpu, seed 0 {tiny.name}\n", result.stderr


class TestOnColab:
    def test_each_notebook_runs_where_only_the_notebook_is(self, repository, tmp_path):
        """One process for all, since importing torch takes longest: an empty folder each, and nothing of the one before is left."""
        for path in NOTEBOOKS:
            (tmp_path / path.stem).mkdir()
            shutil.copy(path, tmp_path / path.stem)
        cells = {
            path.stem: with_address(set_up_cell(path), repository) for path in NOTEBOOKS
        }
        (tmp_path / "cells.json").write_text(json.dumps(cells))
        code = f"""{COLAB}
import json, os
path = list(sys.path)
for folder, cell in json.load(open("cells.json")).items():
    os.chdir({str(tmp_path)!r} + "/" + folder)
    sys.path[:] = path
    for name in [name for name in sys.modules if name.startswith(("diffusion_utilities", "exercises", "sprite_factory"))]:
        del sys.modules[name]
    exec(cell, found := {{"__name__": "__main__"}})
    assert str(found["COURSE"]) == os.getcwd() + "/course" and len(found["load_sprites"]("test")), found["COURSE"]
    print("ran", folder)
exec({USE!r}, found)
"""
        environment = {
            **os.environ,
            "PYTHONPATH": "",
            "OMP_NUM_THREADS": "1",
            "PYTHONUTF8": "1",
        }
        result = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            capture_output=True,
            encoding="utf8",
            env=environment,
        )
        assert result.returncode == 0 and result.stdout.count("ran ") == len(
            NOTEBOOKS
        ), result.stderr
        assert "Exercise 2.1: not tried yet." in result.stdout

    def test_a_second_run_finds_what_the_first_fetched(self, tiny_repository, tmp_path):
        assert run_set_up(tmp_path, COLAB, tiny_repository).returncode == 0
        (tmp_path / "course" / "mine.txt").write_text("a learner's own file")
        before = listing(tmp_path)
        result = run_set_up(tmp_path, COLAB, "file:///the/address/is/not/asked/again")
        assert result.stdout == "device cpu, seed 0 course\n", result.stderr
        assert listing(tmp_path) == before

    def test_a_wrong_address_says_so(self, tmp_path):
        result = run_set_up(tmp_path, COLAB, (tmp_path / "nothing").as_uri())
        assert (
            result.returncode != 0
            and "nothing" in result.stderr
            and "REPOSITORY" in result.stderr
        )
        assert not (tmp_path / "course").exists()

    @pytest.mark.parametrize(
        "hidden",
        [
            [],
            ["diffusers"],
            ["diffusers", "ipywidgets", "torch", "torchvision", "numpy"],
        ],
        ids=len,
    )
    def test_only_what_is_missing_is_installed_and_never_torch(
        self, tiny_repository, tmp_path, hidden
    ):
        result = run_set_up(
            tmp_path, COLAB + MISSING.format(hidden=hidden), tiny_repository
        )
        assert result.returncode == 0, result.stderr
        wanted = [name for name in hidden if name in ("diffusers", "ipywidgets")]
        asked = (
            json.loads((tmp_path / "asked.json").read_text())
            if (tmp_path / "asked.json").exists()
            else []
        )
        assert [word for word in asked if word in hidden] == wanted and not {
            "torch",
            "torchvision",
            "numpy",
            "--upgrade",
            "-U",
        } & set(asked)
        assert bool(asked) == bool(wanted)


@pytest.mark.parametrize(
    "before", ["", COLAB], ids=["alone", "on Colab without an address"]
)
def test_without_the_course_it_says_what_to_do(tmp_path, before):
    result = run_set_up(tmp_path, before)
    assert (
        result.returncode != 0
        and "REPOSITORY" in result.stderr
        and "clone the course" in result.stderr
    )


class TestElsewhere:
    def test_under_a_path_with_a_space_and_a_letter_beyond_ascii_and_nothing_is_written(
        self, course
    ):
        """So a read-only course works too. (Nothing is made read-only here: root could write to it all the same.)"""
        before = listing(course)
        result = run_set_up(course / "notebooks", after=USE)
        assert (
            result.returncode == 0
            and "Exercise 2.1: not tried yet." in result.stdout
            and "Exercise 2.1: not yet." in result.stdout
        ), result.stderr
        assert listing(course) == before


class TestWidgets:
    """ipywidgets 7.7 is what Colab has; 8 is what the requirements bring."""

    def test_an_instrument_with_the_ipywidgets_that_are_installed(self, capsys):
        exec("from diffusion_utilities import *\n" + TURN, {})
        assert (
            capsys.readouterr().out
            == f"ipywidgets {importlib.metadata.version('ipywidgets')}\n"
        )

    @pytest.mark.skipif(
        "IPYWIDGETS_7" not in os.environ,
        reason="IPYWIDGETS_7 is no folder with ipywidgets 7.7; .ci/run makes one",
    )
    def test_an_instrument_with_ipywidgets_7(self, course):
        result = run_set_up(
            course,
            after=TURN,
            PYTHONPATH=os.environ["IPYWIDGETS_7"],
            PYTHONWARNINGS="error::DeprecationWarning:ipywidgets",
        )
        assert (
            result.returncode == 0
            and "ipywidgets 7.7" in result.stdout
            and "Warning" not in result.stderr
        ), result.stderr
