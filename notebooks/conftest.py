"""`pytest -n` (pytest-xdist): all cells of a notebook run on one worker, in order."""

import pytest

SPREAD = ("load", "loadgroup", "worksteal")  # what would spread the cells


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the option when it is configured
def pytest_configure(config):
    """A cell needs what the cells before it have made, so its file stays together."""
    if getattr(config.option, "dist", None) in SPREAD:
        config.option.dist = "loadfile"


def pytest_report_header(config):
    if getattr(config.option, "dist", None) == "loadfile":
        return "dist: loadfile, so that the cells of a notebook stay together"
    return None
