"""The judges of lesson 13's exercises (they spoil them)."""

import functools
import math

import torch

from diffusion_utilities import NoiseSchedule, sample_ddim
from exercises import Wrong, compare, exercise, guessed, normal, tried
from exercises.lesson_12 import Mixture, ideal

SCHEDULE = NoiseSchedule.linear()
drawn = functools.partial(normal, dtype=torch.float64)


# ---- 13.1 ----------------------------------------------------------------------------


def noise_by_bells(mixture, x, t):
    """The ideal noise by another way than the formula.

    It is each bell's own noise, averaged by the probability that x comes from it.
    """
    noised = mixture.noised(t)
    std = (1 - SCHEDULE.ab[t]).sqrt()
    own_noises = std * (x[:, None] - noised.means) / noised.stds[:, None] ** 2
    share = noised._logs(x).softmax(1)
    return (share[..., None] * own_noises).sum(1)


def noise_mistakes(mixture, x, t):
    ab = SCHEDULE.ab[t]
    std = (1 - ab).sqrt()
    score = mixture.noised(t).score(x)
    yield (
        "the sign: the score points to where the data are, the noise away from there.",
        std * score,
    )
    yield (
        "is the square root missing? 1 - alpha-bar is the noise's variance, "
        "and the factor is its standard deviation.",
        -(1 - ab) * score,
    )
    yield (
        "alpha-bar is the picture's share; "
        "the noise's factor is the root of 1 - alpha-bar.",
        -ab.sqrt() * score,
    )
    yield (
        "a product, not a quotient: "
        "the noise is the score times the root of 1 - alpha-bar.",
        -score / std,
    )
    yield (
        "this is the score of the clean mixture; "
        "at step t the points are those of `mixture.noised(t)`.",
        -std * mixture.score(x),
    )
    yield "this is the score itself; the noise is a multiple of it.", score
    yield (
        "the sign is right and the factor is missing: the root of 1 - alpha-bar.",
        -score,
    )
    yield (
        "this is the ideal x_0; the noise is asked for.",
        (x + (1 - ab) * score) / ab.sqrt(),
    )


@exercise(
    "13.1",
    "Ask it at t = 500: how does the answer differ from x itself, "
    "and which leak is that?",
)
def ideal_noise(attempt):
    line = Mixture([0.3, 0.5, 0.2], [[-1.2], [0.1], [1.1]], [0.15, 0.25, 0.1])
    plane = Mixture([0.6, 0.4], [[0.5, 1.0], [-0.8, 0.2]], [0.3, 0.1])
    one = torch.tensor([[1.6]], dtype=torch.float64)
    nine = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    cases = (
        ("at t = 200, x = 1.6", line, one, 200),
        ("at t = 50, points in 1 dimension", line, nine, 50),
        ("at t = 350, points in 2 dimensions", plane, drawn(7, 2, seed=0), 350),
    )
    for where, mixture, x, t in cases:
        mine = tried(attempt, mixture, x, t, SCHEDULE)
        right = noise_by_bells(mixture, x, t)
        compare(mine, right, noise_mistakes(mixture, x, t), where)


# ---- 13.2 ----------------------------------------------------------------------------


def quantiles(mixture, share):
    """The points (N, 1) below which this share (N, 1) of a mixture on a line lies."""
    low = torch.full_like(share, -4)
    high = torch.full_like(share, 4)
    for _ in range(50):
        middle = (low + high) / 2
        bells = torch.special.ndtr((middle - mixture.means.T) / mixture.stds)
        below = (mixture.weights * bells).sum(1, keepdim=True)
        too_low = below < share
        low = torch.where(too_low, middle, low)
        high = torch.where(too_low, high, middle)
    return middle


def ddim_error(steps):
    """The mean distance of DDIM's ends from the exact ones.

    The exact ends are known because quantiles keep their order.
    """
    soft = Mixture([0.3, 0.5, 0.2], [[-1.0], [0.0], [1.0]], [0.3, 0.35, 0.25])
    share = (torch.arange(100, dtype=torch.float64)[:, None] + 0.5) / 100
    start = quantiles(soft.noised(500), share)
    ends, _ = sample_ddim(ideal(soft), SCHEDULE, x_T=start, steps=steps, keep=0)
    return float((ends - quantiles(soft, share)).abs().mean())


