"""The judges of lesson 2's exercises (they spoil them)."""

import torch

from diffusion_utilities import NoiseSchedule, perturb_input, posterior
from exercises import (
    Wrong,
    as_numbers,
    at_steps,
    compare,
    described,
    exercise,
    nearest,
    normal,
    shown_mean,
    shown_std,
    tried,
    with_a_hint,
)

# ---- 2.1 -----------------------------------------------------------------------------


def alpha_bar_mistakes(mine, schedule):
    ab = schedule.ab
    one = torch.ones(1)
    yield (
        "these are sums of alphas or betas, and the table is a product.",
        schedule.a.cumsum(0),
    )
    betas = schedule.b[1:].cumprod(0)
    with_a_one = torch.cat((one, betas))
    zeros = 0 * schedule.b
    yield (
        "this is the product of the betas, and it needs the alphas, 1 - beta.",
        nearest(mine, betas, with_a_one, zeros),
    )
    whole = ab[-1].expand(60)
    with_a_one = torch.cat((one, whole))
    with_another = torch.cat((whole[:1], whole))
    yield (
        "the product runs to T in every entry; the one at index t stops at t.",
        nearest(mine, whole, with_a_one, with_another),
    )
    beta_0 = 1e-3  # a published fault: it is a factor of every later product
    leaky = ab * (1 - beta_0)
    leaky[0] = 1
    yield (
        "a factor too many: beta_0 has no step, "
        "so index 0 is 1 and the product starts at t = 1.",
        leaky,
    )
    yield (
        "each entry misses its own last factor: the product runs to t, t included.",
        torch.cat((one, ab[:-1])),
    )
    yield "that is the root of alpha-bar; the table itself has none.", ab.sqrt()
    yield "index 0 is missing: put the 1 for t = 0 in front.", ab[1:]
    yield (
        "this is the table alpha; alpha-bar multiplies all of them up to t.",
        schedule.a,
    )


@exercise("2.1", "Now divide each entry by the one before it: which table comes back?")
def alpha_bar(attempt):
    schedule = NoiseSchedule.linear(60, 1e-3, 0.05)
    mine = as_numbers(tried(attempt, schedule.b))
    compare(mine, schedule.ab, alpha_bar_mistakes(mine, schedule))


# ---- 2.2 -----------------------------------------------------------------------------


def jump_noise_mistakes(ab, b, noise):
    yield "is the square root on the noise missing?", (1 - ab) * noise
    yield (
        "this is the root of alpha-bar on the noise too; "
        "its variance must be what the picture gave up, 1 - alpha-bar.",
        ab.sqrt() * noise,
    )
    yield (
        "this is 1 minus the root, and it should be the root of 1 minus alpha-bar.",
        (1 - ab.sqrt()) * noise,
    )
    yield (
        "that is the noise of one step, beta_t; the jump takes 1 - alpha-bar.",
        b.sqrt() * noise,
    )
    yield "is the noise added at all?", 0 * noise


def jump_picture_mistakes(ab, ones):
    yield "is the square root on the picture missing?", ab * ones
    yield "the picture is not shrunk: it needs the root of alpha-bar.", ones


@exercise(
    "2.2",
    "Set `noise` to zero and look at x_500: what is left is the leak of section 4.",
)
def jump(attempt):
    schedule = NoiseSchedule.linear()
    x = torch.zeros(3, 3, 16, 16)
    ones = torch.ones_like(x)
    noise = normal(3, 3, 16, 16, seed=0)
    # one step for all comes first: there a number can say what is wrong
    for steps in ((50, 50, 50), (200, 200, 200), (1, 250, 500)):
        t = torch.tensor(steps)
        where = at_steps(steps)
        ab = schedule.ab[t].float().view(-1, 1, 1, 1)
        b = schedule.b[t].float().view(-1, 1, 1, 1)
        mine = with_a_hint(
            "size of tensor",
            "`schedule.ab[t]` is (B,): give it three more axes.",
            attempt,
            x,
            t,
            noise,
            schedule,
        )
        compare(
            mine,
            perturb_input(x, t, noise, schedule),
            jump_noise_mistakes(ab, b, noise),
            where,
            tolerance=1e-4,
            number=shown_std("your noise has std"),
        )
        mine = tried(attempt, ones, t, 0 * noise, schedule)
        right = ab.sqrt() * ones
        compare(
            mine,
            right,
            jump_picture_mistakes(ab, ones),
            where,
            tolerance=1e-4,
            number=shown_mean("your picture of ones became"),
        )


# ---- 2.3 -----------------------------------------------------------------------------


def by_formula(b, a, ab, ab_before):
    """c_0, c_t and beta-tilde."""
    c_0 = ab_before**0.5 * b / (1 - ab)
    c_t = a**0.5 * (1 - ab_before) / (1 - ab)
    beta_tilde = b * (1 - ab_before) / (1 - ab)
    return c_0, c_t, beta_tilde


def mistakes_in_all(b, a, ab, ab_before):
    """Mistakes that show in more than one of the three numbers."""
    c_0, c_t, beta_tilde = by_formula(b, a, ab, ab_before)
    yield (
        "alpha-bar_t stands where alpha-bar_{t-1} belongs, in all three.",
        by_formula(b, a, ab, ab),
    )
    yield "are the roots missing?", (ab_before**0.5 * c_0, a**0.5 * c_t, beta_tilde)
    yield "c_0 and c_t are swapped.", (c_t, c_0, beta_tilde)
    single = [entry.float() for entry in (b, a, ab, ab_before)]
    yield (
        "right to single precision only: use float64.",
        by_formula(*map(float, single)),
    )


