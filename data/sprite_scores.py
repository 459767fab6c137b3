"""The scores of sprites: what can be measured with the grammar (numpy only).

`sprite_factory` draws sprites and decodes pictures. This module judges pictures: which
of them are legal and new, how varied a set of them is, and how far chance may have
moved a score. It also computes the best guess that any denoiser could make.
`diffusion_utilities.sprite_scoring()` returns this module.
Lesson 4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import sprite_factory as factory
from sprite_factory import CLASS_NAMES, SIZE, Specification

Factors = dict[str, str]  # such as {"class": "hero", "item": "sword"}
Interval = tuple[float, float, float]  # (value, low, high)

# A picture is legal if each of its pixels is nearer than this to the sprite that it was
# decoded to. The limit was fixed before any weights were scored, with real sprites and
# `near_misses`: see there.
LEGAL_ERROR = 0.15
# A pixel is off the palette if it is further than this from every colour of it. Noise
# of this size leaves a sprite readable (`decode`).
PALETTE_ERROR = 0.05
GROUPS = 20  # of pictures, in the jackknife
T_QUANTILE = 2.093  # of Student's t with 19 degrees of freedom, 97.5 %
NORMAL_QUANTILE = 1.96  # of the normal distribution, 97.5 %


# ---- Legal: how far is a picture from the grammar? -----------------------------------


def pixel_errors(
    images: np.ndarray, specifications: Sequence[Specification]
) -> np.ndarray:
    """How far each pixel lies from its sprite: (N, 16, 16), in units of 0 to 1.

    The error is the root mean square over the channels. `images` as for `decode`;
    `specifications`: those that `decode` finds for them. Raises ValueError unless
    there are as many of each.
    Lesson 4.
    """
    if len(images) != len(specifications):
        raise ValueError(
            f"{len(images)} pictures and {len(specifications)} specifications; "
            "expected as many: decode(images) gives them"
        )
    sprites = factory.render_many(specifications) / 255
    errors = sprites - factory.in_unit_range(images)
    return np.sqrt(np.square(errors).mean(3))


def palette_errors(images: np.ndarray) -> np.ndarray:
    """How far each pixel lies from the nearest colour of the palette: (N, 16, 16).

    The error is the root mean square over the channels, in units of 0 to 1. `images` as
    for `decode`. Real sprites have 0 everywhere.
    Lesson 4.
    """
    pictures = factory.in_unit_range(images)
    colours = factory.palette() / 255
    errors = np.zeros((len(pictures), SIZE, SIZE))
    for i, picture in enumerate(pictures):
        differences = picture[:, :, None] - colours
        nearest = np.square(differences).mean(3).min(2)
        errors[i] = np.sqrt(nearest)
    return errors


def palette_distance(images: np.ndarray) -> np.ndarray:
    """The root mean square of each picture's `palette_errors`: (N,), from 0 to 1.

    Lesson 4.
    """
    squares = np.square(palette_errors(images))
    return np.sqrt(squares.mean((1, 2)))


def are_legal(
    images: np.ndarray, specifications: Sequence[Specification]
) -> np.ndarray:
    """Whether each picture is near enough to its sprite: (N,) bool.

    It is if its worst pixel is nearer than LEGAL_ERROR. Arguments and errors as for
    `pixel_errors`.

    The worst pixel decides, and not `decode`'s distance over the whole picture. A part
    may be ten pixels of 256: half of it in a wrong colour hardly moves the distance,
    and noise too weak to see moves it as much.
    Lesson 4.
    """
    errors = pixel_errors(images, specifications)
    return errors.max((1, 2), initial=0.0) < LEGAL_ERROR


def near_misses(
    specifications: Sequence[Specification], kind: str, seed: int = 0
) -> np.ndarray:
    """Pictures that are almost sprites: (M, 16, 16, 3) uint8, M <= N.

    In each sprite one factor is changed, but only in half of the pixels that it
    affects: the upper or the left half. For `kind` "colour" it is a colour factor, so
    that two colours meet in one part; for "part" it is a structure factor, such as half
    a hat on another head. A change of fewer than four pixels has no half, and such a
    sprite gives no picture. Raises ValueError for another kind.

    LEGAL_ERROR refuses 91 of 100 mixed colours and practically every half part. It
    accepts 99 of 100 real sprites with Gaussian noise of standard deviation 0.05
    (tests/data/test_judging.py).
    Lesson 9.
    """
    if kind not in ("colour", "part"):
        raise ValueError(f"kind={kind!r} does not exist; expected 'colour' or 'part'")
    rng = np.random.default_rng([seed, 7])
    pictures = []
    for specification in specifications:
        picture = _near_miss(specification, kind, rng)
        if picture is not None:
            pictures.append(picture)
    if not pictures:
        return np.zeros((0, SIZE, SIZE, 3), np.uint8)
    return np.stack(pictures)


def _near_miss(
    specification: Specification, kind: str, rng: np.random.Generator
) -> np.ndarray | None:
    """One of `near_misses`, or None where fewer than four pixels change."""
    class_name = specification.class_name
    family = factory.FAMILIES[class_name]
    factors = family.COLOURS if kind == "colour" else family.STRUCTURE
    factor = str(rng.choice(list(factors)))
    values = dict(specification.factors)
    legal = factory.factors_of(class_name)[factor]
    others = [value for value in legal if value != values[factor]]
    values[factor] = str(rng.choice(others))
    picture = factory.render(specification)
    changed = factory.render(factory.specify(class_name, **values))
    places = np.argwhere((picture != changed).any(2))
    if len(places) < 4:
        return None
    axis = rng.integers(2)
    order = places[:, axis].argsort(kind="stable")
    half = order[: len(places) // 2]
    y, x = places[half].T
    picture[y, x] = changed[y, x]
    return picture


# ---- New and varied: is a set of sprites more than a copy? ---------------------------


def are_new(
    specifications: Sequence[Specification], known: Sequence[Factors]
) -> np.ndarray:
    """Whether each specification is missing among `known`: (N,) bool.

    `known`: dictionaries of factors, such as `load_sprites("train").factors`.
    Lesson 9.
    """
    seen = {frozenset(factors.items()) for factors in known}
    ours = [frozenset(each.as_dict().items()) for each in specifications]
    return np.array([factors not in seen for factors in ours], dtype=bool)


def total_variation(ours: Sequence[Factors], theirs: Sequence[Factors]) -> float:
    """How much the frequencies of factor values differ between two sets of sprites.

    Half the sum of the absolute differences between two histograms, sum |p - q| / 2,
    is 0 for equal ones and 1 for disjoint ones. It is computed for the classes and for
    each factor of each class, and averaged over these. If one set lacks a class, that
    class's factors count as 1; if both lack it, they are left out.

    Small sets differ by chance: compare equal numbers, and show the score of real test
    sprites beside it.
    Lesson 9.
    """
    distances = [_histogram_distance(ours, theirs, "class")]
    for name in CLASS_NAMES:
        some = [row for row in ours if row["class"] == name]
        others = [row for row in theirs if row["class"] == name]
        if not some and not others:
            continue
        for factor in factory.factors_of(name):
            distances.append(_histogram_distance(some, others, factor))
    return float(np.mean(distances))


def _histogram_distance(
    ours: Sequence[Factors], theirs: Sequence[Factors], factor: str
) -> float:
    """sum |p - q| / 2 of one factor's histograms; 1 if one of the sets is empty."""
    if not ours or not theirs:
        return 1.0
    p = _histogram(ours, factor)
    q = _histogram(theirs, factor)
    values = p.keys() | q.keys()
    differences = [abs(p.get(value, 0) - q.get(value, 0)) for value in values]
    return sum(differences) / 2


