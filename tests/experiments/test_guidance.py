"""Contexts that name factors, guidance, and the program behind lesson 6's numbers.

The program asks for pairs of factors, and counts what came.
"""

import json

import guidance
import numpy as np
import pytest
import shipped
import torch

import diffusion_utilities as du

FACTORY = du.sprite_factory()
SCORING = du.sprite_scoring()
WORTH = torch.arange(1.0, 94.0)


def linear_model(x, t, c=None):
    """A "network" that adds what each column of the context is worth."""
    if c is None:
        return x
    worth = c @ WORTH[: c.shape[1]]
    return x + worth.view(-1, 1, 1, 1)


# ---- Contexts -----------------------------------------------------------------------


def test_columns_are_the_classes_and_every_value_of_the_paired_factors():
    """In this order, which the shipped weights have learnt."""
    expected = [("class", name) for name in FACTORY.CLASS_NAMES]
    for name in FACTORY.CLASS_NAMES:
        pairs = FACTORY.held_out_pairs(name)
        for factor in (pairs.first, pairs.second):
            for value in FACTORY.factors_of(name)[factor]:
                if (factor, value) not in expected:
                    expected.append((factor, value))
    assert [*SCORING.context_columns()] == expected


def test_each_column_is_asked_for_by_its_value():
    columns = SCORING.context_columns()
    asked = [{factor: value} for factor, value in columns]
    np.testing.assert_array_equal(SCORING.as_context(asked), np.eye(len(columns)))


def test_a_context_says_what_is_asked_and_nothing_else():
    """Items have no column."""
    asked = [
        {"class": "hero", "hair_colour": "red", "item": "sword"},
        {},
        {"class": "food", "kind": "apple"},
    ]
    contexts = SCORING.as_context(asked)
    columns = SCORING.context_columns()
    assert contexts.dtype == np.float32
    assert contexts.shape == (3, len(columns))
    said = [{columns[i] for i in row.nonzero()[0]} for row in contexts]
    assert said == [
        {("class", "hero"), ("hair_colour", "red")},
        set(),
        {("class", "food"), ("kind", "apple")},
    ]


@pytest.mark.parametrize(
    "asked, words",
    [
        ({"class": "dragon"}, "class='dragon'"),
        ({"hair_colour": "plaid"}, "hair_colour='plaid'"),
    ],
)
def test_a_context_for_what_no_sprite_has_is_refused(asked, words):
    with pytest.raises(ValueError, match=f"asked for {words}, which no sprite has"):
        SCORING.as_context([{"class": "hero"}, asked])


# ---- Guidance -----------------------------------------------------------------------


@pytest.fixture
def question():
    """(x, t, context)."""
    return torch.randn(3, 1, 2, 2), torch.tensor(0.5), torch.eye(3, 93)


def test_guidance_of_weight_1_is_the_model_itself():
    assert guidance.guided(linear_model, 1) is linear_model


def test_guidance_of_weight_0_hears_nothing(question):
    x, t, c = question
    answer = guidance.guided(linear_model, 0)(x, t, c)
    torch.testing.assert_close(answer, linear_model(x, t))


def test_guidance_goes_past_the_answer(question):
    x, t, c = question
    answer = guidance.guided(linear_model, 3)(x, t, c)
    expected = 3 * linear_model(x, t, c) - 2 * linear_model(x, t)
    torch.testing.assert_close(answer, expected)


def test_a_weaker_model_is_told_the_context_too(question):
    x, t, c = question

    def weak(x, t, c):
        return 10 * linear_model(x, t, c)

    answer = guidance.guided(linear_model, 3, weak)(x, t, c)
    asked = linear_model(x, t, c)
    torch.testing.assert_close(answer, 3 * asked - 20 * asked)


