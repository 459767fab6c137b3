"""A learner's own pictures, from a folder of PNGs to a finished sheet.

A hand-drawn sheet that goes through the whole of lesson 16, and the program that
repeats the lesson's comparison. (Reading files: tests/core/test_reading_sprites.py.)
"""

import json
import sys
from dataclasses import asdict, replace

import nbformat
import numpy as np
import pytest
import torch
from own_pictures import OPAQUE, SHEET, colours_in, draw_sheet
from PIL import Image

import diffusion_utilities as du

LESSON = du.COURSE / "notebooks" / "16_your_own_sprites.ipynb"


def code_of_the_lesson():
    cells = nbformat.read(LESSON, 4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def lesson(tmp_path_factory, program):
    """The names that the cells of lesson 16 define on the hand-drawn sheet.

    Nothing is changed but what a learner changes, and the numbers of steps.
    """
    folder = tmp_path_factory.mktemp("lesson")
    draw_sheet(folder / "mine.png")
    shipped = program("fine_tuning")
    changes = {
        "MY_SPRITES = None": f"MY_SPRITES = {str(folder / 'mine.png')!r}",
        "TILE = 16": "TILE = 8",
        "OUT = None": f"OUT = {str(folder / 'game')!r}",
        f"STEPS = {shipped.STEPS} ": "STEPS = 2 ",
        f'"steps": {shipped.SAMPLING_STEPS}': '"steps": 8',
    }
    source = "\n".join(code_of_the_lesson())
    for old, new in changes.items():
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(LESSON.parent)
        exec(compile(source, LESSON.name, "exec"), names)
    return names


@pytest.mark.slow
class TestLesson:
    """The whole of lesson 16 on the hand-drawn sheet, shortened."""

    def test_it_takes_the_sheet_and_knows_the_mirrored_flag(self, lesson):
        assert lesson["mine"].shape == (16, 16, 16, 3)
        family = lesson["family"]
        held = lesson["held"]
        assert len(set(family)) == 15
        assert family[13] == family[14]
        assert held[13] == held[14]
        assert 2 <= held.sum() <= 4
        assert len(lesson["train"]) + len(lesson["held_out"]) == 16

    def test_it_finds_leaks(self, lesson):
        only_one_flag = np.arange(16) == 13
        assert not lesson["leaks"](lesson["unique"], lesson["held"])
        assert lesson["leaks"](lesson["unique"], only_one_flag)

    def test_it_writes_a_sheet_that_a_game_can_load(self, lesson):
        with Image.open(lesson["out"] / "sprites.png") as png:
            pixels = np.asarray(png)
            assert png.size == (128, 128)
            assert png.mode == "RGBA"
        alpha = pixels[..., 3]
        assert set(np.unique(alpha)) <= {0, 255}
        assert not pixels[alpha == 0].any()
        assert colours_in(pixels[alpha == 255][:, :3]) <= OPAQUE | {(0, 0, 0)}

    def test_it_writes_an_animation(self, lesson):
        with Image.open(lesson["out"] / "sprites.gif") as gif:
            assert gif.n_frames > 5

    def test_it_writes_where_each_sprite_is(self, lesson):
        text = (lesson["out"] / "sprites.json").read_text(encoding="utf8")
        sprites = json.loads(text)["sprites"]
        places = {(sprite["x"], sprite["y"]) for sprite in sprites}
        corners = range(0, 128, 16)
        assert places == {(x, y) for x in corners for y in corners}
        assert len({sprite["name"] for sprite in sprites}) == 64

    @pytest.mark.parametrize("tile", [2, 9, 12])
    def test_white_that_is_enclosed_is_no_background(self, lesson, tile):
        """All of the skull's bone, the ghost and the house's walls is kept."""
        rows = SHEET.strip().split("\n\n")[tile // 8].split("\n")
        painted = sum(line.split(" ")[tile % 8].count("w") for line in rows)
        picture = lesson["mine"][tile]
        white = (picture == 255).all(2)
        background = lesson["ground_of"](picture)
        assert (background <= white).all()
        assert (white & ~background).sum() == painted

    @pytest.mark.parametrize("part, name", [("train", "train"), ("test", "held_out")])
    def test_its_files_for_the_training_program_are_read_as_written(
        self, lesson, part, name
    ):
        written = du.load_sprites(part, lesson["out"] / "data").images
        assert (written == lesson[name]).all()

    def test_it_has_the_program_s_settings(self, lesson, program):
        """`changes` has compared the numbers of steps."""
        shipped = program("fine_tuning")
        assert lesson["NEAR"] == shipped.NEAR
        assert lesson["options"]["variance"] == "beta_tilde"
        assert lesson["options"]["clip"]
        assert lesson["x_T"].shape == (shipped.SAMPLES, 3, 16, 16)


# ---- Three seeds ---------------------------------------------------------------------

CONTEXT_UNET = du.ContextUnet


def small_unet(*_):
    return CONTEXT_UNET(3, 8, 5, 16)


@pytest.fixture
def shipped(program):
    return program("fine_tuning")


@pytest.fixture
def quick(shipped, monkeypatch):
    """One seed, two sampling steps, the loss at one step, and networks of 8 features.

    They start from random weights, because the shipped ones do not fit.
    """
    runs = {}
    for name, run in shipped.RUNS.items():
        if name.endswith("seed 1"):
            runs[name] = replace(run, shipped=False)
    monkeypatch.setattr(shipped, "RUNS", runs)
    monkeypatch.setattr(shipped, "SAMPLING_STEPS", 2)
    monkeypatch.setattr(shipped, "LOSS_STEPS", (200,))
    monkeypatch.setattr(shipped.du, "ContextUnet", small_unet)
    return shipped


def keep_runs(program, monkeypatch, *names):
    """Let the program make only the runs of these names."""
    runs = {name: program.RUNS[name] for name in names}
    monkeypatch.setattr(program, "RUNS", runs)


def run(program, monkeypatch, out, *extra):
    words = ["--out", out, "--steps", 3, "--samples", 6, *extra]
    monkeypatch.setattr(sys, "argv", ["fine_tuning.py", *map(str, words)])
    program.main()
    return json.loads(out.read_text(encoding="utf8"))


@pytest.mark.slow
def test_a_row_has_its_settings_and_measures(quick, monkeypatch, tmp_path):
    keep_runs(quick, monkeypatch, "fine-tuned, seed 1")
    content = run(quick, monkeypatch, tmp_path / "own.json")
    row = content["runs"]["fine-tuned, seed 1"]
    assert row["run"] == asdict(quick.RUNS["fine-tuned, seed 1"])
    assert row["held_out_loss"] > 0
    assert row["training_loss"] > 0
    for measure in content["real"]["fine-tuned"]:
        assert 0 <= row[measure] <= 1


def test_real_pictures_are_measured_beside_them(quick, monkeypatch, tmp_path):
    monkeypatch.setattr(quick, "row", lambda *_: {})
    keep_runs(quick, monkeypatch, "shipped, seed 1")
    real = run(quick, monkeypatch, tmp_path / "own.json")["real"]
    assert set(real) == {"fine-tuned", "four pictures"}
    assert real["fine-tuned"]["legal"] == 1
    assert real["fine-tuned"]["distance"] < real["four pictures"]["distance"]


def test_rows_that_are_there_are_kept(quick, monkeypatch, tmp_path):
    """A row is made if it is missing, or if its settings were others."""
    made = []

    def row(settings, *_):
        made.append(settings)
        return {"run": asdict(settings)}

    monkeypatch.setattr(quick, "row", row)
    out = tmp_path / "own.json"
    runs = quick.RUNS
    keep_runs(quick, monkeypatch, "shipped, seed 1", "scratch, seed 1")
    run(quick, monkeypatch, out)
    changed = replace(runs["scratch, seed 1"], rate=1e-3)
    every = runs | {"scratch, seed 1": changed}
    monkeypatch.setattr(quick, "RUNS", every)
    content = run(quick, monkeypatch, out)
    assert [*content["runs"]] == [*runs]
    assert made[2:] == [every[name] for name in runs if name != "shipped, seed 1"]


@pytest.fixture
def kept(quick, monkeypatch, tmp_path):
    """A file without rows; nothing may be made."""
    keep_runs(quick, monkeypatch)
    out = tmp_path / "own.json"
    content = {"settings": quick.settings_of(3, 6), "real": {}, "runs": {}}
    out.write_text(json.dumps(content), encoding="utf8")
    return out


def test_other_settings_are_refused(quick, kept, monkeypatch, capsys):
    before = kept.read_text(encoding="utf8")
    with pytest.raises(SystemExit):
        run(quick, monkeypatch, kept, "--samples", 7)
    assert "remove it or give another --out" in capsys.readouterr().err
    assert kept.read_text(encoding="utf8") == before


def test_another_sheet_is_refused(quick, kept, monkeypatch, capsys):
    training, held_out = quick.sheet()
    monkeypatch.setattr(quick, "sheet", lambda: (255 - training, held_out))
    with pytest.raises(SystemExit):
        run(quick, monkeypatch, kept)
    assert "remove it or give another --out" in capsys.readouterr().err


def test_other_settings_do_not_overwrite_what_ships(quick, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(quick, monkeypatch, du.WEIGHTS / "own_sprites.json")
    assert "would overwrite the shipped results" in capsys.readouterr().err


def test_what_a_training_depends_on(quick):
    """On the seed, and on nothing else that is random.

    An untrained network is the one that the training starts from.
    """
    pictures, _ = quick.sheet()
    base = quick.KINDS["scratch"]

    def weights(run):
        return quick.train(run, pictures, 2).state_dict()["out.3.weight"]

    trained = weights(base)
    untrained = weights(replace(base, trained=False))
    assert torch.equal(trained, weights(base))
    assert not torch.equal(trained, weights(replace(base, seed=2)))
    assert not torch.equal(trained, untrained)
    torch.manual_seed(1)
    assert torch.equal(untrained, small_unet().state_dict()["out.3.weight"])


def test_training_pictures_are_copies_and_memorised(shipped):
    training, _ = shipped.sheet()
    few = training[:4]
    assert shipped.shares(few, few) == {
        "memorised": 1,
        "copies": 1,
        "distance": pytest.approx(0, abs=1e-3),
        "legal": 1,
        "heroes": 1,
        "with a pair": 1,
    }


def test_held_out_pictures_are_new(shipped):
    training, held_out = shipped.sheet()
    new = shipped.shares(held_out, training)
    assert new["copies"] == new["memorised"] == 0
    assert new["distance"] > 0.1
    assert new["with a pair"] == 1


def test_five_heroes_and_five_pieces_of_food(shipped):
    """Training sprites have none of the sheet's pairs of colours."""
    training, _ = shipped.sheet()
    sprites = du.load_sprites("train")
    classes = sprites.labels.argmax(1)
    heroes = sprites.images[classes == du.CLASS_NAMES.index("hero")]
    food = sprites.images[classes == du.CLASS_NAMES.index("food")]
    mixed = shipped.shares(np.concatenate([heroes[:5], food[:5]]), training)
    assert mixed["heroes"] == 0.5
    assert mixed["with a pair"] == 0
    assert mixed["legal"] == 1


def test_the_program_has_the_lesson_s_sheet_and_split(shipped, monkeypatch):
    """The lesson compares pictures to find the copies; the program knows them."""
    cells = code_of_the_lesson()
    last = "train, held_out = unique[~held], unique[held]"
    [end] = [i for i, source in enumerate(cells) if source.endswith(last)]
    names = {}
    monkeypatch.chdir(LESSON.parent)
    source = "\n".join(cells[: end + 1])
    exec(compile(source, LESSON.name, "exec"), names)
    training, held_out = shipped.sheet()
    assert np.array_equal(training, names["train"])
    assert np.array_equal(held_out, names["held_out"])


def test_the_stored_rows_are_of_these_settings_and_data(shipped):
    text = (du.WEIGHTS / "own_sprites.json").read_text(encoding="utf8")
    stored = json.loads(text)
    settings = shipped.settings_of(shipped.STEPS, shipped.SAMPLES)
    assert stored["settings"] == settings
    runs = {name: row["run"] for name, row in stored["runs"].items()}
    assert runs == {name: asdict(run) for name, run in shipped.RUNS.items()}
