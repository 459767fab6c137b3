"""Hostile answers to all exercises: `python tests/tools/hostile_answers.py [EVERY]`.

It checks about 250 answers against each exercise (with EVERY, only each so manieth
answer), prints how many checks ended how, and names those that went wrong. A check goes
well if it prints one answer of at most 600 characters and 12 lines, raises nothing, and
leaves the state of the process as it was.
"""

import builtins
import contextlib
import io
import itertools
import math
import os
import random
import re
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    matplotlib.use("Agg")
    sys.path[:0] = [str(ROOT), str(ROOT / "notebooks")]

import exercises  # noqa: E402  (after the path is set)
from exercises import safely  # noqa: E402

LONG = "long " * 2_000_000  # 10 MB


# ---- What is no function -------------------------------------------------------------

VALUES = {
    "a long text": LONG,
    "many lines": "line\n" * 1000,
    "half a character": "\ud800",
    "a zero character": "\0",
    "bytes": b"\xff" * 1000,
    "a huge whole number": 10**5000,
    "not a number": math.nan,
    "infinity": -math.inf,
    "a complex number": 4j,
    "true": True,
    "a million numbers": list(range(1_000_000)),
    "deep lists": [[[[[[[[[[1]]]]]]]]]],
    "a ragged list": [[1], [1, 2]],
    "a set": {1, 2},
    "a range": range(10**12),
    "an endless iterator": itertools.count(),
    "a module": torch,
    "a class": dict,
    "a class without a docstring": type("Empty", (), {}),
    "an exception": ValueError("no"),
    "an exception's class": SystemExit,
    "a tensor without data": torch.zeros(2, device="meta"),
    "a huge tensor": torch.zeros(1).expand(10**12),
    "a sparse tensor": torch.zeros(3).to_sparse(),
    "an empty tensor": torch.zeros(0),
    "an array of objects": np.array([object(), None]),
    "a huge array": np.broadcast_to(1.0, (10**12,)),
    "an array of texts": np.array(["a", "b"]),
    "a network": torch.nn.Linear(1, 1),
    "a built-in function": len,
    "exit": sys.exit,
    "a method of a tensor": torch.zeros(1).add,
}


def contains_itself() -> list:
    loop: list = []
    loop.append(loop)
    return loop


# ---- Objects with one hostile method -------------------------------------------------

SHOWING = ["repr", "str", "format", "hash", "deepcopy"]
COMPARING = ["eq", "ne", "lt", "bool", "contains", "instancecheck"]
HOLDING = ["len", "iter", "getitem", "getattr", "getattribute", "call"]
CONVERTING = ["float", "int", "index", "complex", "array"]
COUNTING = ["add", "radd", "sub", "rsub", "neg", "abs"]
OVERRIDING = ["array_ufunc", "torch_function"]
SPECIAL = SHOWING + COMPARING + HOLDING + CONVERTING + COUNTING + OVERRIDING


class Own(BaseException):
    """An exception that is none of Python's, and whose text is an error."""

    def __str__(self):
        raise ValueError("no text")


def fails(*_, **__):
    raise Own


def gives_a_text(*_, **__) -> str:
    return LONG


def gives_an_object(*_, **__) -> object:
    return object()


def exits(*_, **__):
    sys.exit(1)


BEHAVIOURS = [fails, gives_a_text, gives_an_object, exits]


def hostile_object(method: str, behaviour: Callable) -> object:
    """An object whose special method of this name behaves like this."""
    return type("Hostile", (), {f"__{method}__": behaviour})()


# ---- What a function may do ----------------------------------------------------------


def raising(kind: type[BaseException]) -> Callable:
    """A function that raises this exception, with a text of 10 MB."""

    def answer(*_, **__):
        try:
            error = kind(LONG)
        except TypeError:
            error = kind("utf8", b"", 0, 1, LONG)
        raise error

    return answer


def exception_kinds() -> list[type[BaseException]]:
    """All of Python's exceptions but the interrupt, and one that is not Python's."""
    groups = ("BaseExceptionGroup", "ExceptionGroup")
    kinds = []
    for name, kind in vars(builtins).items():
        is_kind = isinstance(kind, type) and issubclass(kind, BaseException)
        if is_kind and name not in groups and kind is not KeyboardInterrupt:
            kinds.append(kind)
    return [*dict.fromkeys(kinds), Own]


