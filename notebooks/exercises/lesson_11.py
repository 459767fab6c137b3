"""The judges of lesson 11's exercises (they spoil them)."""

import math

import torch

from exercises import (
    Wrong,
    as_numbers,
    compare,
    exercise,
    guessed,
    normal,
    tried,
    with_a_hint,
)


def table(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Rows of probabilities, each of which sums to 1."""
    return normal(rows, columns, seed=seed, dtype=torch.float64).softmax(1)


# ---- 11.1 ----------------------------------------------------------------------------


def bayes_mistakes(before, step):
    pairs = (before[:, None] * step).T
    right = pairs / pairs.sum(1, keepdim=True)
    yield "the rows do not sum to 1: divide each by its sum.", pairs
    yield (
        "you divided by the sums of the columns; each row, one x_t, has its own sum.",
        pairs / pairs.sum(0, keepdim=True),
    )
    yield (
        "`before` is left out: how likely x_{t-1} was before counts, too.",
        step.T / step.T.sum(1, keepdim=True),
    )
    yield "the table is transposed: a row for each x_t.", right.T
    yield (
        "this gives `step` back, divided along x_t: transpose before you divide.",
        step,
    )
    yield "transpose, and divide each row by its sum.", pairs.T


@exercise(
    "11.1", "Which row comes out when `before` is 1 at one place and 0 elsewhere?"
)
def bayes_on_tables(attempt):
    for n, m in ((5, 7), (6, 6)):
        before = table(1, n, seed=n)[0]
        step = table(n, m, seed=10 + n)
        pairs = (before[:, None] * step).T
        mine = with_a_hint(
            "size of tensor",
            "`before[:, None]` has a row for each x_{t-1}, as `step` has.",
            attempt,
            before,
            step,
        )
        compare(
            mine,
            pairs / pairs.sum(1, keepdim=True),
            bayes_mistakes(before, step),
            where=f"for N = {n}, M = {m}",
            tolerance=1e-6,
        )


# ---- 11.2 ----------------------------------------------------------------------------


def walked(start, tables):
    p = start
    for one in tables:
        p = p @ one
    return p


def likelihood_mistakes(start, back):
    right = walked(start, back[:0:-1])
    yield "the last step is missing: go down to t = 1.", walked(start, back[:1:-1])
    yield "the first step is missing: begin with t = T.", walked(start, back[-2:0:-1])
    yield (
        "the steps are in the wrong order: from T down to 1.",
        walked(start, [*back[2:], back[1]]),
    )
    turned = [one.T for one in back[:1:-1]]
    yield (
        "the tables are transposed: a row belongs to an x_t, so it is `p @ back[t]`.",
        walked(start, [*turned, back[1]]),
    )
    yield "these are bits; the probabilities themselves are asked for.", -right.log2()
    even = torch.full_like(start, 1 / len(start))
    yield "is `start` used? This begins with equal shares.", walked(even, back[:0:-1])


@exercise("11.2", "Do its eight numbers sum to 1? They must: each step keeps the sum.")
def likelihood_of_tables(attempt):
    start = table(1, 6, seed=3)[0]
    for T in (4, 2):
        back = [None, table(6, 4, seed=4)]
        for t in range(2, T + 1):
            back.append(table(6, 6, seed=3 + t))
        mine = with_a_hint(
            "shapes cannot be multiplied",
            "`p @ back[t]` leads from x_t to x_{t-1}: begin with t = T.",
            attempt,
            start,
            back,
        )
        compare(
            mine,
            walked(start, back[:0:-1]),
            likelihood_mistakes(start, back),
            where=f"for T = {T}",
            tolerance=1e-6,
        )


# ---- 11.3 ----------------------------------------------------------------------------

ENTROPY = 2.75

OTHER_NUMBERS = {
    3.48: "That is the bound of the normal steps. Exact steps have no gap.",
    2.77: "That is the exact value for the normal steps. Exact steps do better still.",
    3.0: "3 bits store eight levels if all are equally likely. Here they are not.",
    0.0: "The gap is 0. But even the right model needs bits for the pixel.",
    0.71: "That is the gap of the normal steps. Exact steps have none.",
}


@exercise(
    "11.3", "So with exact steps the bound is no bound any more: it is the truth."
)
def bound_of_exact_steps(guess):
    guess = guessed(guess, "a number of bits", between=(0, 100))
    if abs(guess - ENTROPY) < 0.006:
        return
    for number, sentence in OTHER_NUMBERS.items():
        if abs(guess - number) < 0.006:
            raise Wrong(sentence)
    if abs(guess - ENTROPY * math.log(2)) < 0.006:
        raise Wrong("That is right in nats. How many bits is it?")
    if guess < ENTROPY:
        raise Wrong("No model's average is below the entropy (section 2).")
    raise Wrong("Without a gap, the bound is the average of -log2 p(x_0). Of which p?")


# ---- 11.4 ----------------------------------------------------------------------------


def weight_mistakes(target, snr):
    ones = torch.ones_like(snr)
    if target == "noise":
        yield "a loss on the noise itself has the weight 1.", 1 / snr
        return
    if target == "picture":
        yield "upside down: where the SNR is high, the picture's error is small.", snr
        yield "the error is squared, so the root is gone: 1 / SNR.", 1 / snr.sqrt()
        yield "that is the velocity's weight.", 1 + 1 / snr
    else:
        yield (
            "upside down: this is alpha-bar, and the weight is 1 / alpha-bar.",
            (snr / (1 + snr)),
        )
        yield "upside down: it is 1 + 1 / SNR.", 1 + snr
        yield (
            "this is only the picture's part: the noise's own error counts, too.",
            1 / snr,
        )
        yield "the error is squared, so the root is gone.", (1 + 1 / snr).sqrt()
        yield "this is 1 - alpha-bar; the weight is 1 / alpha-bar.", 1 / (1 + snr)
        yield (
            "a sign: the picture's error is -e / root of SNR, so the parts add up.",
            (snr - 1) ** 2 / (snr * (1 + snr)),
        )
    yield "this counts the target's error as if it were the noise's.", ones


@exercise("11.4", "Which target's loss ignores the clean end most? Look at large SNRs.")
def weight_on_the_noise(attempt):
    snr = torch.tensor([100, 4, 1, 0.25, 0.01], dtype=torch.float64)
    right = {"noise": torch.ones_like(snr), "picture": 1 / snr, "velocity": 1 + 1 / snr}
    for target, weight in right.items():
        mine = as_numbers(tried(attempt, target, snr))
        if mine.ndim == 0:
            mine = mine.expand(snr.shape)
        compare(
            mine,
            weight,
            weight_mistakes(target, snr),
            where=f'for "{target}" at SNR = 100, 4, 1, 0.25, 0.01',
            tolerance=1e-6,
        )
