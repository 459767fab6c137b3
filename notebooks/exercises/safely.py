"""What keeps an attempt from harming the notebook that checks it.

It has a time limit (`within_the_limit`), the process is afterwards as it was
(`undisturbed`), and what is printed about it is short (`shortened`).
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import io
import math
import os
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from time import monotonic  # an attempt may change time.monotonic
from types import ModuleType

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

# ---- Time ----------------------------------------------------------------------------

TIME_LIMIT = 10.0  # seconds; the sentence below says so, too
TIME_TO_STOP = 1.0  # seconds that a thread gets to stop when it is told to

TOO_LONG = (
    "Your function has not returned after ten seconds: does a loop in it never end, "
    "or does it wait for something?"
)
STILL_RUNNING = (
    " It could not be stopped, either: if the notebook is slow from now on, "
    "restart the kernel."
)


class TimeIsUp(BaseException):
    """The time limit is reached.

    Not an Exception, so that `except Exception` in an attempt does not catch it.
    """


# What is never put down to an attempt: the stop button, and the time limit.
INTERRUPTS = (KeyboardInterrupt, TimeIsUp)


def within_the_limit(function: Callable, *arguments) -> object:
    """What the function returns, if it does so within `TIME_LIMIT`.

    Raises TimeIsUp if it does not, with `STILL_RUNNING` if it cannot be stopped;
    otherwise what the function raises.
    """
    # In a thread of its own the function can be left behind, on every system, whether
    # it computes, sleeps or waits for input. And what torch and NumPy keep for each
    # thread cannot leak: grad mode, inference mode, autocast, default device, errstate.
    outcome = {}
    # An event, because the stop button during Thread.join makes Python 3.10 to 3.12
    # take a thread that still runs for a dead one.
    ended = threading.Event()

    def work():
        try:
            outcome["result"] = function(*arguments)
        except BaseException as error:
            outcome["error"] = error
        finally:
            ended.set()

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        _wait(ended)
    finally:
        _stop(worker.ident, ended)
    if "result" in outcome:
        return outcome["result"]
    raise outcome.get("error", TimeIsUp(STILL_RUNNING))


def _wait(ended: threading.Event) -> None:
    """Wait until a thread ends, or its time."""
    end = monotonic() + TIME_LIMIT
    while not ended.is_set() and monotonic() < end:
        ended.wait(0.05)  # in short turns: Windows lets no interrupt into a long one


def _stop(thread: int, ended: threading.Event) -> None:
    """Raise TimeIsUp in the Python code of a thread, repeatedly in case it is caught.

    C code, such as that of sleep, goes on until it returns.
    """
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    end = monotonic() + TIME_TO_STOP
    while not ended.is_set() and monotonic() < end:
        raise_in(ctypes.c_ulong(thread), ctypes.py_object(TimeIsUp))
        ended.wait(0.02)


# ---- State ---------------------------------------------------------------------------


def _set_environment(saved: dict[str, str]) -> None:
    if dict(os.environ) != saved:
        os.environ.clear()
        os.environ.update(saved)


def _import_path() -> list[str]:
    return list(sys.path)


def _set_import_path(saved: list[str]) -> None:
    sys.path[:] = saved


def _set_numpy_print_options(saved: dict) -> None:
    np.set_printoptions(**saved)


def _torch_print_options() -> dict:
    return dict(vars(torch._tensor_str.PRINT_OPTS))


def _cudnn_flags() -> tuple[bool, bool]:
    cudnn = torch.backends.cudnn
    return cudnn.deterministic, cudnn.benchmark


def _set_cudnn_flags(saved: tuple[bool, bool]) -> None:
    cudnn = torch.backends.cudnn
    cudnn.deterministic, cudnn.benchmark = saved


def _anomaly_mode() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _set_anomaly_mode(saved: tuple[bool, bool]) -> None:
    torch.autograd.set_detect_anomaly(*saved)


def _gpu_states() -> tuple:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    return cuda, mps


def _set_gpu_states(saved: tuple) -> None:
    cuda, mps = saved
    torch.cuda.set_rng_state_all(cuda)
    if mps is not None:
        torch.mps.set_rng_state(mps)


def _close_other_figures(saved: list[int]) -> None:
    for number in set(plt.get_fignums()) - set(saved):
        plt.close(number)


def _attributes() -> list[tuple[ModuleType, dict]]:
    """The public names of the modules that an attempt may patch.

    Among them are sys.stdout and sys.stderr.
    """
    modules = [builtins, math, os, random, sys, time, np, np.random, torch, torch.nn, F]
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("exercises", "diffusion_utilities"):
            modules.append(module)
    return [(module, dict(vars(module))) for module in modules]


def _set_attributes(saved: list[tuple[ModuleType, dict]]) -> None:
    for module, attributes in saved:
        for name, value in attributes.items():
            changed = vars(module).get(name) is not value
            if changed and not name.startswith("_"):
                setattr(module, name, value)


# What is saved before an attempt, and how it is restored; from the last to the first.
STATE: list[tuple[Callable, Callable]] = [
    (os.getcwd, os.chdir),
    (os.environ.copy, _set_environment),
    (_import_path, _set_import_path),
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (random.getstate, random.setstate),
    (np.random.get_state, np.random.set_state),
    (np.get_printoptions, _set_numpy_print_options),
    (torch.get_rng_state, torch.set_rng_state),
    (_gpu_states, _set_gpu_states),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (_cudnn_flags, _set_cudnn_flags),
    (_anomaly_mode, _set_anomaly_mode),
    (_torch_print_options, vars(torch._tensor_str.PRINT_OPTS).update),
    (plt.get_fignums, _close_other_figures),
    (_attributes, _set_attributes),
]


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Restore afterwards what an attempt may change in the process, whatever happens.

    What belongs to a thread is not here, see `within_the_limit`. Inside, the beginning
    of what is printed is passed on (see `Prints`), and there is no input to read.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(matplotlib.rc_context())
        for save, restore in STATE:
            with contextlib.suppress(Exception):  # such as a folder that is gone
                stack.callback(_restored, restore, save())
        sys.stdin = io.StringIO()
        sys.stdout = Prints(sys.stdout)
        sys.stderr = Prints(sys.stderr)
        yield


def _restored(restore: Callable, saved: object) -> None:
    """One that fails must not keep the others from being restored."""
    with contextlib.suppress(Exception):
        restore(saved)


# ---- Text ----------------------------------------------------------------------------

MOST_PRINTED = 10_000  # characters


class Prints(io.TextIOBase):
    """Passes on `MOST_PRINTED` characters to a stream, and never closes it."""

    def __init__(self, stream: io.TextIOBase):
        self.stream = stream
        self.left = MOST_PRINTED

    def write(self, text: str) -> int:
        if self.left >= 0:
            self.stream.write(text[: self.left])
            self.left -= len(text)
            if self.left < 0:
                self.stream.write("\n... (what is printed after this is left out)\n")
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def close(self) -> None:
        pass


def shortened(text: str, characters: int = 600, lines: int = 12) -> str:
    """The text, with "..." for its middle if it is long."""
    rows = text.splitlines()
    if len(rows) > lines:
        first = lines // 2
        last = lines - first - 1
        text = "\n".join([*rows[:first], "...", *rows[-last:]])
    if len(text) > characters:
        half = (characters - 5) // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return text


def shown(value: object, form: Callable = str, characters: int = 300) -> str:
    """The text of any value, shortened; `form` is `str` or `repr`."""
    try:
        return shortened(str.__str__(form(value)), characters)
    except INTERRUPTS:
        raise
    except BaseException:
        return "(without a text that can be shown)"


def type_name(value: object) -> str:
    return type(value).__name__


def problem(error: BaseException) -> str:
    """The type of an error and what it says."""
    return f"{shown(error, type_name, 60)}: {shown(error)}"


def printable(text: str) -> str:
    """The text as sys.stdout can print it, with codes for other characters."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
