"""The judges of lesson 14's exercises (they spoil them)."""

import functools

import torch

from diffusion_utilities import NoiseSchedule, straight_share
from exercises import Wrong, compare, exercise, guessed, normal, tried

SCHEDULE = NoiseSchedule.linear()
drawn = functools.partial(normal, dtype=torch.float64)

# ---- 14.1 ----------------------------------------------------------------------------


def nearest_steps(amount, wanted):
    """For each wanted value, the step whose amount is nearest to it."""
    return (amount[:, None] - wanted).abs().argmin(0)


def stop_mistakes(amount, n):
    first, last = float(amount[-1]), float(amount[0])
    yield (
        "these lead from 0 to T; a sampler starts at T.",
        nearest_steps(amount, torch.linspace(last, first, n + 1)),
    )
    yield (
        "these are n stops; n strides need n + 1.",
        nearest_steps(amount, torch.linspace(first, last, n)),
    )
    yield (
        "the last stop is missing: the wanted values end one stride before step 0.",
        nearest_steps(amount, torch.linspace(first, last, n + 1)[:-1]),
    )
    T = len(amount) - 1
    even = torch.linspace(T, 0, n + 1).round()
    yield "these stops are even in t; they should be even in the amount.", even
    yield (
        "these are the wanted amounts; return the steps that have them.",
        torch.linspace(first, last, n + 1),
    )


@exercise("14.1", "What would an amount do that is the same at many steps?")
def stops(attempt):
    angle = torch.atan2(SCHEDULE.ab.sqrt(), (1 - SCHEDULE.ab).sqrt())
    amounts = {
        "the picture's share": straight_share(SCHEDULE.ab),
        "the angle of lesson 13": angle,
        "t itself": torch.arange(501.0),
    }
    for name, amount in amounts.items():
        amount = amount.double()
        for n in (4, 7):
            wanted = torch.linspace(float(amount[-1]), float(amount[0]), n + 1)
            right = nearest_steps(amount, wanted)
            mine = tried(attempt, amount, n)
            where = f"for {name} and n = {n}"
            mistakes = stop_mistakes(amount, n)
            if name == "t itself":
                mistakes = ()
            compare(mine, right, mistakes, where=where)


# ---- 14.2 ----------------------------------------------------------------------------


def target_mistakes(x_0, last, h, h_last):
    change = x_0 - last
    yield (
        "this goes along the whole stride; 2M aims at its middle, so halve it.",
        x_0 + h / h_last * change,
    )
    yield (
        "the fraction is upside down: the change belongs to h_last.",
        x_0 + h_last / (2 * h) * change,
    )
    yield (
        "the sign: go on in the direction from the last picture to this one.",
        x_0 - h / (2 * h_last) * change,
    )
    yield (
        "it starts from the last picture; start from the newest.",
        last + h / (2 * h_last) * change,
    )
    yield "the strides are left out; they are not equal.", x_0 + change / 2
    yield "this is the change alone; add it to x_0.", h / (2 * h_last) * change


@exercise("14.2", "What does it return if both strides are equal?")
def target(attempt):
    for h, h_last in ((0.4, 0.4), (0.8, 0.3)):
        x_0 = drawn(2, 3, 4, 4, seed=0)
        last = drawn(2, 3, 4, 4, seed=1)
        right = x_0 + h / (2 * h_last) * (x_0 - last)
        where = f"with h = {h} and h_last = {h_last}"
        mine = tried(attempt, x_0, last, h, h_last)
        compare(mine, right, target_mistakes(x_0, last, h, h_last), where=where)


# ---- 14.3 ----------------------------------------------------------------------------


