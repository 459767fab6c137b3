"""The exercises that answer back.

Each solution passes its check, and so do other right answers; usual mistakes are named;
no answer makes the check itself fail.
"""

import ast
import importlib.util
import json
import math
import random
import re
import sys
import textwrap
import time
from fractions import Fraction
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from exercises import (
    EXERCISES,
    Wrong,
    answer_to,
    as_numbers,
    check,
    compare,
    guessed,
    tried,
)

import diffusion_utilities as du

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = {
    int(path.name[:2]): path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}
DETAILS = r"<details><summary>{}</summary>(.*?)</details>"


@cache
def answers(lesson):
    """The module tests/exercises/answers/lesson_N.py.

    It has WRONG and RIGHT answers, and in DEFINED what the lesson's own cells would
    have defined for its solutions.
    """
    path = ROOT / "tests" / "exercises" / "answers" / f"lesson_{lesson}.py"
    spec = importlib.util.spec_from_file_location(f"answers_{lesson}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def asked(lesson):
    """A lesson's exercises in the order of the notebook.

    Each as (number, name of the stub, its code cell, the markdown with its solution).
    """
    cells = nbformat.read(NOTEBOOKS[lesson], as_version=4).cells
    found = []
    for i, cell in enumerate(cells):
        if cell.cell_type != "code":
            continue
        checks = re.findall(r'^check\("([\d.]+)", (\w+)', cell.source, re.M)
        for number, name in checks:
            later = [after.source for after in cells[i + 1 :]]
            folded = [source for source in later if "<details>" in source]
            found.append((number, name, cell, folded[0] if folded else ""))
    return found


STUBS = {}
SOLUTIONS = {}
WRONG = []
RIGHT = []
for _lesson in NOTEBOOKS:
    for _number, _name, _, _after in asked(_lesson):
        _solution = re.search(DETAILS.format("Solution"), _after, re.S)
        _blocks = re.findall(r"```python\n(.*?)```", _solution[1], re.S)
        STUBS[_number] = _name
        SOLUTIONS[_number] = "\n".join(_blocks)
    WRONG += answers(_lesson).WRONG
    RIGHT += getattr(answers(_lesson), "RIGHT", [])


def ids(answers):
    """A name for each test: the exercise and a running number."""
    return [f"{number}-{i}" for i, (number, *_) in enumerate(answers)]


def attempt(number, source):
    """What the learner's cell would pass to check.

    `source` runs among the names that a lesson has by then.
    """
    lesson = number.split(".")[0]
    names = {"math": math, "time": time, "json": json}
    for name in du.__all__:
        names[name] = getattr(du, name)
    exec(getattr(answers(lesson), "DEFINED", ""), names)
    exec(textwrap.dedent(source), names)
    return names[STUBS[number]]


def told(number, source):
    """What the check of an exercise says about this code."""
    return answer_to(number, attempt(number, source))


@pytest.mark.parametrize("lesson", NOTEBOOKS)
class TestEachLesson:
    def test_has_four_or_more_in_order_each_with_a_judge(self, lesson):
        numbers = [number for number, *_ in asked(lesson)]
        assert numbers == [f"{lesson}.{i + 1}" for i in range(len(numbers))]
        assert len(numbers) >= 4
        answer_to(f"{lesson}.1", None)  # loads the judges
        judged = {number for number in EXERCISES if number.startswith(f"{lesson}.")}
        assert judged == set(numbers)

    def test_its_stubs_are_saved_untouched(self, lesson):
        for number, _, cell, _ in asked(lesson):
            texts = [output.get("text", "") for output in cell.outputs]
            assert f"Exercise {number}: not tried yet." in "".join(texts)

    def test_each_has_a_hint_and_a_solution_behind_it(self, lesson):
        both = DETAILS.format("Hint") + r"\s+" + DETAILS.format("Solution")
        for number, _, _, after in asked(lesson):
            assert re.search(both, after, re.S), number

    def test_has_three_wrong_answers_that_are_recognised(self, lesson):
        assert len(answers(lesson).WRONG) >= 3

    def test_wrong_answers_are_code(self, lesson):
        for _, source, words in answers(lesson).WRONG:
            ast.parse(textwrap.dedent(source))
            re.compile(words)


@pytest.mark.parametrize("number", STUBS)
def test_the_solution_passes(number):
    answer = told(number, SOLUTIONS[number])
    assert answer.startswith("well done. ")
    assert len(answer) > 30


@pytest.mark.parametrize("number, source", RIGHT, ids=ids(RIGHT))
def test_another_right_answer_passes(number, source):
    answer = told(number, source)
    assert answer.startswith("well done. "), answer


@pytest.mark.parametrize("number, source, words", WRONG, ids=ids(WRONG))
def test_a_usual_mistake_is_named(number, source, words):
    answer = told(number, source)
    assert answer.startswith("not yet. ")
    assert re.search(words, answer, re.I), answer


NONSENSE = {
    "zero": 0,
    "text": "a word",
    "list": [],
    "dictionary": {},
    "object": object(),
    "array": np.zeros(3),
    "tensor": torch.zeros(2, 2),
    "no arguments": lambda: 1,
    "returns text": lambda *_, **__: "a word",
    "returns a number": lambda *_, **__: 1e9,
    "returns a list": lambda *_, **__: [],
}


@pytest.mark.parametrize("number", STUBS)
def test_nonsense_is_refused_in_a_sentence(number):
    """Whatever is passed: no error, no praise, and no "not tried yet"."""
    for name, nonsense in NONSENSE.items():
        answer = answer_to(number, nonsense)
        assert answer.startswith("not yet. "), (name, answer)
        assert len(answer) > 20, (name, answer)


class TestAnswers:
    def test_an_untouched_stub_was_not_tried(self):
        def stub(b):
            """With a docstring."""
            return None  # your lines here

        def dots(b): ...

        for nothing in (stub, dots, None, ...):
            assert answer_to("2.1", nothing) == "not tried yet."

    def test_a_class_whose_forward_is_empty_was_not_tried(self):
        class Stub(torch.nn.Module):
            def forward(self, x):
                return None

        assert answer_to("2.1", Stub) == "not tried yet."

    def test_a_forgotten_return_is_told_from_a_stub(self):
        def forgotten(b):
            (1 - b).cumprod(0)

        assert "is a `return` missing" in answer_to("2.1", forgotten)

    def test_an_error_is_told_with_its_line(self):
        def broken(b):
            return b.cumproduct(0)

        answer = answer_to("2.1", broken)
        assert "AttributeError" in answer
        assert "`return b.cumproduct(0)`" in answer

    def test_a_changed_argument_is_noticed(self):
        def in_place(b):
            b[1:] = (1 - b[1:]).cumprod(0)
            b[0] = 1
            return b

        assert "in place" in answer_to("2.1", in_place)

    def test_a_changed_schedule_is_noticed(self):
        def in_place(t, schedule):
            schedule.ab[0] = 0.5
            return 0.0

        schedule = du.NoiseSchedule.linear(10)
        with pytest.raises(Wrong, match="argument number 2 in place"):
            tried(in_place, 3, schedule)
        assert schedule.ab[0] == 1

    @pytest.mark.parametrize("number", ["2.99", "99.1", "two", "", [], 2.1e9])
    def test_an_unknown_exercise_is_named(self, number, capsys):
        check(number, None)
        assert "there is no exercise of this number" in capsys.readouterr().out

    def test_a_missing_package_is_named(self, monkeypatch):
        monkeypatch.delitem(sys.modules, "exercises.lesson_15", raising=False)
        # as if it were not installed
        monkeypatch.setitem(sys.modules, "diffusers", None)
        answer = answer_to("15.1", None)
        assert answer == "lesson 15's exercises need diffusers: pip install diffusers"


class TestTheLineOfAnError:
    """The line of the answer is shown: not torch's, Python's or a judge's."""

    def test_not_torchs(self):
        def broken(b):
            return torch.linalg.inv(b)

        assert "(in `return torch.linalg.inv(b)`)" in answer_to("2.1", broken)

    def test_not_pythons(self):
        def broken(b):
            return Fraction("not a number")

        line = '(in `return Fraction("not a number")`)'
        assert line in answer_to("2.1", broken)
        assert line in answer_to("2.1", torch.no_grad()(broken))

    def test_not_a_judges(self):
        def broken(model, w, low, high, T=500):
            return lambda x, t, c: model(x, t, c[:, :2])

        line = "(in `return lambda x, t, c: model(x, t, c[:, :2])`)"
        assert line in answer_to("6.5", broken)

    def test_that_of_a_method(self):
        class Broken:
            def answer(self, b):
                return b[10**6]

        assert "(in `return b[10**6]`)" in answer_to("2.1", Broken().answer)

    def test_none_for_an_answer_without_code(self):
        assert "(in `" not in answer_to("2.1", torch.sum)


def seed_all():
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)


