"""The judges of lesson 1's exercises (they spoil them)."""

import numpy as np
import torch
import torch.nn.functional as F

from diffusion_utilities import DATA, WEIGHTS, BasicUNet, corrupt, load_weights
from exercises import (
    Wrong,
    as_numbers,
    compare,
    exercise,
    guessed,
    seeded,
    tried,
    with_a_hint,
)


@exercise("1.1", "Ask it for an amount of 2: what does the formula do outside [0, 1]?")
def corrupted(attempt):
    generator = seeded(0)
    x, noise = (torch.rand(5, 1, 28, 28, generator=generator) for _ in range(2))
    for amount, where in (
        (torch.full((5,), 0.25), "with the amount 0.25 for each picture"),
        (torch.linspace(0, 1, 5), "with amounts from 0 to 1"),
    ):
        a = amount.view(-1, 1, 1, 1)
        mistakes = {
            "the two weights are swapped; at amount 0 the clean picture must come out.": a
            * x
            + (1 - a) * noise,
            "the noise is added but the picture keeps its full weight: it needs 1 - a.": x
            + a * noise,
            "these are roots of the weights. Lesson 2 takes roots; here the mixture is a straight line.": (
                1 - a
            ).sqrt()
            * x
            + a.sqrt() * noise,
            "the noise is centred first; here it stays in [0, 1].": (1 - a) * x
            + a * (noise - 0.5),
            "every picture got the first one's amount.": (1 - a[:1]) * x
            + a[:1] * noise,
            "is the noise missing?": (1 - a) * x,
            "this is the clean picture: is `amount` used?": x,
        }
        mine = with_a_hint(
            "size of tensor",
            "(B,) does not line up with (B, 1, 28, 28): give `amount` three more axes.",
            attempt,
            x,
            amount,
            noise,
        )
        compare(
            mine,
            (1 - a) * x + a * noise,
            mistakes,
            where,
            1e-5,
            lambda r: (r.mean(), "the mean brightness is"),
        )


def _forward(model, x, without=(), faults=()):
    """BasicUNet's forward pass, with skips replaced by zeros, or with one of the usual faults."""
    skips, act = [], (lambda x: x) if "no bends" in faults else model.act
    for i, layer in enumerate(model.down_layers):
        z = layer(x)
        x = act(z)
        if i < 2:
            skips.append(z if "stored before the bend" in faults else x)
            if i in without:
                skips[-1] = torch.zeros_like(x)
                x = skips[-1] if "cut the way down as well" in faults else x
            x = model.downscale(x)
            skips[-1] = x if "stored after halving" in faults else skips[-1]
    for i, layer in enumerate(model.up_layers):
        if i > 0:
            skip = 0 if "no skips" in faults else skips.pop()
            x = (
                model.upscale(x + skip)
                if "stored after halving" in faults
                else model.upscale(x) + skip
            )
        x = layer(x) if i == 2 and "no last bend" in faults else act(layer(x))
    return x


def _untrained():
    torch.manual_seed(5)
    model = BasicUNet()
    for layer in model.modules():  # larger weights than at the start, so that every part of the network shows in the output
        if hasattr(layer, "weight"):
            layer.weight.data *= 2
    return model.requires_grad_(False), torch.rand(2, 1, 28, 28)


SHAPES = "Are the skips used first in, first out, or stored after halving? The last one stored, before its halving, fits the first doubling."


@exercise(
    "1.2",
    "Take the `+ skips.pop()` out and ask for a digit: what is left of its edges?",
)
def forward_pass(attempt):
    model, x = _untrained()
    mistakes = {
        "this is the network without its skips: are they added after each doubling?": _forward(
            model, x, faults=["no skips"]
        ),
        "the last SiLU is missing (section 8 says why one may want that; this network has it).": _forward(
            model, x, faults=["no last bend"]
        ),
        "this is the network without any bend: is `model.act` called after each convolution?": _forward(
            model, x, faults=["no bends"]
        ),
        "the skips are stored before the bend; the diagram stores what has been through SiLU.": _forward(
            model, x, faults=["stored before the bend"]
        ),
        "the skips are stored after halving: store before, add after doubling.": _forward(
            model, x, faults=["stored after halving"]
        ),
        "the coarser skip is missing.": _forward(model, x, without=[1]),
        "the fine skip is missing.": _forward(model, x, without=[0]),
    }
    compare(
        with_a_hint("size of tensor", SHAPES, attempt, model, x),
        _forward(model, x),
        mistakes,
        "",
        1e-5,
    )


@exercise("1.3", "What does it say at a = 0, and why must it?")
def implied_noise(attempt):
    generator = seeded(2)
    x_0, u = (torch.rand(4, 1, 28, 28, generator=generator) for _ in range(2))
    for a in (0.4, 0.9):
        x_a = (1 - a) * x_0 + a * u
        mistakes = {
            "this is a times the noise: divide by a.": a * u,
            "this is the difference of the two pictures; only (1 - a) of the clean one is in x_a.": x_a
            - x_0,
            "the clean picture is subtracted whole; only (1 - a) of it is in x_a.": (
                x_a - x_0
            )
            / a,
            "you solved for x_0 with the noise in its place; here u is wanted.": (
                x_a - a * x_0
            )
            / (1 - a),
            "the sign is turned: noise = (x_a minus the picture's part) / a.": -u,
            "the picture's part is added, not subtracted.": (x_a + (1 - a) * x_0) / a,
        }
        compare(
            tried(attempt, x_a, x_0, a),
            u,
            mistakes,
            f"at a = {a}",
            1e-4,
            lambda r: (r.mean(), "the mean of your noise is"),
        )


