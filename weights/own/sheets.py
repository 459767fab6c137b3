"""Sheets: tiles side by side, for a game or to look at."""

import math
from pathlib import Path

import numpy as np
from PIL import Image

import diffusion_utilities as du
from own.choosing import Choice
from own.collection import Collection


def as_sheet(tiles: np.ndarray, columns: int = 8) -> Image.Image:
    """Tiles (N, H, W, 4) side by side, row by row, as a picture with alpha.

    Transparent pixels are (0, 0, 0, 0), and so is what is left of the last row. Without
    tiles it is one row that is transparent: a PNG must have pixels.

    Lesson 16.
    """
    n, height, width = tiles.shape[:3]
    rows = max(1, math.ceil(n / columns))
    every = np.zeros((rows * columns, height, width, 4), np.uint8)
    every[:n] = np.where(tiles[..., 3:] > 0, tiles, 0)
    grid = every.reshape(rows, columns, height, width, 4).swapaxes(1, 2)
    return Image.fromarray(grid.reshape(rows * height, columns * width, 4))


def as_indexed(picture: Image.Image, palette: np.ndarray) -> Image.Image:
    """The same picture (RGBA) with a palette, as indexed PNGs have one.

    palette: (K, 4) uint8. Colour 0 of the picture is transparent; the drawn colours of
        the palette follow in their order.

    Raises ValueError for more than 256 colours, and for a picture with other ones.
    """
    transparent = np.zeros((1, 4), np.uint8)
    colours = np.concatenate([transparent, palette[palette[:, 3] > 0]])
    if len(colours) > 256:
        raise ValueError(f"{len(colours)} colours; an indexed PNG has at most 256")
    pixels = np.asarray(picture)
    same = (pixels[:, :, None] == colours).all(3)
    if not same.any(2).all():
        raise ValueError("the picture has colours that are not in the palette")
    indices = same.argmax(2).astype(np.uint8)
    indexed = Image.frombytes("P", picture.size, indices.tobytes())
    indexed.putpalette(colours[:, :3].tobytes())
    indexed.info["transparency"] = colours[:, 3].tobytes()
    return indexed


def on_checkerboard(tiles: np.ndarray) -> np.ndarray:
    """Tiles (N, H, W, 4) on two greys, as drawing programs show what is transparent."""
    height, width = tiles.shape[1:3]
    y, x = np.indices((height, width)) // 4
    squares = (y + x) % 2
    ground = np.where(squares, 206, 236)[..., None]
    alpha = tiles[..., 3:] / 255
    mixed = tiles[..., :3] * alpha + ground * (1 - alpha)
    return mixed.round().astype(np.uint8)


def contact_sheet(collection: Collection, most: int = 400) -> Image.Image:
    """What was understood, on a checkerboard: held-out tiles stand last."""
    order = np.argsort(collection.held, kind="stable")
    count = min(most, len(order))
    places = np.linspace(0, len(order) - 1, count).astype(int)
    tiles = on_checkerboard(collection.tiles[order[places]])
    zoom = max(1, 48 // tiles.shape[1])
    return du.show_images(tiles, columns=20, zoom=zoom)


def copies_sheet(
    tiles: np.ndarray, choice: Choice, collection: Collection
) -> Image.Image:
    """Each copy above the tile of yours that it repeats, at most 32 of them."""
    shown = choice.copies[:32]
    originals = collection.tiles[choice.nearest[shown]]
    pairs = np.stack([tiles[shown], originals], 1)
    height, width = tiles.shape[1:3]
    return as_sheet(pairs.reshape(-1, height * 2, width, 4), 16)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    with du.written_whole(path) as temporary, open(temporary, "wb") as file:
        picture.save(file, format="PNG")


def save_text(text: str, path: Path) -> None:
    """Write a text file, whole or not at all."""
    with du.written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf8")
