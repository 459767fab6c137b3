"""The judges of lesson 5's exercises (they spoil them)."""

import torch

from diffusion_utilities import (
    WEIGHTS,
    NoiseSchedule,
    denoise_ddim,
    load_array,
    perturb_input,
    posterior,
    predict_x0,
    to_model_range,
)
from exercises import (
    Wrong,
    as_numbers,
    compare,
    exercise,
    guessed,
    normal,
    told,
    tried,
)

# ---- 5.1 -----------------------------------------------------------------------------


def family(x, t, s, noise, z, schedule):
    """A function that makes one step of the family from its sigma.

    Its other arguments replace one part of the formula by a mistake.
    """
    ab_s = schedule.ab[s].item()
    right_x0 = predict_x0(x, t, noise, schedule)

    def member(sigma, left=None, picture=ab_s**0.5, x0=right_x0):
        if left is None:
            left = max(1 - ab_s - sigma**2, 0.0) ** 0.5
        return picture * x0 + left * noise + sigma * z

    return member


def picture_mistakes(x, t, s, noise, schedule, member, sigma):
    """Mistakes in the implied picture, and other formulas than this one."""
    ab = schedule.ab[t].item()
    ab_s = schedule.ab[s].item()
    a = schedule.a[t].item()
    a_s = schedule.a[s].item()
    by_alpha = (x - (1 - a) ** 0.5 * noise) / a**0.5
    yield (
        "alpha stands where alpha-bar belongs: use schedule.ab.",
        a_s**0.5 * by_alpha + (1 - a_s) ** 0.5 * noise,
    )
    yield (
        "is the square root on the first part missing? "
        "The picture is scaled by the root of alpha-bar_s.",
        member(sigma, picture=ab_s),
    )
    yield (
        "the picture is not scaled: it needs the root of alpha-bar_s.",
        member(sigma, picture=1),
    )
    yield (
        "the implied picture is not divided by the root of alpha-bar_t.",
        member(sigma, x0=x - (1 - ab) ** 0.5 * noise),
    )
    yield (
        "the implied picture lacks a root, that of 1 - alpha-bar_t.",
        member(sigma, x0=(x - (1 - ab) * noise) / ab**0.5),
    )
    x0 = predict_x0(x, t, noise, schedule)
    yield (
        "the noise is left out: this is the implied picture alone, scaled.",
        ab_s**0.5 * x0,
    )
    c0, ct, _ = posterior(t, schedule, t_prev=s)
    yield (
        "that is DDPM's mean, with the posterior's coefficients.",
        c0 * x0 + ct * x,
    )


def second_part_mistakes(t, s, schedule, member, sigma):
    """Mistakes in the factor of the predicted noise."""
    ab = schedule.ab[t].item()
    ab_s = schedule.ab[s].item()
    yield (
        "is the square root missing before the noise? "
        "It is the root of 1 - alpha-bar_s - sigma^2.",
        member(sigma, left=1 - ab_s - sigma**2),
    )
    yield (
        "the second part has alpha-bar_t; it leads to s, so it needs alpha-bar_s.",
        member(sigma, left=(1 - ab - sigma**2) ** 0.5),
    )
    if not sigma:
        return
    yield (
        "sigma^2 is not subtracted under the root, so the result holds too much noise.",
        member(sigma, left=(1 - ab_s) ** 0.5),
    )
    yield (
        "sigma is subtracted under the root, and it should be sigma^2.",
        member(sigma, left=max(1 - ab_s - sigma, 0.0) ** 0.5),
    )


def sigma_mistakes(t, s, z, schedule, member, eta):
    """Mistakes in the fresh noise, for an eta above 0."""
    ab = schedule.ab[t].item()
    ab_s = schedule.ab[s].item()
    tilde = posterior(t, schedule, t_prev=s)[2]
    sigma = eta * tilde**0.5
    yield (
        "sigma is a standard deviation: the root of beta-tilde, times eta.",
        member(eta * tilde),
    )
    yield (
        "eta multiplies sigma, outside the root of beta-tilde.",
        member((eta * tilde) ** 0.5),
    )
    yield "is z added? Its factor is sigma.", member(sigma) - sigma * z
    yield (
        "is eta used? sigma is eta times the root of beta-tilde.",
        member(tilde**0.5),
    )
    yield "sigma is always 0 here: is eta used?", member(0.0)
    yield (
        "z is added whole: it must be multiplied by sigma.",
        member(sigma) - sigma * z + z,
    )
    single_tilde = posterior(t, schedule)[2]
    yield (
        "that is the beta-tilde of the single step to t - 1: give posterior your s.",
        member(eta * single_tilde**0.5),
    )
    wide = eta * (1 - ab / ab_s) ** 0.5  # DDPM's larger sigma
    if 1 - ab_s > wide**2:
        yield (
            "that is the stride's beta; "
            "sigma is made from beta-tilde, which is smaller.",
            member(wide),
        )


