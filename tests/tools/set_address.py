"""Write the address of your copy of this course wherever it is needed: `python tests/tools/set_address.py https://github.com/you/course`.

Its one place is `[tool.course] repository` in pyproject.toml. From there it goes into the set-up cell of each notebook, so that Colab knows what to
fetch; into the README, as a Colab badge for each lesson (only GitHub's addresses have one) and in what to cite; and into CITATION.cff. Without an
argument everything is written again from pyproject.toml, for a new notebook say; with "" the address goes.
"""

import argparse
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COLAB = "https://colab.research.google.com"
BADGE = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({COLAB}/github/{{place}}/blob/{{branch}}/{{path}})"


def checked(address: str) -> str:
    """The address as it is stored: "", or https://host/..., without a slash or ".git" at its end. Raises ValueError for any other."""
    address = address.strip().rstrip("/").removesuffix(".git")
    if address and not re.fullmatch(
        r"https://[\w.-]+(:\d+)?(/[\w.~-]+)+", address, re.A
    ):
        raise ValueError(
            f"{address!r} is no address to clone from; expected one such as https://github.com/you/course"
        )
    if address.startswith("https://github.com/") and address.count("/") != 4:
        raise ValueError(
            f"{address!r} is not that of a repository; expected https://github.com/OWNER/NAME"
        )
    return address


def substituted(pattern: str, new: str, text: str, where: Path | str) -> str:
    """`text` with the one place that matches replaced. Raises ValueError unless there is exactly one."""
    text, count = re.subn(pattern, lambda match: match[1] + new, text, flags=re.M)
    if count != 1:
        raise ValueError(f"{where}: {count} places match {pattern!r}, expected one")
    return text


def setting(name: str, text: str) -> str:
    """`name` of the table [tool.course] in the text of pyproject.toml. (Python 3.10 has no reader of TOML.)"""
    found = re.search(
        rf'^\[tool\.course\]\n(?:(?!\[).*\n)*?{name} = "(.*?)"', text, re.M
    )
    if not found:
        raise ValueError(f'pyproject.toml: [tool.course] has no line {name} = "..."')
    return found[1]


def with_badges(readme: str, address: str, branch: str) -> str:
    """The README with a badge in each lesson's row of its map, or with none."""
    place = address.removeprefix("https://github.com/")

    def row(match: re.Match) -> str:
        return match[1] + (
            f"<br>{BADGE.format(place=place, branch=branch, path=match[2])}"
            if place != address
            else ""
        )

    return re.sub(
        r"^(\| \[[^\]]+\]\((notebooks/[^)]+\.ipynb)\))(?:<br>\[!\[Open in Colab\].*?\.ipynb\))?",
        row,
        readme,
        flags=re.M,
    )


def rewritten(root: Path = ROOT, address: str | None = None) -> dict[Path, str]:
    """{file: its new text} for every file that holds the address; None takes the address of pyproject.toml."""
    settings = root / "pyproject.toml"
    texts = {settings: settings.read_bytes().decode()}
    address, branch = (
        checked(setting("repository", texts[settings]) if address is None else address),
        setting("branch", texts[settings]),
    )
    texts[settings] = substituted(
        r'^(\[tool\.course\]\n(?:(?!\[).*\n)*?repository = )".*?"',
        f'"{address}"',
        texts[settings],
        settings,
    )
    for path in sorted(
        (root / "notebooks").glob("*.ipynb")
    ):  # as text, so that nothing else in the file changes
        texts[path] = substituted(
            r'(REPOSITORY = )\\"[^"\\]*\\"',
            f'\\"{address}\\"',
            path.read_bytes().decode(),
            path,
        )
    readme, citation = root / "README.md", root / "CITATION.cff"
    texts[readme] = with_badges(readme.read_bytes().decode(), address, branch)
    texts[readme] = substituted(
        r"(^  year = \{.*\},\n)(?:  url = .*\n)?",
        f"  url = {{{address}}},\n" if address else "",
        texts[readme],
        readme,
    )
    line = f'repository-code: "{address}"\n' if address else ""
    texts[citation] = substituted(
        r"(^license: .*\n)(?:repository-code: .*\n)?",
        line,
        citation.read_bytes().decode(),
        citation,
    )
    return texts


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "address",
        nargs="?",
        help='https://github.com/you/course, or "" for none; left out: what pyproject.toml says',
    )
    try:
        texts = rewritten(address=parser.parse_args(arguments).address)
    except ValueError as error:
        sys.exit(f"nothing was written: {error}")
    changed = {
        path: text for path, text in texts.items() if path.read_bytes() != text.encode()
    }
    for path, text in changed.items():
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_bytes(text.encode())
        os.replace(temporary, path)
    print(
        f"{len(changed)} of {len(texts)} files changed",
        *(path.relative_to(ROOT) for path in changed),
        sep="\n",
    )


if __name__ == "__main__":
    main()
