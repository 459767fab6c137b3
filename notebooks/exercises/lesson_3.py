"""The judges of lesson 3's exercises (they spoil them)."""

import json
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
import torch.nn as nn

from diffusion_utilities import WEIGHTS, NoiseSchedule, ResidualConvBlock, perturb_input
from exercises import (
    Wrong,
    as_numbers,
    at_steps,
    compare,
    exercise,
    guessed,
    nearest,
    seeded,
    shown_std,
    tried,
    with_a_hint,
)


def _module(attempt, *arguments):
    """What the attempt's class makes of these arguments, if it is a network."""
    made = tried(attempt, *arguments)
    if not isinstance(made, nn.Module):
        raise Wrong(
            f"This makes {type(made).__name__}, not a network: "
            "hand over your class itself, which must inherit from nn.Module."
        )
    return made


# ---- 3.1 -----------------------------------------------------------------------------

FIRST = 3 * 64 * 9  # weights of the first convolution, 3 to 64 channels
SECOND = 64 * 64 * 9  # weights of the second one, 64 to 64 channels
NORMS = 2 * 2 * 64  # two batch norms, two numbers a channel each
ALL = FIRST + 64 + SECOND + 64 + NORMS


def count_mistakes():
    yield (
        "128 are missing. Are there 64 biases in each convolution, "
        "and two numbers a channel in each batch norm?",
        ALL - 128,
    )
    yield (
        "are the two batch norms missing? They have two numbers a channel each.",
        ALL - NORMS,
    )
    yield (
        "the convolutions' biases and the batch norms are missing.",
        FIRST + SECOND,
    )
    yield (
        "a batch norm's running mean and variance are counted too, "
        "but no training adjusts them.",
        ALL + NORMS,
    )
    without_window = 3 * 64 + 64 * 64
    yield (
        "is the window missing? "
        "A 3 x 3 convolution has 9 weights for each pair of channels.",
        without_window + 128 + NORMS,
    )
    yield (
        "the second convolution goes from 64 channels to 64, not from 3.",
        2 * (FIRST + 64) + NORMS,
    )
    yield (
        "this is the first convolution alone, with its batch norm.",
        FIRST + 64 + 2 * 64,
    )
    yield "this counts the first convolution alone.", FIRST + 64


@exercise(
    "3.1",
    "And `ResidualConvBlock(64, 64)`, in the same way: why is it nearly twice as many?",
)
def count(attempt):
    mine = as_numbers(attempt)
    if mine.ndim or not mine.isfinite():
        raise Wrong(f"You have {attempt!r:.60}; expected one number, the sum.")
    mine = float(mine)
    for sentence, wrong in count_mistakes():
        if mine == wrong:
            raise Wrong(sentence)
    if mine != ALL:
        fault = "few" if mine < ALL else "many"
        raise Wrong(
            f"{mine:,g} is too {fault}: "
            "two convolutions with their biases, and two batch norms."
        )


# ---- 3.2 -----------------------------------------------------------------------------


def block_mistakes(x1, x2):
    """Mistakes of a block that has no 1 x 1 convolution."""
    yield (
        "this is the second convolution alone: "
        "the block is not residual, its shortcut is missing.",
        x2,
    )
    yield (
        "that is the helper's repair, whose shortcut is the first convolution's "
        "output. Here it is a 1 x 1 convolution of x.",
        (x1 + x2) / 2**0.5,
    )


def sum_mistakes(shortcut, x2):
    yield (
        "the division by the root of 2 is missing, so the variance doubles.",
        shortcut + x2,
    )
    yield (
        "divided by 2; the sum of two independent signals of variance 1 has the "
        "standard deviation root 2.",
        (shortcut + x2) / 2,
    )
    yield "this is the shortcut alone.", shortcut


def answer_of_block(block, x):
    """The block's answer in eval mode, which must be the same each time."""
    hint = "Does the shortcut have out_channels channels?"
    once = as_numbers(with_a_hint("size of tensor", hint, block, x))
    again = as_numbers(with_a_hint("size of tensor", hint, block, x))
    if once.shape == again.shape and not torch.allclose(once, again):
        off = ((once - again).std() / once.std()).item()
        raise Wrong(
            f"The same input gives two answers, which differ by {off:.2f} of the "
            "output's spread: is a layer still made in `forward`?"
        )
    return once


