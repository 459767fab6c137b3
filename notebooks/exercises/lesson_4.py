"""The judges of lesson 4's exercises (they spoil them)."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn as nn

from diffusion_utilities import (
    NoiseSchedule,
    perturb_input,
    posterior,
    predict_x0,
    sample_ddpm,
)
from exercises import (
    Wrong,
    as_numbers,
    compare,
    exercise,
    nearest,
    seeded,
    shown_std,
    told,
    tried,
)


def _pair(first, second):
    numbers = [torch.as_tensor(first), torch.as_tensor(second)]
    return torch.stack([number.double() for number in numbers])


# ---- 4.1 -----------------------------------------------------------------------------


def combine_mistakes(m1, v1, m2, v2):
    precision = 1 / v1 + 1 / v2
    variance = 1 / precision
    weighted = m1 / v1 + m2 / v2
    mean = variance * weighted
    yield (
        "the second number is the precision; "
        "turn the sum upside down to get a variance.",
        _pair(mean, precision),
    )
    yield (
        "the precision stands where the variance belongs, in both results: "
        "turn the sum upside down.",
        _pair(precision * weighted, precision),
    )
    yield (
        "the variances are added; it is the precisions, 1 / variance, that add.",
        _pair((v1 + v2) * weighted, v1 + v2),
    )
    by_variance = (m1 * v1 + m2 * v2) / (v1 + v2)
    yield (
        "each mean is weighted by its variance, so the vaguer clue counts more; "
        "weight it by its precision, 1 / variance.",
        _pair(by_variance, variance),
    )
    yield (
        "the mean is the plain average; weight each mean by its precision.",
        _pair((m1 + m2) / 2, variance),
    )
    yield (
        "the mean lacks its factor v: divide by the sum of the precisions.",
        _pair(weighted, variance),
    )
    squares = 1 / v1**2 + 1 / v2**2
    yield (
        "the variances are squared, as if they were standard deviations.",
        _pair((m1 / v1**2 + m2 / v2**2) / squares, 1 / squares),
    )
    yield "the two results are swapped: first the mean.", _pair(variance, mean)
    yield (
        "the second number is the standard deviation; a variance is asked for.",
        _pair(mean, variance**0.5),
    )


@exercise(
    "4.1",
    "Let one clue be very vague, with a variance of 1000: what does it change?",
)
def combined(attempt):
    for clues in ((1.0, 0.5, 2.0, 1.0), (-0.3, 0.08, 0.7, 0.25), (0.6, 1.0, 0.2, 0.1)):
        m1, v1, m2, v2 = clues
        variance = 1 / (1 / v1 + 1 / v2)
        right = _pair(variance * (m1 / v1 + m2 / v2), variance)
        mine = tried(attempt, *clues)
        where = f"for the clues {clues[:2]} and {clues[2:]}"
        compare(mine, right, combine_mistakes(*clues), where, tolerance=1e-6)


# ---- 4.2 -----------------------------------------------------------------------------


def step_mean(x, t, noise, schedule):
    """The mean of one step, from t to t - 1."""
    a = schedule.a[t].item()
    b = schedule.b[t].item()
    ab = schedule.ab[t].item()
    return (x - b / (1 - ab) ** 0.5 * noise) / a**0.5


def divisor_mistakes(x, t, noise, schedule):
    """Mistakes in what the mean of one step is divided by."""
    a = schedule.a[t].item()
    ab = schedule.ab[t].item()
    undivided = a**0.5 * step_mean(x, t, noise, schedule)
    yield (
        "alpha-bar stands where alpha belongs: one step divides by the root of alpha.",
        undivided / ab**0.5,
    )
    yield "is the division by the root of alpha missing?", undivided
    yield "this divides by alpha, not by its root.", undivided / a


def noise_mistakes(x, t, noise, schedule):
    """Mistakes in the predicted noise that the mean of one step removes."""
    a = schedule.a[t].item()
    b = schedule.b[t].item()
    ab = schedule.ab[t].item()
    std = (1 - ab) ** 0.5
    yield (
        "the root under the predicted noise is missing: "
        "beta is divided by the root of 1 - alpha-bar.",
        (x - b / (1 - ab) * noise) / a**0.5,
    )
    yield (
        "beta has a root here: in the mean it has none.",
        (x - b**0.5 / std * noise) / a**0.5,
    )
    yield (
        "beta is not divided: it needs the root of 1 - alpha-bar below it.",
        (x - b * noise) / a**0.5,
    )
    yield (
        "1 - alpha stands where 1 - alpha-bar belongs, under the root.",
        (x - b / (1 - a) ** 0.5 * noise) / a**0.5,
    )
    yield (
        "all of the predicted noise is removed, which gives x_0; "
        "a step removes a little.",
        predict_x0(x, t, noise, schedule),
    )
    yield (
        "the predicted noise is added; it must be subtracted.",
        (x + b / std * noise) / a**0.5,
    )
    if t > 1:
        yield (
            "the tables are read one place too early: index t is step t.",
            step_mean(x, t - 1, noise, schedule),
        )


def fresh_noise_mistakes(t, z, schedule):
    """Mistakes in what one step adds to the mean."""
    a = schedule.a[t].item()
    b = schedule.b[t].item()
    ab = schedule.ab[t].item()
    tilde = posterior(t, schedule)[2]
    yield "is a square root missing? sigma is the root of beta.", b * z
    yield (
        "that is the root of beta-tilde, the other choice; here take beta.",
        tilde**0.5 * z,
    )
    yield (
        "that is the noise of the whole jump, 1 - alpha-bar; a step adds beta.",
        (1 - ab) ** 0.5 * z,
    )
    yield "is z added at all?", 0 * z
    yield "z is added whole: it must be multiplied by the root of beta.", z
    yield (
        "the noise is added before the division by the root of alpha; it comes after.",
        (b / a) ** 0.5 * z,
    )


@exercise(
    "4.2",
    "Give it z = 0 at every step and guess what becomes of a run: section 5 tries it.",
)
def one_step(attempt):
    schedule = NoiseSchedule.linear()
    x, noise, z = torch.randn(3, 4, 3, 16, 16, generator=seeded(0))
    for t in (300, 40, 1):
        mean = step_mean(x, t, noise, schedule)
        mine = tried(attempt, x, t, noise, 0 * z, schedule)
        mistakes = [
            *divisor_mistakes(x, t, noise, schedule),
            *noise_mistakes(x, t, noise, schedule),
        ]
        compare(mine, mean, mistakes, where=f"at t = {t} with z = 0")
        fresh = as_numbers(tried(attempt, x, t, noise, z, schedule)) - mean
        if t > 1:
            compare(
                fresh,
                schedule.b[t].item() ** 0.5 * z,
                fresh_noise_mistakes(t, z, schedule),
                where=f"at t = {t}, the noise alone",
                tolerance=1e-4,
                number=shown_std("your fresh noise has std"),
            )
        elif fresh.shape == z.shape and fresh.abs().max() > 1e-4:
            raise Wrong(
                f"at t = 1: your fresh noise has std {float(fresh.std()):.3g}, "
                "expected 0: the last step returns the mean, so that no noise stays in."
            )


# ---- 4.3 -----------------------------------------------------------------------------


class Witness(nn.Module):
    """A small network with batch norm and dropout that remembers its calls.

    `asked` holds the times of each call, `training_when_asked` whether any part was in
    train mode.
    """

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)  # within check's own random state
        self.layers = nn.Sequential(
            nn.Conv2d(3, 3, 3, padding=1),
            nn.BatchNorm2d(3),
            nn.Dropout(0.5),
            nn.Tanh(),
        )
        self.forget()

    def forget(self):
        self.asked = []
        self.training_when_asked = []

    def forward(self, x, t, c=None):
        t = torch.as_tensor(t)
        self.asked.append(t.detach().flatten().double())
        self.training_when_asked.append(any(part.training for part in self.modules()))
        return self.layers(x) + 0.5 * x + t.reshape(-1, 1, 1, 1).to(x)


def check_calls(network, steps, T):
    """The network must have been in eval mode, and asked at the right times."""
    if not network.asked:
        raise Wrong("the network was never asked for its noise.")
    if any(network.training_when_asked):
        raise Wrong(
            "the network was asked in train mode: dropout drops, batch norm looks at "
            "this batch. Call `network.eval()` first."
        )
    times = [float(asked[0]) for asked in network.asked if len(asked)]
    wanted = [t / T for t in steps[:-1]]
    if len(times) != len(wanted):
        raise Wrong(
            f"the network was asked {len(times)} times, expected {len(wanted)}: "
            "one stride from each step to the next, and none from 0."
        )
    if np.allclose(times, wanted, atol=1e-5):
        return
    ends = [s / T for s in steps[1:]]
    cause = "."
    if np.allclose(times, steps[:-1]):
        cause = ": the time is t / T, a number from 0 to 1."
    elif np.allclose(times, ends):
        cause = (
            ": that is where the stride leads to; ask at the step where the picture is."
        )
    elif np.allclose(times, wanted[::-1]):
        cause = ": is the list walked from its end?"
    raise Wrong(
        f"the first time that you told the network is {times[0]:.4g}, "
        f"expected {wanted[0]:.4g}, then {wanted[1]:.4g}{cause}"
    )


def _sampled(network, x, steps, schedule, fault):
    """DDPM along a list of steps, with one of the usual mistakes."""
    generator = seeded(1)
    zs = [torch.randn(x.shape, generator=generator) for _ in steps[1:]]
    for i, (t, s) in enumerate(zip(steps[:-1], steps[1:])):
        noise = network(x, x.new_full((len(x),), t / schedule.T))
        ab = schedule.ab[t].item()
        alpha = ab / schedule.ab[s].item()
        if fault in ("single step", "no t_prev"):
            alpha = schedule.a[t].item()
        mean = x - (1 - alpha) / (1 - ab) ** 0.5 * noise
        divisor = ab if fault == "alpha-bar" else alpha
        mean = mean / divisor**0.5
        sigma = 1 - alpha if fault == "no root" else (1 - alpha) ** 0.5
        z = zs[0] if fault == "one z" else zs[i]
        is_last = s == 0 and fault != "noise at the end"
        if fault == "no t_prev":
            is_last = t == 1
        x = mean if is_last or fault == "no z" else mean + sigma * z
    return x


SAMPLER_FAULTS = {
    "no t_prev": "is `t_prev` missing? Without it `denoise_add_noise` goes to t - 1 "
    "only: pass the step where the stride ends.",
    "noise at the end": "is noise added in the last stride? "
    "The one that ends at 0 returns the mean.",
    "no root": "a square root is missing: sigma is the root of the stride's beta.",
    "single step": "a stride from t to s has alpha = ab[t] / ab[s]; "
    "you took the single step's.",
    "one z": "is the same z used in every stride? Each needs a fresh one.",
    "no z": "is no noise added at all? Section 5 shows what that costs.",
    "alpha-bar": "the mean is divided by the root of alpha-bar, "
    "not of the stride's alpha.",
}


def _drawn(network, x, steps, schedule, variance="beta", clip=False):
    samples, _ = sample_ddpm(
        network,
        schedule,
        x_T=x,
        steps=steps,
        generator=seeded(1),
        keep=0,
        variance=variance,
        clip=clip,
    )
    return samples


def _from_lesson_3(network, x, steps, schedule):
    """Lesson 3's sampler: the predicted noise is put back, and none is fresh."""
    for t, s in zip(steps, steps[1:]):
        noise = network(x, x.new_full((len(x),), t / schedule.T))
        x_0 = predict_x0(x, t, noise, schedule).clamp(-1, 1)
        x = perturb_input(x_0, s, noise, schedule)
    return x


