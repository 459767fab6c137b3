"""The judges of lesson 1's exercises (they spoil them)."""

import torch

from diffusion_utilities import DATA, BasicUNet, load_array
from exercises import (
    Wrong,
    as_numbers,
    compare,
    exercise,
    guessed,
    seeded,
    shown_mean,
    tried,
    with_a_hint,
)


def two_pictures(n, seed):
    """Two batches of n random pictures (n, 1, 28, 28) with values in [0, 1]."""
    generator = seeded(seed)
    first = torch.rand(n, 1, 28, 28, generator=generator)
    second = torch.rand(n, 1, 28, 28, generator=generator)
    return first, second


# ---- 1.1 -----------------------------------------------------------------------------


def corruption_mistakes(x, a, noise):
    share = 1 - a
    first = a[:1]
    yield (
        "the two weights are swapped; at amount 0 the clean picture must come out.",
        a * x + share * noise,
    )
    yield (
        "the noise is added, but the picture keeps its full weight: it needs 1 - a.",
        x + a * noise,
    )
    yield (
        "these are roots of the weights. Lesson 2 takes roots; "
        "here the mixture is a straight line.",
        share.sqrt() * x + a.sqrt() * noise,
    )
    yield (
        "the noise is centred first; here it stays in [0, 1].",
        share * x + a * (noise - 0.5),
    )
    yield (
        "every picture got the first one's amount.",
        (1 - first) * x + first * noise,
    )
    yield "is the noise missing?", share * x
    yield "this is the clean picture: is `amount` used?", x


@exercise("1.1", "Ask it for an amount of 2: what does the formula do outside [0, 1]?")
def corrupted(attempt):
    x, noise = two_pictures(5, seed=0)
    cases = {
        "with the amount 0.25 for each picture": torch.full((5,), 0.25),
        "with amounts from 0 to 1": torch.linspace(0, 1, 5),
    }
    for where, amount in cases.items():
        mine = with_a_hint(
            "size of tensor",
            "(B,) does not line up with (B, 1, 28, 28): give `amount` three more axes.",
            attempt,
            x,
            amount,
            noise,
        )
        a = amount.view(-1, 1, 1, 1)
        compare(
            mine,
            (1 - a) * x + a * noise,
            corruption_mistakes(x, a, noise),
            where,
            number=shown_mean("the mean brightness is"),
        )


# ---- 1.2 -----------------------------------------------------------------------------


def _forward(model, x, without=(), fault=""):
    """BasicUNet's forward pass.

    The skips in `without` are replaced by zeros; `fault` is one of the usual mistakes.
    """
    act = torch.nn.Identity() if fault == "no activation" else model.act
    x, skips = _down(model, x, act, without, fault)
    for i, layer in enumerate(model.up_layers):
        if i == 0 and fault == "extra skip":
            x = x + x
        if i > 0:
            skip = 0 if fault == "no skips" else skips.pop()
            if fault == "stored after halving":
                x = model.upscale(x + skip)
            else:
                x = model.upscale(x) + skip
        x = layer(x)
        if i < 2 or fault != "no last activation":
            x = act(x)
    return x


def _down(model, x, act, without, fault):
    """The way down of `_forward`: the bottom, and the two skips."""
    skips = []
    for i, layer in enumerate(model.down_layers):
        z = layer(x)
        x = act(z)
        if i == 2:  # the bottom is neither stored nor halved
            return x, skips
        skip = z if fault == "stored before the activation" else x
        if i in without:
            skip = torch.zeros_like(x)
        x = model.downscale(x)
        skips.append(x if fault == "stored after halving" else skip)


def _untrained():
    """A BasicUNet with random weights, and two random pictures."""
    torch.manual_seed(5)
    model = BasicUNet()
    for layer in model.modules():
        if hasattr(layer, "weight"):
            layer.weight.data *= 2  # so that every part shows in the output
    model.requires_grad_(False)
    return model, torch.rand(2, 1, 28, 28)


