"""A learner's own pictures: a folder with everything in it that folders have, and a hand-drawn sheet that goes through the whole of lesson 9; and
the program that repeats the lesson's comparison."""

import ast
import hashlib
import json
import re
import struct
import sys
import zlib
from dataclasses import asdict, replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

import diffusion_utilities as du

ROOT = Path(__file__).resolve().parents[2]
LESSON = ROOT / "notebooks" / "09_your_own_sprites.ipynb"


# --------------------------------------------------------------------------------------------------------------- a folder


def raw_png(size, depth, kind, rows=b"", transparent=b""):
    """A PNG written by hand, for what Pillow reads but doesn't write; `kind`: 0 grey, 2 colour, 4 grey with alpha."""

    def chunk(name, content):
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    head = struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0)
    extra = chunk(b"tRNS", transparent) if transparent else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def of_one_colour(depth, kind, *values, **options):
    row = (
        b"\0"
        + struct.pack(f">{len(values)}{'H' if depth == 16 else 'B'}", *values) * 16
    )
    return raw_png((16, 16), depth, kind, row * 16, **options)


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
    "palette": (Image.new("RGB", (16, 16), (200, 30, 30)).quantize(4), (200, 30, 30)),
    "transparent": (Image.new("RGBA", (16, 16), (255, 0, 0, 51)), (255, 204, 204)),
}
BAD = {  # name: (its bytes, words that must be said about it)
    "alone_on_the_ground": (
        of_one_colour(8, 0, 9, transparent=b"\0\x09"),
        "is empty: white or transparent",
    ),
    "blank": (Image.new("RGBA", (16, 16)), "is empty: white or transparent"),
    "cut_short": (
        of_one_colour(8, 2, 1, 2, 3)[:50],
        "not a picture that Pillow can read",
    ),
    "gigantic": (
        raw_png((30000, 30000), 8, 0),
        "not a picture that Pillow can read (Image size (900000000 pixels) exceeds limit",
    ),
    "large": (Image.new("L", (4000, 3000)), "is 4000x3000 pixels; expected 16x16"),
    "no_head": (
        raw_png((16, 16), 8, 0).replace(b"IHDR", b"IHXX"),
        "not a picture that Pillow can read",
    ),
    "nothing": (b"", "not a picture that Pillow can read (0 bytes)"),
    "text": (
        b"a shopping list",
        "not a picture that Pillow can read (cannot identify image file)",
    ),
    "tiny": (Image.new("RGB", (8, 8)), "is 8x8 pixels; expected 16x16"),
}


def fill(folder, files):
    for name, (content, _) in files.items():
        if isinstance(content, bytes):
            (folder / f"{name}.png").write_bytes(content)
        else:
            content.save(folder / f"{name}.png")
    (folder / "folder.png").mkdir()


def test_of_a_folder_the_good_are_used_and_each_of_the_others_gets_a_clear_word(
    tmp_path, capsys
):
    fill(tmp_path, GOOD | BAD)
    pictures = du.load_sprite_pictures(tmp_path)
    assert pictures.shape == (len(GOOD), 16, 16, 3) and pictures.dtype == np.uint8
    for picture, (_, colour) in zip(pictures, GOOD.values()):  # sorted by name, both
        assert (picture == colour).all()
    said = capsys.readouterr().out.splitlines()
    assert [line.split(".png ")[0] for line in said] == [
        f"left out: {name}" for name in sorted([*BAD, "folder"])
    ]
    for line, words in zip(
        (line for line in said if "folder.png" not in line),
        (words for _, words in BAD.values()),
    ):
        assert words in line and str(tmp_path) not in line


def test_a_folder_of_which_nothing_is_left_is_an_error_that_names_each_fault(tmp_path):
    fill(tmp_path, BAD)
    with pytest.raises(
        ValueError,
        match=re.escape(
            f"{tmp_path} holds no tile with anything drawn on it (10 PNGs found)"
        ),
    ) as error:
        du.load_sprite_pictures(tmp_path)
    assert all(
        f"{name}.png is " in str(error.value) and words in str(error.value)
        for name, (_, words) in BAD.items()
    )


@pytest.mark.parametrize("name", BAD)
def test_a_single_file_that_cannot_be_used_is_an_error(name, tmp_path):
    if name in ("large", "tiny"):
        pytest.skip("a sheet may have any size that the tile divides")
    fill(tmp_path, {name: BAD[name]})
    with pytest.raises(
        ValueError,
        match=re.escape(f"{name}.png {'is' if 'not' in BAD[name][1] else ''}"),
    ):
        du.load_sprite_pictures(tmp_path / f"{name}.png")


# ---------------------------------------------------------------------------------------------------------- a sheet by hand

