"""`check` survives every answer, and leaves the process as it was.

The answers are those of tests/tools/hostile_answers.py, which checks all of them
against all exercises.
"""

import _thread
import asyncio
import importlib.util
import re
import runpy
import signal
import sys
import threading
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from exercises import Wrong, answer_to, check, safely, tried
from jupyter_client.manager import start_new_kernel

pytestmark = pytest.mark.slow  # together they take over five seconds

ROOT = Path(__file__).resolve().parents[2]


def loaded_tool():
    path = ROOT / "tests" / "tools" / "hostile_answers.py"
    spec = importlib.util.spec_from_file_location("hostile_answers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hostile = loaded_tool()
ALL = hostile.answers()
THIRTY = dict(islice(ALL.items(), 0, None, len(ALL) // 30))


@pytest.fixture
def half_a_second(monkeypatch):
    """The time limit."""
    monkeypatch.setattr(safely, "TIME_LIMIT", 0.5)
    monkeypatch.setattr(safely, "TIME_TO_STOP", 0.2)


@pytest.fixture(scope="module", autouse=True)
def numbers():
    """Those of all exercises; all lessons' judges are loaded from here on."""
    return hostile.numbers()


@pytest.mark.parametrize("i, name", list(enumerate(THIRTY)), ids=THIRTY)
def test_no_answer_gets_through(i, name, numbers, half_a_second):
    """Each answer meets a tenth of the exercises, the next one another tenth."""
    for number in numbers[i % 10 :: 10]:
        assert hostile.outcome(number, THIRTY[name]).startswith("not yet")


# ---- State ---------------------------------------------------------------------------

ENDINGS = {"returns": lambda: None, "exits": sys.exit}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", hostile.CHANGES)
def test_what_an_answer_changes_is_restored(name, ending, numbers):
    really_changed = []

    def answer(b):
        first = hostile.state()
        hostile.CHANGES[name]()
        really_changed.extend(hostile.changed(first, hostile.state()))
        ENDINGS[ending]()

    before = hostile.state()
    answer_to("2.1", answer)
    assert really_changed
    assert hostile.changed(before, hostile.state()) == []


def test_what_an_endless_answer_changes_is_restored(numbers, half_a_second):
    really_changed = []

    def answer(b):
        first = hostile.state()
        for change in hostile.CHANGES.values():
            change()
        really_changed.extend(hostile.changed(first, hostile.state()))
        hostile.loop_for_ever()

    before = hostile.state()
    assert answer_to("2.1", answer).startswith(TEN_SECONDS)
    assert len(really_changed) > 20
    assert hostile.changed(before, hostile.state()) == []


def test_one_thing_that_cannot_be_restored_does_not_keep_the_others(
    monkeypatch, tmp_path
):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)

    def answer(b):
        torch.set_default_dtype(torch.float64)
        gone.rmdir()
        return b

    answer_to("2.1", answer)
    assert torch.get_default_dtype() == torch.float32


class TestArguments:
    def test_a_changed_array_is_noticed(self):
        def in_place(x):
            x[0] = 5
            return x

        mine = np.zeros(3)
        with pytest.raises(Wrong, match="argument number 1 in place"):
            tried(in_place, mine)
        assert mine[0] == 0

    def test_a_judges_network_that_is_changed_is_noticed(self):
        """Exercise 6.5 asks the network itself for what is right."""

        def in_place(network, *_):
            network.weights.zero_()
            return network

        assert "argument number 1 in place" in answer_to("6.5", in_place)

    def test_a_network_may_be_trained(self):
        def train(network):
            network.weight.data.zero_()
            return 1.0

        assert tried(train, torch.nn.Linear(2, 2)) == 1.0


# ---- Time ----------------------------------------------------------------------------

TEN_SECONDS = "not yet. Your function has not returned after ten seconds: "


def test_the_limit_is_ten_seconds():
    assert safely.TIME_LIMIT == 10


@pytest.mark.usefixtures("half_a_second")
class TestTime:
    def test_a_loop_is_stopped(self):
        before = set(threading.enumerate())
        answer = answer_to("2.1", hostile.doing(hostile.loop_for_ever))
        assert answer.startswith(TEN_SECONDS)
        assert "restart" not in answer
        for thread in set(threading.enumerate()) - before:
            thread.join(5)
            assert not thread.is_alive()

    @pytest.mark.parametrize("endless", [hostile.sleep_for_ever, hostile.wait_for_ever])
    def test_what_cannot_be_stopped_is_left_behind(self, endless):
        answer = answer_to("2.1", hostile.doing(endless))
        assert answer.startswith(TEN_SECONDS)
        assert answer.endswith("restart the kernel.")

    def test_a_loop_that_catches_exceptions_is_stopped(self):
        def answer(b):
            while True:
                try:
                    time.sleep(0.001)
                except Exception:
                    continue

        assert "restart" not in answer_to("2.1", answer)

    def test_a_loop_that_catches_all_is_stopped_again(self, monkeypatch):
        monkeypatch.setattr(safely, "TIME_TO_STOP", 30)
        caught = []

        def answer(b):
            while len(caught) < 3:
                try:
                    hostile.loop_for_ever()
                except BaseException as error:
                    caught.append(error)
            return b

        answer_to("2.1", answer)
        assert len(caught) == 3

    def test_a_loop_that_catches_all_is_stopped_or_left_behind(self):
        over = []

        def answer(b):
            while not over:
                try:
                    time.sleep(0.001)
                except BaseException:
                    continue

        assert answer_to("2.1", answer).startswith(TEN_SECONDS)
        over.append(True)

    def test_an_answer_without_a_function_has_the_limit_as_well(self):
        class Slow:
            def __getattribute__(self, name):
                hostile.loop_for_ever()

        assert answer_to("2.1", Slow()).startswith(TEN_SECONDS)


def test_a_changed_clock_does_not_end_it():
    def answer(b):
        time.monotonic = lambda: 1e12
        time.sleep(0.2)
        return b

    assert answer_to("2.1", answer).startswith("not yet. You have 0 at index")


def test_an_answer_finds_no_input():
    """Outside Jupyter."""
    answer = answer_to("2.1", lambda b: input())
    assert "Your code stopped with EOFError" in answer


@pytest.fixture
def stop_button():
    """A timer, to be started, that presses it. What it means is as in a kernel."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield threading.Timer(0.1, _thread.interrupt_main)
    signal.signal(signal.SIGINT, before)


class TestInterrupts:
    @pytest.mark.parametrize("endless", [hostile.loop_for_ever, hostile.sleep_for_ever])
    def test_the_stop_button_goes_out(self, endless, stop_button):
        def answer(b):
            torch.set_default_dtype(torch.float64)
            stop_button.start()
            endless()

        before = hostile.state()
        with pytest.raises(KeyboardInterrupt):
            check("2.1", answer)
        assert hostile.changed(before, hostile.state()) == []

    def test_a_loop_ends_with_the_stop_button(self, stop_button):
        """Or it would slow down the notebook from then on."""
        turns = []

        def answer(b):
            stop_button.start()
            while True:
                turns.append(1)

        with pytest.raises(KeyboardInterrupt):
            check("2.1", answer)
        done = len(turns)
        time.sleep(0.2)
        assert len(turns) == done

    def test_an_answers_own_interrupt_goes_out(self):
        with pytest.raises(KeyboardInterrupt):
            check("2.1", hostile.raising(KeyboardInterrupt))

    def test_the_next_check_works(self):
        with pytest.raises(KeyboardInterrupt):
            check("2.1", hostile.raising(KeyboardInterrupt))
        assert answer_to("2.1", None) == "not tried yet."


KINDS = [
    SystemExit,
    GeneratorExit,
    RecursionError,
    MemoryError,
    StopIteration,
    asyncio.CancelledError,
    Wrong,
    hostile.Own,
]


class TestExceptions:
    @pytest.mark.parametrize("kind", KINDS)
    def test_of_a_function_are_named(self, kind):
        answer = answer_to("2.1", hostile.raising(kind))
        assert answer.startswith(f"not yet. Your code stopped with {kind.__name__}: ")
        assert answer.endswith(" (in `raise error`).")

    @pytest.mark.parametrize("kind", KINDS[:-2])
    def test_of_another_object_are_named(self, kind):
        """3.5 wants a number."""

        class Number(float):
            def __float__(self):
                raise kind("no number")

        answer = answer_to("3.5", Number())
        problem = f"({kind.__name__}: no number)"
        assert answer.startswith(f"not yet. Your answer could not be judged {problem}")

    def test_an_empty_wrong_is_still_an_answer(self):
        class Number(float):
            def __float__(self):
                raise Wrong

        assert answer_to("3.5", Number()).startswith("not yet. ")


# ---- Text ----------------------------------------------------------------------------


def printed_by(answer, capsys, number="2.1") -> str:
    check(number, answer)
    return capsys.readouterr().out


class HugeText:
    def __repr__(self):
        return "<" + "x" * 10_000_000 + ">"


class NoText:
    def __repr__(self):
        raise SystemExit


VALUES = [HugeText(), NoText(), 10**5000]


class TestText:
    def test_a_huge_error_is_shortened_in_its_middle(self, capsys):
        def answer(b):
            raise ValueError("first " + "x" * 10_000_000 + " last")

        printed = printed_by(answer, capsys)
        assert len(printed) < 600
        assert "ValueError: first xxx" in printed
        assert " ... " in printed
        assert "xxx last (in `raise ValueError(" in printed

    def test_many_lines_are_shortened(self, capsys):
        def answer(b):
            raise ValueError("\n".join(map(str, range(1000))))

        printed = printed_by(answer, capsys)
        assert printed.count("\n") <= 12
        assert "\n1\n" in printed
        assert "\n...\n" in printed
        assert "\n998\n999 (in" in printed

    @pytest.mark.parametrize("value", VALUES, ids=["huge", "none", "digits"])
    @pytest.mark.parametrize("number", ["2.1", "1.4", "17.1"])
    def test_any_value_is_shown_shortly(self, value, number, capsys):
        printed = printed_by(value, capsys, number)
        assert printed.startswith(f"Exercise {number}: not yet. ")
        assert len(printed) < 620

    def test_a_result_is_shown_shortly(self, capsys):
        printed = printed_by(hostile.returning(HugeText()), capsys)
        assert re.search(r"You returned HugeText <xx.* \.\.\. .*x>; expected", printed)

    def test_a_type_is_named_shortly(self, capsys):
        kind = type("Long" * 1000, (), {"__init__": lambda self, *_: None})
        printed = printed_by(kind, capsys)
        assert "You returned LongLong" in printed
        assert len(printed) < 620

    def test_a_line_is_shortened(self, capsys, tmp_path):
        path = tmp_path / "answer.py"
        path.write_text(f"def answer(b):\n    return 1 / 0 {'+ 1 ' * 1000}+ 2\n")
        names = runpy.run_path(str(path))
        printed = printed_by(names["answer"], capsys)
        assert "division by zero (in `return 1 / 0 + 1 + 1" in printed
        assert "+ 1 + 2`)." in printed
        assert len(printed) < 300

    def test_half_a_character_is_printed_as_its_code(self, capsys):
        def answer(b):
            raise ValueError("\ud800")

        assert r"ValueError: \ud800" in printed_by(answer, capsys)

    def test_short_texts_stay(self):
        text = "\n".join("abcdefghijkl")
        assert safely.shortened(text) == text
        assert safely.shortened("x" * 600) == "x" * 600

    @pytest.mark.parametrize("characters", range(40, 60))
    def test_a_shortened_text_is_short(self, characters):
        short = safely.shortened("a" * 100 + "b" * 100, characters)
        assert characters - 1 <= len(short) <= characters
        assert re.fullmatch(r"a+ \.\.\. b+", short)


class TestPrints:
    def test_what_an_answer_prints_is_seen(self, capsys):
        printed = printed_by(lambda b: print("dimensions:", b.ndim), capsys)
        assert printed.startswith("dimensions: 1\nExercise 2.1: not yet. ")

    def test_ten_megabytes_are_cut_off(self, capsys):
        def answer(b):
            print("first" + "x" * 10_000_000)
            print("last")
            print("y" * 10_000_000, file=sys.stderr)

        check("2.1", answer)
        out, err = capsys.readouterr()
        assert out.startswith("firstxxx")
        assert "last" not in out
        assert out.count("is left out") == 1
        assert "Exercise 2.1: not yet. " in out
        assert len(out) < 11_000
        assert len(err) < 11_000

    def test_what_is_exactly_the_limit_is_not_called_cut_off(self, capsys):
        def answer(b):
            sys.stdout.write("x" * safely.MOST_PRINTED)

        assert "left out" not in printed_by(answer, capsys)

    def test_closed_streams_stay_open(self, capsys):
        printed = printed_by(hostile.doing(hostile.close_streams), capsys)
        assert "Exercise 2.1: not yet. " in printed
        print("still here", file=sys.stderr)
        assert capsys.readouterr().err == "still here\n"


class TestCompany:
    def test_a_check_within_a_check_is_refused(self, capsys):
        def answer(b):
            check("2.1", answer)
            return b

        first, second = printed_by(answer, capsys).splitlines()
        assert first == (
            "Exercise 2.1: not yet. Another check is running: "
            "does your answer call `check`?"
        )
        assert second.startswith("Exercise 2.1: not yet. You have 0 at index")

    def test_an_answer_may_start_threads(self):
        def answer(b):
            threads = [threading.Thread(target=len, args=["a"]) for _ in range(20)]
            for thread in threads:
                thread.start()
            return b

        assert answer_to("2.1", answer).startswith("not yet. You have 0 at index")


# ---- Jupyter -------------------------------------------------------------------------

IN_A_KERNEL = f"""
import sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "notebooks")!r}]
from exercises import check, safely
safely.TIME_LIMIT = 0.5
safely.TIME_TO_STOP = 0.2
"""

ENDLESS_CELLS = {
    "a loop": "def answer(b):\n    while True: pass",
    "sleep": "def answer(b): time.sleep(1000)",
    "input": "def answer(b): return input('?')",
}


@pytest.fixture(scope="module")
def kernel():
    manager, client = start_new_kernel(kernel_name="python3")
    run_in(client, IN_A_KERNEL)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def run_in(client, code, on_output=None) -> str:
    """What a cell prints, and the name of its error."""
    told = []

    def collect(message):
        content = message["content"]
        told.append(content.get("text", content.get("ename", "")))
        if on_output is not None:
            on_output(told)

    client.execute_interactive(
        code,
        output_hook=collect,
        stdin_hook=lambda message: None,  # as a learner who types nothing
        timeout=60,
    )
    return "".join(told)


class TestJupyter:
    @pytest.mark.parametrize("name", ENDLESS_CELLS)
    def test_an_endless_answer_ends(self, kernel, name):
        _, client = kernel
        told = run_in(client, f"{ENDLESS_CELLS[name]}\ncheck('2.1', answer)")
        assert told.startswith(f"Exercise 2.1: {TEN_SECONDS}")
        assert run_in(client, "print(6 * 7)") == "42\n"

    @pytest.mark.skipif(sys.platform == "win32", reason="interrupts are no signals")
    @pytest.mark.parametrize("name", ENDLESS_CELLS)
    def test_the_stop_button_goes_out(self, kernel, name):
        manager, client = kernel
        interrupted = []

        def press_stop(told):
            if told[-1].startswith("go") and not interrupted:
                interrupted.append(True)
                manager.interrupt_kernel()

        cell = f"safely.TIME_LIMIT = 60\n{ENDLESS_CELLS[name]}\n"
        cell += "print('go', flush=True)\ncheck('2.1', answer)"
        assert run_in(client, cell, press_stop) == "go\nKeyboardInterrupt"
        assert run_in(client, "print(6 * 7)\nsafely.TIME_LIMIT = 0.5") == "42\n"

    def test_what_an_answer_prints_is_shown_in_its_cell(self, kernel):
        _, client = kernel
        cell = "def answer(b): print('in the answer')\ncheck('2.1', answer)"
        told = run_in(client, cell)
        assert told.startswith("in the answer\nExercise 2.1: not yet. Your function")