def returning(value: object) -> Callable:
    return lambda *_, **__: value


def doing(change: Callable) -> Callable:
    """A function that changes something and returns its first argument."""

    def answer(*given, **__):
        change()
        return given[0] if given else None

    return answer


KEPT = []  # inference mode lasts as long as its object


def enter_inference_mode():
    KEPT.append(torch.inference_mode())
    KEPT[-1].__enter__()


def open_a_figure():
    plt.figure()


def draw_random_numbers():
    torch.rand(1)
    np.random.rand()
    random.random()


def change_a_constant():
    for name, module in list(sys.modules.items()):
        if name.startswith("exercises.lesson_"):
            module.SCHEDULE = None


def patch_functions():
    torch.randn = torch.zeros
    np.sqrt = np.square
    builtins.print = len
    time.monotonic = time.time


def leave_threads():
    for _ in range(20):
        threading.Thread(target=time.sleep, args=[0.01]).start()


def print_much():
    print(LONG)
    print(LONG, file=sys.stderr)


def close_streams():
    sys.stdout.close()
    sys.stderr.close()


def lose_streams():
    sys.stdout = None
    sys.stderr = None


# Each changes one thing that `check` restores, or that its thread keeps.
CHANGES: dict[str, Callable] = {
    "grad mode": lambda: torch.set_grad_enabled(False),
    "inference mode": enter_inference_mode,
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "default device": lambda: torch.set_default_device("meta"),
    "autocast": lambda: torch.autocast("cpu").__enter__(),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "deterministic": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "cudnn": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "anomaly mode": lambda: torch.autograd.set_detect_anomaly(True),
    "errstate": lambda: np.seterr(all="raise"),
    "NumPy's printing": lambda: np.set_printoptions(precision=2),
    "torch's printing": lambda: torch.set_printoptions(precision=2),
    "random numbers": draw_random_numbers,
    "folder": lambda: os.chdir("/"),
    "environment": lambda: os.environ.update(HOSTILE="1"),
    "no environment": lambda: os.environ.clear(),
    "import path": lambda: sys.path.insert(0, "/hostile"),
    "other import path": lambda: setattr(sys, "path", []),
    "warning filters": lambda: warnings.simplefilter("error"),
    "recursion limit": lambda: sys.setrecursionlimit(3000),
    "rcParams": lambda: plt.rcParams.update({"lines.linewidth": 9}),
    "figures": open_a_figure,
    "constants": change_a_constant,
    "functions": patch_functions,
    "lost streams": lose_streams,
}

TROUBLES: dict[str, Callable] = {
    "threads left": leave_threads,
    "10 MB printed": print_much,
    "streams closed": close_streams,
    "input": lambda: input("?"),
    "check in check": lambda: exercises.check("2.1", len),
}


def loop_for_ever():
    while True:
        pass


def sleep_for_ever():
    time.sleep(1000)


def wait_for_ever():
    threading.Event().wait()


def catch_all():
    while True:
        with contextlib.suppress(Exception):
            sleep_for_ever()


def recurse_for_ever():
    return recurse_for_ever()


ENDLESS = [loop_for_ever, sleep_for_ever, wait_for_ever, catch_all, recurse_for_ever]


# ---- All of them ---------------------------------------------------------------------


def change_all_arguments(*given, **_):
    """Zeros in all tensors and arrays that it is given."""
    for argument in given:
        for value in [argument, *getattr(argument, "__dict__", {}).values()]:
            if torch.is_tensor(value):
                value.data.zero_()
    return given[0] if given else None


def answers() -> dict[str, object]:
    """About 250 hostile answers by their names."""
    found = {f"value: {name}": value for name, value in VALUES.items()}
    found["value: a list that contains itself"] = contains_itself()
    for name, value in VALUES.items():
        found[f"returns {name}"] = returning(value)
    found["returns a list that contains itself"] = returning(contains_itself())
    for method, behaviour in zip(SPECIAL, itertools.cycle(BEHAVIOURS)):
        value = hostile_object(method, behaviour)
        found[f"object: {method} {behaviour.__name__}"] = value
    for method, behaviour in itertools.product(SPECIAL, (fails, gives_a_text)):
        value = hostile_object(method, behaviour)
        found[f"returns object: {method} {behaviour.__name__}"] = returning(value)
    for kind in exception_kinds():
        found[f"raises {kind.__name__}"] = raising(kind)
    for name, action in (CHANGES | TROUBLES).items():
        found[f"changes {name}"] = doing(action)
    for action in ENDLESS:
        found[action.__name__] = doing(action)
    found["changes all arguments"] = change_all_arguments
    return found


