"""network_choices.py: what the strong network is made of."""

import pytest
import torch

import diffusion_utilities as du


@pytest.fixture
def program():
    import network_choices

    return network_choices


def test_each_change_stands_beside_the_network_as_shipped(program):
    choices = list(program.CHOICES.values())
    assert len(choices) == len(set(choices)) == 10
    for seed in (1, 2):
        assert program.Choice(seed) in choices


def test_the_continuous_head_draws_colours_outside_the_palette(program):
    """Every colour is a mixture of the palette's with the palette head only."""
    x = torch.randn(1, 3, 16, 16)
    ab = torch.full((1, 1), 0.5)
    ends = {}
    for head in ("palette", "continuous"):
        model = program.network(program.Choice(1, head=head))
        torch.nn.init.constant_(model.out.bias, 3.0)
        with torch.no_grad():
            ends[head] = float(model.picture(x, ab, model.read(torch.eye(5)[:1])).max())
    assert ends["palette"] <= 1.0001
    assert ends["continuous"] == pytest.approx(3)


def test_the_bodies_cost_about_the_same(program):
    costs = [
        program.multiply_adds(program.network(program.Choice(1, body=body)))
        for body in ("U-Net", "hybrid")
    ]
    assert costs[1] == pytest.approx(costs[0], rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["as shipped, seed 1", "hybrid body, seed 2"])
def test_a_row_is_trained_for_its_seconds_and_scored(program, name):
    answer = program.row(program.CHOICES[name], 3.0, 20)
    assert answer["pictures"] % program.BATCH == 0
    assert answer["pictures"] > 0
    assert 0 < answer["legal_distance"]["mean"] < 1
    assert answer["FD"][0] > 0


def test_the_practised_steps_differ(program):
    often = program.frequencies(program.Choice(1))
    expected = du.straight_frequencies(program.SCHEDULE, even=0.25)
    torch.testing.assert_close(often, expected)
    assert program.frequencies(program.Choice(1, practised="evenly")) is None
