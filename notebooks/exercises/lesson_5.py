"""The judges of lesson 5's exercises (they spoil them)."""

import json

import numpy as np
import torch

from diffusion_utilities import (
    WEIGHTS,
    NoiseSchedule,
    denoise_ddim,
    perturb_input,
    posterior,
    predict_x0,
    sample_ddim,
    sample_ddpm,
    to_model_range,
)
from exercises import (
    Wrong,
    as_numbers,
    compare,
    exercise,
    guessed,
    normal,
    seeded,
    tried,
)


@exercise("5.1", "Set s = 0 in the formula: which of the three parts is left?")
def ddim_step(attempt):
    schedule = NoiseSchedule.linear()
    x, noise, z = normal(3, 4, 3, 16, 16, seed=1, dtype=torch.float64)
    for t, s, eta in (
        (300, 100, 0.0),
        (300, 100, 0.5),
        (300, 100, 1.0),
        (60, 20, 1.0),
        (25, 0, 0.0),
    ):
        ab, ab_s, a, a_s = (
            float(table[i]) for table in (schedule.ab, schedule.a) for i in (t, s)
        )
        tilde = posterior(t, schedule, t_prev=s)[2]
        x0 = predict_x0(x, t, noise, schedule)

        def member(sigma, left=None, picture=ab_s**0.5, x0=x0, ab_s=ab_s):
            left = max(1 - ab_s - sigma**2, 0.0) ** 0.5 if left is None else left
            return picture * x0 + left * noise + sigma * z

        sigma = eta * tilde**0.5
        c0, ct, _ = posterior(t, schedule, t_prev=s)
        mistakes = {
            "alpha stands where alpha-bar belongs: use schedule.ab.": a_s**0.5
            * (x - (1 - a) ** 0.5 * noise)
            / a**0.5
            + (1 - a_s) ** 0.5 * noise,
            "is the square root on the first part missing? The picture is scaled by the root of alpha-bar_s.": member(
                sigma, picture=ab_s
            ),
            "the picture is not scaled: it needs the root of alpha-bar_s.": member(
                sigma, picture=1
            ),
            "is the square root missing before the noise? It is the root of 1 - alpha-bar_s - sigma^2.": member(
                sigma, 1 - ab_s - sigma**2
            ),
            "the implied picture is not divided by the root of alpha-bar_t.": member(
                sigma, x0=x - (1 - ab) ** 0.5 * noise
            ),
            "the implied picture lacks a root, that of 1 - alpha-bar_t.": member(
                sigma, x0=(x - (1 - ab) * noise) / ab**0.5
            ),
            "the second part has alpha-bar_t; it leads to s, so it needs alpha-bar_s.": member(
                sigma, (1 - ab - sigma**2) ** 0.5
            ),
            "the noise is left out: this is the implied picture alone, scaled.": ab_s
            ** 0.5
            * x0,
            "that is DDPM's mean, with the posterior's coefficients.": c0 * x0 + ct * x,
        }
        if eta:
            wide = (1 - ab / ab_s) ** 0.5  # DDPM's larger sigma
            mistakes |= {
                "sigma^2 is not subtracted under the root, so the result holds too much noise.": member(
                    sigma, (1 - ab_s) ** 0.5
                ),
                "sigma is subtracted under the root, and it should be sigma^2.": member(
                    sigma, max(1 - ab_s - sigma, 0.0) ** 0.5
                ),
                "sigma is a standard deviation: the root of beta-tilde, times eta.": member(
                    eta * tilde
                ),
                "eta multiplies sigma, outside the root of beta-tilde.": member(
                    (eta * tilde) ** 0.5
                ),
                "is z added? Its factor is sigma.": member(sigma) - sigma * z,
                "is eta used? sigma is eta times the root of beta-tilde.": member(
                    tilde**0.5
                ),
                "sigma is always 0 here: is eta used?": member(0.0),
                "z is added whole: it must be multiplied by sigma.": member(sigma)
                + (1 - sigma) * z,
                "that is the beta-tilde of the single step to t - 1: give posterior your s.": member(
                    eta * posterior(t, schedule)[2] ** 0.5
                ),
            }
            if 1 - ab_s > (eta * wide) ** 2:
                mistakes[
                    "that is the stride's beta; sigma is made from beta-tilde, which is smaller."
                ] = member(eta * wide)
        compare(
            tried(attempt, x, t, s, noise, schedule, eta, z),
            member(sigma),
            mistakes,
            f"from t = {t} to {s} with eta = {eta}",
        )
    if not torch.allclose(
        as_numbers(tried(attempt, x, 300, 100, noise, schedule)),
        denoise_ddim(x, 300, 100, noise, schedule),
        atol=1e-4,
    ):
        raise Wrong(
            "without eta and z your step should be DDIM's: both are 0 unless told otherwise."
        )


