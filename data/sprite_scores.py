"""The scores of sprites: what can be measured with the grammar (numpy only).

`sprite_factory` draws and decodes; this module judges pictures, and knows the best
possible denoiser. `sprite_scoring()` returns it; lesson 4 introduces it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import sprite_factory as factory

# ---- Denoising ideally: what a network could know of a noisy picture at best ----------------------------------------


def _mean_of_class(
    y: np.ndarray, variance: float, class_name: str, chunk: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Of one class, for noisy pictures y (N, 768): the log of the mean of exp(-|y - x|^2 / (2 variance)) over its sprites x, plus
    |y|^2 / (2 variance); and the sprites' mean with these weights. Given the structure no pixel belongs to two parts, so that the sum over all
    colours is a product of sums over each part's ramps."""
    structures, colours, patterns, energies = factory.pattern_dictionary(class_name)
    total, mean = np.full(len(y), -np.inf), np.zeros(y.shape)
    for start in range(0, len(structures), chunk):
        part = patterns[start : start + chunk].reshape(-1, y.shape[1])
        logs = (
            (2 * (y @ part.T) - energies[start : start + chunk].reshape(-1))
            / (2 * variance)
        ).reshape(len(y), -1, patterns.shape[1])
        weights, evidence, first = (
            np.ones(logs.shape, np.float32),
            logs[..., 0].astype(np.float64),
            1,
        )
        for _, ramps in colours:
            mine = logs[..., first : first + len(ramps)]
            peak = mine.max(2, keepdims=True)
            weights[..., first : first + len(ramps)] = np.exp(
                np.maximum(mine - peak, -50)
            )  # numbers below 1e-38 would be slow
            sums = weights[..., first : first + len(ramps)].sum(2, keepdims=True)
            weights[..., first : first + len(ramps)] /= sums
            evidence += (peak + np.log(sums))[..., 0]
            first += len(ramps)
        new = np.maximum(
            total, evidence.max(1)
        )  # what was summed so far and this chunk, over one largest term: exp must not overflow
        shares, kept = np.exp(evidence - new[:, None]), np.exp(total - new)
        sums = kept + shares.sum(1)
        shares = np.where(
            shares > 1e-12 * sums[:, None], shares / sums[:, None], 0
        ).astype(np.float32)
        live = shares.any(
            0
        )  # at little noise hardly any structure explains y: leave the others out of the sum
        terms = weights[:, live] * shares[:, live, None]
        mixed = terms.reshape(len(y), -1) @ patterns[start : start + chunk][
            live
        ].reshape(-1, y.shape[1])
        total, mean = new + np.log(sums), mean * (kept / sums)[:, None] + mixed
    return total - np.log(factory.count_specifications(class_name)), mean


def denoise_ideally(
    noisy: np.ndarray, std: float, class_shares: Sequence[float] = (0.2,) * 5
) -> np.ndarray:
    """The best guess of the sprite behind noise: the mean E[x | y] of all 1,363,920 legal sprites x, weighted by how well they explain y.

    `noisy`: (N, 16, 16, 3) floats, y = x + std * noise in units where a sprite runs from 0 to 1; `std` > 0; `class_shares`: how common each
    class is, equally likely sprites in each. Returns (N, 16, 16, 3) floats. No denoiser has a smaller expected squared error on sprites drawn
    so; exact up to rounding, for each structure sums over each part's ramps. `ideal_noise` has it for
    diffusion's x_t. The first call builds the tables of `decode`. Raises ValueError for another shape, std or shares. Lesson 4.
    """
    noisy, shares = (
        np.asarray(noisy, dtype=np.float32),
        np.asarray(class_shares, dtype=float),
    )
    if (
        noisy.ndim != 4
        or noisy.shape[1:] != (factory.SIZE, factory.SIZE, 3)
        or not np.isfinite(noisy).all()
    ):
        raise ValueError(
            f"noisy pictures have shape {noisy.shape}; expected (N, {factory.SIZE}, {factory.SIZE}, 3), finite numbers"
        )
    if not std > 0:
        raise ValueError(f"std={std}; expected the noise's standard deviation, above 0")
    if (
        shares.shape != (len(factory.CLASS_NAMES),)
        or not (shares >= 0).all()
        or not shares.sum() > 0
    ):
        raise ValueError(
            f"class_shares={class_shares}; expected {len(factory.CLASS_NAMES)} numbers, none below 0 and not all 0, in the order of CLASS_NAMES"
        )
    y = noisy.reshape(len(noisy), -1)
    names = [name for name, share in zip(factory.CLASS_NAMES, shares) if share]
    answers = [_mean_of_class(y, std**2, name) for name in names]
    logs = (
        np.stack([evidence for evidence, _ in answers])
        + np.log(shares[shares > 0])[:, None]
    )
    weights = np.exp(logs - logs.max(0))
    return sum(
        (weights / weights.sum(0))[k][:, None] * mean
        for k, (_, mean) in enumerate(answers)
    ).reshape(noisy.shape)