@torch.no_grad()
def sampler_mistakes(network, x, steps, schedule):
    network.eval()
    mistakes = {}
    for fault, sentence in SAMPLER_FAULTS.items():
        mistakes[sentence] = _sampled(network, x, steps, schedule, fault)
    beta_tilde = _drawn(network, x, steps, schedule, "beta_tilde")
    mistakes["that is beta-tilde's noise; here take beta."] = beta_tilde
    clipped = _drawn(network, x, steps, schedule, clip=True)
    mistakes["the implied x_0 is clipped; leave it as it is."] = clipped
    lesson_3 = _from_lesson_3(network, x, steps, schedule)
    mistakes["that is lesson 3's sampler; here each stride adds fresh z."] = lesson_3
    return mistakes


@exercise(
    "4.3",
    "When `model` is loaded, give it a list of only 20 steps: are those still sprites?",
)
def whole_sampler(attempt):
    schedule = NoiseSchedule.linear()
    x = torch.randn(4, 3, 16, 16, generator=seeded(0))
    network = Witness()
    for steps in ([500, 250, 100, 20, 0], [500, 400, 300, 200, 100, 3, 2, 1, 0]):
        where = f"for the steps {steps}"
        network.train()
        network.forget()
        mine = tried(attempt, network, x, list(steps), schedule, seeded(1))
        with told(where):
            check_calls(network, steps, schedule.T)
        compare(
            mine,
            _drawn(network, x, steps, schedule),
            sampler_mistakes(network, x, steps, schedule),
            where,
            tolerance=1e-3,
        )
        if getattr(mine, "requires_grad", False):
            raise Wrong(
                "the pictures are right, but carry gradients, and with them the memory "
                "of every step: put the loop into `with torch.no_grad():`."
            )


