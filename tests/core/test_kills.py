"""Training and savers lose nothing when they are killed, or when the disk is full.

tests/tools/kills.py does it: here, and as a command with more kills.
"""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the kills need fork"),
]
KILLS = Path(__file__).resolve().parents[1] / "tools" / "kills.py"
PARTS = ["check", "savers", "training", "finished", "full", "read-only", "random"]


@pytest.fixture(scope="module")
def printed() -> list[str]:
    """The lines of kills.py."""
    options = ["--random", "10", "--every", "4"]
    ended = subprocess.run(
        [sys.executable, str(KILLS), *options], capture_output=True, text=True
    )
    assert ended.stdout, ended.stderr
    return ended.stdout.splitlines()


@pytest.mark.parametrize("part", PARTS)
def test_nothing_is_lost(part, printed):
    lines = [line for line in printed if line.startswith(f"{part}: ")]
    assert lines
    for line in lines:
        assert line.endswith(": nothing lost")
