"""The judges of lesson 10's exercises (they spoil them)."""

import functools
import math

import numpy as np
import torch

from diffusion_utilities import NoiseSchedule, sample_ddim
from exercises import Wrong, as_numbers, compare, exercise, guessed, normal, tried

SCHEDULE = NoiseSchedule.linear()
drawn = functools.partial(normal, dtype=torch.float64)


class Mixture:
    """What the lesson's class of that name offers."""

    def __init__(self, weights, means, stds):
        self.weights, self.means, self.stds = (
            torch.as_tensor(v, dtype=torch.float64) for v in (weights, means, stds)
        )

    def noised(self, t):
        return self.noised_to(float(SCHEDULE.ab[t]))

    def noised_to(self, alpha_bar):
        return Mixture(
            self.weights,
            alpha_bar**0.5 * self.means,
            (alpha_bar * self.stds**2 + 1 - alpha_bar) ** 0.5,
        )

    def _logs(self, x):
        squares, d = (x[:, None] - self.means).square().sum(2), x.shape[1]
        return (
            self.weights.log()
            - d * (self.stds * math.sqrt(2 * math.pi)).log()
            - squares / (2 * self.stds**2)
        )

    def log_density(self, x):
        return self._logs(x).logsumexp(1)

    def score(self, x):
        share = self._logs(x).softmax(1)
        return (
            share[..., None] * (self.means - x[:, None]) / self.stds[:, None] ** 2
        ).sum(1)


def ideal(mixture):
    """The ideal network of a mixture, as the samplers call a network."""

    def network(x, t, c=None):
        step = round(float(t[0]) * SCHEDULE.T)
        return -((1 - SCHEDULE.ab[step]) ** 0.5) * mixture.noised(step).score(x)

    return network


@exercise(
    "10.1",
    "Ask it at t = 500: how does the answer differ from x itself, and which leak is that?",
)
def ideal_noise(attempt):
    line = Mixture([0.3, 0.5, 0.2], [[-1.2], [0.1], [1.1]], [0.15, 0.25, 0.1])
    plane = Mixture([0.6, 0.4], [[0.5, 1.0], [-0.8, 0.2]], [0.3, 0.1])
    one = torch.tensor([[1.6]], dtype=torch.float64)
    for mixture, x, t in (
        (line, one, 200),
        (line, torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None], 50),
        (plane, drawn(7, 2, seed=0), 350),
    ):
        ab, score = SCHEDULE.ab[t], mixture.noised(t).score(x)
        # by another way than the formula: each bell's own noise, averaged by whose point it may be
        noised = mixture.noised(t)
        own = (1 - ab).sqrt() * (x[:, None] - noised.means) / noised.stds[:, None] ** 2
        right = (noised._logs(x).softmax(1)[..., None] * own).sum(1)
        mistakes = {
            "the sign: the score points to where the data are, the noise away from there.": -right,
            "is the square root missing? 1 - alpha-bar is the noise's variance, and the factor is its standard deviation.": -(
                1 - ab
            )
            * score,
            "alpha-bar is the picture's share; the noise's factor is the root of 1 - alpha-bar.": -ab.sqrt()
            * score,
            "a product, not a quotient: the noise is the score times the root of 1 - alpha-bar.": -score
            / (1 - ab).sqrt(),
            "this is the score of the clean mixture; at step t the points are those of `mixture.noised(t)`.": -(
                1 - ab
            ).sqrt()
            * mixture.score(x),
            "this is the score itself; the noise is a multiple of it.": score,
            "the sign is right and the factor is missing: the root of 1 - alpha-bar.": -score,
            "this is the ideal x_0; the noise is asked for.": (x + (1 - ab) * score)
            / ab.sqrt(),
        }
        where = (
            f"at t = {t}, x = {float(x):.1f}"
            if x is one
            else f"at t = {t}, points in {x.shape[1]} dimension{'s' * (x.shape[1] > 1)}"
        )
        compare(tried(attempt, mixture, x, t, SCHEDULE), right, mistakes, where)


def ddim_error(steps):
    """The mean distance of DDIM's ends from the exact ones, for starts whose exact ends are known: quantiles keep their order."""
    soft, share = (
        Mixture([0.3, 0.5, 0.2], [[-1.0], [0.0], [1.0]], [0.3, 0.35, 0.25]),
        (torch.arange(100, dtype=torch.float64)[:, None] + 0.5) / 100,
    )

    def quantile(mixture):
        low, high = torch.full_like(share, -4), torch.full_like(share, 4)
        for _ in range(50):
            middle = (low + high) / 2
            below = (
                mixture.weights
                * torch.special.ndtr((middle - mixture.means.T) / mixture.stds)
            ).sum(1, keepdim=True) < share
            low, high = (
                torch.where(below, middle, low),
                torch.where(below, high, middle),
            )
        return middle

    ends, _ = sample_ddim(
        ideal(soft), SCHEDULE, x_T=quantile(soft.noised(500)), steps=steps, keep=0
    )
    return float((ends - quantile(soft)).abs().mean())