def ideal_noise(
    x_t: np.ndarray, alpha_bar: float, class_shares: Sequence[float] = (0.2,) * 5
) -> np.ndarray:
    """The noise in x_t that `denoise_ideally` implies: what the best possible network would answer.

    `x_t`: (N, 3, 16, 16) floats, sqrt(alpha_bar) * sprites in [-1, 1] + sqrt(1 - alpha_bar) * noise, 0 < alpha_bar < 1,
    one for all; returns float32 of the same shape.
    Raises ValueError for another alpha_bar, and as `denoise_ideally`. Lesson 4.
    """
    if not 0 < alpha_bar < 1:
        raise ValueError(
            f"alpha_bar={alpha_bar}; expected a number between 0 and 1: schedule.ab[t] for one t from 1 to T"
        )
    noisy = (np.moveaxis(np.asarray(x_t), 1, -1) / alpha_bar**0.5 + 1) / 2
    clean = (
        2
        * np.moveaxis(
            denoise_ideally(noisy, (1 / alpha_bar - 1) ** 0.5 / 2, class_shares), -1, 1
        )
        - 1
    )
    return ((x_t - alpha_bar**0.5 * clean) / (1 - alpha_bar) ** 0.5).astype(np.float32)


# ---- Judging: is a picture a legal sprite, and is it a new one? ------------------------------------------------------

# A picture is legal when no pixel of it is further than this from the sprite that it was decoded to. Fixed before any weights were
# scored, with real sprites and `near_misses`: see there.
LEGAL_ERROR = 0.15
# A pixel is off the palette when it is further than this from every colour of it: noise of this size leaves a sprite readable (`decode`).
PALETTE_ERROR = 0.05


def pixel_errors(
    images: np.ndarray, specifications: Sequence[factory.Specification]
) -> np.ndarray:
    """How far each pixel lies from its sprite: (N, 16, 16), root mean square over the channels, in units of 0 to 1.

    `images` as for `decode`, whose first answer the `specifications` are. Raises ValueError when there are not as many of each. Lesson 4.
    """
    if len(images) != len(specifications):
        raise ValueError(
            f"{len(images)} pictures and {len(specifications)} specifications; expected as many: decode(images) gives them"
        )
    return np.sqrt(
        np.square(
            factory.render_many(specifications) / 255 - factory.in_unit_range(images)
        ).mean(3)
    )


def palette_errors(images: np.ndarray) -> np.ndarray:
    """How far each pixel lies from the nearest colour of the palette: (N, 16, 16), root mean square over the channels, in units of 0 to 1.

    `images` as for `decode`. Real sprites have 0 everywhere. Lesson 4.
    """
    pictures, colours = (
        factory.in_unit_range(images).reshape(
            len(images), factory.SIZE * factory.SIZE, 1, 3
        ),
        factory.palette() / 255,
    )
    nearest = np.array(
        [np.square(picture - colours).mean(2).min(1) for picture in pictures]
    )
    return np.sqrt(nearest).reshape(len(images), factory.SIZE, factory.SIZE)


def palette_distance(images: np.ndarray) -> np.ndarray:
    """The root mean square of each picture's `palette_errors`: (N,), in units of 0 to 1. Lesson 4."""
    return np.sqrt(np.square(palette_errors(images)).mean((1, 2)))


def are_legal(
    images: np.ndarray, specifications: Sequence[factory.Specification]
) -> np.ndarray:
    """(N,) bool: whether the worst pixel of each picture is nearer than LEGAL_ERROR to its sprite; arguments as `pixel_errors`. Lesson 4.

    Why the worst pixel, and not `decode`'s distance over the whole picture: a part may be ten pixels of 256, so that half of it in a wrong
    colour hardly moves the distance, while noise that nobody sees moves it as much.
    """
    return pixel_errors(images, specifications).max((1, 2), initial=0.0) < LEGAL_ERROR


