"""The judges of lesson 10's exercises (they spoil them)."""

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

# ---- 10.1 ----------------------------------------------------------------------------


def field_of(layers):
    """The receptive field of a stack of (kernel, stride)."""
    field = 1
    pixel = 1  # how wide a pixel of the layer's input is in the picture
    for kernel, stride in layers:
        field += (kernel - 1) * pixel
        pixel *= stride
    return field


def field_mistakes(layers):
    yield (
        "did you start from 0? One pixel of the output is already one pixel wide.",
        field_of(layers) - 1,
    )
    kernels = [kernel for kernel, _ in layers]
    yield (
        "this adds the whole kernel; its first pixel overlaps, so it adds kernel - 1.",
        1 + sum(kernels),
    )
    yield (
        "strides are missing: after a stride of 2 each pixel is two wide.",
        1 + sum(kernels) - len(kernels),
    )
    early = 1
    pixel = 1
    for kernel, stride in layers:
        pixel *= stride
        early += (kernel - 1) * pixel
    yield (
        "a layer's own stride widens only the pixels after it, not its own.",
        early,
    )
    yield "this is the size of the last kernel alone.", kernels[-1]


@exercise(
    "10.1",
    "Take two layers of stride 2 and one of stride 1, all 3x3: "
    "how many 3x3 layers without a stride see as far?",
)
def field_of_a_stack(attempt):
    stacks = (
        [(3, 1), (3, 1), (3, 1), (3, 1)],
        [(5, 1)],
        [(3, 2), (3, 1)],
        [(3, 1), (4, 2), (3, 1)],
        [(3, 2), (3, 2), (3, 2)],
    )
    for layers in stacks:
        mine = tried(attempt, list(layers))
        right = field_of(layers)
        compare(
            mine, right, field_mistakes(layers), where=f"for {layers}", tolerance=1e-9
        )


# ---- 10.2 ----------------------------------------------------------------------------


def size_after(size, kernel, stride):
    """The size that a transposed convolution makes of a square of this size."""
    layer = nn.ConvTranspose2d(1, 1, min(kernel, 50), min(stride, 50))
    return layer(torch.zeros(1, 1, size, size)).shape[-1]


@exercise(
    "10.2",
    "What would `output_padding=1` do to the second one with kernel 3 and padding 1?",
)
def shapes_on_the_way_up(attempt):
    answer = as_numbers(tried(attempt))
    if answer.shape != (2,) or not (answer == answer.round()).all() or answer.min() < 1:
        raise Wrong(
            "expected two whole numbers above 0: "
            "the stride of the first, and the kernel of the second."
        )
    stride, kernel = map(int, answer)
    first = size_after(3, kernel=3, stride=stride)
    second = size_after(7, kernel=kernel, stride=2)
    if (first, second) != (7, 14):
        raise Wrong(
            f"with these, 3 becomes {first} (wanted 7), "
            f"and 7 becomes {second} (wanted 14)."
        )


# ---- 10.3 ----------------------------------------------------------------------------


def price_mistakes(height, width, channels):
    places = height * width
    yield (
        "that is one of the two products; the weighted sum of v costs as much again.",
        places**2 * channels,
    )
    yield (
        "each place looks at every place: the number of places enters squared.",
        2 * places * channels,
    )
    yield (
        "a place is a pixel: there are height x width of them, "
        "and it is their number that is squared.",
        2 * height**2 * channels,
    )
    yield (
        "the channels enter once: "
        "each product of two vectors has that many multiplications.",
        2 * places**2 * channels**2,
    )
    yield (
        "the channels are missing: "
        "a product of two vectors has as many multiplications as they are long.",
        2 * places**2,
    )


@exercise(
    "10.3",
    "At which size does attention cost as much as a 3x3 convolution of 32 channels, "
    "9 x 32 x 32 multiplications a place?",
)
def price_of_attention(attempt):
    for height, width, channels in ((7, 7, 32), (28, 28, 32), (4, 6, 8)):
        places = height * width
        mine = tried(attempt, height, width, channels)
        right = 2 * places**2 * channels
        compare(
            mine,
            right,
            price_mistakes(height, width, channels),
            where=f"for {height} x {width} places and {channels} channels",
            tolerance=1e-9,
        )


# ---- 10.4 ----------------------------------------------------------------------------

DESIGNS = (
    "time as a channel",
    "no time",
    "time at each level",
    "residual",
    "ContextUnet",
)


def _losses() -> dict[str, float]:
    """The loss of each design's stored runs on digits: the mean over seeds."""
    stored = json.loads((WEIGHTS / "five_unets.json").read_text(encoding="utf8"))
    runs = [run for run in stored["runs"] if run["data"] == "mnist"]
    means = {}
    for name in DESIGNS:
        losses = [run["loss"] for run in runs if run["design"] == name]
        means[name] = float(np.mean(losses))
    return means


@exercise(
    "10.4",
    "It also has the highest FD of the five: a low loss of its own proves little. "
    "Which columns of the table can be compared?",
)
def lowest_own_loss(attempt):
    losses = _losses()
    guess = guessed(attempt, f"one of these names: {', '.join(losses)}", DESIGNS)
    lowest = min(losses, key=losses.get)
    if guess != lowest:
        raise Wrong(
            f"{guess!r} ends at {losses[guess]:.3f}; the lowest of the five is "
            f"{losses[lowest]:.3f}. One design has a schedule with many steps that are "
            "nearly pure noise, and there the noise is easy to tell."
        )


