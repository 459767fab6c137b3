"""Make the pictures that notebooks are saved with smaller: `python tests/tools/slim.py [NOTEBOOK ...]`, after they were executed.

A picture of up to 256 colours, and those of most sprites have fewer, gets a palette and keeps every pixel; of more, it keeps 256 that come near. Run
again it changes nothing. Left as they are: pictures with a transparent ground, moving ones, and those inside of HTML (the players of animations).
"""

import argparse
import base64
import io
import json
import os
import re
from pathlib import Path

from PIL import Image

PNG = re.compile(r"(?<=data:image/png;base64,)[A-Za-z0-9+/=]+")


def slimmer(encoded: str) -> str:
    """A base64 PNG, packed with a palette; or itself where that is not smaller, or would lose its transparency or its frames."""
    picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
    if (
        getattr(picture, "n_frames", 1) > 1
        or picture.convert("RGBA").getextrema()[3][0] < 255
    ):
        return encoded
    opaque = picture.convert("RGB")
    exact = opaque.getcolors(256) is not None
    method, rounds = (
        (Image.Quantize.MAXCOVERAGE, 0) if exact else (Image.Quantize.MEDIANCUT, 1)
    )
    opaque.quantize(256, method, rounds, dither=Image.Dither.NONE).save(
        buffer := io.BytesIO(), "PNG", optimize=True
    )
    packed = base64.b64encode(buffer.getvalue()).decode()
    return packed if len(packed) < len(encoded) else encoded


def slim(notebook: dict) -> None:
    """Repack, in place, the pictures of every output and of the widgets' saved state."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if "image/png" in (data := output.get("data", {})):
                data["image/png"] = slimmer(
                    "".join(data["image/png"]).replace("\n", "")
                )
    for model in (
        notebook["metadata"]
        .get("widgets", {})
        .get("application/vnd.jupyter.widget-state+json", {})
        .get("state", {})
        .values()
    ):
        if isinstance(page := model.get("state", {}).get("value"), str):
            model["state"]["value"] = PNG.sub(lambda match: slimmer(match[0]), page)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "notebooks",
        nargs="*",
        type=Path,
        default=sorted(Path(__file__).resolve().parent.glob("*.ipynb")),
    )
    for path in parser.parse_args().notebooks:
        notebook, before = (
            json.loads(path.read_text(encoding="utf8")),
            path.stat().st_size,
        )
        slim(notebook)
        temporary = path.with_suffix(".slim")
        temporary.write_text(
            json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf8"
        )
        os.replace(temporary, path)
        print(
            f"{path.name}: {before / 2**20:.2f} MiB to {path.stat().st_size / 2**20:.2f}"
        )


if __name__ == "__main__":
    main()
