"""The judges of lesson 7's exercises (they spoil them)."""

import copy
import json

import numpy as np
import torch
import torch.nn as nn

from diffusion_utilities import WEIGHTS
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


@exercise(
    "7.1",
    "Take two layers of stride 2 and one of stride 1, all 3x3: how many 3x3 layers without a stride see as far?",
)
def field_of_a_stack(attempt):
    for layers, right in (
        ([(3, 1)] * 4, 9),
        ([(5, 1)], 5),
        ([(3, 2), (3, 1)], 7),
        ([(3, 1), (4, 2), (3, 1)], 10),
        ([(3, 2), (3, 2), (3, 2)], 15),
    ):
        size, early = 1, 1
        for kernel, stride in layers:
            size, early = size * stride, early + (kernel - 1) * size * stride
        mistakes = {
            "did you start from 0? One pixel of the output is already one pixel wide.": right
            - 1,
            "this adds the whole kernel; its first pixel overlaps, so it adds kernel - 1.": 1
            + sum(kernel for kernel, _ in layers),
            "strides are missing: after a stride of 2 each pixel is two wide.": 1
            + sum(kernel - 1 for kernel, _ in layers),
            "a layer's own stride widens only the pixels after it, not its own.": early,
            "this is the size of the last kernel alone.": layers[-1][0],
        }
        compare(tried(attempt, list(layers)), right, mistakes, f"for {layers}", 1e-9)


@exercise(
    "7.2",
    "What would `output_padding=1` do to the second one with kernel 3 and padding 1?",
)
def shapes_on_the_way_up(attempt):
    answer = as_numbers(tried(attempt))
    if answer.shape != (2,) or not (answer == answer.round()).all() or answer.min() < 1:
        raise Wrong(
            "expected two whole numbers above 0: the stride of the first, and the kernel of the second."
        )
    stride, kernel = (int(value) for value in answer)
    first = nn.ConvTranspose2d(1, 1, 3, min(stride, 50))(torch.zeros(1, 1, 3, 3)).shape[
        -1
    ]
    second = nn.ConvTranspose2d(1, 1, min(kernel, 50), 2)(
        torch.zeros(1, 1, 7, 7)
    ).shape[-1]
    if (first, second) != (7, 14):
        swapped = (
            " Did you give the kernel first?" if (kernel, stride) == (2, 2) else ""
        )
        raise Wrong(
            f"with these, 3 becomes {first} (wanted 7), and 7 becomes {second} (wanted 14).{swapped}"
        )


@exercise(
    "7.3",
    "At which size does attention cost as much as a 3x3 convolution of 32 channels, 9 x 32 x 32 multiplications a place?",
)
def price_of_attention(attempt):
    for height, width, channels in ((7, 7, 32), (28, 28, 32), (4, 6, 8)):
        places = height * width
        mistakes = {
            "that is one of the two products; the weighted sum of v costs as much again.": places
            ** 2
            * channels,
            "each place looks at every place: the number of places enters squared.": 2
            * places
            * channels,
            "a place is a pixel: there are height x width of them, and it is their number that is squared.": 2
            * height**2
            * channels,
            "the channels enter once: each product of two vectors has so many multiplications.": 2
            * places**2
            * channels**2,
            "the channels are missing: a product of two vectors has as many multiplications as they are long.": 2
            * places**2,
        }
        where = f"for {height} x {width} places and {channels} channels"
        compare(
            tried(attempt, height, width, channels),
            2 * places**2 * channels,
            mistakes,
            where,
            1e-9,
        )


def _of_runs(key: str) -> dict[str, float]:
    """The mean over seeds of one number of each design's stored runs on digits."""
    rows = [
        row
        for row in json.loads((WEIGHTS / "five_unets.json").read_text(encoding="utf8"))[
            "runs"
        ]
        if row["data"] == "mnist"
    ]
    names = (
        "time as a channel",
        "no time",
        "time at each level",
        "residual",
        "ContextUnet",
    )
    return {
        name: float(np.mean([row[key] for row in rows if row["design"] == name]))
        for name in names
    }


@exercise(
    "7.4",
    "It also has the highest FD of the five: a low loss of its own proves little. Which columns of the table can be compared?",
)
def lowest_own_loss(attempt):
    losses = _of_runs("loss")
    attempt = guessed(
        attempt, f"one of these names: {', '.join(losses)}", tuple(losses)
    )
    lowest = min(losses, key=losses.get)
    if attempt != lowest:
        hint = "One design has a schedule with many steps that are nearly pure noise, and there the noise is easily told."
        raise Wrong(
            f"{attempt!r} ends at {losses[attempt]:.3f}; the lowest of the five is {losses[lowest]:.3f}. {hint}"
        )


