"""The files that other programs for sprites read and write: palettes, atlases, PNGs."""

import json

import numpy as np
import pytest
from own.atlas import as_atlas, load_frames
from own.collection import understand
from own.colours import limited
from own.palettes import gimp_palette, read_palette
from own.sheets import as_indexed, as_sheet, save_picture
from own_pictures import random_sprites, save, sheet_of
from PIL import GimpPaletteFile, Image

CLEAR = (255, 255, 255, 0)


def write(path, text, encoding="utf8"):
    path.write_text(text, encoding=encoding)
    return path


# ---- Palettes ------------------------------------------------------------------------

GIMP = """GIMP Palette
Name: Three and a half
Columns: 4
#
  0   0   0\tUntitled
255 128   0 Fire 7
# a comment, and an empty line

 12\t13\t14
255 128   0\tFire again
"""
WITH_ALPHA = """GIMP Palette
Channels: RGBA
#
  0   0   0   0 Transparent
  0   0   0 255 Black
255 128   0 255 Fire
 12  13  14 200 Smoke
"""
HEX = "000000\nFF8000\n\n#0c0d0e\n"
THREE = [[0, 0, 0], [255, 128, 0], [12, 13, 14]]


@pytest.mark.parametrize(
    "name, text", [("a.gpl", GIMP), ("b.gpl", WITH_ALPHA), ("c.HEX", HEX)]
)
@pytest.mark.parametrize("encoding", ["utf8", "utf-8-sig"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_palettes_are_read(name, text, encoding, ending, tmp_path):
    path = tmp_path / name
    path.write_bytes(text.replace("\n", ending).encode(encoding))
    assert read_palette(path).tolist() == THREE
    assert read_palette(path).dtype == np.uint8


def test_a_name_in_another_encoding_does_not_matter(tmp_path):
    path = tmp_path / "a.gpl"
    path.write_bytes("GIMP Palette\nName: Grün\n1 2 3 Weiß\n".encode("latin-1"))
    assert read_palette(path).tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("a.gpl", "JASC-PAL\n0100\n", "line 1: expected the words GIMP Palette"),
        ("a.gpl", "", "line 1: expected the words GIMP Palette"),
        ("a.gpl", "GIMP Palette\n#\n1 2\n", "line 3: '1 2'; expected 3 whole numbers"),
        ("a.gpl", "GIMP Palette\n1 2 256\n", "line 2: '1 2 256'; expected 3 whole"),
        ("a.gpl", "GIMP Palette\n1 -2 3\n", "line 2: '1 -2 3'; expected 3 whole"),
        ("a.gpl", "GIMP Palette\nChannels: RGBA\n1 2 3 a\n", "line 3: .* expected 4"),
        ("a.gpl", "GIMP Palette\nName: none\n", "0 different colours; expected 1 to"),
        ("a.hex", "ff0000\nff00\n", "line 2: 'ff00'; expected six hexadecimal digits"),
        ("a.hex", "red\n", "line 1: 'red'; expected six hexadecimal digits"),
        ("a.hex", "\n", "0 different colours; expected 1 to 256"),
        ("a.hex", "\n".join(f"{n:06x}" for n in range(257)), "257 different colours"),
        ("a.pal", "GIMP Palette\n1 2 3\n", "ends in .gpl or .hex"),
    ],
)
def test_what_is_wrong_with_a_palette_is_said(name, text, said, tmp_path):
    path = write(tmp_path / name, text)
    with pytest.raises(ValueError, match=said) as caught:
        read_palette(path)
    assert str(path) in str(caught.value)


def test_a_missing_palette_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="a.gpl does not exist"):
        read_palette(tmp_path / "a.gpl")


def test_a_palette_is_written_as_gimp_and_pillow_read_it(tmp_path):
    palette = np.array([CLEAR, (1, 20, 255, 255), (0, 0, 0, 255)], np.uint8)
    path = write(tmp_path / "a.gpl", gimp_palette(palette))
    assert read_palette(path).tolist() == [[1, 20, 255], [0, 0, 0]]
    with open(path, "rb") as file:
        bytes_, mode = GimpPaletteFile.GimpPaletteFile(file).getpalette()
    assert (mode, bytes_[:6]) == ("RGB", bytes([1, 20, 255, 0, 0, 0]))


def test_tiles_are_limited_to_colours():
    white_only = np.array([[255, 255, 255]], np.uint8)
    black = np.array([[[(0, 0, 0, 255), (0, 0, 0, 127), (9, 9, 9, 128)]]], np.uint8)
    white = (255, 255, 255, 255)
    assert limited(black, white_only).tolist() == [[[[*white], [*CLEAR], [*white]]]]
    colours = np.array(THREE, np.uint8)
    tiles = np.array([[[(250, 130, 9, 255), (13, 13, 13, 255)]]], np.uint8)
    assert limited(tiles, colours)[0, 0, :, :3].tolist() == [
        [255, 128, 0],
        [12, 13, 14],
    ]


