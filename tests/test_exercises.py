"""The exercises that answer back: each solution passes its check, usual mistakes are named, and no answer makes the check itself fail."""

import ast
import importlib.util
import json
import math
import re
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

import diffusion_utilities as du

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = {int(path.name[:2]): path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}

from exercises import EXERCISES, answer_to, check  # noqa: E402  (notebooks/ is on the path: see conftest.py)


def answers(lesson):
    """The module tests/answers/lesson_N.py: WRONG answers, and what a lesson's own cells would have DEFINED for its solutions."""
    spec = importlib.util.spec_from_file_location(f"answers_{lesson}", ROOT / "tests" / "answers" / f"lesson_{lesson}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def asked(lesson):
    """[(number, name of the stub, its code cell, the markdown after it)], in the order of the notebook."""
    cells, found = nbformat.read(NOTEBOOKS[lesson], as_version=4).cells, []
    for i, cell in enumerate(cells):
        for number, name in re.findall(r'^check\("([\d.]+)", (\w+)', cell.source, re.M) if cell.cell_type == "code" else ():
            found.append((number, name, cell, next((later.source for later in cells[i + 1 :] if "<details>" in later.source), "")))
    return found


EVERY = [(number, name, cell, after) for lesson in NOTEBOOKS for number, name, cell, after in asked(lesson)]
WRONG = [wrong for lesson in NOTEBOOKS for wrong in answers(lesson).WRONG]


def attempt(number, name, source):
    """What the learner's cell would hand to check: `source` run among the names that a lesson has by then."""
    names = {"math": math, "time": time, "json": json, **{each: getattr(du, each) for each in du.__all__}}
    lesson = int(number.split(".")[0])
    exec(getattr(answers(lesson), "DEFINED", ""), names)
    exec(source, names)
    return names[name]


def name_of(number):
    return next(name for known, name, _, _ in EVERY if known == number)


def solution(number):
    """The folded solution's code: the python blocks of its <details>, joined."""
    after = next(after for known, _, _, after in EVERY if known == number)
    folded = re.search(r"<details><summary>Solution</summary>(.*?)</details>", after, re.S)
    return "\n".join(re.findall(r"```python\n(.*?)```", folded[1], re.S))


@pytest.mark.parametrize("lesson", NOTEBOOKS)
class TestEachLesson:
    def test_has_four_or_more_in_order_each_with_a_judge(self, lesson):
        numbers = [number for number, *_ in asked(lesson)]
        assert numbers == [f"{lesson}.{i + 1}" for i in range(len(numbers))] and len(numbers) >= 4
        answer_to(f"{lesson}.1", None)  # loads the judges
        assert {number for number in EXERCISES if number.startswith(f"{lesson}.")} == set(numbers)

    def test_its_stubs_are_saved_untouched_with_a_hint_and_a_solution_behind_each(self, lesson):
        for number, _, cell, after in asked(lesson):
            assert f"Exercise {number}: not tried yet." in "".join(output.get("text", "") for output in cell.outputs)
            assert re.search(r"<details><summary>Hint</summary>.*?</details>\s+<details><summary>Solution</summary>", after, re.S), number

    def test_has_three_wrong_answers_that_are_recognised(self, lesson):
        assert len(answers(lesson).WRONG) >= 3


@pytest.mark.parametrize("number", [number for number, *_ in EVERY])
def test_the_solution_passes(number):
    answer = answer_to(number, attempt(number, name_of(number), solution(number)))
    assert answer.startswith("well done. ") and len(answer) > 30


@pytest.mark.parametrize("number, source, words", WRONG, ids=[f"{number}-{i}" for i, (number, _, _) in enumerate(WRONG)])
def test_a_usual_mistake_is_named(number, source, words):
    answer = answer_to(number, attempt(number, name_of(number), source))
    assert answer.startswith("not yet. ") and re.search(words, answer, re.I), answer


@pytest.mark.parametrize("number", [number for number, *_ in EVERY])
def test_nonsense_is_refused_in_a_sentence(number):
    """Whatever is handed over: no error, no praise, and no "not tried yet" for what was tried."""
    functions = [lambda: 1, lambda *_, **__: "a word", lambda *_, **__: 1e9, lambda *_, **__: []]
    nonsense = [0, "a word", [], {}, object(), *functions, np.zeros(3), torch.zeros(2, 2)]
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

    def test_a_changed_argument_is_noticed(self):
        def in_place(b):
            b[1:] = (1 - b[1:]).cumprod(0)
            b[0] = 1
            return b

        assert "in place" in answer_to("2.1", in_place)

    def test_an_unknown_exercise_is_named(self):
        for number in ("2.99", "99.1", "two", ""):
            with pytest.raises(ValueError, match="there is no exercise"):
                check(number, None)

    def test_a_check_leaves_the_random_state_alone(self, capsys):
        torch.manual_seed(5)
        wanted = torch.rand(1)
        torch.manual_seed(5)
        check("2.2", lambda x, t, noise, schedule: torch.randn(x.shape))
        assert torch.equal(torch.rand(1), wanted) and capsys.readouterr().out.startswith("Exercise 2.2: not yet. ")


@pytest.mark.parametrize("lesson", NOTEBOOKS)
def test_wrong_answers_are_code(lesson):
    for _, source, words in answers(lesson).WRONG:
        ast.parse(source)
        re.compile(words)
