"""The ruler as a whole: the report, its intervals, its features, and that each known corruption moves the measure that ought to see it."""

import json
import math

import numpy as np
import pytest
import torch

import diffusion_utilities as du

FACTORY = du.sprite_factory()


def some(n: int, seed: int):
    return [
        s
        for name in FACTORY.CLASS_NAMES
        for s in FACTORY.sample_specifications(n, seed, name)
    ]


# --------------------------------------------------------------------------------------------------------------- palette


def test_the_palette_holds_every_colour_of_the_sprites_and_only_ramps():
    colours = {tuple(row) for row in FACTORY.palette().tolist()}
    packed = np.unique(
        np.load(du.DATA / "sprites_16x16.npy").astype(np.uint32) @ (65536, 256, 1)
    )
    used = {(code >> 16, code >> 8 & 255, code & 255) for code in packed.tolist()}
    assert used <= colours and len(colours - used) <= 1 and (255, 255, 255) in colours


def test_palette_errors_against_a_brute_force_search():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    expected = np.array(
        [
            min(((pixel / 255 - c / 255) ** 2).mean() for c in FACTORY.palette()) ** 0.5
            for pixel in pictures.reshape(-1, 3)
        ]
    )
    np.testing.assert_allclose(
        FACTORY.palette_errors(pictures).ravel(), expected, atol=1e-12
    )
    np.testing.assert_allclose(
        FACTORY.palette_errors(pictures / 255),
        FACTORY.palette_errors(pictures),
        atol=1e-12,
    )
    np.testing.assert_allclose(
        FACTORY.palette_distance(pictures),
        (expected.reshape(3, -1) ** 2).mean(1) ** 0.5,
        atol=1e-12,
    )
    assert FACTORY.palette_distance(FACTORY.render_many(some(2, 1))).max() == 0


# -------------------------------------------------------------------------------------------------------------- intervals


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
    """81 of 263 is the example of Newcombe 1998 (Statistics in Medicine 17, table I, method 3); 0 and 10 of 10 in closed form z^2 / (n + z^2)."""
    mean, lower, upper = FACTORY.interval(np.arange(n) < hits)
    assert mean == pytest.approx(hits / n)
    assert (lower, upper) == (
        pytest.approx(low, abs=1e-4),
        pytest.approx(high, abs=1e-4),
    )


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_wilsons_interval_covers_the_share_19_times_in_20(share):
    """Over all counts of 60, each as often as the binomial distribution has it."""
    covered = 0.0
    for hits in range(61):
        _, low, high = FACTORY.interval(np.arange(60) < hits)
        covered += (
            math.comb(60, hits)
            * share**hits
            * (1 - share) ** (60 - hits)
            * (low <= share <= high)
        )
    assert 0.92 <= covered <= 0.98


def test_intervals_cover_the_truth_19_times_in_20():
    rng = np.random.default_rng(1)
    covered = {"mean": 0, "jackknife": 0}
    for _ in range(400):
        values, normal = rng.exponential(2.0, 200), rng.normal(0, 2.0, 200)
        _, low, high = FACTORY.interval(values)
        covered["mean"] += low <= 2.0 <= high
        [(_, low, high)] = FACTORY.jackknife(
            lambda rows, values=normal: [values[rows].std()], len(normal)
        )
        covered["jackknife"] += low <= 2.0 <= high
    assert all(0.91 <= count / 400 <= 0.98 for count in covered.values()), covered


def test_the_interval_of_the_frechet_distance_covers_its_expectation_at_that_n():
    rng = np.random.default_rng(3)
    theirs = rng.normal(size=(5000, 4))
    expected = np.mean(
        [
            du.frechet_distance(rng.normal(0.3, 1.2, (150, 4)), theirs)
            for _ in range(300)
        ]
    )
    covered = 0
    for _ in range(100):
        ours = rng.normal(0.3, 1.2, (150, 4))
        [(_, low, high)] = FACTORY.jackknife(
            lambda rows, ours=ours: [du.frechet_distance(ours[rows], theirs)], 150
        )
        covered += low <= expected <= high
    assert 88 <= covered <= 100