SHAPES = (
    "Are the skips used first in, first out, or stored after halving? "
    "The last one stored, before its halving, fits the first doubling."
)
CONCATENATED = "Are the skips concatenated? Here they are added."


def forward_mistakes(model, x):
    yield (
        "this is the network without its skips: are they added after each doubling?",
        _forward(model, x, fault="no skips"),
    )
    yield (
        "the last SiLU is missing "
        "(section 11 says why one may want that; this network has it).",
        _forward(model, x, fault="no last activation"),
    )
    yield (
        "this is the network without any activation: "
        "is `model.act` called after each convolution?",
        _forward(model, x, fault="no activation"),
    )
    yield (
        "the skips are stored before the activation; keep what has been through SiLU.",
        _forward(model, x, fault="stored before the activation"),
    )
    yield (
        "the skips are stored after halving: store before, add after doubling.",
        _forward(model, x, fault="stored after halving"),
    )
    yield (
        "the bottom is added to itself; only `full` and `half` are skips.",
        _forward(model, x, fault="extra skip"),
    )
    yield "the coarser skip is missing.", _forward(model, x, without=[1])
    yield "the fine skip is missing.", _forward(model, x, without=[0])


@exercise(
    "1.2",
    "Count the parameters of one of the convolutions at the bottom, by hand.",
)
def forward_pass(attempt):
    model, x = _untrained()
    try:
        mine = with_a_hint("size of tensor", SHAPES, attempt, model, x)
    except Wrong as wrong:
        if "channels" not in str(wrong) and "except in dimension" not in str(wrong):
            raise
        raise Wrong(f"{wrong} {CONCATENATED}") from None
    compare(mine, _forward(model, x), forward_mistakes(model, x))


# ---- 1.3 -----------------------------------------------------------------------------

ROW = 21
COLUMN = 19


@exercise(
    "1.3",
    "The least squared error is at the mean, whatever the shares are: "
    "now think of all 784 pixels at once.",
)
def best_constant(attempt):
    guess = guessed(attempt, "a brightness, a number from 0 to 1", between=(0, 1))
    images = load_array(DATA / "mnist_5k.npz", "images")
    threes = images[load_array(DATA / "mnist_5k.npz", "labels") == 3]
    pixel = threes[:-50, ROW, COLUMN] / 255
    mean = pixel.mean()
    error = ((pixel - guess) ** 2).mean()
    told = (
        f"Answering {guess:.2g} each time costs a mean squared error of {error:.3f}, "
        f"and the best constant {pixel.var():.3f}"
    )
    if guess < 0.1:
        raise Wrong(
            f"{told}. Black is the commonest value, but where it is wrong it is wrong "
            "by up to 1, and errors are squared."
        )
    if abs(guess - 0.5) < 0.051:
        raise Wrong(
            f"{told}. The middle of the range would be best if dark and bright were "
            "equally common; here dark pixels are more common."
        )
    if abs(guess - mean) > 0.03:
        side = "lower" if guess > mean else "higher"
        raise Wrong(f"{told}. The best lies {side}: weigh each value by its share.")


# ---- 1.4 -----------------------------------------------------------------------------

LATE = "x holds noise by `amount`; you took it out by `next_amount`."


def _same(mine, x, tolerance):
    mine = as_numbers(mine)
    same_shape = mine.shape == x.shape
    return same_shape and torch.allclose(mine, x.double(), rtol=0, atol=tolerance)


