"""For every test: the repository root can be imported from, one thread, and no network, in the kernels of notebooks either."""

import importlib.util
import os
import sys
from pathlib import Path

import matplotlib

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
OFFLINE = TESTS / "offline"

sys.path[:0] = [str(ROOT), str(ROOT / "notebooks")]  # the helper; the exercises
# Kernels that nbval starts inherit the environment: their Python imports offline/sitecustomize.py by itself.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, (str(OFFLINE), os.environ.get("PYTHONPATH")))
)
_spec = importlib.util.spec_from_file_location(
    "offline_for_tests", OFFLINE / "sitecustomize.py"
)
_spec.loader.exec_module(importlib.util.module_from_spec(_spec))
matplotlib.use("Agg")

import hypothesis  # noqa: E402  (after the network is shut)
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

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


@pytest.fixture(scope="session")
def program():
    """A function that loads one of the programs in weights/, fresh at each call, as a module: program("train")."""

    def load(name: str):
        spec = importlib.util.spec_from_file_location(
            f"{name}_for_tests", ROOT / "weights" / f"{name}.py"
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # a dataclass looks its module up there
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def course_environment() -> dict[str, str]:
    """The environment of a subprocess that must find nothing of this repository by itself: offline, and without windows."""
    return {
        **os.environ,
        "PYTHONPATH": str(OFFLINE),
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def sprite_files(tmp_path) -> Path:
    """A folder with small stand-ins in the format of data/: 260 noise sprites in 64 colours, one-hot labels, factors and parts."""
    rng = np.random.default_rng(0)
    np.save(
        tmp_path / "sprites_16x16.npy",
        rng.integers(0, 4, (260, 16, 16, 3), dtype=np.uint8) * 85,
    )
    np.save(
        tmp_path / "sprite_labels_16x16.npy",
        np.eye(5, dtype=np.uint8)[rng.integers(0, 5, 260)],
    )
    parts = ["train"] * 220 + ["test"] * 20 + ["compositional"] * 20
    rows = [f"{part},food,fruit{i},\n" for i, part in enumerate(parts)]
    (tmp_path / "sprite_factors_16x16.csv").write_text(
        "part,class,kind,hair\n" + "".join(rows), encoding="utf8"
    )
    return tmp_path