@exercise(
    "10.2",
    "Run the cell: which of the other two methods shrinks its error faster, and from which number of steps to which?",
)
def order_of_ddim(guess):
    factor = guessed(
        guess, "a number: how many times smaller the error becomes, 1 for no change"
    )
    if factor < 1:
        raise Wrong(
            f"With {factor:g} the error would grow. Give how many times *smaller* it becomes, a number above 1."
        )
    truth = ddim_error(50) / ddim_error(500)
    if factor > 40:
        raise Wrong("Less than that: a method of second order would divide the error by a hundred. DDIM takes the network's answer at the start of "
                    "each step for the whole step.")  # fmt: skip
    if factor < truth / 1.5:
        raise Wrong("More than that. (The error of a mean over ten times as many dice shrinks by 3.2. But DDIM has no dice, and the network is "
                    "perfect: all error comes from the length of the steps.)")  # fmt: skip
    if factor > 1.5 * truth:
        raise Wrong(
            "Less than that. Suppose that each step's own error is as the square of its length: what do ten times as many of them add up to?"
        )


@exercise("10.3", "And to halve the error: how many steps more does each of them need?")
def how_many_steps(attempt):
    for n in (5, 50, 7):  # 15.8, 158.1, 22.1: cut off first, then rounded
        root = 10**0.5 * n
        mistakes = {
            "they are swapped: the first number is the first-order method's.": (
                math.ceil(root),
                10 * n,
            ),
            "round up: a number of steps is whole, and one too few misses the goal.": (
                10 * n,
                root,
            ),
            "it is rounded, and should be rounded up, or the goal is just missed.": (
                10 * n,
                round(root),
            ),
            "it is cut off, and should be rounded up, or the goal is just missed.": (
                10 * n,
                int(root),
            ),
            "second order means that the error goes with 1 / steps^2, so that fewer steps are needed, not more.": (
                10 * n,
                100 * n,
            ),
            "twice the order is not half of the steps: steps^2 must grow tenfold, so the steps grow by the root of 10.": (
                10 * n,
                5 * n,
            ),
            "both are the first-order method's.": (10 * n, 10 * n),
        }
        mine = tried(attempt, n)
        compare(mine, (10 * n, math.ceil(root)), mistakes, f"for n = {n}", 1e-9)


CENTRES = (
    ((0.2, 1.0), (0.9, 0.8), (0.4, 0.4)),
    ((-0.8, 0.5), (-0.2, -0.3), (0.7, -0.6)),
)  # of the wanted class, of the other one


def guided_shares(w):
    """Which part of DDIM's guided samples ends near each of the three bells of the wanted class."""
    wanted, both = (
        Mixture([1 / 3] * 3, CENTRES[0], [0.18] * 3),
        Mixture([1 / 6] * 6, CENTRES[0] + CENTRES[1], [0.18] * 6),
    )

    def network(x, t, c=None):
        null = ideal(both)(x, t)
        return null + w * (ideal(wanted)(x, t) - null)

    ends, _ = sample_ddim(
        network, SCHEDULE, x_T=drawn(300, 2, seed=0), steps=20, keep=0
    )
    return torch.bincount(torch.cdist(ends, wanted.means).argmin(1), minlength=3) / len(
        ends
    )


@exercise(
    "10.4", "Run the picture, and look for the bell that most of the points have left."
)
def where_guidance_goes(guess):
    bell = guessed(guess, "1, 2 or 3: the number of a bell", (1, 2, 3))
    shares = guided_shares(8)
    if bell - 1 != int(shares.argmax()):
        others = torch.tensor(CENTRES[1])
        apart = [
            float((torch.tensor(centre) - others).norm(dim=1).min())
            for centre in CENTRES[0]
        ]
        near = (
            "the nearest of the three to the other class"
            if bell - 1 == np.argmin(apart)
            else "not the furthest of the three from the other class"
        )
        raise Wrong(f"Bell {bell} is {near}: the closest of that class's bells is {apart[bell - 1]:.2f} away. Guidance with w = 8 "
                    "subtracts seven times what the network says without the class; which way does that push?")  # fmt: skip


