"""The judges of lesson 6's exercises (they spoil them)."""

import json

import torch

from diffusion_utilities import WEIGHTS
from exercises import (
    Wrong,
    as_numbers,
    compare,
    described,
    exercise,
    guessed,
    normal,
    seeded,
    tried,
    with_a_hint,
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

COLUMNS = (
    ("class", "hero"),
    ("class", "food"),
    ("hair_colour", "red"),
    ("hair_colour", "green"),
    ("outfit_colour", "green"),
    ("outfit_colour", "red"),
    ("item", "staff"),
)


def row_of(asked, columns):
    """The right row."""
    return torch.tensor([float(asked.get(f) == value) for f, value in columns])


def row_mistakes(asked, columns):
    right = row_of(asked, columns)
    values = set(asked.values())
    yield (
        "a column is a pair, and only its value was compared: "
        "red hair must not ask for a red outfit.",
        torch.tensor([float(value in values) for _, value in columns]),
    )
    yield (
        "a column is a pair, and only its factor was compared: "
        "that asks for every hair colour at once.",
        torch.tensor([float(factor in asked) for factor, _ in columns]),
    )
    yield "the row is right, but it has an axis too many: (columns,).", right[None]
    yield "this is a row for everything that was not asked for.", 1 - right
    yield (
        "the class is missing.",
        right * torch.tensor([f != "class" for f, _ in columns]),
    )
    yield (
        "these are places of columns; a row has a 1 at each of these places.",
        right.nonzero().flatten(),
    )


@exercise(
    "6.1",
    "Ask for something contradictory: a 1 for red hair and a 1 for blue hair.",
)
def row(attempt):
    cases = (
        {"class": "hero", "hair_colour": "red", "outfit_colour": "green"},
        {"class": "hero", "item": "staff", "hair_colour": "green"},
        {"class": "food"},
        {},
    )
    for columns in (COLUMNS, COLUMNS[::-1]):
        for asked in cases:
            mine = tried(attempt, asked, columns)
            mistakes = row_mistakes(asked, columns)
            where = f"asked for {asked}"
            compare(mine, row_of(asked, columns), mistakes, where)


# ---- 6.2 -----------------------------------------------------------------------------


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


@exercise("6.2", "Drop with p = 1: what does the network then learn about the classes?")
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


# ---- 6.3 -----------------------------------------------------------------------------


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


@exercise(
    "6.3",
    "Look at the figure again: where would w = -1 be?",
)
def guidance(attempt):
    null = normal(4, 3, 8, 8, seed=1)
    context = normal(4, 3, 8, 8, seed=2)
    for w in (3.0, 1.0, 0.0, 0.5):
        mine = tried(attempt, null, context, w)
        right = null + w * (context - null)
        mistakes = guidance_mistakes(null, context, w)
        compare(mine, right, mistakes, where=f"at w = {w:g}", tolerance=1e-4)


# ---- 6.4 -----------------------------------------------------------------------------

SCORES = {
    "class": "class as asked",
    "variety": "total variation",
    "FD": "FD",
}


def strong_scores(w, measure):
    """The mean of a measure over three seeds, of the strong network."""
    rows = json.loads((WEIGHTS / "guidance.json").read_text(encoding="utf8"))["rows"]
    runs = [rows[f"strong network, w = {w}, seed {seed}"] for seed in (4, 5, 6)]
    return sum(run["scores"][measure][0] for run in runs) / 3


@exercise(
    "6.4",
    "The next figure shows all three, for every weight and for both networks.",
)
def survivor(attempt):
    guess = guessed(attempt, '"class", "variety" or "FD"', tuple(SCORES))
    if guess == "class":
        return
    before = strong_scores(1, SCORES[guess])
    after = strong_scores(8, SCORES[guess])
    digits = 0 if guess == "FD" else 2
    what = "the total variation" if guess == "variety" else "FD"
    raise Wrong(
        f"{what} rises from {before:.{digits}f} to {after:.{digits}f} on the way from "
        "w = 1 to w = 8, and less is better. Which of the three is what guidance "
        "pushes towards?"
    )


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
    "Draw with it: put `my_guided_between(unet, w, 100, 300)` in place of "
    "`guided(unet, w)` in section 5.",
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
