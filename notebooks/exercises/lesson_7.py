"""The judges of lesson 7's exercises (they spoil them)."""

import json

import torch

from diffusion_utilities import WEIGHTS, NoiseSchedule, perturb_input, straight_steps
from exercises import (
    Wrong,
    as_numbers,
    compare,
    described,
    exercise,
    guessed,
    normal,
    told,
    tried,
)

# ---- 7.1 -----------------------------------------------------------------------------


def paste_mistakes(x, real, mask, s, noise, schedule):
    ab = schedule.ab[s].item()
    known = perturb_input(real, s, noise, schedule)
    yield (
        "the mask is exchanged: it is 1 where we draw, and keeps x there.",
        (1 - mask) * x + mask * known,
    )
    yield (
        "the real sprite is pasted without noise; at step s it must be as noisy as x.",
        mask * x + (1 - mask) * real,
    )
    yield (
        "the known pixels are added to x: x must count only in the mask.",
        (x + (1 - mask) * known),
    )
    yield (
        "the known pixels count everywhere: multiply them by 1 - m.",
        (mask * x + known),
    )
    yield "that is the real sprite alone, noised; where is x?", known
    yield (
        "is the square root before the noise missing in the bracket?",
        mask * x + (1 - mask) * (ab**0.5 * real + (1 - ab) * noise),
    )
    yield (
        "are both square roots missing in the bracket?",
        mask * x + (1 - mask) * (ab * real + (1 - ab) * noise),
    )
    unscaled = real + (1 - ab) ** 0.5 * noise
    yield (
        "the real sprite is not scaled by the root of alpha-bar_s.",
        mask * x + (1 - mask) * unscaled,
    )


@exercise("7.1", "What would happen if you pasted before the step, and not after it?")
def paste(attempt):
    schedule = NoiseSchedule.linear()
    x, noise, real = normal(3, 4, 3, 16, 16, seed=1)
    real = real.clamp(-1, 1)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:9, 6:] = 1
    for s in (241, 63, 0):
        mine = tried(attempt, x, real, mask, s, noise, schedule)
        known = perturb_input(real, s, noise, schedule)
        right = mask * x + (1 - mask) * known
        mistakes = paste_mistakes(x, real, mask, s, noise, schedule)
        compare(mine, right, mistakes, where=f"at s = {s}")


# ---- 7.2 -----------------------------------------------------------------------------


def renoise_mistakes(x, s, t, noise, schedule):
    ab_t = schedule.ab[t].item()
    ab_s = schedule.ab[s].item()
    kept = ab_t / ab_s
    yield (
        "that noises x as if it were clean: it holds the noise of step s already, so "
        "use the quotient of both alpha-bars.",
        perturb_input(x, t, noise, schedule),
    )
    yield "are the square roots missing?", kept * x + (1 - kept) * noise
    yield "is the square root missing before x?", kept * x + (1 - kept) ** 0.5 * noise
    yield (
        "is the square root missing before the noise?",
        kept**0.5 * x + (1 - kept) * noise,
    )
    yield (
        "that is the single step's alpha, and s may be more than one step below t.",
        schedule.a[t].item() ** 0.5 * x + (1 - schedule.a[t].item()) ** 0.5 * noise,
    )
    yield (
        "noise is added, but x is not scaled down: its variance grows.",
        x + (1 - kept) ** 0.5 * noise,
    )
    difference = ab_s - ab_t
    yield (
        "alpha-bars multiply along the way, so divide them; do not subtract.",
        (1 - difference) ** 0.5 * x + difference**0.5 * noise,
    )


@exercise("7.2", "Check it: noise of variance 1 - alpha-bar_s becomes 1 - alpha-bar_t.")
def renoise(attempt):
    schedule = NoiseSchedule.linear()
    x, noise = normal(2, 4, 3, 16, 16, seed=2)
    for s, t in ((241, 269), (20, 444), (0, 8)):
        kept = schedule.ab[t].item() / schedule.ab[s].item()
        mine = tried(attempt, x, s, t, noise, schedule)
        right = kept**0.5 * x + (1 - kept) ** 0.5 * noise
        mistakes = renoise_mistakes(x, s, t, noise, schedule)
        compare(mine, right, mistakes, where=f"from s = {s} to t = {t}")


# ---- 7.3 -----------------------------------------------------------------------------


