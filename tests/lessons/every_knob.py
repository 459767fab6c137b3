"""What nbval runs in a lesson's kernel after its last cell: see tests/conftest.py."""

from collections.abc import Iterable

import numpy as np

from diffusion_utilities import Instrument

WIDEST = 1010  # pixels; JupyterLab shows as many in a window of 1280


def turn_every_knob(shown: Iterable) -> None:
    """Turn each knob of the instruments among `shown`, what cells returned.

    Fails where an option gives an error, no words, an empty picture or one that is too
    wide; and where an instrument has changed since its own cell was run, because a
    later cell uses one of its names.
    """
    instruments = [thing for thing in shown if isinstance(thing, Instrument)]
    assert instruments, "no cell ends with its instrument"
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