# Sixteen tiles of 8x8: heart, key, skull, potion, sword, coin, mushroom, tree; fish, ghost, moon, star, house, flag, the flag turned round, boat.
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
COLOURS = {".": "00000000", "k": "2a1f3dff", "r": "d8434eff", "y": "f2c14eff", "g": "4fa65bff", "b": "4a7fd0ff", "n": "8a5a3cff", "s": "b9c4d6ff",
           "w": "ffffffff"}  # fmt: skip


def draw_sheet(path):
    letters = np.array(
        [list(line.replace(" ", "")) for line in SHEET.split("\n") if line]
    )
    pixels = np.zeros((*letters.shape, 4), np.uint8)
    for letter, colour in COLOURS.items():
        pixels[letters == letter] = [*bytes.fromhex(colour)]
    Image.fromarray(pixels).save(path)


def test_the_hand_drawn_sheet_is_cut_into_its_tiles(tmp_path):
    draw_sheet(tmp_path / "mine.png")
    tiles = du.load_sprite_pictures(tmp_path / "mine.png", tile=8)
    assert (
        tiles.shape == (16, 8, 8, 3)
        and (tiles[13][:, ::-1] == tiles[14]).all()
        and not (tiles[0] == tiles[1]).all()
    )
    assert {tuple(pixel) for pixel in tiles.reshape(-1, 3)} == {
        tuple(bytes.fromhex(colour[:6])) for colour in list(COLOURS.values())[1:]
    }


# What makes the lesson short enough for a test: two steps of training, few of sampling.
SHORTER = {"STEPS = 90 ": "STEPS = 2 ", '"steps": 50': '"steps": 8'}


def code_of_the_lesson():
    return [
        cell.source
        for cell in nbformat.read(LESSON, 4).cells
        if cell.cell_type == "code"
    ]


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    """The names that lesson 9 has defined after all its cells ran on the hand-drawn sheet, with nothing changed but what a learner changes."""
    folder = tmp_path_factory.mktemp("lesson")
    draw_sheet(folder / "mine.png")
    sheet, out = str(folder / "mine.png"), str(folder / "game")
    changes = {
        "MY_SPRITES = None": f"MY_SPRITES = {sheet!r}",
        "TILE = 16": "TILE = 8",
        "OUT = None": f"OUT = {out!r}",
    }
    source = "\n".join(code_of_the_lesson())
    for old, new in (changes | SHORTER).items():
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(LESSON.parent)
        exec(compile(source, LESSON.name, "exec"), names)
    return names


def test_lesson_9_takes_the_sheet_and_knows_the_turned_flag(lesson):
    assert lesson["mine"].shape == (16, 16, 16, 3)
    family, held = lesson["family"], lesson["held"]
    assert len(set(family)) == 15 and family[13] == family[14] and held[13] == held[14]
    assert 2 <= held.sum() <= 4 and len(lesson["train"]) + len(lesson["held_out"]) == 16
    assert not lesson["leaks"](lesson["unique"], held) and lesson["leaks"](
        lesson["unique"], np.arange(16) == 13
    )


def test_lesson_9_writes_a_sheet_that_a_game_can_load(lesson):
    with (
        Image.open(lesson["out"] / "sprites.png") as png,
        Image.open(lesson["out"] / "sprites.gif") as gif,
    ):
        pixels = np.asarray(png)
        assert png.size == (128, 128) and png.mode == "RGBA" and gif.n_frames > 5
    assert (
        set(np.unique(pixels[..., 3])) <= {0, 255}
        and not pixels[pixels[..., 3] == 0].any()
    )
    ours = {tuple(bytes.fromhex(colour[:6])) for colour in COLOURS.values()} | {
        (255, 255, 255)
    }
    assert {tuple(pixel) for pixel in pixels[pixels[..., 3] == 255][:, :3]} <= ours
    atlas = json.loads((lesson["out"] / "sprites.json").read_text(encoding="utf8"))
    places = {(sprite["x"], sprite["y"]) for sprite in atlas["sprites"]}
    assert (
        places == {(x, y) for x in range(0, 128, 16) for y in range(0, 128, 16)}
        and len({sprite["name"] for sprite in atlas["sprites"]}) == 64
    )