def _histogram(rows: Sequence[Factors], factor: str) -> dict[str, float]:
    """{value of the factor: its share of the rows}."""
    counts = Counter(row[factor] for row in rows)
    return {value: count / len(rows) for value, count in counts.items()}


def distinct_by_chance(counts: dict[str, int]) -> float:
    """How many different sprites are expected among fair draws with replacement.

    `counts`: {class: how many are drawn}. For n draws from a class of K sprites it is
    K (1 - (1 - 1/K)^n).
    Lesson 4.
    """
    expected = []
    for name, n in counts.items():
        total = factory.count_specifications(name)
        expected.append(total * -np.expm1(n * np.log1p(-1 / total)))
    return float(sum(expected))


# ---- As asked: which factors was a picture to have? ----------------------------------


def as_factors(asked: Sequence[Factors] | np.ndarray, n: int) -> list[Factors]:
    """What was asked of n pictures, as n dictionaries of factors.

    `asked`: dictionaries such as {"class": "hero", "item": "sword"}, of which an empty
    one asks for nothing; or contexts (n, 5), one-hot rows in the order of CLASS_NAMES
    or rows of zeros. Raises ValueError for another number or shape, for rows that are
    neither, and for a factor or a value that no class has.
    Lesson 4.
    """
    if len(asked) != n:
        raise ValueError(
            f"asked has {len(asked)} entries for {n} pictures; give one for each"
        )
    if n == 0:
        return []
    if not isinstance(asked[0], dict):
        return _classes_asked(asked)
    _check_factors(asked)
    return list(asked)