@exercise("14.3", "The figure below shows it: read it off between 16 and 64 steps.")
def order(guess):
    factor = guessed(guess, "a number: how many times smaller the error becomes")
    if factor <= 1:
        raise Wrong("the error shrinks; give how many times smaller it becomes.")
    if abs(factor - 4) < 0.5:
        raise Wrong("that is a method of first order: 4 to the power of 1.")
    if abs(factor - 2) < 0.5:
        raise Wrong("that is the root of 4; the order is the exponent of 4.")
    if abs(factor - 8) < 0.5:
        raise Wrong("not 2 times 4, but 4 to the power of 2.")
    if not 12 < factor < 20:
        raise Wrong("the error falls as 1 / n^2; put n = 4.")


# ---- 14.4 ----------------------------------------------------------------------------


def jump_mistakes(x, t, s, z):
    ab = SCHEDULE.ab
    kept = ab[s] / ab[t]
    yield (
        "this jumps as if x were a clean picture; alpha-bar of s must be divided by "
        "that of t.",
        ab[s].sqrt() * x + (1 - ab[s]).sqrt() * z,
    )
    yield "the root of the noise's factor is missing.", kept.sqrt() * x + (1 - kept) * z
    yield "the root of x's factor is missing.", kept * x + (1 - kept).sqrt() * z
    yield (
        "it is upside down: going up, alpha-bar shrinks, so the ratio is below 1.",
        kept.rsqrt() * x + (1 - kept).sqrt() * z,
    )
    yield "x keeps its full size; it must shrink.", x + (1 - kept).sqrt() * z
    yield (
        "this much noise brings its variance from that of t to that of s only if x "
        "does not shrink.",
        kept.sqrt() * x + (ab[t] - ab[s]).sqrt() * z,
    )


@exercise("14.4", "Jump from t to s and on to u: is it the same as from t to u?")
def jump(attempt):
    for t, s in ((120, 300), (0, 200)):
        x = drawn(2, 3, 4, 4, seed=2)
        z = drawn(2, 3, 4, 4, seed=3)
        kept = SCHEDULE.ab[s] / SCHEDULE.ab[t]
        right = kept.sqrt() * x + (1 - kept).sqrt() * z
        mine = tried(attempt, x, t, s, z, SCHEDULE)
        mistakes = jump_mistakes(x, t, s, z) if t > 0 else ()
        compare(mine, right, mistakes, where=f"from t = {t} to {s}")


# ---- 14.5 ----------------------------------------------------------------------------


def gradient_of(attempt, x_0):
    """The gradient of the attempt's loss with respect to x_0, and the right direction.

    Both guesses depend on x_0, as they do in the training.
    """
    x_0 = x_0.clone().requires_grad_()
    real = torch.sin(2 * x_0)
    fake = 0.5 * x_0**2 + 0.3
    right = (fake - real).detach()
    loss = tried(attempt, x_0, real, fake)
    if not torch.is_tensor(loss) or loss.numel() != 1:
        raise Wrong("expected one number, a tensor; take the mean or the sum.")
    if not loss.requires_grad:
        raise Wrong(
            "the loss has no gradient: is x_0 detached? Only the direction is a "
            "constant."
        )
    (gradient,) = torch.autograd.grad(loss, x_0)
    return gradient, right


def cosine(a, b):
    return float((a * b).sum() / (a.norm() * b.norm() + 1e-12))


@exercise("14.5", "What is the value of this loss good for? (Not for much. Why?)")
def student_loss(attempt):
    x_0 = drawn(4, 2, seed=5)
    gradient, right = gradient_of(attempt, x_0)
    along = cosine(gradient, right)
    if abs(along - 1) < 1e-6:
        return
    if abs(along + 1) < 1e-6:
        raise Wrong(
            "the sign: an optimiser goes against the gradient, and the drawing should "
            "go from `fake` to `real`."
        )
    to_real = x_0 - torch.sin(2 * x_0)
    if abs(cosine(gradient, to_real) - 1) < 1e-6:
        raise Wrong("this pulls x_0 to `real` alone; `fake` must push.")
    raise Wrong(
        "the gradient is not along fake - real. Does one flow through `real` or "
        f"`fake`? Detach both. (Cosine with the right direction: {along:.2f}.)"
    )