@exercise(
    "5.2", "Ask the published loop of the next section for 30 steps, and compare."
)
def steps_of_any_number(attempt):
    for T, numbers in (
        (500, (20, 30, 7, 1, 499, 500)),
        (500, range(1, 501)),
        (60, range(1, 61)),
    ):
        for n in numbers:
            steps, where = as_numbers(tried(attempt, n, T)), f"for n = {n}, T = {T}"
            if steps.ndim != 1 or not len(steps):
                raise Wrong(
                    f"{where}: you returned something of shape {tuple(steps.shape)}, expected a list of {n + 1} numbers."
                )
            if steps.min() < 0:
                at = int(steps.min())
                raise Wrong(
                    f"{where}: a step is {at}. A negative index is no error: table[{at}] is table[{at + T + 1}], and the noise is back."
                )
            if not torch.equal(steps, steps.round()):
                broken = next(
                    value for value in steps.tolist() if value != round(value)
                )
                raise Wrong(
                    f"{where}: {broken:.4g} is no whole number, and the tables have whole indices only."
                )
            if len(steps) != n + 1:
                cause = (
                    "the 0 at the end is missing."
                    if len(steps) == n and steps[-1] > 0
                    else "was the stride rounded first?"
                )
                raise Wrong(
                    f"{where}: these are {len(steps) - 1} strides, expected {n}: {cause}"
                )
            first, last = int(steps[0]), int(steps[-1])
            if first == 0:
                raise Wrong(
                    f"{where}: the list begins with {first}; sampling goes down, so T stands first and 0 last."
                )
            if (first, last) != (T, 0):
                raise Wrong(
                    f"{where}: the list runs from {first} to {last}, expected from {T} to 0."
                )
            strides = steps[:-1] - steps[1:]
            if strides.min() < 1:
                raise Wrong(
                    f"{where}: two neighbours differ by {int(strides.min())}: each step must be smaller than the one before."
                )
            if strides.max() - strides.min() > 1:
                both = f"strides of {int(strides.min())} and of {int(strides.max())}"
                raise Wrong(
                    f"{where}: {both}, which may differ by 1 at most. Spread exact fractions first, and round last."
                )


@exercise(
    "5.3",
    "Give your sampler another seed: how far are its pictures then, although nothing else has changed?",
)
def two_samplers(attempt):
    def made_up(x, t, c=None):
        return torch.sin(3 * x) + 0.1 * x

    def noted():
        asked = []
        return lambda x, t, c=None: (asked.append(x), made_up(x, t))[1], asked

    schedule = NoiseSchedule.linear()
    start = normal(1, 3, 16, 16, seed=2, dtype=torch.float64)
    for steps, seed in ((30, 8), (50, 9)):

        def drawn(
            seed=None,
            steps=steps,
            sample=sample_ddpm,
            used=0,
            network=made_up,
            **options,
        ):
            generator = None if seed is None else seeded(seed)
            torch.manual_seed(999)  # the noise of those who give no generator
            torch.randn((used, *start.shape), generator=generator)
            return sample(
                network,
                schedule,
                x_T=start,
                steps=steps,
                generator=generator,
                keep=0,
                **options,
            )[0]

        torch.manual_seed(999)
        mine = tried(attempt, made_up, schedule, start, steps, seed)
        if isinstance(mine, tuple):
            raise Wrong(
                "You returned a tuple: `sample_ddpm` gives the samples and the frames, and the samples, its [0], are asked for."
            )
        right, mistakes, smaller = (
            drawn(seed, sample=sample_ddim, eta=1.0),
            {},
            {"variance": "beta_tilde"},
        )
        if as_numbers(mine).shape != right.shape or not torch.allclose(
            as_numbers(mine), right, atol=1e-8
        ):  # they take long, so only where needed
            mistakes = {
                "this has the larger variance, beta; the family's eta = 1 is beta-tilde.": drawn(
                    seed
                ),
                "no generator is given, so the fresh noise is another each time. They must share that, too.": drawn(
                    **smaller
                ),
                "is the number of steps handed on? Without it sample_ddpm takes 500.": drawn(
                    seed, None, **smaller
                ),
                "is the added noise left out?": drawn(seed, noise_scale=0.0, **smaller),
                "something was drawn from the generator before, so the fresh noise is another.": drawn(
                    seed, used=1, **smaller
                ),
                "that is eta = 0, without any fresh noise.": drawn(
                    seed, sample=sample_ddim
                ),
            }
            (spy, second), (our_spy, ours) = (
                noted(),
                noted(),
            )  # the second x that a network is asked about holds the first fresh noise
            drawn(seed, network=spy, sample=sample_ddim, eta=1.0)
            tried(attempt, our_spy, schedule, start, steps, seed)
            sigma = (
                posterior(500, schedule, t_prev=round(500 * (steps - 1) / steps))[2]
                ** 0.5
            )
            if (
                len(ours) == steps
                and ours[1].shape == start.shape
                and 0.85 < (ours[1] - second[1]).std() / (sigma * 2**0.5) < 1.15
            ):
                mistakes["another seed: the two must share the fresh noise."] = (
                    mine  # two independent draws lie root 2 apart
                )
        compare(
            mine,
            right,
            mistakes,
            f"with {steps} steps and seed {seed}",
            1e-8,
            rounding=1e-5,
        )


