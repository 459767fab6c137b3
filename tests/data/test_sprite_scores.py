"""The scores of a set of pictures: intervals, verdicts, the summary and its table."""

import math

import numpy as np
import pytest
import torch

import diffusion_utilities as du

FACTORY = du.sprite_factory()
SCORING = du.sprite_scoring()


# ---- Intervals -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "hits, n, low, high",
    [
        (0, 10, 0.0, 0.2775),
        (1, 10, 0.0179, 0.4042),
        (81, 263, 0.2553, 0.3662),
        (10, 10, 0.7225, 1.0),
    ],
)
def test_wilsons_interval_has_the_published_values(hits, n, low, high):
    """81 of 263 is the example of Newcombe 1998 (table I, method 3).

    Statistics in Medicine 17. For 0 and 10 of 10 there is a closed form, with the width
    z^2 / (n + z^2).
    """
    mean, lower, upper = SCORING.interval(np.arange(n) < hits)
    assert mean == pytest.approx(hits / n)
    assert lower == pytest.approx(low, abs=1e-4)
    assert upper == pytest.approx(high, abs=1e-4)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_wilsons_interval_covers_the_share_19_times_in_20(share):
    """Over all counts of 60, each weighted by its binomial probability."""
    covered = 0.0
    for hits in range(61):
        _, low, high = SCORING.interval(np.arange(60) < hits)
        if low <= share <= high:
            ways = math.comb(60, hits)
            covered += ways * share**hits * (1 - share) ** (60 - hits)
    assert 0.92 <= covered <= 0.98


def test_the_interval_of_a_mean_covers_the_truth_19_times_in_20():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        _, low, high = SCORING.interval(rng.exponential(2.0, 200))
        covered += low <= 2.0 <= high
    assert 0.91 <= covered / 400 <= 0.98


def test_a_lone_value_has_no_interval_and_no_values_have_no_mean():
    assert np.isnan(SCORING.interval(np.zeros(0, dtype=bool))).all()
    mean, low, high = SCORING.interval(np.array([2.5]))
    assert mean == 2.5
    assert math.isnan(low)
    assert math.isnan(high)


def test_the_jackknife_of_a_deviation_covers_the_truth_19_times_in_20():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        values = rng.normal(0, 2.0, 200)

        def deviation(rows, values=values):
            return [values[rows].std()]

        [(_, low, high)] = SCORING.jackknife(deviation, len(values))
        covered += low <= 2.0 <= high
    assert 0.91 <= covered / 400 <= 0.98


def test_the_jackknife_of_the_frechet_distance_covers_its_expectation_at_that_n():
    rng = np.random.default_rng(3)
    theirs = rng.normal(size=(5000, 4))
    distances = []
    for _ in range(300):
        ours = rng.normal(0.3, 1.2, (150, 4))
        distances.append(du.frechet_distance(ours, theirs))
    expected = np.mean(distances)
    covered = 0
    for _ in range(100):
        ours = rng.normal(0.3, 1.2, (150, 4))

        def distance(rows, ours=ours):
            return [du.frechet_distance(ours[rows], theirs)]

        [(_, low, high)] = SCORING.jackknife(distance, len(ours))
        covered += low <= expected <= high
    assert 88 <= covered <= 100


def test_the_jackknife_of_a_mean_is_the_standard_error_of_group_means():
    values = np.random.default_rng(2).normal(size=100)
    left_out = []

    def mean(rows):
        left_out.append(np.setdiff1d(np.arange(100), rows))
        return [values[rows].mean()]

    [(value, low, high)] = SCORING.jackknife(mean, 100)
    groups = [group for group in left_out if len(group)]
    assert len(groups) == 20
    assert sorted(np.concatenate(groups)) == list(range(100))
    assert value == pytest.approx(values.mean())
    means = np.array([values[group].mean() for group in groups])
    half = 2.093 * means.std(ddof=1) / 20**0.5
    assert (high - low) / 2 == pytest.approx(half, rel=1e-3)


def test_an_order_of_classes_does_not_widen_the_interval():
    """Contexts ask for the classes in turn.

    Groups of every twentieth picture would each be of one class.
    """
    noise = np.random.default_rng(4).normal(0, 0.01, 1000)
    values = np.arange(1000) % 5 + noise
    [(_, low, high)] = SCORING.jackknife(lambda rows: [values[rows].mean()], 1000)
    standard_error = values.std() / 1000**0.5
    assert (high - low) / 2 == pytest.approx(1.96 * standard_error, rel=0.6)


def test_too_few_pictures_for_the_jackknife_are_refused():
    message = "7 pictures; expected at least 20"
    with pytest.raises(ValueError, match=message):
        SCORING.jackknife(np.sum, 7)
    pictures = du.load_sprites("test").images[:7]
    with pytest.raises(ValueError, match=message):
        SCORING.summary(pictures, [])
    with pytest.raises(ValueError, match=message):
        du.sprite_scores(pictures)


# ---- Verdicts ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged() -> tuple:
    """(factors, found, values): the verdicts on four training and six test sprites.

    The first has one green pixel on its background, the second was asked to be of
    another class, and nothing was asked of the third.
    """
    train = du.load_sprites("train")
    test = du.load_sprites("test")
    pictures = np.concatenate((train.images[:4], test.images[:6]))
    pictures[0, 0, 0] = (0, 255, 0)
    factors = [dict(row) for row in (*train.factors[:4], *test.factors[:6])]
    asked = [dict(row) for row in factors]
    asked[1]["class"] = "food" if factors[1]["class"] == "spell" else "spell"
    asked[2] = {}
    found, values = SCORING.verdicts(pictures, train.factors, asked)
    return factors, found, values


