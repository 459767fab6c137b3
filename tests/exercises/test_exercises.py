"""The exercises that answer back: each solution passes its check, other right answers do, usual mistakes are named, and no answer makes the check
itself fail."""

import ast
import importlib.util
import json
import math
import random
import re
import sys
import time
from fractions import Fraction
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

import diffusion_utilities as du

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = {
    int(path.name[:2]): path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}

from exercises import (
    EXERCISES,
    Wrong,
    answer_to,
    as_numbers,
    check,
    compare,
    guessed,
    tried,
)  # noqa: E402  (notebooks/ is on the path: see conftest.py)


def answers(lesson):
    """The module tests/exercises/answers/lesson_N.py: WRONG and RIGHT answers, and what a lesson's own cells would have DEFINED for its solutions."""
    spec = importlib.util.spec_from_file_location(
        f"answers_{lesson}",
        ROOT / "tests" / "exercises" / "answers" / f"lesson_{lesson}.py",
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def asked(lesson):
    """[(number, name of the stub, its code cell, the markdown after it)], in the order of the notebook."""
    cells, found = nbformat.read(NOTEBOOKS[lesson], as_version=4).cells, []
    for i, cell in enumerate(cells):
        for number, name in (
            re.findall(r'^check\("([\d.]+)", (\w+)', cell.source, re.M)
            if cell.cell_type == "code"
            else ()
        ):
            found.append(
                (
                    number,
                    name,
                    cell,
                    next(
                        (
                            later.source
                            for later in cells[i + 1 :]
                            if "<details>" in later.source
                        ),
                        "",
                    ),
                )
            )
    return found


EVERY = [
    (number, name, cell, after)
    for lesson in NOTEBOOKS
    for number, name, cell, after in asked(lesson)
]
WRONG = [wrong for lesson in NOTEBOOKS for wrong in answers(lesson).WRONG]
RIGHT = [
    right for lesson in NOTEBOOKS for right in getattr(answers(lesson), "RIGHT", [])
]


def attempt(number, name, source):
    """What the learner's cell would hand to check: `source` run among the names that a lesson has by then."""
    names = {
        "math": math,
        "time": time,
        "json": json,
        **{each: getattr(du, each) for each in du.__all__},
    }
    lesson = int(number.split(".")[0])
    exec(getattr(answers(lesson), "DEFINED", ""), names)
    exec(source, names)
    return names[name]


def name_of(number):
    return next(name for known, name, _, _ in EVERY if known == number)


def solution(number):
    """The folded solution's code: the python blocks of its <details>, joined."""
    after = next(after for known, _, _, after in EVERY if known == number)
    folded = re.search(
        r"<details><summary>Solution</summary>(.*?)</details>", after, re.S
    )
    return "\n".join(re.findall(r"```python\n(.*?)```", folded[1], re.S))


@pytest.mark.parametrize("lesson", NOTEBOOKS)
class TestEachLesson:
    def test_has_four_or_more_in_order_each_with_a_judge(self, lesson):
        numbers = [number for number, *_ in asked(lesson)]
        assert (
            numbers == [f"{lesson}.{i + 1}" for i in range(len(numbers))]
            and len(numbers) >= 4
        )
        answer_to(f"{lesson}.1", None)  # loads the judges
        assert {
            number for number in EXERCISES if number.startswith(f"{lesson}.")
        } == set(numbers)

    def test_its_stubs_are_saved_untouched_with_a_hint_and_a_solution_behind_each(
        self, lesson
    ):
        for number, _, cell, after in asked(lesson):
            assert f"Exercise {number}: not tried yet." in "".join(
                output.get("text", "") for output in cell.outputs
            )
            assert re.search(
                r"<details><summary>Hint</summary>.*?</details>\s+<details><summary>Solution</summary>",
                after,
                re.S,
            ), number

    def test_has_three_wrong_answers_that_are_recognised(self, lesson):
        assert len(answers(lesson).WRONG) >= 3


@pytest.mark.parametrize("number", [number for number, *_ in EVERY])
def test_the_solution_passes(number):
    answer = answer_to(number, attempt(number, name_of(number), solution(number)))
    assert answer.startswith("well done. ") and len(answer) > 30


@pytest.mark.parametrize(
    "number, source",
    RIGHT,
    ids=[f"{number}-{i}" for i, (number, _) in enumerate(RIGHT)],
)
def test_another_right_answer_passes(number, source):
    answer = answer_to(number, attempt(number, name_of(number), source))
    assert answer.startswith("well done. "), answer


@pytest.mark.parametrize(
    "number, source, words",
    WRONG,
    ids=[f"{number}-{i}" for i, (number, _, _) in enumerate(WRONG)],
)
def test_a_usual_mistake_is_named(number, source, words):
    answer = answer_to(number, attempt(number, name_of(number), source))
    assert answer.startswith("not yet. ") and re.search(words, answer, re.I), answer


@pytest.mark.parametrize("number", [number for number, *_ in EVERY])
def test_nonsense_is_refused_in_a_sentence(number):
    """Whatever is handed over: no error, no praise, and no "not tried yet" for what was tried."""
    functions = [
        lambda: 1,
        lambda *_, **__: "a word",
        lambda *_, **__: 1e9,
        lambda *_, **__: [],
    ]
    nonsense = [
        0,
        "a word",
        [],
        {},
        object(),
        *functions,
        np.zeros(3),
        torch.zeros(2, 2),
    ]
    for attempt in nonsense:
        answer = answer_to(number, attempt)
        assert answer.startswith("not yet. ") and len(answer) > 20, (attempt, answer)


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
        assert "AttributeError" in answer and "`return b.cumproduct(0)`" in answer

    def test_a_librarys_line_is_not_shown(self):
        """Neither torch's, nor Python's, nor a judge's: the line of the answer that called it."""

        def torchs(b):
            return torch.nn.functional.conv2d(b, torch.nn.Conv2d(1, 1, 3)(b))

        def pythons(b):
            return Fraction("not a number")

        def judges(network, w):
            return lambda x, t, c: network(x, t, c[:, :2])

        class InMethods(torch.nn.Module):
            def __init__(self, *_):
                super().__init__()
                self.conv1 = self.shortcut = torch.nn.Conv2d(3, 8, 1)

            def forward(self, x):
                return self.conv1(x[:, :1])

        for number, broken, line in (
            (
                "2.1",
                torchs,
                "return torch.nn.functional.conv2d(b, torch.nn.Conv2d(1, 1, 3)(b))",
            ),
            ("2.1", pythons, 'return Fraction("not a number")'),
            ("2.1", torch.no_grad()(pythons), 'return Fraction("not a number")'),
            ("6.2", judges, "return lambda x, t, c: network(x, t, c[:, :2])"),
            ("3.2", InMethods, "return self.conv1(x[:, :1])"),
        ):
            assert f"(in `{line}`)" in answer_to(number, broken)
        assert "(in `" not in answer_to(
            "2.1", torch.sum
        ) and "stopped with" in answer_to("2.1", lambda b: torch.linalg.inv(b))

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
        monkeypatch.delitem(sys.modules, "exercises.lesson_8", raising=False)
        monkeypatch.setitem(
            sys.modules, "diffusers", None
        )  # as if it were not installed
        assert (
            answer_to("8.1", None)
            == "lesson 8's exercises need diffusers: pip install diffusers"
        )

    def test_a_check_leaves_the_random_states_alone(self, capsys):
        def draws():
            return torch.rand(1).item(), np.random.rand(), random.random()

        def seed():
            torch.manual_seed(5), np.random.seed(5), random.seed(5)

        seed()
        wanted = draws()
        seed()
        check("2.2", lambda x, t, noise, schedule: torch.randn(x.shape) * draws()[1])
        assert draws() == wanted and capsys.readouterr().out.startswith(
            "Exercise 2.2: not yet. "
        )

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_a_check_leaves_the_gpus_random_state_alone(self):
        torch.manual_seed(5)
        wanted = torch.rand(1, device="cuda")
        torch.manual_seed(5)
        answer_to(
            "3.3", lambda *_: None if torch.rand(1, device="cuda") else None
        )  # its judge seeds torch
        assert torch.equal(torch.rand(1, device="cuda"), wanted)


class TestJudgesTools:
    def test_numbers_keep_their_digits(self):
        for value in (
            0.1,
            np.float64(0.1),
            [0.1],
            (torch.tensor(0.1, dtype=torch.float64),),
            np.array(0.1),
        ):
            assert (
                as_numbers(value).dtype == torch.float64
                and as_numbers(value).item() == 0.1
            )

    def test_two_numbers_that_differ_are_shown_so(self):
        with pytest.raises(Wrong, match="you have 0.50000001, expected 0.5"):
            compare(0.50000001, 0.5, tolerance=0)
        with pytest.raises(
            Wrong,
            match="at index .2,., expected 3, right to single precision only: use float64",
        ):
            compare([1, 2, 3 + 1e-7], [1, 2, 3], tolerance=1e-9, rounding=1e-6)

    def test_only_small_differences_are_put_down_to_single_precision(self):
        for mine in (
            0.00015169,
            float(np.float32(0.00015169)),
        ):  # 8 % off, in double and in single precision
            with pytest.raises(Wrong, match="expected 0.0001398.?.?$"):
                compare([0.5, mine], [0.5, 0.0001398], tolerance=1e-6, rounding=1e-4)
        for mine in (torch.tensor([3.0, 0.300003]), [3.0, 0.300000003]):
            with pytest.raises(Wrong, match="single precision"):
                compare(mine, [3.0, 0.3], tolerance=1e-10, rounding=1e-4)

    def test_a_tolerance_grows_with_the_numbers(self):
        compare(torch.tensor([1000.005]), [1000.0])
        with pytest.raises(Wrong):
            compare(1.0001, 1.0)

    @pytest.mark.parametrize(
        "four",
        [
            4,
            4.0,
            np.int64(4),
            np.float32(4),
            np.array(4),
            torch.tensor(4),
            torch.tensor(4.0, requires_grad=True),
        ],
    )
    def test_a_guess_may_be_any_number(self, four):
        assert (
            guessed(four, "0 or 4", (0, 4)) == 4
            and guessed(four, "a number", between=(0, 5)) == 4.0
        )
        assert guessed(four, "a number") == 4.0

    def test_a_guess_may_be_a_name_or_a_list(self):
        assert guessed(" Time ", "a name", ("no time", "time")) == "time"
        assert (
            guessed(np.array(["B", "a"]), "two", ("a", "b"), n=2)
            == ["b", "a"]
            == guessed(("b", "A"), "two", ("a", "b"), n=2)
        )
        assert guessed(torch.tensor([1, 2]), "two", (1, 2), n=2) == [1, 2]

    @pytest.mark.parametrize(
        "guess",
        [
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
        ],
    )
    def test_no_other_guess_is_judged(self, guess):
        with pytest.raises(Wrong, match="expected 1 or 4"):
            guessed(guess, "1 or 4", (1, 4))

    def test_a_guess_outside_its_range_is_told_the_range(self):
        with pytest.raises(
            Wrong, match="29 is outside the range; expected a number from 0 to 1"
        ):
            guessed(29, "a number from 0 to 1", between=(0, 1))


@pytest.mark.parametrize("lesson", NOTEBOOKS)
def test_wrong_answers_are_code(lesson):
    for _, source, words in answers(lesson).WRONG:
        ast.parse(source)
        re.compile(words)