def test_factors_asked_apart_add_their_guidances():
    """Of a linear model class + w first + w second is left, whichever columns."""
    asked = guidance.asked_pairs(True, 12, seed=4)
    c = torch.from_numpy(SCORING.as_context(asked))
    x = torch.randn(12, 1, 2, 2)
    answer = guidance.asked_apart(linear_model, 2.5)(x, torch.tensor(0.5), c)
    class_worth = c[:, :5] @ WORTH[:5]
    factors_worth = c[:, 5:] @ WORTH[5:]
    expected = x + (class_worth + 2.5 * factors_worth).view(-1, 1, 1, 1)
    torch.testing.assert_close(answer, expected)


# ---- Pairs of factors ---------------------------------------------------------------


@pytest.mark.parametrize("held_out", [True, False])
def test_pairs_are_asked_for_in_every_class(held_out):
    asked = guidance.asked_pairs(held_out, 200, seed=4)
    for i, row in enumerate(asked):
        pairs = FACTORY.held_out_pairs(row["class"])
        assert row["class"] == du.CLASS_NAMES[i % 5]
        assert len(row) == 3
        pair = (row[pairs.first], row[pairs.second])
        assert (pair in pairs.pairs) == held_out


def test_held_out_pairs_are_asked_for_in_turn():
    asked = guidance.asked_pairs(True, 200, seed=4)
    different = {tuple(row.items()) for row in asked}
    counts = [len(FACTORY.held_out_pairs(name).pairs) for name in du.CLASS_NAMES]
    assert len(different) == sum(counts)


def test_shown_pairs_are_asked_for_at_random():
    first = guidance.asked_pairs(False, 200, seed=1)
    assert guidance.asked_pairs(False, 200, seed=1) == first
    assert guidance.asked_pairs(False, 200, seed=2) != first


def drawn_as_asked(want: dict[str, str], rng: np.random.Generator):
    """A sprite as asked; what is not asked for is random."""
    legal = FACTORY.factors_of(want["class"])
    values = {factor: str(rng.choice(choices)) for factor, choices in legal.items()}
    values |= {factor: value for factor, value in want.items() if factor != "class"}
    return FACTORY.specify(want["class"], **values)


def with_other_hair(hero):
    """The same hero with another hair colour."""
    values = dict(hero.factors)
    colours = FACTORY.factors_of("hero")["hair_colour"]
    values["hair_colour"] = next(c for c in colours if c != values["hair_colour"])
    return FACTORY.specify("hero", **values)


def test_what_came_is_counted_factor_by_factor():
    """Forty sprites as asked, but for the heroes, who have another hair colour.

    Of the first hero and the first non-hero one pixel is green.
    """
    asked = guidance.asked_pairs(True, 40, seed=4)
    rng = np.random.default_rng(0)
    sprites = [drawn_as_asked(want, rng) for want in asked]
    sprites = [with_other_hair(s) if s.class_name == "hero" else s for s in sprites]
    pictures = FACTORY.render_many(sprites)
    pictures[:2, 0, 0] = (0, 255, 0)
    shares = guidance.pair_scores(pictures, asked)
    scores = {name: value for name, (value, _, _) in shares.items()}
    assert scores["class"] == scores["second"] == 1
    assert scores["first"] == scores["all"] == 0.8
    assert scores["legal"] == 38 / 40
    assert scores["all, and legal"] == 31 / 40
    assert [scores[f"all, {name}"] for name in du.CLASS_NAMES] == [0, 1, 1, 1, 1]


# ---- Drawing ------------------------------------------------------------------------


def test_each_batch_is_asked_for_its_own_contexts_of_the_model_that_is_given():
    """A sampler that paints each picture in the grey of its context."""
    context = torch.linspace(-1, 1, 2 * shipped.BATCH + 7)[:, None]
    seen = []

    def draw(model, schedule, *, x_T, context, generator):
        seen.append((model, len(x_T)))
        return context[..., None, None].expand(x_T.shape)

    pictures = shipped.draw_batches(
        linear_model, len(context), draw, seed=4, context=context
    )
    expected = context[..., None, None].expand(-1, 3, 16, 16)
    np.testing.assert_array_equal(pictures, du.to_pictures(expected))
    sizes = (shipped.BATCH, shipped.BATCH, 7)
    assert seen == [(linear_model, size) for size in sizes]


