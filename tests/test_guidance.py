"""Contexts that name factors, guidance, and how lesson 6's stored rows ask for pairs of factors and count what came."""

import json

import numpy as np
import pytest
import torch

import diffusion_utilities as du

FACTORY = du.sprite_factory()


@pytest.fixture(scope="module")
def results(program):
    """weights/make_results.py as a module."""
    return program("make_results")


def linear_model(x, t, c=None):
    """A "network" that adds what each column of the context is worth; none is worth 0."""
    worth = torch.arange(1.0, 94.0)
    return x + (0 if c is None else (c @ worth[: c.shape[1]]).view(-1, 1, 1, 1))


def test_columns_are_the_classes_and_every_value_of_the_paired_factors():
    columns = FACTORY.context_columns()
    assert columns[:5] == tuple(("class", name) for name in FACTORY.CLASS_NAMES) and len(columns) == len(set(columns))
    expected = {("class", name) for name in FACTORY.CLASS_NAMES}
    for name in FACTORY.CLASS_NAMES:
        pairs = FACTORY.held_out_pairs(name)
        expected |= {(factor, value) for factor in (pairs.first, pairs.second) for value in FACTORY.factors_of(name)[factor]}
    assert set(columns) == expected


def test_a_context_says_what_is_asked_and_nothing_else():
    asked = [{"class": "hero", "hair_colour": "red", "item": "sword"}, {}, {"class": "food", "kind": "apple"}]
    contexts, columns = FACTORY.as_context(asked), FACTORY.context_columns()
    assert contexts.dtype == np.float32 and contexts.shape == (3, len(columns))
    said = [{columns[i] for i in row.nonzero()[0]} for row in contexts]
    assert said == [{("class", "hero"), ("hair_colour", "red")}, set(), {("class", "food"), ("kind", "apple")}]  # items have no column


@pytest.mark.parametrize("asked, words", [({"class": "dragon"}, "class='dragon'"), ({"hair_colour": "plaid"}, "hair_colour='plaid'")])
def test_a_context_for_what_no_sprite_has_is_refused(asked, words):
    with pytest.raises(ValueError, match=f"asked for {words}, which no sprite has"):
        FACTORY.as_context([{"class": "hero"}, asked])


def test_guidance_goes_from_one_answer_past_the_other(results):
    x, t, c = torch.randn(3, 1, 2, 2), torch.tensor(0.5), torch.eye(3, 93)
    null, asked = linear_model(x, t), linear_model(x, t, c)
    torch.testing.assert_close(results.guided(linear_model, 0)(x, t, c), null)
    assert results.guided(linear_model, 1) is linear_model
    torch.testing.assert_close(results.guided(linear_model, 3)(x, t, c), 3 * asked - 2 * null)
    torch.testing.assert_close(results.guided(linear_model, 3, lambda x, t, c: 10 * x)(x, t, c), 3 * asked - 20 * x)


def test_factors_asked_apart_add_their_guidances(results):
    """Of a linear model class + w first + w second is left, whichever columns they are."""
    asked = results.asked_pairs(True, 12)
    c = torch.from_numpy(FACTORY.as_context(asked))
    x, worth = torch.randn(12, 1, 2, 2), torch.arange(1.0, 94.0)
    per_class, per_factor = c[:, :5] @ worth[:5], c[:, 5:] @ worth[5:]
    expected = x + (per_class + 2.5 * per_factor).view(-1, 1, 1, 1)
    torch.testing.assert_close(results.asked_apart(linear_model, 2.5)(x, torch.tensor(0.5), c), expected)


@pytest.mark.parametrize("held_out", [True, False])
def test_pairs_are_asked_for_in_every_class(results, held_out):
    asked = results.asked_pairs(held_out, 200)
    for i, row in enumerate(asked):
        pairs = FACTORY.held_out_pairs(row["class"])
        assert row["class"] == du.CLASS_NAMES[i % 5] and len(row) == 3
        assert ((row[pairs.first], row[pairs.second]) in pairs.pairs) == held_out
    if held_out:  # all of them, in turn
        assert len({tuple(row.items()) for row in asked}) == sum(len(FACTORY.held_out_pairs(name).pairs) for name in du.CLASS_NAMES)


def test_what_came_is_counted_factor_by_factor(results):
    """Sprites drawn as asked, of which the heroes have another hair colour."""
    asked, rng, sprites = results.asked_pairs(True, 40), np.random.default_rng(0), []
    for want in asked:
        legal = FACTORY.factors_of(want["class"])
        values = {factor: str(rng.choice(choices)) for factor, choices in legal.items()} | {k: v for k, v in want.items() if k != "class"}
        if want["class"] == "hero":
            values["hair_colour"] = next(colour for colour in legal["hair_colour"] if colour != want["hair_colour"])
        sprites.append(FACTORY.specify(want["class"], **values))
    scores = {name: value for name, (value, _, _) in results.pair_scores(FACTORY.render_many(sprites), asked).items()}
    assert scores["class"] == scores["second"] == scores["legal"] == 1 and scores["first"] == scores["all"] == scores["all, and legal"] == 0.8
    assert [scores[f"all, {name}"] for name in du.CLASS_NAMES] == [0, 1, 1, 1, 1]


def test_the_stored_rows_are_all_there(results):
    rows = json.loads((du.WEIGHTS / "guidance.json").read_text(encoding="utf8"))["rows"]
    guided = {f"{label}, w = {w}, seed {s}" for label, (*_, ws) in results.GUIDED.items() for w in ws for s in results.GUIDED_SEEDS}
    assert guided < rows.keys() and len(rows) == 1 + len(guided) + 2 * 2 * len(results.ASKED_W) * 3
    assert all({"legal"} < row["scores"].keys() for row in rows.values())