def near_misses(
    specifications: Sequence[factory.Specification], kind: str, seed: int = 0
) -> np.ndarray:
    """Pictures that are almost sprites, one for each specification or fewer: (M, 16, 16, 3) uint8. Lesson 4.

    Each is its sprite with one factor changed in half of the pixels that it changes (the upper or the left half): a colour factor for
    `kind` "colour" (two colours mixed in one part), a structure factor for "part" (half a hat on another head). Where fewer than four
    pixels change there is no half, and no picture. LEGAL_ERROR refuses 91 of 100 mixed colours and practically every half part, and lets 99 of
    100 real sprites with Gaussian noise of standard deviation 0.05 pass (tests/data/test_judging.py). Raises ValueError for another kind.
    """
    if kind not in ("colour", "part"):
        raise ValueError(f"kind={kind!r} does not exist; expected 'colour' or 'part'")
    rng = np.random.default_rng([seed, 7])
    pictures = []
    for specification in specifications:
        family, legal = (
            factory.FAMILIES[specification.class_name],
            factory.factors_of(specification.class_name),
        )
        factor = str(
            rng.choice(list(family.COLOURS if kind == "colour" else family.STRUCTURE))
        )
        other = str(
            rng.choice(
                [value for value in legal[factor] if value != specification[factor]]
            )
        )
        picture = factory.render(specification)
        changed = factory.render(
            factory.specify(
                specification.class_name,
                **{**dict(specification.factors), factor: other},
            )
        )
        where = np.argwhere((picture != changed).any(2))
        if len(where) >= 4:
            y, x = where[where[:, rng.integers(2)].argsort(kind="stable")][
                : len(where) // 2
            ].T
            picture[y, x] = changed[y, x]
            pictures.append(picture)
    return (
        np.stack(pictures)
        if pictures
        else np.zeros((0, factory.SIZE, factory.SIZE, 3), np.uint8)
    )


def are_new(
    specifications: Sequence[factory.Specification], known: Sequence[dict[str, str]]
) -> np.ndarray:
    """(N,) bool: whether each specification is missing among `known`, dictionaries of factors such as `load_sprites("train").factors`. Lesson 4."""
    seen = {frozenset(factors.items()) for factors in known}
    return np.array(
        [frozenset(s.as_dict().items()) not in seen for s in specifications], dtype=bool
    )


def total_variation(
    ours: Sequence[dict[str, str]], theirs: Sequence[dict[str, str]]
) -> float:
    """How much the frequencies of factor values differ between two sets of sprites: 0 (not at all) to 1.

    Half the sum of the absolute differences between two histograms, sum |p - q| / 2, for the classes and for each factor of each class,
    averaged over these. The factors of a class that one set lacks count as 1, those of a class that both lack not at all. Small sets differ by
    chance: compare equal N, and put the score of real test sprites beside it. Lesson 4.
    """

    def histogram(rows: Sequence[dict[str, str]], factor: str) -> dict[str, float]:
        values = Counter(row[factor] for row in rows)
        return {value: count / len(rows) for value, count in values.items()}

    def distance(
        a: Sequence[dict[str, str]], b: Sequence[dict[str, str]], factor: str
    ) -> float:
        p, q = histogram(a, factor), histogram(b, factor)
        return (
            sum(abs(p.get(value, 0) - q.get(value, 0)) for value in p.keys() | q.keys())
            / 2
            if a and b
            else 1.0
        )

    distances = [distance(ours, theirs, "class")]
    for name in factory.CLASS_NAMES:
        a, b = (
            [row for row in rows if row["class"] == name] for rows in (ours, theirs)
        )
        distances += (
            [distance(a, b, factor) for factor in factory.factors_of(name)]
            if a or b
            else []
        )
    return float(np.mean(distances))


def distinct_by_chance(counts: dict[str, int]) -> float:
    """How many different sprites are expected among fair draws with replacement, {class: how many}: sum of K (1 - (1 - 1/K)^n). Lesson 4."""
    totals = {name: factory.count_specifications(name) for name in counts}
    return float(
        sum(
            total * -np.expm1(n * np.log1p(-1 / total))
            for (name, n), total in zip(counts.items(), totals.values())
        )
    )