def test_the_jackknife_of_a_mean_is_the_standard_error_of_group_means():
    values = np.random.default_rng(2).normal(size=100)
    left_out = []
    [(value, low, high)] = FACTORY.jackknife(
        lambda rows: (
            left_out.append(np.setdiff1d(np.arange(100), rows)) or [values[rows].mean()]
        ),
        100,
    )
    groups = np.array([values[group].mean() for group in left_out if len(group)])
    assert len(groups) == 20 and sorted(np.concatenate(left_out)) == list(range(100))
    assert value == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(
        2.093 * groups.std(ddof=1) / 20**0.5, rel=1e-3
    )


def test_an_order_of_classes_does_not_widen_the_interval():
    """Classes in turn, as contexts ask for them: groups of every twentieth picture would each be of one class."""
    values = np.arange(1000) % 5 + np.random.default_rng(4).normal(0, 0.01, 1000)
    [(_, low, high)] = FACTORY.jackknife(lambda rows: [values[rows].mean()], 1000)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 1000**0.5, rel=0.6)


def test_no_values_and_too_few():
    assert np.isnan(FACTORY.interval(np.zeros(0, dtype=bool))).all()
    with pytest.raises(ValueError, match="7 pictures; expected at least 20"):
        FACTORY.jackknife(np.sum, 7)
    with pytest.raises(ValueError, match="7 pictures; expected at least 20"):
        du.sprite_scores(du.load_sprites("test").images[:7])


# --------------------------------------------------------------------------------------------------------------- verdicts


def test_verdicts_say_what_was_done_to_each_picture():
    train, test = du.load_sprites("train"), du.load_sprites("test")
    pictures = np.concatenate((train.images[:4], test.images[:6]))
    pictures[0, 0, 0] = (0, 255, 0)  # one green pixel on the ground
    asked = [dict(row) for row in (*train.factors[:4], *test.factors[:6])]
    asked[1] = asked[1] | {"class": "spell" if asked[1]["class"] != "spell" else "food"}
    asked[2] = {}
    found, values = FACTORY.verdicts(pictures, train.factors, asked)
    assert found[3:] == [dict(row) for row in (*train.factors[3:4], *test.factors[:6])]
    assert values["legal"].tolist() == [False] + [True] * 9
    assert values["new among legal"].tolist() == [False] * 3 + [True] * 6
    assert sum(len(values[f"new among legal, {name}"]) for name in du.CLASS_NAMES) == 9
    assert (
        values["class as asked"].tolist() == [True, False] + [True] * 7
    )  # the third was asked nothing
    np.testing.assert_allclose(values["off-palette pixels"], [1 / 256] + [0] * 9)
    with pytest.raises(ValueError, match="asked has 3 entries for 10 pictures"):
        FACTORY.verdicts(pictures, train.factors, asked[:3])


def test_what_was_asked_is_read_from_contexts_and_from_factors():
    expected = [{"class": "food"}, {}, {"class": "hero"}]
    rows = np.array([[0, 0, 1, 0, 0], [0] * 5, [1, 0, 0, 0, 0]])
    for asked in (
        rows,
        rows.astype(np.uint8),
        list(rows),
        torch.from_numpy(rows),
        torch.from_numpy(rows).float(),
        expected,
    ):
        assert FACTORY.as_factors(asked, 3) == expected
    assert FACTORY.as_factors(np.zeros((0, 5)), 0) == []
    for asked in (
        torch.tensor([2, 0, 1]),
        np.full((3, 5), 0.5),
        np.ones((3, 5)),
        np.eye(4)[:3],
    ):
        with pytest.raises(
            ValueError,
            match=r"expected dictionaries of factors, or contexts \(3, 5\), each row one-hot or zero",
        ):
            FACTORY.as_factors(asked, 3)
    with pytest.raises(
        ValueError,
        match="asked for class='Hero', which no sprite has; expected class among .*'hero'",
    ):
        FACTORY.as_factors([{"class": "Hero"}], 1)
    with pytest.raises(
        ValueError,
        match="asked for klass='hero', which no sprite has; expected klass among .*'class'",
    ):
        FACTORY.as_factors([{"klass": "hero"}], 1)


def test_fresh_sprites_are_fair_draws_with_replacement():
    drawn = FACTORY.draw_specifications(6000, 0, ["food", "spell"])
    assert [s.class_name for s in drawn[:4]] == ["food", "spell", "food", "spell"]
    assert (
        drawn
        == FACTORY.draw_specifications(6000, 0, ["food", "spell"])
        != FACTORY.draw_specifications(6000, 1, ["food", "spell"])
    )
    assert len(set(drawn)) == pytest.approx(
        FACTORY.distinct_by_chance({"food": 3000, "spell": 3000}), rel=0.02
    )


