"""Reading sprites from sheets and folders.

Alpha, colour keys, sizes and gaps; a folder with everything in it that folders have;
and a sheet drawn by hand.
"""

import re
import struct
import zlib

import numpy as np
import pytest
from own_pictures import OPAQUE, colours_in, draw_sheet, random_sprites, save, sheet_of
from PIL import Image

import diffusion_utilities as du

# ---- Reading: alpha ------------------------------------------------------------------


def test_alpha_is_kept_with_its_holes(tmp_path):
    tile = np.zeros((16, 16, 4), np.uint8)
    tile[2:14, 2:14] = (90, 0, 0, 255)
    tile[5:11, 5:11] = 0
    path = save(tmp_path / "hole.png", tile)
    [read] = du.load_sprite_pictures(path, alpha=True)
    assert (read[..., 3] == tile[..., 3]).all()
    assert (read[tile[..., 3] == 255] == (90, 0, 0, 255)).all()


def test_nearly_white_paint_is_no_background(tmp_path):
    snowball = np.zeros((16, 16, 4), np.uint8)
    snowball[3:13, 3:13] = (240, 240, 250, 255)
    path = save(tmp_path / "snowball.png", snowball)
    for background in (None, "auto"):
        [read] = du.load_sprite_pictures(path, alpha=True, background=background)
        assert (read[..., 3] == snowball[..., 3]).all()


def test_white_on_transparent_is_a_drawing(tmp_path):
    sheet = np.zeros((32, 64, 4), np.uint8)
    sheet[4:12, 4:12] = 255
    path = save(tmp_path / "white.png", sheet)
    assert len(du.load_sprite_pictures(path)) == 1
    [read] = du.load_sprite_pictures(path, alpha=True)
    assert read[..., 3].sum() == 64 * 255


def test_half_transparent_pixels_stay_so(tmp_path):
    shadow = np.zeros((16, 16, 4), np.uint8)
    shadow[8:, 2:14] = (0, 0, 0, 90)
    shadow[2:8, 4:12] = (200, 0, 0, 255)
    [read] = du.load_sprite_pictures(save(tmp_path / "a.png", shadow), alpha=True)
    assert set(np.unique(read[..., 3])) == {0, 90, 255}


# ---- Reading: backgrounds ------------------------------------------------------------

TEAL = (71, 108, 108)


def keyed_sheet(ground):
    tiles = random_sprites(12)
    tiles[tiles[..., 3] == 0] = (*ground, 255)
    return sheet_of(tiles, 4)[..., :3], (tiles[..., :3] == ground).all(3)


@pytest.mark.parametrize("background", ["auto", TEAL])
@pytest.mark.parametrize("ground", [TEAL, (255, 0, 255)])
def test_a_colour_key_becomes_transparent(ground, background, tmp_path):
    sheet, is_ground = keyed_sheet(ground)
    path = save(tmp_path / "keyed.png", sheet)
    key = background if background == "auto" else ground
    tiles = du.load_sprite_pictures(path, alpha=True, background=key)
    assert ((tiles[..., 3] == 0) == is_ground).all()


def test_without_background_a_colour_key_stays(tmp_path):
    sheet, _ = keyed_sheet(TEAL)
    tiles = du.load_sprite_pictures(save(tmp_path / "keyed.png", sheet), alpha=True)
    assert (tiles[..., 3] == 255).all()


def test_a_white_background_ends_at_the_outline(tmp_path):
    """A white eye stays, and so does what touches it diagonally only."""
    face = np.full((16, 16, 3), 255, np.uint8)
    face[3:13, 3:13] = (200, 150, 110)
    face[6:8, 5:7] = 255
    path = save(tmp_path / "face.png", face)
    [tile] = du.load_sprite_pictures(path, alpha=True, background="auto")
    assert (tile[3:13, 3:13, 3] == 255).all()
    assert (tile[:3, :, 3] == 0).all()
    [tile] = du.load_sprite_pictures(path, alpha=True, background=(255, 255, 255))
    assert (tile[6:8, 5:7, 3] == 0).all()


