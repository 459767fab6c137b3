"""What every test has: the repository's root on the path, one thread, and no network.

The kernels of notebooks have no network either.
"""

import importlib.util
import os
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
OFFLINE = TESTS / "offline"

# The helper; the exercises; the modules that programs share
sys.path[:0] = [
    str(ROOT),
    str(ROOT / "notebooks"),
    str(ROOT / "weights"),
    str(ROOT / "weights" / "experiments"),
]


def shut_the_network() -> None:
    """Load offline/sitecustomize.py here, and in each Python that is started from here.

    The kernels that nbval starts inherit PYTHONPATH, and load the module by themselves.
    """
    inherited = os.environ.get("PYTHONPATH")
    folders = [str(OFFLINE), inherited] if inherited else [str(OFFLINE)]
    os.environ["PYTHONPATH"] = os.pathsep.join(folders)
    loaded("offline_for_tests", OFFLINE / "sitecustomize.py")


def loaded(name: str, path: Path):
    """The file at `path` as a module of this name, fresh at each call."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a dataclass looks its module up there
    spec.loader.exec_module(module)
    return module


shut_the_network()
matplotlib.use("Agg")

import hypothesis  # noqa: E402  (after the network is shut)
import matplotlib.pyplot as plt  # noqa: E402
import nbformat  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from nbval.plugin import IPyNbCell  # noqa: E402

torch.set_num_threads(1)  # tiny networks: a second thread only waits
hypothesis.settings.register_profile(
    "course", deadline=None, max_examples=20, derandomize=True
)
hypothesis.settings.load_profile("course")


@pytest.fixture(autouse=True)
def seeded():
    """Each test starts from the same random state, whatever ran before."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def figures_closed():
    """No test sees the figures that another one left open."""
    yield
    plt.close("all")


# ---- lessons -------------------------------------------------------------------------

TURN_EVERY_KNOB = f"""
import sys
sys.path.append({str(TESTS / "lessons")!r})
from every_knob import all_instruments, turn_every_knob
turn_every_knob(all_instruments())
"""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    turn_knobs_after_the_last_cell(items)
    mark_browser_tests_slow(items)


def mark_browser_tests_slow(items):
    """So that `pytest -m "not slow" tests` leaves them out, too."""
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.slow)


def turn_knobs_after_the_last_cell(items):
    """When nbval has run all cells of a lesson, let it turn every knob there."""
    last_cells = {item.parent: item for item in items if isinstance(item, IPyNbCell)}
    for notebook, last in last_cells.items():
        if not any("explore(" in cell.source for cell in notebook.nb.cells):
            continue
        one_more = IPyNbCell.from_parent(
            notebook,
            name="every knob",
            cell_num=last.cell_num + 1,
            cell=nbformat.v4.new_code_cell(TURN_EVERY_KNOB),
            options=defaultdict(bool),
        )
        items.insert(items.index(last) + 1, one_more)


# ---- programs, processes and data ----------------------------------------------------


@pytest.fixture(scope="session")
def program():
    """A function that loads a program of weights/ as a module: program("train").

    It loads the program fresh at each call.
    """

    def load(name: str):
        folders = [ROOT / "weights", ROOT / "weights" / "experiments"]
        paths = [folder / f"{name}.py" for folder in folders]
        [path] = [path for path in paths if path.exists()]
        return loaded(f"{name}_for_tests", path)

    return load


@pytest.fixture
def course_environment() -> dict[str, str]:
    """The environment of a subprocess that finds nothing of this repository by itself.

    It is offline, has no windows and works on one thread.
    """
    return {
        **os.environ,
        "PYTHONPATH": str(OFFLINE),
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def sprite_files(tmp_path) -> Path:
    """A folder with 260 noise sprites in 64 colours, in the files of data/.

    They have one-hot labels, factors and parts.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 4, (260, 16, 16, 3), dtype=np.uint8) * 85
    labels = np.eye(5, dtype=np.uint8)[rng.integers(0, 5, 260)]
    np.save(tmp_path / "sprites_16x16.npy", images)
    np.save(tmp_path / "sprite_labels_16x16.npy", labels)
    parts = ["train"] * 220 + ["test"] * 20 + ["compositional"] * 20
    rows = ["part,class,kind,hair"]
    rows += [f"{part},food,fruit{i}," for i, part in enumerate(parts)]
    table = "\n".join(rows) + "\n"
    (tmp_path / "sprite_factors_16x16.csv").write_text(table, encoding="utf8")
    return tmp_path
