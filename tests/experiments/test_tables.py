"""What the programs share that store a table row by row."""

import argparse
import operator

import numpy as np
import pytest

import diffusion_utilities as du


@pytest.fixture
def rows(program, monkeypatch):
    monkeypatch.syspath_prepend(str(du.WEIGHTS))
    return program("rows")


@pytest.mark.parametrize("workers", [1, 2])
def test_each_job_is_done_once_and_keeps_its_name(rows, workers):
    answers = list(
        rows.side_by_side(operator.sub, {"first": (5, 3), "second": (3, 5)}, workers)
    )
    assert sorted(answers) == [("first", 2), ("second", -2)]


def test_a_file_is_gone_on_with_only_under_its_settings(rows, tmp_path, capsys):
    path, parser = tmp_path / "table.json", argparse.ArgumentParser()
    assert rows.so_far(path, {"n": 1}, parser, runs={}) == {
        "settings": {"n": 1},
        "runs": {},
    }
    path.write_text('{"settings": {"n": 1}, "runs": {"a": 2}}', encoding="utf8")
    assert rows.so_far(path, {"n": 1}, parser, runs={})["runs"] == {"a": 2}
    with pytest.raises(SystemExit):
        rows.so_far(path, {"n": 3}, parser, runs={})
    assert (
        "table.json has other settings ({'n': 1}); remove it or give another --out"
        in capsys.readouterr().err
    )


def test_samples_join_those_that_are_there(rows, tmp_path):
    path = tmp_path / "deep" / "samples.npz"
    for pictures in ({"a": np.zeros(2)}, {"b": np.ones(3)}, {"a": np.ones(4)}):
        rows.add_samples(path, pictures)
    with np.load(path) as stored:
        assert {name: stored[name].sum() for name in stored} == {"a": 4, "b": 3}
    assert [file.name for file in path.parent.iterdir()] == ["samples.npz"]
