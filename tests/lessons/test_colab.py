"""Each notebook's set-up cell wherever it is opened.

In the course, on Colab with nothing beside it, read-only, under any path, with old
widgets. Colab is a stand-in: a module `google.colab`, an empty folder, a pip that only
writes down what it is asked, and a local repository as the address.
"""

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

# ---- what is run before and after the set-up cell ------------------------------------

COLAB = """
import sys
import types
google = types.ModuleType("google")
colab = types.ModuleType("google.colab")
google.colab = colab
sys.modules["google"] = google
sys.modules["google.colab"] = colab
"""
# What `import` would find of the packages HIDDEN is hidden. What the set-up cell asks
# of pip is written to asked.json instead of installed.
MISSING = """
import importlib.util
import json
import subprocess
find_spec = importlib.util.find_spec
run = subprocess.run
def find_few(name, *more):
    return None if name in HIDDEN else find_spec(name, *more)
def record(command, *more, **options):
    if "pip" not in command:
        return run(command, *more, **options)
    with open("asked.json", "w") as file:
        json.dump(command, file)
    return subprocess.CompletedProcess(command, 0)
importlib.util.find_spec = find_few
subprocess.run = record
"""
# An instrument with every kind of knob, each of them turned
TURN = """
import ipywidgets
drawn = []
def draw(t, schedule, square_root):
    drawn.append((t, schedule, square_root))
    fig, ax = plt.subplots(figsize=(2, 1))
    ax.plot([0, t])
    return fig, f"{t} {schedule} {square_root}"
instrument = explore(
    draw,
    "a line",
    {"t": 5},
    t=(1, 5, 9),
    schedule=("linear", "cosine"),
    square_root=(False, True),
)
instrument.knobs["t"].value = 9
instrument.knobs["schedule"].value = "cosine"
instrument.knobs["square_root"].value = True
assert drawn == [
    (5, "linear", False),
    (9, "linear", False),
    (9, "cosine", False),
    (9, "cosine", True),
], drawn
assert instrument.caption == "9 cosine True"
assert not plt.get_fignums()
data, metadata = instrument._repr_mimebundle_()
assert data["image/png"]
assert data["application/vnd.jupyter.widget-view+json"]["model_id"]
print("ipywidgets", ipywidgets.__version__)
"""
# What a lesson does with the course: its data, the factory, weights, an exercise's
# check, a listing
USE = """
assert len(load_sprites("train")) > 1000
assert sprite_factory()
load_weights(ContextUnet(3, 64, 5, 16), WEIGHTS / "model_31.pth")
check("2.1", None)
check("2.1", lambda *given: 1 / 0)
show_source(sample_ddpm)
"""
# Each notebook of cells.json in its own folder, as if nothing had been run before
EACH_NOTEBOOK = """
import json
import os
course_modules = ("diffusion_utilities", "exercises", "sprite_")
start = os.getcwd()
path = list(sys.path)
with open("cells.json", encoding="utf8") as file:
    cells = json.load(file)
for folder, cell in cells.items():
    os.chdir(os.path.join(start, folder))
    sys.path[:] = path
    for name in list(sys.modules):
        if name.startswith(course_modules):
            del sys.modules[name]
    found = {"__name__": "__main__"}
    exec(cell, found)
    assert str(found["COURSE"]) == os.path.join(os.getcwd(), "course")
    assert len(found["load_sprites"]("test"))
    print("ran", folder)
exec(USE, found)
"""


def set_up_cell(path: Path = NOTEBOOKS[0]) -> str:
    cells = nbformat.read(path, as_version=4).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    return next(source for source in sources if "diffusion_utilities" in source)