ROW, COLUMN = 11, 14


@exercise(
    "1.4",
    "The least squared error is at the mean, whatever the shares are: now think of all 784 pixels at once.",
)
def best_constant(attempt):
    guess = guessed(attempt, "a brightness, a number from 0 to 1", between=(0, 1))
    with np.load(DATA / "mnist_5k.npz") as stored:
        pixel = stored["images"][:-500, ROW, COLUMN] / 255
    mean = pixel.mean()
    error, least = ((pixel - guess) ** 2).mean(), pixel.var()
    told = f"Answering {guess:.2g} each time costs a mean squared error of {error:.3f}, and the best constant {least:.3f}"
    if guess < 0.1:
        raise Wrong(
            f"{told}. Black is the commonest value, but where it is wrong it is wrong by up to 1, and errors are squared."
        )
    if abs(guess - 0.5) < 0.051:
        raise Wrong(
            f"{told}. The middle of the range would be best if dark and bright were equally common; here the dark ones are more."
        )
    if abs(guess - mean) > 0.05:
        raise Wrong(
            f"{told}. The best lies {'lower' if guess > mean else 'higher'}: weigh each value by its share."
        )


def _same(mine, x, tolerance):
    mine = as_numbers(mine)
    return mine.shape == x.shape and torch.allclose(
        mine, x.double(), rtol=0, atol=tolerance
    )


@exercise(
    "1.5",
    "Take amounts 1, 0.9, 0.5, 0 instead of equal steps, and look at what comes out.",
)
def step_of_any_size(attempt):
    generator = seeded(9)
    x, prediction = (torch.rand(4, 1, 28, 28, generator=generator) for _ in range(2))
    for amount, following in ((0.6, 0.2), (1.0, 0.8), (0.2, 0.0)):
        share = following / amount
        noise = (x - (1 - amount) * prediction) / amount
        mine = tried(attempt, x, prediction, amount, following)
        early = (
            x - (1 - following) * prediction
        )  # the noise, had x been spoilt by next_amount
        late = "x holds noise by `amount`; you took it out by `next_amount`."
        mistakes = {
            "this is the step's prediction alone: spoil it again, by `next_amount`.": prediction,
            "you mixed x itself with the prediction by `next_amount`; take the noise out of x first.": (
                1 - following
            )
            * prediction
            + following * x,
            "you spoilt x, not the prediction: the noise goes on top of what the network believes.": (
                1 - following
            )
            * x
            + following * noise,
            "the weights of x and prediction are swapped: x keeps next_amount / amount of the distance.": x
            + (prediction - x) * share,
            late: (1 - following) * prediction + following * early / amount,
        }
        if amount == 0.6 and _same(
            mine, x, 1e-4
        ):  # three ways back to x; from amount 1 only one of them is inexact
            inexact = not _same(tried(attempt, x, prediction, 1.0, 0.8), x, 0)
            again = "the noise is spoilt by `amount` again: this stays where it was."
            mistakes = {
                "is x returned unchanged?"
                if _same(mine, x, 0)
                else late
                if inexact
                else again: x
            }
        right = prediction + (x - prediction) * share
        where = f"from amount {amount} to {following}"
        compare(
            mine, right, mistakes, where, 1e-4, lambda r: (r.std(), "your x has std")
        )


@exercise(
    "1.6", "Now guess what happens to the loss without each of the two: exercise 1.7."
)
def forward_without(attempt):
    model, x = _untrained()
    for without in ((), (1,), (0,), (0, 1)):
        swapped = [1 - i for i in without]
        mistakes = {
            "this is the network with all its skips: is `without` used?": _forward(
                model, x
            ),
            "skips 0 and 1 are mixed up: 0 is stored first, at 28 x 28.": _forward(
                model, x, swapped
            ),
            "the zeros went down the U as well: replace only what is stored, not what is halved.": _forward(
                model, x, without, ["cut the way down as well"]
            ),
            "both skips are gone.": _forward(model, x, (0, 1)),
            "the last SiLU is missing.": _forward(model, x, without, ["no last bend"]),
        }
        mistakes = {
            sentence: wrong
            for sentence, wrong in mistakes.items()
            if without or "used" not in sentence
        }
        mine = with_a_hint("size of tensor", SHAPES, attempt, model, x, without)
        compare(mine, _forward(model, x, without), mistakes, f"without={without}", 1e-5)


@exercise(
    "1.7",
    "Were both gone, would it still beat the average digit? The next cell has all four numbers.",
)
def needed_more(attempt):
    guess = guessed(attempt, "the number of a skip, 0 or 1", (0, 1))
    with np.load(DATA / "mnist_5k.npz") as stored:
        clean = torch.from_numpy(stored["images"][-40:])[:, None].float() / 255
    model = load_weights(BasicUNet(), WEIGHTS / "basic_unet.pth")
    noisy = corrupt(clean, torch.linspace(0, 1, 40), seeded(3))
    with torch.no_grad():
        whole, *less = (
            F.mse_loss(_forward(model, noisy, without), clean).item()
            for without in ((), (0,), (1,))
        )
    if less[guess] < max(less):
        told = f"On 40 held-out digits the loss is {whole:.3f} with both skips, {less[guess]:.3f} without skip {guess}"
        raise Wrong(
            f"{told} and {less[1 - guess]:.3f} without the other: the network leans more on the coarser one."
        )
