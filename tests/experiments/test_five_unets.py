"""Lesson 10: its networks against PyTorch, its training against a clock made by hand.

The program five_unets.py runs for a moment, and what it stored is compared with it.
"""

import json
import types

import five_networks
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from five_networks import DESIGNS, VARIANTS

import diffusion_utilities as du

NOTEBOOK = du.COURSE / "notebooks" / "10_networks_compared.ipynb"
STORED = json.loads((du.WEIGHTS / "five_unets.json").read_text(encoding="utf8"))
EVERY = DESIGNS | VARIANTS
SHIPPED = (
    "time as a channel",
    "no time",
    "time at each level",
    "residual",
    "ContextUnet",
)
TWO = ("no time", "residual without skips")


@pytest.fixture
def five_unets(program):
    return program("five_unets")


@pytest.fixture
def few(five_unets, monkeypatch):
    """The program with two designs and one seed, on 60 digits."""

    def split(rows):
        return rows[:40], rows[40:60]

    monkeypatch.setattr(five_unets, "split", split)
    monkeypatch.setattr(five_unets, "EVERY", {name: EVERY[name] for name in TWO})
    monkeypatch.setattr(five_unets, "SEEDS", (1,))
    monkeypatch.setattr(five_unets, "floor", lambda *rest: [1.0])
    return five_unets


def run(program, monkeypatch, *words):
    words = ["five_unets.py", *map(str, words)]
    monkeypatch.setattr("sys.argv", words)
    program.main()


def built(name):
    build, _ = EVERY[name]
    return build(1)


# ---- The networks -------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_every_design_answers_in_the_shape_of_its_picture(name):
    x = torch.randn(2, 1, 28, 28)
    answer = built(name).eval()(x, torch.tensor([0.1, 0.9]))
    assert answer.shape == x.shape


def test_all_but_two_designs_hear_the_time():
    x = torch.randn(1, 1, 28, 28)
    deaf = []
    for name in EVERY:
        network = built(name).eval()
        early = network(x, torch.tensor([0.1]))
        late = network(x, torch.tensor([0.9]))
        if torch.equal(early, late):
            deaf.append(name)
    assert deaf == ["no time", "residual without time"]


def keys_of(name):
    return set(built(name).state_dict())


def parts(keys):
    return {key.split(".")[0] for key in keys}


def test_a_variant_differs_from_its_design_in_one_part():
    own = keys_of("residual")
    assert parts(own - keys_of("residual without attention")) == {"attention"}
    without_time = own - keys_of("residual without time")
    assert all("time" in key or "embed" in key for key in without_time)
    without_skips = keys_of("residual without skips")
    assert without_skips <= own
    assert parts(own - without_skips) == {"up"}


def test_the_network_that_is_not_residual_has_the_same_parameters():
    plain = built("residual without shortcuts")
    assert set(plain.state_dict()) == keys_of("residual")
    for block in plain.modules():
        if isinstance(block, five_networks.ResidualBlock):
            assert not block.residual


@pytest.mark.parametrize("residual", [True, False])
def test_a_residual_block_adds_its_input(residual):
    """With a last convolution of zeros, only the shortcut is left."""
    x = torch.randn(2, 16, 4, 4)
    block = five_networks.ResidualBlock(16, 16, 8, 0.0, residual)
    torch.nn.init.zeros_(block.conv2.weight)
    torch.nn.init.zeros_(block.conv2.bias)
    right = x if residual else torch.zeros_like(x)
    torch.testing.assert_close(block(x, torch.randn(2, 8)), right)


def test_attention_is_that_of_pytorch():
    attention = five_networks.SelfAttention(32, heads=2)
    x = torch.randn(3, 32, 5, 4)
    qkv = attention.query_key_value(attention.norm(x))
    q, k, v = qkv.view(3, 3, 2, 16, 20).transpose(3, 4).unbind(1)
    mixed = F.scaled_dot_product_attention(q, k, v)
    mixed = mixed.transpose(2, 3).reshape(3, 32, 5, 4)
    right = x + attention.out(mixed)
    torch.testing.assert_close(attention(x), right, rtol=1e-4, atol=1e-5)


def test_sinusoids_turn_by_the_same_angle_each_step():
    """Each pair of sine and cosine lies on the unit circle.

    A step of t turns it by its frequency, from 1 radian down.
    """
    told = five_networks.sinusoids(torch.arange(50.0), 16).double()
    turns = torch.complex(told[:, 8:], told[:, :8])
    lengths = turns.abs()
    torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=1e-5, atol=1e-5)
    angles = (turns[1:] / turns[:-1]).angle()
    frequencies = 10_000.0 ** -(torch.arange(8.0) / 8)
    right = frequencies.double().expand(49, 8)
    torch.testing.assert_close(angles, right, rtol=1e-3, atol=1e-5)


