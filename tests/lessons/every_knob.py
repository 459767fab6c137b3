"""What nbval runs in a lesson's kernel after its last cell: see tests/conftest.py."""

import gc

import numpy as np

from diffusion_utilities import Instrument

WIDEST = 1010  # pixels; JupyterLab shows as many in a window of 1280


def all_instruments() -> list[Instrument]:
    """Every instrument that this process has made and not forgotten.

    nbval keeps no results of cells, so they are found among all objects.
    """
    return [thing for thing in gc.get_objects() if type(thing) is Instrument]


def turn_every_knob(instruments: list[Instrument]) -> None:
    """Turn each knob of each instrument.

    Fails where an option gives an error, no words, an empty picture or one that is too
    wide; where an instrument has changed since its own cell was run, because a later
    cell uses one of its names; and where there is no instrument.
    """
    assert instruments, "there is no instrument"
    for instrument in instruments:
        look_again(instrument)
        for name in instrument.knobs:
            turn(instrument, name)


def look_again(instrument: Instrument) -> None:
    """Redraw an instrument that has not been turned."""
    picture = instrument.picture
    words = instrument.words
    instrument.redraw()
    same_picture = np.array_equal(instrument.picture, picture)
    assert instrument.words == words and same_picture, "a later cell changed it"


def turn(instrument: Instrument, name: str) -> None:
    """Turn one knob through all its options."""
    knob = instrument.knobs[name]
    for option in getattr(knob, "options", (False, True)):
        knob.value = option
        setting = f"{name} = {option}"
        assert instrument.caption, f"no words at {setting}"
        assert instrument.picture.width <= WIDEST, f"too wide at {setting}"
        assert np.asarray(instrument.picture).std() > 1, f"empty at {setting}"
