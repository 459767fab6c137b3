"""What the grammar can say of a picture: legal or not, new or not, and how varied a set is."""

import numpy as np
import pytest

import diffusion_utilities as du

FACTORY = du.sprite_factory()


def some(n: int, seed: int):
    return [s for name in FACTORY.CLASS_NAMES for s in FACTORY.sample_specifications(n, seed, name)]


def legal_share(pictures: np.ndarray) -> float:
    return FACTORY.are_legal(pictures, FACTORY.decode(pictures)[0]).mean()


def with_noise(pictures: np.ndarray, std: float) -> np.ndarray:
    return (pictures / 255 + std * np.random.default_rng(0).standard_normal(pictures.shape)).clip(0, 1)


def test_real_sprites_are_legal_with_noise_that_nobody_sees_and_not_with_more():
    pictures = FACTORY.render_many(some(100, 31))
    assert legal_share(pictures) == 1
    assert legal_share(with_noise(pictures, 0.05)) > 0.99
    assert legal_share(with_noise(pictures, 0.1)) < 0.05


@pytest.mark.parametrize("kind, passed", [("colour", 0.12), ("part", 0.005)])
def test_near_misses_are_not_legal(kind, passed):
    """The threshold was fixed so: half a part in another colour passes in 9 of 100, half of another part never."""
    pictures = FACTORY.near_misses(some(100, 32), kind, seed=1)
    assert len(pictures) > 450
    assert legal_share(pictures) <= passed


def test_the_distance_over_the_whole_picture_would_be_a_worse_ruler():
    """A threshold on it that refuses as many near-misses refuses sprites whose noise the worst pixel forgives."""
    near = np.concatenate([FACTORY.near_misses(some(60, 33), kind) for kind in ("colour", "part")])
    found, distances = FACTORY.decode(near)
    as_strict = np.quantile(distances, FACTORY.are_legal(near, found).mean())
    noisy = with_noise(FACTORY.render_many(some(60, 34)), 0.05)
    assert legal_share(noisy) > 0.99 and (FACTORY.decode(noisy)[1] < as_strict).mean() < 0.01


def test_a_near_miss_is_its_sprite_but_for_half_of_one_factor():
    specifications = some(40, 35)
    for kind in ("colour", "part"):
        pictures = FACTORY.near_misses(specifications, kind, seed=2)
        np.testing.assert_array_equal(pictures, FACTORY.near_misses(specifications, kind, seed=2))
        nearest = np.sqrt(np.square(pictures[:, None] / 255.0 - FACTORY.render_many(specifications)[None] / 255.0).mean((2, 3, 4))).min(1)
        assert nearest.min() > 0 and np.median(nearest) < 0.2
    with pytest.raises(ValueError, match="kind='hat' does not exist; expected 'colour' or 'part'"):
        FACTORY.near_misses(specifications, "hat")


def test_one_wrong_pixel_is_enough():
    specification = FACTORY.sample_specifications(1, 36, "hero")[0]
    picture = FACTORY.render(specification)[None]
    assert FACTORY.are_legal(picture, [specification])[0]
    for channel, allowed in ((20, True), (60, False)):  # grey levels on all three channels: 0.08 and 0.24
        spoilt = picture.copy()
        spoilt[0, 0, 0] -= channel
        assert FACTORY.are_legal(spoilt, [specification])[0] == allowed
        assert FACTORY.pixel_errors(spoilt, [specification]).max() == pytest.approx(channel / 255)
    with pytest.raises(ValueError, match="1 pictures and 2 specifications"):
        FACTORY.pixel_errors(picture, [specification] * 2)


def test_new_means_not_in_training():
    train, test = du.load_sprites("train"), du.load_sprites("test")
    found, distances = FACTORY.decode(np.concatenate((train.images[:200], test.images[:200])))
    assert distances.max() == 0
    np.testing.assert_array_equal(FACTORY.are_new(found, train.factors), [False] * 200 + [True] * 200)


def test_total_variation_of_histograms():
    rows = [s.as_dict() for s in some(300, 37)]
    assert FACTORY.total_variation(rows, rows) == 0
    other = [s.as_dict() for s in some(300, 38)]
    small = FACTORY.total_variation(rows, other)
    assert 0 < small < 0.15
    one_skin = [row | {"skin": "dark"} if "skin" in row else row for row in other]
    assert FACTORY.total_variation(rows, one_skin) > small + 0.01
    lacking = [row for row in other if row["class"] != "food"]
    assert FACTORY.total_variation(rows, lacking) > small + 0.05
    half = [{"class": "food", **dict(FACTORY.specification_at("food", i).factors)} for i in range(2)]
    classes_only = FACTORY.total_variation(half[:1], half[:1])
    histograms = 1 + sum(len(FACTORY.factors_of(name)) for name in FACTORY.CLASS_NAMES)
    assert classes_only == pytest.approx(1 - (1 + len(FACTORY.factors_of("food"))) / histograms)


def test_distinct_by_chance_is_what_drawing_gives():
    rng = np.random.default_rng(0)
    total = FACTORY.count_specifications("food")
    drawn = [len(np.unique(rng.integers(0, total, 2000))) for _ in range(200)]
    assert FACTORY.distinct_by_chance({"food": 2000}) == pytest.approx(np.mean(drawn), rel=0.005)
    assert FACTORY.distinct_by_chance({"food": 1, "hero": 1}) == pytest.approx(2)
