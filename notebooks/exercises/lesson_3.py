"""The judges of lesson 3's exercises (they spoil them)."""

import json
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
import torch.nn as nn

from diffusion_utilities import (
    WEIGHTS,
    NoiseSchedule,
    ResidualConvBlock,
    perturb_input,
    predict_x0,
)
from exercises import (
    Wrong,
    as_numbers,
    at_steps,
    compare,
    exercise,
    guessed,
    seeded,
    shown_std,
    tried,
    with_a_hint,
)

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


@exercise("3.2", "Which target would make the same network predict the clean picture?")
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


# ---- 3.3 -----------------------------------------------------------------------------


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
    "3.3",
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


# ---- 3.4 -----------------------------------------------------------------------------

SAMPLER_FAULTS = {
    "no clamp": "keep the guess in the range from -1 to 1: `.clamp(-1, 1)`.",
    "t not divided": "t is not divided by T: "
    "the network gets t / schedule.T, a number from 0 to 1.",
    "fresh noise": "new noise was added; put the predicted noise back.",
    "stays": "the noise of step t was put back: go to the next step of the list.",
    "one jump": "you return the first guess; go on to the smaller steps.",
    "the noisy one": "you start each step from the first x: it must be the x of the "
    "step before.",
    "still noisy": "you return the picture before the last step, which is at t = "
    "steps[-2].",
}


def _draw(model, x, steps, schedule, fault=""):
    """The six-line sampler, with at most one of the usual faults."""
    first = x
    for t, t_next in zip(steps, steps[1:]):
        if fault == "the noisy one":
            x = first
        before = x
        time = torch.full((len(x),), t if fault == "t not divided" else t / schedule.T)
        noise = model(x, time)
        x_0 = predict_x0(x, t, noise, schedule)
        if fault != "no clamp":
            x_0 = x_0.clamp(-1, 1)
        if fault == "one jump":
            return x_0
        if fault == "fresh noise":
            noise = torch.randn(x.shape, generator=seeded(3)).to(x)
        target = t if fault == "stays" else t_next
        x = perturb_input(x_0, target, noise, schedule)
    return before if fault == "still noisy" else x


def _guess(x, time, c=None):
    """A "network" whose answer depends on its picture and on the time."""
    return (0.7 * x + 0.5 * time.to(x).view(-1, 1, 1, 1)).sin()


def fresh_noise_was_drawn(attempt, x, steps, schedule):
    """Whether two calls with the same start differ."""
    torch.manual_seed(0)
    once = as_numbers(tried(attempt, _guess, x, steps, schedule))
    again = as_numbers(tried(attempt, _guess, x, steps, schedule))
    return once.shape == again.shape and not torch.equal(once, again)


@exercise(
    "3.4",
    "Give it only five steps, then one: what happens to the sprites of section 7?",
)
def my_sampler(attempt):
    schedule = NoiseSchedule.linear()
    x = torch.randn(3, 3, 8, 8, generator=seeded(1))
    for steps in ([500, 0], [500, 300, 120, 0]):
        if fresh_noise_was_drawn(attempt, x, steps, schedule):
            raise Wrong(SAMPLER_FAULTS["fresh noise"].capitalize())
        mine = tried(attempt, _guess, x, steps, schedule)
        right = _draw(_guess, x, steps, schedule)
        mistakes = []
        for fault, sentence in SAMPLER_FAULTS.items():
            wrong = _draw(_guess, x, steps, schedule, fault)
            if not torch.allclose(wrong, right, atol=1e-4):
                mistakes.append((sentence, wrong))
        compare(mine, right, mistakes, where=f"with steps {steps}", tolerance=1e-4)


# ---- 3.5 -----------------------------------------------------------------------------


def _sheet_counts():
    """How many of 64 stored samples are legal, for each epoch."""
    results = json.loads((WEIGHTS / "results.json").read_text(encoding="utf8"))
    sheets = results["sheets"]
    return {epoch: sheets[f"model_{epoch}"]["legal"] for epoch in (0, 4, 12, 24, 31)}


@exercise(
    "3.5",
    "Lesson 4 shows the five epochs side by side: where do you see the difference?",
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


# ---- 3.6 -----------------------------------------------------------------------------


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
    "3.6",
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