def test_pictures_that_are_none_are_refused():
    x = torch.zeros(25, 3, 16, 16)
    x[3, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="pictures hold NaN"):
        du.sprite_scores(x)
    for judge in (FACTORY.decode, FACTORY.palette_errors, FACTORY.palette_distance):
        with pytest.raises(
            ValueError,
            match=r"pictures have shape \(25, 3, 16, 16\); expected \(N, 16, 16, 3\)",
        ):
            judge(torch.zeros(25, 3, 16, 16).numpy())
        with pytest.raises(
            ValueError,
            match=r"values run from -1.0 to -1.0; expected uint8, or floats from 0 to 1",
        ):
            judge(np.full((1, 16, 16, 3), -1.0))


# --------------------------------------------------------------------------------------------------------------- features


def test_features_know_the_factors_of_held_out_sprites():
    """The shipped history: class right in 99 of 100 and every factor in 90; and a fresh linear head on the features finds the class."""
    history = json.loads((du.WEIGHTS / "features_history.json").read_text())
    assert (
        history["test_accuracy"]["class"] >= 0.99
        and min(history["test_accuracy"].values()) >= 0.9
    )
    train, test = du.load_sprites("train"), du.load_sprites("test")
    ours, theirs = (
        du.sprite_features(train.images[::4]),
        du.sprite_features(test.images),
    )
    assert ours.shape == (2200, 64) and ours.dtype == np.float64
    head, *_ = np.linalg.lstsq(
        np.c_[ours, np.ones(len(ours))], train.labels[::4].astype(float), rcond=None
    )
    right = (np.c_[theirs, np.ones(len(theirs))] @ head).argmax(
        1
    ) == test.labels.argmax(1)
    assert right.mean() > 0.97
    np.testing.assert_allclose(
        du.sprite_features(du.to_model_range(test.images[:5])), theirs[:5], atol=1e-4
    )


def test_features_are_small_and_say_when_they_are_missing(tmp_path):
    assert (du.WEIGHTS / "features.pth").stat().st_size < 1_000_000
    with pytest.raises(FileNotFoundError, match="features.pth does not exist"):
        du.feature_network(tmp_path / "features.pth")


# ----------------------------------------------------------------------------------------------------------------- report


def test_a_report_has_the_floor_and_the_ceiling_beside_the_samples():
    test = du.load_sprites("test")
    text = du.sprite_report(
        du.to_model_range(test.images[::10]), torch.from_numpy(test.labels[::10]), n=100
    )
    head, *rows = text.splitlines()
    assert head.split() == [
        "n",
        "=",
        "100",
        "each",
        "samples",
        "test",
        "(floor)",
        "fresh",
        "legal",
        "(ceiling)",
    ]
    names = [row[:30].strip() for row in rows]
    assert len(set(names)) == len(names)
    assert {
        "legal",
        "new among legal",
        "class as asked",
        "FD",
        "precision",
        "recall",
        "density",
        "coverage",
        "memorised",
        "distinct",
    } <= set(names)
    legal = rows[names.index("legal")]
    assert legal.count("1.000 (0.963, 1.000)") == 3
    assert rows[names.index("class as asked")].count("1.000 (0.963, 1.000)") == 1
    for n in (1000, 10):
        with pytest.raises(
            ValueError,
            match=f"n={n} of 110 samples; expected 20 to 1100, and no more than there are samples",
        ):
            du.sprite_report(test.images[::10], n=n)
    with pytest.raises(ValueError, match="n=1200 of 1200 samples; expected 20 to 1100"):
        du.sprite_report(np.zeros((1200, 16, 16, 3), np.uint8), n=1200)


# ------------------------------------------------------------------------------------------------------------- corruptions


@pytest.fixture(scope="module")
def make_results(program):
    return program("make_results")


