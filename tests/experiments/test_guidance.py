"""Contexts that name factors, and the program behind lesson 6's numbers.

The program draws with several weights of guidance, asks for pairs of factors, and
counts what came.
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


# ---- Drawing ------------------------------------------------------------------------


@pytest.fixture
def asked_for(monkeypatch):
    """Drawing with a linear model: the list of (model, context) of each draw."""
    seen = []

    def draw_batches(model, n, draw, *, seed, context, **options):
        seen.append((model, context))
        return np.zeros((n, 16, 16, 3), np.uint8)

    monkeypatch.setattr(guidance, "network", lambda name: linear_model)
    monkeypatch.setattr(guidance, "draw_batches", draw_batches)
    return seen


@pytest.mark.parametrize("weight", guidance.WEIGHTS)
def test_each_weight_goes_so_far_from_no_context(asked_for, weight):
    """For weights 0 and 1 without a second call of the network."""
    context = torch.eye(3, 93)
    guidance.drawn("any", weight, context, seed=4)
    ((model, given),) = asked_for
    x = torch.randn(3, 1, 2, 2)
    t = torch.tensor(0.5)
    nothing = linear_model(x, t, 0 * context)
    expected = nothing + weight * (linear_model(x, t, context) - nothing)
    torch.testing.assert_close(model(x, t, given), expected)
    assert (model is linear_model) == (weight in (0, 1))


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


# ---- Pairs of factors ---------------------------------------------------------------


def test_a_factor_row_says_what_is_asked_and_nothing_else():
    asked = [{"class": "hero", "hair_colour": "red", "item": "sword"}, {}]
    columns = SCORING.factor_columns()
    rows = guidance.factor_rows(asked)
    assert rows.shape == (2, len(columns))
    said = [{columns[i] for i in row.nonzero()[:, 0]} for row in rows]
    assert said == [set(asked[0].items()), set()]


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


# ---- The program --------------------------------------------------------------------


class Interrupted(Exception):
    """Stands for Ctrl-C."""


@pytest.fixture
def told(monkeypatch, tmp_path):
    """The program with scores that are what was drawn with, and weights in a folder.

    Returns the list of the networks drawn with; `told.stop_at` many drawings
    interrupt it.
    """

    class Drawn(list):
        stop_at = None

    networks = Drawn()

    def drawn(name, weight, context, seed):
        if len(networks) == networks.stop_at:
            raise Interrupted
        networks.append(name)
        return {"w": weight, "seed": seed, "columns": context.shape[1]}

    def scores(pictures, asked=None):
        if not isinstance(pictures, dict):  # real sprites
            return {"real": (1, 1, 1)}
        found = {name: (value,) * 3 for name, value in pictures.items()}
        if isinstance(asked, list):
            pairs = FACTORY.held_out_pairs(asked[0]["class"])
            _, first, second = asked[0].values()
            found["held-out"] = ((first, second) in pairs.pairs,) * 3
        return found

    monkeypatch.setattr(guidance, "RULER", ())
    monkeypatch.setattr(guidance, "weights_file", lambda name: tmp_path / name)
    monkeypatch.setattr(guidance, "drawn", drawn)
    monkeypatch.setattr(guidance, "pair_scores", scores)
    monkeypatch.setattr(guidance, "class_scores", scores)
    for name in guidance.NETWORKS.values():
        (tmp_path / name).write_bytes(b"weights")
    return networks


@pytest.fixture
def write(tmp_path):
    """Runs the program; returns its rows."""
    path = tmp_path / "guidance.json"

    def run() -> dict:
        content = {"rows": {}}
        if path.exists():
            content = json.loads(path.read_text(encoding="utf8"))
        guidance.write_guidance(path, content, n=5)
        return json.loads(path.read_text(encoding="utf8"))["rows"]

    return run


def test_each_row_is_drawn_with_what_its_name_says(told, write):
    rows = write()
    for seed in guidance.SEEDS:
        assert rows.pop(f"held-out real sprites, seed {seed}")["scores"]["real"]
    assert len(told) == len(rows)
    for name, row in rows.items():
        label, w, seed = name.replace(", seed ", ", w = ").split(", w = ")
        expected = {"w": float(w), "seed": int(seed), "columns": 5}
        if "pairs" in label:
            expected["columns"] = len(SCORING.factor_columns())
            expected["held-out"] = label == "held-out pairs"
        assert row["scores"] == {what: [v] * 3 for what, v in expected.items()}, name


def test_an_interruption_loses_no_row_and_other_weights_draw_only_their_rows(
    told, write, tmp_path
):
    names = write().keys()
    (tmp_path / "context_model_trained").write_bytes(b"other weights")
    before = len(told)
    told.stop_at = before + 2
    with pytest.raises(Interrupted):
        write()
    told.stop_at = None
    assert write().keys() == names
    write()
    rows = len(guidance.WEIGHTS) * len(guidance.SEEDS)
    assert told[before:] == ["context_model_trained"] * rows


def test_only_some_measures_are_kept(monkeypatch):
    every = {"class as asked": 1, "distinct": 2, "FD": 3}
    monkeypatch.setattr(du, "sprite_scores", lambda pictures, asked: every)
    assert guidance.class_scores(None) == {"class as asked": 1, "FD": 3}


def test_the_stored_rows_are_all_there():
    stored = json.loads((du.WEIGHTS / "guidance.json").read_text(encoding="utf8"))
    assert [*stored["rows"]] == [*guidance.ROWS]
    for row in stored["rows"].values():
        assert "legal" in row["scores"]
