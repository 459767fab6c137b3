"""The judges of lesson 6's exercises (they spoil them)."""

import json

import torch

from diffusion_utilities import WEIGHTS
from exercises import Wrong, compare, exercise, guessed, normal, seeded, tried

W = (0, 1, 2, 4, 8)


def network(columns: int = 5):
    """A made-up network(x, t, c), in which context multiplies and time is added; its `calls` holds the size of each batch that it was asked for."""
    weights = normal(columns, 3, seed=6)
    calls = []

    def noise(x, t, c=None):
        c = x.new_zeros(len(x), columns) if c is None else torch.as_tensor(c).to(x)
        t = torch.as_tensor(t, dtype=x.dtype)
        if c.ndim != 2 or c.shape[1] != columns or len(c) not in (1, len(x)):
            raise ValueError(
                f"c has shape {tuple(c.shape)}; expected ({len(x)}, {columns})"
            )
        if t.numel() not in (1, len(x)):
            raise ValueError(
                f"t has shape {tuple(t.shape)}; expected ({len(x)},), one for each picture"
            )
        calls.append(len(x))
        return (1 + torch.tanh(c @ weights))[..., None, None] * x.sin() + t.reshape(
            -1, 1, 1, 1
        )

    noise.calls = calls
    return noise


def a_batch(seed=1, n=5):
    """Pictures, times that are all alike, and a class for each."""
    return (
        normal(n, 3, 16, 16, seed=seed),
        torch.full((n,), 0.3),
        torch.eye(5)[torch.arange(n) % 5],
    )


def made(attempt, *arguments):
    """The predict(x, t, c) that an attempt returns."""
    predict = tried(attempt, *arguments)
    if not callable(predict):
        raise Wrong(
            f"Your function returned {type(predict).__name__} {predict!r:.40}; expected a function, `predict(x, t, c)`, without calling it."
        )
    return predict


@exercise("6.1", "Give it factors of 1 and summands of 0: which network is that?")
def modulated(attempt):
    g = seeded(0)
    for b, channels, size in ((4, 4, 4), (2, 6, 8)):
        h, factor, summand = (
            torch.randn(b, channels, size, size, generator=g),
            *torch.randn(2, b, channels, generator=g),
        )
        a, s = factor[..., None, None], summand[..., None, None]
        mistakes = {
            "the two are swapped: the context multiplies, the time is added.": s * h
            + a,
            "is the time added at all?": a * h,
            "is the context used at all? It multiplies.": h + s,
            "both are added, and the context should multiply.": h + a + s,
            "the factor also multiplies the time: add it last.": a * (h + s),
            "that is (1 + factor) h + summand, as FiLM layers elsewhere have it; here a factor of 0 switches the channel off.": (
                1 + a
            )
            * h
            + s,
        }
        if b == channels == size:  # there (B, C) fits (H, W) by accident
            mistakes[
                "the numbers landed on rows and columns of the pixels: (B, C) needs two more axes at its end."
            ] = factor * h + summand
        compare(
            tried(attempt, h, factor, summand),
            a * h + s,
            mistakes,
            f"for h of shape {tuple(h.shape)}",
            1e-5,
        )


@exercise(
    "6.2",
    "Wrap it round `unet` with w = -1: what does a network draw that is asked *not* to draw a hero?",
)
def guided(attempt):
    x, t, c = a_batch()
    net = network()
    null, context = net(x, t), net(x, t, c)
    for w in (3.0, 1.0, 0.0, 0.5):
        mistakes = {
            "this starts from the answer with context, so your w is the paper's w', 1 more than asked for.": context
            + w * (context - null),
            "null and context are swapped: w = 0 must ignore the context, w = 1 be plain conditioning.": context
            + w * (null - context),
            "the base is missing: add w times the difference to the answer without context.": w
            * (context - null),
            "the base is not subtracted: that is null + w context, and for w = 1 it must be context alone.": null
            + w * context,
            "are the signs right? The difference is context minus null.": null
            + w * (null - context),
            "this is plain conditioning: where is w?": context,
            "this ignores the context: where is the second call?": null,
        }
        for words, other in (
            ("ones", torch.ones_like(c)),
            ("halves", torch.full_like(c, 0.5)),
            ("half of what was asked for", c / 2),
        ):
            base = net(x, t, other)
            mistakes[
                f"your base was asked with a context of {words}; no context is None, or all zeros."
            ] = base + w * (context - base)
        compare(
            tried(made(attempt, net, w), x, t, c),
            null + w * (context - null),
            mistakes,
            f"at w = {w:g}",
            1e-4,
        )