# ---- Training and measuring ---------------------------------------------------------


def test_training_ends_with_the_clock_and_a_learning_rate_of_nearly_nothing(
    monkeypatch,
):
    """The clock ticks at each look: ten steps in ten seconds."""
    rates = []
    ticks = iter(range(1000))

    def step(self):
        rates.append(self.param_groups[0]["lr"])

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    network = five_networks.TimeChannelNet(width=4)
    before = [parameter.clone() for parameter in network.parameters()]
    model, losses = five_networks.train_for(
        10,
        network,
        du.NoiseSchedule.linear(300),
        torch.zeros(20, 1, 8, 8),
        clock=lambda: next(ticks),
    )
    assert len(losses) == len(rates) == 10
    assert not model.training
    right = [2e-3 * i / 50 * (1 - i / 10) for i in range(1, 10)]
    torch.testing.assert_close(rates[1:], right)
    for start, average in zip(before, model.parameters()):
        assert torch.equal(start, average)  # `step` took none


@pytest.mark.parametrize("name", DESIGNS)
def test_muon_leaves_the_layers_that_touch_pictures_to_adam(name):
    network = built(name)
    by_muon, by_adam = five_networks.muon(network).param_groups
    for weight in by_muon["params"]:
        assert weight.ndim > 1
        assert min(weight.shape[:2]) > 4
    matrices = [weight for weight in by_adam["params"] if weight.ndim > 1]
    assert len(matrices) >= 2  # the first layer and the last
    assert all(min(weight.shape[:2]) <= 4 for weight in matrices)


def test_an_unknown_optimiser_is_named():
    with pytest.raises(ValueError, match="optimiser='SGD'; expected one of Adam, Muon"):
        five_networks.train_for(
            1, built("no time"), None, torch.zeros(1), optimiser="SGD"
        )


@pytest.mark.parametrize("name", DESIGNS)
def test_levels_are_met_by_every_schedule(name):
    _, schedule = DESIGNS[name]
    met = schedule.ab[five_networks.steps_at_levels(schedule)]
    wanted = torch.tensor(five_networks.LEVELS, dtype=torch.float64)
    torch.testing.assert_close(met, wanted, atol=0.01, rtol=0)
    steps = five_networks.steps_throughout(schedule)
    assert min(steps) >= 1
    assert max(steps) <= schedule.T


def test_a_split_keeps_rows_together_and_apart():
    rows = torch.arange(50)
    training, held_out = five_networks.split(rows, 10)
    assert len(held_out) == 10
    assert sorted([*training.tolist(), *held_out.tolist()]) == rows.tolist()
    doubled, _ = five_networks.split(rows * 2, 10)
    assert torch.equal(doubled, training * 2)


def test_a_shift_moves_the_picture_and_brings_in_background(five_unets):
    x = torch.full((1, 1, 28, 28), -1.0)
    x[0, 0, 14, 14] = 1
    distances = set()
    for seed in range(30):
        y = five_unets.shifted(x, torch.Generator().manual_seed(seed))
        assert y.shape == x.shape
        assert (y == -1).sum() == 783
        [place] = (y[0, 0] == 1).nonzero().tolist()
        distances |= {abs(place[0] - 14), abs(place[1] - 14)}
    assert distances == {0, 1, 2}


# ---- The program --------------------------------------------------------------------

BRIEFLY = ("--seconds", 0.1, "--samples", 12, "--workers", 1)


def stored_in(folder):
    return json.loads((folder / "five_unets.json").read_text(encoding="utf8"))


def test_the_program_writes_rows_weights_and_samples(few, tmp_path, monkeypatch):
    run(few, monkeypatch, "--out", tmp_path, *BRIEFLY)
    rows = stored_in(tmp_path)["runs"]
    assert list(rows) == [f"{name}, seed 1" for name in TWO]
    for row in rows.values():
        assert row["steps"] >= 1
        assert row["FD"] > 0
        assert len(row["loss_at_levels"]) == 4
    assert {path.name for path in (tmp_path / "five_unets").iterdir()} == {
        "mnist_classifier.pth",
        "mnist_no_time.pth",
    }
    with np.load(tmp_path / "results" / "five_unets.npz") as samples:
        shapes = {name: samples[name].shape for name in samples}
    assert shapes == dict.fromkeys(TWO, (10, 28, 28))