def test_white_that_is_shut_in_is_no_ground(lesson):
    """All of the skull's bone, the ghost and the house's walls is kept, and nothing else that is white."""
    rows = [block.split("\n") for block in SHEET.strip().split("\n\n")]
    for i in (2, 9, 12):
        picture = lesson["mine"][i]
        ground = lesson["ground_of"](picture)
        painted = sum(line.split(" ")[i % 8].count("w") for line in rows[i // 8])
        assert (ground <= (picture == 255).all(2)).all() and (
            (picture == 255).all(2) & ~ground
        ).sum() == painted


def test_the_three_files_for_the_training_program_are_read_as_written(lesson):
    for part, right in (("train", lesson["train"]), ("test", lesson["held_out"])):
        assert (du.load_sprites(part, lesson["out"] / "data").images == right).all()


# ------------------------------------------------------------------------------------------------------- three seeds


@pytest.fixture
def shipped(program, monkeypatch):
    monkeypatch.syspath_prepend(str(du.WEIGHTS))
    return program("own_sprites")


@pytest.fixture
def own_sprites(shipped, monkeypatch):
    """One seed, two sampling steps, the loss at one step, and networks of 8 features (from random numbers, the shipped ones do not fit)."""
    runs = {
        name: replace(run, shipped=False)
        for name, run in shipped.RUNS.items()
        if name.endswith("seed 1")
    }
    for name, value in {
        "RUNS": runs,
        "SAMPLING_STEPS": 2,
        "LOSS_STEPS": (200,),
    }.items():
        monkeypatch.setattr(shipped, name, value)
    monkeypatch.setattr(shipped.du, "ContextUnet", lambda *_: CONTEXT_UNET(3, 8, 5, 16))
    return shipped


CONTEXT_UNET = du.ContextUnet


def run(own_sprites, monkeypatch, out, *extra):
    monkeypatch.setattr(
        sys,
        "argv",
        ["own_sprites.py", "--out", str(out), "--steps", "3", "--samples", "6", *extra],
    )
    own_sprites.main()
    return json.loads(out.read_text(encoding="utf8"))


def test_rows_are_added_and_those_there_are_kept(own_sprites, monkeypatch, tmp_path):
    """A row is trained if it is missing, or if its settings were others."""
    out, runs = tmp_path / "own.json", own_sprites.RUNS
    monkeypatch.setattr(
        own_sprites,
        "RUNS",
        {name: runs[name] for name in ("shipped, seed 1", "scratch, seed 1")},
    )
    first = run(own_sprites, monkeypatch, out)
    monkeypatch.setattr(
        own_sprites,
        "RUNS",
        runs | {"scratch, seed 1": replace(runs["scratch, seed 1"], rate=1e-3)},
    )
    trained, train = [], own_sprites.train
    monkeypatch.setattr(
        own_sprites,
        "train",
        lambda *arguments: trained.append(arguments[0]) or train(*arguments),
    )
    every = run(own_sprites, monkeypatch, out)
    assert list(every["runs"]) == list(runs) and trained == [
        own_sprites.RUNS[name] for name in list(runs)[1:]
    ]
    assert every["runs"]["shipped, seed 1"] == first["runs"]["shipped, seed 1"]
    for name, row in every["runs"].items():
        assert row["run"] == asdict(own_sprites.RUNS[name])
        shares = [
            row[measure]
            for measure in (
                "memorised",
                "copies",
                "distance",
                "legal",
                "heroes",
                "with a pair",
            )
        ]
        assert (
            row["held_out_loss"] > 0
            and row["training_loss"] > 0
            and all(0 <= value <= 1 for value in shares)
        )
    assert (
        set(every["real"]) == {"fine-tuned", "four pictures"}
        and every["real"]["fine-tuned"]["legal"] == 1
    )
    assert (
        every["real"]["fine-tuned"]["distance"]
        < every["real"]["four pictures"]["distance"]
    )


def test_other_settings_are_refused(own_sprites, monkeypatch, tmp_path, capsys):
    """More samples than stored, another sheet, and the shipped file."""
    out = tmp_path / "own.json"
    monkeypatch.setattr(
        own_sprites, "RUNS", {"shipped, seed 1": own_sprites.RUNS["shipped, seed 1"]}
    )
    before = run(own_sprites, monkeypatch, out)
    with pytest.raises(SystemExit):
        run(own_sprites, monkeypatch, out, "--samples", "7")
    with pytest.raises(SystemExit):
        run(
            own_sprites, monkeypatch, out, "--out", str(du.WEIGHTS / "own_sprites.json")
        )
    pictures = own_sprites.sheet()
    monkeypatch.setattr(
        own_sprites, "sheet", lambda: tuple(255 - part for part in pictures)
    )
    with pytest.raises(SystemExit):
        run(own_sprites, monkeypatch, out)
    said = capsys.readouterr().err
    assert (
        said.count("remove it or give another --out") == 2
        and "would overwrite the shipped results" in said
    )
    assert json.loads(out.read_text(encoding="utf8")) == before


def test_what_a_run_depends_on(own_sprites):
    """On the seed, and on nothing else that is random; an untrained one is the network that it started from."""
    pictures, _ = own_sprites.sheet()

    def weights(**changes):
        return own_sprites.train(
            replace(own_sprites.KINDS["scratch"], **changes), pictures, 2
        ).state_dict()["out.3.weight"]

    trained, untrained = weights(), weights(trained=False)
    assert (
        torch.equal(trained, weights())
        and not torch.equal(trained, weights(seed=2))
        and not torch.equal(trained, untrained)
    )
    torch.manual_seed(1)
    assert torch.equal(
        untrained, CONTEXT_UNET(3, 8, 5, 16).state_dict()["out.3.weight"]
    )


def test_shares_of_known_pictures(shipped):
    """Training pictures are copies and memorised; a training sprite of no pair and a food are what they are."""
    training, held_out = shipped.sheet()
    own, new = (
        shipped.shares(training[:4], training[:4]),
        shipped.shares(held_out, training),
    )
    assert own == {
        "memorised": 1,
        "copies": 1,
        "distance": pytest.approx(0, abs=1e-3),
        "legal": 1,
        "heroes": 1,
        "with a pair": 1,
    }
    assert (
        new["copies"] == new["memorised"] == 0
        and new["distance"] > 0.1
        and new["with a pair"] == 1
    )
    sprites = du.load_sprites("train")
    heroes, food = (
        sprites.images[sprites.labels[:, du.CLASS_NAMES.index(name)] == 1][:5]
        for name in ("hero", "food")
    )
    mixed = shipped.shares(np.concatenate([heroes, food]), training)
    assert (mixed["heroes"], mixed["with a pair"], mixed["legal"]) == (0.5, 0, 1)


def test_the_program_has_the_lessons_sheet_and_split(shipped, monkeypatch):
    """The lesson compares pictures to find the copies, the program knows them."""
    cells, names = code_of_the_lesson(), {}
    end = next(
        i
        for i, source in enumerate(cells)
        if source.endswith("train, held_out = unique[~held], unique[held]")
    )
    monkeypatch.chdir(LESSON.parent)
    exec(compile("\n".join(cells[: end + 1]), LESSON.name, "exec"), names)
    for ours, theirs in zip(shipped.sheet(), (names["train"], names["held_out"])):
        assert np.array_equal(ours, theirs)


def test_the_stored_table_has_the_lessons_settings(shipped):
    """Each number as it stands in the lesson's code, in the program's constants and in the stored file."""
    stored = json.loads((du.WEIGHTS / "own_sprites.json").read_text(encoding="utf8"))
    tree = ast.parse("\n".join(code_of_the_lesson()))
    assigned = {
        node.targets[0].id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert (
        stored["settings"]["steps"]
        == shipped.STEPS
        == ast.literal_eval(assigned["STEPS"])
    )
    assert ast.literal_eval(assigned["NEAR"]) == shipped.NEAR
    options = ast.literal_eval(assigned["options"])
    assert options.pop("keep") and options == {
        "steps": stored["settings"]["sampling_steps"],
        "variance": "beta_tilde",
        "clip": True,
    }
    assert (
        stored["settings"]["sampling_steps"] == shipped.SAMPLING_STEPS
        and stored["settings"]["samples"] == shipped.SAMPLES == 64
    )
    assert "torch.randn((64, 3, 16, 16)" in ast.unparse(assigned["x_T"])

    code = ast.unparse(tree)
    for part in (
        "('fine-tuned', copy.deepcopy(shipped), 0.001), ('scratch', ContextUnet(3, 64, 5, 16), 0.002)",
        f"WEIGHTS / {shipped.START!r}",
        "few = train[:4]",
        "train_for(STEPS, copy.deepcopy(shipped), 0.001, few, batch=16)",
        f"batch=50, memory={shipped.MEMORY}",
        f"min(1, (step + 1) / {shipped.WARM_UP}) * (1 - step / steps)",
        f"min_snr={shipped.MIN_SNR}",
        f"schedule, {shipped.LOSS_STEPS}",
    ):
        assert part in code, part
    kinds = {
        name: (run.rate, run.pictures, run.batch)
        for name, run in shipped.KINDS.items()
        if run.trained
    }
    assert kinds == {
        "fine-tuned": (1e-3, None, 50),
        "scratch": (2e-3, None, 50),
        "four pictures": (1e-3, 4, 16),
    }

    assert {name: row["run"] for name, row in stored["runs"].items()} == {
        name: asdict(run) for name, run in shipped.RUNS.items()
    }
    assert (
        stored["settings"]["start"]
        == hashlib.sha256((du.WEIGHTS / shipped.START).read_bytes()).hexdigest()
    )
    assert (
        stored["settings"]["sheet"]
        == hashlib.sha256(np.concatenate(shipped.sheet()).tobytes()).hexdigest()
    )