@exercise(
    "6.3",
    "Time it against two calls with `time.perf_counter`: does one large call cost less than two small ones on your machine?",
)
def in_one_call(attempt):
    x, t, c = a_batch()
    net, w = network(), 3.0
    null, context = net(x, t), net(x, t, c)
    twice, mixed = x.repeat_interleave(2, 0), torch.cat((0 * c, c))
    first, last = net(twice, t[0], mixed).chunk(2)
    ones = net(x, t, torch.ones_like(c))
    mistakes = {
        "the halves are swapped: what came first in the batch comes first in the answer.": context
        + w * (null - context),
        "x is repeated picture by picture and the contexts half by half: each row must keep its own.": first
        + w * (last - first),
        "this starts from the answer with context; the base is the one without.": context
        + w * (context - null),
        "this is the answer for all 2 B rows: put the two halves together.": torch.cat(
            (null, context)
        ),
        "the first half was asked with a context of ones; no context is a row of zeros.": ones
        + w * (context - ones),
    }
    predict = made(attempt, net, w)
    compare(
        tried(predict, x, t[0], c),
        null + w * (context - null),
        mistakes,
        "at w = 3, with one number as t",
        1e-4,
    )
    net.calls.clear()
    compare(
        tried(predict, x, t, c), null + w * (context - null), mistakes, "at w = 3", 1e-4
    )
    if net.calls != [2 * len(x)]:
        raise Wrong(
            f"the numbers are right, but the network was asked {len(net.calls)} times, for {net.calls} pictures; expected once, for 10."
        )


@exercise(
    "6.4",
    "Now look at the table below: what else but the FD changes on the way to w = 8?",
)
def best_weights(attempt):
    guess = guessed(
        attempt,
        "two of the weights 0, 1, 2, 4, 8: first the ContextUnet's, then the PaletteNet's, such as (8, 4)",
        W,
        n=2,
    )
    rows = json.loads((WEIGHTS / "guidance.json").read_text(encoding="utf8"))["rows"]
    surprises = {
        (
            "ContextUnet",
            "larger",
        ): "its short run left much unlearnt, and asking harder makes up for some of it",
        (
            "ContextUnet",
            "smaller",
        ): "past some weight its colours are too much, and it draws fewer of the sprites that there are",
        ("PaletteNet", "larger"): "at w = 0 nobody tells it a class",
        (
            "PaletteNet",
            "smaller",
        ): "it draws what it is told already, and whatever is exaggerated beyond that is no longer what sprites are like",
    }
    missed = []
    for name, w in zip(("ContextUnet", "PaletteNet"), guess):
        fd = {
            w: sum(
                rows[f"{name}, DDIM, w = {w}, seed {seed}"]["scores"]["FD"][0]
                for seed in (4, 5, 6)
            )
            / 3
            for w in W
        }
        best = min(fd, key=fd.get)
        if w != best:
            way = "larger" if best > w else "smaller"
            missed.append(
                f"The {name}'s FD at w = {w} is {fd[w]:.0f}, and {fd[best]:.0f} at a {way} weight: {surprises[name, way]}."
            )
    if missed:
        raise Wrong(
            " ".join(missed)
            + ("" if len(missed) == 2 else " Your other weight is right.")
        )