@exercise("5.1", "Set s = 0 in the formula: which of the three parts is left?")
def ddim_step(attempt):
    schedule = NoiseSchedule.linear()
    x, noise, z = normal(3, 4, 3, 16, 16, seed=1, dtype=torch.float64)
    cases = (
        (300, 100, 0.0),
        (300, 100, 0.5),
        (300, 100, 1.0),
        (60, 20, 1.0),
        (25, 0, 0.0),
    )
    for t, s, eta in cases:
        member = family(x, t, s, noise, z, schedule)
        sigma = eta * posterior(t, schedule, t_prev=s)[2] ** 0.5
        mistakes = [
            *picture_mistakes(x, t, s, noise, schedule, member, sigma),
            *second_part_mistakes(t, s, schedule, member, sigma),
        ]
        if eta:
            mistakes += sigma_mistakes(t, s, z, schedule, member, eta)
        mine = tried(attempt, x, t, s, noise, schedule, eta, z)
        right = member(sigma)
        compare(mine, right, mistakes, where=f"from t = {t} to {s} with eta = {eta}")
    mine = as_numbers(tried(attempt, x, 300, 100, noise, schedule))
    if not torch.allclose(mine, denoise_ddim(x, 300, 100, noise, schedule), atol=1e-4):
        raise Wrong(
            "without eta and z your step should be DDIM's: "
            "both are 0 unless the caller gives them."
        )


# ---- 5.2 -----------------------------------------------------------------------------


def check_numbers(steps, n, T):
    """The steps must be a list of whole numbers, none of them negative."""
    if steps.ndim != 1 or not len(steps):
        raise Wrong(
            f"you returned something of shape {tuple(steps.shape)}, "
            f"expected a list of {n + 1} numbers."
        )
    lowest = int(steps.min())
    if steps.min() < 0:
        raise Wrong(
            f"a step is {lowest}. A negative index is no error: table[{lowest}] is "
            f"table[{lowest + T + 1}], and the noise is back."
        )
    fractions = steps[steps != steps.round()]
    if len(fractions):
        raise Wrong(
            f"{fractions[0].item():.4g} is not a whole number, "
            "and the tables have whole indices only."
        )


def check_ends(steps, n, T):
    """The steps must be n strides from T to 0."""
    if len(steps) != n + 1:
        ends_early = len(steps) == n and steps[-1] > 0
        cause = "was the stride rounded first?"
        if ends_early:
            cause = "the 0 at the end is missing."
        raise Wrong(f"these are {len(steps) - 1} strides, expected {n}: {cause}")
    first = int(steps[0])
    last = int(steps[-1])
    if first == 0:
        raise Wrong(
            "the list begins with 0; sampling goes down, so T stands first and 0 last."
        )
    if (first, last) != (T, 0):
        raise Wrong(f"the list runs from {first} to {last}, expected from {T} to 0.")


def check_strides(steps):
    """The steps must fall, by strides that are as equal as whole numbers can be."""
    strides = steps[:-1] - steps[1:]
    shortest = int(strides.min())
    longest = int(strides.max())
    if shortest < 1:
        raise Wrong(
            f"two neighbours differ by {shortest}: "
            "each step must be smaller than the one before."
        )
    if longest - shortest > 1:
        raise Wrong(
            f"strides of {shortest} and of {longest}, which may differ by 1 at most. "
            "Spread exact fractions first, and round last."
        )


@exercise(
    "5.2", "A public loop takes 32 steps if it is asked for 30: see the block below."
)
def steps_of_any_number(attempt):
    few = [(500, n) for n in (20, 30, 7, 1, 499, 500)]
    every = [(500, n) for n in range(1, 501)]
    others = [(60, n) for n in range(1, 61)]
    for T, n in few + every + others:
        steps = as_numbers(tried(attempt, n, T))
        with told(f"for n = {n}, T = {T}"):
            check_numbers(steps, n, T)
            check_ends(steps, n, T)
            check_strides(steps)


# ---- 5.3 -----------------------------------------------------------------------------

FEW_STEPS = (5, 10, 20, 50, 100)


def _stored(name: str) -> torch.Tensor:
    path = WEIGHTS / "results" / f"{name}.npz"
    return to_model_range(load_array(path, "pictures"))


def share_kept(n, end):
    """The share of sprites that n steps of DDIM draw as 500 steps do."""
    difference = (_stored(f"ddim_{n}") - end) / 2
    rms = difference.square().flatten(1).mean(1).sqrt()
    return float((rms < 0.1).float().mean())


@exercise("5.3", "In 20 steps 55 of the 64 sprites match, in 10 steps 47. Run on.")
def steps_that_keep_the_sprite(guess):
    numbers = ", ".join(map(str, FEW_STEPS))
    guess = guessed(guess, f"one of these numbers of steps: {numbers}", FEW_STEPS)
    end = _stored("ddim_500")
    kept = {n: share_kept(n, end) for n in FEW_STEPS}
    enough = min(n for n in FEW_STEPS if kept[n] > 0.8)
    if guess < enough:
        raise Wrong(
            f"In {guess} steps {kept[guess]:.0%} of the sprites are kept: "
            "many, and not yet four in five. Run on."
        )
    if guess > enough:
        raise Wrong(
            f"In {guess} steps {kept[guess]:.0%} are kept; fewer steps do. "
            "That is the point of DDIM. Run on."
        )