# ---- 10.5 ----------------------------------------------------------------------------

TIMES = [0.1, 0.4, 0.7, 0.9]


def _called(network, x, t):
    """The network's answer, which must have the shape of x."""
    answer = tried(network, x, t)
    if torch.is_tensor(answer) and answer.shape == x.shape:
        return answer
    shape = type(answer).__name__
    if torch.is_tensor(answer):
        shape = tuple(answer.shape)
    raise Wrong(
        f"for x of shape {tuple(x.shape)} your network returned {shape}; "
        "expected the same shape: the noise in each pixel."
    )


def a_picture_each(network, times):
    """Random pictures (B, 1, 28, 28) and these times (B,), for this network."""
    like = next(network.parameters(), torch.empty(0))  # its device and precision
    x = normal(4, 1, 28, 28, seed=0)[: len(times)].to(like)
    t = torch.tensor(times).to(like)
    return x, t


def _answer(network, times):
    x, t = a_picture_each(network, times)
    return _called(network, x, t)


def _one_by_one(network, times):
    """The answers for the same pictures and times, each in a batch of its own."""
    x, t = a_picture_each(network, times)
    answers = [_called(network, x[i : i + 1], t[i : i + 1]) for i in range(len(x))]
    return torch.cat(answers)


def parameters_without_gradient(network):
    trained = copy.deepcopy(network).train()
    loss = _answer(trained, [0.5, 0.5, 0.5, 0.5]).square().mean()
    loss.backward()
    idle = []
    for name, parameter in trained.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            idle.append(name)
    return idle


def _shaken(network, scale, generator):
    """A copy with random numbers of this scale added to all its weights."""
    shaken = copy.deepcopy(network)
    for parameter in shaken.parameters():
        if parameter.is_floating_point():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += scale * noise.to(parameter)
    return shaken


def _range(network):
    """The lowest and the highest answer of shaken copies, and one of the copies.

    The random numbers grow until an answer is above 2, so that neither zeros nor small
    numbers at the start are taken for a bound.
    """
    generator = seeded(0)
    for scale in (0.02, 0.1, 0.3, 1.0):
        answers = []
        for _ in range(3):
            shaken = _shaken(network, scale, generator)
            answers.append(_answer(shaken, TIMES))
        answers = torch.stack(answers)
        if scale == 0.02 or answers.isfinite().all():
            low, high = map(float, answers.aminmax())
            kept = shaken
        if high > 2:
            break
    return low, high, kept


def check_answers(network):
    """Finite answers, the same each time, that depend on t and on nothing else."""
    mixed = _answer(network, TIMES)
    again = _answer(network, TIMES)
    early = _answer(network, [0.1, 0.1, 0.1, 0.1])
    late = _answer(network, [0.9, 0.9, 0.9, 0.9])
    size = float(mixed.abs().max())
    if not mixed.isfinite().all():
        raise Wrong("your network's answers hold numbers that are not finite.")
    if not torch.equal(mixed, again):
        raise Wrong(
            "asked twice in eval mode, your network gives two answers: is something "
            "drawn at random, or a layer made, in forward?"
        )
    if (early - late).abs().max() <= 1e-6 * size:
        raise Wrong(
            "your network gives the same answer at t = 0.1 and at t = 0.9: "
            "is t used at all? (Section 3 shows what that costs.)"
        )
    single = _one_by_one(network, TIMES)
    if (mixed - single).abs().max() > 1e-3 * size:
        cause = "a picture's answer depends on the others in its batch"
        if (mixed - early).abs().max() <= 1e-3 * size:
            cause = "every picture got the first one's t; each has its own"
        raise Wrong(
            "asked for four pictures at once, with another t for each, your network "
            f"answers differently than one by one: {cause}."
        )


def check_ending(low, high):
    """Answers between `low` and `high` must not show an activation at the end."""
    end = ""
    if high > 2 and low >= 0:
        end = (
            "a ReLU or the like, which never falls below 0; "
            "noise does, half of the time"
        )
    elif high > 2 and low >= -0.28:
        end = (
            "a SiLU or the like, which never falls below -0.28; "
            "noise does, half of the time"
        )
    elif 0 <= low < high <= 1:
        end = (
            "a sigmoid or the like, which stays between 0 and 1; "
            "noise is below 0 half of the time"
        )
    elif -1 <= low < -0.5 and 0.5 < high <= 1:
        end = (
            "a tanh or the like, which stays between -1 and 1; "
            "a third of all noise is outside"
        )
    if end:
        raise Wrong(
            f"with random weights its answers lie between {low:.2f} and {high:.3g}: "
            f"your network ends in {end}."
        )


@exercise(
    "10.5", "The next cell trains it. Call it better only if it wins with three seeds."
)
def own_design(attempt):
    network = tried(attempt)
    if not isinstance(network, nn.Module):
        raise Wrong(
            f"my_network returned {type(network).__name__}; expected a torch.nn.Module."
        )
    network = copy.deepcopy(network)  # the learner may want it unchanged afterwards
    idle = parameters_without_gradient(network)
    network.eval()
    with torch.no_grad():
        _answer(network, [0.1, 0.1, 0.1, 0.1])
        low, high, shaken = _range(network)
        check_answers(shaken)
    check_ending(low, high)
    if idle:
        raise Wrong(
            f"{len(idle)} of its parameters get no gradient, such as {idle[0]}: "
            "are they used in forward?"
        )