def draw_from_all():
    return torch.rand(1).item(), np.random.rand(), random.random()


class TestRandomStates:
    def test_a_check_leaves_them_alone(self, capsys):
        def my_perturb_input(x, t, noise, schedule):
            return torch.randn(x.shape) * draw_from_all()[1]

        seed_all()
        wanted = draw_from_all()
        seed_all()
        check("2.2", my_perturb_input)
        assert draw_from_all() == wanted
        assert capsys.readouterr().out.startswith("Exercise 2.2: not yet. ")

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_a_check_leaves_the_gpus_alone(self):
        class Drawing(torch.nn.Module):
            def __init__(self, *_):
                super().__init__()
                torch.rand(1, device="cuda")

        torch.manual_seed(5)
        wanted = torch.rand(1, device="cuda")
        torch.manual_seed(5)
        answer_to("3.2", Drawing)  # its judge seeds torch
        assert torch.equal(torch.rand(1, device="cuda"), wanted)


class TestNumbers:
    @pytest.mark.parametrize(
        "value",
        [
            0.1,
            np.float64(0.1),
            [0.1],
            (torch.tensor(0.1, dtype=torch.float64),),
            np.array(0.1),
        ],
    )
    def test_keep_their_digits(self, value):
        numbers = as_numbers(value)
        assert numbers.dtype == torch.float64
        assert numbers.item() == 0.1


