"""The judges of lesson 12's exercises (they spoil them)."""

import functools
import math

import torch

from diffusion_utilities import NoiseSchedule, sample_ddim
from exercises import Wrong, as_numbers, compare, exercise, guessed, normal, tried

SCHEDULE = NoiseSchedule.linear()
drawn = functools.partial(normal, dtype=torch.float64)


class Mixture:
    """What the lesson's class of that name offers."""

    def __init__(self, weights, means, stds):
        self.weights = torch.as_tensor(weights, dtype=torch.float64)
        self.means = torch.as_tensor(means, dtype=torch.float64)
        self.stds = torch.as_tensor(stds, dtype=torch.float64)

    def noised(self, t):
        return self.noised_to(float(SCHEDULE.ab[t]))

    def noised_to(self, alpha_bar):
        means = alpha_bar**0.5 * self.means
        variances = alpha_bar * self.stds**2 + 1 - alpha_bar
        return Mixture(self.weights, means, variances**0.5)

    def _logs(self, x):
        """The logarithm of each bell's density at x, times its weight."""
        d = x.shape[1]
        squares = (x[:, None] - self.means).square().sum(2)
        norms = d * (self.stds * math.sqrt(2 * math.pi)).log()
        return self.weights.log() - norms - squares / (2 * self.stds**2)

    def log_density(self, x):
        return self._logs(x).logsumexp(1)

    def score(self, x):
        share = self._logs(x).softmax(1)
        own_scores = (self.means - x[:, None]) / self.stds[:, None] ** 2
        return (share[..., None] * own_scores).sum(1)


def ideal(mixture):
    """The ideal network of a mixture, as the samplers call a network."""

    def network(x, t, c=None):
        step = round(float(t[0]) * SCHEDULE.T)
        return -((1 - SCHEDULE.ab[step]) ** 0.5) * mixture.noised(step).score(x)

    return network


# ---- 12.1 ----------------------------------------------------------------------------


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
    "12.1",
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


# ---- 12.2 ----------------------------------------------------------------------------


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
    "12.2",
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


# ---- 12.3 ----------------------------------------------------------------------------


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


@exercise("12.3", "And to halve the error: how many steps more does each of them need?")
def how_many_steps(attempt):
    for n in (5, 50, 7):  # 15.8, 158.1, 22.1: cut off first, then rounded
        right = (10 * n, math.ceil(10**0.5 * n))
        mine = tried(attempt, n)
        compare(mine, right, number_mistakes(n), where=f"for n = {n}", tolerance=1e-9)


# ---- 12.4 ----------------------------------------------------------------------------

WANTED = [[0.2, 1.0], [0.9, 0.8], [0.4, 0.4]]  # the centres of the wanted class
OTHERS = [[-0.8, 0.5], [-0.2, -0.3], [0.7, -0.6]]  # those of the other one


def guided_shares(w):
    """Which part of DDIM's guided samples ends near each bell of the wanted class."""
    wanted = Mixture([1 / 3] * 3, WANTED, [0.18] * 3)
    both = Mixture([1 / 6] * 6, WANTED + OTHERS, [0.18] * 6)

    def network(x, t, c=None):
        null = ideal(both)(x, t)
        return null + w * (ideal(wanted)(x, t) - null)

    start = drawn(300, 2, seed=0)
    ends, _ = sample_ddim(network, SCHEDULE, x_T=start, steps=20, keep=0)
    nearest_bell = torch.cdist(ends, wanted.means).argmin(1)
    return torch.bincount(nearest_bell, minlength=3) / len(ends)


@exercise(
    "12.4", "Run the picture, and look for the bell that most of the points have left."
)
def where_guidance_goes(guess):
    bell = guessed(guess, "1, 2 or 3: the number of a bell", (1, 2, 3)) - 1
    shares = guided_shares(8)
    if bell == int(shares.argmax()):
        return
    distances = torch.cdist(torch.tensor(WANTED), torch.tensor(OTHERS))
    apart = distances.min(1).values
    place = "not the furthest of the three from the other class"
    if bell == apart.argmin():
        place = "the nearest of the three to the other class"
    raise Wrong(
        f"Bell {bell + 1} is {place}: the closest of that class's bells is "
        f"{apart[bell]:.2f} away. Guidance with w = 8 subtracts seven times what the "
        "network says without the class; which way does that push?"
    )


