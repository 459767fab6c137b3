"""Exercises that answer back.

`check("2.3", my_function)` says that your answer is right, or names the usual mistake
that it looks like.

The judges of each lesson are in `lesson_2.py` and so on; to read them spoils the
exercises. A judge takes the attempt, tries it on inputs of its own, and raises `Wrong`
with a sentence for the learner. If it returns, the attempt is right. Nothing here knows
a notebook's variables.
"""

from __future__ import annotations

import contextlib
import copy
import dis
import functools
import importlib
import inspect
import numbers
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from diffusion_utilities import NoiseSchedule
from exercises.safely import (
    INTERRUPTS,
    TOO_LONG,
    TimeIsUp,
    printable,
    problem,
    shortened,
    shown,
    type_name,
    undisturbed,
    within_the_limit,
)

__all__ = ["check"]


# ---- The register of exercises, and `check` ------------------------------------------


class Wrong(Exception):
    """What is wrong with an attempt: a sentence that the learner reads."""


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    `judge(attempt)` returns or raises `Wrong`. `praise` is what a right answer earns:
    the next thing to try.
    """

    number: str
    judge: Callable
    praise: str


EXERCISES: dict[str, Exercise] = {}

UNKNOWN = (
    "there is no exercise of this number; expected the one in its heading, "
    'such as check("2.3", my_function).'
)


def exercise(number: str, praise: str) -> Callable:
    """Decorator for the judge of exercise `number` ("lesson.exercise")."""

    def register(judge: Callable) -> Callable:
        EXERCISES[number] = Exercise(number, judge, praise)
        return judge

    return register


# While an attempt is judged, so that no attempt starts a check of its own.
_judging = threading.Lock()


def check(number: str, attempt: object) -> None:
    """Judge your answer to an exercise and print the result; never raises an error.

    It takes ten seconds at most. Only an interrupt (the stop button) goes out.
    For example: check("2.3", my_function).
    """
    print(printable(f"Exercise {shown(number)}: {answer_to(number, attempt)}"))


def answer_to(number: str, attempt: object) -> str:
    """What `check` prints about an attempt: at most 600 characters and 12 lines."""
    number = shown(number)
    lesson = number.split(".")[0]
    module = f"{__name__}.lesson_{lesson}"
    try:
        importlib.import_module(module)
    except Exception as error:
        return _import_problem(error, module, lesson)
    found = EXERCISES.get(number)
    if found is None:
        return UNKNOWN
    if not _judging.acquire(blocking=False):
        return "not yet. Another check is running: does your answer call `check`?"
    try:
        with undisturbed():
            answer = within_the_limit(_verdict, found, attempt)
    except TimeIsUp as over:
        answer = f"not yet. {TOO_LONG}{over}"
    finally:
        _judging.release()
    return shortened(answer)


def _import_problem(error: Exception, module: str, lesson: str) -> str:
    """Why a lesson's judges could not be imported."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing == module:
        return UNKNOWN
    if missing:
        package = missing.partition(".")[0]
        return f"lesson {lesson}'s exercises need {package}: pip install {package}"
    return f"lesson {lesson}'s exercises could not be loaded ({problem(error)})."


def _verdict(found: Exercise, attempt: object) -> str:
    """What the judge of an exercise says about an attempt."""
    global _own_files
    try:
        if is_untouched(attempt):
            return "not tried yet."
        _own_files = _files_of(attempt)
        found.judge(attempt)
    except INTERRUPTS:
        raise
    except Wrong as wrong:
        words = shown(wrong, characters=600)
        return f"not yet. {words[:1].upper()}{words[1:]}"
    except BaseException as error:
        # the judge met something unexpected: still an answer, not a traceback
        return (
            f"not yet. Your answer could not be judged ({problem(error)}). "
            "Does it return what the task asks for?"
        )
    return f"well done. {found.praise}"


# ---- Looking at an attempt -----------------------------------------------------------