def shortcut_of(block, answer, x1, x2):
    """The 1 x 1 convolution among the block's parts."""
    for part in block.modules():
        if isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1):
            return part
    for sentence, wrong in block_mistakes(x1, x2):
        wrong = wrong.double()
        if answer.shape == wrong.shape and torch.allclose(answer, wrong, atol=1e-5):
            raise Wrong(sentence)
    raise Wrong(
        "There is no 1 x 1 convolution among the block's parts: "
        "make it in `__init__`, as `self.shortcut = ...`."
    )


@exercise(
    "3.2",
    "Compare its number of parameters with that of the block which the course uses: "
    "what would published weights say?",
)
def repaired_block(attempt):
    torch.manual_seed(0)
    block = _module(attempt, 3, 8)
    x = torch.randn(4, 3, 6, 6)
    if not hasattr(block, "conv1"):
        raise Wrong(
            "Your block has no conv1 and conv2: inherit from ResidualConvBlock, "
            "and call super().__init__ first."
        )
    block.eval()
    answer = answer_of_block(block, x)
    with torch.no_grad():
        x1 = block.conv1(x)
        x2 = block.conv2(x1)
        convolution = shortcut_of(block, answer, x1, x2)
        shortcut = convolution(x)
    mistakes = [*block_mistakes(x1, x2), *sum_mistakes(shortcut, x2)]
    compare(
        answer,
        (shortcut + x2) / 2**0.5,
        mistakes,
        number=shown_std("your output has std"),
    )
    block.train()
    block(x).square().sum().backward()
    if convolution.weight.grad is None:
        raise Wrong(
            "No gradient reaches the shortcut's weights: "
            "is it detached, or called under no_grad?"
        )


# ---- 3.3 -----------------------------------------------------------------------------


def film_mistakes(h, scale, shift):
    yield (
        "scale and shift are swapped: the first half multiplies.",
        shift * h + scale,
    )
    yield "the shift is missing.", scale * h
    yield "the scale is missing.", h + shift
    yield (
        "you multiply by 1 + gamma. Some networks do; this formula has gamma alone.",
        (1 + scale) * h + shift,
    )
    yield "both are added, and the first should multiply.", h + scale + shift
    yield (
        "the shift is multiplied too: it comes after the scale.",
        scale * (h + shift),
    )


@exercise(
    "3.3",
    "Hand it z = (e_c(c), e_t(t/T)) and h before `up1`: "
    "with these weights it is the ContextUnet's level.",
)
def film(attempt):
    torch.manual_seed(0)
    layer = _module(attempt, 8, 4)
    h = torch.randn(5, 4, 3, 3)
    z = torch.randn(5, 8)
    linears = [part for part in layer.modules() if isinstance(part, nn.Linear)]
    fitting = [linear for linear in linears if linear.weight.shape == (8, 8)]
    if not fitting:
        raise Wrong(
            "FiLM(8, 4) has no nn.Linear from 8 numbers to 2 * 4: "
            "keep the line of `self.scale_and_shift` unchanged."
        )
    with torch.no_grad():
        fitting[0].weight.copy_(torch.eye(8))
        fitting[0].bias.zero_()
    scale, shift = z[..., None, None].chunk(2, dim=1)
    mine = with_a_hint(
        "size of tensor",
        "(B, channels) does not line up with (B, channels, H, W): "
        "add two axes with [..., None, None].",
        layer,
        h,
        z,
    )
    compare(mine, scale * h + shift, film_mistakes(h, scale, shift))


# ---- 3.4 -----------------------------------------------------------------------------


def input_mistakes(ab, x_0, noise):
    picture_share = ab.sqrt()
    noise_share = (1 - ab).sqrt()
    yield (
        "is the square root on the noise missing?",
        picture_share * x_0 + (1 - ab) * noise,
    )
    yield (
        "is the square root on the picture missing?",
        ab * x_0 + noise_share * noise,
    )
    yield "are both square roots missing?", ab * x_0 + (1 - ab) * noise
    yield "this is the noise: input and target are swapped.", noise
    yield "this is the clean picture: the network must get the noisy one.", x_0
    yield (
        "the picture is not shrunk: it needs the root of alpha-bar.",
        x_0 + noise_share * noise,
    )


def target_mistakes(ab, x_0, x_t, noise):
    yield (
        "this is the clean picture; here the network is asked for the noise.",
        x_0,
    )
    yield (
        "this is the noise as it is in x_t; the target is the noise of variance 1.",
        (1 - ab).sqrt() * noise,
    )
    yield "this is the input again.", x_t


