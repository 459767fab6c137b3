"""The judges of lesson 3's exercises (they spoil them)."""

import json
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn as nn

from diffusion_utilities import WEIGHTS, NoiseSchedule, ResidualConvBlock, perturb_input
from exercises import (
    Wrong,
    as_numbers,
    compare,
    exercise,
    guessed,
    nearest,
    seeded,
    tried,
    with_a_hint,
)


def _module(attempt, *arguments):
    """What the attempt's class makes of these arguments, if it is a network."""
    made = tried(attempt, *arguments)
    if not isinstance(made, nn.Module):
        raise Wrong(
            f"This makes {type(made).__name__}, not a network: hand over your class itself, which must inherit from nn.Module."
        )
    return made


@exercise(
    "3.1",
    "And `ResidualConvBlock(64, 64)`, in the same way: why is it nearly twice as many?",
)
def count(attempt):
    first, second, norms = 3 * 64 * 9, 64 * 64 * 9, 2 * 2 * 64
    right = first + 64 + second + 64 + norms
    mistakes = {
        "128 are missing. Are there 64 biases in each convolution, and two numbers a channel in each batch norm?": right
        - 128,
        "are the two batch norms missing? They have two numbers a channel each.": right
        - norms,
        "the convolutions' biases and the batch norms are missing.": first + second,
        "a batch norm's running mean and variance are counted too, but no training adjusts them.": right
        + norms,
        "is the window missing? A 3 x 3 convolution has 9 weights for each pair of channels.": 3
        * 64
        + 64 * 64
        + 128
        + norms,
        "the second convolution goes from 64 channels to 64, not from 3.": 2
        * (first + 64)
        + norms,
        "this is the first convolution alone, with its batch norm.": first
        + 64
        + 2 * 64,
        "this counts the first convolution alone.": first + 64,
    }
    mine = as_numbers(attempt)
    if mine.ndim or not mine.isfinite():
        raise Wrong(f"You have {attempt!r:.60}; expected one number, the sum.")
    mine = float(mine)
    for words, wrong in mistakes.items():
        if mine == wrong:
            raise Wrong(f"{words[0].upper()}{words[1:]}")
    if mine != right:
        raise Wrong(
            f"{mine:,g} is too {'few' if mine < right else 'many'}: two convolutions with their biases, and two batch norms."
        )


@exercise(
    "3.2",
    "Compare its number of parameters with that of the block which the course uses: what would published weights say?",
)
def repaired_block(attempt):
    torch.manual_seed(0)
    block, x = _module(attempt, 3, 8), torch.randn(4, 3, 6, 6)
    if not hasattr(block, "conv1"):
        raise Wrong(
            "Your block has no conv1 and conv2: inherit from ResidualConvBlock, and call super().__init__ first."
        )
    block.eval()
    once, again = (
        as_numbers(
            with_a_hint(
                "size of tensor",
                "Does the shortcut have out_channels channels?",
                block,
                x,
            )
        )
        for _ in range(2)
    )
    if once.shape == again.shape and not torch.allclose(once, again):
        off = ((once - again).std() / once.std()).item()
        raise Wrong(
            f"The same input gives two answers, which differ by {off:.2f} of the output's spread: is a layer still made in `forward`?"
        )
    with torch.no_grad():
        x1 = block.conv1(x)
        x2 = block.conv2(x1)
        mistakes = {
            "this is the second convolution alone: the block is not residual, its shortcut is missing.": x2,
            "that is the helper's repair, whose shortcut is the first convolution's output. Here it is a 1 x 1 convolution of x.": (
                x1 + x2
            )
            / 2**0.5,
        }
        shortcuts = [
            part
            for part in block.modules()
            if isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1)
        ]
        if not shortcuts:
            for words, wrong in mistakes.items():
                if once.shape == wrong.shape and torch.allclose(
                    once, wrong.double(), atol=1e-5
                ):
                    raise Wrong(f"{words[0].upper()}{words[1:]}")
            raise Wrong(
                "There is no 1 x 1 convolution among the block's parts: make it in `__init__`, as `self.shortcut = ...`."
            )
        way = shortcuts[0](x)
        mistakes |= {
            "the division by the root of 2 is missing, so the variance doubles.": way
            + x2,
            "divided by 2; the sum of two independent signals of variance 1 has the standard deviation root 2.": (
                way + x2
            )
            / 2,
            "this is the shortcut alone.": way,
        }
    compare(
        once,
        (way + x2) / 2**0.5,
        mistakes,
        "",
        1e-5,
        lambda r: (r.std(), "your output has std"),
    )
    block.train()(x).square().sum().backward()
    if shortcuts[0].weight.grad is None:
        raise Wrong(
            "No gradient reaches the shortcut's weights: is it detached, or called under no_grad?"
        )


