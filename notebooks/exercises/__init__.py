"""Exercises that answer back: `check("2.3", my_function)` says what is right, or which usual mistake your answer looks like.

Each lesson's judges are in `lesson_2.py` and so on, and spoil its exercises. A judge gets the attempt, tries it on inputs of its own, and raises
`Wrong` with a sentence for the learner; where it returns, the attempt is right. Nothing here knows a notebook's variables.
"""

from __future__ import annotations

import contextlib
import copy
import dis
import functools
import importlib
import inspect
import numbers
import random
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from diffusion_utilities import NoiseSchedule

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
    """What `check` prints of an attempt."""
    global _own_files
    unknown = 'there is no exercise of this number; expected the one in its heading, such as check("2.3", my_function).'
    lesson = str(number).split(".")[0]
    module = f"{__name__}.lesson_{lesson}"
    try:
        importlib.import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            return unknown
        if isinstance(error, ModuleNotFoundError) and error.name:
            package = error.name.partition(".")[0]
            return f"lesson {lesson}'s exercises need {package}: pip install {package}"
        return f"lesson {lesson}'s exercises could not be loaded ({type(error).__name__}: {error})."
    found = EXERCISES.get(str(number))
    if found is None:
        return unknown
    try:
        if is_untouched(attempt):
            raise NotTried
        _own_files = _files_of(attempt)
        with _same_draws_afterwards():
            found.judge(attempt)
    except NotTried:
        return "not tried yet."
    except Wrong as wrong:
        words = str(wrong)
        return f"not yet. {words[0].upper()}{words[1:]}"
    except Exception as error:  # the judge met something that it did not expect: still an answer, not a traceback
        return f"not yet. Your answer could not be judged ({type(error).__name__}: {error}). Does it return what the task asks for?"
    return f"well done. {found.praise}"


@contextlib.contextmanager
def _same_draws_afterwards() -> Iterator[None]:
    """Whoever skips an exercise gets the same numbers after it: from torch on every device, from numpy and from Python."""
    ours, numpys, mps = (
        random.getstate(),
        np.random.get_state(),
        torch.backends.mps.is_available(),
    )
    of_mps = torch.mps.get_rng_state() if mps else None
    try:
        with torch.random.fork_rng(
            range(torch.cuda.device_count())
        ):  # the CPU's, and those of all CUDA devices
            yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)
        if mps:
            torch.mps.set_rng_state(of_mps)