@exercise(
    "6.5",
    "Draw with it: `my_guided_between(unet, 4, 100, 300)` in place of `guided(net, w)` in section 5's first picture.",
)
def between(attempt):
    x, _, c = a_batch()
    net = network()
    for T, low, high, w in (
        (500, 125, 375, 3.0),
        (500, 102, 300, 3.0),
        (200, 60, 150, 2.0),
    ):  # the first ends are exact as t
        predict = (
            made(attempt, net, w, low, high)
            if T == 500
            else made(attempt, net, w, low, high, T)
        )
        middle = (low + high) // 2
        for step in (
            middle,
            low // 2,
            high + 40,
            low,
            high,
        ):  # the plain cases first; then the ends, which count as inside
            t, inside = torch.full((len(x),), step / T), low <= step <= high
            null, plain = net(x, t), net(x, t, c)
            if step in (low, high) and float(t[0]) * T == step:
                idle = "the ends belong to the interval: low <= step <= high."
            elif step in (low, high):
                idle = f"t is in single precision, and t * T is {float(t[0]) * T:.7f} here: is it rounded?"
            elif T == 500:
                idle = "here it should guide and does not: t comes as step / T, a number from 0 to 1; is it multiplied by T?"
            else:
                idle = (
                    "here it should guide and does not: is T taken from the argument?"
                )
            mistakes = {
                idle: plain,
                "this is guided outside of the interval; there it is plain conditioning, and inside it is guided.": null
                + w * (plain - null),
                "the context still counts where nothing is guided.": null,
                "this starts from the answer with context, so it goes one step too far.": plain
                + w * (plain - null),
                "the base is missing: add w times the difference to the answer without context.": w
                * (plain - null),
            }
            where = f"at step {step} of {T}, with the interval {low} to {high}"
            net.calls.clear()
            compare(
                tried(predict, x, t, c),
                null + w * (plain - null) if inside else plain,
                mistakes,
                where,
                1e-4,
            )
            if len(net.calls) > 1 + inside:
                raise Wrong(
                    f"{where}: the numbers are right, with {len(net.calls)} calls of the network; {1 + inside} will do there."
                )


@exercise(
    "6.6",
    "Give `one` and `other` a different weight each: which of the two words is harder to get?",
)
def composed(attempt):
    x, t, _ = a_batch(n=4)
    net = network()
    plain, one, other = (
        torch.tensor([row]).expand(4, -1)
        for row in ([1.0, 0, 0, 0, 0], [1.0, 1, 0, 0, 0], [1.0, 0, 0, 1, 0])
    )
    base, a, b = (net(x, t, c) for c in (plain, one, other))
    both = net(x, t, one + other - plain)
    null = net(x, t)
    for w in (2.0, 1.0):
        mistakes = {
            "the base is not subtracted: each guidance is a difference, from what the class alone says.": base
            + w * a
            + w * b,
            "two answers are added, and with them the class comes in twice: subtract what the class alone says from each.": w
            * a
            + w * b,
            "the two differences are right, and the base that they are added to is missing.": w
            * (a - base)
            + w * (b - base),
            "the base counts once too often: it is added for each factor, and it is the same one.": 2
            * base
            + w * (a - base)
            + w * (b - base),
            "that is the mean of the two; a sum was asked for.": base
            + w * ((a + b) / 2 - base),
            "only the first factor is guided.": base + w * (a - base),
            "only the second factor is guided.": base + w * (b - base),
            "w counts for one of the two factors only.": base
            + w * (a - base)
            + (b - base),
            'this asks for both in one context ("together"); here each is asked for alone.': base
            + w * (both - base),
            "the differences are from no context at all, and should be from `plain`, the class.": null
            + w * (a - null)
            + w * (b - null),
        }
        right = base + w * (a - base) + w * (b - base)
        compare(
            tried(attempt, net, x, t, plain, one, other, w),
            right,
            mistakes,
            f"at w = {w:g}",
            1e-4,
        )