@exercise(
    "3.3",
    "Hand it z = (e_c(c), e_t(t/T)) and h before `up1`: with these weights it is the ContextUnet's level.",
)
def film(attempt):
    torch.manual_seed(0)
    layer, h, z = _module(attempt, 8, 4), torch.randn(5, 4, 3, 3), torch.randn(5, 8)
    linear = [
        part
        for part in layer.modules()
        if isinstance(part, nn.Linear) and part.weight.shape == (8, 8)
    ]
    if not linear:
        raise Wrong(
            "FiLM(8, 4) has no nn.Linear from 8 numbers to 2 * 4: keep `self.scale_and_shift` as it stands."
        )
    with torch.no_grad():
        linear[0].weight.copy_(torch.eye(8))
        linear[0].bias.zero_()
    scale, shift = z[..., None, None].chunk(2, dim=1)
    mistakes = {
        "scale and shift are swapped: the first half multiplies.": shift * h + scale,
        "the shift is missing.": scale * h,
        "the scale is missing.": h + shift,
        "you multiply by 1 + gamma. Some networks do; this formula has gamma alone.": (
            1 + scale
        )
        * h
        + shift,
        "both are added, and the first should multiply.": h + scale + shift,
        "the shift is multiplied too: it comes after the scale.": scale * (h + shift),
    }
    hint = "(B, channels) does not line up with (B, channels, H, W): add two axes with [..., None, None]."
    mine = with_a_hint("size of tensor", hint, layer, h, z)
    compare(mine, scale * h + shift, mistakes, "", 1e-5)


@exercise("3.4", "Which target would make the same network predict the clean picture?")
def training_pair(attempt):
    schedule, generator = NoiseSchedule.linear(), seeded(0)
    x_0, noise = (torch.randn(3, 3, 16, 16, generator=generator) for _ in range(2))
    noise = (
        noise / noise.std()
    )  # so that the numbers of the message are those of the schedule
    for steps in ((50, 50, 50), (1, 200, 500)):
        t = torch.tensor(steps)
        ab = schedule.ab[t].float().view(-1, 1, 1, 1)
        pair = with_a_hint(
            "size of tensor",
            "`schedule.ab[t]` is (B,): give it three more axes.",
            attempt,
            x_0,
            t,
            noise,
            schedule,
        )
        stacked = (
            isinstance(pair, (torch.Tensor, np.ndarray)) and pair.ndim == 5
        )  # torch.stack([x_t, noise])
        if not (stacked or isinstance(pair, (tuple, list))) or len(pair) != 2:
            raise Wrong(
                f"You returned {type(pair).__name__}; expected a pair: the network's input and its target."
            )
        x_t = perturb_input(x_0, t, noise, schedule)
        inputs = {
            "is the square root on the noise missing?": ab.sqrt() * x_0
            + (1 - ab) * noise,
            "is the square root on the picture missing?": ab * x_0
            + (1 - ab).sqrt() * noise,
            "are both square roots missing?": ab * x_0 + (1 - ab) * noise,
            "this is the noise: input and target are swapped.": noise,
            "this is the clean picture: the network must get the noisy one.": x_0,
            "the picture is not shrunk: it needs the root of alpha-bar.": x_0
            + (1 - ab).sqrt() * noise,
        }
        where = (
            f"at t = {steps[0]}"
            if len(set(steps)) == 1
            else "with another t for each picture"
        )

        def of_the_noise(x_t, ab=ab):
            return (x_t - ab.sqrt() * x_0).std(), "the noise in your input has std"

        compare(pair[0], x_t, inputs, f"{where}, the input", 1e-4, of_the_noise)
        targets = {
            "this is the clean picture; here the network is asked for the noise.": x_0,
            "this is the noise as it lies in x_t; the target is the noise of variance 1.": (
                1 - ab
            ).sqrt()
            * noise,
            "this is the input again.": x_t,
        }
        compare(
            pair[1],
            noise,
            targets,
            f"{where}, the target",
            1e-4,
            lambda r: (r.std(), "your target has std"),
        )


