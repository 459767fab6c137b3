"""Lesson 7's networks, its training loop and the program that measures them: against PyTorch, a hand-made clock and what is shipped."""

import json
import types

import numpy as np
import pytest
import torch
import torchvision

import diffusion_utilities as du

NOTEBOOK = du.COURSE / "notebooks" / "07_five_unets.ipynb"
STORED = json.loads((du.WEIGHTS / "five_unets.json").read_text(encoding="utf8"))


@pytest.fixture
def five_unets(program, monkeypatch):
    monkeypatch.syspath_prepend(str(du.WEIGHTS))
    return program("five_unets")


@pytest.fixture
def lesson(five_unets):
    return five_unets.lesson()


@pytest.fixture
def few(five_unets, monkeypatch):
    """The program with two runs, on 60 digits."""
    whole = five_unets.lesson
    monkeypatch.setattr(
        five_unets,
        "lesson",
        lambda: types.SimpleNamespace(
            **vars(whole()) | {"split": lambda rows: (rows[:40], rows[40:60])}
        ),
    )
    monkeypatch.setattr(
        five_unets,
        "runs",
        lambda names: [("mnist", "no time", 1), ("mnist", "residual without skips", 1)],
    )
    monkeypatch.setattr(five_unets, "floor", lambda *rest: {"FD": [1.0]})
    return five_unets


def command(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["five_unets.py", *map(str, words)])


def test_every_design_answers_in_the_shape_of_its_picture(lesson):
    x, t = torch.randn(2, 1, 28, 28), torch.tensor([0.1, 0.9])
    for name, (build, _) in (lesson.DESIGNS | lesson.VARIANTS).items():
        assert build(1).eval()(x, t).shape == x.shape, name


def test_all_but_two_designs_hear_the_time(lesson):
    x = torch.randn(1, 1, 28, 28)
    deaf = []
    for name, (build, _) in (lesson.DESIGNS | lesson.VARIANTS).items():
        network = build(1).eval()
        deaf += [name] * torch.equal(
            *(network(x, torch.tensor([t])) for t in (0.1, 0.9))
        )
    assert deaf == ["no time", "residual without time"]


def test_a_variant_differs_from_its_design_in_one_part(lesson):
    whole = lesson.ResidualUNet()
    keys = {
        name: set(lesson.VARIANTS[f"residual without {name}"][0](1).state_dict())
        for name in ("attention", "time", "skips")
    }
    own = set(whole.state_dict())
    assert {key.split(".")[0] for key in own - keys["attention"]} == {"attention"}
    assert all("time" in key or "embed" in key for key in own - keys["time"])
    assert keys["skips"] <= own and {
        key.split(".")[0] for key in own - keys["skips"]
    } == {"up"}
    plain = lesson.VARIANTS["residual, not residual"][0](1)
    assert set(plain.state_dict()) == own and not any(
        block.residual
        for block in plain.modules()
        if isinstance(block, lesson.ResidualBlock)
    )


def test_a_residual_block_adds_its_input(lesson):
    """With a last convolution of zeros nothing is left but the input; without the shortcut nothing at all."""
    x, e = torch.randn(2, 16, 4, 4), torch.randn(2, 8)
    for residual, right in ((True, x), (False, torch.zeros_like(x))):
        block = lesson.ResidualBlock(16, 16, 8, 0.0, residual)
        torch.nn.init.zeros_(block.conv2.weight)
        torch.nn.init.zeros_(block.conv2.bias)
        torch.testing.assert_close(block(x, e), right)


def test_attention_is_that_of_pytorch(lesson):
    attention, x = lesson.SelfAttention(32, heads=2), torch.randn(3, 32, 5, 4)
    q, k, v = (
        attention.query_key_value(attention.norm(x))
        .view(3, 3, 2, 16, 20)
        .transpose(3, 4)
        .unbind(1)
    )
    mixed = (
        torch.nn.functional.scaled_dot_product_attention(q, k, v)
        .transpose(2, 3)
        .reshape(3, 32, 5, 4)
    )
    torch.testing.assert_close(
        attention(x), x + attention.out(mixed), rtol=1e-4, atol=1e-5
    )


def test_sinusoids_turn_by_the_same_angle_each_step(lesson):
    """Each pair of sine and cosine lies on the unit circle, and a step of t turns it by its frequency, from 1 radian down."""
    told = lesson.sinusoids(torch.arange(50.0), 16).double()
    turns = torch.complex(told[:, 8:], told[:, :8])
    torch.testing.assert_close(
        turns.abs(), torch.ones_like(turns.abs()), rtol=1e-5, atol=1e-5
    )
    angles = (turns[1:] / turns[:-1]).angle()
    torch.testing.assert_close(
        angles,
        (10_000.0 ** -(torch.arange(8.0) / 8)).double().expand(49, 8),
        rtol=1e-3,
        atol=1e-5,
    )