def is_untouched(attempt: object) -> bool:
    """Whether an attempt is None, `...`, or a function or class whose own functions do nothing but return None."""
    if attempt is None or attempt is Ellipsis:
        return True
    if isinstance(attempt, type):
        functions = [
            member
            for name, member in vars(attempt).items()
            if hasattr(member, "__code__") and name != "__init__"
        ]
        return bool(functions) and all(map(is_untouched, functions))
    if not hasattr(attempt, "__code__"):
        return False
    idle = {"RESUME", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE"}
    steps = [*dis.get_instructions(attempt)]
    return {step.opname for step in steps} <= idle and all(
        step.argval in (None, Ellipsis) for step in steps if "CONST" in step.opname
    )


def tried(attempt: Callable, *arguments, **named):
    """What the attempt returns for copies of these arguments.

    Raises Wrong where it stops with an error (naming the line), returns None, or changes an argument in place."""
    if not callable(attempt):
        raise Wrong(
            f"This is {type(attempt).__name__} {attempt!r:.60}; expected your function itself, without calling it."
        )
    copies = [_copy(each) for each in arguments]
    try:
        result = attempt(*copies, **named)
    except Exception as error:
        raise Wrong(
            f"Your code stopped with {type(error).__name__}: {error}{_place(error)}."
        ) from None
    if result is None:
        raise Wrong("Your function returned None: is a `return` missing?")
    for i, (mine, given) in enumerate(zip(copies, arguments), start=1):
        if not _unchanged(mine, given):
            raise Wrong(
                f"Your function changed its argument number {i} in place, which spoils it for whoever called: compute a new one instead."
            )
    return result


def _copy(given: object) -> object:
    return (
        given.clone()
        if torch.is_tensor(given)
        else copy.deepcopy(given)
        if isinstance(given, (np.ndarray, NoiseSchedule))
        else given
    )


def _unchanged(mine: object, given: object) -> bool:
    if isinstance(given, NoiseSchedule):
        return all(
            torch.equal(getattr(mine, table), getattr(given, table))
            for table in ("b", "a", "ab", "snr")
        )
    if isinstance(given, np.ndarray):
        return np.array_equal(mine, given)
    return not torch.is_tensor(given) or torch.equal(mine, given)


def with_a_hint(words: str, hint: str, attempt: Callable, *arguments):
    """What the attempt returns (see `tried`); if it stops with an error that holds these words, the hint comes after the error."""
    try:
        return tried(attempt, *arguments)
    except Wrong as wrong:
        raise (Wrong(f"{wrong} {hint}") if words in str(wrong) else wrong) from None


_own_files: set[str] = (
    set()
)  # where the code of the attempt stands that is being judged: in a notebook, its cell


def _files_of(attempt: object) -> set[str]:
    """The files of an attempt's own code: a function's, or those of a class's (or an object's class's) own methods."""
    attempt = _unwrapped(
        attempt.func if isinstance(attempt, functools.partial) else attempt
    )
    members = (
        [attempt]
        if hasattr(attempt, "__code__")
        else vars(attempt if isinstance(attempt, type) else type(attempt)).values()
    )
    return {
        member.__code__.co_filename
        for member in map(_unwrapped, members)
        if hasattr(member, "__code__")
    }


def _unwrapped(member: object) -> object:
    """What a decorator was put round."""
    return inspect.unwrap(member) if callable(member) else member


def _place(error: Exception) -> str:
    """The line of the learner's own code at which an error was raised; neither a library's line nor a judge's."""
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename in _own_files
    ]
    return f" (in `{own[-1].line}`)" if own and own[-1].line else ""


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Standard normal numbers, the same ones for a seed whatever the random state is."""
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


def as_numbers(value: object) -> torch.Tensor:
    """Anything that holds numbers, as a float64 tensor. Raises Wrong for anything else."""
    try:
        if isinstance(value, (list, tuple)) and any(
            torch.is_tensor(part) for part in value
        ):
            value = torch.stack([as_numbers(part) for part in value])
        value = (
            value if torch.is_tensor(value) else torch.as_tensor(np.asarray(value))
        )  # numpy keeps a float's 16 digits
        return value.detach().cpu().to(torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(
            f"You returned {type(value).__name__} {value!r:.60}; expected numbers (a tensor, an array, a list)."
        ) from None


def guessed(
    value: object,
    expected: str,
    options: Sequence = (),
    between: tuple[float, float] | None = None,
    n: int | None = None,
):
    """A guess in plain Python: one of `options` as it stands there, or a number `between` two; with `n`, a list of so many.

    A number may be a tensor, an array or numpy's own if it holds just one; 4.0 is the whole number 4, and names may be in capitals. Raises Wrong for
    anything else, with what was `expected` ("a number from 0 to 1")."""
    if n is not None:
        parts = (
            value.tolist()
            if isinstance(value, np.ndarray) or torch.is_tensor(value)
            else value
        )
        if not isinstance(parts, (list, tuple)) or len(parts) != n:
            raise Wrong(
                f"This is {type(value).__name__} {value!r:.60}; expected {expected}."
            )
        return [guessed(part, expected, options, between) for part in parts]
    plain = (
        value.item()
        if isinstance(value, (np.ndarray, np.generic, torch.Tensor)) and value.ndim == 0
        else value
    )
    if isinstance(plain, str):
        plain = next(
            (
                option
                for option in options
                if isinstance(option, str)
                and option.casefold() == plain.strip().casefold()
            ),
            None,
        )
    elif (
        isinstance(plain, bool)
        or not isinstance(plain, numbers.Real)
        or not np.isfinite(float(plain))
    ):
        plain = None
    elif options:
        plain = next((option for option in options if option == plain), None)
    if plain is None:
        raise Wrong(
            f"This is {type(value).__name__} {value!r:.60}; expected {expected}."
        )
    if between and not between[0] <= plain <= between[1]:
        raise Wrong(f"{plain:g} is outside the range; expected {expected}.")
    return plain if options else float(plain)


def compare(
    mine,
    right,
    mistakes: Mapping[str, object] = {},
    where: str = "",
    tolerance: float = 1e-5,
    number: Callable | None = None,
    rounding: float = 0.0,
) -> None:
    """Raise Wrong unless `mine` equals `right` to `tolerance`: the largest difference, for numbers above 1 as a part of the largest of them.

    `mistakes` gives, for the sentence that names a usual mistake, what that mistake would have returned. `where` says at which input this is ("at t
    = 50"). `number` turns a result into the one number that the message compares, with its name: (value, "your noise has std"); without it the entry
    that is furthest off is shown. What no mistake explains and is off by less than `rounding`, if that is given, is put down to single precision
    where it looks like that (see `_rounded`)."""
    mine, right = as_numbers(mine), as_numbers(right)
    start, size = (
        f"{where}: " if where else "",
        max(1.0, float(right.abs().max())) if right.numel() else 1.0,
    )
    causes = [
        sentence
        for sentence, wrong in mistakes.items()
        if _equal(mine, as_numbers(wrong), tolerance * size)
    ]
    if mine.shape != right.shape:
        raise Wrong(
            f"{start}your result has shape {tuple(mine.shape)}, expected {tuple(right.shape)}{_because(causes)}"
        )
    if not mine.isfinite().all():
        bad = int((~mine.isfinite()).sum())
        raise Wrong(
            f"{start}your result holds {bad} values that are no finite numbers (a division by 0, or a root of less than 0?)."
        )
    if _equal(mine, right, tolerance * size):
        return
    if (
        not causes
        and _equal(mine, right, rounding * size)
        and _rounded(mine, right, size)
    ):
        raise Wrong(
            f"{start}{_difference(mine, right, None)}, right to single precision only: use float64."
        )
    raise Wrong(f"{start}{_difference(mine, right, number)}{_because(causes)}")


def _rounded(mine: torch.Tensor, right: torch.Tensor, size: float) -> bool:
    """Whether the differences are of single precision's size: 1e-5 of an entry, and a little of the largest. Where all of `mine` are single-precision
    numbers it may be 1 % of an entry, as a small difference of large numbers keeps few digits."""
    share = 1e-2 if torch.equal(mine, mine.float().double()) else 1e-5
    return bool(((mine - right).abs() <= share * right.abs() + 3e-6 * size).all())


def nearest(mine: object, *forms: object) -> torch.Tensor:
    """Of the forms that one mistake may take, the one nearest to `mine`: for the `mistakes` of `compare`, which have one result for each sentence."""
    mine, forms = as_numbers(mine), [as_numbers(form) for form in forms]
    fitting = [
        form
        for form in forms
        if form.shape == mine.shape and form.numel() and not (form - mine).isnan().any()
    ]
    return min(
        fitting, key=lambda form: float((form - mine).abs().max()), default=forms[0]
    )


def _because(causes: list[str]) -> str:
    return f": {causes[0]}" if causes else "."


def _equal(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=tolerance)


def _difference(
    mine: torch.Tensor, right: torch.Tensor, number: Callable | None
) -> str:
    if number is not None:
        (ours, words), (theirs, _) = number(mine), number(right)
        if f"{ours:.3g}" != f"{theirs:.3g}":
            return f"{words} {ours:.3g}, expected {theirs:.3g}"
    at = int((mine - right).abs().argmax())
    entry = (
        f" at index {tuple(int(i) for i in np.unravel_index(at, mine.shape))}"
        if mine.ndim
        else ""
    )
    ours, theirs = mine.flatten()[at].item(), right.flatten()[at].item()
    digits = next(
        (
            digits
            for digits in range(6, 17)
            if f"{ours:.{digits}g}" != f"{theirs:.{digits}g}"
        ),
        17,
    )
    return f"you have {ours:.{digits}g}{entry}, expected {theirs:.{digits}g}"