# ---- 12.5 ----------------------------------------------------------------------------


def closeness_logs(x_t, X, variance, factor):
    """The logarithms of the weights, less the largest of them."""
    logs = -(x_t - factor * X).square().sum(1) / (2 * variance)
    return logs - logs.max()


def variance_mistakes(a, s):
    """Sentences, and the wrong variance that each stands for."""
    right = a * s**2 + 1 - a
    yield (
        "s is not used: the noised bell has the variance "
        "alpha-bar s^2 + 1 - alpha-bar.",
        1 - a,
    )
    yield (
        "the cloud shrinks with the picture: s^2 is multiplied by alpha-bar.",
        s**2 + 1 - a,
    )
    yield "is s squared? It is a standard deviation.", a * s + 1 - a
    yield (
        "alpha-bar is a variance's factor already: s^2 takes alpha-bar, not its root.",
        a**0.5 * s**2 + 1 - a,
    )
    yield (
        "you divide by the standard deviation; a bell's exponent has the variance.",
        right**0.5,
    )
    yield "is the 2 under the square missing?", right / 2
    yield (
        "this is the weight of a noise of variance s^2 alone, "
        "without the noise of step t.",
        max(a * s**2, 1e-12),
    )


def closeness_mistakes(x_t, X, a, s):
    right = a * s**2 + 1 - a
    reversed_sign = (x_t - a**0.5 * X).square().sum(1) / (2 * right)
    yield (
        "the sign: the further a sprite is from x_t, the less likely.",
        reversed_sign - reversed_sign.max(),
    )
    for sentence, variance in variance_mistakes(a, s):
        yield sentence, closeness_logs(x_t, X, variance, a**0.5)
    yield (
        "is the root missing? "
        "The noised bells stand at the root of alpha-bar times the sprites.",
        closeness_logs(x_t, X, right, a),
    )
    yield (
        "the sprites are not shrunk: "
        "the noised bells stand at the root of alpha-bar times the sprites.",
        closeness_logs(x_t, X, right, 1),
    )


def check_for_weights(mine, right, x_t, X, a, s):
    """The weights themselves, normalised or not, are not what is asked for."""
    if torch.allclose(mine, right.softmax(0), atol=1e-6):
        raise Wrong(
            "these are the weights themselves; the task asks for their logarithms, "
            "so leave the softmax out."
        )
    logs = -(x_t - a**0.5 * X).square().sum(1) / (2 * (a * s**2 + 1 - a))
    for weights in (logs.exp(), right.exp()):
        if torch.allclose(mine, weights, rtol=1e-4, atol=0):
            raise Wrong(
                "these are the weights themselves; the task asks for their logarithms."
            )


@exercise(
    "12.5",
    "Draw a few sprites with s = 0.1 in `finite`, "
    "and with the answers that the solution gives: are they still copies?",
)
def closeness(attempt):
    X = drawn(8, 768, seed=1).clamp(-1, 1)
    noise = drawn(768, seed=2)
    clean = X[3] + 0.4 * (X[5] - X[3])
    for t, s in ((200, 0.1), (50, 0.3), (400, 0.0)):
        a = float(SCHEDULE.ab[t])
        x_t = a**0.5 * clean + (1 - a) ** 0.5 * noise
        right = closeness_logs(x_t, X, a * s**2 + 1 - a, a**0.5)
        mine = as_numbers(tried(attempt, x_t, X, a, s))
        if mine.shape != right.shape:
            shapes = f"{tuple(mine.shape)}, expected {tuple(right.shape)}"
            raise Wrong(
                f"your result has shape {shapes}: one number for each row of X."
            )
        check_for_weights(mine, right, x_t, X, a, s)
        compare(
            mine - mine.max(),
            right,
            closeness_mistakes(x_t, X, a, s),
            where=f"at alpha-bar = {a:.2f}, s = {s}, less the largest of the eight",
        )


# ---- 12.6 ----------------------------------------------------------------------------


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
    "12.6",
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