def _stored(name: str) -> torch.Tensor:
    with np.load(WEIGHTS / "results" / f"{name}.npz") as content:
        return to_model_range(content["pictures"])


@exercise("5.4", "Run on: the race shows the sprites, and after it the 64 are counted.")
def steps_that_keep_the_sprite(guess):
    options = (5, 10, 20, 50, 100)
    guess = guessed(
        guess, f"one of these numbers of steps: {', '.join(map(str, options))}", options
    )
    end = _stored("ddim_500")
    kept = {
        n: float(
            (
                ((_stored(f"ddim_{n}") - end) / 2).square().flatten(1).mean(1).sqrt()
                < 0.1
            )
            .float()
            .mean()
        )
        for n in options
    }
    enough = min(n for n in options if kept[n] > 0.8)
    if guess < enough:
        raise Wrong(
            f"In {guess} steps {kept[guess]:.0%} of the sprites are kept: many, and not yet four in five. Run on."
        )
    if guess > enough:
        raise Wrong(
            f"In {guess} steps {kept[guess]:.0%} are kept; fewer steps do. That is the point of DDIM. Run on."
        )


@exercise(
    "5.5",
    "With the answers of three strides a curve would do, with four another: iPNDM's row of numbers below is that.",
)
def average_of_the_next_stride(attempt):
    for name, line in (
        ("2 - 0.03 t", lambda t: 2 - 0.03 * t),
        ("5 + 0.01 t", lambda t: 5 + 0.01 * t),
        ("0.002 t", lambda t: 0.002 * t),
    ):
        before, now, middle, end = (
            line(torch.tensor(t, dtype=torch.float64))
            for t in (150.0, 100.0, 75.0, 50.0)
        )
        mistakes = {
            "that is the last answer itself: DDIM's guess, which looks nowhere ahead.": now,
            "that is where the line is at the end of the stride; its average is half as far.": end,
            "that is the average over the stride that lies behind.": (now + before) / 2,
            "the sign is turned: `now` minus `before` is how far it went, and it goes on.": 1.5
            * before
            - 0.5 * now,
            "the weights should add up to 1.": now + before / 2,
        }
        compare(
            tried(attempt, now, before),
            middle,
            mistakes,
            f"for answers {name}, asked at 150 and 100",
        )


@exercise("5.6", "Run on, and look by how much.")
def best_in_ten_calls(guess):
    rows = {"ddpm": "ddpm_tilde", "ddim": "ddim", "2m": "2m", "ipndm": "ipndm"}
    guess = guessed(
        guess, f"one of these words: {', '.join(map(repr, rows))}", tuple(rows)
    )
    results = json.loads((WEIGHTS / "results.json").read_text(encoding="utf8"))[
        "samplers"
    ]
    distance = {
        name: results[f"{row}_10"]["legal_distance"]["mean"]
        for name, row in rows.items()
    }
    why = {
        "ddpm": "So noise does not help here.",
        "ipndm": "It was by far the nearest where the answers were ideal. Ours are not, and it extrapolates them furthest.",
        "2m": "It comes nearer than DDIM, as it should, but DDIM's end is all that it aims at.",
        "ddim": "It does with few steps, but what it got wrong early it carries to the end.",
    }
    if distance[guess] > min(distance.values()):
        rank = sorted(distance, key=distance.get).index(guess) + 1
        raise Wrong(
            f"Here it is number {rank} of the four, {distance[guess]:.3f} from a legal sprite. {why[guess]} Run on."
        )