# ---- 5.4 -----------------------------------------------------------------------------


def slerp_mistakes(a, b, w, theta):
    def sines(one, other, angle):
        return torch.sin((1 - w) * angle) * one + torch.sin(w * angle) * other

    lengths = a.norm() * b.norm()
    by_matrices = torch.arccos(a @ b / lengths)
    yield (
        "`@` multiplies matrices, channel by channel; "
        "here multiply the entries (`a * b`) and sum them all.",
        sines(a, b, by_matrices) / torch.sin(by_matrices),
    )
    by_entries = torch.arccos(a * b / lengths)
    yield (
        "is a sum missing? theta is one number, made from the sum of `a * b`.",
        sines(a, b, by_entries) / torch.sin(by_entries),
    )
    straight = (1 - w) * a + w * b
    yield "that is the straight line.", straight
    yield (
        "that is the straight line, stretched to the right length; "
        "it does not turn at an even pace.",
        28 * straight / straight.norm(),
    )
    yield (
        "w and 1 - w are exchanged: w = 0 is a.",
        sines(b, a, theta) / torch.sin(theta),
    )
    yield "is the division by sin(theta) missing?", sines(a, b, theta)
    yield (
        "the division is by theta, and it should be by its sine.",
        sines(a, b, theta) / theta,
    )
    cosine = theta.cos()
    yield (
        "that is the cosine where theta belongs: take its arccos.",
        sines(a, b, cosine) / torch.sin(cosine),
    )


def shown_length(result):
    return result.norm(), "your result has the length"


@exercise("5.4", "Try w = -0.5 and w = 1.5: does the length stay?")
def slerp(attempt):
    one, two = normal(2, 3, 16, 16, seed=11, dtype=torch.float64)
    across = two - (one * two).sum() / one.square().sum() * one
    one = 28 * one / one.norm()  # noise has a length near 28
    across = 28 * across / across.norm()  # at a right angle to `one`
    theta = torch.tensor(1.2, dtype=torch.float64)

    def turned(angle):
        return angle.cos() * one + angle.sin() * across

    a = one
    b = turned(theta)
    for w in (0.3, 0.0, 0.5, 1.0):
        mine = as_numbers(tried(attempt, a, b, w))
        if not mine.isfinite().all():
            raise Wrong(
                f"at w = {w}: your result is not finite. A cosine is at most 1: "
                "divide a . b by both lengths before `arccos`."
            )
        compare(
            mine,
            turned(w * theta),
            slerp_mistakes(a, b, w, theta),
            where=f"at w = {w}",
            number=shown_length,
        )


# ---- 5.5 -----------------------------------------------------------------------------


def euler_mistakes(x, t, s, noise, schedule):
    root = schedule.ab.sqrt()
    std = (1 - schedule.ab).sqrt()
    rho = (1 / schedule.ab - 1).sqrt()
    y = x / root[t]
    move = (rho[s] - rho[t]) * noise
    yield (
        "the sign is reversed: "
        "the step leads from rho_t to rho_s, so its length is rho_s - rho_t.",
        root[s] * (y - move),
    )
    yield (
        "this is still y_s; multiply by the root of alpha-bar_s to get x_s.",
        y + move,
    )
    yield (
        "x is not yet y_t: divide it by the root of alpha-bar_t first.",
        root[s] * (x + move),
    )
    yield (
        "y_s is turned back with the root of alpha-bar_t; you are at s now.",
        root[t] * (y + move),
    )
    yield (
        "is the root of rho missing? rho is a standard deviation.",
        root[s] * (y + (rho[s] ** 2 - rho[t] ** 2) * noise),
    )
    yield (
        "rho is divided by the root of alpha-bar: is that missing?",
        root[s] * (y + (std[s] - std[t]) * noise),
    )
    yield (
        "the slope is multiplied by rho_s - rho_t, not by s - t.",
        root[s] * (y + (s - t) * noise),
    )
    root = schedule.a.sqrt()
    rho = (1 / schedule.a - 1).sqrt()
    yield (
        "alpha stands where alpha-bar belongs.",
        root[s] * (x / root[t] + (rho[s] - rho[t]) * noise),
    )


@exercise("5.5", "Now compare with `invert` below: it is this step, walked upwards.")
def euler_step(attempt):
    schedule = NoiseSchedule.linear()
    x, noise = normal(2, 4, 3, 16, 16, seed=14, dtype=torch.float64)
    for t, s in ((300, 100), (25, 0), (100, 300)):
        x0 = predict_x0(x, t, noise, schedule)
        mine = tried(attempt, x, t, s, noise, schedule)
        right = perturb_input(x0, s, noise, schedule)
        compare(
            mine,
            right,
            euler_mistakes(x, t, s, noise, schedule),
            where=f"from t = {t} to {s}",
        )