# ---- 4.4 -----------------------------------------------------------------------------

NETWORKS = {
    "epoch 24": lambda x: 0.5 * x,
    "epoch 31": lambda x: x.tanh(),
    "epoch 31 again": lambda x: x.tanh(),
}
SHAPE = (4, 3, 16, 16)


def compared(attempt, seed):
    """The attempt's result, and (x_T, z, generator) of each of its calls of `draw`."""
    calls = []

    def draw(network, x_T, generator):
        x_T = torch.as_tensor(x_T)
        if not isinstance(generator, torch.Generator):
            generator = None
        z = torch.randn(SHAPE, generator=generator)
        calls.append((x_T.clone(), z, generator))
        return network(x_T) + 0.1 * z

    result = tried(attempt, dict(NETWORKS), draw, SHAPE, seed)
    check_result(result)
    check_draws(calls)
    return result, calls


def check_result(result):
    names = list(NETWORKS)
    is_mapping = isinstance(result, Mapping)
    if is_mapping and list(result) == names:
        return
    shown = f"the keys {list(result)}" if is_mapping else type(result).__name__
    raise Wrong(
        f"You returned {shown}, "
        f"expected a dictionary with the networks' names, {names}."
    )


def check_draws(calls):
    if len(calls) != len(NETWORKS):
        raise Wrong(
            f"`draw` was called {len(calls)} times, "
            f"expected once for each of the {len(NETWORKS)} networks."
        )
    for start, _, generator in calls:
        if generator is None:
            raise Wrong(
                "`draw` got no generator: without one of its own each run takes "
                "whatever noise comes next."
            )
        if start.shape != SHAPE:
            raise Wrong(
                f"`draw` got an x_T of shape {tuple(start.shape)}, expected {SHAPE}."
            )


