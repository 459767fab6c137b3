"""The benchmark's instruments on things whose answers are known, and its shipped results against its program and the model card."""

import json
import time
from pathlib import Path

import benchmark
import matplotlib.image
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = json.loads((ROOT / "weights" / "benchmark.json").read_text(encoding="utf8"))


class Line(torch.nn.Module):
    """One matrix product a picture: its cost is known."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(768, 10)

    def forward(self, x):
        return self.layer(x.flatten(1))


def contender(**changes):
    options = {
        "build": Line,
        "loss": lambda network, x: network(x).square().mean(),
        "ddim": lambda steps: None,
        "batch": 20,
    }
    return benchmark.Contender(**options | changes)


def test_operations_of_a_step_are_those_of_its_matrix_products():
    # forward, and backward for the weights; the input needs no gradient
    assert benchmark.step_flops(contender(), Line()) == 2 * (2 * 768 * 10)


def test_training_stops_by_the_clock_and_keeps_the_weights_of_each_moment():
    slow = contender(
        loss=lambda network, x: time.sleep(0.02) or network(x).square().mean()
    )
    network, log, states = benchmark.train(slow, (0.005, 0.01))
    assert [entry["minutes"] for entry in log] == [0.005, 0.01]
    for entry in log:
        assert (
            60 * entry["minutes"] <= entry["seconds"] < 60 * entry["minutes"] + 5
        )  # a busy machine's last step may be long
        assert (
            entry["pictures"] % 20 == 0
            and entry["pictures"] <= 20 * entry["seconds"] / 0.02
        )
    assert log[0]["pictures"] < log[1]["pictures"]
    assert not torch.equal(states[0]["layer.weight"], states[1]["layer.weight"])
    assert not torch.equal(
        states[1]["layer.weight"], network.state_dict()["layer.weight"]
    )  # an average, since it is helped


def test_what_was_published_gets_no_help():
    plain = contender(helped=False)
    network, _, states = benchmark.train(plain, (0.005,))
    assert torch.equal(states[0]["layer.weight"], network.state_dict()["layer.weight"])
    published = benchmark.CONTENDERS["published recipe"]
    assert (
        published.helped,
        published.batch,
        published.rate,
        published.clip,
        published.channels_last,
    ) == (False, 100, 1e-3, None, False)
    network, x = published.build().eval(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert not torch.equal(network(x, 0.5), network(x, 0.5))  # the random shortcut


def test_memory_is_what_the_block_adds():
    with benchmark.peak_memory() as peak:
        block = torch.ones(100 * 2**18)  # 100 MiB
        time.sleep(0.3)
    assert 95 <= peak["MiB"] <= 130
    del block


def test_medians_are_of_calls_that_take_turns():
    calls = []
    seconds = benchmark.median_seconds(
        {
            "a": lambda: calls.append("a"),
            "b": lambda: calls.append("b") or time.sleep(0.02),
        },
        3,
    )
    assert [{*calls[i : i + 2]} for i in range(0, 8, 2)] == [{"a", "b"}] * 4 and len(
        calls
    ) == 8
    assert seconds["a"] < 0.01 <= seconds["b"]


def test_settings_that_would_overwrite_the_results_are_refused(capsys):
    for arguments in (["--minutes", "1"], ["--samples", "40"], ["--rate", "0.1"]):
        with pytest.raises(SystemExit):
            benchmark.parsed(arguments)
        assert "--out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        benchmark.parsed(["--out", "elsewhere", "--minutes", "2", "1"])


def test_the_shipped_results_are_whole():
    assert [*SHIPPED["contenders"]] == [*benchmark.CONTENDERS]
    assert SHIPPED["settings"] == {
        "minutes": [2, 5, 10],
        "samples": 1000,
        "sampler": "DDIM-50",
        "seed": benchmark.SEED,
    }
    with np.load(ROOT / "weights" / "results" / "benchmark.npz") as sprites:
        assert {name: sprites[name].shape for name in sprites} == dict.fromkeys(
            benchmark.CONTENDERS, (12, 16, 16, 3)
        )
    for name, row in SHIPPED["contenders"].items():
        assert (row["rate"], row["batch"]) == (
            benchmark.CONTENDERS[name].rate,
            benchmark.CONTENDERS[name].batch,
        )
        assert 0 < row["share_of_peak"] < 1
        for score, minutes in zip(row["scores"], (2, 5, 10), strict=True):
            assert (
                score["minutes"] == minutes
                and 60 * minutes <= score["seconds"] < 60 * minutes + 5
            )
            assert all(
                low <= value <= high
                for value, low, high in (
                    score[key] for key in ("legal", "coverage", "FD")
                )
            )


@pytest.mark.parametrize(
    "name", [*benchmark.CONTENDERS][:4]
)  # the other libraries are not among the tests' packages
def test_networks_are_those_that_were_trained(name):
    assert SHIPPED["contenders"][name]["parameters"] == benchmark.du.count_parameters(
        benchmark.CONTENDERS[name].build()
    )


def test_the_card_has_the_table_as_measured():
    card = (ROOT / "weights" / "README.md").read_text(encoding="utf8")
    assert benchmark.table(SHIPPED) in card and benchmark.speed_table(SHIPPED) in card
    assert (
        matplotlib.image.imread(ROOT / "weights" / "pictures" / "benchmark.png").shape[
            1
        ]
        == 1100
    )