class _Tiny(nn.Module):
    """A network of three numbers, in float64, that depends on x and t."""

    def __init__(self):
        super().__init__()
        self.numbers = nn.Parameter(torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64))

    def forward(self, x, t, c=None):
        a, b, d = self.numbers
        return (
            a * x + b * torch.as_tensor(t, dtype=torch.float64).reshape(-1, 1, 1, 1) + d
        )


def _step(model, optimiser, x_0, t, noise, schedule, fault=""):
    """One training step, with at most one of the usual faults."""
    ab = schedule.ab[t].view(-1, 1, 1, 1)
    x_t = (
        ab.sqrt() * x_0 + ((1 - ab) if fault == "no root" else (1 - ab).sqrt()) * noise
    )
    predicted = model(
        x_0 if fault == "clean input" else x_t,
        t if fault == "t not divided" else t / schedule.T,
    )
    error = (predicted - (x_0 if fault == "clean target" else noise)).square()
    loss = error.sum() if fault == "sum" else error.mean()
    if fault != "gradients kept":
        optimiser.zero_grad()
    loss.backward(loss.detach() if fault == "backward(loss)" else None)
    if fault != "no step":
        optimiser.step()
    return loss.item()


STEP_FAULTS = {
    "no step": "the weights have not moved: is `optimiser.step()` called, and the gradient not cleared before it?",
    "backward(loss)": "the gradient was multiplied by the loss: `loss.backward()` takes no argument here.",
    "t not divided": "t is not divided by T: the network gets t / schedule.T, a number from 0 to 1.",
    "clean target": "the prediction is compared with the clean picture; it is asked for the noise.",
    "clean input": "the network was given the clean picture; it must get x_t.",
    "no root": "is the square root on the noise missing in x_t?",
    "sum": "the squares are summed; take their mean, or the step depends on the size of the batch.",
    "gradients kept": "the gradient of the step before is still in it: is `optimiser.zero_grad()` missing?",
}


@exercise(
    "3.5",
    "Clear the gradients between `backward` and `step`: what does the network learn?",
)
def train_step(attempt):
    schedule, generator = NoiseSchedule.linear(), seeded(0)
    batches = []
    for t in ((20, 100, 300, 480), (5, 200, 350, 410)):
        x_0, noise = (
            torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)
            for _ in range(2)
        )
        batches.append((0.5 + 0.4 * x_0, torch.tensor(t), noise, schedule))

    def ran(step, batches):
        model = _Tiny()
        optimiser = torch.optim.SGD(model.parameters(), 0.1)
        results = [step(model, optimiser, *batch) for batch in batches]
        return model.numbers.detach(), results[-1]

    for n in (1, 2):
        mine, loss = ran(lambda *arguments: tried(attempt, *arguments), batches[:n])
        right, right_loss = ran(_step, batches[:n])
        mistakes = {
            words: ran(lambda *arguments, f=fault: _step(*arguments, f), batches[:n])[0]
            for fault, words in STEP_FAULTS.items()
        }
        mistakes = {
            words: wrong
            for words, wrong in mistakes.items()
            if not torch.equal(wrong, right)
        }
        where = f"the weights of a network with three of them, after {('one step', 'two steps')[n - 1]} of SGD"
        compare(mine, right, mistakes, where)
        compare(loss, right_loss, {}, "the loss that you return")


def _sheet_counts():
    results = json.loads((WEIGHTS / "results.json").read_text(encoding="utf8"))
    return {
        epoch: results["sheets"][f"model_{epoch}"]["legal"]
        for epoch in (0, 4, 12, 24, 31)
    }


@exercise(
    "3.6",
    "Look for the same in the colours' distance below: which of the three falls earliest?",
)
def half_way(attempt):
    legal = _sheet_counts()
    attempt = guessed(attempt, "one of the epochs 0, 4, 12, 24 and 31", tuple(legal))
    right = next(epoch for epoch, n in legal.items() if n >= legal[31] / 2)
    if attempt < right:
        told = f"On the sheet of epoch {attempt}, {legal[attempt]} of 64 {'is' if legal[attempt] == 1 else 'are'} legal, and at last {legal[31]}"
        raise Wrong(
            f"{told}: half of the way is not done by then. The loss was over half-way at epoch 4. Guess later."
        )
    if attempt > right:
        raise Wrong(
            f"The way is half done earlier: at epoch {right}, {legal[right]} of 64 are legal."
        )


