"""editing.py: what is asked, the methods, and how an edit is judged."""

import json
from collections import Counter

import editing
import numpy as np
import pytest
import torch

import diffusion_utilities as du

FACTORY = du.sprite_factory()


@pytest.fixture(scope="module")
def edits():
    return editing.draw_edits(20)


def knows(pictures):
    """The ideal network of a world in which only these pictures exist, one a row."""

    def model(x, time, context=None):
        ab = editing.SCHEDULE.ab[round(float(time) * editing.SCHEDULE.T)].float()
        return (x - ab.sqrt() * pictures) / (1 - ab).sqrt()

    return model


# ---- What is asked ------------------------------------------------------------------


def test_the_classes_take_turns_and_one_factor_changes(edits):
    names = [wanted["class"] for wanted in edits.wanted]
    assert Counter(names) == dict.fromkeys(du.CLASS_NAMES, 4)
    found, distance = FACTORY.decode(du.to_pictures(edits.x))
    assert distance.max() == 0
    for sprite, factor, old, new, wanted in zip(
        found, edits.factors, edits.old, edits.new, edits.wanted
    ):
        before = sprite.as_dict()
        changed = [key for key in wanted if wanted[key] != before[key]]
        assert changed == [factor]
        assert old == {"class": wanted["class"], factor: before[factor]}
        assert new == {"class": wanted["class"], factor: wanted[factor]}


def test_no_sprite_comes_twice():
    many = editing.draw_edits(300)
    assert len(torch.unique(many.x, dim=0)) == 300


def test_a_context_names_the_class_and_one_factor(edits):
    rows = editing.as_rows(edits.new)
    assert rows.shape == (20, 175)
    assert (rows.sum(1) == 2).all()


# ---- The methods --------------------------------------------------------------------


@pytest.mark.parametrize("name", editing.METHODS)
def test_each_method_draws_what_an_ideal_network_knows(name, edits):
    """In a world of one sprite a row, every edit from high up ends at that sprite."""
    target = edits.x.flip(0)
    old = editing.as_rows(edits.old)
    steps = [*editing.STEPS]
    generator = torch.Generator().manual_seed(0)
    method = editing.METHODS[name]
    if name.startswith("difference"):
        # equal answers cancel: nothing moves but what the contexts tell apart
        x = method(knows(edits.x), edits.x, old, old, steps, generator)
        torch.testing.assert_close(x, edits.x, atol=1e-4, rtol=0)
        return
    x = method(knows(target), edits.x, old, old, steps, generator)
    torch.testing.assert_close(x, target, atol=1e-3, rtol=0)


def test_the_control_is_never_told_what_changes(edits):
    """It inverts and comes back, so that only the strides can change a sprite."""
    asked = []

    def model(x, time, context):
        asked.append(context)
        return torch.zeros_like(x)

    old = editing.as_rows(edits.old)
    new = editing.as_rows(edits.new)
    generator = torch.Generator().manual_seed(0)
    method, start = editing.plan()[editing.CONTROL]
    assert start == editing.STARTS[-1]
    method(model, edits.x, old, new, [444, 269, 33, 0], generator)
    assert len(asked) == 2 + 3  # strides up and down
    assert all(torch.equal(context, old) for context in asked)


def test_what_is_known_stays_when_half_is_filled():
    edits = editing.draw_edits(5)
    model = knows(edits.x.flip(0))
    for repeats in (1, 3):
        pictures = editing.fill_right_half(model, 5, 8, repeats)
        real = du.to_pictures(edits.x)
        np.testing.assert_array_equal(pictures[:, :, :8], real[:, :, :8])
        np.testing.assert_array_equal(pictures[:, :, 8:], real[::-1, :, 8:])


# ---- What came ----------------------------------------------------------------------


def test_the_changed_specification_is_always_right(edits):
    scores = editing.edit_scores(editing.by_specification(edits), edits)
    assert {name: score[0] for name, score in scores.items()} == dict.fromkeys(
        ("right", "changed", "kept", "legal", "right, colours", "right, parts"), 1
    )


def test_an_edit_that_does_nothing_keeps_everything(edits):
    scores = editing.edit_scores(du.to_pictures(edits.x), edits)
    assert scores["kept"][0] == 1
    assert scores["changed"][0] == scores["right"][0] == 0


def test_an_edit_that_changes_something_else_is_not_right(edits):
    """The factor comes as asked, but another one changes with it."""
    sprites = []
    for factor, wanted in zip(edits.factors, edits.wanted):
        values = dict(wanted)
        name = values.pop("class")
        legal = FACTORY.factors_of(name)
        other = next(each for each in legal if each != factor)
        values[other] = next(value for value in legal[other] if value != values[other])
        sprites.append(FACTORY.specify(name, **values))
    scores = editing.edit_scores(FACTORY.render_many(sprites), edits)
    assert scores["changed"][0] == 1
    assert scores["kept"][0] == 0
    assert scores["right"][0] == 0


def test_kept_pictures_say_what_was_asked_and_whether_it_came(edits, tmp_path):
    path = tmp_path / "editing.npz"
    pictures = editing.by_specification(edits)
    pictures[0] = du.to_pictures(edits.x)[0]
    editing.keep_pictures(path, pictures, edits)
    with np.load(path) as kept:
        assert kept["right"].tolist() == [False] + [True] * 19
        assert kept["asked"][0].split(": ") == [
            edits.factors[0],
            edits.new[0][edits.factors[0]],
        ]


# ---- The stored table ---------------------------------------------------------------


def test_the_stored_rows_are_all_there():
    content = json.loads((du.WEIGHTS / "editing.json").read_text(encoding="utf8"))
    assert [*content["edits"]] == [*editing.plan()]
    assert [*content["seam"]] == [*editing.SEAMS]
    for row in content["edits"].values():
        assert "right" in row["scores"]
