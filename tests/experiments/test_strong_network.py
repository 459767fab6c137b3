"""strong_network.py: how a sprite is compared with its caption."""

import numpy as np
import pytest

import diffusion_utilities as du


@pytest.fixture
def program():
    import strong_network

    return strong_network


@pytest.fixture
def rows(program):
    """Ten test captions of each of two sets."""
    every = program.test_captions()
    seen = [row for row in every if row["set"] == "seen"]
    denied = [row for row in every if row["set"] == "negation"]
    return seen[:10] + denied[:10]


def test_real_sprites_are_as_their_captions_say(program, rows):
    scores = program.ceiling_row(rows)
    assert scores["all"][0] == 1
    assert scores["legal"][0] == 1
    assert {share[0] for share in scores["factors"].values()} == {1}
    assert any(name.startswith("not ") for name in scores["factors"])


def test_a_wrong_sprite_counts_as_wrong(program, rows):
    """All pictures are one hero, so that captions of other classes fail."""
    test = du.load_sprites("test")
    hero = test.images[np.flatnonzero(test.labels[:, 0])[0]]
    pictures = np.repeat(hero[None], len(rows), axis=0)
    scores = program.caption_scores(pictures, rows)
    heroes = sum(row["wanted"]["class"] == "hero" for row in rows)
    assert scores["factors"]["class"][0] == pytest.approx(heroes / len(rows), abs=1e-3)
    assert scores["all"][0] <= heroes / len(rows)
    assert scores["legal"][0] == 1