def _classes_asked(contexts: np.ndarray) -> list[Factors]:
    """Contexts, one-hot rows or rows of zeros, as dictionaries with a class or none."""
    try:
        rows = np.asarray(contexts, dtype=float)
    except (TypeError, ValueError):
        rows = np.zeros(0)  # no numbers, or rows of different lengths
    if rows.ndim == 1:
        raise ValueError(
            f"asked: ({len(contexts)},) given; expected dictionaries of factors, or "
            f"one-hot rows ({len(contexts)}, {len(CLASS_NAMES)}): "
            f"F.one_hot(labels, {len(CLASS_NAMES)}).float()"
        )
    is_table = rows.ndim == 2 and rows.shape[1] == len(CLASS_NAMES)
    is_binary = np.isin(rows, (0, 1)).all()
    if not is_table or not is_binary or (rows.sum(1) > 1).any():
        raise ValueError(
            f"asked has shape {rows.shape}; expected dictionaries of factors, or "
            f"contexts ({len(rows)}, 5), each row one-hot or zero"
        )
    asked = []
    for row in rows:
        if row.any():
            asked.append({"class": CLASS_NAMES[row.argmax()]})
        else:
            asked.append({})
    return asked


def _check_factors(asked: Sequence[Factors]) -> None:
    """Raises ValueError for a factor or a value that no class has."""
    legal = {"class": set(CLASS_NAMES)}
    for name in CLASS_NAMES:
        for factor, values in factory.factors_of(name).items():
            legal.setdefault(factor, set()).update(values)
    for row in asked:
        for factor, value in row.items():
            if value not in legal.get(factor, ()):
                expected = sorted(legal.get(factor, legal))
                raise ValueError(
                    f"asked for {factor}={value!r}, which no sprite has; "
                    f"expected {factor} among {expected}"
                )


@cache
def factor_columns() -> tuple[tuple[str, str], ...]:
    """What each column of a context row asks for, with all factors: (factor, value).

    First come the five classes, then every value of every factor of each class. A value
    that two classes share has one column.
    Lesson 6.
    """
    columns = [("class", name) for name in CLASS_NAMES]
    for name in CLASS_NAMES:
        for factor, values in factory.factors_of(name).items():
            columns += [(factor, value) for value in values]
    return tuple(dict.fromkeys(columns))