def test_the_stored_scores_are_those_of_the_shipped_classifier(make_results):
    stored = json.loads((du.WEIGHTS / "scores.json").read_text(encoding="utf8"))
    sets, train = (
        make_results.real_sets(stored["n"]),
        du.sprite_features(du.load_sprites("train").images),
    )
    assert sets.keys() == stored["real"].keys()
    faults = {f"model_31, {label}" for label in make_results.RULED_FAULTS}
    assert {
        *make_results.RULED,
        *make_results.RULED_DDPM,
        *faults,
        *make_results.fast_rows(),
    } == stored["samples"].keys()
    for name in ("test (floor)", "hue shift"):
        again = du.frechet_distance(du.sprite_features(sets[name]), train)
        assert again == pytest.approx(stored["real"][name]["scores"]["FD"][0], rel=0.01)


class Asked(torch.nn.Module):
    """Answers with an echo of what it is given, and notes at which t and in which mode it was asked."""

    def __init__(self):
        super().__init__()
        self.at = []

    def forward(self, x, t, c=None):
        self.at.append((round(float(t.flatten()[0]) * 500), self.training))
        return 0.9 * x


def test_the_faulty_samplers_have_the_faults_of_their_names(make_results):
    """On a network that is a formula: where each asks it, and where each ends."""
    schedule, shape, end, asked = du.NoiseSchedule.linear(), (8, 3, 16, 16), {}, {}
    for label, (sample, options) in make_results.RULED_FAULTS.items():
        model = Asked().eval()
        end[label], _ = sample(
            model,
            schedule,
            shape,
            context=None,
            generator=torch.Generator().manual_seed(1),
            keep=0,
            **options,
        )
        asked[label] = model.at
    last_noise = (end["noise in the last step"] - end["last step from 1"]).std()
    assert float(last_noise) == pytest.approx(float(schedule.b[1]) ** 0.5, rel=0.05)
    assert [t for t, _ in asked["beta_0 kept"]] == [
        t for t, _ in asked["last step from 1"]
    ] and asked["beta_0 kept"][-1][0] == 1
    assert [t for t, _ in asked["DDIM-30, wrapped"]] == list(
        range(500, 0, -16)
    ) and len(asked["DDIM-30"]) == 30
    assert (
        all(training for _, training in asked["train mode"])
        and len(asked["train mode"]) == 100
    )
    for label in set(asked) - {"train mode"}:
        assert not any(training for _, training in asked[label])


def test_with_beta_0_kept_the_last_step_is_not_exact(make_results):
    """Told the true noise at t = 1 the right sampler lands on the picture; the faulty one keeps a share of the noise."""
    schedule = du.NoiseSchedule.linear()

    def truth(x, t, c=None):  # for the picture that is 0.5 everywhere
        ab = float(schedule.ab[round(float(t.flatten()[0]) * 500)])
        return (x - 0.5 * ab**0.5) / (1 - ab) ** 0.5

    ends = {}
    for label in ("last step from 1", "beta_0 kept"):
        sample, options = make_results.RULED_FAULTS[label]
        ends[label] = sample(
            truth,
            schedule,
            (4, 3, 16, 16),
            context=None,
            generator=torch.Generator().manual_seed(1),
            keep=0,
            **options,
        )[0]
    assert torch.allclose(ends["last step from 1"], torch.tensor(0.5), atol=1e-4)
    assert 0.0005 < float((ends["beta_0 kept"] - 0.5).std()) < 0.02


def test_the_wrapped_stride_ends_in_the_noise_of_step_489(make_results):
    """With the true noise of one picture it lands on that picture noised to t = 489."""
    schedule, seen = du.NoiseSchedule.linear(), []

    def truth(x, t, c=None):
        ab = float(schedule.ab[round(float(t.flatten()[0]) * 500)])
        seen.append((x - 0.5 * ab**0.5) / (1 - ab) ** 0.5)
        return seen[-1]

    x, _ = make_results.wrapped_stride(
        truth, schedule, (2, 3, 16, 16), generator=torch.Generator().manual_seed(1)
    )
    ab = float(schedule.ab[489])
    torch.testing.assert_close(
        x, ab**0.5 * 0.5 + (1 - ab) ** 0.5 * seen[-1], atol=1e-4, rtol=0
    )


def test_a_stored_sheet_is_drawn_again_when_the_sampler_s_options_change(
    make_results, monkeypatch, tmp_path
):
    drawn = []

    def draw(model):
        drawn.append(model)
        return np.zeros((2, 16, 16, 3), np.uint8)

    (tmp_path / "some.pth").write_bytes(b"weights")
    monkeypatch.setattr(make_results, "HERE", tmp_path)
    monkeypatch.setattr(make_results, "network", lambda name: name)
    for options in (
        (),
        (),
        ({"steps": [500, 0]},),
        ({"steps": [500, 0]},),
        ({"steps": [500, 10, 0]},),
    ):
        make_results.stored("sheet", "some", draw, options)
    assert len(drawn) == 3