def as_factors(
    asked: Sequence[dict[str, str]] | np.ndarray, n: int
) -> list[dict[str, str]]:
    """What was asked of n pictures, as n dictionaries of factors such as {"class": "hero", "item": "sword"}; an empty one asks nothing.

    `asked`: such dictionaries, or contexts (n, 5), one-hot rows in the order of CLASS_NAMES or rows of zeros. Raises ValueError for another
    number or shape, for rows that are neither, and for a factor or a value that no class has. Lesson 4.
    """
    if len(asked) != n:
        raise ValueError(
            f"asked has {len(asked)} entries for {n} pictures; give one for each"
        )
    if not n or not isinstance(asked[0], dict):
        rows = np.asarray(asked, dtype=float)
        one_hot = (
            rows.ndim == 2
            and rows.shape[1] == len(factory.CLASS_NAMES)
            and np.isin(rows, (0, 1)).all()
            and (rows.sum(1) <= 1).all()
        )
        if n and not one_hot:
            raise ValueError(
                f"asked has shape {rows.shape}; expected dictionaries of factors, or contexts ({n}, 5), each row one-hot or zero"
            )
        return [
            {"class": factory.CLASS_NAMES[row.argmax()]} if row.any() else {}
            for row in rows
        ]
    legal = {"class": set(factory.CLASS_NAMES)}
    for name in factory.CLASS_NAMES:
        for factor, values in factory.factors_of(name).items():
            legal.setdefault(factor, set()).update(values)
    for factor, value in {item for row in asked for item in row.items()}:
        if value not in legal.get(factor, ()):
            raise ValueError(
                f"asked for {factor}={value!r}, which no sprite has; expected {factor} among {sorted(legal.get(factor, legal))}"
            )
    return list(asked)


@cache
def context_columns() -> tuple[tuple[str, str], ...]:
    """What each column of a context that names factors asks for: (factor, value), first the five classes.

    Then every value of the two factors of each class of which pairs are held out (`held_out_pairs`): hair and outfit colours, kinds and their
    colours, ... A value that two classes share has one column. Lesson 6.
    """
    columns = [("class", name) for name in factory.CLASS_NAMES]
    for name in factory.CLASS_NAMES:
        columns += [
            (factor, value)
            for factor in factory.PAIRED_FACTORS[name]
            for value in factory.factors_of(name)[factor]
        ]
    return tuple(dict.fromkeys(columns))


def as_context(asked: Sequence[dict[str, str]]) -> np.ndarray:
    """Dictionaries of factors, such as {"class": "hero", "hair_colour": "red"}, to contexts (N, columns) float32.

    1 in the column of each value asked for, 0 elsewhere; a factor that has no columns (`context_columns`) is left out. Raises ValueError for a
    factor or a value that no class has. Lesson 6.
    """
    asked = as_factors(asked, len(asked))
    place = {column: i for i, column in enumerate(context_columns())}
    contexts = np.zeros((len(asked), len(place)), np.float32)
    for context, row in zip(contexts, asked):
        context[[place[item] for item in row.items() if item in place]] = 1
    return contexts


def verdicts(
    images: np.ndarray,
    known: Sequence[dict[str, str]],
    asked: Sequence[dict[str, str]] | np.ndarray | None = None,
) -> tuple[list[dict[str, str]], dict[str, np.ndarray]]:
    """What can be said of each picture by itself: (the factors it was decoded to, {measure: one value a picture}).

    "legal" (N,) bool, "new among legal" for the legal ones (all, and those of each class), "off-palette pixels" (N,) from 0 to 1 and, for
    each factor that is asked for (`as_factors`), "... as asked" for the pictures it was asked of, legal or not. `known`: the factors of the
    training sprites. Raises ValueError as `as_factors` and `decode`. Lesson 4.
    """
    asked = [] if asked is None else as_factors(asked, len(images))
    specifications, _ = factory.decode(images)
    found = [specification.as_dict() for specification in specifications]
    legal, classes = (
        are_legal(images, specifications),
        np.array([row["class"] for row in found]),
    )
    new = are_new(specifications, known)
    values = {"legal": legal, "new among legal": new[legal]}
    values |= {
        f"new among legal, {name}": new[legal & (classes == name)]
        for name in factory.CLASS_NAMES
    }
    for factor in dict.fromkeys(factor for row in asked for factor in row):
        values[f"{factor} as asked"] = np.array(
            [
                row.get(factor) == want[factor]
                for row, want in zip(found, asked)
                if factor in want
            ]
        )
    return found, values | {
        "off-palette pixels": (palette_errors(images) > PALETTE_ERROR).mean((1, 2))
    }


