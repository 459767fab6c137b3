"""Test the course with the lowest or the newest versions of what it needs.

    python tests/tools/versions.py lowest --python python3.10
    python tests/tools/versions.py newest --python python3.14

"lowest" installs exactly the lower bounds of requirements.txt and of
tests/requirements.txt, and "newest" whatever pip finds. What these packages need in
their turn is new in both cases.

The last commit is tested: the unit tests, then every lesson under nbval. It is cloned
into a temporary folder, where the virtual environment is made, too. This takes 7 GB
while it lasts. The exit status is 0 if everything passed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ("requirements.txt", "tests/requirements.txt")
PARTS = {"units": "tests", "lessons": "notebooks"}  # what pytest is to test


def required(course: Path) -> list[str]:
    """Each requirement as it is written: "torch>=2.6"."""
    lines = []
    for name in REQUIREMENTS:
        lines += (course / name).read_text(encoding="utf8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def lowest(requirement: str) -> str:
    """Exactly the lower bound: "torch==2.6"."""
    return requirement.replace(">=", "==")


def environment(python: str, folder: Path, packages: list[str]) -> str:
    """A virtual environment with these packages: the path of its Python."""
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    programs = "Scripts" if os.name == "nt" else "bin"
    its_python = str(folder / programs / "python")
    install = [its_python, "-m", "pip", "install", "--quiet", "--no-cache-dir"]
    subprocess.run([*install, *packages], check=True)
    return its_python


def installed(python: str) -> dict[str, str]:
    """The version of each package in an environment."""
    listing = subprocess.run(
        [python, "-m", "pip", "list", "--format=json"],
        check=True,
        capture_output=True,
        text=True,
    )
    return {row["name"].lower(): row["version"] for row in json.loads(listing.stdout)}


def versions(python: str, requirements: list[str]) -> str:
    """What is tested, in a line: "Python 3.10.13, torch 2.6.0, ..."."""
    about = subprocess.run(
        [python, "--version"], check=True, capture_output=True, text=True
    )
    found = installed(python)
    words = [about.stdout.strip()]
    for requirement in requirements:
        name, _, _ = requirement.partition(">=")
        words.append(f"{name} {found[name]}")
    return ", ".join(words)


def passes(python: str, course: Path, part: str) -> tuple[bool, str]:
    """Whether a part of the tests passes, and a line that says so."""
    started = time.monotonic()
    result = subprocess.run([python, "-m", "pytest", PARTS[part]], cwd=course)
    seconds = time.monotonic() - started
    if result.returncode == 0:
        return True, f"{part} passed in {seconds:.0f} s"
    return False, f"{part} FAILED in {seconds:.0f} s, status {result.returncode}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", choices=("lowest", "newest"))
    parser.add_argument(
        "--python", default=sys.executable, help="the interpreter to test with"
    )
    parser.add_argument("--only", choices=PARTS, help="one part of the tests")
    options = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        course = Path(folder) / "course"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(course)], check=True)
        requirements = required(course)
        packages = requirements
        if options.which == "lowest":
            packages = [lowest(requirement) for requirement in requirements]
        python = environment(options.python, Path(folder) / "environment", packages)

        tested = versions(python, requirements)
        print(tested, flush=True)
        results = []
        for part in [options.only] if options.only else PARTS:
            results.append(passes(python, course, part))

    print(tested)
    for _, line in results:
        print(line)
    if not all(passed for passed, _ in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