@exercise("3.7", "Drop with p = 1: what does the network then learn about the classes?")
def drop(attempt):
    c, generator = torch.ones(4000, 5), seeded(0)

    def after(c, p):
        kept = as_numbers(
            with_a_hint(
                "size of tensor",
                "(B,) does not line up with (B, 5): draw (B, 1).",
                attempt,
                c,
                p,
            )
        )
        if kept.shape != c.shape:
            raise Wrong(
                f"your result has shape {tuple(kept.shape)}, expected {tuple(c.shape)}, as c has."
            )
        return kept

    patterns = []
    for p in (0.1, 0.1, 0.3):
        kept = after(c, p)
        zero = kept == 0
        partly = int((zero.any(1) & ~zero.all(1)).sum())
        if partly:
            raise Wrong(
                f"{partly} of 4,000 rows lost a part of their numbers: one draw decides for a row as a whole, (B, 1) and not (B, 5)."
            )
        dropped = zero.all(1)
        share = dropped.double().mean().item()
        others = kept[~dropped]
        if len(others) and not torch.allclose(others, torch.ones_like(others)):
            factor = others.mean().item()
            scaled = (
                ", as nn.Dropout does: a label is not a signal to keep at its mean"
                if abs(factor - 1 / (1 - p)) < 0.01
                else ""
            )
            raise Wrong(
                f"The rows that stay were multiplied by {factor:.2f}{scaled}. They must stay as they are."
            )
        if abs(share - p) > 0.04:
            turned = (
                ": p is the share dropped, not the share kept"
                if abs(share - 1 + p) < 0.04
                else ""
            )
            cause = ": all rows share one draw" if share in (0, 1) else turned
            raise Wrong(f"With p = {p} a share of {share:.2f} was dropped{cause}.")
        patterns.append(dropped)
    if torch.equal(patterns[0], patterns[1]):
        raise Wrong(
            "Two calls dropped the same rows: the draw must be a new one each time."
        )
    counts = {int((after(c[:10], 0.3) == 0).all(1).sum()) for _ in range(200)}
    if len(counts) == 1:
        raise Wrong(
            f"Each of 200 batches of 10 rows lost exactly {counts.pop()} of them: rows must be dropped independently, so the number varies."
        )
    labels = torch.eye(5)[torch.randint(5, (50,), generator=generator)]
    compare(tried(attempt, labels, 0.0), labels, {}, "with p = 0")


def _average(ema, model, n, decay, fault=""):
    """One update of an average, with at most one of the usual faults."""
    warm = (1 + n) / (10 + n)
    d = (
        decay
        if fault == "no warm-up"
        else max(decay, warm)
        if fault == "max"
        else warm
        if fault == "warm-up only"
        else min(decay, warm)
    )
    parameters = {name for name, _ in model.named_parameters()}
    for name, new in model.state_dict().items():
        if fault == "parameters only" and name not in parameters:
            continue
        if not new.is_floating_point() or (
            fault == "buffers copied" and name not in parameters
        ):
            ema[name].copy_(new)
        else:
            ema[name].lerp_(new, d if fault == "swapped" else 1 - d)
    return ema


AVERAGE_FAULTS = {
    "no warm-up": "the decay is not warmed up: d = min(decay, (1 + n) / (10 + n)), or the random first weights stay too long.",
    "swapped": "the decay is swapped: d belongs to the old average, 1 - d to the new weights.",
    "max": "the larger of the two decays was taken; the warm-up is the smaller one at first.",
    "warm-up only": "the warm-up never ends: it must stop at `decay` (`min`).",
    "parameters only": "batch norm's buffers were left as they were: go through state_dict(), not parameters().",
    "buffers copied": "batch norm's running mean and variance were copied; they are averaged as well.",
}


