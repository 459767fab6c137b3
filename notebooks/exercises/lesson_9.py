"""The judges of lesson 9's exercises (they spoil them)."""

import numpy as np
import torch

from exercises import (
    Wrong,
    as_numbers,
    compare,
    exercise,
    guessed,
    nearest,
    normal,
    tried,
)

# ---- 9.1 -----------------------------------------------------------------------------


def memorised_mistakes(pictures, training):
    distances = torch.cdist(pictures, training)
    two = distances.topk(2, largest=False).values
    first, second = two.T
    yield (
        "a third of the *distance* is meant; with squared distances it is a ninth.",
        first**2 < second**2 / 3,
    )
    yield (
        "the test is upside down: a copy has a small first distance.",
        first >= second / 3,
    )
    yield "the second distance is not divided by 3.", first < second
    yield (
        "the rows and columns are swapped: look for the neighbours of each picture.",
        _columns(distances),
    )
    far = distances.topk(2).values
    yield "these are the two largest distances.", far[:, 0] < far[:, 1] / 3
    yield "these are the two largest distances.", far[:, 1] < far[:, 0] / 3
    yield (
        "this is the share of copies; return a yes or no for each.",
        (first < second / 3).double().mean(),
    )


def _columns(distances):
    two = distances.topk(2, dim=0, largest=False).values
    return two[0] < two[1] / 3


@exercise(
    "9.1",
    "Would a copy of a sprite that is twice in the training set be found? "
    "That is why duplicates are removed first.",
)
def is_memorised(attempt):
    for seed, n, m in ((0, 40, 30), (1, 30, 30)):
        training = normal(m, 6, seed=seed)
        rows = torch.arange(n) % m
        sizes = torch.linspace(0.02, 1.2, n)[:, None]
        pictures = training[rows] + sizes * normal(n, 6, seed=seed + 10)
        two = torch.cdist(pictures, training).topk(2, largest=False).values
        compare(
            as_numbers(tried(attempt, pictures, training)),
            two[:, 0] < two[:, 1] / 3,
            memorised_mistakes(pictures, training),
            where=f"for {n} pictures and {m} of training",
        )


# ---- 9.2 -----------------------------------------------------------------------------

OTHER_DISTANCES = {
    4: "That is one of the two terms: the centres give 4, and the shapes give more.",
    6: "Are the centres squared? |0 - 2|^2 is 4.",
    2: "FD is made of squares, and it has a second term.",
    8**0.5: "That is the root of FD. By its usual definition FD is left squared.",
    14: "The two variances are added, but the overlap, 2 root(C_a C_b), is missing.",
    11: "The overlap counts twice: minus 2 root(C_a C_b).",
    68: "C is the variance: the root of C_a C_b is the product of the two stds, 3.",
    -4: "The root is missing: subtract 2 root(C_a C_b), not 2 C_a C_b.",
}


@exercise(
    "9.2",
    "The same centres and shapes give FD 0, whatever the clouds look like: "
    "a ring and a disc can have the same bell.",
)
def distance_of_two_bells(guess):
    guess = guessed(guess, "a number", between=(-1e6, 1e6))
    if abs(guess - 8) < 0.01:
        return
    for number, sentence in OTHER_DISTANCES.items():
        if abs(guess - number) < 0.01:
            raise Wrong(sentence)
    raise Wrong(
        "Add (0 - 2)^2 for the centres and C_a + C_b - 2 root(C_a C_b) for the shapes, "
        "with C = std^2."
    )


# ---- 9.3 -----------------------------------------------------------------------------


def limit_mistakes(fd_n, fd_2n):
    c_over_n = 2 * (fd_n - fd_2n)
    yield "that is c / n, what has to be subtracted from FD(n).", c_over_n
    yield "that is c / 2n, what has to be subtracted from FD(2n).", c_over_n / 2
    yield (
        "the difference is only half of c / n: subtract it from FD(2n) once more.",
        fd_2n,
    )
    yield "that is their mean, which lies between the two.", (fd_n + fd_2n) / 2
    yield "the two are swapped: the limit lies beyond FD(2n).", 2 * fd_n - fd_2n
    yield (
        "c / n is subtracted from FD(2n), which holds only c / 2n.",
        fd_2n - c_over_n,
    )
    yield "the sign is wrong: FD falls as n grows.", fd_2n + c_over_n / 2


@exercise(
    "9.3",
    "The next cell does it for the two curves. "
    "The published name for this is FID-infinity (Chong and Forsyth 2020).",
)
def limit(attempt):
    for at_infinity, c, n in ((70.0, 21000.0, 400), (5.0, 300.0, 25)):
        fd_n = at_infinity + c / n
        fd_2n = at_infinity + c / (2 * n)
        compare(
            tried(attempt, fd_n, fd_2n),
            at_infinity,
            limit_mistakes(fd_n, fd_2n),
            where=f"for FD {fd_n:g} and {fd_2n:g}",
        )


