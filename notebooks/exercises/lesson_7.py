"""The judges of lesson 7's exercises (they spoil them)."""

import json

import numpy as np
import torch
import torch.nn as nn

from diffusion_utilities import WEIGHTS
from exercises import Wrong, as_numbers, compare, exercise, tried


@exercise("7.1", "Take two layers of stride 2 and one of stride 1, all 3x3: how many 3x3 layers without a stride see as far?")
def field_of_a_stack(attempt):
    for layers, right in (([(3, 1)] * 4, 9), ([(5, 1)], 5), ([(3, 2), (3, 1)], 7), ([(3, 1), (4, 2), (3, 1)], 10), ([(3, 2), (3, 2), (3, 2)], 15)):
        size, early = 1, 1
        for kernel, stride in layers:
            size, early = size * stride, early + (kernel - 1) * size * stride
        mistakes = {
            "did you start from 0? One pixel of the output is already one pixel wide.": right - 1,
            "this adds the whole kernel; its first pixel overlaps, so it adds kernel - 1.": 1 + sum(kernel for kernel, _ in layers),
            "strides are missing: after a stride of 2 each pixel is two wide.": 1 + sum(kernel - 1 for kernel, _ in layers),
            "a layer's own stride widens only the pixels after it, not its own.": early,
            "this is the size of the last kernel alone.": layers[-1][0],
        }
        compare(tried(attempt, list(layers)), right, mistakes, f"for {layers}", 1e-9)


@exercise("7.2", "What would `output_padding=1` do to the second one with kernel 3 and padding 1?")
def shapes_on_the_way_up(attempt):
    answer = as_numbers(tried(attempt))
    if answer.shape != (2,) or not (answer == answer.round()).all() or answer.min() < 1:
        raise Wrong("expected two whole numbers above 0: the stride of the first, and the kernel of the second.")
    stride, kernel = (int(value) for value in answer)
    first = nn.ConvTranspose2d(1, 1, 3, min(stride, 50))(torch.zeros(1, 1, 3, 3)).shape[-1]
    second = nn.ConvTranspose2d(1, 1, min(kernel, 50), 2)(torch.zeros(1, 1, 7, 7)).shape[-1]
    if (first, second) != (7, 14):
        swapped = " Did you give the kernel first?" if (kernel, stride) == (2, 2) else ""
        raise Wrong(f"with these, 3 becomes {first} (wanted 7), and 7 becomes {second} (wanted 14).{swapped}")


@exercise("7.3", "At which size does attention cost as much as a 3x3 convolution of 32 channels, 9 x 32 x 32 multiplications a place?")
def price_of_attention(attempt):
    for height, width, channels in ((7, 7, 32), (28, 28, 32), (4, 6, 8)):
        places = height * width
        mistakes = {
            "that is one of the two products; the weighted sum of v costs as much again.": places**2 * channels,
            "each place looks at every place: the number of places enters squared.": 2 * places * channels,
            "a place is a pixel: there are height x width of them, and it is their number that is squared.": 2 * height**2 * channels,
            "the channels enter once: each product of two vectors has so many multiplications.": 2 * places**2 * channels**2,
            "the channels are missing: a product of two vectors has as many multiplications as they are long.": 2 * places**2,
        }
        where = f"for {height} x {width} places and {channels} channels"
        compare(tried(attempt, height, width, channels), 2 * places**2 * channels, mistakes, where, 1e-6)


def _of_runs(key: str) -> dict[str, float]:
    """The mean over seeds of one number of each design's stored runs on digits."""
    rows = [row for row in json.loads((WEIGHTS / "five_unets.json").read_text(encoding="utf8"))["runs"] if row["data"] == "mnist"]
    names = ("time as a channel", "no time", "time at each level", "residual", "ContextUnet")
    return {name: float(np.mean([row[key] for row in rows if row["design"] == name])) for name in names}


@exercise("7.4", "It also has the highest FD of the five: a low loss of its own proves little. Which columns of the table can be compared?")
def lowest_own_loss(attempt):
    losses = _of_runs("loss")
    if not isinstance(attempt, str) or attempt not in losses:
        raise Wrong(f"expected one of these names: {', '.join(losses)}.")
    lowest = min(losses, key=losses.get)
    if attempt != lowest:
        hint = "One design has a schedule with many steps that are nearly pure noise, and there the noise is easily told."
        raise Wrong(f"{attempt!r} ends at {losses[attempt]:.3f}; the lowest of the five is {losses[lowest]:.3f}. {hint}")


@exercise("7.5", "The next cell trains it. Call it better only if it wins with three seeds.")
def own_design(attempt):
    network = tried(attempt)
    if not isinstance(network, nn.Module):
        raise Wrong(f"my_network returned {type(network).__name__}; expected a torch.nn.Module.")
    x = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    low, high = (_called(network.eval(), x, torch.full((4,), t)) for t in (0.1, 0.9))
    if torch.equal(low, high):
        raise Wrong("your network gives the same answer at t = 0.1 and at t = 0.9: is t used at all? (Section 3 shows what that costs.)")
    if float(low.detach().min()) >= -0.28 and any(isinstance(layer, nn.SiLU) for layer in [*network.modules()][-2:]):
        raise Wrong("your network ends in a SiLU, which never falls below -0.28; noise does, half of the time.")
    (_called(network.train(), x, torch.full((4,), 0.5)) ** 2).mean().backward()
    idle = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    if idle:
        raise Wrong(f"{len(idle)} of its parameters get no gradient, such as {idle[0]}: are they used in forward?")


def _called(network: nn.Module, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    answer = tried(network, x, t)
    if not torch.is_tensor(answer) or answer.shape != x.shape:
        shape = tuple(answer.shape) if torch.is_tensor(answer) else type(answer).__name__
        raise Wrong(f"for x of shape {tuple(x.shape)} your network returned {shape}; expected the same shape: the noise in each pixel.")
    return answer