@exercise(
    "7.5", "The next cell trains it. Call it better only if it wins with three seeds."
)
def own_design(attempt):
    network = tried(attempt)
    if not isinstance(network, nn.Module):
        raise Wrong(
            f"my_network returned {type(network).__name__}; expected a torch.nn.Module."
        )
    network = copy.deepcopy(
        network
    )  # the judge is not to change one that is wanted afterwards
    like = next(network.parameters(), torch.empty(0))  # its device and precision
    x = normal(4, 1, 28, 28, seed=0).to(like)

    def asked(network, *times):
        return _called(network, x[: len(times)], torch.tensor(times).to(like))

    trained = copy.deepcopy(network).train()
    (asked(trained, 0.5, 0.5, 0.5, 0.5) ** 2).mean().backward()
    idle = [
        name
        for name, parameter in trained.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    with torch.no_grad():
        asked(network.eval(), 0.1, 0.1, 0.1, 0.1)
        low, high, shaken = _range(
            network, lambda network: asked(network, 0.1, 0.4, 0.7, 0.9)
        )
        mixed, again, one = (
            asked(shaken, *times)
            for times in (
                (0.1, 0.4, 0.7, 0.9),
                (0.1, 0.4, 0.7, 0.9),
                (0.1, 0.1, 0.1, 0.1),
            )
        )
        other = asked(shaken, 0.9, 0.9, 0.9, 0.9)
        single = torch.cat(
            [
                _called(shaken, x[i : i + 1], torch.tensor([t]).to(like))
                for i, t in enumerate((0.1, 0.4, 0.7, 0.9))
            ]
        )
    size = float(mixed.abs().max())
    if not mixed.isfinite().all():
        raise Wrong("your network's answers hold values that are no finite numbers.")
    if not torch.equal(mixed, again):
        raise Wrong(
            "asked twice in eval mode, your network gives two answers: is something drawn at random, or a layer made, in forward?"
        )
    if (one - other).abs().max() <= 1e-6 * size:
        raise Wrong(
            "your network gives the same answer at t = 0.1 and at t = 0.9: is t used at all? (Section 3 shows what that costs.)"
        )
    if (mixed - single).abs().max() > 1e-3 * size:
        first = (mixed - one).abs().max() <= 1e-3 * size
        cause = (
            "every picture got the first one's t; each has its own"
            if first
            else "a picture's answer depends on the others in its batch"
        )
        raise Wrong(
            f"asked for four pictures at once, with another t for each, your network answers otherwise than one by one: {cause}."
        )
    ends = {
        "in a ReLU or the like, which never falls below 0; noise does, half of the time": high
        > 2
        and low >= 0,
        "in a SiLU or the like, which never falls below -0.28; noise does, half of the time": high
        > 2
        and low >= -0.28,
        "in a sigmoid or the like, which stays between 0 and 1; noise is below 0 half of the time": 0
        <= low
        < high
        <= 1,
        "in a tanh or the like, which stays between -1 and 1; a third of all noise is outside": -1
        <= low
        < -0.5
        and 0.5 < high <= 1,
    }
    for end, true in ends.items():
        if true:
            raise Wrong(
                f"with random weights its answers lie between {low:.2f} and {high:.3g}: your network ends {end}."
            )
    if idle:
        raise Wrong(
            f"{len(idle)} of its parameters get no gradient, such as {idle[0]}: are they used in forward?"
        )


def _range(network, answer):
    """The lowest and the highest answer of copies with small random numbers added to all weights, and one of the copies.

    They grow until an answer is above 2, so that neither zeros nor small numbers at the start are taken for a bound."""
    generator = seeded(0)
    for scale in (0.02, 0.1, 0.3, 1.0):
        answers = []
        for _ in range(3):
            shaken = copy.deepcopy(network)
            for parameter in shaken.parameters():
                if parameter.is_floating_point():
                    parameter += scale * torch.randn(
                        parameter.shape, generator=generator
                    ).to(parameter)
            answers.append(answer(shaken))
        if scale == 0.02 or torch.stack(answers).isfinite().all():
            (low, high), kept = map(float, torch.stack(answers).aminmax()), shaken
        if high > 2:
            break
    return low, high, kept


def _called(network: nn.Module, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    answer = tried(network, x, t)
    if not torch.is_tensor(answer) or answer.shape != x.shape:
        shape = (
            tuple(answer.shape) if torch.is_tensor(answer) else type(answer).__name__
        )
        raise Wrong(
            f"for x of shape {tuple(x.shape)} your network returned {shape}; expected the same shape: the noise in each pixel."
        )
    return answer