class TestCompare:
    def test_two_numbers_that_differ_are_shown_so(self):
        with pytest.raises(Wrong, match="you have 0.50000001, expected 0.5"):
            compare(0.50000001, 0.5, tolerance=0)

    def test_single_precision_is_named(self):
        words = "at index .2,., expected 3, right to single precision only: use float64"
        with pytest.raises(Wrong, match=words):
            compare([1, 2, 3 + 1e-7], [1, 2, 3], tolerance=1e-9, rounding=1e-6)

    @pytest.mark.parametrize("mine", [0.00015169, float(np.float32(0.00015169))])
    def test_a_large_difference_is_not_put_down_to_single_precision(self, mine):
        """8 % off, in double and in single precision."""
        with pytest.raises(Wrong, match="expected 0.0001398.?.?$"):
            compare([0.5, mine], [0.5, 0.0001398], tolerance=1e-6, rounding=1e-4)

    @pytest.mark.parametrize(
        "mine", [torch.tensor([3.0, 0.300003]), [3.0, 0.300000003]]
    )
    def test_a_small_difference_is_put_down_to_single_precision(self, mine):
        with pytest.raises(Wrong, match="single precision"):
            compare(mine, [3.0, 0.3], tolerance=1e-10, rounding=1e-4)

    def test_a_tolerance_grows_with_the_numbers(self):
        compare(torch.tensor([1000.005]), [1000.0])
        with pytest.raises(Wrong):
            compare(1.0001, 1.0)

    def test_mistakes_are_not_computed_for_a_right_answer(self):
        def mistakes():
            raise AssertionError("nobody asked")
            yield

        compare(1.0, 1.0, mistakes())

    @pytest.mark.parametrize("container", [dict, list, iter])
    def test_a_mistake_is_named_whatever_holds_the_pairs(self, container):
        mistakes = container([("turn it round.", -1.0), ("add one.", 0.0)])
        with pytest.raises(Wrong, match="at home: you have 0, expected 1: add one.$"):
            compare(0.0, 1.0, mistakes, where="at home")


FOURS = [
    4,
    4.0,
    np.int64(4),
    np.float32(4),
    np.array(4),
    torch.tensor(4),
    torch.tensor(4.0, requires_grad=True),
]
NO_FOURS = [
    True,
    np.bool_(True),
    "4",
    None,
    [4],
    np.array([4]),
    math.nan,
    3,
    4.5,
    4j,
    {},
    object(),
]


class TestGuessed:
    @pytest.mark.parametrize("four", FOURS)
    def test_a_guess_may_be_any_number(self, four):
        assert guessed(four, "0 or 4", (0, 4)) == 4
        assert guessed(four, "a number", between=(0, 5)) == 4.0
        assert guessed(four, "a number") == 4.0

    def test_a_guess_may_be_a_name(self):
        assert guessed(" Time ", "a name", ("no time", "time")) == "time"

    def test_a_guess_may_be_a_list(self):
        letters = ("a", "b")
        assert guessed(np.array(["B", "a"]), "two", letters, n=2) == ["b", "a"]
        assert guessed(("b", "A"), "two", letters, n=2) == ["b", "a"]
        assert guessed(torch.tensor([1, 2]), "two", (1, 2), n=2) == [1, 2]

    @pytest.mark.parametrize("guess", NO_FOURS)
    def test_no_other_guess_is_judged(self, guess):
        with pytest.raises(Wrong, match="expected 1 or 4"):
            guessed(guess, "1 or 4", (1, 4))

    def test_a_guess_outside_its_range_is_told_the_range(self):
        words = "29 is outside the range; expected a number from 0 to 1"
        with pytest.raises(Wrong, match=words):
            guessed(29, "a number from 0 to 1", between=(0, 1))