def with_address(source: str, address: str) -> str:
    """A set-up cell with this address in its form field, whatever stands there now."""
    line = f"REPOSITORY = {address!r}"
    source, count = re.subn(
        r'^REPOSITORY = ".*?"', lambda _: line, source, flags=re.MULTILINE
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
    """Run the set-up cell in a folder, in a fresh process.

    The process finds nothing of this repository by itself. At its end it prints the
    device and the name of the course's folder.
    """
    cell = with_address(set_up_cell(), address)
    end = "print('device', device, COURSE.name)"
    return run_code("\n".join([before, cell, after, end]), folder, **environment)


def run_code(code: str, folder: Path, **environment: str):
    """Run code in a folder, in a fresh process that finds nothing of the course."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    own = {
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUTF8": "1",
        "MPLBACKEND": "Agg",
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        encoding="utf8",
        env=inherited | own | environment,
    )


# ---- courses and repositories --------------------------------------------------------


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """A copy of what a lesson needs of the course.

    Its path has a space and a letter beyond ASCII.
    """
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
    """A stand-in for the course, as far as the set-up cell needs it.

    Importing the real one takes seconds, because of torch.
    """
    folder = tmp_path_factory.mktemp("tiny")
    helper = [
        "from pathlib import Path",
        "COURSE = Path(__file__).resolve().parent",
        "set_up = 'cpu, seed {seed}'.format",
    ]
    exercises = folder / "notebooks" / "exercises"
    exercises.mkdir(parents=True)
    (folder / "diffusion_utilities.py").write_text("\n".join(helper))
    (exercises / "__init__.py").write_text("check = print")
    return folder


@pytest.fixture(scope="module")
def tiny_repository(tiny, tmp_path_factory) -> str:
    return committed(tiny, tmp_path_factory.mktemp("address"))


def committed(course: Path, folder: Path) -> str:
    """The address of a new repository that holds these files."""
    repository = folder / "course.git"
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    git += ["-c", "core.compression=0"]
    git += [f"--git-dir={repository}", f"--work-tree={course}"]
    commands = [
        ["init", "--quiet"],
        ["add", "."],
        ["commit", "--quiet", "-m", "the course"],
    ]
    for command in commands:
        subprocess.run([*git, *command], check=True, capture_output=True)
    return repository.as_uri()


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """{file: its size and the time of its last change} for all that is in a folder."""
    found = {}
    for path in folder.rglob("*"):
        about = path.stat()
        found[str(path.relative_to(folder))] = (about.st_size, about.st_mtime_ns)
    return found


# ---- tests ---------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["", "notebooks", "notebooks/exercises"])
def test_the_set_up_cell_finds_the_course(tiny, folder):
    result = run_set_up(tiny / folder)
    assert result.stdout == f"device cpu, seed 0 {tiny.name}\n", result.stderr


class TestOnColab:
    @pytest.mark.slow
    def test_each_notebook_runs_where_only_the_notebook_is(self, repository, tmp_path):
        """In one process, since importing torch takes longest."""
        cells = {}
        for path in NOTEBOOKS:
            (tmp_path / path.stem).mkdir()
            shutil.copy(path, tmp_path / path.stem)
            cells[path.stem] = with_address(set_up_cell(path), repository)
        (tmp_path / "cells.json").write_text(json.dumps(cells), encoding="utf8")
        code = "\n".join([COLAB, f"USE = {USE!r}", EACH_NOTEBOOK])
        result = run_code(code, tmp_path)
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("ran ") == len(NOTEBOOKS)
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
        assert result.returncode != 0
        assert "nothing" in result.stderr
        assert "REPOSITORY" in result.stderr
        assert not (tmp_path / "course").exists()

    @pytest.mark.parametrize("address", ["--upload-pack=touch run", "ext::touch run"])
    def test_an_address_cannot_run_a_command(self, tmp_path, address):
        result = run_set_up(tmp_path, COLAB, address)
        assert result.returncode != 0
        assert "https://..., in REPOSITORY" in result.stderr
        assert address in result.stderr
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "hidden, wanted",
        [
            ([], []),
            (["diffusers"], ["diffusers"]),
            (
                ["diffusers", "ipywidgets", "torch", "torchvision", "numpy"],
                ["diffusers", "ipywidgets"],
            ),
        ],
        ids=["nothing", "diffusers", "everything"],
    )
    def test_only_what_is_missing_is_installed_and_never_torch(
        self, tiny_repository, tmp_path, hidden, wanted
    ):
        before = "\n".join([COLAB, f"HIDDEN = {hidden}", MISSING])
        result = run_set_up(tmp_path, before, tiny_repository)
        assert result.returncode == 0, result.stderr
        written = tmp_path / "asked.json"
        asked = json.loads(written.read_text()) if written.exists() else []
        assert [word for word in asked if word in hidden] == wanted
        assert not {"torch", "torchvision", "numpy", "--upgrade", "-U"} & set(asked)
        assert bool(asked) == bool(wanted)


@pytest.mark.parametrize(
    "before", ["", COLAB], ids=["alone", "on Colab without an address"]
)
def test_without_the_course_it_says_what_to_do(tmp_path, before):
    result = run_set_up(tmp_path, before)
    assert result.returncode != 0
    assert "REPOSITORY" in result.stderr
    assert "clone the course" in result.stderr


@pytest.mark.slow
def test_any_path_will_do_and_nothing_is_written(course):
    """So a read-only course works too. It is not made read-only: root could write."""
    before = listing(course)
    result = run_set_up(course / "notebooks", after=USE)
    assert result.returncode == 0, result.stderr
    assert "Exercise 2.1: not tried yet." in result.stdout
    assert "Exercise 2.1: not yet." in result.stdout
    assert listing(course) == before


class TestWidgets:
    """ipywidgets 7.7 is what Colab has; 8 is what the requirements bring."""

    def test_an_instrument_with_the_ipywidgets_that_are_installed(self, capsys):
        exec("from diffusion_utilities import *\n" + TURN, {})
        version = importlib.metadata.version("ipywidgets")
        assert capsys.readouterr().out == f"ipywidgets {version}\n"

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
        assert result.returncode == 0, result.stderr
        assert "ipywidgets 7.7" in result.stdout
        assert "Warning" not in result.stderr
