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
    assert columns[:5] == tuple(
        ("class", name) for name in FACTORY.CLASS_NAMES
    ) and len(columns) == len(set(columns))
    expected = [*columns[:5]]
    for name in FACTORY.CLASS_NAMES:
        pairs = FACTORY.held_out_pairs(name)
        for column in (
            (factor, value)
            for factor in (pairs.first, pairs.second)
            for value in FACTORY.factors_of(name)[factor]
        ):
            expected += [column] * (column not in expected)
    assert [*columns] == expected  # in this order, which shipped weights have learnt
    np.testing.assert_array_equal(
        FACTORY.as_context([dict([column]) for column in columns]), np.eye(len(columns))
    )


def test_a_context_says_what_is_asked_and_nothing_else():
    asked = [
        {"class": "hero", "hair_colour": "red", "item": "sword"},
        {},
        {"class": "food", "kind": "apple"},
    ]
    contexts, columns = FACTORY.as_context(asked), FACTORY.context_columns()
    assert contexts.dtype == np.float32 and contexts.shape == (3, len(columns))
    said = [{columns[i] for i in row.nonzero()[0]} for row in contexts]
    assert said == [
        {("class", "hero"), ("hair_colour", "red")},
        set(),
        {("class", "food"), ("kind", "apple")},
    ]  # items have no column


@pytest.mark.parametrize(
    "asked, words",
    [
        ({"class": "dragon"}, "class='dragon'"),
        ({"hair_colour": "plaid"}, "hair_colour='plaid'"),
    ],
)
def test_a_context_for_what_no_sprite_has_is_refused(asked, words):
    with pytest.raises(ValueError, match=f"asked for {words}, which no sprite has"):
        FACTORY.as_context([{"class": "hero"}, asked])


def test_guidance_goes_from_one_answer_past_the_other(results):
    x, t, c = torch.randn(3, 1, 2, 2), torch.tensor(0.5), torch.eye(3, 93)
    null, asked = linear_model(x, t), linear_model(x, t, c)
    torch.testing.assert_close(results.guided(linear_model, 0)(x, t, c), null)
    assert results.guided(linear_model, 1) is linear_model
    torch.testing.assert_close(
        results.guided(linear_model, 3)(x, t, c), 3 * asked - 2 * null
    )
    weak = results.guided(
        linear_model, 3, lambda x, t, c: 10 * linear_model(x, t, c)
    )  # it is told the context too
    torch.testing.assert_close(weak(x, t, c), 3 * asked - 20 * asked)


def test_factors_asked_apart_add_their_guidances(results):
    """Of a linear model class + w first + w second is left, whichever columns they are."""
    asked = results.asked_pairs(True, 12)
    c = torch.from_numpy(FACTORY.as_context(asked))
    x, worth = torch.randn(12, 1, 2, 2), torch.arange(1.0, 94.0)
    per_class, per_factor = c[:, :5] @ worth[:5], c[:, 5:] @ worth[5:]
    expected = x + (per_class + 2.5 * per_factor).view(-1, 1, 1, 1)
    torch.testing.assert_close(
        results.asked_apart(linear_model, 2.5)(x, torch.tensor(0.5), c), expected
    )


@pytest.mark.parametrize("held_out", [True, False])
def test_pairs_are_asked_for_in_every_class(results, held_out):
    asked = results.asked_pairs(held_out, 200)
    for i, row in enumerate(asked):
        pairs = FACTORY.held_out_pairs(row["class"])
        assert row["class"] == du.CLASS_NAMES[i % 5] and len(row) == 3
        assert ((row[pairs.first], row[pairs.second]) in pairs.pairs) == held_out
    if held_out:  # all of them, in turn
        assert len({tuple(row.items()) for row in asked}) == sum(
            len(FACTORY.held_out_pairs(name).pairs) for name in du.CLASS_NAMES
        )
    else:
        assert (
            results.asked_pairs(False, 200, 1)
            == results.asked_pairs(False, 200, 1)
            != results.asked_pairs(False, 200, 2)
        )


def test_what_came_is_counted_factor_by_factor(results):
    """Sprites drawn as asked, of which the heroes have another hair colour, and of the first hero and the first non-hero one pixel is green."""
    asked, rng, sprites = results.asked_pairs(True, 40), np.random.default_rng(0), []
    for want in asked:
        legal = FACTORY.factors_of(want["class"])
        values = {
            factor: str(rng.choice(choices)) for factor, choices in legal.items()
        } | {k: v for k, v in want.items() if k != "class"}
        if want["class"] == "hero":
            values["hair_colour"] = next(
                colour
                for colour in legal["hair_colour"]
                if colour != want["hair_colour"]
            )
        sprites.append(FACTORY.specify(want["class"], **values))
    pictures = FACTORY.render_many(sprites)
    pictures[:2, 0, 0] = (0, 255, 0)
    scores = {
        name: value
        for name, (value, _, _) in results.pair_scores(pictures, asked).items()
    }
    assert (
        scores["class"] == scores["second"] == 1
        and scores["first"] == scores["all"] == 0.8
    )
    assert scores["legal"] == 38 / 40 and scores["all, and legal"] == 31 / 40
    assert [scores[f"all, {name}"] for name in du.CLASS_NAMES] == [0, 1, 1, 1, 1]


