"""Exercises that answer back: `check("2.3", my_function)` says what is right, or which usual mistake your answer looks like.

Each lesson's judges are in `lesson_2.py` and so on, and spoil its exercises. A judge gets the attempt, tries it on inputs of its own, and raises
`Wrong` with a sentence for the learner; where it returns, the attempt is right. Nothing here knows a notebook's variables.
"""

from __future__ import annotations

import dis
import importlib
import linecache
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["check"]


class Wrong(Exception):
    """What is wrong with an attempt: a sentence that the learner reads."""


class NotTried(Exception):
    """The stub is as it was."""


@dataclass(frozen=True)
class Exercise:
    """`judge(attempt)` returns or raises `Wrong`; `praise` is what a right answer earns, with the next thing to try."""

    number: str
    judge: Callable
    praise: str


EXERCISES: dict[str, Exercise] = {}


def exercise(number: str, praise: str) -> Callable:
    """Decorates the judge of exercise `number` ("lesson.exercise")."""

    def register(judge: Callable) -> Callable:
        EXERCISES[number] = Exercise(number, judge, praise)
        return judge

    return register


def check(number: str, attempt: object) -> None:
    """Judge your answer to an exercise, such as check("2.3", my_function), and print what comes of it; never an error of its own."""
    print(f"Exercise {number}: {answer_to(number, attempt)}")


def answer_to(number: str, attempt: object) -> str:
    """What `check` prints of an attempt. Raises ValueError for an exercise that does not exist."""
    try:
        importlib.import_module(f"{__name__}.lesson_{int(str(number).split('.')[0])}")
        found = EXERCISES[number]
    except (ImportError, ValueError, KeyError):
        raise ValueError(f'there is no exercise {number!r}; expected the number in its heading, such as check("2.3", my_function)') from None
    try:
        if is_untouched(attempt):
            raise NotTried
        with torch.random.fork_rng(devices=[]):  # whoever skips an exercise gets the same numbers after it
            found.judge(attempt)
    except NotTried:
        return "not tried yet."
    except Wrong as wrong:
        words = str(wrong)
        return f"not yet. {words[0].upper()}{words[1:]}"
    except Exception as error:  # the judge met something that it did not expect: still an answer, not a traceback
        return f"not yet. Your answer could not be judged ({type(error).__name__}: {error}). Does it return what the task asks for?"
    return f"well done. {found.praise}"


def is_untouched(attempt: object) -> bool:
    """Whether an attempt is None, `...`, or a function or class whose own functions do nothing but return None."""
    if attempt is None or attempt is Ellipsis:
        return True
    if isinstance(attempt, type):
        functions = [member for name, member in vars(attempt).items() if hasattr(member, "__code__") and name != "__init__"]
        return bool(functions) and all(map(is_untouched, functions))
    if not hasattr(attempt, "__code__"):
        return False
    idle = {"RESUME", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE"}
    steps = [*dis.get_instructions(attempt)]
    return {step.opname for step in steps} <= idle and all(step.argval in (None, Ellipsis) for step in steps if "CONST" in step.opname)


def tried(attempt: Callable, *arguments, **named):
    """What the attempt returns for copies of these arguments.

    Raises Wrong where it stops with an error (naming the line), returns None, or changes an argument in place."""
    if not callable(attempt):
        raise Wrong(f"This is {type(attempt).__name__} {attempt!r:.60}; expected your function itself, without calling it.")
    copies = [each.clone() if torch.is_tensor(each) else each.copy() if isinstance(each, np.ndarray) else each for each in arguments]
    try:
        result = attempt(*copies, **named)
    except Exception as error:
        raise Wrong(f"Your code stopped with {type(error).__name__}: {error}{_place(error)}.") from None
    if result is None:
        raise Wrong("Your function returned None: is a `return` missing?")
    for i, (copy, given) in enumerate(zip(copies, arguments), start=1):
        if not (torch.equal(copy, given) if torch.is_tensor(given) else not isinstance(given, np.ndarray) or np.array_equal(copy, given)):
            raise Wrong(f"Your function changed its argument number {i} in place, which spoils it for whoever called: compute a new one instead.")
    return result


def _place(error: Exception) -> str:
    """The line of the learner's own code at which an error was raised."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__ and "site-packages" not in frame.filename]
    if not own:
        return ""
    line = (own[-1].line or linecache.getline(own[-1].filename, own[-1].lineno)).strip()
    return f" (in `{line}`)" if line else ""


def as_numbers(value: object) -> torch.Tensor:
    """Anything that holds numbers, as a float64 tensor. Raises Wrong for anything else."""
    try:
        if isinstance(value, (list, tuple)) and any(torch.is_tensor(part) for part in value):
            value = torch.stack([torch.as_tensor(part, dtype=torch.float64) for part in value])
        value = torch.as_tensor(np.asarray(value) if isinstance(value, (list, tuple)) else value)
        return value.detach().cpu().to(torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"You returned {type(value).__name__} {value!r:.60}; expected numbers (a tensor, an array, a list).") from None


def compare(mine, right, mistakes: Mapping[str, object] = {}, where: str = "", tolerance: float = 1e-5, number: Callable | None = None) -> None:
    """Raise Wrong unless `mine` equals `right` to `tolerance` (largest difference).

    `mistakes` gives, for the sentence that names a usual mistake, what that mistake would have returned. `where` says at which input this is ("at t
    = 50"). `number` turns a result into the one number that the message compares, with its name: (value, "your noise has std"); without it the entry
    that is furthest off is shown."""
    mine, right = as_numbers(mine), as_numbers(right)
    start = f"{where}: " if where else ""
    if mine.shape != right.shape:
        causes = [sentence for sentence, wrong in mistakes.items() if _equal(mine, as_numbers(wrong), tolerance)]
        raise Wrong(f"{start}your result has shape {tuple(mine.shape)}, expected {tuple(right.shape)}{_because(causes)}")
    if not mine.isfinite().all():
        bad = int((~mine.isfinite()).sum())
        raise Wrong(f"{start}your result holds {bad} values that are no finite numbers (a division by 0, or a root of less than 0?).")
    if _equal(mine, right, tolerance):
        return
    causes = [sentence for sentence, wrong in mistakes.items() if _equal(mine, as_numbers(wrong), tolerance)]
    raise Wrong(f"{start}{_difference(mine, right, number)}{_because(causes)}")


def _because(causes: list[str]) -> str:
    return f": {causes[0]}" if causes else "."


def _equal(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=tolerance)


def _difference(mine: torch.Tensor, right: torch.Tensor, number: Callable | None) -> str:
    if number is not None:
        (ours, words), (theirs, _) = number(mine), number(right)
        if f"{ours:.3g}" != f"{theirs:.3g}":
            return f"{words} {ours:.3g}, expected {theirs:.3g}"
    at = int((mine - right).abs().argmax())
    entry = f" at index {tuple(int(i) for i in np.unravel_index(at, mine.shape))}" if mine.ndim else ""
    return f"you have {mine.flatten()[at]:.6g}{entry}, expected {right.flatten()[at]:.6g}"
