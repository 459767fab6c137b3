"""Palette files: GIMP's .gpl, and Lospec's .hex."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

MOST = 256  # colours of an indexed picture


def read_palette(path: str | Path) -> np.ndarray:
    """The colours of a palette file, each once: (K, 3) uint8.

    A .gpl file has a line of red, green, blue for each colour, and perhaps a name. If
    its head says "Channels: RGBA", as Aseprite writes it, alpha comes fourth; what is
    transparent is left out. A .hex file has a line rrggbb for each.

    Raises FileNotFoundError for a missing file, and ValueError, which names the line,
    for another format, or without 1 to 256 colours.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in READERS:
        raise ValueError(f"{path}: expected a palette that ends in .gpl or .hex")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a palette file")
    text = path.read_text(encoding="utf-8-sig", errors="replace")  # names may be odd
    try:
        colours = [*READERS[ending](text.splitlines())]
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from None
    different = dict.fromkeys(colours)
    if not 1 <= len(different) <= MOST:
        raise ValueError(
            f"{path} has {len(different)} different colours; expected 1 to {MOST}"
        )
    return np.array([*different], np.uint8)


def gimp_colours(lines: list[str]) -> Iterator[tuple[int, ...]]:
    """The colours (red, green, blue) of a .gpl file."""
    if not lines or lines[0].strip() != "GIMP Palette":
        raise ValueError("line 1: expected the words GIMP Palette")
    channels = 3
    for number, line in enumerate(lines[1:], 2):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if re.match(r"[A-Za-z]+:", line):
            if words == ["Channels:", "RGBA"]:
                channels = 4
            continue
        values = [
            int(word) for word in words[:channels] if re.fullmatch("[0-9]+", word)
        ]
        if len(values) < channels or max(values) > 255:
            raise ValueError(
                f"line {number}: {line.strip()[:40]!r}; expected {channels} whole "
                "numbers from 0 to 255"
            )
        red, green, blue, alpha = (*values, 255)[:4]
        if alpha:
            yield red, green, blue


def hex_colours(lines: list[str]) -> Iterator[tuple[int, ...]]:
    """The colours (red, green, blue) of a .hex file."""
    for number, line in enumerate(lines, 1):
        word = line.strip().removeprefix("#")
        if not word:
            continue
        if not re.fullmatch("[0-9A-Fa-f]{6}", word):
            raise ValueError(
                f"line {number}: {line.strip()[:40]!r}; expected six hexadecimal "
                "digits, rrggbb"
            )
        yield tuple(bytes.fromhex(word))


READERS = {".gpl": gimp_colours, ".hex": hex_colours}


def gimp_palette(palette: np.ndarray) -> str:
    """A palette (K, 4) as the text of a .gpl file, without transparent colours.

    The format has no alpha: of a colour that is partly transparent, alpha is left out.
    """
    drawn = palette[palette[:, 3] > 0, :3]
    lines = ["GIMP Palette", "Name: own sprites", "Columns: 8", "#"]
    for red, green, blue in drawn.tolist():
        lines.append(f"{red:3} {green:3} {blue:3}\t{red:02x}{green:02x}{blue:02x}")
    return "\n".join(lines) + "\n"