def test_samples_of_the_ideal_denoiser_are_legal(make_results):
    """The ideal as make_results gives it to a sampler draws legal sprites, and the stored scores say so of a thousand."""
    pictures = make_results.drawn_in_batches("ideal", 12, du.sample_ddim, steps=10)
    assert FACTORY.are_legal(pictures, FACTORY.decode(pictures)[0]).mean() > 0.8
    stored = json.loads((du.WEIGHTS / "scores.json").read_text(encoding="utf8"))[
        "samples"
    ]
    for row in (row for row in stored if row.startswith("ideal")):
        rival = stored[row.replace("ideal", "model_31")]["scores"]
        assert (
            stored[row]["scores"]["legal"][1] > rival["legal"][2]
            and stored[row]["scores"]["FD"][0] < rival["FD"][0]
        )


@pytest.fixture(scope="module")
def spoilt(make_results) -> dict[str, dict[str, tuple[float, float, float]]]:
    """The scores of 200 real sprites and of 200 spoilt in each way that weights/make_results.py knows."""
    features, train = (
        du.sprite_features,
        du.sprite_features(du.load_sprites("train").images),
    )
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # the training sprites' features once, not eight times
        patch.setattr(
            du,
            "sprite_features",
            lambda pictures: (
                train if len(pictures) == len(train) else features(pictures)
            ),
        )
        return {
            name: du.sprite_scores(pictures)
            for name, pictures in make_results.real_sets(200).items()
        }


SEEN_BY = (  # (corruption, measure, whether the measure rises)
    ("blur", "legal", False),
    ("blur", "off-palette pixels", True),
    ("blur", "recall", False),
    ("blur", "coverage", False),
    ("blur", "FD", True),
    ("hue shift", "legal", False),
    ("hue shift", "off-palette pixels", True),
    ("hue shift", "FD", True),
    ("swapped parts", "legal", False),
    ("mixed colours", "legal", False),
    ("copies of training", "new among legal", False),
    ("copies of training", "memorised", True),
    ("no spells", "coverage", False),
    ("no spells", "total variation", True),
    ("no spells", "FD", True),
    ("few, repeated", "distinct", False),
    ("few, repeated", "recall", False),
    ("few, repeated", "coverage", False),
    ("pixels shuffled", "legal", False),
    ("pixels shuffled", "recall", False),
    ("pixels shuffled", "coverage", False),
    ("pixels shuffled", "FD", True),
)  # precision and density see none of these: what the classifier cannot name lies in the middle of its features, inside many balls


@pytest.mark.parametrize("name, measure, rises", SEEN_BY)
def test_each_corruption_moves_the_measure_that_ought_to_see_it(
    name, measure, rises, spoilt
):
    """The two 95 % intervals don't touch."""
    (_, low, high), (_, floor_low, floor_high) = (
        spoilt[name][measure],
        spoilt["test (floor)"][measure],
    )
    assert low > floor_high if rises else high < floor_low


def test_classes_other_than_asked_are_counted():
    test = du.load_sprites("test")
    assert (
        du.sprite_scores(test.images[:25], test.labels[:25])["class as asked"][0] == 1
    )
    assert (
        du.sprite_scores(test.images[:25], np.roll(test.labels[:25], 1, axis=1))[
            "class as asked"
        ][0]
        == 0
    )


def test_the_frechet_distance_alone_does_not_see_swapped_parts_or_mixed_colours(spoilt):
    """Why the legal share is there: every one of these is spoilt, and FD stays where chance puts real sprites."""
    floor = spoilt["test (floor)"]["FD"][0]
    assert (
        spoilt["swapped parts"]["FD"][0] < 1.2 * floor
        and spoilt["mixed colours"]["FD"][0] < 1.5 * floor
    )
    assert (
        spoilt["swapped parts"]["legal"][0] < 0.02
        and spoilt["mixed colours"]["legal"][0] < 0.15
    )
    assert (
        spoilt["fresh legal (ceiling)"]["legal"][0]
        == spoilt["test (floor)"]["legal"][0]
        == 1
    )
