"""Atlases: JSON files that say where the frames of a sheet are.

TexturePacker and Aseprite write them, as "JSON hash" or "JSON array":
https://www.codeandweb.com/texturepacker and https://www.aseprite.org/docs/sprite-sheet
"""

import math
import re
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tables import stored

import diffusion_utilities as du
from own.colours import TRANSPARENT

LARGEST = 256  # side of a frame: a damaged atlas must not fill the memory


@dataclass(frozen=True)
class Frame:
    """A frame of a sheet, in pixels.

    corner: (x, y) in the sheet. part: (width, height) of what the sheet holds of it.
    offset: (x, y) of that part in the frame, which is larger if it was trimmed.
    size: (width, height) of the frame.
    """

    name: str
    corner: tuple[int, int]
    part: tuple[int, int]
    offset: tuple[int, int]
    size: tuple[int, int]

    @classmethod
    def of(cls, name: str, entry: dict) -> "Frame":
        """The frame of an atlas's entry. Raises ValueError that says what is wrong."""
        try:
            place = entry["frame"]
            trimmed = entry.get("spriteSourceSize", {"x": 0, "y": 0})
            whole = entry.get("sourceSize", place)
            corner = (place["x"], place["y"])
            part = (place["w"], place["h"])
            offset = (trimmed["x"], trimmed["y"])
            size = (whole["w"], whole["h"])
        except (KeyError, TypeError, AttributeError):
            raise ValueError("without x, y, w and h") from None
        numbers = (*corner, *part, *offset, *size)
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("with other numbers than whole ones from 0")
        if entry.get("rotated"):
            raise ValueError("rotated; export the atlas without rotation")
        if max(size) > LARGEST:
            raise ValueError(f"with a side of more than {LARGEST} pixels")
        ends = np.add(offset, part)
        if 0 in part or (ends > size).any():
            raise ValueError("whose part does not fit its sourceSize")
        return cls(name, corner, part, offset, size)

    def cut(self, sheet: np.ndarray) -> np.ndarray:
        """The frame (height, width, 4) out of a sheet (H, W, 4)."""
        tile = np.empty((self.size[1], self.size[0], 4), np.uint8)
        tile[:] = TRANSPARENT
        width, height = self.part
        x, y = self.corner
        part = sheet[y : y + height, x : x + width]
        x, y = self.offset
        tile[y : y + height, x : x + width] = part
        return tile

    def check_inside(self, sheet: np.ndarray) -> None:
        """Raise ValueError if a sheet (H, W, 4) does not hold the whole part."""
        x, y = np.add(self.corner, self.part)
        if y > sheet.shape[0] or x > sheet.shape[1]:
            raise ValueError("outside the sheet: is it the atlas of another one?")