def check_same_noise(calls):
    """All networks must start from one x_T and get the same fresh noise."""
    (x_T, z, _), *others = calls
    for other_x_T, other_z, _ in others:
        if not torch.equal(other_x_T, x_T):
            apart = (other_x_T - x_T).square().mean().sqrt() / 2
            raise Wrong(
                f"Each network gets a new x_T: two starts differ by {apart:.2f} (RMS), "
                "so the comparison shows the noise, not the weights."
            )
        if not torch.equal(other_z, z):
            raise Wrong(
                "x_T is the same for all, but the fresh noise z is not: the generator "
                "continues from where the previous network left it."
            )
    if torch.equal(x_T, z):
        raise Wrong(
            "The first fresh z equals x_T, since both come first from a generator with "
            "this seed. Let one generator draw x_T, and pass it on."
        )


def check_seed(attempt, x_T, z):
    """The same seed must give the same noise again, and another seed another noise."""
    _, calls = compared(attempt, seed=5)
    if not torch.equal(calls[0][0], x_T) or not torch.equal(calls[0][1], z):
        raise Wrong(
            "A second call with the same seed gives other noise: "
            "is the seed used for all of it?"
        )
    _, calls = compared(attempt, seed=6)
    if torch.equal(calls[0][0], x_T):
        raise Wrong("Another seed gives the same x_T: is the argument `seed` used?")
    if torch.equal(calls[0][1], z):
        raise Wrong(
            "Another seed gives another x_T and the same fresh noise z: "
            "the generator that you pass on does not depend on `seed`."
        )


