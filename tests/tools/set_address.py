"""Write the address of your copy of this course wherever it is needed.

    python tests/tools/set_address.py https://github.com/you/course

Its one place is `[tool.course] repository` in pyproject.toml. From there it goes into
the set-up cell of each notebook, so that Colab knows what to fetch; into the README, as
a Colab badge for each lesson and as the book's address (only GitHub's addresses have
them); and into CITATION.cff. Without an argument everything is written again from
pyproject.toml, for a new notebook, say. With "" the address is removed.
"""

import argparse
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GITHUB = "https://github.com/"
COLAB = "https://colab.research.google.com"

ADDRESS = r"https://[\w.-]+(:\d+)?(/[\w.~-]+)+"
# A line of the table [tool.course] in pyproject.toml, up to its value in quotes
SETTING = r"^(\[tool\.course\]\n(?:(?!\[).*\n)*?{name} = )"
# The first cell of a lesson's row in the README's map: a link, and perhaps a badge
LESSON = r"^(\| \[[^\]]+\]\((notebooks/[^)]+\.ipynb)\))"
OLD_BADGE = r"(?:<br>\[!\[Open in Colab\].*?\.ipynb\))?"


def checked(address: str) -> str:
    """The address as it is stored: "", or https://host/... without "/" or ".git" last.

    Raises ValueError for any other.
    """
    address = address.strip().rstrip("/").removesuffix(".git")
    if address and not re.fullmatch(ADDRESS, address, re.ASCII):
        raise ValueError(
            f"{address!r} is no address to clone from; expected one such as "
            "https://github.com/you/course"
        )
    if address.startswith(GITHUB) and address.count("/") != 4:
        raise ValueError(
            f"{address!r} is not that of a repository; expected "
            "https://github.com/OWNER/NAME"
        )
    return address


def substituted(pattern: str, new: str, text: str, where: Path | str) -> str:
    """`text` with `new` in place of what follows the pattern's first group.

    Raises ValueError unless exactly one place matches.
    """
    text, count = re.subn(pattern, lambda match: match[1] + new, text, flags=re.M)
    if count != 1:
        raise ValueError(f"{where}: {count} places match {pattern!r}, expected one")
    return text


def setting(name: str, text: str) -> str:
    """The value of `name` in the table [tool.course] of pyproject.toml's text.

    Python 3.10 has no reader of TOML.
    """
    found = re.search(SETTING.format(name=name) + '"(.*?)"', text, re.M)
    if not found:
        raise ValueError(f'pyproject.toml: [tool.course] has no line {name} = "..."')
    return found[2]


def badge(path: str, place: str, branch: str) -> str:
    """The Markdown of a button that opens a notebook of OWNER/NAME on Colab."""
    picture = f"![Open in Colab]({COLAB}/assets/colab-badge.svg)"
    return f"[{picture}]({COLAB}/github/{place}/blob/{branch}/{path})"


def book_address(address: str) -> str:
    """Where GitHub Pages shows the book of a repository; "" for another address."""
    if not address.startswith(GITHUB):
        return ""
    owner, name = address.removeprefix(GITHUB).split("/")
    return f"https://{owner.lower()}.github.io/{name}/"


def with_badges(readme: str, address: str, branch: str) -> str:
    """The README with a badge in each lesson's row of its map.

    Without a GitHub address the rows get none.
    """

    def row(match: re.Match) -> str:
        link, path = match.groups()
        if not address.startswith(GITHUB):
            return link
        place = address.removeprefix(GITHUB)
        return f"{link}<br>{badge(path, place, branch)}"

    return re.sub(LESSON + OLD_BADGE, row, readme, flags=re.M)


def read(path: Path) -> str:
    """A file's text with its line ends as they are."""
    return path.read_bytes().decode()


def rewritten(root: Path = ROOT, address: str | None = None) -> dict[Path, str]:
    """Every file that holds the address: {file: its new text}.

    None takes the address from pyproject.toml.
    """
    settings = root / "pyproject.toml"
    readme = root / "README.md"
    citation = root / "CITATION.cff"
    if address is None:
        address = setting("repository", read(settings))
    address = checked(address)
    branch = setting("branch", read(settings))

    texts = {}
    texts[settings] = substituted(
        SETTING.format(name="repository") + '".*?"',
        f'"{address}"',
        read(settings),
        settings,
    )
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        # as text, not as JSON, so that nothing else in the file changes
        texts[path] = substituted(
            r'(REPOSITORY = )\\"[^"\\]*\\"', f'\\"{address}\\"', read(path), path
        )
    book = book_address(address)
    texts[readme] = substituted(
        r"(^\*\*The book\*\*: .*?\)\)\.)(?: It is at <\S+>\.)?$",
        f" It is at <{book}>." if book else "",
        with_badges(read(readme), address, branch),
        readme,
    )
    texts[citation] = substituted(
        r"(^license: .*\n)(?:repository-code: .*\n)?",
        f'repository-code: "{address}"\n' if address else "",
        read(citation),
        citation,
    )
    return texts


def write_whole(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(text.encode())
    os.replace(temporary, path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "address",
        nargs="?",
        help='https://github.com/you/course, or "" for none; left out, what '
        "pyproject.toml says",
    )
    try:
        texts = rewritten(address=parser.parse_args(arguments).address)
    except ValueError as error:
        sys.exit(f"nothing was written: {error}")
    changed = [path for path, text in texts.items() if read(path) != text]
    for path in changed:
        write_whole(path, texts[path])
    print(f"{len(changed)} of {len(texts)} files changed")
    for path in changed:
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