@exercise(
    "10.5",
    "Draw a few sprites with s = 0.1 in `finite`, and with the answers that the solution gives: are they still copies?",
)
def closeness(attempt):
    X, noise = drawn(8, 768, seed=1).clamp(-1, 1), drawn(768, seed=2)
    for t, s in ((200, 0.1), (50, 0.3), (400, 0.0)):
        a = float(SCHEDULE.ab[t])
        x_t = a**0.5 * (X[3] + 0.4 * (X[5] - X[3])) + (1 - a) ** 0.5 * noise

        def logs(variance, factor=a**0.5, x_t=x_t):
            values = -(x_t - factor * X).square().sum(1) / (2 * variance)
            return values - values.max()

        right = logs(a * s**2 + 1 - a)
        mine = as_numbers(tried(attempt, x_t, X, a, s))
        if mine.shape != right.shape:
            raise Wrong(
                f"your result has shape {tuple(mine.shape)}, expected {tuple(right.shape)}: one number for each row of X."
            )
        if torch.allclose(mine, right.softmax(0), atol=1e-6):
            raise Wrong(
                "these are the weights themselves; the task asks for their logarithms, so leave the softmax out."
            )
        plain = (-(x_t - a**0.5 * X).square().sum(1) / (2 * (a * s**2 + 1 - a))).exp()
        if any(
            torch.allclose(mine, weights, rtol=1e-4, atol=0)
            for weights in (as_numbers(plain), as_numbers(right.exp()))
        ):
            raise Wrong(
                "these are the weights themselves; the task asks for their logarithms."
            )
        flipped = (x_t - a**0.5 * X).square().sum(1) / (2 * (a * s**2 + 1 - a))
        mistakes = {
            "the sign: the further a sprite is from x_t, the less likely.": flipped
            - flipped.max(),
            "s is not used: the noised bell has the variance alpha-bar s^2 + 1 - alpha-bar.": logs(
                1 - a
            ),
            "the cloud shrinks with the picture: s^2 is multiplied by alpha-bar.": logs(
                s**2 + 1 - a
            ),
            "is s squared? It is a standard deviation.": logs(a * s + 1 - a),
            "alpha-bar is a variance's factor already: s^2 takes alpha-bar, not its root.": logs(
                a**0.5 * s**2 + 1 - a
            ),
            "you divide by the standard deviation; a bell's exponent has the variance.": logs(
                (a * s**2 + 1 - a) ** 0.5
            ),
            "is the 2 under the square missing?": logs((a * s**2 + 1 - a) / 2),
            "is the root missing? The noised bells stand at the root of alpha-bar times the sprites.": logs(
                a * s**2 + 1 - a, a
            ),
            "the sprites are not shrunk: the noised bells stand at the root of alpha-bar times the sprites.": logs(
                a * s**2 + 1 - a, 1
            ),
            "this is the weight of a noise of variance s^2 alone, without the noise of step t.": logs(
                max(a * s**2, 1e-12)
            ),
        }
        where = f"at alpha-bar = {a:.2f}, s = {s}, less the largest of the eight"
        compare(mine - mine.max(), right, mistakes, where)


@exercise(
    "10.6",
    "Put it into section 8's loop with half as many steps, and compare its error with Euler's at the same number of calls.",
)
def heun(attempt):
    def velocity(x, a):
        return torch.sin(2 * x) * (1 + a) - a**2 * x

    x = drawn(6, 2, seed=3)
    for a, lower in ((0.8, 0.6), (1.0, 0.5), (0.25, 0.0)):
        h = lower - a
        first = velocity(x, a)
        second = velocity(x + h * first, lower)
        late = velocity(x + h * first, a)
        turned = x - h * (first + velocity(x - h * first, lower)) / 2
        middle = velocity(x + h / 2 * first, a + h / 2)
        mistakes = {
            "this is Euler's step, of first order: look at the velocity where it leads, too, and go along the mean of the two.": x
            + h * first,
            "the step goes the wrong way: lower - a is below 0, and the velocity points towards more noise.": turned,
            "the second velocity is right, and the step itself goes the wrong way: lower - a is below 0.": x
            - h * (first + second) / 2,
            "you add the two velocities; the step goes along their mean, so divide by 2.": x
            + h * (first + second),
            "the second velocity belongs to the amount `lower`, where Euler's step has come, not to `a`.": x
            + h * (first + late) / 2,
            "the second velocity is asked at the old points; ask where Euler's step leads.": x
            + h * (first + velocity(x, lower)) / 2,
            "this goes along the second velocity alone; the step needs the mean of both.": x
            + h * second,
            "this is the midpoint method, also of second order: it asks half-way. Heun's asks at the end and takes the mean.": x
            + h * middle,
            "the second half starts from Euler's point; both velocities are for one step from x.": x
            + h * first
            + h * (first + second) / 2,
            "this is how far the points move; add x.": h * (first + second) / 2,
        }
        compare(
            tried(attempt, velocity, x, a, lower),
            x + h * (first + second) / 2,
            mistakes,
            f"from a = {a} to {lower}",
        )
