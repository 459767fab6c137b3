"""The judges of lesson 3's exercises (they spoil them)."""

import json
from functools import partial

import torch
import torch.nn as nn

from diffusion_utilities import (
    WEIGHTS,
    NoiseSchedule,
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
    normal,
    seeded,
    tried,
    with_a_hint,
)

# ---- 3.1 -----------------------------------------------------------------------------

LAYERS = ("enter", "down", "embed_time", "middle", "up", "out")


def small_unet(net, x, t, fault=""):
    """The forward pass of the lesson's small U-Net, with at most one usual fault."""
    time = net.embed_time(t)[..., None, None]
    full = net.enter(x)
    half = net.down(full)
    before = half + time if fault == "time before" else half
    middle = half if fault == "no middle" else net.middle(before)
    if fault == "time multiplied":
        middle = middle * time
    elif fault not in ("no time", "time before"):
        middle = middle + time
    skip = half + time if fault == "time in skip" else half
    up = net.up(skip, middle) if fault == "up swapped" else net.up(middle, skip)
    parts = (full, up) if fault == "out swapped" else (up, full)
    return net.out(torch.cat(parts, 1))


UNET_FAULTS = {
    "no time": "the time is missing: add `embed_time(t)` to what `middle` returns.",
    "time before": "the time is added before `middle`; add it to what `middle` "
    "returns.",
    "time multiplied": "the time is multiplied; add it.",
    "time in skip": "the time is added to the skip connection, too; add it to what "
    "`middle` returns only.",
    "no middle": "is `middle` missing? It comes after `down`.",
    "up swapped": "`up` takes what comes from below first, then the skip connection.",
    "out swapped": "`out` gets what comes from below first, then `enter`'s output.",
}


@exercise(
    "3.1",
    "Give `out` zeros in place of `enter`'s output: what would the network lose?",
)
def forward_pass(attempt):
    torch.manual_seed(0)
    net = tried(attempt)
    if not isinstance(net, nn.Module):
        raise Wrong(
            f"This makes {type(net).__name__}; expected the class of your network."
        )
    missing = [name for name in LAYERS if not hasattr(net, name)]
    if missing:
        raise Wrong(f"The layer {missing[0]!r} is gone; keep `__init__` as it was.")
    x = torch.randn(3, 3, 16, 16, generator=seeded(0))
    t = torch.tensor([0.1, 0.5, 1.0])
    axes = "`embed_time(t)` is (B, 32): give it two more axes, `[..., None, None]`."
    mine = with_a_hint("size of tensor", axes, net, x, t)
    with torch.no_grad():
        right = small_unet(net, x, t)
        mistakes = {
            sentence: small_unet(net, x, t, fault)
            for fault, sentence in UNET_FAULTS.items()
        }
    compare(mine, right, mistakes, where="three pictures at three times")


# ---- 3.2 -----------------------------------------------------------------------------


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
    "3.2",
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


# ---- 3.3 -----------------------------------------------------------------------------

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
    """A "network" whose answer depends on its picture and on the time.

    Like the ContextUnet, it takes the time as (B,) or as one number.
    """
    time = torch.as_tensor(time).to(x).view(-1, 1, 1, 1)
    return (0.7 * x + 0.5 * time).sin()


def fresh_noise_was_drawn(attempt, x, steps, schedule):
    """Whether two calls with the same start differ."""
    torch.manual_seed(0)
    once = as_numbers(tried(attempt, _guess, x, steps, schedule))
    again = as_numbers(tried(attempt, _guess, x, steps, schedule))
    return once.shape == again.shape and not torch.equal(once, again)


@exercise(
    "3.3",
    "Give it only five steps, then one: what happens to the sprites of section 6?",
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


# ---- 3.4 -----------------------------------------------------------------------------


def implied_noise_mistakes(x_t, picture, ab):
    """What the usual mistakes return."""
    signal = ab.sqrt()
    spread = (1 - ab).sqrt()
    yield "are the square roots missing?", (x_t - ab * picture) / (1 - ab)
    yield (
        "is the square root on 1 - alpha-bar missing?",
        (x_t - signal * picture) / (1 - ab),
    )
    yield (
        "is the square root on the picture's factor missing?",
        (x_t - ab * picture) / spread,
    )
    yield (
        "this is the noise as it is in x_t: divide it by the root of 1 - alpha-bar.",
        x_t - signal * picture,
    )
    yield (
        "the picture is not shrunk: it needs the root of alpha-bar.",
        (x_t - picture) / spread,
    )
    yield (
        "you solved for the picture; here the picture is known.",
        (x_t - spread * picture) / signal,
    )
    yield "the sign is wrong.", (signal * picture - x_t) / spread


@exercise(
    "3.4",
    "By which factor is an error of the picture multiplied here, at t = 1 and at 500?",
)
def implied_noise(attempt):
    schedule = NoiseSchedule.linear()
    picture = normal(3, 3, 16, 16, seed=0)
    noise = normal(3, 3, 16, 16, seed=1)
    # one step for all comes first: a mistake shows the same everywhere there
    for steps in ((200, 200, 200), (1, 250, 500)):
        t = torch.tensor(steps)
        ab = schedule.ab[t].float().view(-1, 1, 1, 1)
        x_t = perturb_input(picture, t, noise, schedule)
        hint = "`schedule.ab[t]` is (B,): give it three more axes."
        arguments = (x_t, t, picture, schedule)
        mine = with_a_hint("size of tensor", hint, attempt, *arguments)
        mistakes = implied_noise_mistakes(x_t, picture, ab)
        compare(mine, noise, mistakes, where=at_steps(steps), tolerance=1e-3)


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