def a_pair(answer):
    """The two parts of a pair: a tuple, a list, or two batches stacked."""
    is_array = isinstance(answer, (torch.Tensor, np.ndarray))
    is_stack = is_array and answer.ndim == 5  # torch.stack([x_t, noise])
    is_sequence = is_stack or isinstance(answer, (tuple, list))
    if not is_sequence or len(answer) != 2:
        raise Wrong(
            f"You returned {type(answer).__name__}; "
            "expected a pair: the network's input and its target."
        )
    return answer


@exercise("3.4", "Which target would make the same network predict the clean picture?")
def training_pair(attempt):
    schedule = NoiseSchedule.linear()
    generator = seeded(0)
    x_0 = torch.randn(3, 3, 16, 16, generator=generator)
    noise = torch.randn(3, 3, 16, 16, generator=generator)
    noise = noise / noise.std()  # so that the message shows the schedule's numbers
    for steps in ((50, 50, 50), (1, 200, 500)):
        t = torch.tensor(steps)
        ab = schedule.ab[t].float().view(-1, 1, 1, 1)
        hint = "`schedule.ab[t]` is (B,): give it three more axes."
        answer = with_a_hint("size of tensor", hint, attempt, x_0, t, noise, schedule)
        x_in, target = a_pair(answer)
        x_t = perturb_input(x_0, t, noise, schedule)

        def std_of_the_noise(x_t, ab=ab):
            noise = x_t - ab.sqrt() * x_0
            return noise.std(), "the noise in your input has std"

        compare(
            x_in,
            x_t,
            input_mistakes(ab, x_0, noise),
            where=f"{at_steps(steps)}, the input",
            tolerance=1e-4,
            number=std_of_the_noise,
        )
        compare(
            target,
            noise,
            target_mistakes(ab, x_0, x_t, noise),
            where=f"{at_steps(steps)}, the target",
            tolerance=1e-4,
            number=shown_std("your target has std"),
        )


# ---- 3.5 -----------------------------------------------------------------------------


class _Tiny(nn.Module):
    """A network of three numbers, in float64, that depends on x and t."""

    def __init__(self):
        super().__init__()
        start = torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64)
        self.numbers = nn.Parameter(start)

    def forward(self, x, t, c=None):
        a, b, d = self.numbers
        t = torch.as_tensor(t, dtype=torch.float64).reshape(-1, 1, 1, 1)
        return a * x + b * t + d


def _step(model, optimiser, x_0, t, noise, schedule, fault=""):
    """One training step, with at most one of the usual faults."""
    ab = schedule.ab[t].view(-1, 1, 1, 1)
    noise_share = 1 - ab if fault == "no root" else (1 - ab).sqrt()
    x_t = ab.sqrt() * x_0 + noise_share * noise
    if fault == "clean input":
        x_t = x_0
    time = t if fault == "t not divided" else t / schedule.T
    target = x_0 if fault == "clean target" else noise
    squares = (model(x_t, time) - target).square()
    loss = squares.sum() if fault == "sum" else squares.mean()
    if fault != "gradients kept":
        optimiser.zero_grad()
    if fault == "backward(loss)":
        loss.backward(loss.detach())
    else:
        loss.backward()
    if fault != "no step":
        optimiser.step()
    return loss.item()


STEP_FAULTS = {
    "no step": "the weights have not moved: is `optimiser.step()` called, "
    "and the gradient not cleared before it?",
    "backward(loss)": "the gradient was multiplied by the loss: "
    "`loss.backward()` takes no argument here.",
    "t not divided": "t is not divided by T: "
    "the network gets t / schedule.T, a number from 0 to 1.",
    "clean target": "the prediction is compared with the clean picture; "
    "it is asked for the noise.",
    "clean input": "the network was given the clean picture; it must get x_t.",
    "no root": "is the square root on the noise missing in x_t?",
    "sum": "the squares are summed; take their mean, "
    "or the step depends on the size of the batch.",
    "gradients kept": "the gradient of the step before is still in it: "
    "is `optimiser.zero_grad()` missing?",
}


def two_batches(schedule):
    """What two training steps get after the model and its optimiser."""
    generator = seeded(0)
    batches = []
    for t in ((20, 100, 300, 480), (5, 200, 350, 410)):
        shape = (4, 3, 8, 8)
        x_0 = torch.randn(shape, generator=generator, dtype=torch.float64)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        batches.append((0.5 + 0.4 * x_0, torch.tensor(t), noise, schedule))
    return batches


