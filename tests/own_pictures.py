"""Sprites and sheets that several tests read, as a user's own."""

import numpy as np
from PIL import Image


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path


def random_sprites(n, side=16, seed=0, colours=6):
    """Blots of different shapes and colours on a transparent background."""
    rng = np.random.default_rng(seed)
    palette = rng.integers(0, 256, (colours, 3))
    tiles = np.zeros((n, side, side, 4), np.uint8)
    for tile in tiles:
        left, top = rng.integers(0, side // 3, 2)
        right, bottom = rng.integers(side // 2, side, 2)
        shape = (bottom - top, right - left)
        drawn = rng.random(shape) < 0.8
        tile[top:bottom, left:right, :3] = palette[rng.integers(0, colours, shape)]
        tile[top:bottom, left:right, 3] = np.where(drawn, 255, 0)
    return tiles


def sheet_of(tiles, columns, margin=0, spacing=0, ground=(0, 0, 0, 0)):
    height, width = tiles.shape[1:3]
    rows = -(-len(tiles) // columns)
    sheet = np.zeros(
        (
            2 * margin + rows * (height + spacing) - spacing,
            2 * margin + columns * (width + spacing) - spacing,
            4,
        ),
        np.uint8,
    )
    sheet[:] = ground
    for place, tile in enumerate(tiles):
        y = margin + place // columns * (height + spacing)
        x = margin + place % columns * (width + spacing)
        sheet[y : y + height, x : x + width] = tile
    return sheet


# ---- A sheet drawn by hand -----------------------------------------------------------

# Sixteen tiles of 8x8: heart, key, skull, potion, sword, coin, mushroom, tree; fish,
# ghost, moon, star, house, flag, the flag mirrored, boat.
SHEET = """
........ ..kkk... .kkkkkk. ..kkkk.. ......kk ..kkkk.. ..kkkk.. ...kk...
.kk..kk. .kyyyk.. kwwwwwwk ...kk... .....ksk .kyyyyk. .krrwrk. ..kggk..
krrkkrrk .ky.yk.. kwkwwkwk ..kwwk.. ....ksk. kyywyyyk krwrrrrk .kggggk.
krwrrrrk .kyyyk.. kwkwwkwk .kwbwwk. k..ksk.. kyyynyyk krrrrwrk ..kggk..
krrrrrrk ..kyk... kwwkkwwk kbbbbbbk .kksk... kyynyyyk kkkkkkkk .kggggk.
.krrrrk. ..kyyk.. .kwwwwk. kbbwbbbk ..kk.... kyyyyyyk ..kwwk.. kggggggk
..krrk.. ..kyk... .kwkwwk. kbbbbbbk .knkk... .kyyyyk. ..kwwk.. .kknnkk.
...kk... ..kyyk.. ..kkkk.. .kkkkkk. kk..k... ..kkkk.. ..kkkk.. ...kk...

........ ..kkkk.. ..kkk... ...kk... ...kk... kk...... ......kk ...k....
..kkkk.k .kwwwwk. .kyyk... ...yy... ..krrk.. krrkkk.. ..kkkrrk ...kwk..
.kbbbbkk kwkwkwwk kyyk.... kkkyykkk .krrrrk. krrrrrkk kkrrrrrk ...kwwk.
kbwbbbbk kwkwkwwk kyyk.... .kyyyyk. krrrrrrk krrrkkk. .kkkrrrk ...kwwwk
kbkbbbbk kwwwwwwk kyyk...k ..kyyk.. .kwwwwk. kkkk.... ....kkkk ...k....
.kbbbbkk kwwwwwwk kyyykkyk .kyyyyk. .kwnwbk. k....... .......k kkkkkkkk
..kkkk.k kwkwwkwk .kyyyyk. kyykkyyk .kwnwwk. k....... .......k .knnnnk.
........ .k.kk.k. ..kkkk.. kk....kk .kkkkkk. k....... .......k ..kkkk..
"""
COLOURS = {
    ".": "00000000",
    "k": "2a1f3dff",
    "r": "d8434eff",
    "y": "f2c14eff",
    "g": "4fa65bff",
    "b": "4a7fd0ff",
    "n": "8a5a3cff",
    "s": "b9c4d6ff",
    "w": "ffffffff",
}
OPAQUE = {tuple(bytes.fromhex(colour[:6])) for colour in [*COLOURS.values()][1:]}


def draw_sheet(path):
    lines = [list(line.replace(" ", "")) for line in SHEET.split("\n") if line]
    letters = np.array(lines)
    pixels = np.zeros((*letters.shape, 4), np.uint8)
    for letter, colour in COLOURS.items():
        pixels[letters == letter] = [*bytes.fromhex(colour)]
    Image.fromarray(pixels).save(path)


def colours_in(pixels):
    return {tuple(pixel) for pixel in pixels.reshape(-1, 3).tolist()}
