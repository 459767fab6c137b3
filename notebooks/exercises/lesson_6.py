"""The judges of lesson 6's exercises (they spoil them)."""

import json

import torch

from diffusion_utilities import WEIGHTS
from exercises import (
    Wrong,
    compare,
    described,
    exercise,
    guessed,
    normal,
    seeded,
    tried,
)


class Network:
    """A made-up network(x, t, c): the context multiplies, and the time is added.

    `calls` holds the size of each batch that it was asked for.
    """

    def __init__(self):
        self.weights = normal(5, 3, seed=6)
        self.calls = []

    def __call__(self, x, t, c=None):
        n = len(x)
        c = x.new_zeros(n, 5) if c is None else torch.as_tensor(c).to(x)
        t = torch.as_tensor(t, dtype=x.dtype)
        if c.ndim != 2 or c.shape[1] != 5 or len(c) not in (1, n):
            raise ValueError(f"c has shape {tuple(c.shape)}; expected ({n}, 5)")
        if t.numel() not in (1, n):
            raise ValueError(
                f"t has shape {tuple(t.shape)}; expected ({n},), one for each picture"
            )
        self.calls.append(n)
        factor = 1 + torch.tanh(c @ self.weights)
        return factor[..., None, None] * x.sin() + t.reshape(-1, 1, 1, 1)


def a_batch(n=5):
    """Pictures, times that are all the same, and a class for each picture."""
    x = normal(n, 3, 16, 16, seed=1)
    t = torch.full((n,), 0.3)
    c = torch.eye(5)[torch.arange(n) % 5]
    return x, t, c


def made(attempt, *arguments):
    """The predict(x, t, c) that an attempt returns."""
    predict = tried(attempt, *arguments)
    if not callable(predict):
        raise Wrong(
            f"Your function returned {described(predict)}; "
            "expected a function, `predict(x, t, c)`, without calling it."
        )
    return predict


# ---- 6.1 -----------------------------------------------------------------------------


def modulation_mistakes(h, factor, summand):
    a = factor[..., None, None]
    s = summand[..., None, None]
    yield (
        "the two are swapped: the context multiplies, the time is added.",
        s * h + a,
    )
    yield "is the time added at all?", a * h
    yield "is the context used at all? It multiplies.", h + s
    yield "both are added, and the context should multiply.", h + a + s
    yield "the factor also multiplies the time: add it last.", a * (h + s)
    yield (
        "that is (1 + factor) h + summand, as FiLM layers elsewhere have it; "
        "here a factor of 0 switches the channel off.",
        (1 + a) * h + s,
    )
    if h.shape[:2] == h.shape[2:]:  # there (B, C) fits (H, W) by accident
        yield (
            "the numbers landed on rows and columns of the pixels: "
            "(B, C) needs two more axes at its end.",
            factor * h + summand,
        )


@exercise("6.1", "Give it factors of 1 and summands of 0: which network is that?")
def modulated(attempt):
    generator = seeded(0)
    for b, channels, size in ((4, 4, 4), (2, 6, 8)):
        h = torch.randn(b, channels, size, size, generator=generator)
        factor, summand = torch.randn(2, b, channels, generator=generator)
        mine = tried(attempt, h, factor, summand)
        right = factor[..., None, None] * h + summand[..., None, None]
        compare(
            mine,
            right,
            modulation_mistakes(h, factor, summand),
            where=f"for h of shape {tuple(h.shape)}",
        )


# ---- 6.2 -----------------------------------------------------------------------------


def guidance_mistakes(null, context, w):
    yield (
        "this starts from the answer with context, "
        "so your w is the paper's w', 1 more than asked for.",
        context + w * (context - null),
    )
    yield (
        "null and context are swapped: "
        "w = 0 must ignore the context, w = 1 be plain conditioning.",
        context + w * (null - context),
    )
    yield (
        "the base is missing: "
        "add w times the difference to the answer without context.",
        w * (context - null),
    )
    yield (
        "the base is not subtracted: that is null + w context, "
        "and for w = 1 it must be context alone.",
        null + w * context,
    )
    yield (
        "are the signs right? The difference is context minus null.",
        null + w * (null - context),
    )
    yield "this is plain conditioning: where is w?", context
    yield "this ignores the context: where is the second call?", null


def base_mistakes(network, x, t, c, w):
    """The base was asked with another context than none."""
    context = network(x, t, c)
    others = {
        "ones": torch.ones_like(c),
        "halves": torch.full_like(c, 0.5),
        "half of what was asked for": c / 2,
    }
    for words, other in others.items():
        base = network(x, t, other)
        yield (
            f"your base was asked with a context of {words}; "
            "no context is None, or all zeros.",
            base + w * (context - base),
        )