def step_mistakes(x, guess, amount, following, mine):
    share = following / amount
    kept = 1 - following
    mixed = x - (1 - amount) * guess  # the noise, times amount
    noise = mixed / amount
    early = x - kept * guess  # the noise, if x were corrupted by next_amount
    yield (
        "this is the guess alone: corrupt it again, by `next_amount`.",
        guess,
    )
    yield (
        "you mixed x itself with the guess by `next_amount`; "
        "take the noise out of x first.",
        kept * guess + following * x,
    )
    yield (
        "you corrupted x, not the guess: "
        "the noise goes on top of what the network believes.",
        kept * x + following * noise,
    )
    yield (
        "the weights of x and guess are swapped: "
        "x keeps next_amount / amount of the distance.",
        x + (guess - x) * share,
    )
    yield LATE, kept * guess + following * early / amount
    yield (
        "you moved x by amount - next_amount of the way to the guess. That is right "
        "only at amount 1: the distance must shrink to next_amount / amount of itself.",
        x + (guess - x) * (amount - following),
    )
    yield (
        "the guess keeps its full weight: it needs 1 - next_amount.",
        guess + following * noise,
    )
    yield (
        "in the noise, only the guess is divided by amount: "
        "put x - (1 - amount) * guess into brackets.",
        kept * guess + following * (x - (1 - amount) * guess / amount),
    )
    yield "the division by amount is missing.", kept * guess + following * mixed
    if following > 0:
        yield (
            "you divided by next_amount: x holds the noise by `amount`.",
            kept * guess + mixed,
        )
    yield from as_mixture(x, guess, share, mine)


def as_mixture(x, guess, share, mine):
    """If `mine` is a weighted sum of x and the guess: which one, and which is right."""
    mine = as_numbers(mine)
    if mine.shape != x.shape or not mine.isfinite().all():
        return
    parts = torch.stack((x.flatten(), guess.flatten()), dim=1).double()
    weights = torch.linalg.lstsq(parts, mine.view(-1, 1)).solution
    sum_of_both = (parts @ weights).view(mine.shape)
    a, b = weights.flatten().tolist()
    yield (
        f"yours is {a:.2f} x + {b:.2f} guess, "
        f"and expected is {share:.2f} x + {1 - share:.2f} guess.",
        sum_of_both,
    )


def draws_noise(attempt, *arguments):
    """Whether two calls with the same arguments differ."""
    first = as_numbers(tried(attempt, *arguments))
    second = as_numbers(tried(attempt, *arguments))
    return first.shape == second.shape and not torch.equal(first, second)


def reason_to_stay(attempt, x, guess, mine):
    """Which of three mistakes leads back to x; only LATE is inexact from amount 1."""
    if _same(mine, x, 0):
        return "is x returned unchanged?"
    at_the_start = tried(attempt, x, guess, 1.0, 0.8)
    if _same(at_the_start, x, 0):
        return "the noise is added by `amount` again: this stays where it was."
    return LATE


@exercise(
    "1.4",
    "Take amounts 1, 0.9, 0.5, 0 instead of equal steps, and look at what comes out.",
)
def step_of_any_size(attempt):
    x, guess = two_pictures(4, seed=9)
    for amount, following in ((0.6, 0.2), (1.0, 0.8), (0.2, 0.0)):
        if following > 0 and draws_noise(attempt, x, guess, amount, following):
            raise Wrong(
                "your step draws fresh noise: two calls differ. Here the noise is the "
                "one that the guess implies."
            )
        mine = tried(attempt, x, guess, amount, following)
        mistakes = step_mistakes(x, guess, amount, following, mine)
        if amount == 0.6 and _same(mine, x, 1e-4):
            reason = reason_to_stay(attempt, x, guess, mine)
            mistakes = {reason: x}
        compare(
            mine,
            guess + (x - guess) * following / amount,
            mistakes,
            where=f"from amount {amount} to {following}",
            tolerance=1e-4,
        )


# ---- 1.5 -----------------------------------------------------------------------------


@exercise(
    "1.5",
    "Give it pure noise: is it unsure, as it should be? Look at `read(noise)`.",
)
def share_of_the_average(attempt):
    guess = guessed(attempt, "a share, 0 or 1: all copies are one picture", (0, 1))
    if guess == 0:
        raise Wrong(
            "The classifier must name one of ten digits, and the blur is more like a "
            "three than like any other: it has no way to say that it sees none."
        )
