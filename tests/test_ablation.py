"""The program behind lesson 3's table of settings, with small numbers."""

import json
import sys

import pytest

import diffusion_utilities as du


@pytest.fixture
def ablation(program, monkeypatch):
    monkeypatch.syspath_prepend(str(du.WEIGHTS))
    module = program("ablation")
    for name, value in {"FEATURES": 8, "HELD_OUT": 10, "SAMPLING_STEPS": 2, "LOSS_STEPS": (20, 200)}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module, "CHANGES", module.CHANGES[:1] + module.CHANGES[-1:])
    return module


def run(ablation, monkeypatch, out, *extra):
    monkeypatch.setattr(sys, "argv", ["ablation.py", "--out", str(out), "--pictures", "200", "--samples", "3", *extra])
    ablation.main()
    return json.loads(out.read_text())


def test_rows_are_added_and_those_there_are_kept(ablation, monkeypatch, tmp_path):
    out, changes = tmp_path / "ablation.json", ablation.CHANGES
    monkeypatch.setattr(ablation, "CHANGES", changes[:1])
    first = run(ablation, monkeypatch, out)
    monkeypatch.setattr(ablation, "CHANGES", changes)
    both = run(ablation, monkeypatch, out)
    assert both["runs"][:1] == first["runs"] and len(both["runs"]) == 2
    assert [row["min_snr"] for row in both["runs"]] == [None, 5.0]
    for row in both["runs"]:
        assert set(row["held_out_loss"]) == {"20", "200"} and 0 < row["legal_distance"]["mean"] < 1
    assert both["runs"][0]["held_out_loss"] != both["runs"][1]["held_out_loss"]  # the weights reach the loss


def test_other_settings_are_refused(ablation, monkeypatch, tmp_path, capsys):
    out = tmp_path / "ablation.json"
    run(ablation, monkeypatch, out)
    for arguments in (("--samples", "4"), ("--out", str(du.WEIGHTS / "ablation.json"))):
        with pytest.raises(SystemExit):
            run(ablation, monkeypatch, out, *arguments)
    assert "remove it or give another --out" in (said := capsys.readouterr().err) and "would overwrite the shipped results" in said


def test_the_stored_table_has_a_row_for_each_change(program, monkeypatch):
    monkeypatch.syspath_prepend(str(du.WEIGHTS))
    stored = json.loads((du.WEIGHTS / "ablation.json").read_text())
    module = program("ablation")
    assert [(row["learning_rate"], row["batch"], row["min_snr"]) for row in stored["runs"]] == list(module.CHANGES)
    assert stored["settings"] == {"features": module.FEATURES, "pictures": module.PICTURES, "held_out": module.HELD_OUT, "samples": module.SAMPLES}
