"""The program that trains on real collections of sprites."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import diffusion_utilities as du


@pytest.fixture
def collections(program, monkeypatch, tmp_path):
    """Two collections that are there already, as if a package had been unpacked.

    Nothing may be fetched or trained.
    """
    module = program("own_collections")
    sources = {}
    for seed, name in enumerate(("free", "other")):
        sources[name] = module.Source(
            name, "sheet.png", "a licence", is_free=name == "free", options={"tile": 8}
        )
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "sheet.png")
    monkeypatch.setattr(module, "COLLECTIONS", sources)

    def refused(*_, **__):
        raise AssertionError("nothing may be fetched or trained here")

    monkeypatch.setattr(module, "subprocess", SimpleNamespace(run=refused))
    monkeypatch.setattr(module, "curve", refused)
    return module


def stub_training(module, monkeypatch):
    """Training that only notes what was asked for, and draws training tiles."""
    made = []

    def curve(kind, collection, minutes):
        made.append((len(collection.tiles), kind, minutes))
        return None, [[0.0, 0, None, 1.0], [9.0, 3, 0.5, 0.6]]

    monkeypatch.setattr(module, "curve", curve)
    monkeypatch.setattr(module, "best_doubt", lambda *_: 0.1)
    monkeypatch.setattr(
        module, "draw", lambda _, collection, n, doubt: collection.train[:n]
    )
    return made


def run(module, monkeypatch, tmp_path, *words):
    out = tmp_path / "out" / "own.json"
    fixed = ("--out", out, "--data", tmp_path / "data", "--samples", 40)
    monkeypatch.setattr(sys, "argv", ["own.py", *map(str, (*fixed, *words))])
    module.main()
    return json.loads(out.read_text(encoding="utf8"))


def test_rows_are_made_once(collections, monkeypatch, tmp_path):
    made = stub_training(collections, monkeypatch)
    content = run(collections, monkeypatch, tmp_path, "--only", "free")
    assert [*content["rows"]] == [f"free, {kind}" for kind in collections.KINDS]
    content = run(collections, monkeypatch, tmp_path)
    assert len(made) == len(content["rows"]) == 2 * len(collections.KINDS)
    assert content["collections"]["free"]["sprites"] == 64
    row = content["rows"]["free, scratch"]
    assert row["drawn"] == row["copies"] == 40  # drawn are training tiles
    assert row["best"] == []
    control = content["rows"]["free, rate 0"]
    assert "drawn" not in control
    assert control["minutes"] == collections.CONTROL_MINUTES < row["minutes"]


def test_pictures_are_stored_here_only_where_the_licence_is_free(
    collections, monkeypatch, tmp_path
):
    stub_training(collections, monkeypatch)
    run(collections, monkeypatch, tmp_path)
    with np.load(tmp_path / "out" / "results" / "own.npz") as file:
        assert all(name.startswith("free") for name in file)
        assert file["free, fine-tuned"].shape == (40, 8, 8, 4)
    assert (tmp_path / "data" / "other.npz").exists()


def test_sheets_for_a_reader_have_a_key(collections, monkeypatch, tmp_path):
    stub_training(collections, monkeypatch)
    words = ("--blind", tmp_path / "blind", "--only", "free", "--kinds", "scratch")
    run(collections, monkeypatch, tmp_path, *words)
    folder = tmp_path / "blind" / "free, scratch"
    key = json.loads((folder / "key.json").read_text())
    numbers = sorted(number for part in key.values() for number in part)
    assert numbers == [*range(1, len(numbers) + 1)]
    assert len(key["any"]) == 32
    assert (folder / "sheet_1.png").exists()


def test_other_settings_are_refused(collections, monkeypatch, tmp_path, capsys):
    stub_training(collections, monkeypatch)
    run(collections, monkeypatch, tmp_path)
    with pytest.raises(SystemExit):
        run(collections, monkeypatch, tmp_path, "--minutes", 7)
    assert "has other settings" in capsys.readouterr().err


def test_a_package_is_unpacked_whole_or_not_at_all(collections, monkeypatch, tmp_path):
    source = collections.Source("mine", "a/sheet.png", "a licence")
    folder = tmp_path / "new"

    def apt(words, cwd=".", check=True):
        if words[0] == "apt-get":
            (tmp_path / cwd / "mine_1.0.deb").touch()
            return
        sheet = words[-1] / "a" / "sheet.png"
        sheet.parent.mkdir(parents=True)
        sheet.touch()
        if is_killed:
            raise KeyboardInterrupt

    monkeypatch.setattr(collections.subprocess, "run", apt)
    is_killed = True
    with pytest.raises(KeyboardInterrupt):
        collections.fetch(source, folder)
    assert not any(folder.iterdir())
    is_killed = False
    assert collections.fetch(source, folder).exists()
    assert [file.name for file in folder.iterdir()] == ["mine"]


@pytest.mark.parametrize("minutes", ["0", "nan", "inf"])
def test_no_time_to_train_is_refused(
    collections, monkeypatch, tmp_path, minutes, capsys
):
    with pytest.raises(SystemExit):
        run(collections, monkeypatch, tmp_path, "--minutes", minutes)
    assert f"--minutes {float(minutes)}" in capsys.readouterr().err


def test_the_stored_rows_are_of_these_settings(program):
    module = program("own_collections")
    text = (du.WEIGHTS / "own_collections.json").read_text(encoding="utf8")
    content = json.loads(text)
    assert content["settings"] == {
        "version": module.VERSION,
        "minutes": module.MINUTES,
        "samples": module.SAMPLES,
        "start": module.tables.sha256(module.SHIPPED),
    }
    for name, source in content["collections"].items():
        assert source["licence"] == module.COLLECTIONS[name].licence


def test_the_lesson_has_all_that_it_shows():
    text = (du.WEIGHTS / "own_collections.json").read_text(encoding="utf8")
    rows = json.loads(text)["rows"]
    pictures = np.load(du.WEIGHTS / "results" / "own_collections.npz")
    for kind in ("fine-tuned", "scratch"):
        row = rows[f"angband, {kind}"]
        drawn = pictures[f"angband, {kind}"]
        assert len(drawn) == row["drawn"]
        assert len(set(row["best"]) | set(row["copied"])) <= len(drawn)
        assert not set(row["best"]) & set(row["copied"])
    assert len(rows["angband, rate 0"]["looks"]) > 1
