"""A user's sprites: what was read, and which of them are held out."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import diffusion_utilities as du
from own.atlas import load_frames
from own.colours import in_colours, limited, palette_of
from own.relatives import families

SIDES = range(8, 33)  # of a tile, in pixels
FEW = 300  # with 215 sprites, a third of the samples were copies


@dataclass(frozen=True)
class Collection:
    """A user's sprites, ready to train on.

    tiles: (N, height, width, 4) uint8, in the colours of the palette.
    names: where each comes from. labels: the name of its folder, or "".
    family: (N,), equal for relatives: copies that may be shifted, mirrored, recoloured.
    held: (N,) bool, True for what is held out: whole families.
    palette: (K, 4) uint8.
    """

    tiles: np.ndarray
    names: list[str]
    labels: list[str]
    family: np.ndarray
    held: np.ndarray
    palette: np.ndarray

    @property
    def train(self) -> np.ndarray:
        return self.tiles[~self.held]

    @property
    def held_out(self) -> np.ndarray:
        return self.tiles[self.held]

    @property
    def classes(self) -> list[str]:
        """The labels there are; none if all tiles have the same one."""
        different = sorted(set(self.labels))
        return different if len(different) > 1 else []

    def contexts(self) -> Tensor | None:
        """One-hot rows of the labels (N, classes); None without classes."""
        if not self.classes:
            return None
        places = [self.classes.index(label) for label in self.labels]
        return torch.eye(len(self.classes))[places]


def understand(
    path: str | Path,
    tile: int | tuple[int, int] | None = None,
    *,
    only_transparent: bool = False,
    palette: np.ndarray | None = None,
    **cut,
) -> Collection:
    """Read a sheet or a folder of sprites.

    tile, cut: how; the arguments of `read_tiles`.
    only_transparent: leave out tiles without a transparent pixel, such as floors.
    palette: (K, 3) uint8, the colours that tiles may have; see `limited`.

    Sides may have 8 to 32 pixels. Exact copies are left out, relatives stay on one side
    of the split, and a label is the name of the folder that a tile lies in.

    Raises errors as `read_tiles` does, and ValueError for sides out of range, and for
    fewer than two different sprites.

    Lesson 16.
    """
    tiles, files = read_tiles(path, tile, **cut)
    check_sides(tiles)
    if palette is not None:
        tiles = limited(tiles, palette)
    kept = worth_keeping(tiles, only_transparent)
    if len(kept) < 2:
        raise ValueError(
            f"{path} holds {len(kept)} different sprites; expected at least two, "
            "preferably a hundred"
        )
    files = [files[place] for place in kept]
    tiles = tiles[kept]
    colours = palette_of(tiles, palette)
    tiles = in_colours(tiles, colours)
    family = families(tiles)
    return Collection(
        tiles=tiles,
        names=[file.name for file in files],
        labels=labels_of(path, files),
        family=family,
        held=split(family),
        palette=colours,
    )


def read_tiles(
    path: str | Path,
    tile: int | tuple[int, int] | None = None,
    *,
    margin: int = 0,
    spacing: int = 0,
    background="auto",
    atlas: str | Path | None = None,
) -> tuple[np.ndarray, list[Path]]:
    """The tiles of a sheet or a folder: (N, H, W, 4), N paths.

    tile: None for 16, or for what the atlas says.
    margin, spacing, background: as in `du.load_tiles`.
    atlas: a file that says where the tiles of a sheet are; see `load_frames`.

    Raises errors as these two do.
    """
    if atlas is None:
        tile = 16 if tile is None else tile
        return du.load_tiles(
            path, tile, margin=margin, spacing=spacing, background=background
        )
    if margin or spacing or Path(path).is_dir():
        raise ValueError(
            f"{atlas} says where the tiles of a sheet are; expected a sheet, without "
            "margin and spacing"
        )
    return load_frames(path, atlas, tile, background=background)


def check_sides(tiles: np.ndarray) -> None:
    """Raise ValueError for tiles whose sides are not among SIDES."""
    height, width = tiles.shape[1:3]
    if height not in SIDES or width not in SIDES:
        raise ValueError(
            f"the tiles have {width}x{height} pixels; expected sides from {SIDES[0]} "
            f"to {SIDES[-1]}: scale the sprites, or cut the sheet into smaller tiles"
        )


def worth_keeping(tiles: np.ndarray, only_transparent: bool) -> np.ndarray:
    """The places of the different tiles; prints how many others there are."""
    kept = first_of_equal(tiles)
    if len(kept) < len(tiles):
        print(f"left out: {len(tiles) - len(kept)} tiles equal to another one")
    if only_transparent:
        transparent = (tiles[kept, ..., 3] == 0).any((1, 2))
        if not transparent.all():
            print(f"left out: {(~transparent).sum()} tiles that are opaque")
        kept = kept[transparent]
    return kept


def first_of_equal(tiles: np.ndarray) -> np.ndarray:
    """The place of the first of each group of equal tiles, in their order."""
    _, first = np.unique(tiles.reshape(len(tiles), -1), axis=0, return_index=True)
    return np.sort(first)


def labels_of(path: str | Path, files: list[Path]) -> list[str]:
    """The name of the folder of each file or frame; "" for those in `path` itself."""
    folders = [file.relative_to(path).parent.as_posix() for file in files]
    return ["" if folder == "." else folder for folder in folders]


def split(family: np.ndarray, share: float = 0.1, seed: int = 0) -> np.ndarray:
    """True for held-out tiles (N,): whole families, about that share of the tiles.

    With fewer than twelve families nothing can be spared.
    """
    names = np.random.default_rng(seed).permutation(np.unique(family))
    held = np.zeros(len(family), bool)
    if len(names) < 12:
        return held
    wanted = max(2, round(share * len(family)))
    for name in names:
        more = held | (family == name)
        if more.sum() <= wanted:
            held = more
    return held


def described(collection: Collection) -> str:
    """What was understood, in words."""
    n, height, width = collection.tiles.shape[:3]
    count = len(np.unique(collection.family))
    words = (
        f"{n} sprites of {width}x{height} pixels in {len(collection.palette)} colours; "
        f"{count} families of relatives; {collection.held.sum()} held out"
    )
    if collection.classes:
        words += f"; folders: {', '.join(collection.classes)}"
    if n < FEW:
        words += f"\nfewer than {FEW} sprites: expect copies"
    return words


def fingerprint(collection: Collection) -> str:
    """SHA-256 of the sprites, and of their labels: others need another folder."""
    content = hashlib.sha256(collection.tiles.tobytes())
    if collection.classes:
        content.update(json.dumps(collection.labels).encode())
    return content.hexdigest()
