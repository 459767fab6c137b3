"""What the grammar says of pictures: legal or not, new or not, and how varied."""

import numpy as np
import pytest

import diffusion_utilities as du

pytestmark = pytest.mark.slow  # together they take over five seconds

FACTORY = du.sprite_factory()
SCORING = du.sprite_scoring()


def some(n: int, seed: int) -> list:
    """`n` specifications of each class."""
    specifications = []
    for name in FACTORY.CLASS_NAMES:
        specifications += FACTORY.sample_specifications(n, seed, name)
    return specifications


def legal_share(pictures: np.ndarray) -> float:
    found, _ = FACTORY.decode(pictures)
    return SCORING.are_legal(pictures, found).mean()


def with_noise(pictures: np.ndarray, std: float) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(pictures.shape)
    return (pictures / 255 + std * noise).clip(0, 1)


# ---- Legal ---------------------------------------------------------------------------


def test_real_sprites_are_legal_with_a_little_noise_but_not_with_more():
    pictures = FACTORY.render_many(some(50, 31))
    assert legal_share(pictures) == 1
    assert legal_share(with_noise(pictures, 0.05)) > 0.99
    assert legal_share(with_noise(pictures, 0.1)) < 0.05


@pytest.mark.parametrize("kind, passed", [("colour", 0.12), ("part", 0.005)])
def test_near_misses_are_not_legal(kind, passed):
    """This fixed the threshold.

    Half a part in another colour passes in 9 of 100, half of another part never.
    """
    pictures = SCORING.near_misses(some(100, 32), kind, seed=1)
    assert len(pictures) > 450
    assert legal_share(pictures) <= passed


def test_the_distance_over_the_whole_picture_would_be_a_worse_ruler():
    """It would refuse noisy sprites that the worst pixel accepts.

    Here its threshold is so strict that it refuses as many near-misses.
    """
    colours = SCORING.near_misses(some(40, 33), "colour")
    parts = SCORING.near_misses(some(40, 33), "part")
    near = np.concatenate((colours, parts))
    found, distances = FACTORY.decode(near)
    as_strict = np.quantile(distances, SCORING.are_legal(near, found).mean())
    noisy = with_noise(FACTORY.render_many(some(40, 34)), 0.05)
    found, distances = FACTORY.decode(noisy)
    assert SCORING.are_legal(noisy, found).mean() > 0.99
    assert (distances < as_strict).mean() < 0.01


def neighbours(specification) -> list:
    """(factor, picture) of every sprite that differs in this one factor."""
    drawn = []
    for factor, values in FACTORY.factors_of(specification.class_name).items():
        for value in values:
            if value == specification[factor]:
                continue
            factors = dict(specification.factors) | {factor: value}
            other = FACTORY.specify(specification.class_name, **factors)
            drawn.append((factor, FACTORY.render(other)))
    return drawn


@pytest.mark.parametrize("kind", ["colour", "part"])
def test_a_near_miss_is_half_way_to_a_sprite_with_one_other_factor(kind):
    """Some neighbour differs from the sprite in twice as many pixels.

    The near-miss has the neighbour's colours in half of them.
    """
    for specification in some(4, 35):
        picture = SCORING.near_misses([specification], kind, seed=2)
        if not len(picture):
            continue
        sprite = FACTORY.render(specification)
        changed = (picture[0] != sprite).any(2)
        factors = set()
        for factor, other in neighbours(specification):
            differs = (other != sprite).any(2)
            is_half = changed.sum() == differs.sum() // 2
            is_inside = differs[changed].all()
            if is_half and is_inside and (picture[0] == other)[changed].all():
                factors.add(factor)
        colours = set(FACTORY.colour_factors(specification.class_name))
        of_kind = factors & colours if kind == "colour" else factors - colours
        assert of_kind


def test_near_misses_are_deterministic():
    first = SCORING.near_misses(some(4, 35), "part", seed=2)
    again = SCORING.near_misses(some(4, 35), "part", seed=2)
    np.testing.assert_array_equal(first, again)


def test_another_kind_of_near_miss_is_refused():
    message = "kind='hat' does not exist; expected 'colour' or 'part'"
    with pytest.raises(ValueError, match=message):
        SCORING.near_misses(some(1, 35), "hat")


@pytest.mark.parametrize("grey_levels, allowed", [(0, True), (20, True), (60, False)])
def test_one_wrong_pixel_is_enough(grey_levels, allowed):
    """20 and 60 levels on all three channels are errors of 0.08 and 0.24."""
    specification = FACTORY.sample_specifications(1, 36, "hero")[0]
    spoilt = FACTORY.render(specification)[None]
    spoilt[0, 0, 0] -= grey_levels
    assert SCORING.are_legal(spoilt, [specification])[0] == allowed
    worst = SCORING.pixel_errors(spoilt, [specification]).max()
    assert worst == pytest.approx(grey_levels / 255)


