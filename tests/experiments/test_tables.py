"""What the programs share to make a table row by row, and the digests of rows."""

import argparse
import json
import operator
import subprocess
import sys
from dataclasses import replace

import guidance
import numpy as np
import pytest
import scores
import sheets
import shipped
import tables

import diffusion_utilities as du

# ---- The command line ---------------------------------------------------------------


@pytest.fixture
def parser(tmp_path):
    """A program with one setting, whose shipped results lie in table.json."""
    parser = tables.command_line("Make a table.\n\nMore.", tmp_path / "table.json")
    parser.add_argument("--samples", type=int, default=10)
    return parser


def test_the_first_line_describes_the_program(parser):
    assert parser.description == "Make a table."


@pytest.mark.parametrize("arguments", [[], ["--workers", "1"], ["--samples", "10"]])
def test_shipped_settings_may_write_the_shipped_results(parser, arguments, tmp_path):
    assert tables.parsed(parser, arguments).out == tmp_path / "table.json"


def test_other_settings_may_write_elsewhere(parser, tmp_path):
    arguments = ["--samples", "20", "--out", str(tmp_path / "other.json")]
    assert tables.parsed(parser, arguments).samples == 20


def test_other_settings_do_not_overwrite_the_shipped_results(parser, capsys):
    with pytest.raises(SystemExit):
        tables.parsed(parser, ["--samples", "20"])
    assert "would overwrite the shipped results; add --out" in capsys.readouterr().err


