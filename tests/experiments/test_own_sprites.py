"""The program that draws in the style of a user's own sprites.

The whole of it on a small sheet, and its folder.
"""

import json

import numpy as np
import pytest
from own.atlas import as_atlas
from own.palettes import read_palette
from own_pictures import random_sprites, save, sheet_of
from PIL import Image
from tables import write_json


@pytest.fixture
def own(program):
    return program("own_sprites")


@pytest.fixture
def sheet(tmp_path):
    return save(tmp_path / "mine.png", sheet_of(random_sprites(40, 8), 8))


def run(own, *words):
    own.main([str(word) for word in words])


@pytest.fixture
def quick(own, monkeypatch):
    monkeypatch.setattr("own.training.LOOKS", 2)
    return own


SHORT = ("--tile", 8, "--minutes", 0.01, "--samples", 12, "--steps", 2)
FILES = {
    *("understood.png", "progress.png", "weights.pth", "report.json", "copies.png"),
    *("sheet.png", "sheet_indexed.png", "sheet.json", "palette.gpl", "sprites"),
}


@pytest.mark.slow
def test_the_program_writes_everything_and_goes_on(quick, sheet, tmp_path, capsys):
    out = tmp_path / "out"
    run(quick, sheet, "--out", out, *SHORT)
    names = {file.name for file in out.iterdir()}
    assert names == FILES
    report = json.loads((out / "report.json").read_text(encoding="utf8"))
    chosen = report["samples"]["chosen"]
    assert len(list((out / "sprites").iterdir())) == chosen
    with Image.open(out / "sheet.png") as picture:
        sheet_pixels = np.asarray(picture)
        assert picture.mode == "RGBA"
    for place in range(chosen):
        with Image.open(out / "sprites" / f"{place:02d}.png") as picture:
            y, x = place // 8 * 8, place % 8 * 8
            assert (sheet_pixels[y : y + 8, x : x + 8] == np.asarray(picture)).all()
    with Image.open(out / "sheet_indexed.png") as picture:
        assert picture.mode == "P"
        assert (sheet_pixels == np.asarray(picture.convert("RGBA"))).all()
    atlas = json.loads((out / "sheet.json").read_text(encoding="utf8"))
    assert {*atlas["frames"]} == {file.name for file in (out / "sprites").iterdir()}
    assert "is this what you meant?" in capsys.readouterr().out
    run(quick, sheet, "--out", out, *SHORT)
    again = json.loads((out / "report.json").read_text(encoding="utf8"))
    assert len(again["runs"]) == 2
    assert again["runs"][1]["before"] < again["runs"][0]["before"]
    assert "going on from" in capsys.readouterr().out


def test_nothing_new_is_an_empty_sheet(own, sheet, tmp_path):
    collection = own.understand(sheet, 8)
    choice = own.choose(collection.tiles, collection)
    assert len(choice.order) == 0
    own.write_sprites(tmp_path, collection.tiles, choice, collection)
    with Image.open(tmp_path / "sheet.png") as picture:
        assert not np.asarray(picture).any()
    none = own.Choice(choice.order, choice.order, choice.nearest, choice.strangeness)
    own.write_sprites(tmp_path, collection.tiles, none, collection)
    with Image.open(tmp_path / "copies.png") as picture:
        assert not np.asarray(picture).any()


@pytest.mark.slow
def test_sprites_are_drawn_in_the_palettes_colours(quick, sheet, tmp_path, capsys):
    mine = tmp_path / "mine.hex"
    mine.write_text("102030\nf0e0d0\n80c040\n", encoding="utf8")
    out = tmp_path / "out"
    run(quick, sheet, "--out", out, *SHORT, "--palette", mine)
    with Image.open(out / "sheet.png") as picture:
        pixels = np.asarray(picture).reshape(-1, 4)
    drawn = set(map(tuple, pixels[pixels[:, 3] > 0].tolist()))
    assert drawn <= {(16, 32, 48, 255), (240, 224, 208, 255), (128, 192, 64, 255)}
    assert (read_palette(out / "palette.gpl") == read_palette(mine)).all()
    with Image.open(out / "sheet_indexed.png") as picture:
        colours = picture.getpalette()[:12]
    assert colours == [0, 0, 0, *read_palette(mine).flatten()]
    with pytest.raises(SystemExit):
        run(quick, sheet, "--out", out, *SHORT)
    assert "folders of them or colours; give another --out" in capsys.readouterr().err


def test_an_atlas_beside_the_sheet_is_used(own, sheet, tmp_path, capsys):
    atlas = tmp_path / "mine.json"
    write_json(atlas, as_atlas(20, (8, 8)))  # the sheet has forty tiles

    def read(*words):
        options = own.command_line().parse_args([str(word) for word in words])
        return len(own.read(options).tiles)

    assert read(sheet) == 20
    assert f"{atlas} says where the tiles are" in capsys.readouterr().out
    assert read(sheet, "--tile", 8) == 40
    assert read(sheet, "--tile", 8, "--atlas", atlas) == 20
    atlas.write_text('{"frames": 3}', encoding="utf8")
    with pytest.raises(ValueError, match="is 64x40 pixels"):
        read(sheet)  # cut into 16x16, as without it
    assert f"not used: {atlas} has no frames" in capsys.readouterr().out