@cache
def context_columns() -> tuple[tuple[str, str], ...]:
    """What each column of a context that names factors asks for: (factor, value).

    First come the five classes, then every value of the two factors of each class of
    which pairs are held out (`held_out_pairs`): hair and outfit colours, kinds of food
    and their colours, and so on. A value that two classes share has one column.
    Lesson 6.
    """
    columns = [("class", name) for name in CLASS_NAMES]
    for name in CLASS_NAMES:
        legal = factory.factors_of(name)
        for factor in factory.PAIRED_FACTORS[name]:
            columns += [(factor, value) for value in legal[factor]]
    return tuple(dict.fromkeys(columns))


def as_context(
    asked: Sequence[Factors], columns: Sequence[tuple[str, str]] | None = None
) -> np.ndarray:
    """Dictionaries of factors as contexts: (N, columns) float32.

    A dictionary such as {"class": "hero", "hair_colour": "red"} has 1 in the column of
    each value that it asks for and 0 elsewhere. A factor that has no columns is left
    out. `columns`: `context_columns()` unless others are given, such as
    `factor_columns()`. Raises ValueError for a factor or a value that no class has.
    Lesson 6.
    """
    asked = as_factors(asked, len(asked))
    if columns is None:
        columns = context_columns()
    place = {column: i for i, column in enumerate(columns)}
    contexts = np.zeros((len(asked), len(columns)), np.float32)
    for context, row in zip(contexts, asked):
        for column in row.items():
            if column in place:
                context[place[column]] = 1
    return contexts


# ---- Verdicts: what can be said of each picture? -------------------------------------


def verdicts(
    images: np.ndarray,
    known: Sequence[Factors],
    asked: Sequence[Factors] | np.ndarray | None = None,
) -> tuple[list[Factors], dict[str, np.ndarray]]:
    """What can be said of each picture by itself: (found, measures).

    `images` as for `decode`; `known`: the factors of the training sprites; `asked` as
    for `as_factors`. found: the factors that each picture was decoded to. measures:

    - "legal": (N,) bool.
    - "new among legal", and the same for each class: bool, of the legal pictures.
    - "class as asked", and the same for each factor that is asked for: bool, of the
      pictures it was asked of, legal or not.
    - "off-palette pixels": (N,) shares from 0 to 1.

    Raises ValueError as `as_factors` and `decode` do.
    Lesson 4.
    """
    asked = [] if asked is None else as_factors(asked, len(images))
    specifications, _ = factory.decode(images)
    found = [specification.as_dict() for specification in specifications]
    legal = are_legal(images, specifications)
    new = are_new(specifications, known)
    classes = np.array([row["class"] for row in found])
    measures = {"legal": legal, "new among legal": new[legal]}
    for name in CLASS_NAMES:
        measures[f"new among legal, {name}"] = new[legal & (classes == name)]
    factors = dict.fromkeys(factor for row in asked for factor in row)
    for factor in factors:
        measures[f"{factor} as asked"] = _as_asked(found, asked, factor)
    is_off = palette_errors(images) > PALETTE_ERROR
    measures["off-palette pixels"] = is_off.mean((1, 2))
    return found, measures


def _as_asked(
    found: Sequence[Factors], asked: Sequence[Factors], factor: str
) -> np.ndarray:
    """Whether the factor came as asked, for each picture that it was asked of: bool."""
    hits = []
    for came, wanted in zip(found, asked):
        if factor in wanted:
            hits.append(came.get(factor) == wanted[factor])
    return np.array(hits)


# ---- Intervals: how far may chance have moved a score? -------------------------------


def interval(values: np.ndarray) -> Interval:
    """The mean of independent values (N,) and its 95 % interval: (mean, low, high).

    For booleans it is Wilson's interval (1927), which stays inside 0 to 1 and has a
    width even where all values agree. For other values it is the mean -+ 1.96 standard
    errors. All three are NaN for no values, and the ends are NaN for a single number.
    Lesson 9.
    """
    n = len(values)
    if n == 0:
        nan = float("nan")
        return nan, nan, nan
    mean = float(np.mean(values))
    if values.dtype == bool:
        return _wilson(mean, n)
    half = float("nan")
    if n > 1:
        half = NORMAL_QUANTILE * float(np.std(values, ddof=1)) / n**0.5
    return mean, mean - half, mean + half