def numbers() -> list[str]:
    """The numbers of all exercises."""
    for path in (ROOT / "notebooks" / "exercises").glob("lesson_*.py"):
        exercises.answer_to(f"{path.stem.removeprefix('lesson_')}.1", None)
    return list(exercises.EXERCISES)


# ---- Checking ------------------------------------------------------------------------


def threads() -> tuple[int, int]:
    """How many threads torch uses here, and in a thread that begins now."""
    with ThreadPoolExecutor(1) as pool:
        return torch.get_num_threads(), pool.submit(torch.get_num_threads).result()


def constants() -> list:
    """What the lessons' judges call SCHEDULE, by identity."""
    lessons = [name for name in sys.modules if name.startswith("exercises.lesson_")]
    return [id(getattr(sys.modules[name], "SCHEDULE", None)) for name in lessons]


def state() -> dict[str, object]:
    """What must be the same before and after a check."""
    torch_numbers = torch.get_rng_state().numpy().tobytes()
    numpy_numbers = np.random.get_state()[1].tobytes()
    return {
        "random numbers": hash((torch_numbers, numpy_numbers, random.getstate())),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.empty(0).device,
        "autocast": torch.is_autocast_enabled("cpu"),
        "threads": threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": torch.backends.cudnn.benchmark,
        "anomaly mode": torch.is_anomaly_enabled(),
        "errstate": np.geterr(),
        "printing": (repr(np.array(1 / 3)), repr(torch.tensor(1 / 3))),
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "import path": (id(sys.path), list(sys.path)),
        "warning filters": list(warnings.filters),
        "recursion limit": sys.getrecursionlimit(),
        "rcParams": str(plt.rcParams),
        "figures": plt.get_fignums(),
        "constants": constants(),
        "functions": [torch.randn, np.sqrt, print, time.monotonic],
        "streams": [sys.stdin, sys.stdout, sys.stderr],
    }


def changed(before: dict, after: dict) -> list[str]:
    """The names of what differs between two states."""
    return [name for name in before if before[name] != after[name]]


ANSWER = r"Exercise \S+: (not yet\.|not tried yet\.|well done\.)"


def outcome(number: str, answer: object) -> str:
    """How the check of this answer ends: what it says, or "FAULT" and what is wrong."""
    printed = io.StringIO()
    before = state()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            exercises.check(number, answer)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"FAULT raises {type(error).__name__}"
    different = changed(before, state())
    if different:
        return f"FAULT changes {', '.join(different)}"
    return verdict(printed.getvalue())


def verdict(printed: str) -> str:
    """The beginning of what was printed by `check`, or "FAULT" and what is wrong."""
    if len(printed) > 3 * safely.MOST_PRINTED:
        return "FAULT prints too much"
    found = list(re.finditer(ANSWER, printed))
    if not found:
        return "FAULT says nothing"
    said = printed[found[-1].start() :]
    if len(said) > 620 or said.count("\n") > 12:
        return "FAULT says too much"
    if "has not returned" in said:
        return "not yet, has not returned"
    return found[-1][1]


def all_outcomes(every: int) -> Iterator[tuple[str, str, str]]:
    """(number, name of the answer, outcome) of each so manieth answer to all."""
    chosen = dict(itertools.islice(answers().items(), 0, None, every))
    for number in numbers():
        for name, answer in chosen.items():
            yield number, name, outcome(number, answer)


def main(every: int) -> int:
    safely.TIME_LIMIT = 0.5
    safely.TIME_TO_STOP = 0.1
    counts = Counter()
    start = time.perf_counter()
    for number, name, ended in all_outcomes(every):
        counts[ended] += 1
        if ended.startswith(("FAULT", "well done")):
            print(f"{number}: {name}: {ended}")
    for ended, count in counts.most_common():
        print(f"{count:6d} {ended}")
    print(f"{counts.total()} checks in {time.perf_counter() - start:.0f} s")
    return sum(ended.startswith("FAULT") for ended in counts)


if __name__ == "__main__":
    every = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    sys.exit(main(every))