# ---- 9.4 -----------------------------------------------------------------------------


def _share(points, centres, k, needed=1):
    """The share of points in the balls of `needed` centres."""
    own = torch.cdist(centres, centres)
    radius = own.kthvalue(k + 1).values
    inside = torch.cdist(points, centres) < radius
    return (inside.sum(1) >= needed).double().mean()


def precision_mistakes(real, fake, k):
    precision = _share(fake, real, k)
    recall = _share(real, fake, k)
    yield "the two are swapped: precision comes first.", _pair(recall, precision)
    yield (
        "k counts the point itself: its k-th neighbour is at place k + 1.",
        _pair(_share(fake, real, k - 1), _share(real, fake, k - 1)),
    )
    yield "both are precision: recall swaps real and fake.", _pair(precision, precision)
    yield "both are recall: precision swaps real and fake.", _pair(recall, recall)
    counts = (precision * len(fake), recall * len(real))
    yield "these are counts; a share is a mean.", _pair(*counts)


def _pair(first, second):
    return torch.stack([torch.as_tensor(part).double() for part in (first, second)])


@exercise(
    "9.4",
    "Now add a few samples that lie far away, each on its own. "
    "Their balls are huge: what happens to recall?",
)
def precision_recall(attempt):
    for seed, n, m, k in ((0, 60, 40, 3), (4, 50, 50, 5)):
        real = normal(n, 2, seed=seed)
        fake = 0.6 * normal(m, 2, seed=seed + 1) + torch.tensor([1.0, 0.5])
        mine = tried(attempt, real, fake, k)
        if not isinstance(mine, (tuple, list, np.ndarray, torch.Tensor)):
            raise Wrong("Return two numbers: precision, recall.")
        compare(
            mine,
            _pair(_share(fake, real, k), _share(real, fake, k)),
            precision_mistakes(real, fake, k),
            where=f"for {n} real and {m} fake, k = {k}",
            tolerance=1e-4,
        )


# ---- 9.5 -----------------------------------------------------------------------------


def jackknife_mistakes(score, group, mine):
    G = int(group.max()) + 1
    rows = [np.flatnonzero(group != g) for g in range(G)]
    without = np.array([score(kept) for kept in rows])
    alone = np.array([score(np.flatnonzero(group == g)) for g in range(G)])
    std = without.std()
    right = (G - 1) ** 0.5 * std
    yield (
        "a group is kept and the rest is left out; it should be the other way round.",
        nearest(
            mine,
            (G - 1) ** 0.5 * alone.std(),
            alone.std(),
            alone.std(ddof=1),
            alone.std() / G**0.5,
            alone.std(ddof=1) / G**0.5,
        ),
    )
    yield (
        "that is the scatter of the scores; it must be enlarged by the root of G - 1.",
        nearest(mine, std, without.std(ddof=1)),
    )
    yield (
        "this divides by the root of G, as for a mean. Leaving out a group changes "
        "little, so the scatter is multiplied.",
        nearest(mine, std / G**0.5, without.std(ddof=1) / G**0.5),
    )
    yield (
        "your std divides by G - 1 inside the root; the formula has G there "
        "(numpy's default).",
        (G - 1) ** 0.5 * without.std(ddof=1),
    )
    yield "this is the variance, without the root.", right**2
    yield "the root of G - 1 is missing its root.", (G - 1) * std


@exercise(
    "9.5",
    "For a mean and groups of one sample each it gives exactly std / root(n). Try it.",
)
def jackknife(attempt):
    for seed, n, G in ((0, 60, 20), (1, 60, 6)):
        values = normal(n, seed=seed, dtype=torch.float64).numpy() ** 2
        group = np.random.default_rng(seed).permutation(n) % G

        def score(rows, values=values):
            return float(np.std(values[rows]) / np.mean(values[rows]))

        mine = tried(attempt, score, group)
        without = [score(np.flatnonzero(group != g)) for g in range(G)]
        compare(
            mine,
            (G - 1) ** 0.5 * np.std(without),
            jackknife_mistakes(score, group, mine),
            where=f"for {n} samples in {G} groups",
        )


# ---- 9.6 -----------------------------------------------------------------------------

MEASURES = ("legal", "FD", "precision", "recall")
NOTICES = {
    "legal": "A blur moves pixels at every edge by far more than 0.15, so that no "
    "picture stays legal.",
    "FD": "In section 3 the blurred cloud is much narrower than the grey one.",
    "recall": "Blurred samples lie close together, so their balls are small: does any "
    "contain a grey point at the edge?",
}


@exercise(
    "9.6",
    "A blur is no outlier to these features. The map below shows whether precision "
    "makes up for it elsewhere.",
)
def unnoticed(guess):
    guess = guessed(guess, f"one of {MEASURES}", options=MEASURES)
    if guess != "precision":
        raise Wrong(f'"{guess}" does notice it. {NOTICES[guess]}')