def _wilson(share: float, n: int) -> Interval:
    """A share of n, and Wilson's 95 % interval for it."""
    square = NORMAL_QUANTILE**2
    widening = 1 + square / n
    centre = (share + square / (2 * n)) / widening
    shrink = 1 / widening
    variance = share * (1 - share) / n + square / (4 * n * n)
    half = NORMAL_QUANTILE * shrink * variance**0.5
    return share, max(centre - half, 0.0), min(centre + half, 1.0)


def check_number(n: int) -> None:
    """Raises ValueError for fewer pictures than `jackknife` has groups.

    Lesson 4.
    """
    if n < GROUPS:
        raise ValueError(
            f"{n} pictures; expected at least {GROUPS}, "
            "the number of groups that the intervals are made of"
        )


def jackknife(
    statistic: Callable[[np.ndarray], Sequence[float]], n: int
) -> list[Interval]:
    """The 95 % intervals of numbers that are not means over pictures.

    `statistic(indices)` returns some numbers s for a choice of the n pictures. Returns
    (value, low, high) for each of them. Raises ValueError as `check_number` does.

    This is the delete-a-group jackknife. The pictures are divided into 20 random groups
    (so that their order does not matter), each is left out in turn, and half the width
    is 2.093 sqrt(19/20 sum (s_i - mean s)^2). The interval is about the expected score
    of n pictures: it does not correct for a score that falls with n, as FD does.
    Lesson 9.
    """
    check_number(n)
    group = np.random.default_rng(0).permutation(n) % GROUPS
    without = []
    for left_out in range(GROUPS):
        kept = np.flatnonzero(group != left_out)
        without.append(statistic(kept))
    values = np.array(statistic(np.arange(n)))
    deviations = np.array(without) - np.mean(without, axis=0)
    variance = (GROUPS - 1) / GROUPS * np.square(deviations).sum(0)
    half = T_QUANTILE * variance**0.5
    lows = values - half
    highs = values + half
    return list(zip(values.tolist(), lows.tolist(), highs.tolist()))


# ---- Summary: all scores of a set of pictures ----------------------------------------


def summary(
    images: np.ndarray,
    known: Sequence[Factors],
    asked: Sequence[Factors] | np.ndarray | None = None,
) -> dict[str, Interval]:
    """All that the grammar says of a set of pictures: {measure: (value, low, high)}.

    low and high are the ends of a 95 % interval. Arguments as for `verdicts`. First
    come the means of its measures, then two scores of the set as a whole, for which
    each picture counts as its nearest sprite, legal or not:

    - "total variation": the `total_variation` of its factors against `known`.
    - "distinct": the number of different sprites, divided by the number expected of as
      many fair draws with replacement from each class. A set without repetitions has a
      little more than 1.

    Raises ValueError for fewer than 20 pictures, and as `verdicts` does.
    Lesson 4.
    """
    check_number(len(images))
    found, measures = verdicts(images, known, asked)

    def of_the_set(indices: np.ndarray) -> tuple[float, float]:
        some = [found[i] for i in indices]
        distinct = {frozenset(row.items()) for row in some}
        counts = Counter(row["class"] for row in some)
        share = len(distinct) / distinct_by_chance(counts)
        return total_variation(some, known), share

    scores = {name: interval(values) for name, values in measures.items()}
    variation, distinct = jackknife(of_the_set, len(found))
    scores["total variation"] = variation
    scores["distinct"] = distinct
    return scores


