"""The judges of lesson 12's exercises (they spoil them)."""

import functools
import math

import torch

from diffusion_utilities import NoiseSchedule, sample_ddim
from exercises import Wrong, compare, exercise, guessed, normal, tried

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


def slope(x, weights, means, std):
    """The score by automatic differentiation of the log-density."""
    x = x.clone().requires_grad_()
    mixture = Mixture(weights, means, [std] * len(weights))
    (gradient,) = torch.autograd.grad(mixture.log_density(x).sum(), x)
    return gradient


def score_mistakes(x, weights, means, std):
    squares = (x[:, None] - means).square().sum(2)
    logs = weights.log() - squares / (2 * std**2)
    r = logs.softmax(1)
    pull = r @ means - x
    yield (
        "the sign: the arrows point to the bells, from x to the means.",
        -pull / std**2,
    )
    yield (
        "you divide by the standard deviation; the bell's score has its variance.",
        pull / std,
    )
    yield "this leads to the mean of the bells; divide by the variance.", pull
    no_weights = (-squares / (2 * std**2)).softmax(1)
    yield (
        "the weights of the bells are missing: r_k also contains w_k.",
        (no_weights @ means - x) / std**2,
    )
    yield (
        "every bell counts by its weight alone; near bells must count more.",
        (weights @ means - x) / std**2,
    )
    added = (weights + (-squares / (2 * std**2))).softmax(1)
    yield (
        "inside the softmax stands the logarithm of the weights.",
        (added @ means - x) / std**2,
    )
    for sentence, power in (
        ("is the 2 under the square missing?", -squares / std**2),
        (
            "is std squared in the exponent? A bell has the variance.",
            -squares / (2 * std),
        ),
    ):
        wrong = (weights.log() + power).softmax(1)
        yield sentence, (wrong @ means - x) / std**2
    far = (weights.log() + squares / (2 * std**2)).softmax(1)
    yield (
        "the sign in the exponent: far bells must count less.",
        (far @ means - x) / std**2,
    )
    density = logs.exp()
    density = density / (2 * math.pi * std**2) ** (x.shape[1] / 2)
    yield (
        "this is the gradient of the density; divide by the density "
        "for that of its logarithm.",
        (density[..., None] * (means - x[:, None])).sum(1) / std**2,
    )


@exercise(
    "12.1",
    "Far from all bells, how long is the arrow? Which bell does it point to?",
)
def score(attempt):
    line = ([0.3, 0.5, 0.2], [[-1.2], [0.1], [1.1]], 0.4)
    plane = ([0.6, 0.4], [[0.5, 1.0], [-0.8, 0.2]], 0.7)
    for d, (weights, means, std) in enumerate((line, plane), start=1):
        weights = torch.tensor(weights, dtype=torch.float64)
        means = torch.tensor(means, dtype=torch.float64)
        x = drawn(7, d, seed=d)
        mine = tried(attempt, x, weights, means, std)
        right = slope(x, weights, means, std)
        mistakes = score_mistakes(x, weights, means, std)
        compare(mine, right, mistakes, f"{len(weights)} bells in {d} dimensions")


# ---- 12.2 ----------------------------------------------------------------------------


def picture_mistakes(x_t, score, ab):
    root = ab**0.5
    yield (
        "the sign: the score points away from the noise, so add it.",
        (x_t - (1 - ab) * score) / root,
    )
    yield (
        "you multiply with the root of 1 - alpha-bar. The noise is that root times "
        "minus the score, and x_t contains the root times the noise: so it is squared.",
        (x_t + (1 - ab) ** 0.5 * score) / root,
    )
    yield (
        "the score itself is added; how far should you follow it?",
        (x_t + score) / root,
    )
    yield (
        "divide by the root of alpha-bar: the picture in x_t is scaled.",
        (x_t + (1 - ab) * score),
    )
    yield "you divide by alpha-bar; is the root missing?", (x_t + (1 - ab) * score) / ab
    yield (
        "alpha-bar is the picture's share; the noise's is 1 - alpha-bar.",
        (x_t + ab * score) / root,
    )
    yield (
        "this is the noise; the task asks for the clean picture.",
        (-((1 - ab) ** 0.5) * score),
    )
    yield (
        "you treat the score as noise; the factor between them is missing.",
        (x_t - (1 - ab) ** 0.5 * score) / root,
    )


@exercise(
    "12.2",
    "Near t = 0 the step becomes tiny. Which error of the score does that forgive?",
)
def picture_of_score(attempt):
    for t in (50, 200, 400):
        ab = float(SCHEDULE.ab[t])
        x_t = drawn(2, 3, 4, 4, seed=t)
        arrow = drawn(2, 3, 4, 4, seed=t + 1)
        mine = tried(attempt, x_t, arrow, t, SCHEDULE)
        right = (x_t + (1 - ab) * arrow) / ab**0.5
        compare(mine, right, picture_mistakes(x_t, arrow, ab), f"at t = {t}")


# ---- 12.3 ----------------------------------------------------------------------------


def step_back_mistakes(x, score, B, lam, z):
    ode = B / 2 * (x + score)
    uphill = lam * B / 2 * score
    noise = (lam * B) ** 0.5 * z
    yield (
        "the noise needs a standard deviation: is the root missing?",
        (x + ode + uphill + lam * B * z),
    )
    yield "lambda stands under the root, too.", x + ode + uphill + lam * B**0.5 * z
    yield (
        "the root holds only B; lambda belongs there, too.",
        (x + ode + uphill + B**0.5 * z),
    )
    yield "the uphill part of Langevin is missing.", x + ode + noise
    yield "the noise of Langevin is missing.", x + ode + uphill
    yield (
        "is lambda missing in front of the uphill term?",
        (x + ode + B / 2 * score + noise),
    )
    yield (
        "you add B times where it is half of B.",
        (x + B * (x + score) + lam * B * score + noise),
    )
    yield "is the half missing in the ODE's part?", (x + 2 * ode + uphill + noise)
    yield (
        "is the half missing in Langevin's uphill part?",
        (x + ode + 2 * uphill + noise),
    )
    yield (
        "you walk forward, towards noise: going back, the ODE's part is added.",
        (x - ode + uphill + noise),
    )
    yield (
        "the ODE's part holds x + s, not s alone.",
        (x + B / 2 * score + uphill + noise),
    )
    yield (
        "the ODE's part holds x + s: going back, x grows.",
        (x + B / 2 * (score - x) + uphill + noise),
    )
    yield "this is how far the points move; add x.", ode + uphill + noise


@exercise(
    "12.3",
    "Set lambda to -1 and drop the noise. Which equation's first term remains?",
)
def step_back(attempt):
    x = drawn(6, 2, seed=3)
    arrow = drawn(6, 2, seed=4)
    z = drawn(6, 2, seed=5)
    for B, lam in ((0.3, 2.0), (0.05, 0.5), (0.4, 1.0), (0.2, 0.0)):
        mine = tried(attempt, x, arrow, B, lam, z)
        ode = B / 2 * (x + arrow)
        right = x + ode + lam * B / 2 * arrow + (lam * B) ** 0.5 * z
        mistakes = step_back_mistakes(x, arrow, B, lam, z)
        compare(mine, right, mistakes, f"for B = {B}, lam = {lam:g}")


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