def test_each_batch_is_asked_for_its_own_contexts_of_the_model_that_is_given(results):
    """A sampler that paints each picture in the grey of its context, and says what it was given."""
    asked, seen = torch.linspace(-1, 1, 2 * results.BATCH + 7)[:, None], []

    def sample(model, schedule, shape, context, generator, keep):
        seen.append((model, shape))
        return context[..., None, None].expand(shape), None

    pictures = results.drawn_in_batches(
        "factor", len(asked), sample, model=linear_model, asked=asked
    )
    np.testing.assert_array_equal(
        pictures, du.to_pictures(asked[..., None, None].expand(-1, 3, 16, 16))
    )
    assert seen == [
        (linear_model, (size, 3, 16, 16)) for size in (results.BATCH, results.BATCH, 7)
    ]


def test_each_row_is_drawn_with_what_its_name_says_and_once(
    results, monkeypatch, tmp_path
):
    """Scores that are what was drawn with; of weights that change only their own rows are drawn again, and an interruption loses no row."""
    drawn, names = (
        [],
        {
            name
            for name, weak, *_ in results.GUIDED.values()
            for name in (name, weak)
            if name
        }
        | {"factor_model_trained"},
    )

    def draw(name, n, sample, seed, model, asked, **options):
        if len(drawn) == interrupted_at:
            raise KeyboardInterrupt
        drawn.append(name)
        return model | {"seed": seed}

    def count(pictures, asked):
        pairs, (_, first, second) = (
            FACTORY.held_out_pairs(asked[0]["class"]),
            asked[0].values(),
        )
        return {
            what: (number,) * 3
            for what, number in (
                pictures | {"held-out": (first, second) in pairs.pairs}
            ).items()
        }

    def told(network, w, weak=None):
        return {"w": w, "weak": weak is not None}

    def told_apart(network, w):
        return {"w": w, "apart": True}

    fakes = {
        "HERE": tmp_path,
        "GUIDED_N": 5,
        "guided": told,
        "asked_apart": told_apart,
        "network": str,
        "ruler": str,
    }
    for name, fake in (
        fakes | {"drawn_in_batches": draw, "pair_scores": count}
    ).items():
        monkeypatch.setattr(results, name, fake)
    monkeypatch.setattr(
        du,
        "sprite_scores",
        lambda drawn, c: (
            {k: (v,) * 3 for k, v in drawn.items()} if isinstance(drawn, dict) else {}
        ),
    )
    for name in names:
        (tmp_path / f"{name}.pth").write_bytes(b"weights")
    interrupted_at = None
    results.make_guidance(tmp_path / "guidance.json")
    rows = json.loads((tmp_path / "guidance.json").read_text(encoding="utf8"))["rows"]
    assert len(drawn) == len(rows) - 1 and rows.pop("test (floor)")["scores"] == {}
    for row, content in rows.items():
        w, seed = (
            int(end.split(",")[0])
            for end in row.replace("w = ", "seed ").split("seed ")[1:]
        )
        expected = {"w": w, "seed": seed}
        if "pairs" in row:
            expected |= {"held-out": row.startswith("held-out")} | (
                {"apart": True} if "apart" in row else {"weak": False}
            )
        else:
            expected |= {"weak": row.startswith("epoch 31 by epoch 12")}
        assert content["scores"] == {
            what: [number] * 3 for what, number in expected.items()
        }, row
    (tmp_path / "model_12.pth").write_bytes(b"other weights")
    interrupted_at = len(drawn) + 2
    with pytest.raises(KeyboardInterrupt):
        results.make_guidance(tmp_path / "guidance.json")
    assert json.loads((tmp_path / "guidance.json").read_text(encoding="utf8"))[
        "rows"
    ].keys() == {"test (floor)", *rows}
    interrupted_at = None
    results.make_guidance(tmp_path / "guidance.json")
    results.make_guidance(tmp_path / "guidance.json")
    assert drawn[len(rows) :] == ["model_31"] * 2 * len(results.GUIDED_SEEDS)


def test_the_stored_rows_are_all_there(results):
    rows = json.loads((du.WEIGHTS / "guidance.json").read_text(encoding="utf8"))["rows"]
    guided = {
        f"{label}, w = {w}, seed {s}"
        for label, (*_, ws) in results.GUIDED.items()
        for w in ws
        for s in results.GUIDED_SEEDS
    }
    assert (
        guided < rows.keys()
        and len(rows) == 1 + len(guided) + 2 * 2 * len(results.ASKED_W) * 3
    )
    assert all({"legal"} < row["scores"].keys() for row in rows.values())