def score_table(columns: dict[str, dict[str, Interval]], n: int) -> str:
    """{column: {measure: (value, low, high)}} as a table to print.

    Each cell shows value (low, high). `n`: how many pictures each column scores.
    Lesson 4.
    """
    names = dict.fromkeys(name for scores in columns.values() for name in scores)
    title = f"n = {n:,} each"
    lines = [f"{title:30s}" + "".join(f"{column:24s}" for column in columns)]
    for name in names:
        cells = [_cell(scores, name) for scores in columns.values()]
        lines.append(f"{name:30s}" + "".join(f"{cell:24s}" for cell in cells))
    return "\n".join(line.rstrip() for line in lines)


def _cell(scores: dict[str, Interval], name: str) -> str:
    """One cell of `score_table`; a dash for a score that is missing or NaN."""
    if name not in scores or np.isnan(scores[name]).any():
        return "-"
    value, low, high = map(_number, scores[name])
    return f"{value} ({low}, {high})"


def _number(value: float) -> str:
    """A number with three decimal places, or with one from 10 on."""
    places = 3 if abs(value) < 10 else 1
    return f"{value:.{places}f}"


# ---- The ideal denoiser: what could be known of a noisy picture at best? -------------


def denoise_ideally(
    noisy: np.ndarray, std: float, class_shares: Sequence[float] = (0.2,) * 5
) -> np.ndarray:
    """The best guess of the sprite behind noise: the mean E[x | y] over all sprites x.

    It weights each of the 1,363,920 legal sprites by how well it explains y. On sprites
    drawn in this way no denoiser has a smaller expected squared error.

    `noisy`: (N, 16, 16, 3) floats, y = x + std * noise, in units where a sprite runs
    from 0 to 1; `std` > 0; `class_shares`: how common each class is, in the order of
    CLASS_NAMES, all sprites of a class being equally likely. Returns (N, 16, 16, 3)
    floats, exact up to rounding. The first call builds the tables of `decode`. Raises
    ValueError for another shape, std or shares. `ideal_noise` does the same for
    diffusion's x_t.
    Lesson 4.
    """
    noisy = np.asarray(noisy, dtype=np.float32)
    shares = np.asarray(class_shares, dtype=float)
    _check_denoising(noisy, std, class_shares)
    y = noisy.reshape(len(noisy), -1)
    names = [name for name, share in zip(CLASS_NAMES, shares) if share]
    answers = [_mean_of_class(y, std**2, name) for name in names]
    evidence = np.stack([logs for logs, _ in answers])
    logs = evidence + np.log(shares[shares > 0])[:, None]
    weights = np.exp(logs - logs.max(0))
    weights = weights / weights.sum(0)
    guess = np.zeros(y.shape)
    for weight, (_, mean) in zip(weights, answers):
        guess += weight[:, None] * mean
    return guess.reshape(noisy.shape)


def _check_denoising(
    noisy: np.ndarray, std: float, class_shares: Sequence[float]
) -> None:
    """Raises ValueError unless these are arguments for `denoise_ideally`."""
    is_shaped = noisy.ndim == 4 and noisy.shape[1:] == (SIZE, SIZE, 3)
    if not is_shaped or not np.isfinite(noisy).all():
        raise ValueError(
            f"noisy pictures have shape {noisy.shape}; "
            f"expected (N, {SIZE}, {SIZE}, 3), finite numbers"
        )
    if not std > 0:
        raise ValueError(f"std={std}; expected the noise's standard deviation, above 0")
    shares = np.asarray(class_shares, dtype=float)
    is_complete = shares.shape == (len(CLASS_NAMES),)
    if not is_complete or not (shares >= 0).all() or not shares.sum() > 0:
        raise ValueError(
            f"class_shares={class_shares}; expected {len(CLASS_NAMES)} numbers, "
            "none below 0 and not all 0, in the order of CLASS_NAMES"
        )