@exercise(
    "6.2",
    "Wrap it round `unet` with w = -1: "
    "what does a network draw that is asked *not* to draw a hero?",
)
def guided(attempt):
    x, t, c = a_batch()
    network = Network()
    null = network(x, t)
    context = network(x, t, c)
    for w in (3.0, 1.0, 0.0, 0.5):
        predict = made(attempt, network, w)
        mistakes = [
            *guidance_mistakes(null, context, w),
            *base_mistakes(network, x, t, c, w),
        ]
        mine = tried(predict, x, t, c)
        right = null + w * (context - null)
        compare(mine, right, mistakes, where=f"at w = {w:g}", tolerance=1e-4)


# ---- 6.3 -----------------------------------------------------------------------------


def one_call_mistakes(network, x, t, c, w):
    null = network(x, t)
    context = network(x, t, c)
    yield (
        "the halves are swapped: "
        "what came first in the batch comes first in the answer.",
        context + w * (null - context),
    )
    twice = x.repeat_interleave(2, 0)
    mixed = torch.cat((0 * c, c))
    first, last = network(twice, t[0], mixed).chunk(2)
    yield (
        "x is repeated picture by picture and the contexts half by half: "
        "each row must keep its own.",
        first + w * (last - first),
    )
    yield (
        "this starts from the answer with context; the base is the one without.",
        context + w * (context - null),
    )
    yield (
        "this is the answer for all 2 B rows: put the two halves together.",
        torch.cat((null, context)),
    )
    ones = network(x, t, torch.ones_like(c))
    yield (
        "the first half was asked with a context of ones; "
        "no context is a row of zeros.",
        ones + w * (context - ones),
    )


@exercise(
    "6.3",
    "Time it against two calls with `time.perf_counter`: "
    "does one large call cost less than two small ones on your machine?",
)
def in_one_call(attempt):
    x, t, c = a_batch()
    network = Network()
    w = 3.0
    null = network(x, t)
    right = null + w * (network(x, t, c) - null)
    mistakes = [*one_call_mistakes(network, x, t, c, w)]
    predict = made(attempt, network, w)
    mine = tried(predict, x, t[0], c)
    compare(
        mine, right, mistakes, where="at w = 3, with one number as t", tolerance=1e-4
    )
    network.calls.clear()
    mine = tried(predict, x, t, c)
    compare(mine, right, mistakes, where="at w = 3", tolerance=1e-4)
    if network.calls != [2 * len(x)]:
        raise Wrong(
            f"the numbers are right, but the network was asked {len(network.calls)} "
            f"times, for {network.calls} pictures; expected once, for 10."
        )


# ---- 6.4 -----------------------------------------------------------------------------

W = (0, 1, 2, 4, 8)
BETTER_LARGER = {
    "ContextUnet": "its short run left much unlearnt, "
    "and stronger guidance makes up for some of it",
    "PaletteNet": "at w = 0 it is never told a class",
}
BETTER_SMALLER = {
    "ContextUnet": "past some weight its colours are too strong, "
    "and it draws fewer kinds of sprite",
    "PaletteNet": "it draws what it is told already, "
    "and exaggerating that takes it away from what sprites are like",
}


def distances(name):
    """The FD of a network for each weight, the mean over three seeds."""
    rows = json.loads((WEIGHTS / "guidance.json").read_text(encoding="utf8"))["rows"]
    fd = {}
    for w in W:
        runs = [rows[f"{name}, DDIM, w = {w}, seed {seed}"] for seed in (4, 5, 6)]
        fd[w] = sum(run["scores"]["FD"][0] for run in runs) / 3
    return fd


def what_is_missed(name, w):
    """Why another weight is better for this network; "" if none is."""
    fd = distances(name)
    best = min(fd, key=fd.get)
    if w == best:
        return ""
    way = "larger" if best > w else "smaller"
    reasons = BETTER_LARGER if best > w else BETTER_SMALLER
    return (
        f"The {name}'s FD at w = {w} is {fd[w]:.0f}, and {fd[best]:.0f} at a {way} "
        f"weight: {reasons[name]}."
    )


@exercise(
    "6.4",
    "Now look at the table below: what else but the FD changes on the way to w = 8?",
)
def best_weights(attempt):
    first, second = guessed(
        attempt,
        "two of the weights 0, 1, 2, 4, 8: first the ContextUnet's, "
        "then the PaletteNet's, such as (8, 4)",
        W,
        n=2,
    )
    missed = [
        what_is_missed("ContextUnet", first),
        what_is_missed("PaletteNet", second),
    ]
    if all(missed):
        raise Wrong(" ".join(missed))
    if any(missed):
        raise Wrong(f"{''.join(missed)} Your other weight is right.")