def test_no_background_is_guessed_from_different_corners(tmp_path):
    rng = np.random.default_rng(0)
    floor = rng.integers(0, 255, (64, 64, 3))
    path = save(tmp_path / "floor.png", floor)
    tiles = du.load_sprite_pictures(path, alpha=True, background="auto")
    assert (tiles[..., 3] == 255).all()


@pytest.mark.parametrize("background", ["corner", (1, 2), (1, 2, 300), 7, (1.5, 2, 3)])
def test_another_background_is_refused(background, tmp_path):
    path = save(tmp_path / "a.png", np.zeros((16, 16, 3)))
    with pytest.raises(ValueError, match='background=.*expected three whole .* "auto"'):
        du.load_sprite_pictures(path, background=background)


# ---- Reading: sizes and gaps ---------------------------------------------------------


@pytest.mark.parametrize("tile, size", [(8, (8, 8)), ((16, 32), (16, 32))])
def test_tiles_of_any_sides(tile, size, tmp_path):
    width, height = size
    rng = np.random.default_rng(0)
    sheet = rng.integers(0, 255, (2 * height, 3 * width, 3))
    tiles = du.load_sprite_pictures(save(tmp_path / "a.png", sheet), tile)
    assert tiles.shape == (6, height, width, 3)
    assert (tiles[4] == sheet[height:, width : 2 * width]).all()


@pytest.mark.parametrize("margin, spacing", [(0, 1), (1, 1), (2, 3), (5, 0)])
def test_margin_and_spacing(margin, spacing, tmp_path):
    tiles = random_sprites(20)
    sheet = sheet_of(tiles, 5, margin, spacing, ground=(9, 9, 9, 255))
    path = save(tmp_path / "gaps.png", sheet)
    read = du.load_sprite_pictures(path, alpha=True, margin=margin, spacing=spacing)
    assert (read[..., 3] == tiles[..., 3]).all()
    drawn = tiles[..., 3] == 255
    assert (read[drawn] == tiles[drawn]).all()


def test_gaps_that_do_not_show_in_the_size_are_hinted_at(tmp_path, capsys):
    """272 pixels are 17 tiles of 16, or 16 tiles with gaps of one."""
    sheet = np.full((272, 272, 4), (0, 0, 0, 255), np.uint8)
    tiles = random_sprites(256)
    sheet[:271, :271] = sheet_of(tiles, 16, spacing=1, ground=(0, 0, 0, 255))
    path = save(tmp_path / "gaps.png", sheet)
    du.load_sprite_pictures(path)
    assert "try spacing=1" in capsys.readouterr().out
    read = du.load_sprite_pictures(path, alpha=True, spacing=1)
    assert (read[..., 3] == tiles[..., 3]).all()
    assert "try" not in capsys.readouterr().out


def test_a_sheet_without_gaps_gets_no_hint(tmp_path, capsys):
    sheet = sheet_of(random_sprites(17 * 17), 17)
    du.load_sprite_pictures(save(tmp_path / "whole.png", sheet))
    assert not capsys.readouterr().out


def test_a_size_that_does_not_fit_names_the_gaps(tmp_path):
    path = save(tmp_path / "gaps.png", np.zeros((67, 67, 3)))
    with pytest.raises(ValueError, match="67x67 .* with spacing=1 it would fit"):
        du.load_sprite_pictures(path)


@pytest.mark.parametrize("tile", ["16", 1.5, (16,), (16, 16, 16), (16, "a")])
def test_another_tile_is_refused(tile, tmp_path):
    path = save(tmp_path / "a.png", np.zeros((16, 16, 3)))
    with pytest.raises(ValueError, match=r"tile=.*expected .*\(width, height\)"):
        du.load_sprite_pictures(path, tile)


@pytest.mark.parametrize("name", ["margin", "spacing"])
def test_a_negative_gap_is_refused(name, tmp_path):
    path = save(tmp_path / "a.png", np.zeros((16, 16, 3)))
    with pytest.raises(ValueError, match=f"{name}=-1"):
        du.load_sprite_pictures(path, **{name: -1})


# ---- Reading: folders ----------------------------------------------------------------


