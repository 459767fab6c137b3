"""Prepare executed notebooks for a commit: `python tests/tools/slim.py [NOTEBOOK ...]`.

Without names it takes all lessons. Run again it changes nothing.

- Pictures become smaller. One of up to 256 colours, as most sprites have, gets a
  palette and keeps every pixel; one of more colours keeps the 256 that come nearest.
  Left as they are: pictures with a transparent ground, moving ones, and those in HTML
  (the players of animations).
- Widget views and the state of widgets are removed. nbviewer, GitHub and nbconvert then
  show the picture that an instrument saves beside its view.
- What differs from run to run is evened out: the times at which nbconvert ran each cell
  are removed, and printed text that a busy kernel sent in pieces becomes one output.
- Progress bars are removed: of a line that was written again and again, the last state
  stays, as in a terminal.
"""

import argparse
import base64
import io
import json
import os
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def slimmer(encoded: str) -> str:
    """A base64 PNG packed with a palette, or the same text.

    It stays the same where the palette saves nothing, or where the picture would lose
    its transparency or its frames.
    """
    picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
    opacity = picture.convert("RGBA").getchannel("A")
    is_opaque = opacity.getextrema() == (255, 255)
    moves = getattr(picture, "n_frames", 1) > 1
    if moves or not is_opaque:
        return encoded
    buffer = io.BytesIO()
    with_palette(picture.convert("RGB")).save(buffer, "PNG", optimize=True)
    packed = base64.b64encode(buffer.getvalue()).decode()
    return packed if len(packed) < len(encoded) else encoded


def with_palette(picture: Image.Image) -> Image.Image:
    """An RGB picture in at most 256 colours: its own, if it has no more."""
    exact = picture.getcolors(256) is not None
    if exact:
        method, rounds = Image.Quantize.MAXCOVERAGE, 0
    else:
        method, rounds = Image.Quantize.MEDIANCUT, 1
    return picture.quantize(256, method, rounds, dither=Image.Dither.NONE)


def slim(notebook: dict) -> None:
    """Repack the pictures of the outputs, remove widgets and times, in place."""
    notebook["metadata"].pop("widgets", None)
    for cell in notebook["cells"]:
        cell.get("metadata", {}).pop("execution", None)
        if "outputs" in cell:
            cell["outputs"] = without_progress(with_joined_text(cell["outputs"]))
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            data.pop(WIDGET_VIEW, None)
            if "image/png" in data:
                png = "".join(data["image/png"]).replace("\n", "")
                data["image/png"] = slimmer(png)


def with_joined_text(outputs: list[dict]) -> list[dict]:
    """The outputs, with neighbouring pieces of one printed text joined."""
    joined = []
    for output in outputs:
        before = joined[-1] if joined else {}
        is_text = output.get("output_type") == "stream"
        if is_text and before.get("name") == output["name"]:
            text = "".join(before["text"]) + "".join(output["text"])
            before["text"] = text.splitlines(keepends=True)
        else:
            joined.append(output)
    return joined


def without_progress(outputs: list[dict]) -> list[dict]:
    """The outputs, with the last state of each line; what is empty then, goes."""
    kept = []
    for output in outputs:
        if output.get("output_type") == "stream":
            lines = "".join(output["text"]).split("\n")
            text = "\n".join(line.rpartition("\r")[2] for line in lines)
            if not text.strip():
                continue
            output["text"] = text.splitlines(keepends=True)
        kept.append(output)
    return kept


def rewrite(path: Path) -> None:
    """Slim a notebook's file, whole or not at all, and print both sizes."""
    before = path.stat().st_size
    notebook = json.loads(path.read_text(encoding="utf8"))
    slim(notebook)
    text = json.dumps(notebook, indent=1, ensure_ascii=False)
    temporary = path.with_suffix(".slim")
    temporary.write_text(text + "\n", encoding="utf8")
    os.replace(temporary, path)
    after = path.stat().st_size
    print(f"{path.name}: {before / 2**20:.2f} MiB to {after / 2**20:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="*", type=Path)
    lessons = sorted((ROOT / "notebooks").glob("*.ipynb"))
    for path in parser.parse_args().notebooks or lessons:
        rewrite(path)


if __name__ == "__main__":
    main()