# ---- 6.5 -----------------------------------------------------------------------------


def reason_for_idling(T, low, high, step):
    """Why a prediction is not guided at a step of the interval."""
    t = torch.tensor(step / T).item()  # in single precision
    if step not in (low, high):
        if T != 500:
            return "here it should guide and does not: is T taken from the argument?"
        return (
            "here it should guide and does not: t comes as step / T, "
            "a number from 0 to 1; is it multiplied by T?"
        )
    if t * T == step:
        return "the ends belong to the interval: low <= step <= high."
    return f"t is in single precision, and t * T is {t * T:.7f} here: is it rounded?"


def interval_mistakes(null, plain, w, idle):
    yield idle, plain
    yield (
        "this is guided outside of the interval; "
        "there it is plain conditioning, and inside it is guided.",
        null + w * (plain - null),
    )
    yield "the context still counts where nothing is guided.", null
    yield (
        "this starts from the answer with context, so it goes one step too far.",
        plain + w * (plain - null),
    )
    yield (
        "the base is missing: "
        "add w times the difference to the answer without context.",
        w * (plain - null),
    )


@exercise(
    "6.5",
    "Draw with it: `my_guided_between(unet, 4, 100, 300)` in place of `guided(net, w)` "
    "in section 5's first picture.",
)
def between(attempt):
    x, _, c = a_batch()
    network = Network()
    # the first interval's ends are exact as t, the second one's are not
    cases = ((500, 125, 375, 3.0), (500, 102, 300, 3.0), (200, 60, 150, 2.0))
    for T, low, high, w in cases:
        arguments = (w, low, high) if T == 500 else (w, low, high, T)
        predict = made(attempt, network, *arguments)
        # the plain steps first; then the ends, which count as inside
        for step in ((low + high) // 2, low // 2, high + 40, low, high):
            t = torch.full((len(x),), step / T)
            null = network(x, t)
            plain = network(x, t, c)
            inside = low <= step <= high
            idle = reason_for_idling(T, low, high, step)
            where = f"at step {step} of {T}, with the interval {low} to {high}"
            network.calls.clear()
            mine = tried(predict, x, t, c)
            calls = len(network.calls)
            compare(
                mine,
                null + w * (plain - null) if inside else plain,
                interval_mistakes(null, plain, w, idle),
                where,
                tolerance=1e-4,
            )
            if calls > 1 + inside:
                raise Wrong(
                    f"{where}: the numbers are right, with {calls} calls of the "
                    f"network; {1 + inside} is enough there."
                )


# ---- 6.6 -----------------------------------------------------------------------------


def composition_mistakes(base, a, b, both, null, w):
    """Mistakes with the answers for: the class, each factor, both, no context."""
    yield (
        "the base is not subtracted: "
        "each guidance is a difference, from what the class alone says.",
        base + w * a + w * b,
    )
    yield (
        "two answers are added, and with them the class comes in twice: "
        "subtract what the class alone says from each.",
        w * a + w * b,
    )
    first = w * (a - base)
    second = w * (b - base)
    yield (
        "the two differences are right, "
        "and the base that they are added to is missing.",
        first + second,
    )
    yield (
        "the base counts once too often: "
        "it is added for each factor, and it is the same one.",
        2 * base + first + second,
    )
    yield (
        "that is the mean of the two; a sum was asked for.",
        base + (first + second) / 2,
    )
    yield "only the first factor is guided.", base + first
    yield "only the second factor is guided.", base + second
    yield "w counts for one of the two factors only.", first + b
    yield (
        'this asks for both in one context ("together"); here each is asked for alone.',
        base + w * (both - base),
    )
    yield (
        "the differences are from no context at all, "
        "and should be from `plain`, the class.",
        null + w * (a - null) + w * (b - null),
    )


@exercise(
    "6.6",
    "Give `one` and `other` a different weight each: "
    "which of the two words is harder to get?",
)
def composed(attempt):
    x, t, _ = a_batch(n=4)
    network = Network()
    plain = torch.tensor([[1.0, 0, 0, 0, 0]]).expand(4, -1)
    one = torch.tensor([[1.0, 1, 0, 0, 0]]).expand(4, -1)
    other = torch.tensor([[1.0, 0, 0, 1, 0]]).expand(4, -1)
    base = network(x, t, plain)
    a = network(x, t, one)
    b = network(x, t, other)
    both = network(x, t, one + other - plain)
    null = network(x, t)
    for w in (2.0, 1.0):
        mine = tried(attempt, network, x, t, plain, one, other, w)
        right = base + w * (a - base) + w * (b - base)
        compare(
            mine,
            right,
            composition_mistakes(base, a, b, both, null, w),
            where=f"at w = {w:g}",
            tolerance=1e-4,
        )