def test_every_format_is_read_and_subfolders_too(tmp_path, capsys):
    picture = Image.new("RGB", (16, 16), (200, 30, 30))
    endings = ("png", "jpg", "gif", "bmp", "webp", "tga", "PNG")
    for place, ending in enumerate(endings):
        folder = tmp_path / f"sub{place}" / "deeper"
        folder.mkdir(parents=True)
        picture.save(folder / f"a.{ending}")
    (tmp_path / "notes.txt").write_text("no picture")
    tiles, files = du.load_tiles(tmp_path)
    assert len(tiles) == len(files) == len(endings)
    assert files == sorted(files)
    assert abs(tiles[..., :3].astype(int) - (200, 30, 30)).max() < 12  # JPEG
    assert "not pictures: 1 (.txt)" in capsys.readouterr().out


def test_hidden_files_and_folders_are_not_read(tmp_path, capsys):
    """Such as the thumbnails of a file manager, and a repository's own files."""
    folder = tmp_path / ".above"  # what lies above the folder does not matter
    for name in ("a", ".b", ".thumbnails/a", "sub/.cache/a"):
        save(folder / f"{name}.png", np.zeros((16, 16, 3)))
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("no picture")
    _, files = du.load_tiles(folder)
    assert files == [folder / "a.png"]
    assert capsys.readouterr().out == ""


def test_many_files_with_the_same_fault_get_one_line(tmp_path, capsys):
    for n in range(50):
        save(tmp_path / f"small_{n:02d}.png", np.zeros((19, 19, 3)))
    for n in range(40):
        save(tmp_path / f"large_{n:02d}.png", np.zeros((40, 40, 3)))
    save(tmp_path / "right.png", np.zeros((16, 16, 3)))
    assert len(du.load_sprite_pictures(tmp_path)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "50 files, such as small_00.png: each is 19x19 pixels" in lines[1]
    (tmp_path / "right.png").unlink()
    with pytest.raises(ValueError) as error:
        du.load_sprite_pictures(tmp_path)
    assert len(str(error.value)) < 700


def test_many_different_faults_do_not_fill_the_screen(tmp_path):
    for n in range(17, 80):
        save(tmp_path / f"{n}.png", np.zeros((n, n, 3)))
    with pytest.raises(ValueError, match="43 more with other faults"):
        du.load_sprite_pictures(tmp_path)


# ---- A folder ------------------------------------------------------------------------


def chunk(name, content):
    """One part of a PNG."""
    checksum = zlib.crc32(name + content)
    length = len(content)
    return struct.pack(">I", length) + name + content + struct.pack(">I", checksum)


def raw_png(size, depth, kind, rows=b"", transparent=b""):
    """A PNG written by hand, for what Pillow reads but doesn't write.

    kind: 0 grey, 2 colour, 4 grey with alpha.
    """
    head = struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", head)]
    if transparent:
        parts.append(chunk(b"tRNS", transparent))
    parts.append(chunk(b"IDAT", zlib.compress(rows)))
    parts.append(chunk(b"IEND", b""))
    return b"".join(parts)


def of_one_colour(depth, kind, *values, **options):
    """A PNG of 16x16 equal pixels."""
    letter = "H" if depth == 16 else "B"
    pixel = struct.pack(f">{len(values)}{letter}", *values)
    row = b"\0" + pixel * 16
    return raw_png((16, 16), depth, kind, row * 16, **options)


def red_in_a_palette():
    return Image.new("RGB", (16, 16), (200, 30, 30)).quantize(4)


GOOD = {  # name: (how it is written, the colour that must come back)
    "colour": (Image.new("RGB", (16, 16), (10, 20, 30)), (10, 20, 30)),
    "colour_in_16_bits": (
        of_one_colour(16, 2, 0x1234, 0x5678, 0x9ABC),
        (0x12, 0x56, 0x9A),
    ),
    "grey": (Image.new("L", (16, 16), 77), (77, 77, 77)),
    "grey_in_16_bits": (of_one_colour(16, 0, 0x4D05), (77, 77, 77)),
    "grey_with_alpha_in_16_bits": (
        of_one_colour(16, 4, 0x0000, 0x3333),
        (204, 204, 204),
    ),
    "one_bit": (Image.new("1", (16, 16), 0), (0, 0, 0)),
    "palette": (red_in_a_palette(), (200, 30, 30)),
    "transparent": (Image.new("RGBA", (16, 16), (255, 0, 0, 51)), (255, 204, 204)),
}
EMPTY = "is empty: white or transparent"
UNREADABLE = "not a picture that Pillow can read"
BAD = {  # name: (its bytes, words that must be said about it)
    "alone_on_the_ground": (of_one_colour(8, 0, 9, transparent=b"\0\x09"), EMPTY),
    "blank": (Image.new("RGBA", (16, 16)), EMPTY),
    "cut_short": (of_one_colour(8, 2, 1, 2, 3)[:50], UNREADABLE),
    "gigantic": (
        raw_png((30000, 30000), 8, 0),
        "is too large: the limit is 16,000,000 pixels",
    ),
    "large": (Image.new("L", (4000, 3000)), "is 4000x3000 pixels; expected 16x16"),
    "no_head": (raw_png((16, 16), 8, 0).replace(b"IHDR", b"IHXX"), UNREADABLE),
    "nothing": (b"", f"{UNREADABLE} (0 bytes)"),
    "text": (b"a shopping list", f"{UNREADABLE} (cannot identify image file)"),
    "tiny": (Image.new("RGB", (8, 8)), "is 8x8 pixels; expected 16x16"),
}
BAD_ALONE = [name for name in BAD if name not in ("large", "tiny")]


def fill(folder, files):
    """Write the files, and a folder that is named like one."""
    for name, (content, _) in files.items():
        path = folder / f"{name}.png"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path)
    (folder / "folder.png").mkdir()