def test_as_many_specifications_as_pictures_are_needed():
    specification = FACTORY.sample_specifications(1, 36, "hero")[0]
    picture = FACTORY.render(specification)[None]
    with pytest.raises(ValueError, match="1 pictures and 2 specifications"):
        SCORING.pixel_errors(picture, [specification] * 2)


# ---- The palette ---------------------------------------------------------------------


def test_palette_errors_against_a_brute_force_search():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    colours = FACTORY.palette() / 255
    expected = []
    for pixel in pictures.reshape(-1, 3) / 255:
        squares = [np.square(pixel - colour).mean() for colour in colours]
        expected.append(min(squares) ** 0.5)
    expected = np.reshape(expected, (3, 16, 16))
    errors = SCORING.palette_errors(pictures)
    np.testing.assert_allclose(errors, expected, atol=1e-12)
    as_floats = SCORING.palette_errors(pictures / 255)
    np.testing.assert_allclose(as_floats, expected, atol=1e-12)
    distances = SCORING.palette_distance(pictures)
    overall = np.square(expected).mean((1, 2)) ** 0.5
    np.testing.assert_allclose(distances, overall, atol=1e-12)


def test_real_sprites_are_on_the_palette():
    pictures = FACTORY.render_many(some(2, 1))
    assert SCORING.palette_distance(pictures).max() == 0


@pytest.mark.parametrize("judge", ["palette_errors", "palette_distance"])
def test_what_is_no_picture_is_refused(judge):
    judge = getattr(SCORING, judge)
    message = r"pictures have shape \(25, 3, 16, 16\); expected \(N, 16, 16, 3\)"
    with pytest.raises(ValueError, match=message):
        judge(np.zeros((25, 3, 16, 16)))
    message = "values run from -1.0 to -1.0; expected uint8, or floats from 0 to 1"
    with pytest.raises(ValueError, match=message):
        judge(np.full((1, 16, 16, 3), -1.0))


# ---- New and varied ------------------------------------------------------------------


def test_new_means_not_in_training():
    train = du.load_sprites("train")
    test = du.load_sprites("test")
    pictures = np.concatenate((train.images[:200], test.images[:200]))
    found, distances = FACTORY.decode(pictures)
    assert distances.max() == 0
    new = SCORING.are_new(found, train.factors)
    np.testing.assert_array_equal(new, [False] * 200 + [True] * 200)


def test_total_variation_of_histograms():
    rows = [specification.as_dict() for specification in some(300, 37)]
    assert SCORING.total_variation(rows, rows) == 0
    other = [specification.as_dict() for specification in some(300, 38)]
    small = SCORING.total_variation(rows, other)
    assert 0 < small < 0.15
    one_skin = [row | {"skin": "dark"} if "skin" in row else row for row in other]
    assert SCORING.total_variation(rows, one_skin) > small + 0.01
    lacking = [row for row in other if row["class"] != "food"]
    assert SCORING.total_variation(rows, lacking) > small + 0.05


def test_total_variation_leaves_out_classes_that_neither_set_has():
    ours = FACTORY.specification_at("food", 0).as_dict()
    theirs = FACTORY.specification_at("food", 1).as_dict()
    assert SCORING.total_variation([ours], [ours]) == 0
    names = FACTORY.factors_of("food")
    differing = sum(ours[name] != theirs[name] for name in names)
    expected = differing / (1 + len(names))
    assert SCORING.total_variation([ours], [theirs]) == pytest.approx(expected)


def test_distinct_by_chance_is_what_drawing_gives():
    rng = np.random.default_rng(0)
    total = FACTORY.count_specifications("food")
    drawn = [len(np.unique(rng.integers(0, total, 2000))) for _ in range(200)]
    expected = SCORING.distinct_by_chance({"food": 2000})
    assert expected == pytest.approx(np.mean(drawn), rel=0.005)
    assert SCORING.distinct_by_chance({"food": 1, "hero": 1}) == pytest.approx(2)


def test_distinct_by_chance_is_what_fair_draws_give():
    drawn = FACTORY.draw_specifications(6000, 0, ["food", "spell"])
    expected = SCORING.distinct_by_chance({"food": 3000, "spell": 3000})
    assert len(set(drawn)) == pytest.approx(expected, rel=0.02)