# ---- Intervals: how far chance may have moved a score ----------------------------------------------------------------


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """(mean, low, high): the mean of independent values (N,) and its 95 % interval; all NaN for no values. Lesson 4.

    For booleans Wilson's interval (1927), which stays inside 0 to 1 and has a width even where all agree; else mean -+ 1.96 standard errors
    (a lone value has none).
    """
    n = len(values)
    if not n:
        return (float("nan"),) * 3
    mean = float(np.mean(values))
    if values.dtype == bool:
        centre, shrink = (
            (mean + 1.96**2 / (2 * n)) / (1 + 1.96**2 / n),
            1 / (1 + 1.96**2 / n),
        )
        half = 1.96 * shrink * (mean * (1 - mean) / n + 1.96**2 / (4 * n * n)) ** 0.5
        return mean, max(centre - half, 0.0), min(centre + half, 1.0)
    half = 1.96 * float(np.std(values, ddof=1)) / n**0.5 if n > 1 else float("nan")
    return mean, mean - half, mean + half


GROUPS, T_QUANTILE = 20, 2.093  # Student's t with 19 degrees of freedom, 97.5 %


def check_number(n: int) -> None:
    """Raises ValueError for fewer pictures than `jackknife` has groups. Lesson 4."""
    if n < GROUPS:
        raise ValueError(
            f"{n} pictures; expected at least {GROUPS}, the number of groups that the intervals are made of"
        )


def jackknife(
    statistic: Callable[[np.ndarray], Sequence[float]], n: int
) -> list[tuple[float, float, float]]:
    """[(value, low, high)]: each number that `statistic(indices)` returns of n pictures, and its 95 % interval. For what is no mean over pictures.

    The delete-a-group jackknife: 20 random groups (so that an order of classes does no harm), each left out in turn, and a half-width of
    2.093 sqrt(19/20 sum (s_i - mean s)^2). It is about the expected score of n pictures: what falls with n, as FD does, is not corrected.
    Raises ValueError as `check_number`. Lesson 4.
    """
    check_number(n)
    group = np.random.default_rng(0).permutation(n) % GROUPS
    without = np.array(
        [statistic(np.flatnonzero(group != left_out)) for left_out in range(GROUPS)]
    )
    values = np.array(statistic(np.arange(n)))
    half = (
        T_QUANTILE
        * ((GROUPS - 1) / GROUPS * np.square(without - without.mean(0)).sum(0)) ** 0.5
    )
    return list(
        zip(values.tolist(), (values - half).tolist(), (values + half).tolist())
    )


def summary(
    images: np.ndarray,
    known: Sequence[dict[str, str]],
    asked: Sequence[dict[str, str]] | np.ndarray | None = None,
) -> dict[str, tuple[float, float, float]]:
    """All that the grammar says of a set of pictures: {measure: (value, low, high)}, the ends of a 95 % interval; arguments as `verdicts`.

    The means of its measures; then of the set as a whole, each picture taken for its nearest sprite, legal or not: "total variation", the
    `total_variation` of factors against `known`, and "distinct", different sprites over what as many fair draws with replacement from each
    class would give (a set without repetitions is just above 1). Raises ValueError for fewer than 20 pictures, and as `verdicts`. Lesson 4.
    """
    check_number(len(images))
    found, values = verdicts(images, known, asked)

    def of_the_set(rows: Sequence[int]) -> tuple[float, float]:
        some = [found[i] for i in rows]
        counts = Counter(row["class"] for row in some)
        return total_variation(some, known), len(
            {frozenset(row.items()) for row in some}
        ) / distinct_by_chance(counts)

    scores = {name: interval(each) for name, each in values.items()}
    return scores | dict(
        zip(("total variation", "distinct"), jackknife(of_the_set, len(found)))
    )


def score_table(
    columns: dict[str, dict[str, tuple[float, float, float]]], n: int
) -> str:
    """{column: {measure: (value, low, high)}} as text to print, each value (low, high), n pictures a column. Lesson 4."""
    names = dict.fromkeys(name for scores in columns.values() for name in scores)

    def cell(scores: dict[str, tuple[float, float, float]], name: str) -> str:
        known = name in scores and not np.isnan(scores[name]).any()
        return (
            "{} ({}, {})".format(
                *(f"{value:.{3 if abs(value) < 10 else 1}f}" for value in scores[name])
            )
            if known
            else "-"
        )

    head = f"{f'n = {n:,} each':30s}" + "".join(f"{title:24s}" for title in columns)
    rows = [
        f"{name:30s}"
        + "".join(f"{cell(scores, name):24s}" for scores in columns.values())
        for name in names
    ]
    return "\n".join(line.rstrip() for line in (head, *rows))