def test_training_ends_with_the_clock_and_a_learning_rate_of_nearly_nothing(
    lesson, monkeypatch
):
    """A clock that ticks once a look: ten steps in ten seconds, the rate up over fifty steps' worth and down to 0."""
    rates, now = [], iter(range(1000))
    monkeypatch.setattr(
        torch.optim.Adam, "step", lambda self: rates.append(self.param_groups[0]["lr"])
    )
    network = lesson.TimeChannelNet(width=4)
    before = [p.clone() for p in network.parameters()]
    model, losses = lesson.train_for(
        10,
        network,
        du.NoiseSchedule.linear(300),
        torch.zeros(20, 1, 8, 8),
        clock=lambda: next(now),
    )
    assert len(losses) == len(rates) == 10 and not model.training
    torch.testing.assert_close(
        rates[1:], [2e-3 * i / 50 * (1 - i / 10) for i in range(1, 10)]
    )
    assert all(
        torch.equal(p, q) for p, q in zip(before, model.parameters())
    )  # no step was taken, so the average is the start


def test_levels_are_met_by_every_schedule(lesson):
    for _, schedule in lesson.DESIGNS.values():
        levels = schedule.ab[lesson.steps_at_levels(schedule)]
        torch.testing.assert_close(
            levels, torch.tensor(lesson.LEVELS, dtype=torch.float64), atol=0.01, rtol=0
        )
        assert all(1 <= t <= schedule.T for t in lesson.steps_throughout(schedule))


def test_a_split_keeps_rows_together_and_apart(lesson):
    rows = torch.arange(50)
    training, held_out = lesson.split(rows, 10)
    assert (
        len(held_out) == 10
        and sorted([*training.tolist(), *held_out.tolist()]) == rows.tolist()
    )
    assert torch.equal(lesson.split(rows * 2, 10)[0], training * 2)


def test_a_shift_moves_the_picture_and_brings_in_ground(five_unets):
    x = torch.full((1, 1, 28, 28), -1.0)
    x[0, 0, 14, 14] = 1
    places = set()
    for seed in range(30):
        y = five_unets.shifted(x, torch.Generator().manual_seed(seed))
        assert (
            y.shape == x.shape
            and int((y == 1).sum()) == 1
            and int((y == -1).sum()) == 783
        )
        places.add(tuple((y[0, 0] == 1).nonzero()[0].tolist()))
    assert {abs(place - 14) for pair in places for place in pair} == {0, 1, 2}


def test_the_digest_sees_code_and_nothing_else(five_unets):
    one = five_unets.digest(["def f(x):\n    return x  # why\n", "y = 1"])
    assert one == five_unets.digest(
        ["y = 1", 'def f(x):\n    """Says."""\n    return x']
    )
    assert one != five_unets.digest(["y = 1", "def f(x):\n    return -x"])


def test_a_notebook_without_definitions_is_refused(five_unets, tmp_path, monkeypatch):
    path = tmp_path / "07.ipynb"
    path.write_text(
        json.dumps({"cells": [{"metadata": {}, "source": ["x = 1"]}]}), encoding="utf8"
    )
    monkeypatch.setattr(five_unets, "NOTEBOOK", path)
    with pytest.raises(ValueError, match=r"07\.ipynb has no cell tagged 'definitions'"):
        five_unets.lesson()


def test_the_program_writes_rows_weights_and_samples_and_goes_on(
    few, tmp_path, monkeypatch, capsys
):
    command(
        monkeypatch,
        "--out",
        tmp_path,
        "--seconds",
        0.1,
        "--samples",
        12,
        "--workers",
        1,
    )
    few.main()
    content = json.loads((tmp_path / "five_unets.json").read_text(encoding="utf8"))
    assert [row["design"] for row in content["runs"]] == [
        "no time",
        "residual without skips",
    ]
    assert all(
        row["steps"] >= 1 and row["FD"] > 0 and len(row["loss_at_levels"]) == 4
        for row in content["runs"]
    )
    assert {path.name for path in (tmp_path / "five_unets").iterdir()} == {
        "mnist_classifier.pth",
        "fashion_mnist_classifier.pth",
        "mnist_no_time.pth",
    }
    with np.load(tmp_path / "results" / "five_unets.npz") as samples:
        assert {name: samples[name].shape for name in samples} == dict.fromkeys(
            ("mnist: no time", "mnist: residual without skips"), (10, 28, 28)
        )
    monkeypatch.setattr(
        few,
        "runs",
        lambda names: [
            ("mnist", "no time", 1),
            ("mnist", "residual without skips", 1),
            ("mnist", "ContextUnet", 2),
        ],
    )
    monkeypatch.setattr(
        few, "train_classifier", None
    )  # would fail if it were called again
    few.main()
    again = json.loads((tmp_path / "five_unets.json").read_text(encoding="utf8"))
    assert (
        again["runs"][:2] == content["runs"]
        and again["runs"][2]["design"] == "ContextUnet"
        and len(again["runs"]) == 3
    )
    command(monkeypatch, "--out", tmp_path, "--seconds", 0.2, "--samples", 12)
    with pytest.raises(SystemExit):
        few.main()
    assert "has other settings" in capsys.readouterr().err