@pytest.mark.parametrize("count", [20, 100])
def test_a_collection_has_only_the_palettes_colours(count, tmp_path):
    path = save(tmp_path / "a.png", sheet_of(random_sprites(30, colours=90), 6))
    colours = np.random.default_rng(1).integers(0, 256, (count, 3)).astype(np.uint8)
    found = understand(path, palette=colours)
    palette = found.palette[found.palette[:, 3] > 0]
    assert (palette[:, 3] == 255).all()
    if count == 20:
        assert (palette[:, :3] == colours).all()  # all of them, in their order
    assert set(map(tuple, palette[:, :3].tolist())) <= set(map(tuple, colours.tolist()))
    plain = understand(path)
    assert ((plain.tiles[..., 3] == 0) == (found.tiles[..., 3] == 0)).all()


# ---- Indexed PNGs --------------------------------------------------------------------


@pytest.mark.parametrize("side", [8, 20])
def test_an_indexed_sheet_is_equal_to_the_sheet(side, tmp_path):
    tiles = random_sprites(11, side, colours=50)
    tiles[0, :2] = (10, 20, 30, 99)  # partly transparent
    palette = np.unique(tiles.reshape(-1, 4), axis=0)
    sheet = as_sheet(tiles)
    save_picture(as_indexed(sheet, palette), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P"
        assert (np.asarray(picture.convert("RGBA")) == np.asarray(sheet)).all()
        indices = np.asarray(picture)
    drawn = palette[palette[:, 3] > 0]
    assert (indices[:2, :side] == 1 + drawn.tolist().index([10, 20, 30, 99])).all()
    assert (indices[np.asarray(sheet)[..., 3] == 0] == 0).all()


def test_an_indexed_sheet_needs_a_palette_that_has_its_colours():
    sheet = as_sheet(random_sprites(4, 8))
    with pytest.raises(ValueError, match="colours that are not in the palette"):
        as_indexed(sheet, np.array([(1, 2, 3, 255)], np.uint8))
    with pytest.raises(ValueError, match="257 colours; an indexed PNG has at most 256"):
        as_indexed(sheet, np.full((256, 4), 255, np.uint8))


# ---- Atlases -------------------------------------------------------------------------


def entry(x, y, w, h, *, source=None, offset=(0, 0), **more):
    """A frame of an atlas; source: the size that it had before it was trimmed."""
    width, height = source or (w, h)
    return {
        "frame": {"x": x, "y": y, "w": w, "h": h},
        "rotated": False,
        "trimmed": source is not None,
        "spriteSourceSize": {"x": offset[0], "y": offset[1], "w": w, "h": h},
        "sourceSize": {"w": width, "h": height},
    } | more


def write_atlas(path, frames):
    meta = {"app": "https://www.aseprite.org/", "version": "1.3", "scale": "1"}
    path.write_text(json.dumps({"frames": frames, "meta": meta}), encoding="utf8")
    return path


@pytest.fixture
def tiles():
    sprites = random_sprites(12)
    sprites[sprites[..., 3] == 0] = CLEAR
    return sprites


@pytest.fixture
def sheet(tiles, tmp_path):
    """Four rows of three, with gaps that no grid has: 1 to the left, 5 between rows."""
    pixels = np.zeros((4 * 21, 49, 4), np.uint8)
    for place, tile in enumerate(tiles):
        x, y = corner(place)
        pixels[y : y + 16, x : x + 16] = tile
    return save(tmp_path / "mine.png", pixels)


def corner(place):
    return 1 + place % 3 * 16, place // 3 * 21


def entries(n=12):
    return {f"hero {place}": entry(*corner(place), 16, 16) for place in range(n)}


def as_array(frames):
    return [frame | {"filename": name} for name, frame in frames.items()]


@pytest.mark.parametrize("form", [dict, as_array])
def test_frames_are_cut_as_the_atlas_says(form, tiles, sheet, tmp_path, capsys):
    atlas = write_atlas(tmp_path / "a.json", form(entries()))
    found, paths = load_frames(sheet, atlas)
    assert (found == tiles).all()
    assert [path.name for path in paths] == [f"hero {place}" for place in range(12)]
    assert capsys.readouterr().out == ""


def test_trimmed_frames_get_their_transparent_border_again(tiles, sheet, tmp_path):
    frames = {}
    for place, tile in enumerate(tiles):
        x, y = corner(place)
        rows = np.flatnonzero(tile[..., 3].any(1))
        columns = np.flatnonzero(tile[..., 3].any(0))
        left, top = int(columns[0]), int(rows[0])
        width, height = int(columns[-1]) - left + 1, int(rows[-1]) - top + 1
        frames[str(place)] = entry(
            x + left, y + top, width, height, source=(16, 16), offset=(left, top)
        )
    found, _ = load_frames(sheet, write_atlas(tmp_path / "a.json", frames))
    assert (found == tiles).all()


def test_folders_in_names_are_labels_and_stay_below_the_sheet(sheet, tmp_path):
    names = ["food/apple", "food/pear", "/../../etc/x", "C:\\x", "..", ""]
    names += [f"hero/{place}" for place in range(6)]
    frames = dict(zip(names, entries().values()))
    found = understand(sheet, atlas=write_atlas(tmp_path / "a.json", frames))
    assert found.labels[:6] == ["food", "food", "etc", "C_", "", ""]
    assert found.classes == ["", "C_", "etc", "food", "hero"]
    assert found.names[:2] == ["apple", "pear"]


def test_frames_of_another_kind_are_left_out_in_groups(sheet, tiles, tmp_path, capsys):
    frames = entries(7)
    for place in range(3):
        frames[f"large {place}"] = entry(0, 0, 19, 21)
    frames["turned"] = entry(*corner(8), 16, 16, rotated=True)
    frames["outside"] = entry(48, 0, 16, 16)
    frames["negative"] = entry(-1, 0, 16, 16)
    frames["half"] = entry(1.5, 0, 16, 16)
    frames["odd"] = {"frame": 3}
    frames["no frame"] = None
    frames["trimmed badly"] = entry(1, 0, 16, 16, source=(16, 16), offset=(1, 0))
    frames["vast"] = entry(1, 0, 16, 16, source=(10**9, 10**9))
    frames["nothing"] = entry(17, 16, 16, 5, source=(16, 16))
    found, _ = load_frames(sheet, write_atlas(tmp_path / "a.json", frames))
    assert (found == tiles[:7]).all()
    said = capsys.readouterr().out
    for line in (
        "3 frames, such as 'large 0': 19x21 pixels; expected 16x16",
        "the frame 'turned': rotated; export the atlas without rotation",
        "the frame 'outside': outside the sheet: is it the atlas of another one?",
        "2 frames, such as 'negative': with other numbers than whole ones from 0",
        "2 frames, such as 'odd': without x, y, w and h",
        "the frame 'trimmed badly': whose part does not fit its sourceSize",
        "the frame 'vast': with a side of more than 256 pixels",
        "nothing.png is empty",
    ):
        assert line in said
    assert said.count("left out") == 8


def test_the_tile_size_chooses_among_frames(sheet, tmp_path, capsys):
    frames = entries() | {"a": entry(0, 0, 12, 10), "b": entry(9, 30, 12, 10)}
    atlas = write_atlas(tmp_path / "a.json", frames)
    found, paths = load_frames(sheet, atlas, (12, 10))
    assert found.shape == (2, 10, 12, 4)
    assert [path.name for path in paths] == ["a", "b"]
    assert "12 frames, such as 'hero 0': 16x16 pixels; exp" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no frame that can be used. 12 frames, such"):
        load_frames(sheet, atlas, 8)


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "a.json is damaged"),
        ("[]", "a.json holds a list; expected a dictionary"),
        ('{"textures": []}', "a.json has no frames; expected an atlas as"),
        ('{"frames": 7}', "a.json has no frames; expected an atlas as"),
        ('{"frames": {}}', "a.json has no frame that can be used"),
    ],
)
def test_another_file_than_an_atlas_is_refused(text, said, sheet, tmp_path):
    with pytest.raises(ValueError, match=said):
        load_frames(sheet, write(tmp_path / "a.json", text))