def after_steps(step, batches):
    """The tiny network's numbers after a training step for each batch, and the loss."""
    model = _Tiny()
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    for batch in batches:
        loss = step(model, optimiser, *batch)
    return model.numbers.detach(), loss


def step_mistakes(batches, right):
    for fault, sentence in STEP_FAULTS.items():
        wrong, _ = after_steps(partial(_step, fault=fault), batches)
        if not torch.equal(wrong, right):
            yield sentence, wrong


@exercise(
    "3.5",
    "Clear the gradients between `backward` and `step`: what does the network learn?",
)
def train_step(attempt):
    batches = two_batches(NoiseSchedule.linear())
    for n, how_many in ((1, "one step"), (2, "two steps")):
        mine, loss = after_steps(partial(tried, attempt), batches[:n])
        right, right_loss = after_steps(_step, batches[:n])
        compare(
            mine,
            right,
            step_mistakes(batches[:n], right),
            where="the weights of a network with three of them, "
            f"after {how_many} of SGD",
        )
        compare(loss, right_loss, where="the loss that you return")


# ---- 3.6 -----------------------------------------------------------------------------


def _sheet_counts():
    """How many of 64 stored samples are legal, for each epoch."""
    results = json.loads((WEIGHTS / "results.json").read_text(encoding="utf8"))
    sheets = results["sheets"]
    return {epoch: sheets[f"model_{epoch}"]["legal"] for epoch in (0, 4, 12, 24, 31)}


@exercise(
    "3.6",
    "Look for the same in the colours' distance below: "
    "which of the three falls earliest?",
)
def half_way(attempt):
    legal = _sheet_counts()
    guess = guessed(attempt, "one of the epochs 0, 4, 12, 24 and 31", tuple(legal))
    right = next(epoch for epoch, n in legal.items() if n >= legal[31] / 2)
    if guess < right:
        are = "is" if legal[guess] == 1 else "are"
        raise Wrong(
            f"On the sheet of epoch {guess}, {legal[guess]} of 64 {are} legal, and at "
            f"last {legal[31]}: half of the way is not done by then. "
            "The loss was over half-way at epoch 4. Guess later."
        )
    if guess > right:
        raise Wrong(
            f"Half of the way is done earlier: at epoch {right}, {legal[right]} of 64 "
            "are legal."
        )


# ---- 3.7 -----------------------------------------------------------------------------


def after_dropping(attempt, c, p):
    hint = "(B,) does not line up with (B, 5): draw (B, 1)."
    kept = as_numbers(with_a_hint("size of tensor", hint, attempt, c, p))
    if kept.shape != c.shape:
        raise Wrong(
            f"your result has shape {tuple(kept.shape)}, "
            f"expected {tuple(c.shape)}, as c has."
        )
    return kept


def dropped_rows(kept):
    """Which rows of ones became zeros; raises Wrong if a row lost only a part."""
    zero = kept == 0
    dropped = zero.all(1)
    partly = int((zero.any(1) & ~dropped).sum())
    if partly:
        raise Wrong(
            f"{partly} of 4,000 rows lost a part of their numbers: one draw decides "
            "for a row as a whole, (B, 1) and not (B, 5)."
        )
    return dropped


def check_the_others(others, p):
    """The rows of ones that were not dropped must still be ones."""
    if not len(others) or torch.allclose(others, torch.ones_like(others)):
        return
    factor = others.mean().item()
    like_dropout = abs(factor - 1 / (1 - p)) < 0.01
    reason = ", as nn.Dropout does: a label is not a signal to keep at its mean"
    raise Wrong(
        f"The rows that stay were multiplied by {factor:.2f}"
        f"{reason if like_dropout else ''}. They must stay as they are."
    )


def check_the_share(share, p):
    if abs(share - p) <= 0.04:
        return
    cause = ""
    if share in (0, 1):
        cause = ": all rows share one draw"
    elif abs(share - 1 + p) < 0.04:
        cause = ": p is the share dropped, not the share kept"
    raise Wrong(f"With p = {p} a share of {share:.2f} was dropped{cause}.")


def check_independence(attempt, c):
    """The number of rows dropped must vary from batch to batch."""
    counts = set()
    for _ in range(200):
        kept = after_dropping(attempt, c[:10], 0.3)
        counts.add(int((kept == 0).all(1).sum()))
    if len(counts) == 1:
        raise Wrong(
            f"Each of 200 batches of 10 rows lost exactly {counts.pop()} of them: "
            "rows must be dropped independently, so the number varies."
        )


