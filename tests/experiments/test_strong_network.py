"""strong_network.py: how a sprite is compared with its caption."""

import numpy as np
import pytest
import torch

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


def test_the_sets_that_are_made_from_others(program):
    sets = program.caption_sets(40)
    made = {"unknown", "left out", "affirmed", "avoided", "moved hair"}
    assert set(sets) >= {"seen", "swapped"} | made
    for row in sets["unknown"]:
        assert program.UNKNOWN_WORD in row["text"]
    pairs = zip(sets["negation"], sets["left out"], sets["avoided"])
    for denied, left_out, avoided in pairs:
        assert denied["unwanted"] == left_out["unwanted"]
        assert len(left_out["text"]) < len(denied["text"])
        assert not {"no", "without"} & set(left_out["text"].split())
        assert " with " in avoided["avoid"]
    for denied, affirmed in zip(sets["negation"], sets["affirmed"]):
        assert denied["unwanted"] == affirmed["unwanted"]
        assert not {"no", "without"} & set(affirmed["text"].split())
    assert 0 < len(sets["moved hair"]) < len(sets["words"])
    for row in sets["moved hair"]:
        assert "crimson" in row["text"] or "rosy" in row["text"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a hero: orange vest, no sword", "a hero: orange vest"),
        ("no blade, red hair, a hero", "red hair, a hero"),
        ("a hero: no sword, red hair", "a hero: red hair"),
        ("a hero without a blade and in a robe", "a hero and in a robe"),
        ("a hero without a sword", "a hero"),
    ],
)
def test_a_denial_is_left_out(program, text, left):
    row = {"text": text, "unwanted": {"item": "sword"}}
    assert program.without_denial(row)["text"] == left


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a hero: orange vest, no sword", "a hero: orange vest, sword"),
        ("no blade, red hair, a hero", "blade, red hair, a hero"),
        ("a hero without a blade and in a robe", "a hero with a blade and in a robe"),
    ],
)
def test_a_denial_is_affirmed(program, text, says):
    row = {"text": text, "unwanted": {"item": "sword"}}
    assert program.affirmed(row)["text"] == says


def test_moved_hair_is_a_word_that_training_says_of_other_things(program):
    moved = {"text": "a hero with crimson hair", "wanted": {"hair_colour": "red"}}
    usual = {"text": "a hero with red hair", "wanted": {"hair_colour": "red"}}
    other = {
        "text": "a hero with black hair in a crimson robe",
        "wanted": {"hair_colour": "black", "outfit_colour": "red"},
    }
    found = [program.has_moved_hair(row) for row in (moved, usual, other)]
    assert found == [True, False, False]


def test_unknown_words_take_the_place_of_a_colour(program):
    row = {
        "text": "a hero in a crimson robe",
        "wanted": {"class": "hero", "outfit": "robe", "outfit_colour": "red"},
        "rest": {"item": "bow"},
    }
    new = program.with_unknown_word(row)
    assert new["text"] == f"a hero in a {program.UNKNOWN_WORD} robe"
    assert new["wanted"] == {"class": "hero", "outfit": "robe"}
    assert new["rest"] == {"item": "bow", "outfit_colour": "red"}


def test_exchanged_colours_and_denied_things_are_counted(program):
    every = program.test_captions()
    swapped = [row for row in every if row["set"] == "swapped"][:20]
    denied = [row for row in every if row["set"] == "negation"][:20]
    assert program.ceiling_row(swapped)["exchanged"][0] == 0
    assert program.ceiling_row(denied)["unwanted"][0] == 0
    other_way = [swapped[place ^ 1] for place in range(len(swapped))]
    factory = du.sprite_factory()
    found = []
    for row in other_way:
        values = {**row["wanted"], **row["rest"]}
        found.append(factory.specify(values.pop("class"), **values))
    assert all(program.are_exchanged(found, swapped))


def test_avoiding_goes_away_from_its_own_context(program):
    def model(x, t, c):
        return c.sum(1).view(-1, 1, 1, 1).expand_as(x)

    x = torch.zeros(2, 3, 4, 4)
    asked = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    avoid = torch.tensor([[1.0, 0.0], [4.0, 0.0]])
    both = torch.cat((asked, avoid), 1)
    noise = program.avoiding(model, 2.0)(x, torch.tensor(0.5), both)
    assert noise[:, 0, 0, 0].tolist() == [1 + 2 * 2, 4 + 2 * -3]


def test_a_sprite_with_the_denied_thing_is_wrong(program, rows):
    """Otherwise it is as its caption says."""
    factory = du.sprite_factory()
    denials = [row for row in rows if row["unwanted"]]
    sprites = []
    for row in denials:
        values = {**row["wanted"], **row["rest"], **row["unwanted"]}
        sprites.append(factory.specify(values.pop("class"), **values))
    scores = program.caption_scores(factory.render_many(sprites), denials)
    assert scores["all"][0] == 0
    assert scores["unwanted"][0] == 1