def c_0_mistakes(b, a, ab, ab_before):
    yield (
        "c_0 takes the root of alpha-bar_{t-1}, not of alpha-bar_t.",
        ab**0.5 * b / (1 - ab),
    )
    yield "is the root missing?", ab_before * b / (1 - ab)


def c_t_mistakes(b, a, ab, ab_before):
    yield (
        "1 - alpha-bar_{t-1} stands on top: you have alpha-bar_t there.",
        a**0.5,
    )
    yield (
        "c_t takes the root of alpha_t, and you have that of alpha-bar_t.",
        ab**0.5 * (1 - ab_before) / (1 - ab),
    )
    yield "is the root missing?", a * (1 - ab_before) / (1 - ab)


def beta_tilde_mistakes(b, a, ab, ab_before):
    right = by_formula(b, a, ab, ab_before)[2]
    yield (
        "the third is the standard deviation; beta-tilde is a variance.",
        right**0.5,
    )
    yield (
        "the third is beta_t; beta-tilde is smaller by "
        "(1 - alpha-bar_{t-1}) / (1 - alpha-bar_t).",
        b,
    )
    yield (
        "the fraction is upside down: 1 - alpha-bar_{t-1} stands on top.",
        b * (1 - ab) / (1 - ab_before),
    )


OF_EACH = {
    "c_0": c_0_mistakes,
    "c_t": c_t_mistakes,
    "beta-tilde": beta_tilde_mistakes,
}


@exercise("2.3", "Sum c_0 and c_t at t = 250: why is it not 1?")
def posterior_numbers(attempt):
    schedule = NoiseSchedule.linear()
    for t in (50, 500, 2, 1):
        mine = as_numbers(tried(attempt, t, schedule))
        if mine.shape != (3,):
            raise Wrong(
                f"at t = {t}: your result has shape {tuple(mine.shape)}, "
                "expected (3,): c_0, c_t and beta-tilde."
            )
        tables = schedule.b[t], schedule.a[t], schedule.ab[t], schedule.ab[t - 1]
        causes = []
        for sentence, wrong in mistakes_in_all(*tables):
            if torch.allclose(mine, as_numbers(wrong), rtol=0, atol=1e-6):
                causes.append(sentence)
        right = posterior(t, schedule)
        for i, (name, mistakes_in) in enumerate(OF_EACH.items()):
            compare(
                mine[i],
                right[i],
                {causes[0]: mine[i]} if causes else mistakes_in(*tables),
                where=f"at t = {t}, {name}",
                tolerance=1e-6,
                rounding=1e-3,
            )


# ---- 2.4 -----------------------------------------------------------------------------


def velocity_mistakes(x_t, v, ab):
    """What the usual mistakes return: pairs of clean picture and noise."""
    signal = ab.sqrt()
    spread = (1 - ab).sqrt()
    x_0 = signal * x_t - spread * v
    noise = spread * x_t + signal * v
    as_noise = (x_t - spread * v) / signal
    yield "the two are swapped: the clean picture comes first.", (noise, x_0)
    yield (
        "a sign is wrong: the clean picture subtracts the velocity's part, "
        "the noise adds it.",
        (signal * x_t + spread * v, spread * x_t - signal * v),
    )
    yield "a sign is wrong in the clean picture.", (signal * x_t + spread * v, noise)
    yield "a sign is wrong in the noise.", (x_0, spread * x_t - signal * v)
    yield (
        "a sign is wrong in the noise.",
        (x_0, signal * v - spread * x_t),
    )
    yield (
        "the two factors are swapped in both: "
        "in the clean picture, x_t has the root of alpha-bar.",
        (spread * x_t - signal * v, signal * x_t + spread * v),
    )
    yield "are the roots missing?", (ab * x_t - (1 - ab) * v, (1 - ab) * x_t + ab * v)
    yield (
        "is the square root on 1 - alpha-bar missing?",
        (signal * x_t - (1 - ab) * v, (1 - ab) * x_t + signal * v),
    )
    yield "this takes the velocity for the noise.", (as_noise, v)
    yield (
        "the clean picture takes the velocity for the noise.",
        (as_noise, noise),
    )
    yield "the second result is the velocity itself, not the noise.", (x_0, v)


@exercise(
    "2.4",
    "Give it t = 500 and then t = 1: what does a velocity network predict at each end?",
)
def from_velocity(attempt):
    schedule = NoiseSchedule.linear()
    x_0 = normal(3, 3, 16, 16, seed=0)
    noise = normal(3, 3, 16, 16, seed=1)
    # one step for all comes first: a mistake shows the same everywhere there
    for steps in ((200, 200, 200), (1, 250, 500)):
        t = torch.tensor(steps)
        ab = schedule.ab[t].float().view(-1, 1, 1, 1)
        x_t = perturb_input(x_0, t, noise, schedule)
        v = ab.sqrt() * noise - (1 - ab).sqrt() * x_0
        mine = with_a_hint(
            "size of tensor",
            "`schedule.ab[t]` is (B,): give it three more axes.",
            attempt,
            x_t,
            t,
            v,
            schedule,
        )
        if not isinstance(mine, (tuple, list)) or len(mine) != 2:
            raise Wrong(f"You returned {described(mine)}; expected (x_0, noise).")
        mistakes = velocity_mistakes(x_t, v, ab)
        compare(mine, (x_0, noise), mistakes, where=at_steps(steps), tolerance=1e-4)
