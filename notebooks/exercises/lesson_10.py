"""The judges of lesson 10's exercises (they spoil them)."""

import numpy as np
import torch.nn.functional as F

from exercises import (
    Wrong,
    compare,
    exercise,
    guessed,
    normal,
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


def normed(x, dims):
    """x with mean 0 and variance 1 over these dimensions."""
    mean = x.mean(dims, keepdim=True)
    variance = x.var(dims, keepdim=True, correction=0)
    return (x - mean) / (variance + 1e-5).sqrt()


def norm_mistakes(x, groups):
    B, C = x.shape[:2]
    apart = x.reshape(B, groups, C // groups, *x.shape[2:])
    mean = apart.mean((2, 3, 4), keepdim=True)
    variance = apart.var((2, 3, 4), keepdim=True, correction=0)
    yield (
        "this divides by the variance; its square root is the standard deviation.",
        ((apart - mean) / (variance + 1e-5)).reshape(x.shape),
    )
    yield (
        "the mean is not subtracted.",
        (apart / (variance + 1e-5).sqrt()).reshape(x.shape),
    )
    yield (
        "the mean is gone, but the variance is not 1.",
        (apart - mean).reshape(x.shape),
    )
    yield (
        "this is batch norm: its mean and variance mix all pictures of the batch.",
        normed(x, (0, 2, 3)),
    )
    yield (
        "the groups are mixed: this is one group of all channels.",
        normed(x, (1, 2, 3)),
    )
    yield "this norms each channel on its own, not each group.", normed(x, (2, 3))
    yield "this norms each pixel over its channels.", normed(x, 1)
    yield (
        "the values are right, but the shape is not: back to (B, C, H, W) at the end.",
        normed(apart, (2, 3, 4)),
    )
    woven = x.reshape(B, C // groups, groups, *x.shape[2:])
    yield (
        "a group is made of neighbouring channels: (B, groups, C / groups, H, W).",
        normed(woven, (1, 3, 4)).reshape(x.shape),
    )


@exercise(
    "10.2",
    "With groups = 1 this is the layer norm of section 4, which cannot see a picture's "
    "brightness. What would groups = C be unable to see?",
)
def group_norm(attempt):
    for seed, channels, groups in ((0, 6, 3), (1, 8, 2), (2, 4, 1)):
        x = 3 * normal(3, channels, 4, 5, seed=seed) + 1
        compare(
            tried(attempt, x, groups),
            F.group_norm(x, groups),
            norm_mistakes(x, groups),
            where=f"for {channels} channels in {groups} groups",
            tolerance=1e-3,
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


def apart_in_errors(a, b):
    """How many standard errors the means of two sets of runs are apart."""
    error = np.sqrt(np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b))
    return abs(np.mean(a) - np.mean(b)) / error


def apart_mistakes(a, b):
    difference = abs(np.mean(a) - np.mean(b))
    squares = np.var(a, ddof=1), np.var(b, ddof=1)
    yield (
        "this divides by the standard deviation of single runs; a mean of n runs "
        "scatters less: divide the variance by n.",
        difference / np.sqrt(sum(squares)),
    )
    small = np.var(a) / len(a), np.var(b) / len(b)
    yield (
        "the standard deviation of a few runs divides by n - 1: ddof=1.",
        difference / np.sqrt(sum(small)),
    )
    errors = np.sqrt(squares[0] / len(a)), np.sqrt(squares[1] / len(b))
    yield (
        "standard errors add up like the sides of a right angle: "
        "the root of the sum of squares.",
        difference / sum(errors),
    )
    yield (
        "this is the square; take the root of the variance first.",
        difference / sum(np.square(errors)),
    )
    yield "the standard error is missing: this is the difference alone.", difference
    yield (
        "it must not matter which design comes first: take the absolute value.",
        (np.mean(a) - np.mean(b)) / np.hypot(*errors),
    )
    yield (
        "the sign must not depend on the order: take the absolute value.",
        (np.mean(b) - np.mean(a)) / np.hypot(*errors),
    )
    yield "this is two standard errors, not one.", difference / 2 / np.hypot(*errors)


@exercise(
    "10.4",
    "Fifteen pairs of designs at two standard errors: about one of them is apart by "
    "chance alone. With three seeds it is even more: their scatter is a guess, too.",
)
def standard_errors_apart(attempt):
    runs = (
        ([170.0, 224.0, 229.0], [163.0, 177.0, 270.0]),
        ([50.0, 61.0, 57.0], [81.0, 92.0, 85.0]),
        ([3.0, 5.0, 4.0, 7.0], [1.0, 1.5, 0.5]),
    )
    for a, b in runs:
        a, b = np.array(a), np.array(b)
        right = apart_in_errors(a, b)
        compare(
            tried(attempt, a, b),
            right,
            apart_mistakes(a, b),
            where=f"for {a.tolist()} and {b.tolist()}",
            tolerance=1e-3,
        )


# ---- 10.5 ----------------------------------------------------------------------------

PARTS = ("attention", "time", "skips", "shortcuts")


@exercise(
    "10.5",
    "So a low loss does not make a good sampler: it was measured on noise that the "
    "network did not make itself.",
)
def parts_that_matter(attempt):
    expected = f"two of these names, ({', '.join(map(repr, PARTS))}): loss, then FD"
    loss, fd = guessed(attempt, expected, PARTS, n=2)
    if (loss, fd) == ("time", "skips"):
        raise Wrong("the other way round: the loss first, then FD.")
    if loss != "skips":
        raise Wrong(
            f"for the loss it is not {loss}. Which way would fine detail have to take "
            "without this part?"
        )
    if fd != "time":
        raise Wrong(
            f"for FD it is not {fd}. In sampling, an error at one step is the next "
            "step's input. Without which part does the network not notice?"
        )