@exercise("5.7", "Try w = -0.5 and w = 1.5: does the length stay?")
def slerp(attempt):
    one, two = normal(2, 3, 16, 16, seed=11, dtype=torch.float64)
    across = two - (one * two).sum() / one.square().sum() * one
    one, across, theta = (
        one / one.norm(),
        across / across.norm(),
        torch.tensor(1.2, dtype=torch.float64),
    )  # length 1, at right angles
    a, b, cosine = (
        28 * one,
        28 * (theta.cos() * one + theta.sin() * across),
        theta.cos(),
    )  # noise has a length near 28
    for w in (0.3, 0.0, 0.5, 1.0):
        angle = w * theta
        mine = as_numbers(tried(attempt, a, b, w))
        if not mine.isfinite().all():
            raise Wrong(
                f"at w = {w}: your result is not finite. A cosine is at most 1: divide a . b by both lengths before `arccos`."
            )

        def sines(one, other, angle, w=w):
            return torch.sin((1 - w) * angle) * one + torch.sin(w * angle) * other

        straight = (1 - w) * a + w * b
        mistakes = {
            "that is the straight line.": straight,
            "that is the straight line, stretched to the right length; it does not turn at an even pace.": 28
            * straight
            / straight.norm(),
            "w and 1 - w are exchanged: w = 0 is a.": sines(b, a, theta)
            / torch.sin(theta),
            "is the division by sin(theta) missing?": sines(a, b, theta),
            "the division is by theta, and it should be by its sine.": sines(
                a, b, theta
            )
            / theta,
            "that is the cosine where theta belongs: take its arccos.": sines(
                a, b, cosine
            )
            / torch.sin(cosine),
        }
        turned = 28 * (angle.cos() * one + angle.sin() * across)
        compare(
            mine,
            turned,
            mistakes,
            f"at w = {w}",
            1e-5,
            lambda r: (r.norm(), "your result has the length"),
        )


@exercise(
    "5.8", "Now compare with section 9's `invert`: it is this step, walked upwards."
)
def euler_step(attempt):
    schedule = NoiseSchedule.linear()
    x, noise = normal(2, 4, 3, 16, 16, seed=14, dtype=torch.float64)
    root, std, rho = (
        schedule.ab.sqrt(),
        (1 - schedule.ab).sqrt(),
        (1 / schedule.ab - 1).sqrt(),
    )
    a_root, a_rho = schedule.a.sqrt(), (1 / schedule.a - 1).sqrt()
    for t, s in ((300, 100), (25, 0), (100, 300)):
        right = perturb_input(predict_x0(x, t, noise, schedule), s, noise, schedule)
        mistakes = {
            "the sign is turned: the clock runs from rho_t to rho_s, so it is rho_s - rho_t.": root[
                s
            ]
            * (x / root[t] - (rho[s] - rho[t]) * noise),
            "this is still x-bar; multiply by the root of alpha-bar_s to get x_s.": x
            / root[t]
            + (rho[s] - rho[t]) * noise,
            "x is not yet x-bar: divide it by the root of alpha-bar_t first.": root[s]
            * (x + (rho[s] - rho[t]) * noise),
            "x-bar is turned back with the root of alpha-bar_t; you are at s now.": root[
                t
            ]
            * (x / root[t] + (rho[s] - rho[t]) * noise),
            "is the root of rho missing? rho is a standard deviation.": root[s]
            * (x / root[t] + (rho[s] ** 2 - rho[t] ** 2) * noise),
            "rho is divided by the root of alpha-bar: is that missing?": root[s]
            * (x / root[t] + (std[s] - std[t]) * noise),
            "the clock is rho, not t.": root[s] * (x / root[t] + (s - t) * noise),
            "alpha stands where alpha-bar belongs.": a_root[s]
            * (x / a_root[t] + (a_rho[s] - a_rho[t]) * noise),
        }
        compare(
            tried(attempt, x, t, s, noise, schedule),
            right,
            mistakes,
            f"from t = {t} to {s}",
        )
