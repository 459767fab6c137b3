"""What a machine can check of the repository: sizes, format, requirements, links."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import diffusion_utilities as du

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
LIMIT = 60  # MiB, all tracked files together
LIMITS = {"weights": 38, "data": 12, "notebooks": 8, "rest": 2}
SCRATCH = (".ipynb_checkpoints", "__pycache__", ".DS_Store", ".pt", ".gif")
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "GLOSSARY.md",
    "docs/TEACHING.md",
    "docs/run.md",
    "data/README.md",
    "weights/README.md",
)
REQUIREMENTS = (
    "requirements.txt",
    "tests/requirements.txt",
    "docs/requirements.txt",
    "weights/experiments/requirements.txt",
)


def tracked() -> list[Path]:
    """The files that git knows of and that are there."""
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [ROOT / name for name in listing.stdout.split("\0")]
    return [path for path in paths if path.is_file()]


def megabytes(paths: list[Path]) -> float:
    return sum(path.stat().st_size for path in paths) / MIB


def folder_of(path: Path) -> str:
    """The folder of the limits that a file counts for."""
    first = path.relative_to(ROOT).parts[0]
    return first if first in LIMITS else "rest"


def test_the_whole_tree_keeps_to_its_size():
    assert megabytes(tracked()) <= LIMIT


@pytest.mark.parametrize("folder", LIMITS)
def test_each_folder_keeps_to_its_size(folder):
    files = [path for path in tracked() if folder_of(path) == folder]
    assert megabytes(files) <= LIMITS[folder]


def test_no_scratch_is_tracked():
    for path in tracked():
        for part in path.relative_to(ROOT).parts:
            assert not part.endswith(SCRATCH), path


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_is_content(command):
    """Lines of at most 88 columns, in one format, notebooks included."""
    result = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_requirements_have_lower_bounds_only(name):
    """So that Colab keeps its own torch."""
    for line in (ROOT / name).read_text(encoding="utf8").splitlines():
        is_comment = line == "" or line.startswith("#")
        assert is_comment or re.fullmatch(r"[a-z-]+>=[\d.]+", line), line


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_of_documents_lead_somewhere(name):
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf8")):
        is_there = (page.parent / target).exists()
        assert is_there or target.startswith("https://"), target


# ---- The helper alone ----------------------------------------------------------------
# People copy this one file into a folder of their own.

DRAW = """
from diffusion_utilities import *
model = ContextUnet(3, 8, 5, 16)
schedule = NoiseSchedule.linear()
x, frames = sample_ddim(model, schedule, shape=(2, 3, 16, 16), steps=2)
animate(frames).save("a.gif")
print(tuple(x.shape))
"""
LOAD = """
from diffusion_utilities import *

def load_mnist():
    load_digits("mnist")

for load in (sprite_factory, sprite_scoring, load_sprites, load_mnist):
    try:
        load()
    except FileNotFoundError as error:
        print(error)
"""
MISSING = ("sprite_factory.py", "sprite_scores.py", "sprites_16x16.npy", "mnist_5k.npz")


@pytest.fixture
def run_alone(tmp_path):
    """Run a script in a folder that holds nothing but the helper; returns its words."""
    helper = tmp_path / "diffusion_utilities.py"
    helper.write_bytes(Path(du.__file__).read_bytes())

    def run(script: str) -> str:
        result = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


@pytest.mark.slow
def test_the_helper_alone_draws_without_data(run_alone, tmp_path):
    assert run_alone(DRAW) == "(2, 3, 16, 16)\n"
    assert (tmp_path / "a.gif").exists()


@pytest.mark.slow
def test_the_helper_alone_says_which_file_is_missing(run_alone):
    said = run_alone(LOAD)
    for name in MISSING:
        assert name in said