def _mean_of_class(
    y: np.ndarray, variance: float, class_name: str
) -> tuple[np.ndarray, np.ndarray]:
    """What one class says about noisy pictures y (N, 768): (logs, means).

    logs (N,): the log of the mean of exp(-|y - x|^2 / (2 variance)) over the class's
    sprites x, plus |y|^2 / (2 variance). means (N, 768): the mean of the sprites with
    these weights.
    """
    patterns = factory.patterns_of(class_name)
    total = np.full(len(y), -np.inf)
    mean = np.zeros(y.shape)
    for chunk in patterns.chunks():
        logs = patterns.terms(y, chunk) / (-2 * variance)
        weights, evidence = _weigh_ramps(logs, patterns)
        # The sum so far and this chunk share one largest term: exp must not overflow.
        largest = np.maximum(total, evidence.max(1))
        kept = np.exp(total - largest)
        shares = np.exp(evidence - largest[:, None])
        sums = kept + shares.sum(1)
        shares = shares / sums[:, None]
        mixed = _mix(patterns.values[chunk], weights, shares)
        mean = mean * (kept / sums)[:, None] + mixed
        total = largest + np.log(sums)
    return total - np.log(factory.count_specifications(class_name)), mean


def _weigh_ramps(
    logs: np.ndarray, patterns: factory.Patterns
) -> tuple[np.ndarray, np.ndarray]:
    """How likely each ramp is, given the structure: (weights, evidence).

    `logs`: (N, S, P), the log-likelihood of each pattern. weights (N, S, P) float32:
    1 for the fixed pattern, and shares that sum to 1 over the ramps of each colour
    factor. evidence (N, S): the log-likelihood of the structure, summed over all
    colours. No pixel belongs to two parts, so that this sum is a product of sums over
    the ramps of each part.
    """
    weights = np.ones(logs.shape, np.float32)
    evidence = logs[..., 0].astype(np.float64)
    for own, shares in zip(patterns.by_factor(logs), patterns.by_factor(weights)):
        peak = own.max(2, keepdims=True)
        # The limit avoids numbers below 1e-38, which are slow.
        shares[:] = np.exp(np.maximum(own - peak, -50))
        sums = shares.sum(2, keepdims=True)
        shares /= sums
        evidence += (peak + np.log(sums))[..., 0]
    return weights, evidence


def _mix(patterns: np.ndarray, weights: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The mean picture (N, 768) of some structures.

    `patterns` (S, P, 768), their `weights` (N, S, P) and the structures' `shares`
    (N, S).
    """
    shares = np.where(shares > 1e-12, shares, 0).astype(np.float32)
    # At little noise hardly any structure explains y; the others are left out.
    live = shares.any(0)
    terms = weights[:, live] * shares[:, live, None]
    rows = terms.reshape(len(terms), -1)
    return rows @ patterns[live].reshape(-1, factory.VALUES)


def ideal_noise(
    x_t: np.ndarray, alpha_bar: float, class_shares: Sequence[float] = (0.2,) * 5
) -> np.ndarray:
    """The noise in x_t that `denoise_ideally` implies: the best possible answer.

    `x_t`: (N, 3, 16, 16) floats, sqrt(alpha_bar) * sprites in [-1, 1] +
    sqrt(1 - alpha_bar) * noise; `alpha_bar`: one number for all, 0 < alpha_bar < 1.
    Returns float32 of the same shape. Raises ValueError for another alpha_bar, and as
    `denoise_ideally` does.
    Lesson 4.
    """
    if not 0 < alpha_bar < 1:
        raise ValueError(
            f"alpha_bar={alpha_bar}; expected a number between 0 and 1: "
            "schedule.ab[t] for one t from 1 to T"
        )
    scale = alpha_bar**0.5
    std = (1 / alpha_bar - 1) ** 0.5 / 2
    channels_last = np.moveaxis(np.asarray(x_t), 1, -1)
    noisy = (channels_last / scale + 1) / 2
    guess = denoise_ideally(noisy, std, class_shares)
    clean = 2 * np.moveaxis(guess, -1, 1) - 1
    noise = (x_t - scale * clean) / (1 - alpha_bar) ** 0.5
    return noise.astype(np.float32)