@exercise("3.7", "Drop with p = 1: what does the network then learn about the classes?")
def drop(attempt):
    c = torch.ones(4000, 5)
    patterns = []
    for p in (0.1, 0.1, 0.3):
        kept = after_dropping(attempt, c, p)
        dropped = dropped_rows(kept)
        check_the_others(kept[~dropped], p)
        check_the_share(dropped.double().mean().item(), p)
        patterns.append(dropped)
    if torch.equal(patterns[0], patterns[1]):
        raise Wrong(
            "Two calls dropped the same rows: the draw must be a new one each time."
        )
    check_independence(attempt, c)
    classes = torch.randint(5, (50,), generator=seeded(0))
    labels = torch.eye(5)[classes]
    compare(tried(attempt, labels, 0.0), labels, where="with p = 0")


# ---- 3.8 -----------------------------------------------------------------------------


def _decay(n, decay, fault):
    warm_up = (1 + n) / (10 + n)
    if fault == "no warm-up":
        return decay
    if fault == "max":
        return max(decay, warm_up)
    if fault == "warm-up only":
        return warm_up
    return min(decay, warm_up)


def _average(ema, model, n, decay, fault=""):
    """One update of an average, with at most one of the usual faults."""
    d = _decay(n, decay, fault)
    if fault == "swapped":
        d = 1 - d
    parameters = {name for name, _ in model.named_parameters()}
    for name, new in model.state_dict().items():
        is_buffer = name not in parameters
        if fault == "parameters only" and is_buffer:
            continue
        copied = fault == "buffers copied" and is_buffer
        if copied or not new.is_floating_point():
            ema[name].copy_(new)
        else:
            ema[name].lerp_(new, 1 - d)
    return ema


AVERAGE_FAULTS = {
    "no warm-up": "the decay is not warmed up: d = min(decay, (1 + n) / (10 + n)), "
    "or the random first weights stay too long.",
    "swapped": "the decay is swapped: "
    "d belongs to the old average, 1 - d to the new weights.",
    "max": "the larger of the two decays was taken; "
    "the warm-up is the smaller one at first.",
    "warm-up only": "the warm-up never ends: it must stop at `decay` (`min`).",
    "parameters only": "batch norm's buffers were left as they were: "
    "go through state_dict(), not parameters().",
    "buffers copied": "batch norm's running mean and variance were copied; "
    "they are averaged as well.",
}
DECAY = 0.6


def after_updates(update, updates):
    """The average of a small network that changes before each update."""
    torch.manual_seed(0)
    small = ResidualConvBlock(3, 4)
    ema = None
    for n in range(updates + 1):
        small(torch.randn(8, 3, 4, 4))  # moves batch norm's buffers
        for p in small.parameters():
            p.data += 0.1 * torch.randn_like(p)
        if ema is None:
            weights = small.state_dict().items()
            ema = {name: tensor.clone() for name, tensor in weights}
        else:
            ema = update(ema, small, n, DECAY)
    return {**ema}


def updated(attempt, ema, model, n, decay):
    """What the attempt makes of `ema`: it must be `ema` itself, and changed."""
    hint = "Batch norm's counter is a whole number: copy it."
    answer = with_a_hint("Long", hint, attempt, ema, model, n, decay)
    weights = model.state_dict()
    if not isinstance(answer, Mapping) or set(answer) != set(weights):
        raise Wrong(
            f"You returned {type(answer).__name__}; "
            "expected `ema` itself, with all its names."
        )
    for name, average in answer.items():
        if torch.is_tensor(average) and shares_memory(average, weights[name]):
            raise Wrong(
                f"ema[{name!r}] has become the model's own tensor, "
                "which changes with every training step: copy its values."
            )
    for name, average in answer.items():
        if not torch.equal(as_numbers(ema[name]), as_numbers(average)):
            raise Wrong(
                "You returned a new average, and `ema` itself is as it was: "
                "update it in place (`copy_`, `lerp_`, ema[name] = ...)."
            )
    return answer


def shares_memory(a, b):
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def average_mistakes(name, mine, right, wrong):
    """For one entry of the average; `wrong` has the averages of all faults."""
    if "tracked" in name:  # whatever was done to it
        yield (
            "batch norm's counter is a whole number: copy it, do not average it.",
            mine,
        )
        return
    for sentence, average in wrong.items():
        if not torch.equal(average[name], right):
            yield sentence, average[name]