def test_the_good_pictures_of_a_folder_are_used(tmp_path):
    fill(tmp_path, GOOD | BAD)
    pictures = du.load_sprite_pictures(tmp_path)
    assert pictures.shape == (len(GOOD), 16, 16, 3)
    assert pictures.dtype == np.uint8
    for picture, (_, colour) in zip(pictures, GOOD.values()):  # both sorted by name
        assert (picture == colour).all()


def test_a_line_is_printed_for_each_picture_that_is_left_out(tmp_path, capsys):
    fill(tmp_path, GOOD | BAD)
    du.load_sprite_pictures(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    names = [line.split(".png ")[0] for line in lines]
    assert names == [f"left out: {name}" for name in sorted(BAD)]
    for line, (_, words) in zip(lines, BAD.values()):
        assert words in line
        assert str(tmp_path) not in line


def test_a_folder_of_which_nothing_is_left_is_an_error_that_names_each_fault(tmp_path):
    fill(tmp_path, BAD)
    words = f"{tmp_path} holds no tile with anything drawn on it (pictures found: 9)"
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        du.load_sprite_pictures(tmp_path)
    said = str(error.value)
    for name, (_, words) in BAD.items():
        assert f"{name}.png is " in said
        assert words in said


@pytest.mark.parametrize("name", BAD_ALONE)
def test_a_single_file_that_cannot_be_used_is_an_error(name, tmp_path):
    """A large or a tiny one is a sheet, which may have any size that tiles divide."""
    fill(tmp_path, {name: BAD[name]})
    with pytest.raises(ValueError, match=re.escape(f"{name}.png")):
        du.load_sprite_pictures(tmp_path / f"{name}.png")


def test_a_short_name_is_not_taken_out_of_the_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.png", np.zeros((8, 8, 3))).rename("a")
    (tmp_path / "is").write_bytes(b"")
    with pytest.raises(ValueError, match="is damaged, or is not a picture that"):
        du.load_tiles("is")
    with pytest.raises(ValueError, match="a is 8x8 pixels; expected"):
        du.load_tiles("a")


def test_a_folder_without_pictures_is_told_which_are_read(tmp_path):
    with pytest.raises(ValueError, match=r"Expected files that end in \.png, "):
        du.load_tiles(tmp_path)


# ---- A sheet drawn by hand -----------------------------------------------------------


def test_the_hand_drawn_sheet_is_cut_into_its_tiles(tmp_path):
    draw_sheet(tmp_path / "mine.png")
    tiles = du.load_sprite_pictures(tmp_path / "mine.png", tile=8)
    assert tiles.shape == (16, 8, 8, 3)
    assert (tiles[13][:, ::-1] == tiles[14]).all()
    assert (tiles[0] != tiles[1]).any()
    assert colours_in(tiles) == OPAQUE