def is_untouched(attempt: object) -> bool:
    """Whether an attempt is a stub.

    That is None, `...`, or a function or class whose own functions do nothing but
    return None.
    """
    if attempt is None or attempt is Ellipsis:
        return True
    if not isinstance(attempt, type):
        return _does_nothing(attempt)
    functions = []
    for name, member in vars(attempt).items():
        if hasattr(member, "__code__") and name != "__init__":
            functions.append(member)
    return bool(functions) and all(map(_does_nothing, functions))


def _does_nothing(function: object) -> bool:
    """Whether this is a function that only returns None (or `...`)."""
    if not hasattr(function, "__code__"):
        return False
    idle = {"RESUME", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE"}
    for step in dis.get_instructions(function):
        if step.opname not in idle:
            return False
        if "CONST" in step.opname and step.argval not in (None, Ellipsis):
            return False
    return True


def described(value: object) -> str:
    """A value's type and the beginning of what it looks like, for a message."""
    return f"{shown(value, type_name, 60)} {shown(value, repr, 60)}"


ARRAYS = (np.ndarray, torch.Tensor)


def tried(attempt: Callable, *arguments, **named):
    """Call the attempt with copies of these arguments and return its result.

    Raises Wrong if it stops with an error (and names the line), returns None, or
    changes an argument in place.
    """
    if not callable(attempt):
        raise Wrong(
            f"This is {described(attempt)}; "
            "expected your function itself, without calling it."
        )
    copies = [_copy(given) for given in arguments]
    before = [_numbers_in(mine) for mine in copies]
    try:
        result = attempt(*copies, **named)
    except INTERRUPTS:
        raise
    except BaseException as error:
        words = f"{problem(error)}{_place(error)}"
        raise Wrong(f"Your code stopped with {words}.") from None
    if result is None:
        raise Wrong("Your function returned None: is a `return` missing?")
    for i, (mine, numbers_before) in enumerate(zip(copies, before), start=1):
        if not _unchanged(numbers_before, _numbers_in(mine)):
            raise Wrong(
                f"Your function changed its argument number {i} in place, which spoils "
                "it for the code that called it: compute a new one instead."
            )
    return result


def _copy(given: object) -> object:
    if torch.is_tensor(given):
        return given.clone()
    if isinstance(given, (np.ndarray, NoiseSchedule)):
        return copy.deepcopy(given)
    return given


def _numbers_in(given: object) -> list[torch.Tensor | np.ndarray]:
    """Copies of the tensors and arrays that an argument is, or has as attributes.

    Not those of a torch module, which an attempt may train, or of a diffusers
    scheduler, which it may set.
    """
    parts = [given]
    if type(given).__module__.startswith(("diffusion_utilities", "exercises")):
        parts += vars(given).values()
    return [_copy(part) for part in parts if isinstance(part, ARRAYS)]


def _unchanged(before: list, after: list) -> bool:
    return len(before) == len(after) and all(map(_same_numbers, before, after))


def _same_numbers(before: torch.Tensor | np.ndarray, after: object) -> bool:
    if torch.is_tensor(before) and torch.is_tensor(after):
        return torch.equal(before, after)
    return np.array_equal(before, after)


def with_a_hint(words: str, hint: str, attempt: Callable, *arguments):
    """What the attempt returns (see `tried`).

    If it stops with an error that contains `words`, the hint follows the error.
    """
    try:
        return tried(attempt, *arguments)
    except Wrong as wrong:
        if words not in str(wrong):
            raise
        raise Wrong(f"{wrong} {hint}") from None


# The files of the attempt that is being judged; in a notebook, its cell.
_own_files: set[str] = set()


def _files_of(attempt: object) -> set[str]:
    """The files of an attempt's own code.

    That is the code of a function, or of the methods of a class or of an object's
    class.
    """
    if isinstance(attempt, functools.partial):
        attempt = attempt.func
    attempt = _unwrapped(attempt)
    if hasattr(attempt, "__code__"):
        members = [attempt]
    else:
        owner = attempt if isinstance(attempt, type) else type(attempt)
        members = map(_unwrapped, vars(owner).values())
    codes = [member.__code__ for member in members if hasattr(member, "__code__")]
    return {code.co_filename for code in codes}


def _unwrapped(member: object) -> object:
    """The function inside its decorators."""
    return inspect.unwrap(member) if callable(member) else member


def _place(error: BaseException) -> str:
    """The line of the learner's own code where an error was raised.

    Neither a library's line nor a judge's.
    """
    line = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename in _own_files:
            line = frame.line
    return f" (in `{shortened(line, 150)}`)" if line else ""


# ---- Inputs for an attempt -----------------------------------------------------------


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Standard normal numbers that depend on the seed alone."""
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


# ---- Judging what an attempt returns -------------------------------------------------


def as_numbers(value: object) -> torch.Tensor:
    """Anything that holds numbers, as a float64 tensor.

    Raises Wrong for anything else.
    """
    try:
        return _as_float64(value)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(
            f"You returned {described(value)}; "
            "expected numbers (a tensor, an array, a list)."
        ) from None


def _as_float64(value: object) -> torch.Tensor:
    if isinstance(value, (list, tuple)) and any(map(torch.is_tensor, value)):
        value = torch.stack([as_numbers(part) for part in value])
    if not torch.is_tensor(value):
        value = torch.as_tensor(np.asarray(value))  # numpy keeps a float's 16 digits
    return value.detach().cpu().to(torch.float64)


def guessed(
    value: object,
    expected: str,
    options: Sequence = (),
    between: tuple[float, float] | None = None,
    n: int | None = None,
):
    """A learner's guess in plain Python.

    It is one of `options`, as written there, or a number `between` two numbers; with
    `n`, a list of n of them. A number may be a tensor, an array or numpy's own if it
    holds just one value. 4.0 counts as the whole number 4, and the case of a name does
    not matter. Raises Wrong for anything else, with what was `expected` ("a number from
    0 to 1").
    """
    if n is not None:
        is_array = isinstance(value, ARRAYS)
        parts = value.tolist() if is_array else value
        if not isinstance(parts, (list, tuple)) or len(parts) != n:
            raise Wrong(f"This is {described(value)}; expected {expected}.")
        return [guessed(part, expected, options, between) for part in parts]
    guess = _accepted(_plain(value), options)
    if guess is None:
        raise Wrong(f"This is {described(value)}; expected {expected}.")
    if between and not between[0] <= guess <= between[1]:
        raise Wrong(f"{guess:g} is outside the range; expected {expected}.")
    return guess if options else float(guess)


def _plain(value: object) -> object:
    """A tensor, an array or numpy's own number as Python's; the rest as it is."""
    if not isinstance(value, (np.ndarray, np.generic, torch.Tensor)):
        return value
    return value.item() if value.ndim == 0 else value


def _accepted(plain: object, options: Sequence) -> object:
    """The option that a value means, or, without options, the number; None if none."""
    if isinstance(plain, str):
        name = plain.strip().casefold()
        names = [option for option in options if isinstance(option, str)]
        return next((option for option in names if option.casefold() == name), None)
    if isinstance(plain, bool) or not isinstance(plain, numbers.Real):
        return None
    if not np.isfinite(float(plain)):
        return None
    if not options:
        return plain
    return next((option for option in options if option == plain), None)


def compare(
    mine,
    right,
    mistakes: Mapping[str, object] | Iterable[tuple[str, object]] = (),
    where: str = "",
    tolerance: float = 1e-5,
    number: Callable | None = None,
    rounding: float = 0.0,
) -> None:
    """Raise Wrong unless `mine` equals `right`.

    mistakes: pairs of the sentence that names a usual mistake and what that mistake
        would have returned. They are computed only where `mine` is not right.
    where: at which input this is ("at t = 50").
    tolerance: the largest difference allowed; where `right` has numbers above 1, a
        share of the largest of them.
    number: turns a result into the one number that the message compares, with its name:
        (value, "your noise has std"), see `shown_std`. Without it the message shows the
        entry that is furthest off.
    rounding: measured like `tolerance`; a difference below it that no mistake explains
        is put down to single precision, if it looks like that (see `_rounded`).
    """
    mine = as_numbers(mine)
    right = as_numbers(right)
    size = max(1.0, float(right.abs().max())) if right.numel() else 1.0
    if _equal(mine, right, tolerance * size):
        return
    start = f"{where}: " if where else ""
    cause = _cause(mine, mistakes, tolerance * size)
    ending = f": {cause}" if cause else "."
    if mine.shape != right.shape:
        shapes = f"{tuple(mine.shape)}, expected {tuple(right.shape)}"
        raise Wrong(f"{start}your result has shape {shapes}{ending}")
    if not mine.isfinite().all():
        bad = int((~mine.isfinite()).sum())
        raise Wrong(
            f"{start}your result is not finite (in {bad} of {mine.numel()} numbers): "
            "a division by 0, or the root of a number below 0?"
        )
    near = _equal(mine, right, rounding * size)
    if near and not cause and _rounded(mine, right, size):
        difference = _difference(mine, right)
        raise Wrong(
            f"{start}{difference}, right to single precision only: use float64."
        )
    raise Wrong(f"{start}{_difference(mine, right, number)}{ending}")


def _cause(mine: torch.Tensor, mistakes: Mapping | Iterable, tolerance: float) -> str:
    """The sentence of the first mistake that returns what `mine` is, or ""."""
    for sentence, wrong in dict(mistakes).items():
        if _equal(mine, as_numbers(wrong), tolerance):
            return sentence
    return ""


def _equal(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=tolerance)


def _rounded(mine: torch.Tensor, right: torch.Tensor, size: float) -> bool:
    """Whether the differences look like those of single precision.

    That is 1e-5 of an entry, plus a little of the largest entry. If all of `mine` are
    single-precision numbers, it may be 1 % of an entry: a small difference of large
    numbers keeps few digits.
    """
    is_single = torch.equal(mine, mine.float().double())
    share = 1e-2 if is_single else 1e-5
    allowed = share * right.abs() + 3e-6 * size
    return bool(((mine - right).abs() <= allowed).all())


def _difference(
    mine: torch.Tensor, right: torch.Tensor, number: Callable | None = None
) -> str:
    """Two numbers that show how the results differ."""
    if number is not None:
        ours, words = number(mine)
        theirs, _ = number(right)
        if f"{ours:.3g}" != f"{theirs:.3g}":
            return f"{words} {ours:.3g}, expected {theirs:.3g}"
    furthest = int((mine - right).abs().argmax())
    ours = mine.flatten()[furthest].item()
    theirs = right.flatten()[furthest].item()
    place = ""
    if mine.ndim:
        index = np.unravel_index(furthest, mine.shape)
        place = f" at index {tuple(map(int, index))}"
    digits = 6
    while digits < 17 and f"{ours:.{digits}g}" == f"{theirs:.{digits}g}":
        digits += 1
    return f"you have {ours:.{digits}g}{place}, expected {theirs:.{digits}g}"


@contextlib.contextmanager
def told(where: str) -> Iterator[None]:
    """Inside, the sentence of a Wrong starts with where it was."""
    try:
        yield
    except Wrong as wrong:
        raise Wrong(f"{where}: {wrong}") from None


def shown_mean(words: str) -> Callable:
    """For `number` of `compare`: its message compares the means of two results."""
    return lambda result: (result.mean(), words)


def shown_std(words: str) -> Callable:
    """For `number` of `compare`: its message compares the standard deviations."""
    return lambda result: (result.std(), words)


def shown_sum(words: str) -> Callable:
    """For `number` of `compare`: its message compares the sums of two results."""
    return lambda result: (float(result.sum()), words)


def nearest(mine: object, *forms: object) -> torch.Tensor:
    """Of the forms that one mistake may take, the one nearest to `mine`.

    For the `mistakes` of `compare`, which have one result for each sentence.
    """
    mine = as_numbers(mine)
    forms = [as_numbers(form) for form in forms]
    best = forms[0]
    least = float("inf")
    for form in forms:
        if form.shape != mine.shape or not form.numel():
            continue
        distance = float((form - mine).abs().max())
        if distance < least:
            best = form
            least = distance
    return best


def at_steps(steps: Sequence[int]) -> str:
    """The `where` of a message, for a batch with these steps t."""
    if len(set(steps)) == 1:
        return f"at t = {steps[0]}"
    return "with another t for each picture"