def read_atlas(path: str | Path) -> list[tuple[str, object]]:
    """The entries of an atlas, each with its name; they are not checked.

    Raises FileNotFoundError for a missing file, and ValueError for another format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; expected an atlas, a JSON file"
        )
    frames = stored(path, {}).get("frames")
    if isinstance(frames, dict):
        return [*frames.items()]
    if isinstance(frames, list):
        return [(name_of(entry), entry) for entry in frames]
    raise ValueError(
        f"{path} has no frames; expected an atlas as TexturePacker and Aseprite write "
        "it: JSON hash, or JSON array"
    )


def name_of(entry) -> str:
    """The name of an entry of a JSON array."""
    return str(entry.get("filename", "")) if isinstance(entry, dict) else ""


def load_frames(
    sheet: str | Path,
    atlas: str | Path,
    tile: int | tuple[int, int] | None = None,
    *,
    background=None,
) -> tuple[np.ndarray, list[Path]]:
    """The frames of a sheet as `du.load_tiles` returns tiles: (N, H, W, 4), N paths.

    tile: the side of frames, or (width, height); other ones are left out. None for the
        size that most frames have.
    background: as in `du.load_tiles`.

    A printed line says what was left out. The path of a frame is its name in the atlas,
    below the path of the sheet.

    Raises errors as `read_atlas` and `du.load_tiles` do, and ValueError if no frame is
    left.
    """
    entries = read_atlas(atlas)
    whole = du.load_picture(sheet).size
    [pixels], _ = du.load_tiles(sheet, whole)  # the sheet as a single tile
    frames, faults = sorted_out(entries, pixels, tile)
    lines = [told(fault, names) for fault, names in faults.items()]
    if not frames:
        raise ValueError(
            f"{atlas} has no frame that can be used. {'; '.join(lines)}".rstrip()
        )
    for line in lines:
        print(f"left out: {line}")
    tiles, places = without_background(frames, pixels, background, Path(sheet))
    return tiles, [Path(sheet) / harmless(frames[place].name) for place in places]


def without_background(
    frames: list[Frame], pixels: np.ndarray, background, sheet: Path
) -> tuple[np.ndarray, list[int]]:
    """(tiles that are drawn, the places of their frames), by way of a folder of PNGs.

    The helper reads it as it would read a folder of the user's.
    """
    with tempfile.TemporaryDirectory() as folder:
        for place, frame in enumerate(frames):
            words = re.sub(r"[^\w-]+", " ", frame.name)[:60]
            picture = Image.fromarray(frame.cut(pixels))
            picture.save(Path(folder) / f"{place:06d} {words}.png")
        try:
            tiles, files = du.load_tiles(folder, frames[0].size, background=background)
        except ValueError as error:
            raise ValueError(str(error).replace(folder, str(sheet))) from None
    return tiles, [int(file.name[:6]) for file in files]


def sorted_out(entries, pixels: np.ndarray, tile) -> tuple[list[Frame], dict]:
    """(the frames that can be cut out of pixels (H, W, 4), {fault: other names})."""
    faults = {}
    frames = []
    for name, entry in entries:
        try:
            frame = Frame.of(name, entry)
            frame.check_inside(pixels)
            frames.append(frame)
        except ValueError as error:
            faults.setdefault(str(error), []).append(name)
    if tile is None and frames:
        [(tile, _)] = Counter(frame.size for frame in frames).most_common(1)
    wanted = tuple(tile) if isinstance(tile, tuple | list) else (tile, tile)
    for frame in frames:
        if frame.size != wanted:
            fault = "{}x{} pixels; expected {}x{}".format(*frame.size, *wanted)
            faults.setdefault(fault, []).append(frame.name)
    return [frame for frame in frames if frame.size == wanted], faults


def told(fault: str, names: list[str]) -> str:
    """One line for all frames with the same fault."""
    first = repr(names[0][:60])
    if len(names) == 1:
        return f"the frame {first}: {fault}"
    return f"{len(names)} frames, such as {first}: {fault}"


def harmless(name: str) -> str:
    """A frame's name as a path that stays below the sheet's."""
    parts = name.replace("\\", "/").replace(":", "_").split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))


def sprite_name(place: int) -> str:
    """The file in sprites/, and the frame in the atlas, of a sprite on the sheet."""
    return f"{place:02d}.png"


def as_atlas(n: int, size: tuple[int, int], columns: int = 8) -> dict:
    """The atlas of sheet.png with n tiles of a size (width, height): "JSON hash".

    The tiles stand as in `as_sheet`, and have the names of the files in sprites/.
    """
    width, height = size
    rows = max(1, math.ceil(n / columns))
    frames = {}
    for place in range(n):
        x, y = place % columns * width, place // columns * height
        frames[sprite_name(place)] = {
            "frame": {"x": x, "y": y, "w": width, "h": height},
            "rotated": False,
            "trimmed": False,
            "spriteSourceSize": {"x": 0, "y": 0, "w": width, "h": height},
            "sourceSize": {"w": width, "h": height},
        }
    meta = {
        "app": "own_sprites.py",
        "version": "1.0",
        "image": "sheet.png",
        "format": "RGBA8888",
        "size": {"w": columns * width, "h": rows * height},
        "scale": "1",
    }
    return {"frames": frames, "meta": meta}