def test_a_sheet_without_a_drawing_is_named_itself(tmp_path):
    pixels = np.full((16, 32, 4), 255, np.uint8)
    pixels[:, :, 1] = 0  # a purple key all over
    sheet = save(tmp_path / "purple.png", pixels)
    atlas = write_atlas(tmp_path / "a.json", {"a": entry(0, 0, 16, 16)})
    with pytest.raises(
        ValueError, match="purple.png holds no tile with anything drawn"
    ):
        load_frames(sheet, atlas, background=(255, 0, 255))


def test_an_atlas_is_of_a_sheet_without_gaps(sheet, tmp_path):
    atlas = write_atlas(tmp_path / "a.json", entries())
    for path, more in ((sheet, {"spacing": 1}), (sheet, {"margin": 1}), (tmp_path, {})):
        with pytest.raises(ValueError, match="a.json says where the tiles of a sheet"):
            understand(path, atlas=atlas, **more)


@pytest.mark.parametrize("n", [1, 8, 11])
def test_an_atlas_is_written_that_reads_the_sheet(n, tmp_path):
    tiles = random_sprites(n, 20)[:, :, :12]
    tiles[tiles[..., 3] == 0] = CLEAR
    sheet = as_sheet(tiles)
    save_picture(sheet, tmp_path / "sheet.png")
    content = as_atlas(n, (12, 20))
    atlas = write(tmp_path / "sheet.json", json.dumps(content))
    found, paths = load_frames(tmp_path / "sheet.png", atlas)
    assert (found == tiles).all()
    assert paths[0].name == "00.png"
    assert content["meta"]["size"] == {"w": sheet.width, "h": sheet.height}
    assert content["meta"]["image"] == "sheet.png"