def check_steps(left, walked, steps):
    """The steps that are left must be the last `walked` strides."""
    right = steps[-1 - walked :]
    mine = as_numbers(left)
    if mine.ndim != 1:
        raise Wrong(f"the steps left are {described(left)}; expected a list of steps.")
    mine = mine.tolist()
    if mine == right:
        return
    if mine == steps[: walked + 1] and walked < len(steps) - 1:
        raise Wrong(
            "these are the first strides, from pure noise on; a variation walks the "
            "last ones, which end with 0."
        )
    if len(mine) == len(right) - 1 and mine == steps[-walked:]:
        raise Wrong(
            f"these are {walked - 1} strides, expected {walked}: k strides have k + 1 "
            "steps."
        )
    if not mine or mine[-1] != 0:
        raise Wrong("the steps left must end with 0.")
    if len(mine) == len(steps):
        raise Wrong("all steps are left; a low strength walks only the last of them.")
    raise Wrong(
        f"the steps left begin with {mine[0]:g}, expected {right[0]}: walk "
        f"{walked} of {len(steps) - 1} strides."
    )


def start_mistakes(real, first, strength, noise, schedule):
    yield "the picture has no noise yet.", real
    yield "that is noise alone: the picture must still shine through.", noise
    yield (
        "the picture is noised up to T, and should be up to the first step left.",
        perturb_input(real, schedule.T, noise, schedule),
    )
    yield (
        "the noise is that of step strength * T; the steps are not even, so take the "
        "first step left.",
        perturb_input(real, round(strength * schedule.T), noise, schedule),
    )
    ab = schedule.ab[first].item()
    yield (
        "the picture is not scaled by the root of alpha-bar.",
        real + (1 - ab) ** 0.5 * noise,
    )
    yield "strength is no share of noise.", real + strength * noise


@exercise(
    "7.3", "At strength 1 a little of the picture is left. Lesson 2 shows how much."
)
def start(attempt):
    schedule = NoiseSchedule.linear()
    steps = straight_steps(schedule, 20)
    real, noise = normal(2, 4, 3, 16, 16, seed=3)
    real = real.clamp(-1, 1)
    for strength in (0.5, 0.75, 0.25, 1.0, 0.0):
        result = tried(attempt, real, strength, noise, steps, schedule)
        with told(f"at strength {strength}"):
            if not isinstance(result, (tuple, list)) or len(result) != 2:
                raise Wrong(
                    f"you returned {described(result)}; expected two things, the "
                    "noisy picture and the list of steps left."
                )
            x, left = result
            walked = round(strength * 20)
            check_steps(left, walked, steps)
            first = steps[-1 - walked]
            right = perturb_input(real, first, noise, schedule)
            compare(x, right, start_mistakes(real, first, strength, noise, schedule))


# ---- 7.4 -----------------------------------------------------------------------------


def mask_mistakes(old, new, threshold):
    def cut(apart):
        return (apart / apart.max() > threshold).float()

    difference = new - old
    apart = difference.abs().mean((0, 1), keepdim=True)
    signed = difference.mean((0, 1), keepdim=True)
    yield (
        "take the absolute value before the mean: opposite signs cancel.",
        cut(signed.abs()),
    )
    yield "is the absolute value missing?", cut(signed)
    yield (
        "divide by the largest value first; the threshold is a share of it.",
        (apart > threshold).float(),
    )
    yield "the mask is exchanged: 1 where the guesses differ.", 1 - cut(apart)
    yield (
        "that is the difference itself; compare it with the threshold.",
        apart / apart.max(),
    )
    yield "the shape should be (1, 1, 16, 16): keepdim=True.", cut(apart)[0, 0]
    each = difference.abs().mean(1, keepdim=True)
    yield "that is a mask for each noise: average over the noises, too.", cut(each)
    squared = difference.square().mean((0, 1), keepdim=True)
    yield "that is the squared difference; take the absolute one.", cut(squared)


@exercise("7.4", "Apply it to the two guesses above: is the crown inside?")
def mask(attempt):
    old, new = normal(2, 8, 3, 16, 16, seed=4) / 4
    where = torch.zeros(16, 16)
    where[2:7, 3:12] = 1
    where[9:11, 5:8] = 0.4
    sign = torch.where(torch.arange(8) % 2 == 0, 1.0, -1.0).view(8, 1, 1, 1)
    new = old + where * (sign * 0.4 + 0.2 * new)
    for threshold in (0.3, 0.6):
        apart = (new - old).abs().mean((0, 1), keepdim=True)
        right = (apart / apart.max() > threshold).float()
        mine = tried(attempt, old, new, threshold)
        mistakes = mask_mistakes(old, new, threshold)
        compare(mine, right, mistakes, where=f"with threshold {threshold}")
    if tuple(as_numbers(mine).shape) != (1, 1, 16, 16):
        raise Wrong("the shape should be (1, 1, 16, 16).")


# ---- 7.5 -----------------------------------------------------------------------------


