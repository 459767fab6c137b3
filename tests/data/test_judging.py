"""What the grammar can say of a picture: legal or not, new or not, and how varied a set is."""

import numpy as np
import pytest

import diffusion_utilities as du

FACTORY = du.sprite_factory()


def some(n: int, seed: int):
    return [
        s
        for name in FACTORY.CLASS_NAMES
        for s in FACTORY.sample_specifications(n, seed, name)
    ]


def legal_share(pictures: np.ndarray) -> float:
    return FACTORY.are_legal(pictures, FACTORY.decode(pictures)[0]).mean()


def with_noise(pictures: np.ndarray, std: float) -> np.ndarray:
    return (
        pictures / 255 + std * np.random.default_rng(0).standard_normal(pictures.shape)
    ).clip(0, 1)


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
    near = np.concatenate(
        [FACTORY.near_misses(some(60, 33), kind) for kind in ("colour", "part")]
    )
    found, distances = FACTORY.decode(near)
    as_strict = np.quantile(distances, FACTORY.are_legal(near, found).mean())
    noisy = with_noise(FACTORY.render_many(some(60, 34)), 0.05)
    assert (
        legal_share(noisy) > 0.99
        and (FACTORY.decode(noisy)[1] < as_strict).mean() < 0.01
    )


def neighbours(specification):
    """Every sprite that differs in one factor, with that factor's name."""
    for factor, values in FACTORY.factors_of(specification.class_name).items():
        for value in values:
            if value != specification[factor]:
                yield (
                    factor,
                    FACTORY.render(
                        FACTORY.specify(
                            specification.class_name,
                            **{**dict(specification.factors), factor: value},
                        )
                    ),
                )


@pytest.mark.parametrize("kind", ["colour", "part"])
def test_a_near_miss_is_half_way_to_a_sprite_with_one_other_factor(kind):
    """Of the pixels in which it and some neighbour differ from the sprite, it has the neighbour's in half."""
    for specification in some(4, 35):
        picture = FACTORY.near_misses([specification], kind, seed=2)
        if not len(picture):
            continue
        np.testing.assert_array_equal(
            picture, FACTORY.near_misses([specification], kind, seed=2)
        )
        sprite = FACTORY.render(specification)
        changed = (picture[0] != sprite).any(2)
        half_way = set()
        for factor, other in neighbours(specification):
            differs = (other != sprite).any(2)
            if (
                (picture[0] == other)[changed].all()
                and changed.sum() == differs.sum() // 2
                and differs[changed].all()
            ):
                half_way.add(
                    factor in FACTORY._FAMILIES[specification.class_name].COLOURS
                )
        assert (kind == "colour") in half_way


def test_another_kind_of_near_miss_is_refused():
    with pytest.raises(
        ValueError, match="kind='hat' does not exist; expected 'colour' or 'part'"
    ):
        FACTORY.near_misses(some(1, 35), "hat")


def test_one_wrong_pixel_is_enough():
    specification = FACTORY.sample_specifications(1, 36, "hero")[0]
    picture = FACTORY.render(specification)[None]
    assert FACTORY.are_legal(picture, [specification])[0]
    for channel, allowed in (
        (20, True),
        (60, False),
    ):  # grey levels on all three channels: 0.08 and 0.24
        spoilt = picture.copy()
        spoilt[0, 0, 0] -= channel
        assert FACTORY.are_legal(spoilt, [specification])[0] == allowed
        assert FACTORY.pixel_errors(spoilt, [specification]).max() == pytest.approx(
            channel / 255
        )
    with pytest.raises(ValueError, match="1 pictures and 2 specifications"):
        FACTORY.pixel_errors(picture, [specification] * 2)


def test_new_means_not_in_training():
    train, test = du.load_sprites("train"), du.load_sprites("test")
    found, distances = FACTORY.decode(
        np.concatenate((train.images[:200], test.images[:200]))
    )
    assert distances.max() == 0
    np.testing.assert_array_equal(
        FACTORY.are_new(found, train.factors), [False] * 200 + [True] * 200
    )


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
    two = [FACTORY.specification_at("food", i).as_dict() for i in (0, 1)]
    assert (
        FACTORY.total_variation(two[:1], two[:1]) == 0
    )  # classes that neither set has don't count
    differing = sum(
        two[0][factor] != two[1][factor] for factor in FACTORY.factors_of("food")
    )
    assert FACTORY.total_variation(two[:1], two[1:]) == pytest.approx(
        differing / (1 + len(FACTORY.factors_of("food")))
    )


def test_distinct_by_chance_is_what_drawing_gives():
    rng = np.random.default_rng(0)
    total = FACTORY.count_specifications("food")
    drawn = [len(np.unique(rng.integers(0, total, 2000))) for _ in range(200)]
    assert FACTORY.distinct_by_chance({"food": 2000}) == pytest.approx(
        np.mean(drawn), rel=0.005
    )
    assert FACTORY.distinct_by_chance({"food": 1, "hero": 1}) == pytest.approx(2)
