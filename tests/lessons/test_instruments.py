"""Every instrument of the lessons draws at each setting of its knobs, in under a second, and says in words what it drew."""

import random
import time
import types

import IPython.display
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from browser import calls, cells_that_call, needed_for

import diffusion_utilities as du

FOUND = cells_that_call("explore")


@pytest.fixture(scope="module", params=FOUND, ids=lambda found: found[0].stem[:2])
def instrument(request):
    """The instrument of one cell, made by running that cell and the statements that it needs."""
    made, names, path, cell = [], {}, *request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        patch.setattr(
            IPython.display,
            "display",
            lambda *_, **__: types.SimpleNamespace(update=lambda _: None),
        )
        for i, source in needed_for(path, cell).items():
            if i == cell:
                names["explore"] = lambda *given, **named: made.append(
                    du.explore(*given, **named)
                )
            exec(compile(source, f"{path.stem}, cell {i}", "exec"), names)
    plt.close("all")
    return made[0]


def test_the_lessons_that_the_design_names_have_one():
    assert {path.stem[:2] for path, _ in FOUND} >= {
        "01",
        "02",
        "03",
        "04",
        "05",
        "06",
        "10",
    }


def test_each_option_of_each_knob_draws_in_under_a_second(instrument):
    """Seconds of one processor thread, so that other work on the machine counts little; a slow one may try twice more."""
    rng, slowest, words = random.Random(0), (0.0, None), set()
    turns = [
        (name, option)
        for name, knob in instrument.knobs.items()
        for option in options_of(knob)
    ]
    rng.shuffle(turns)
    for name, option in turns:
        seconds = timed(
            lambda knob=instrument.knobs[name], option=option: setattr(
                knob, "value", option
            )
        )
        if seconds >= 1:
            seconds = min(timed(instrument.redraw) for _ in range(2))
        slowest = max(slowest, (seconds, f"{name} = {option}"))
        assert (
            instrument.picture.width <= 1010
            and np.asarray(instrument.picture).std() > 1
        )
        words.add(instrument.caption)
    print(f"slowest redraw: {slowest}")
    assert slowest[0] < 1, slowest
    assert len(words) > len(turns) / 3 and "" not in words and not plt.get_fignums()


def timed(act):
    start = time.process_time()
    act()
    return time.process_time() - start


def options_of(knob):
    return [
        option[1] if isinstance(option, tuple) else option
        for option in getattr(knob, "options", (False, True))
    ]


@pytest.mark.parametrize(
    "path", sorted({path for path, _ in FOUND}), ids=lambda path: path.stem[:2]
)
def test_a_question_stands_before_and_an_answer_after(path):
    cells = nbformat.read(path, as_version=4).cells
    for i in (
        i
        for i, cell in enumerate(cells)
        if cell.cell_type == "code" and "explore" in calls(cell.source)
    ):
        before = "\n".join(
            cell.source
            for cell in cells[max(i - 3, 0) : i]
            if cell.cell_type == "markdown"
        )
        assert "### An instrument" in before and "?*" in before
        assert next(
            cell for cell in cells[i + 1 :] if cell.cell_type == "markdown"
        ).source
        bundle = next(output.data for output in cells[i].outputs if "data" in output)
        assert {"image/png", "application/vnd.jupyter.widget-view+json"} <= set(
            bundle
        ) and len(bundle["text/plain"]) > 40