def test_the_program_makes_what_is_missing_or_has_other_seconds(
    few, tmp_path, monkeypatch
):
    rows = {name: {"run": run} for name, run in few.planned_runs(0.1).items()}
    rows["residual without skips, seed 1"]["run"]["seconds"] = 100
    before = {
        "settings": few.settings_of(types.SimpleNamespace(samples=12)),
        "real": {"FD": [1.0]},
        "runs": rows,
    }
    (tmp_path / "five_unets.json").write_text(json.dumps(before), encoding="utf8")
    monkeypatch.setattr(few, "distance_to_training", lambda *rest: 1.0)
    run(few, monkeypatch, "--out", tmp_path, *BRIEFLY)
    kept, new = stored_in(tmp_path)["runs"].values()
    assert kept == rows["no time, seed 1"]
    assert new["run"]["seconds"] == 0.1
    assert new["FD"] == 1
    assert not (tmp_path / "five_unets").exists()  # no classifier, no shipped design


def test_a_file_of_other_settings_is_refused(few, tmp_path, monkeypatch, capsys):
    (tmp_path / "five_unets.json").write_text('{"settings": {}}', encoding="utf8")
    with pytest.raises(SystemExit):
        run(few, monkeypatch, "--out", tmp_path, *BRIEFLY)
    assert "has other settings" in capsys.readouterr().err


def test_other_settings_do_not_overwrite_what_ships(few, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(few, monkeypatch, "--seconds", 1)
    assert "add --out" in capsys.readouterr().err


# ---- What is stored -----------------------------------------------------------------


def test_the_shipped_rows_are_of_these_settings_and_all_there(five_unets):
    options = types.SimpleNamespace(samples=five_unets.SAMPLES)
    assert STORED["settings"] == five_unets.settings_of(options)
    runs = {name: row["run"] for name, row in STORED["runs"].items()}
    assert runs == five_unets.planned_runs(five_unets.SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_have_the_stored_losses(five_unets, name):
    """On all held-out digits, at each of the four levels, to the stored digits."""
    build, schedule = DESIGNS[name]
    path = du.WEIGHTS / "five_unets" / five_unets.file_of(name)
    model = du.load_weights(build(1), path)
    _, held_out = five_unets.digits()
    steps = five_networks.steps_at_levels(schedule)
    losses = five_unets.mean_losses(model, held_out, schedule, steps)
    row = STORED["runs"][f"{name}, seed 1"]
    assert losses.tolist() == pytest.approx(row["loss_at_levels"], abs=5e-4)


def test_the_floor_is_that_of_held_out_digits(five_unets):
    floor = five_unets.floor(500, du.WEIGHTS / "five_unets")
    assert floor == pytest.approx(STORED["real"]["FD"], abs=0.01)


def mean_of(design, key):
    seeds = [STORED["runs"][f"{design}, seed {seed}"][key] for seed in (1, 2, 3)]
    return np.mean(seeds)


def test_exercise_5_is_answered_by_the_stored_runs():
    """Without skips the loss is highest, without the time FD is."""
    without = [name for name in VARIANTS if name.startswith("residual")]
    highest = []
    for key in ("loss", "FD"):
        highest.append(max(without, key=lambda name: mean_of(name, key)))
    assert highest == ["residual without skips", "residual without time"]


# ---- The lesson ---------------------------------------------------------------------


class TestCifar:
    """The lesson's cell with the switch, beside stand-ins for CIFAR-10."""

    @pytest.fixture
    def cell(self):
        """(the cell with the switch turned on, the names that it needs)."""
        cells = json.loads(NOTEBOOK.read_text(encoding="utf8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells]
        off = "CIFAR, DOWNLOAD = False, False"
        [source] = [source for source in sources if off in source]
        names = vars(du) | {
            "nets": five_networks,
            "device": torch.device("cpu"),
            "SECONDS": 0.1,
            "cosine": du.NoiseSchedule.cosine(500),
        }
        return source.replace(off, "CIFAR, DOWNLOAD = True, False"), names

    def test_without_the_files_a_line_says_so(self, cell, monkeypatch, capsys):
        def missing(*rest, **options):
            raise RuntimeError("Dataset not found or corrupted.")

        monkeypatch.setattr(torchvision.datasets, "CIFAR10", missing)
        exec(*cell)
        said = capsys.readouterr().out
        assert "CIFAR-10 is not in data/: set DOWNLOAD = True" in said

    def test_with_them_it_trains_and_draws(self, cell, monkeypatch, capsys):
        generator = np.random.default_rng(0)
        photographs = generator.integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)

        def found(*rest, **options):
            return types.SimpleNamespace(data=photographs)

        monkeypatch.setattr(torchvision.datasets, "CIFAR10", found)
        exec(*cell)
        out = capsys.readouterr().out
        assert "32 x 32 in colour: (2, 3, 32, 32)" in out
        assert "steps; loss of the last 20" in out
