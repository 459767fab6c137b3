"""The benchmark's instruments on things whose answers are known, and its results."""

import json
import time

import benchmark
import matplotlib.image
import numpy as np
import pytest
import torch

import diffusion_utilities as du

SHIPPED = json.loads((du.WEIGHTS / "benchmark.json").read_text(encoding="utf8"))
MINUTES = (2, 5, 10)
NAMES = [*benchmark.CONTENDERS]


class Line(torch.nn.Module):
    """One matrix product for each picture: its cost is known."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(768, 10)

    def forward(self, x):
        return self.layer(x.flatten(1))


def mean_square(network, x):
    return network(x).square().mean()


def slow_mean_square(network, x):
    time.sleep(0.02)
    return mean_square(network, x)


def contender(loss=mean_square, helped=True):
    return benchmark.Contender(
        build=Line,
        loss=loss,
        ddim=lambda steps: None,
        batch=20,
        helped=helped,
    )


def parsed(*arguments):
    return benchmark.parsed(benchmark.command_line(), [*arguments])


# ---- The instruments -----------------------------------------------------------------


def test_operations_of_a_step_are_those_of_its_matrix_products():
    """Forward, and backward for the weights; the input needs no gradient."""
    assert benchmark.step_flops(contender(), Line()) == 2 * (2 * 768 * 10)


def test_training_stops_by_the_clock_and_keeps_the_weights_of_each_moment():
    network, log, states = benchmark.train(contender(slow_mean_square), (0.005, 0.01))
    assert [entry["minutes"] for entry in log] == [0.005, 0.01]
    for entry in log:
        assert entry["seconds"] >= 60 * entry["minutes"]
        assert entry["pictures"] % 20 == 0
        assert entry["pictures"] <= 20 * entry["seconds"] / 0.02
    assert log[0]["pictures"] < log[1]["pictures"]
    early, late = (state["layer.weight"] for state in states)
    assert not torch.equal(early, late)
    # an average, because this contender is helped
    assert not torch.equal(late, network.state_dict()["layer.weight"])


def test_a_contender_that_is_not_helped_has_no_average():
    network, _, [state] = benchmark.train(contender(helped=False), (0.005,))
    assert torch.equal(state["layer.weight"], network.state_dict()["layer.weight"])


def test_the_published_recipe_is_as_published():
    published = benchmark.CONTENDERS["published recipe"]
    assert not published.helped
    assert not published.channels_last
    assert published.batch == 100
    assert published.rate == 1e-3
    assert published.clip is None


@torch.no_grad()
def test_the_published_network_has_the_random_shortcut():
    network = benchmark.published_unet().eval()
    x = torch.randn(2, 3, 16, 16)
    assert not torch.equal(network(x, 0.5), network(x, 0.5))


def test_memory_is_what_the_block_adds():
    with benchmark.peak_memory() as peak:
        block = torch.ones(100 * 2**18)  # 100 MiB
        time.sleep(0.3)
    assert 95 <= peak["MiB"] <= 130
    del block


def test_medians_are_of_calls_that_take_turns():
    calls = []

    def quick():
        calls.append("quick")

    def slow():
        calls.append("slow")
        time.sleep(0.02)

    seconds = benchmark.median_seconds({"quick": quick, "slow": slow}, 3)
    assert len(calls) == 8
    for turn in range(0, 8, 2):
        assert set(calls[turn : turn + 2]) == {"quick", "slow"}
    assert seconds["quick"] < seconds["slow"]


@pytest.mark.parametrize(
    "words", [("--minutes", "1"), ("--samples", "40"), ("--rate", "0.1")]
)
def test_settings_that_would_overwrite_the_results_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        parsed(*words)
    assert "add --out" in capsys.readouterr().err


def test_minutes_that_do_not_rise_are_refused(capsys):
    with pytest.raises(SystemExit):
        parsed("--out", "elsewhere", "--minutes", "2", "1")
    assert "expected rising numbers above 0" in capsys.readouterr().err


# ---- The shipped results -------------------------------------------------------------


def test_the_shipped_results_are_of_these_settings_and_data():
    assert SHIPPED["settings"] == benchmark.settings_of(parsed())
    assert [*SHIPPED["contenders"]] == NAMES


def test_twelve_samples_of_each_contender_ship():
    with np.load(du.WEIGHTS / "results" / "benchmark.npz") as sprites:
        shapes = {name: sprites[name].shape for name in sprites}
    assert shapes == dict.fromkeys(NAMES, (12, 16, 16, 3))


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_row_has_its_settings_and_plausible_numbers(name):
    row = SHIPPED["contenders"][name]
    assert row["rate"] == benchmark.CONTENDERS[name].rate
    assert row["batch"] == benchmark.CONTENDERS[name].batch
    assert 0 < row["share_of_peak"] < 1
    for score, minutes in zip(row["scores"], MINUTES, strict=True):
        assert score["minutes"] == minutes
        assert 60 * minutes <= score["seconds"] < 60 * minutes + 5
        for measure in ("legal", "coverage", "FD"):
            value, low, high = score[measure]
            assert low <= value <= high


@pytest.mark.parametrize("name", NAMES[:3])
def test_networks_are_those_that_were_trained(name):
    """The other two libraries are not among the tests' packages."""
    network = benchmark.CONTENDERS[name].build()
    parameters = SHIPPED["contenders"][name]["parameters"]
    assert du.count_parameters(network) == parameters


def test_the_diary_has_the_tables_as_measured():
    path = du.WEIGHTS / "experiments" / "LOG.md"
    diary = path.read_text(encoding="utf8")
    assert benchmark.table(SHIPPED) in diary
    assert benchmark.speed_table(SHIPPED) in diary


def test_the_picture_has_its_width():
    picture = matplotlib.image.imread(du.WEIGHTS / "pictures" / "benchmark.png")
    assert picture.shape[1] == 1100