@exercise(
    "13.2",
    "Run the cell: which of the other two methods shrinks its error faster, "
    "and from which number of steps to which?",
)
def order_of_ddim(guess):
    factor = guessed(
        guess, "a number: how many times smaller the error becomes, 1 for no change"
    )
    if factor < 1:
        raise Wrong(
            f"With {factor:g} the error would grow. "
            "Give how many times *smaller* it becomes, a number above 1."
        )
    truth = ddim_error(50) / ddim_error(500)
    if factor > 40:
        raise Wrong(
            "Less than that: a method of second order would divide the error by a "
            "hundred. DDIM takes the network's answer at the start of each step for "
            "the whole step."
        )
    if factor < truth / 1.5:
        raise Wrong(
            "More than that. (The error of a mean over ten times as many dice shrinks "
            "by 3.2. But DDIM has no dice, and the network is perfect: all error comes "
            "from the length of the steps.)"
        )
    if factor > 1.5 * truth:
        raise Wrong(
            "Less than that. Suppose that each step's own error grows with the square "
            "of its length: what do ten times as many of them add up to?"
        )


# ---- 13.3 ----------------------------------------------------------------------------


def number_mistakes(n):
    first = 10 * n
    root = 10**0.5 * n
    yield (
        "they are swapped: the first number is the first-order method's.",
        (math.ceil(root), first),
    )
    yield (
        "round up: a number of steps is whole, and one too few misses the goal.",
        (first, root),
    )
    yield (
        "it is rounded, and should be rounded up, or the goal is just missed.",
        (first, round(root)),
    )
    yield (
        "it is cut off, and should be rounded up, or the goal is just missed.",
        (first, int(root)),
    )
    yield (
        "second order means that the error goes with 1 / steps^2, "
        "so that fewer steps are needed, not more.",
        (first, 100 * n),
    )
    yield (
        "twice the order is not half of the steps: "
        "steps^2 must grow tenfold, so the steps grow by the root of 10.",
        (first, 5 * n),
    )
    yield "both are the first-order method's.", (first, first)


@exercise("13.3", "And to halve the error: how many steps more does each of them need?")
def how_many_steps(attempt):
    for n in (5, 50, 7):  # 15.8, 158.1, 22.1: cut off first, then rounded
        right = (10 * n, math.ceil(10**0.5 * n))
        mine = tried(attempt, n)
        compare(mine, right, number_mistakes(n), where=f"for n = {n}", tolerance=1e-9)


# ---- 13.4 ----------------------------------------------------------------------------


def velocity(x, a):
    """A made-up field of velocities."""
    return torch.sin(2 * x) * (1 + a) - a**2 * x


def direction_mistakes(x, a, lower):
    """Steps along other velocities than the mean of the right two."""
    h = lower - a
    first = velocity(x, a)
    euler = x + h * first
    yield (
        "this is Euler's step, of first order: look at the velocity where it leads, "
        "too, and go along the mean of the two.",
        euler,
    )
    backwards = velocity(x - h * first, lower)
    yield (
        "the step goes the wrong way: "
        "lower - a is below 0, and the velocity points towards more noise.",
        x - h * (first + backwards) / 2,
    )
    yield (
        "the second velocity belongs to the amount `lower`, "
        "where Euler's step has come, not to `a`.",
        x + h * (first + velocity(euler, a)) / 2,
    )
    yield (
        "the second velocity is asked at the old points; ask where Euler's step leads.",
        x + h * (first + velocity(x, lower)) / 2,
    )
    yield (
        "this goes along the second velocity alone; the step needs the mean of both.",
        x + h * velocity(euler, lower),
    )
    half_way = velocity(x + h / 2 * first, a + h / 2)
    yield (
        "this is the midpoint method, also of second order: it asks half-way. "
        "Heun's asks at the end and takes the mean.",
        x + h * half_way,
    )


def step_mistakes(x, h, first, mean):
    """Steps along the right mean of two velocities, but not from x to x + h mean."""
    yield (
        "the second velocity is right, "
        "and the step itself goes the wrong way: lower - a is below 0.",
        x - h * mean,
    )
    yield (
        "you add the two velocities; the step goes along their mean, so divide by 2.",
        x + 2 * h * mean,
    )
    yield (
        "the second half starts from Euler's point; "
        "both velocities are for one step from x.",
        x + h * first + h * mean,
    )
    yield "this is how far the points move; add x.", h * mean


@exercise(
    "13.4",
    "Put it into section 8's loop with half as many steps, "
    "and compare its error with Euler's at the same number of calls.",
)
def heun(attempt):
    x = drawn(6, 2, seed=3)
    for a, lower in ((0.8, 0.6), (1.0, 0.5), (0.25, 0.0)):
        h = lower - a
        first = velocity(x, a)
        second = velocity(x + h * first, lower)
        mean = (first + second) / 2
        mistakes = [
            *direction_mistakes(x, a, lower),
            *step_mistakes(x, h, first, mean),
        ]
        mine = tried(attempt, velocity, x, a, lower)
        right = x + h * mean
        compare(mine, right, mistakes, where=f"from a = {a} to {lower}")