# ---- The program --------------------------------------------------------------------


class Interrupted(Exception):
    """Stands for Ctrl-C."""


@pytest.fixture
def told(monkeypatch, tmp_path):
    """The program with scores that are what was drawn with, and weights in a folder.

    Returns the list of what was drawn; `told.stop_at` many drawings interrupt it.
    """

    class Drawn(list):
        stop_at = None

    drawn = Drawn()

    def draw_batches(model, n, draw, *, seed, context, **options):
        if len(drawn) == drawn.stop_at:
            raise Interrupted
        drawn.append(model["weights"])
        return {**model, "seed": seed}

    def guided(weights, w, weak=None):
        return {"weights": weights, "w": w, "weak": weak is not None}

    def asked_apart(weights, w):
        return {"weights": weights, "w": w, "apart": True}

    def in_thrice(values):
        return {name: (v,) * 3 for name, v in values.items() if name != "weights"}

    def pair_scores(pictures, asked):
        pairs = FACTORY.held_out_pairs(asked[0]["class"])
        _, first, second = asked[0].values()
        is_held_out = (first, second) in pairs.pairs
        return in_thrice({**pictures, "held-out": is_held_out})

    monkeypatch.setattr(guidance, "N", 5)
    monkeypatch.setattr(guidance, "RULER", ())
    monkeypatch.setattr(guidance, "shipped_network", str)
    monkeypatch.setattr(guidance, "weights_file", lambda name: tmp_path / name)
    monkeypatch.setattr(guidance, "draw_batches", draw_batches)
    monkeypatch.setattr(guidance, "guided", guided)
    monkeypatch.setattr(guidance, "asked_apart", asked_apart)
    monkeypatch.setattr(guidance, "pair_scores", pair_scores)
    monkeypatch.setattr(guidance, "floor_scores", dict)
    monkeypatch.setattr(du, "sprite_scores", lambda pictures, c: in_thrice(pictures))
    names = {row.weights for row in guidance.ROWS.values()} | {"model_12"}
    for name in names:
        (tmp_path / name).write_bytes(b"weights")
    return drawn


def rows_of(path) -> dict:
    return json.loads(path.read_text(encoding="utf8"))["rows"]


def test_each_row_is_drawn_with_what_its_name_says(told, tmp_path):
    path = tmp_path / "guidance.json"
    guidance.write_guidance(path)
    rows = rows_of(path)
    assert rows.pop(guidance.FLOOR)["scores"] == {}
    assert len(told) == len(rows)
    for name, row in rows.items():
        label, w, seed = name.replace(", seed ", ", w = ").split(", w = ")
        expected = {"w": int(w), "seed": int(seed)}
        if "pairs" in label:
            expected["held-out"] = label.startswith("held-out")
        if "apart" in label:
            expected["apart"] = True
        else:
            expected["weak"] = label == "epoch 31 by epoch 12"
        assert row["scores"] == {what: [v] * 3 for what, v in expected.items()}, name


def test_an_interruption_loses_no_row_and_other_weights_draw_only_their_rows(
    told, tmp_path
):
    path = tmp_path / "guidance.json"
    guidance.write_guidance(path)
    names = rows_of(path).keys()
    (tmp_path / "model_12").write_bytes(b"other weights")
    before = len(told)
    told.stop_at = before + 2
    with pytest.raises(Interrupted):
        guidance.write_guidance(path)
    assert rows_of(path).keys() == names
    told.stop_at = None
    guidance.write_guidance(path)
    guidance.write_guidance(path)
    assert told[before:] == ["model_31"] * 2 * len(guidance.SEEDS)


def test_the_stored_rows_are_all_there():
    rows = rows_of(du.WEIGHTS / "guidance.json")
    assert [*rows] == [guidance.FLOOR, *guidance.ROWS]
    for row in rows.values():
        assert "legal" in row["scores"]