def test_an_option_that_is_no_setting_is_free(parser, tmp_path):
    options = tables.parsed(parser, ["--samples", "20"], free=["samples"])
    assert options.out == tmp_path / "table.json"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "train",
        "experiments/sheets",
        "experiments/scores",
        "experiments/guidance",
        "experiments/editing",
        "experiments/ablation",
        "experiments/flow",
        "experiments/blind_sheet",
        "experiments/speed",
    ],
)
def test_a_program_finds_its_modules_from_any_folder(
    name, course_environment, tmp_path
):
    command = [sys.executable, str(du.WEIGHTS / f"{name}.py"), "--help"]
    done = subprocess.run(
        command, cwd=tmp_path, env=course_environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


# ---- Rows ---------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_each_job_is_done_once_and_keeps_its_name(workers):
    jobs = {"first": (5, 3), "second": (3, 5)}
    answers = list(tables.side_by_side(operator.sub, jobs, workers))
    assert sorted(answers) == [("first", 2), ("second", -2)]


def test_a_table_without_a_file_starts_empty(tmp_path):
    parser = argparse.ArgumentParser()
    content = tables.so_far(tmp_path / "table.json", {"n": 1}, parser, runs={})
    assert content == {"settings": {"n": 1}, "runs": {}}


def test_a_table_continues_under_its_settings(tmp_path):
    path = tmp_path / "table.json"
    tables.write_json(path, {"settings": {"n": 1}, "runs": {"a": 2}})
    content = tables.so_far(path, {"n": 1}, argparse.ArgumentParser(), runs={})
    assert content["runs"] == {"a": 2}


def test_a_table_of_other_settings_is_refused(tmp_path, capsys):
    path = tmp_path / "table.json"
    tables.write_json(path, {"settings": {"n": 1}, "runs": {"a": 2}})
    with pytest.raises(SystemExit):
        tables.so_far(path, {"n": 3}, argparse.ArgumentParser(), runs={})
    message = (
        "table.json has other settings ({'n': 1}); remove it or give another --out"
    )
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", ['{"settings": ', "[1]", "[" * 100_000, "\xff"])
def test_a_damaged_table_is_refused(content, tmp_path):
    path = tmp_path / "table.json"
    path.write_text(content, encoding="latin1")
    message = r"table\.json (is damaged|holds a list).* remove it, or copy it again"
    with pytest.raises(ValueError, match=message):
        tables.so_far(path, {"n": 1}, argparse.ArgumentParser(), runs={})


def test_a_table_that_cannot_be_written_is_noticed_first(tmp_path, capsys):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "table.json"
    with pytest.raises(SystemExit):
        tables.so_far(path, {"n": 1}, argparse.ArgumentParser(), runs={})
    assert f"--out {path} cannot be written: " in capsys.readouterr().err


def test_what_a_killed_program_left_of_its_table_is_removed(tmp_path):
    left = tmp_path / "table.json.0123abcd.tmp"
    other = tmp_path / "another.json.0123abcd.tmp"
    left.touch()
    other.touch()
    tables.so_far(tmp_path / "table.json", {}, argparse.ArgumentParser())
    assert [*tmp_path.iterdir()] == [other]


def test_rows_with_other_settings_are_missing_too():
    rows = {"kept": {"run": 1}, "changed": {"run": 1}}
    planned = {"kept": 1, "changed": 2, "new": 3}
    assert tables.missing(rows, planned, "run") == ["changed", "new"]


def test_rows_stand_in_their_order_and_others_are_removed():
    rows = {"c": 3, "old": 0}
    tables.add_row(rows, "a", 1, order=["a", "b", "c"])
    assert list(rows.items()) == [("a", 1), ("c", 3)]


def test_only_missing_rows_are_scored_and_each_is_written(tmp_path):
    path = tmp_path / "table.json"
    rows = {"b": {"drawn_with": "2", "scores": {"FD": [7, 7, 7]}}}
    written = []

    def score(name):
        if path.exists():
            written.append([*json.loads(path.read_text())["rows"]])
        return {"FD": (1.23456, 1.0, 2.0), "nothing": (float("nan"),) * 3}

    digests = {"a": "1", "b": "2", "c": "3"}
    tables.fill(path, {"rows": rows}, "rows", digests, score)
    stored = json.loads(path.read_text())["rows"]
    assert [*stored] == ["a", "b", "c"]
    assert stored["a"] == {"drawn_with": "1", "scores": {"FD": [1.2346, 1.0, 2.0]}}
    assert stored["b"] == {"drawn_with": "2", "scores": {"FD": [7, 7, 7]}}
    assert written == [["a", "b"]]


# ---- Digests ------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """Two files that a row was made from."""
    for name in ("weights.pth", "data.npy"):
        (tmp_path / name).write_bytes(name.encode())
    return [tmp_path / "weights.pth", tmp_path / "data.npy"]


def test_a_digest_depends_on_settings_and_on_the_content_of_files(files):
    before = tables.digest({"n": 1, "steps": [5, 0]}, files)
    assert tables.digest({"steps": [5, 0], "n": 1}, files) == before
    assert tables.digest({"n": 2, "steps": [5, 0]}, files) != before
    assert tables.digest({"n": 1, "steps": [4, 0]}, files) != before
    files[0].write_bytes(b"other weights")
    assert tables.digest({"n": 1, "steps": [5, 0]}, files) != before


def test_a_digest_does_not_depend_on_the_folder(files, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = [file.rename(elsewhere / file.name) for file in files]
    after = tables.digest({}, moved)
    assert after == tables.digest({}, [elsewhere / file.name for file in files])


def test_a_renamed_and_rewritten_sampler_keeps_every_row(monkeypatch):
    """The digest of a row holds the sampler's name in the table, not its source."""
    row = scores.ROWS["model_31, DDIM-30, wrapped"]
    sheet = sheets.SAMPLER_SHEETS["ddim_20"]
    before = (scores.row_digest(row, scores.N), sheets.drawn_with(sheet))

    def renamed(*_, **__):
        raise AssertionError("digests call no sampler")

    monkeypatch.setitem(scores.SAMPLERS, "wrapped stride", renamed)
    monkeypatch.setitem(sheets.SAMPLERS, "DDIM", renamed)
    monkeypatch.setattr(shipped, "draw_batches", renamed)
    monkeypatch.setattr(du, "sprite_scores", renamed)
    assert (scores.row_digest(row, scores.N), sheets.drawn_with(sheet)) == before


@pytest.mark.parametrize(
    "changed",
    [
        {"weights": "model_24"},
        {"sampler": "DDPM"},
        {"options": {"steps": 25}},
        {"seed": 5},
        {"start": "noised sprites"},
    ],
)
def test_another_setting_makes_a_row_anew(changed):
    row = scores.ROWS["model_31, DDIM-30"]
    before = scores.row_digest(row, scores.N)
    assert scores.row_digest(replace(row, **changed), scores.N) != before
    assert scores.row_digest(row, scores.N + 1) != before


@pytest.mark.parametrize("module", [scores, guidance, sheets])
def test_another_version_makes_every_row_anew(module, monkeypatch):
    def digests():
        if module is sheets:
            return [sheets.drawn_with(sheets.RESTARTS_SHEET)]
        if module is scores:
            row = next(iter(scores.ROWS.values()))
            return [scores.row_digest(row, 9), scores.real_digest("blur", 9)]
        row = next(iter(guidance.ROWS.values()))
        return [guidance.row_digest(row, 9)]

    before = digests()
    monkeypatch.setattr(module, "VERSION", 99)
    assert not set(before) & set(digests())


def test_other_sprites_make_every_score_anew(monkeypatch, tmp_path):
    row = scores.ROWS["model_31, DDIM-30"]
    guided = next(iter(guidance.ROWS.values()))
    before = (scores.row_digest(row, 9), guidance.row_digest(guided, 9))
    other = tmp_path / shipped.RULER[0].name
    other.write_bytes(b"other sprites")
    ruler = (other, *shipped.RULER[1:])
    for module in (scores, guidance):
        monkeypatch.setattr(module, "RULER", ruler)
    after = (scores.row_digest(row, 9), guidance.row_digest(guided, 9))
    assert not set(before) & set(after)


def read(name: str) -> dict:
    """A JSON file of weights/."""
    return json.loads((du.WEIGHTS / name).read_text(encoding="utf8"))


def test_the_stored_scores_are_of_these_settings_and_data():
    stored = read("scores.json")
    n = stored["n"]
    for name, row in stored["real"].items():
        assert row["drawn_with"] == scores.real_digest(name, n), name
    for name, row in stored["samples"].items():
        assert row["drawn_with"] == scores.row_digest(scores.ROWS[name], n), name


def test_the_stored_guidance_is_of_these_settings_and_data():
    stored = read("guidance.json")
    n = stored["settings"]["samples"]
    for name, row in stored["rows"].items():
        assert row["drawn_with"] == guidance.row_digest(guidance.ROWS[name], n), name


ALL_SHEETS = {
    **sheets.WEIGHT_SHEETS,
    "restarts": sheets.RESTARTS_SHEET,
    **sheets.SAMPLER_SHEETS,
}


@pytest.mark.parametrize("name", ALL_SHEETS)
def test_the_stored_sheets_are_of_these_settings_and_weights(name):
    path = du.WEIGHTS / "results" / f"{sheets.file_name(name)}.npz"
    with np.load(path) as stored:
        assert str(stored["drawn_with"]) == sheets.drawn_with(ALL_SHEETS[name])
        assert stored["pictures"].shape == (sheets.N, 16, 16, 3)


def test_every_sheet_has_its_numbers():
    results = read("results.json")
    assert [*results["sheets"]] == [*sheets.WEIGHT_SHEETS]
    assert [*results["samplers"]] == [*sheets.SAMPLER_SHEETS]


def test_the_stored_numbers_are_those_of_the_stored_pictures():
    row = read("results.json")["samplers"]["ddim_5"]
    with np.load(du.WEIGHTS / "results" / "ddim_5.npz") as sheet:
        again = sheets.scores(sheet["pictures"])
    for measure in ("legal", "legal_distance", "palette_distance"):
        assert again[measure] == row[measure]


# ---- Files --------------------------------------------------------------------------


def test_samples_join_those_that_are_there(tmp_path):
    path = tmp_path / "deep" / "samples.npz"
    for pictures in ({"a": np.zeros(2)}, {"b": np.ones(3)}, {"a": np.ones(4)}):
        tables.add_samples(path, pictures)
    with np.load(path) as stored:
        sums = {name: stored[name].sum() for name in stored}
    assert sums == {"a": 4, "b": 3}
    assert [file.name for file in path.parent.iterdir()] == ["samples.npz"]


def test_damaged_samples_are_refused_and_stay(tmp_path):
    path = tmp_path / "samples.npz"
    tables.add_samples(path, {"a": np.zeros(200)})
    half = path.read_bytes()[:150]
    path.write_bytes(half)
    with pytest.raises(ValueError, match=r"samples\.npz is damaged .*; remove it"):
        tables.add_samples(path, {"b": np.zeros(2)})
    assert path.read_bytes() == half


def test_json_loads_as_it_was_and_its_lists_fill_lines(tmp_path):
    numbers = [round(i / 7 - 5, 3) for i in range(3000)]
    numbers += [1e-05, -2.5e-30, 1e300, 0, -7]
    content = {
        "long": numbers,
        "short": [1, 2.5, -3e-05],
        "nested": [[0.5, 1.0], [], [[2], numbers[:90]], {"a": [3]}],
        "empty": [],
        "none": {},
        "text": ["[1, 2]", "one [\n 2,\n 3\n ] four", "[\n 5\n]"],
        "mixed": [1, "two", None, True, [3, 4]],
        "no numbers": [None, True],
    }
    tables.write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf8")
    # the same order and the same types, too
    assert json.dumps(json.loads(text)) == json.dumps(content)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 160
    assert len(lines) < len(numbers) / 10
    assert ' "short": [1, 2.5, -3e-05],' in lines
    assert text.endswith("}\n")


def test_mean_and_error_are_those_of_the_numbers():
    assert tables.mean_and_error([1, 2, 3, 6]) == {
        "mean": 3.0,
        "standard_error": pytest.approx(1.08012),
    }