def test_noise_is_called_noise(own, tmp_path, capsys):
    samples = {"drawn": 9, "copies": 1, "chosen": 8}
    for times, is_noise in ((2.5, True), (1.05, False), (None, False)):
        own.tell({"samples": {**samples, "times_as_strange_as_yours": times}}, tmp_path)
        assert ("are still noise" in capsys.readouterr().out) == is_noise


@pytest.mark.slow
def test_other_sprites_need_another_folder(quick, sheet, tmp_path, capsys):
    out = tmp_path / "out"
    run(quick, sheet, "--out", out, *SHORT)
    before = {file: file.read_bytes() for file in out.glob("*.*")}
    other = save(tmp_path / "other.png", sheet_of(random_sprites(40, 8, seed=2), 8))
    with pytest.raises(SystemExit):
        run(quick, other, "--out", out, *SHORT)
    assert "was made from other sprites" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in out.glob("*.*")} == before


def test_a_folder_that_cannot_be_written_is_named(own, sheet, capsys):
    with pytest.raises(SystemExit):
        run(own, sheet, "--out", sheet, *SHORT)
    assert f"--out {sheet} cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sheet.png", "weights.pth", "sprites/00.png"])
def test_files_of_another_origin_are_not_overwritten(own, name, tmp_path, capsys):
    tiles = random_sprites(40, 8)
    mine = save(tmp_path / "sheet.png", sheet_of(tiles, 8))
    out = tmp_path / "out"
    theirs = out / name
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(mine.read_bytes())
    path = theirs if name == "sheet.png" else mine
    with pytest.raises(SystemExit):
        run(own, path, "--out", out, *SHORT)
    said = capsys.readouterr().err
    assert f"holds {name.split('/')[0]} and no report.json" in said
    assert theirs.read_bytes() == mine.read_bytes()
    assert len([file for file in out.rglob("*") if file.is_file()]) == 1


def test_a_run_killed_before_its_first_report_goes_on(
    quick, sheet, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    written = quick.write_json

    def killed(path, content):
        if content["runs"]:
            raise SystemExit("killed")
        written(path, content)

    monkeypatch.setattr(quick, "write_json", killed)
    with pytest.raises(SystemExit, match="killed"):
        run(quick, sheet, "--out", out, *SHORT)
    assert (out / "weights.pth").exists()
    monkeypatch.setattr(quick, "write_json", written)
    capsys.readouterr()
    run(quick, sheet, "--out", out, *SHORT)
    assert "going on from" in capsys.readouterr().out


def test_an_interrupted_run_draws_with_what_it_has(quick, sheet, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(quick, "train", interrupted)
    run(quick, sheet, "--out", tmp_path / "out", *SHORT)
    assert (tmp_path / "out" / "sheet.png").exists()


def test_a_folder_inside_that_of_the_sprites_is_refused(own, sheet, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(own, tmp_path, "--out", tmp_path / "out", *SHORT)
    assert "would be read as yours" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (("--tile", "16x16x16"), "expected 16 or 16x24"),
        (("--tile", "small"), "small: expected 16 or 16x24"),
        (("--background", "nonsense"), "expected auto, none, a colour"),
        (("--minutes", "-1"), "--minutes -1.0"),
        (("--minutes", "nan"), "--minutes nan"),
        (("--minutes", "inf"), "--minutes inf"),
        (("--steps", "0"), "--steps 0"),
        (("--steps", "501"), "--steps 501"),
        (("--samples", "0"), "--samples 0"),
        (("--tile", "7"), "expected sides"),
        (("--tile", "8", "--ask", "dragons"), "--ask dragons; expected a subfolder"),
        (("--tile", "8", "--palette", "no.gpl"), "no.gpl does not exist"),
        (("--tile", "8", "--palette", "no.pal"), "ends in .gpl or .hex"),
        (("--tile", "8", "--atlas", "no.json"), "no.json does not exist"),
        (("--atlas", "no.json", "--spacing", "1"), "without margin and spacing"),
    ],
)
def test_bad_options_are_named(own, sheet, tmp_path, capsys, words, said):
    with pytest.raises(SystemExit):
        run(own, sheet, "--out", tmp_path / "out", *words)
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_sheet_is_an_error_without_a_traceback(own, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(own, tmp_path / "nowhere.png", "--out", tmp_path / "out")
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("text, value", [("16", 16), ("16x24", (16, 24))])
def test_sizes(own, text, value):
    assert own.size(text) == value


@pytest.mark.parametrize(
    "text, value",
    [
        ("auto", "auto"),
        ("none", None),
        ("#476c6c", (71, 108, 108)),
        ("71,108,108", (71, 108, 108)),
        ("magenta", (255, 0, 255)),
    ],
)
def test_colours(own, text, value):
    assert own.colour(text) == value