def test_verdicts_say_what_was_done_to_each_picture(judged):
    factors, found, values = judged
    assert found[3:] == factors[3:]
    assert values["legal"].tolist() == [False] + [True] * 9
    assert values["new among legal"].tolist() == [False] * 3 + [True] * 6
    off = [1 / 256] + [0] * 9
    np.testing.assert_allclose(values["off-palette pixels"], off)


def test_verdicts_on_what_was_asked_leave_out_pictures_that_were_asked_nothing(judged):
    _, _, values = judged
    assert values["class as asked"].tolist() == [True, False] + [True] * 7


def test_verdicts_count_each_legal_picture_in_one_class(judged):
    _, _, values = judged
    numbers = [len(values[f"new among legal, {name}"]) for name in du.CLASS_NAMES]
    assert sum(numbers) == 9


def test_something_must_be_asked_of_each_picture_or_of_none():
    pictures = du.load_sprites("test").images[:10]
    with pytest.raises(ValueError, match="asked has 3 entries for 10 pictures"):
        SCORING.verdicts(pictures, [], [{}, {}, {}])


ROWS = np.array([[0, 0, 1, 0, 0], [0] * 5, [1, 0, 0, 0, 0]])
FACTORS = [{"class": "food"}, {}, {"class": "hero"}]


@pytest.mark.parametrize(
    "asked",
    [
        ROWS,
        ROWS.astype(np.uint8),
        list(ROWS),
        torch.from_numpy(ROWS),
        torch.from_numpy(ROWS).float(),
        FACTORS,
    ],
)
def test_what_was_asked_is_read_from_contexts_and_from_factors(asked):
    assert SCORING.as_factors(asked, 3) == FACTORS


def test_nothing_is_asked_of_no_pictures():
    assert SCORING.as_factors(np.zeros((0, 5)), 0) == []


@pytest.mark.parametrize(
    "asked",
    [
        np.full((3, 5), 0.5),
        np.ones((3, 5)),
        np.eye(4)[:3],
    ],
)
def test_contexts_that_are_not_one_hot_are_refused(asked):
    message = (
        "expected dictionaries of factors, or "
        r"contexts \(3, 5\), each row one-hot or zero"
    )
    with pytest.raises(ValueError, match=message):
        SCORING.as_factors(asked, 3)


@pytest.mark.parametrize("asked", [torch.tensor([2, 0, 1]), [2, 0, 1], list("abc")])
def test_class_numbers_are_told_to_be_one_hot_rows(asked):
    message = (
        r"\(3,\) given; .* one-hot rows \(3, 5\): F.one_hot\(labels, 5\).float\(\)"
    )
    with pytest.raises(ValueError, match=message):
        SCORING.as_factors(asked, 3)


@pytest.mark.parametrize(
    "asked, message",
    [
        (
            {"class": "Hero"},
            "asked for class='Hero', which no sprite has; "
            "expected class among .*'hero'",
        ),
        (
            {"klass": "hero"},
            "asked for klass='hero', which no sprite has; "
            "expected klass among .*'class'",
        ),
    ],
)
def test_factors_and_values_that_do_not_exist_are_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        SCORING.as_factors([asked], 1)


# ---- Summary and table ---------------------------------------------------------------


@pytest.fixture(scope="module")
def summary() -> dict[str, tuple[float, float, float]]:
    """The summary of twenty test sprites, each twice, all asked for by their class."""
    test = du.load_sprites("test")
    pictures = np.repeat(test.images[:20], 2, axis=0)
    contexts = np.repeat(test.labels[:20], 2, axis=0)
    train = du.load_sprites("train")
    return SCORING.summary(pictures, train.factors, contexts)


def test_a_summary_has_the_means_of_the_verdicts(summary):
    for name in ("legal", "new among legal", "class as asked"):
        value, low, high = summary[name]
        assert value == high == 1
        assert 0.9 < low < 1
    assert summary["off-palette pixels"][0] == 0


def test_a_summary_sees_repetitions(summary):
    value, low, high = summary["distinct"]
    assert value == pytest.approx(0.5, abs=0.01)
    assert low <= value <= high


def test_a_summary_compares_the_factors_with_training(summary):
    train = du.load_sprites("train").factors
    test = du.load_sprites("test").factors[:20]
    expected = SCORING.total_variation(test, train)
    assert summary["total variation"][0] == pytest.approx(expected)


def test_a_table_has_a_column_for_each_set_and_a_row_for_each_measure():
    ours = {"legal": (0.5, 0.25, 0.75), "FD": (1234.56, 9.99, 2000.0)}
    theirs = {"legal": (1.0, 0.9, 1.0), "new": (math.nan, math.nan, math.nan)}
    table = SCORING.score_table({"ours": ours, "theirs": theirs}, 1000)
    lines = [line.split("  ") for line in table.splitlines()]
    cells = [[cell.strip() for cell in line if cell] for line in lines]
    assert cells == [
        ["n = 1,000 each", "ours", "theirs"],
        ["legal", "0.500 (0.250, 0.750)", "1.000 (0.900, 1.000)"],
        ["FD", "1234.6 (9.990, 2000.0)", "-"],
        ["new", "-", "-"],
    ]
