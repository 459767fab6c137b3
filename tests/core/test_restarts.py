"""Samplers that go back up: the list of steps, the noise added on the way, the result.

They are compared with closed forms and with a loop written by hand.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_schedule_and_samplers import bell

import diffusion_utilities as du

SCHEDULE = du.NoiseSchedule.linear()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def never_called(x, time, context):
    pytest.fail("the network was called")


def descent(high: int, low: int, stride: int) -> list[int]:
    return [*range(high, low, -stride), low]


def test_the_default_list_goes_down_with_nineteen_rounds_back_in_495_calls():
    steps = du.restart_steps()
    ups = [(t, t_next) for t, t_next in zip(steps, steps[1:]) if t_next > t]
    assert ups == [(120, 300)] * 4 + [(60, 200)] * 8 + [(20, 120)] * 7
    assert len(steps) - 1 - len(ups) == 495
    assert steps[0] == 500
    assert steps[-1] == 0


@given(st.data())
def test_a_list_of_steps_is_its_descents_one_after_another(data):
    T = data.draw(st.integers(10, 600))
    stride = data.draw(st.integers(1, 50))
    round_stride = data.draw(st.integers(1, 50))
    lows = data.draw(st.sets(st.integers(1, T - 1), max_size=4))
    rounds = []
    for low in sorted(lows, reverse=True):
        high = data.draw(st.integers(low + 1, T))
        times = data.draw(st.integers(0, 3))
        rounds.append((high, low, times))

    expected = []
    at = T
    for high, low, times in rounds:
        expected += descent(at, low, stride)
        for _ in range(times):
            expected += descent(high, low, round_stride)
        at = low
        expected.pop()  # the next descent begins there
    expected += descent(at, 0, stride)

    steps = du.restart_steps(rounds, T, stride, round_stride)
    assert steps == expected
    assert du.sampling_steps(steps, T) == expected


@pytest.mark.parametrize(
    "rounds",
    [
        [(100, 100, 1)],
        [(600, 100, 1)],
        [(100, 0, 1)],
        [(300, 120, 1), (300, 120, 1)],
        [(100, 50, 1), (300, 60, 1)],
        [(300, 120, -1)],
    ],
)
def test_rounds_that_go_nowhere_are_refused(rounds):
    message = "round .* expected 0 < low < high <= T = 500"
    with pytest.raises(ValueError, match=message):
        du.restart_steps(rounds)


@pytest.mark.parametrize(
    "strides", [{"stride": 0}, {"round_stride": 0}, {"stride": -8}]
)
def test_strides_that_lead_nowhere_are_refused(strides):
    with pytest.raises(ValueError, match="expected a whole number, 1 or more"):
        du.restart_steps(**strides)


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [500],
        [400, 0],
        [500, 10],
        [500, 0, 10, 0],
        [500, 501, 0],
        [500, -1, 0],
        [500, 500, 0],
        [500, 250.5, 0],
    ],
)
def test_a_list_that_is_no_way_from_T_to_0_is_refused_before_any_work(steps):
    message = "starts with T = 500 and reaches 0 only at its end"
    with pytest.raises(ValueError, match=message):
        du.sample_ddpm(never_called, SCHEDULE, shape=(1, 3, 4, 4), steps=steps)


@pytest.mark.parametrize("kind", [tuple, np.array, torch.tensor])
def test_a_list_may_be_of_any_kind(kind):
    steps = du.sampling_steps(kind([500, 100, 200, 0]), 500)
    assert steps == [500, 100, 200, 0]
    assert all(type(t) is int for t in steps)


@pytest.mark.parametrize("kind", [list, np.array])
def test_multistep_solvers_refuse_a_list(kind):
    """What they remember would be wrong after the way up."""
    steps = kind(du.restart_steps())
    with pytest.raises(ValueError, match="a whole number of steps .on a list"):
        du.sample_multistep(never_called, SCHEDULE, shape=(1, 3, 4, 4), steps=steps)


@pytest.mark.parametrize("low, high", [(20, 120), (120, 300), (0, 500)])
def test_on_the_way_up_the_picture_is_noised_as_if_from_the_clean_one(low, high):
    """x_high then has mean sqrt(ab) x_0 and variance 1 - ab, as in [DDPM] eq. 4."""
    generator = seeded(3)
    x0 = torch.full((50, 3, 20, 20), 0.8, dtype=torch.float64)
    noise = torch.randn(x0.shape, generator=generator).double()
    x_low = du.perturb_input(x0, low, noise, SCHEDULE)
    trip = du.walk(
        never_called,
        SCHEDULE,
        x=x_low,
        steps=[low, high],
        step=None,
        generator=generator,
    )
    reached, x_high, predicted = next(trip)
    assert reached == high
    assert predicted is None

    ab = float(SCHEDULE.ab[high])
    n = x0.numel()
    tolerance = 4 * ((1 - ab) / n) ** 0.5
    assert float(x_high.mean()) == pytest.approx(0.8 * ab**0.5, abs=tolerance)
    assert float(x_high.var()) == pytest.approx(1 - ab, rel=4 * (2 / n) ** 0.5)


@pytest.mark.parametrize(
    "sample, options",
    [(du.sample_ddim, {}), (du.sample_ddpm, {"variance": "beta_tilde"})],
)
def test_normal_data_come_out_with_their_mean_and_variance(sample, options):
    rounds = [(300, 120, 3), (120, 20, 3)]
    x, _ = sample(
        bell(0.3, 0.5, SCHEDULE),
        SCHEDULE,
        shape=(40, 3, 10, 10),
        steps=du.restart_steps(rounds, stride=1, round_stride=1),
        generator=seeded(11),
        keep=0,
        **options,
    )
    assert float(x.std()) == pytest.approx(0.5, rel=0.04)
    assert float(x.mean()) == pytest.approx(0.3, abs=0.025)


def test_the_samples_are_those_of_a_loop_by_hand():
    """The same random numbers in the same order, down and up again in each round."""
    model = bell(0.1, 0.7, SCHEDULE)
    generator = seeded(8)
    x = torch.randn((2, 3, 4, 4), generator=generator)

    def down(x, steps):
        for t, t_prev in zip(steps, steps[1:]):
            x = du.denoise_add_noise(
                x,
                t,
                model(x, torch.full((2,), t / 500)),
                SCHEDULE,
                z=torch.randn(x.shape, generator=generator),
                t_prev=t_prev,
                variance="beta_tilde",
                clip=True,
            )
        return x

    def up(x, low, high):
        share = float(SCHEDULE.ab[high] / SCHEDULE.ab[low])
        z = torch.randn(x.shape, generator=generator)
        return share**0.5 * x + (1 - share) ** 0.5 * z

    rounds = [(300, 120, 2), (90, 30, 1)]
    at = 500
    for high, low, times in rounds:
        x = down(x, descent(at, low, 8))
        for _ in range(times):
            x = up(x, low, high)
            x = down(x, descent(high, low, 6))
        at = low
    x = down(x, descent(at, 0, 8))

    ours, _ = du.sample_ddpm(
        model,
        SCHEDULE,
        shape=(2, 3, 4, 4),
        steps=du.restart_steps(rounds),
        generator=seeded(8),
        keep=0,
        variance="beta_tilde",
        clip=True,
    )
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5)


def test_frames_are_kept_by_their_place_so_a_step_visited_thrice_gives_three():
    steps = du.restart_steps([(300, 120, 2)], stride=20, round_stride=20)
    x_T = torch.randn((1, 3, 4, 4), generator=seeded(1))

    def draw(keep):
        return du.sample_ddim(
            bell(0, 1, SCHEDULE),
            SCHEDULE,
            x_T=x_T,
            steps=steps,
            generator=seeded(2),
            keep=keep,
        )

    x, every = draw(len(steps))
    assert len(every) == len(steps)
    assert torch.equal(every[0], x_T)
    assert torch.equal(every[-1], x)

    _, some = draw([120, 0])
    places = [place for place, t in enumerate(steps) if t in (120, 0)]
    assert torch.equal(some, every[places])

    _, thrice = draw([120])
    assert len(thrice) == 3
    _, sixteen = draw(16)
    assert len(sixteen) == 16
