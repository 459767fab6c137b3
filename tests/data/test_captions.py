"""The grammar of captions, and the test captions."""

import gzip
import hashlib
import json
import sys

import numpy as np
import pytest

import diffusion_utilities as du

FACTORY = du.sprite_factory()
CAPTIONS = du.sprite_captions()
CONTENT = gzip.decompress((du.DATA / "test_captions.json.gz").read_bytes())
ROWS = json.loads(CONTENT)
SETS = ("seen", "pattern", "words", "pairs", "swapped", "negation")
# Its content was written on 2026-11-29, before any network was trained with captions.
SHA256 = "c4cd15842c8f9a1056cb2a80ee99a8ebb98e9b4b077c535bf977e085a61899a6"


def rows_of(name: str) -> list[dict]:
    return [row for row in ROWS if row["set"] == name]


def caption_of(row: dict) -> object:
    return CAPTIONS.Caption(row["text"], row["wanted"], row["unwanted"])


def held_out_words(text: str, wanted: dict) -> list[str]:
    """The words of a text that training never says of a factor that it names.

    Where another named factor has the same colour, the word may be about that one.
    """
    said = set(CAPTIONS.split_words(text))
    found = []
    for word, factor in CAPTIONS.HELD_OUT_WORDS:
        means = [key for key, words in CAPTIONS.COLOUR_WORDS.items() if word in words]
        places = [key for key, value in wanted.items() if value in means]
        if word in said and places == [factor]:
            found.append(word)
    return found


def test_the_test_captions_never_change():
    assert hashlib.sha256(CONTENT).hexdigest() == SHA256


def test_the_program_writes_them_again(monkeypatch):
    monkeypatch.syspath_prepend(str(du.DATA))
    make = __import__("make_test_captions")
    assert make.test_captions() == ROWS
    del sys.modules["make_test_captions"]


@pytest.mark.parametrize("name", SETS)
def test_each_set_names_three_to_five_factors_of_a_sprite(name):
    rows = rows_of(name)
    assert len(rows) == 300
    for row in rows:
        named = set(row["wanted"]) - {"class"} | set(row["unwanted"])
        assert 3 <= len(named) <= 5
        assert caption_of(row).is_met_by({**row["wanted"], **row["rest"]})


def test_their_words_are_all_known():
    numbers = CAPTIONS.encode([row["text"] for row in ROWS])
    assert (numbers != CAPTIONS.UNKNOWN).all()
    assert (numbers != CAPTIONS.PADDING).any(1).all()


def test_what_is_held_out_is_in_its_own_set_only():
    for row in ROWS:
        factors = {**row["wanted"], **row["rest"]}
        sprite = FACTORY.specify(factors.pop("class"), **factors)
        pairs = FACTORY.held_out_pairs(sprite.class_name)
        assert pairs.hold(sprite) == (row["set"] == "pairs")
        if row["set"] == "pairs":
            assert {pairs.first, pairs.second} <= set(row["wanted"])
        rare = held_out_words(row["text"], row["wanted"])
        if row["set"] != "words":
            assert not rare


def test_nearly_all_of_the_set_of_words_surely_have_a_held_out_word():
    rows = rows_of("words")
    rare = [row for row in rows if held_out_words(row["text"], row["wanted"])]
    assert len(rare) > 0.8 * len(rows)


def test_swapped_captions_come_in_twos_that_exchange_two_colours():
    rows = rows_of("swapped")
    for one, other in zip(rows[::2], rows[1::2]):
        first, second = (
            key for key in one["wanted"] if one["wanted"][key] != other["wanted"][key]
        )
        assert one["wanted"][first] == other["wanted"][second]
        assert one["wanted"][second] == other["wanted"][first]
        assert one["text"] != other["text"]


# ---- Captions for training -----------------------------------------------------------


def training_captions(n: int = 2000) -> list:
    rng = np.random.default_rng(0)
    drawn = FACTORY.draw_specifications(n, seed=0)
    return [(each, CAPTIONS.draw_caption(each, rng)) for each in drawn]


def test_training_captions_are_true_and_readable():
    for sprite, caption in training_captions():
        assert caption.is_met_by(sprite.as_dict())
        assert (CAPTIONS.encode([caption.text]) != CAPTIONS.UNKNOWN).all()


def test_training_captions_never_have_what_is_held_out():
    for _, caption in training_captions():
        assert not held_out_words(caption.text, caption.wanted)
        before, colon, _ = caption.text.partition(":")
        begins = before.split()[0]
        assert not colon or begins not in ("with", "in", "on", "holding", "wearing")


def test_they_name_nothing_everything_and_all_between():
    counts = {len(caption.wanted) for _, caption in training_captions()}
    assert counts >= set(range(1, 8))


def test_every_value_of_every_factor_is_named():
    named = set()
    for _, caption in training_captions():
        named |= set(caption.wanted.items())
    for class_name in FACTORY.CLASS_NAMES:
        for factor, values in FACTORY.factors_of(class_name).items():
            assert {(factor, value) for value in values} <= named


def test_the_same_dice_give_the_same_caption():
    sprite = FACTORY.draw_specifications(1, seed=3)[0]
    first, second = (
        CAPTIONS.draw_caption(sprite, np.random.default_rng(5)) for _ in range(2)
    )
    assert first == second


def test_a_caption_that_is_not_met():
    caption = CAPTIONS.Caption("a red slime", {"body_colour": "red"}, {"mood": "angry"})
    assert caption.is_met_by({"body_colour": "red", "mood": "calm"})
    assert not caption.is_met_by({"body_colour": "red", "mood": "angry"})
    assert not caption.is_met_by({"body_colour": "blue", "mood": "calm"})
    assert not caption.is_met_by({"mood": "calm"})


def test_a_factor_of_another_class_is_refused():
    sprite = FACTORY.draw_specifications(1, seed=0)[0]
    with pytest.raises(ValueError, match="a hero has no species; expected some of"):
        CAPTIONS.write_caption(sprite, ["species"], np.random.default_rng(0))


# ---- Words to numbers ----------------------------------------------------------------


def test_every_word_has_its_own_number():
    words = CAPTIONS.vocabulary()
    assert len(set(words)) == len(words)
    (numbers,) = CAPTIONS.encode(["A HERO, with red hair!"])
    known = [words[number] for number in numbers if number]
    assert known == ["a", "hero", "with", "red", "hair"]


def test_unknown_words_empty_captions_and_forty_words():
    numbers = CAPTIONS.encode(["a quaternion", "", "red " * 40])
    assert numbers.shape == (3, 40)
    assert numbers[0, 1] == CAPTIONS.UNKNOWN
    assert not numbers[1].any()
    assert numbers[2].all()


@pytest.mark.parametrize(
    "captions, words",
    (
        (["red " * 41], "41 words"),
        ("a hero", "expected a list of texts"),
        ([3], "expected a list of texts"),
    ),
)
def test_what_is_no_caption_is_refused(captions, words):
    with pytest.raises(ValueError, match=words):
        CAPTIONS.encode(captions)