def counters_last(name):
    """A sorting key: first the parameters, then running statistics, then counters."""
    return "tracked" in name, "running" in name


@exercise(
    "3.8",
    "Leave the buffers out on purpose and sample: "
    "what does batch norm do with statistics of another network?",
)
def update_average(attempt):
    for updates in (1, 2, 30):
        mine = after_updates(partial(updated, attempt), updates)
        right = after_updates(_average, updates)
        wrong = {}
        for fault, sentence in AVERAGE_FAULTS.items():
            faulty = partial(_average, fault=fault)
            wrong[sentence] = after_updates(faulty, updates)
        for name in sorted(right, key=counters_last):
            mistakes = average_mistakes(name, mine[name], right[name], wrong)
            compare(
                mine[name],
                right[name],
                mistakes,
                where=f"after {updates} of your updates with decay {DECAY}, {name}",
            )


# ---- 3.9 -----------------------------------------------------------------------------


def likelihood_mistakes(prior, far, variance):
    """Mistakes in the exponent -far / (2 variance), or after it."""
    likelihood = -far / (2 * variance)
    yield (
        "the 2 under the fraction is missing.",
        (prior - far / variance).softmax(0),
    )
    yield (
        "that divides by the standard deviation; the variance is 1 - alpha-bar.",
        (prior - far / (2 * variance.sqrt())).softmax(0),
    )
    yield (
        "the variance of the noise is 1 - alpha-bar, not alpha-bar.",
        (prior - far / (2 * (1 - variance))).softmax(0),
    )
    yield (
        "the distance is not squared.",
        (prior - far.sqrt() / (2 * variance)).softmax(0),
    )
    yield (
        "the squares of the three channels are averaged; they are summed.",
        (prior + likelihood / 3).softmax(0),
    )
    yield (
        "the sign is reversed: the nearer colour is the likelier one.",
        (prior - likelihood).softmax(0),
    )
    scores = prior + likelihood
    yield "these are logarithms: the softmax is missing.", scores
    yield (
        "the probabilities do not add up to 1: divide by their sum (softmax does).",
        scores.exp(),
    )


def prior_mistakes(mine, prior, likelihood):
    """Mistakes with the shares of the colours; `likelihood` is the exponent."""
    yield (
        "the shares of the colours are missing: add log_share.",
        likelihood.softmax(0),
    )
    product = prior * likelihood.exp()
    forms = product, product.softmax(0), product / product.sum()
    yield (
        "log_share is a logarithm already: add the two and let the softmax normalise.",
        nearest(mine, *forms),
    )
    yield (
        "log_share is a logarithm already; it was added as a share.",
        (prior.exp() + likelihood).softmax(0),
    )


def palette_mistakes(prior, pixel, palette, ab):
    """Mistakes in the distance from the pixel to the colours."""
    rootless = (pixel - ab * palette).square().sum(1)
    whole = (pixel - palette).square().sum(1)
    variance = 1 - ab
    yield (
        "the root of alpha-bar is missing on the palette.",
        (prior - rootless / (2 * variance)).softmax(0),
    )
    yield (
        "the palette is not shrunk: in x_t a colour is root alpha-bar times itself.",
        (prior - whole / (2 * variance)).softmax(0),
    )


@exercise(
    "3.9",
    "Give it t = 400: which colours are left when the pixel says hardly anything?",
)
def pixel_probabilities(attempt):
    schedule = NoiseSchedule.linear()
    palette = 2 * torch.rand(6, 3, generator=seeded(4)) - 1
    pixel = torch.tensor([0.4, -0.1, 0.2])
    log_share = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.07, 0.03]).log()
    for t in (200, 50):
        mine = tried(attempt, pixel, t, palette, log_share, schedule)
        ab = schedule.ab[t].float()
        far = (pixel - ab.sqrt() * palette).square().sum(1)
        right = (log_share - far / (2 * (1 - ab))).softmax(0)
        mistakes = [
            *palette_mistakes(log_share, pixel, palette, ab),
            *likelihood_mistakes(log_share, far, 1 - ab),
            *prior_mistakes(mine, log_share, -far / (2 * (1 - ab))),
        ]
        compare(mine, right, mistakes, where=f"at t = {t}", tolerance=1e-4)