@exercise(
    "4.4",
    "Now `compare_checkpoints` is no secret: "
    "look up in its source where it does the same.",
)
def same_start(attempt):
    result, calls = compared(attempt, seed=5)
    check_same_noise(calls)
    x_T, z, _ = calls[0]
    for name, network in NETWORKS.items():
        compare(result[name], network(x_T) + 0.1 * z, where=f"for {name!r}")
    check_seed(attempt, x_T, z)


# ---- 4.5 -----------------------------------------------------------------------------


def paired_mistakes(first, second, mine):
    d = first - second
    n = len(d)
    mean = d.mean()
    unpaired = ((first.var() + second.var()) / n) ** 0.5
    yield (
        "that error is unpaired, and the hard sprites are in both scatters. "
        "Subtract sprite by sprite first.",
        _pair(mean, unpaired),
    )
    apart = first.std() - second.std()
    forms = [sign * apart / root for sign in (1, -1) for root in (1, n, n**0.5)]
    yield (
        "this is the difference of the two scatters. "
        "Subtract sprite by sprite first, then take the std of what is left.",
        nearest(mine, *(_pair(mean, form) for form in forms)),
    )
    yield (
        "this is the scatter of single differences; "
        "the error of their mean is smaller by the root of n.",
        _pair(mean, d.std()),
    )
    yield (
        "the scatter is divided by n; it should be by the root of n.",
        _pair(mean, d.std() / n),
    )
    yield (
        "the standard deviation has n below instead of n - 1.",
        _pair(mean, d.std(correction=0) / n**0.5),
    )
    yield "this is the variance, not its root.", _pair(mean, d.var() / n)
    yield (
        "the difference is first minus second.",
        _pair(-mean, d.std() / n**0.5),
    )
    size = d.abs()
    yield (
        "the difference lacks its sign: "
        "take the mean of first minus second, not of its size.",
        _pair(size.mean(), size.std() / n**0.5),
    )


@exercise(
    "4.5",
    "The next cell does it with 60 sprites and two checkpoints: "
    "how much smaller is the paired error?",
)
def paired(attempt):
    generator = seeded(4)
    hard = torch.rand(12, generator=generator)  # some sprites are hard for both
    scatter = 0.01 * torch.randn(12, generator=generator)
    cases = (
        (
            torch.tensor([0.10, 0.40, 0.20, 0.90]),
            torch.tensor([0.08, 0.39, 0.17, 0.88]),
        ),
        (hard + 0.005, hard + scatter),
    )
    for first, second in cases:
        n = len(first)
        d = (first - second).double()
        mine = tried(attempt, first, second)
        right = _pair(d.mean(), d.std() / n**0.5)
        compare(
            mine,
            right,
            paired_mistakes(first.double(), second.double(), mine),
            where=f"for {n} sprites",
        )