@exercise(
    "3.8",
    "Leave the buffers out on purpose and sample: what does batch norm do with statistics of another network?",
)
def update_average(attempt):
    decay = 0.6

    def ran(update, updates):
        torch.manual_seed(0)
        small, ema = ResidualConvBlock(3, 4), None
        for n in range(updates + 1):
            small(torch.randn(8, 3, 4, 4))  # moves batch norm's buffers
            for p in small.parameters():
                p.data += 0.1 * torch.randn_like(p)
            if ema is None:
                ema = {
                    name: tensor.clone() for name, tensor in small.state_dict().items()
                }
            else:
                given, model = ema, small.state_dict()
                ema = update(given, small, n, decay)
                if not isinstance(ema, Mapping) or set(ema) != set(model):
                    raise Wrong(
                        f"You returned {type(ema).__name__}; expected `ema` itself, with all its names."
                    )
                for name, average in ema.items():
                    if (
                        torch.is_tensor(average)
                        and average.untyped_storage().data_ptr()
                        == model[name].untyped_storage().data_ptr()
                    ):
                        raise Wrong(
                            f"ema[{name!r}] has become the model's own tensor, which changes with every training step: copy its values."
                        )
                if any(
                    not torch.equal(as_numbers(given[name]), as_numbers(average))
                    for name, average in ema.items()
                ):
                    raise Wrong(
                        "You returned a new average, and `ema` itself is as it was: update it in place (`copy_`, `lerp_`, ema[name] = ...)."
                    )
        return {**ema}

    def mine(*arguments):
        return with_a_hint(
            "Long",
            "Batch norm's counter is a whole number: copy it.",
            attempt,
            *arguments,
        )

    for updates in (1, 2, 30):
        ours, right = ran(mine, updates), ran(_average, updates)
        wrong = {
            words: ran(lambda *a, f=fault: _average(*a, f), updates)
            for fault, words in AVERAGE_FAULTS.items()
        }
        for name in sorted(
            right, key=lambda name: ("tracked" in name, "running" in name)
        ):
            mistakes = {
                words: table[name]
                for words, table in wrong.items()
                if not torch.equal(table[name], right[name])
            }
            if "tracked" in name:  # whatever was done to it
                mistakes = {
                    "batch norm's counter is a whole number: copy it, do not average it.": ours[
                        name
                    ]
                }
            compare(
                ours[name],
                right[name],
                mistakes,
                f"after {updates} of your updates with decay {decay}, {name}",
                1e-5,
            )


@exercise(
    "3.9",
    "Give it t = 400: which colours are left when the pixel says hardly anything?",
)
def pixel_probabilities(attempt):
    schedule, generator = NoiseSchedule.linear(), seeded(4)
    palette, pixel = (
        2 * torch.rand(6, 3, generator=generator) - 1,
        torch.tensor([0.4, -0.1, 0.2]),
    )
    log_share = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.07, 0.03]).log()
    for t in (200, 50):
        ab = schedule.ab[t].float()
        apart = pixel - ab.sqrt() * palette
        far, prior, variance = apart.square().sum(1), log_share, 1 - ab
        right = (prior - far / (2 * variance)).softmax(0)
        mine = tried(attempt, pixel, t, palette, log_share, schedule)
        times = prior * (-far / (2 * variance)).exp()
        mistakes = {
            "the shares of the colours are missing: add log_share.": (
                -far / (2 * variance)
            ).softmax(0),
            "the root of alpha-bar is missing on the palette.": (
                prior - (pixel - ab * palette).square().sum(1) / (2 * variance)
            ).softmax(0),
            "the palette is not shrunk: in x_t a colour is root alpha-bar times itself.": (
                prior - (pixel - palette).square().sum(1) / (2 * variance)
            ).softmax(0),
            "the 2 under the fraction is missing.": (prior - far / variance).softmax(0),
            "that divides by the standard deviation; the variance is 1 - alpha-bar.": (
                prior - far / (2 * variance.sqrt())
            ).softmax(0),
            "the variance of the noise is 1 - alpha-bar, not alpha-bar.": (
                prior - far / (2 * ab)
            ).softmax(0),
            "the distance is not squared.": (
                prior - far.sqrt() / (2 * variance)
            ).softmax(0),
            "the squares of the three channels are averaged; they are summed.": (
                prior - far / (6 * variance)
            ).softmax(0),
            "the sign is turned: the nearer colour is the likelier one.": (
                prior + far / (2 * variance)
            ).softmax(0),
            "these are logarithms: the softmax is missing.": prior
            - far / (2 * variance),
            "the probabilities do not add up to 1: divide by their sum (softmax does).": (
                prior - far / (2 * variance)
            ).exp(),
            "log_share is a logarithm already: add the two and let the softmax normalise.": nearest(
                mine, times, times.softmax(0), times / times.sum()
            ),
            "log_share is a logarithm already; it was added as a share.": (
                prior.exp() - far / (2 * variance)
            ).softmax(0),
        }
        compare(mine, right, mistakes, f"at t = {t}", 1e-4)
