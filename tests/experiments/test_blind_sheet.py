"""The sheets on which samples are judged by eye, and the count of what readers said."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import diffusion_utilities as du


@pytest.fixture(scope="module")
def blind(program):
    return program("blind_sheet")


@pytest.fixture(scope="module")
def stored() -> dict:
    return json.loads((du.WEIGHTS / "readings.json").read_text(encoding="utf8"))


# ---- The sheets ---------------------------------------------------------------------


def tiles(path, rows: int, columns: int, zoom: int) -> list[bytes]:
    """The pictures of a sheet as `show_images` lays them out, one pixel a pixel."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    width = (columns * 17 + 1) * zoom
    without_labels = pixels[:, -width:]
    small = without_labels[zoom // 2 :: zoom, zoom // 2 :: zoom]
    pictures = []
    for r in range(rows):
        for c in range(columns):
            top = 1 + 17 * r
            left = 1 + 17 * c
            pictures.append(small[top : top + 16, left : left + 16].tobytes())
    return pictures


def pictures_of(part: str) -> set[bytes]:
    return {picture.tobytes() for picture in du.load_sprites(part).images}


@pytest.fixture
def sheets(blind, monkeypatch, tmp_path):
    """(folder of sheets with black squares for samples, the numbers that are told)."""
    black = np.zeros((64, 16, 16, 3), np.uint8)
    monkeypatch.setattr(blind, "draw", lambda seed: black)
    return tmp_path, blind.write_sheets(5, tmp_path)


def test_the_numbers_that_are_told_are_the_samples(sheets):
    folder, numbers = sheets
    seen = []
    for k in range(1, 5):
        seen += tiles(folder / f"sheet_{k}.png", 4, 8, 8)
    black = [i for i, picture in enumerate(seen, start=1) if not any(picture)]
    assert len(black) == 64
    assert black == numbers


def test_the_others_are_64_different_test_sprites(sheets):
    folder, _ = sheets
    seen = []
    for k in range(1, 5):
        seen += tiles(folder / f"sheet_{k}.png", 4, 8, 8)
    reals = {picture for picture in seen if any(picture)}
    assert len(reals) == 64
    assert reals <= pictures_of("test")


def test_the_reference_shows_128_training_sprites(sheets):
    folder, _ = sheets
    references = set(tiles(folder / "reference.png", 8, 16, 5))
    assert len(references) == 128
    assert references <= pictures_of("train")


def test_samples_are_drawn_with_restarts_from_the_seed(blind, monkeypatch):
    """With a stand-in for the sampler that notes what it is asked for."""
    asked = {}

    def spy(model, schedule, *, x_T, generator, **options):
        asked.update(options, model=model, shape=tuple(x_T.shape), generator=generator)
        return torch.ones_like(x_T)

    monkeypatch.setattr(blind, "shipped_network", lambda name: name)
    monkeypatch.setattr(blind, "ddpm", spy)
    assert (blind.draw(7) == 255).all()
    assert asked["model"] == "model_31"
    assert asked["shape"] == (64, 3, 16, 16)
    assert asked["generator"].initial_seed() == 7
    assert asked["steps"] == du.restart_steps()
    assert asked["variance"] == "beta_tilde"
    assert asked["clip"] is True


@pytest.mark.parametrize(
    "arguments", [["5"], ["--out", "folder"], ["-5", "--out", "folder"]]
)
def test_arguments_that_do_not_fit_together(blind, monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["blind_sheet.py", *arguments])
    with pytest.raises(SystemExit):
        blind.main()
    assert "--out" in capsys.readouterr().err


# ---- The count ----------------------------------------------------------------------


def test_rejected_samples_and_rejected_real_sprites_are_counted_apart(blind):
    samples = list(range(1, 128, 2))
    reals = list(range(2, 129, 2))
    rejections = ([], samples[:10], reals[:3] + samples[-1:], samples)
    readings = []
    for rejected in rejections:
        readings.append({"reader": "A", "seed": "9", "rejected": rejected})
    counted = blind.count({"samples": {"9": samples}, "readings": readings})
    assert [row[2:] for row in counted] == [(64, 64), (54, 64), (63, 61), (0, 64)]


@pytest.mark.parametrize("rejected", [[0], [129], [5, 5]])
def test_an_impossible_reading_is_refused(blind, rejected):
    reading = {"reader": "A", "seed": "9", "rejected": rejected}
    message = "of reader A; expected different numbers from 1 to 128"
    with pytest.raises(ValueError, match=message):
        blind.count({"samples": {"9": [1]}, "readings": [reading]})


# ---- What is stored -----------------------------------------------------------------


def test_nine_in_ten_samples_of_epoch_31_were_accepted_by_every_reader(blind, stored):
    """This is the aim of the shipped weights."""
    rows = blind.count(stored)
    assert len(rows) == 8
    assert {seed for _, seed, *_ in rows} == stored["samples"].keys()
    for _, _, samples, _ in rows:
        assert samples >= 0.9 * 64


def test_readings_are_of_the_shipped_weights_and_this_sampler(blind, stored):
    """Other weights or another sampler need new readings."""
    assert stored["made_with"] == json.loads(json.dumps(blind.made_with()))


def test_the_stored_places_are_those_that_the_seeds_give(blind, stored):
    n_test = len(du.load_sprites("test"))
    for seed, numbers in stored["samples"].items():
        _, order = blind.shuffled(int(seed), n_test)
        assert numbers == (np.flatnonzero(order < 64) + 1).tolist()


def test_the_program_counts_all_readings(blind, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["blind_sheet.py"])
    blind.main()
    said = capsys.readouterr().out
    assert "484 of 512 judgements accept a sample, 94.5%" in said
    assert "497 of 512 a real sprite, 97.1%" in said
    assert said.endswith("True\n")
