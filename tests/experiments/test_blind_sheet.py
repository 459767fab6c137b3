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


def tiles(path, rows: int, columns: int, zoom: int) -> list[np.ndarray]:
    """The pictures of a sheet as `show_images` lays them out, one pixel a pixel."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    pixels = pixels[:, -(columns * 17 + 1) * zoom :][
        zoom // 2 :: zoom, zoom // 2 :: zoom
    ]  # without the labels
    return [
        pixels[1 + 17 * r : 17 + 17 * r, 1 + 17 * c : 17 + 17 * c]
        for r in range(rows)
        for c in range(columns)
    ]


def test_a_sheet_shows_each_sample_and_64_different_test_sprites_once(
    blind, monkeypatch, tmp_path
):
    """Read back from the PNGs: with black squares for samples, the others are real sprites, and the numbers of the black ones are told."""
    monkeypatch.setattr(blind, "draw", lambda seed: np.zeros((64, 16, 16, 3), np.uint8))
    numbers = blind.write_sheets(5, tmp_path)
    test, train = (
        {picture.tobytes() for picture in du.load_sprites(part).images}
        for part in ("test", "train")
    )
    seen = [
        picture
        for k in range(1, 5)
        for picture in tiles(tmp_path / f"sheet_{k}.png", 4, 8, 8)
    ]
    black = [not picture.any() for picture in seen]
    assert (
        sum(black) == 64
        and [i + 1 for i, is_sample in enumerate(black) if is_sample] == numbers
    )
    reals = {
        picture.tobytes() for picture, is_sample in zip(seen, black) if not is_sample
    }
    assert len(reals) == 64 and reals <= test
    references = {
        picture.tobytes() for picture in tiles(tmp_path / "reference.png", 8, 16, 5)
    }
    assert len(references) == 128 and references <= train


def test_samples_are_drawn_with_restarts_from_the_seed(blind, monkeypatch):
    """With a stand-in for the sampler that notes what it is asked for."""
    asked = {}

    def spy(model, schedule, shape, **options):
        asked.update(options, model=model, shape=shape)
        return torch.full(shape, 1.0), None

    monkeypatch.setattr(blind, "network", lambda name: name)
    monkeypatch.setattr(blind.du, "sample_ddpm", spy)
    assert (blind.draw(7) == 255).all()
    assert (
        asked["model"] == "model_31"
        and asked["shape"] == (64, 3, 16, 16)
        and asked["generator"].initial_seed() == 7
    )
    assert (
        asked["steps"] == du.restart_steps()
        and asked["variance"] == "beta_tilde"
        and asked["clip"] is True
    )


def test_what_readers_reject_is_told_apart(blind):
    samples, reals = list(range(1, 128, 2)), list(range(2, 129, 2))
    rejections = ([], samples[:10], reals[:3] + samples[-1:], samples)
    readings = [
        {"reader": "A", "seed": "9", "rejected": rejected} for rejected in rejections
    ]
    counted = blind.count({"samples": {"9": samples}, "readings": readings})
    assert [row[2:] for row in counted] == [(64, 64), (54, 64), (63, 61), (0, 64)]


@pytest.mark.parametrize("rejected", [[0], [129], [5, 5]])
def test_a_reading_that_cannot_be_is_refused(blind, rejected):
    with pytest.raises(
        ValueError, match="of reader A; expected different numbers from 1 to 128"
    ):
        blind.count(
            {
                "samples": {"9": [1]},
                "readings": [{"reader": "A", "seed": "9", "rejected": rejected}],
            }
        )


@pytest.mark.parametrize(
    "arguments", [["5"], ["--out", "folder"], ["-5", "--out", "folder"]]
)
def test_arguments_that_do_not_fit_together(blind, monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["blind_sheet.py", *arguments])
    with pytest.raises(SystemExit):
        blind.main()
    assert "--out" in capsys.readouterr().err


def test_nine_in_ten_samples_of_epoch_31_were_accepted_by_every_reader(
    blind, stored, monkeypatch, capsys
):
    """The aim of the shipped weights; other weights or another sampler need new readings."""
    rows = blind.count(stored)
    assert len(rows) == 8 and {seed for _, seed, *_ in rows} == stored["samples"].keys()
    assert all(samples >= 0.9 * 64 for *_, samples, _ in rows)
    assert stored["made_with"] == json.loads(json.dumps(blind.made_with()))
    for seed, numbers in stored["samples"].items():
        assert (
            numbers
            == (
                np.flatnonzero(
                    blind.shuffled(int(seed), len(du.load_sprites("test")))[1] < 64
                )
                + 1
            ).tolist()
        )
    monkeypatch.setattr(sys, "argv", ["blind_sheet.py"])
    blind.main()
    said, card = (
        capsys.readouterr().out,
        (du.WEIGHTS / "README.md").read_text(encoding="utf8"),
    )
    assert (
        "484 of 512 judgements accept a sample, 94.5%; 497 of 512 a real sprite, 97.1%"
        in said
        and said.endswith("True\n")
    )
    assert "484 of 512 judgements" in card and "497 of 512" in card