class Listening:
    """A "network" that answers by x, time and context, and remembers the times."""

    def __init__(self):
        self.times = []

    def __call__(self, x, time, context=None):
        time = torch.as_tensor(time, dtype=torch.float32).reshape(-1)
        self.times.append(float(time[0]))
        worth = torch.zeros(len(x))
        if context is not None:
            worth = context @ torch.linspace(-1, 2, context.shape[1])
        return torch.sin(2 * x) + time.view(-1, 1, 1, 1) * worth.view(-1, 1, 1, 1)


def change_mistakes(model, real, edited, t, s, noise, old, new, schedule):
    T = schedule.T
    rho = (1 / schedule.ab - 1).sqrt().float()
    std = (1 - schedule.ab).sqrt().float()
    move = float(rho[s] - rho[t])
    time = torch.tensor(t / T)

    def asked(picture, context, noise=noise):
        return model(perturb_input(picture, t, noise, schedule), time, context)

    right = asked(edited, new) - asked(real, old)
    yield "the sign is reversed: it is rho_s - rho_t.", edited - move * right
    yield (
        "the contexts are exchanged: the edited picture is asked about under new.",
        edited + move * (asked(edited, old) - asked(real, new)),
    )
    yield (
        "both predictions are about the edited picture; one is about the real one.",
        edited + move * (asked(edited, new) - asked(edited, old)),
    )
    yield (
        "both predictions are about the real picture; one is about the edited one.",
        edited + move * (asked(real, new) - asked(real, old)),
    )
    yield (
        "you start from the real picture: what came before is lost.",
        (real + move * right),
    )
    yield "that is the change alone: add it to the edited picture.", move * right
    yield (
        "the second prediction is missing: subtract the one for the real picture.",
        edited + move * asked(edited, new),
    )
    yield (
        "the pictures are given to the network without noise.",
        edited + move * (model(edited, time, new) - model(real, time, old)),
    )
    yield (
        "rho is divided by the root of alpha-bar: is that missing?",
        edited + float(std[s] - std[t]) * right,
    )
    squared = float(rho[s] ** 2 - rho[t] ** 2)
    yield "is the root of rho missing?", edited + squared * right
    steps = torch.tensor(float(t))
    whole = model(perturb_input(edited, t, noise, schedule), steps, new)
    whole = whole - model(perturb_input(real, t, noise, schedule), steps, old)
    yield "the network takes the time from 0 to 1: t / T.", edited + move * whole


@exercise("7.5", "With old = new and equal pictures it is exactly 0: see below.")
def change_step(attempt):
    schedule = NoiseSchedule.linear()
    rho = (1 / schedule.ab - 1).sqrt().float()
    real, other, noise = normal(3, 4, 3, 16, 16, seed=5)
    real = real.clamp(-1, 1)
    edited = (real + 0.3 * other).clamp(-1, 1)
    old = torch.eye(175)[[0, 1, 2, 3]]
    new = torch.eye(175)[[9, 20, 40, 80]]
    model = Listening()
    for t, s in ((299, 269), (80, 63), (8, 0)):
        time = torch.tensor(t / schedule.T)
        real_t = perturb_input(real, t, noise, schedule)
        edited_t = perturb_input(edited, t, noise, schedule)
        difference = model(edited_t, time, new) - model(real_t, time, old)
        right = edited + float(rho[s] - rho[t]) * difference
        mine = tried(attempt, model, real, edited, t, s, noise, old, new, schedule)
        mistakes = change_mistakes(model, real, edited, t, s, noise, old, new, schedule)
        compare(mine, right, mistakes, where=f"from t = {t} to {s}", tolerance=1e-4)


# ---- 7.6 -----------------------------------------------------------------------------

METHODS = ("variation", "inversion", "difference")
MORE_OR_LESS = ("more", "less")


def best_shares():
    """{method: the share of right edits at its best start}, as stored."""
    text = (WEIGHTS / "editing.json").read_text(encoding="utf8")
    best = dict.fromkeys(METHODS, 0.0)
    for name, row in json.loads(text)["edits"].items():
        method = name.split(",")[0]
        if method in best:
            best[method] = max(best[method], row["scores"]["right"][0])
    return best


@exercise("7.6", "Run on, and look at the left and the middle panel together.")
def best_method(guess):
    expected = 'a method and a word, such as ("variation", "more")'
    guess = guessed(guess, expected, METHODS + MORE_OR_LESS, n=2)
    method, kept = guess
    if method not in METHODS or kept not in MORE_OR_LESS:
        raise Wrong(f"This is {described(guess)}; expected {expected}.")
    shares = best_shares()
    best = max(shares, key=shares.get)
    if method != best:
        raise Wrong(
            f"At its best start, {method} has {shares[method]:.0%} right edits; "
            "another method has more. Run on."
        )
    if kept == "more":
        raise Wrong(
            "the method is right. But a higher start hides more of the sprite in "
            "noise: is more of the rest kept then?"
        )