def test_other_settings_do_not_overwrite_what_ships(few, monkeypatch, capsys):
    command(monkeypatch, "--seconds", 1)
    with pytest.raises(SystemExit):
        few.main()
    assert "add --out FOLDER" in capsys.readouterr().err


def test_the_shipped_rows_are_of_the_shown_code_and_all_there(five_unets, lesson):
    assert STORED["settings"]["definitions"] == lesson.definitions
    assert (
        STORED["settings"]["seconds"] == five_unets.SECONDS
        and STORED["settings"]["samples"] == five_unets.SAMPLES
    )
    assert [
        (row["data"], row["design"], row["seed"]) for row in STORED["runs"]
    ] == five_unets.runs(lesson)


@pytest.mark.parametrize(
    "name",
    ["time as a channel", "no time", "time at each level", "residual", "ContextUnet"],
)
def test_shipped_weights_have_the_stored_losses(five_unets, lesson, name):
    """On all held-out digits, at two of the four levels, to the digits that are stored."""
    build, schedule = lesson.DESIGNS[name]
    model = du.load_weights(
        build(1), du.WEIGHTS / "five_unets" / five_unets.file_of("mnist", name)
    )
    held_out = lesson.split(du.load_digits()[0] * 2 - 1)[1]
    row = next(
        row
        for row in STORED["runs"]
        if (row["data"], row["design"], row["seed"]) == ("mnist", name, 1)
    )
    losses = (
        du.denoising_losses(
            model, held_out, schedule, steps=lesson.steps_at_levels(schedule)
        )
        .mean(1)
        .tolist()
    )
    assert losses == pytest.approx(row["loss_at_levels"], abs=5e-4)


def test_the_floor_is_that_of_held_out_digits(five_unets, lesson):
    assert five_unets.floor(lesson, "mnist", 500, du.WEIGHTS / "five_unets")[
        "FD"
    ] == pytest.approx(STORED["real"]["mnist"]["FD"], abs=0.01)


class TestCifar:
    """The lesson's cell with the switch, beside stand-ins for torchvision's data set."""

    @pytest.fixture
    def cell(self, lesson):
        cells = json.loads(NOTEBOOK.read_text(encoding="utf8"))["cells"]
        source = next(
            "".join(cell["source"])
            for cell in cells
            if "CIFAR, DOWNLOAD = " in "".join(cell["source"])
        )
        names = vars(lesson) | {
            "device": torch.device("cpu"),
            "SECONDS": 0.1,
            "schedule": du.NoiseSchedule.linear(500),
            "display": lambda picture: None,
        }
        return source.replace(
            "CIFAR, DOWNLOAD = False, False", "CIFAR, DOWNLOAD = True, False"
        ), names

    def test_without_the_files_a_line_says_so(self, cell, monkeypatch, capsys):
        def missing(*rest, **options):
            raise RuntimeError("Dataset not found or corrupted.")

        monkeypatch.setattr(torchvision.datasets, "CIFAR10", missing)
        exec(*cell)
        assert (
            "CIFAR-10 is not in data/: set DOWNLOAD = True" in capsys.readouterr().out
        )

    def test_with_them_it_trains_and_draws(self, cell, monkeypatch, capsys):
        photographs = np.random.default_rng(0).integers(
            0, 256, (30, 32, 32, 3), dtype=np.uint8
        )
        monkeypatch.setattr(
            torchvision.datasets,
            "CIFAR10",
            lambda *rest, **options: types.SimpleNamespace(data=photographs),
        )
        exec(*cell)
        out = capsys.readouterr().out
        assert (
            "32x32 in colour: (2, 3, 32, 32)" in out
            and "steps; loss of the last 20" in out
        )
