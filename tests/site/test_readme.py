"""The README: its pictures, commands and map of lessons; and what to cite."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from exercises import answer_to
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf8")
PICTURES = ROOT / "weights" / "pictures"
NOTEBOOKS = {
    int(path.name[:2]): path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}


# ---- Pictures ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def still() -> np.ndarray:
    """The picture for people who do not want motion."""
    return np.asarray(Image.open(PICTURES / "front.png").convert("RGB"))


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    """The frames of the moving picture, after the one for viewers that play nothing."""
    found = []
    with Image.open(PICTURES / "drawing.png") as moving:
        for i in range(1, moving.n_frames):
            moving.seek(i)
            found.append(np.asarray(moving.convert("RGB")))
    return found


def test_the_moving_picture_is_the_still_one_where_nothing_is_played(still):
    with Image.open(PICTURES / "drawing.png") as moving:
        assert np.array_equal(np.asarray(moving.convert("RGB")), still)


def test_the_moving_picture_repeats_and_waits_at_its_end():
    with Image.open(PICTURES / "drawing.png") as moving:
        assert moving.info["loop"] == 0
        moving.seek(moving.n_frames - 1)
        assert moving.info["duration"] >= 2000  # milliseconds


def test_the_moving_picture_goes_from_noise_to_the_sprites(frames, still):
    assert len(frames) >= 10
    assert np.array_equal(frames[-1], still)
    assert frames[0].std() > 60
    assert (frames[0] == 255).mean() < (still == 255).mean()


def test_no_sprite_of_the_moving_picture_is_blurred(frames):
    """Each of its pixels is a square of 3x3 equal pixels.

    GitHub would scale a picture that is wider than 838 pixels.
    """
    for frame in frames:
        sharp = frame[1::3, 1::3].repeat(3, 0).repeat(3, 1)
        assert np.array_equal(frame, sharp)
        assert frame.shape[1] <= 838


def test_the_moving_picture_is_a_small_file():
    assert (PICTURES / "drawing.png").stat().st_size <= 250 * 1024


def test_pictures_have_words_and_are_there():
    tags = re.findall(r"<img [^>]*>", README)
    assert len(tags) >= 5
    for tag in tags:
        source = re.search(r'src="([^"]+)"', tag)[1]
        words = re.search(r'alt="([^"]*)"', tag)[1]
        assert (ROOT / source).exists(), tag
        assert len(words) > 20, tag
    for source in re.findall(r'srcset="([^"]+)"', README):
        assert (ROOT / source).exists(), source


# ---- Commands ------------------------------------------------------------------------


def test_the_readme_opens_with_two_commands():
    first, second = re.findall(r"```bash\n(.*?)\n```", README, re.S)[:2]
    for command in (first, second):
        assert command.startswith("python3 -m venv .venv && ")
        assert "\n" not in command
    assert "jupyter lab notebooks/01_" in first
    assert second.endswith("pytest")


def test_no_placeholder_is_left():
    assert not re.search(r"\{[A-Z_]+\}", README)


# ---- The map of lessons --------------------------------------------------------------


def test_the_map_has_every_lesson_in_order():
    links = re.findall(r"^\| \[[^\]]+\]\((notebooks/[^)]+)\)", README, re.M)
    assert links == [f"notebooks/{path.name}" for path in NOTEBOOKS.values()]


def test_what_the_book_quotes_is_what_the_check_says():
    def my_perturb_input(x, t, noise, schedule):
        ab = schedule.ab[t].float().view(-1, 1, 1, 1)
        return ab.sqrt() * x + (1 - ab) * noise

    answer = answer_to("2.2", my_perturb_input)
    run = (ROOT / "docs" / "run.md").read_text(encoding="utf8")
    assert f"Exercise 2.2: {answer}\n" in run


# ---- What to cite, and the licence ---------------------------------------------------


def test_licence_citation_and_readme_agree():
    licence = (ROOT / "LICENSE").read_text(encoding="utf8")
    assert licence.startswith("MIT License")
    assert "[MIT](LICENSE)" in README
    holder = re.search(r"Copyright \(c\) \d{4} (.+)", licence)[1]

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf8"))
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}
    assert citation["license"] == "MIT"
    assert citation["authors"] == [{"name": holder}]

    title = citation["title"]
    assert f"# {title}\n" in README
