"""`decode`: from a picture back to the factors that drew it, against rendering and against brute force."""

import time
from itertools import islice

import numpy as np
import pytest

import diffusion_utilities as du

FACTORY = du.sprite_factory()


def some(n: int, seed: int = 11):
    return [
        s
        for name in FACTORY.CLASS_NAMES
        for s in FACTORY.sample_specifications(n, seed, name)
    ]


def test_a_rendered_sprite_is_decoded_to_itself():
    """200 of each class, and the first and last legal one: the same specification, distance 0."""
    specifications = some(200)
    for name in FACTORY.CLASS_NAMES:
        specifications += [
            FACTORY.specification_at(name, i)
            for i in (0, FACTORY.count_specifications(name) - 1)
        ]
    found, distances = FACTORY.decode(FACTORY.render_many(specifications))
    assert found == specifications and distances.max() == 0


def test_sprites_survive_noise_of_std_005():
    specifications = some(400)
    clean = FACTORY.render_many(specifications) / 255
    noisy = (clean + 0.05 * np.random.default_rng(0).standard_normal(clean.shape)).clip(
        0, 1
    )
    found, distances = FACTORY.decode(noisy)
    assert np.mean([a == b for a, b in zip(found, specifications)]) >= 0.995
    assert (
        distances.min() > 0.03 and distances.max() < 0.06
    )  # about the noise's own size


def brute_force(images: np.ndarray, specifications: list) -> np.ndarray:
    """RMS distances (pictures, specifications), one rendered picture after the other."""
    x = images.reshape(len(images), -1) / 255
    rendered = (FACTORY.render(s).ravel() / 255 for s in specifications)
    return np.stack(
        [np.sqrt(np.square(x - picture).mean(1)) for picture in rendered], axis=1
    )


def hard_pictures() -> np.ndarray:
    """Pictures near no legal sprite: noise, blends and halves of two sprites, shuffled pixels."""
    rng = np.random.default_rng(5)
    a, b = (FACTORY.render_many(some(2, seed)).astype(float) for seed in (1, 2))
    halves = np.where(np.arange(16)[:, None, None] < 8, a, b)
    shuffled = a.reshape(len(a), 256, 3)[:, rng.permutation(256)].reshape(a.shape)
    return (
        np.concatenate((rng.uniform(0, 255, a.shape), (a + b) / 2, halves, shuffled))
        .round()
        .astype(np.uint8)
    )


@pytest.mark.parametrize("name", ["food", "spell", "non-hero"])
def test_decoding_equals_brute_force_over_a_whole_class(monkeypatch, name):
    monkeypatch.setattr(FACTORY, "CLASS_NAMES", (name,))
    images, legal = (
        hard_pictures_of(monkeypatch),
        list(FACTORY.all_specifications(name)),
    )
    every = brute_force(images, legal)
    found, distances = FACTORY.decode(images)
    np.testing.assert_allclose(distances, every.min(1), atol=1e-6)
    index = {s: i for i, s in enumerate(legal)}
    np.testing.assert_allclose(
        [row[index[s]] for row, s in zip(every, found)], every.min(1), atol=1e-6
    )


def hard_pictures_of(monkeypatch) -> np.ndarray:
    with monkeypatch.context() as patch:
        patch.setattr(FACTORY, "CLASS_NAMES", du.CLASS_NAMES)
        return hard_pictures()


def test_no_sampled_legal_sprite_is_nearer():
    """All five classes at once, against 4,000 sampled specifications of each and the neighbours of the answer."""
    images = hard_pictures()
    found, distances = FACTORY.decode(images)
    assert (distances <= brute_force(images, some(400, 21)).min(1) + 1e-6).all()
    for picture, answer, distance in zip(images, found, distances):
        values = dict(answer.factors)
        neighbours = [
            FACTORY.specify(answer.class_name, **{**values, factor: value})
            for factor, legal in FACTORY.factors_of(answer.class_name).items()
            for value in legal
        ]
        assert distance <= brute_force(picture[None], neighbours).min() + 1e-6


def test_a_thousand_pictures_take_less_than_five_seconds():
    images = FACTORY.render_many(some(200))
    FACTORY.decode(images[:1])  # builds the tables, once
    started = time.perf_counter()
    FACTORY.decode(images)
    assert time.perf_counter() - started < 5


def test_batches_do_not_change_the_answer():
    images = hard_pictures()
    found, distances = FACTORY.decode(images, batch=7)
    whole, all_distances = FACTORY.decode(images)
    assert found == whole
    np.testing.assert_allclose(distances, all_distances, atol=1e-12)
    assert FACTORY.decode(images[:0])[0] == []


@pytest.mark.parametrize(
    "images, message",
    [
        (
            np.zeros((2, 3, 16, 16)),
            r"shape \(2, 3, 16, 16\); expected \(N, 16, 16, 3\)",
        ),
        (
            np.full((1, 16, 16, 3), -1.0),
            r"values run from -1.0 to -1.0; expected uint8, or floats from 0 to 1",
        ),
        (np.full((1, 16, 16, 3), np.nan), r"expected uint8, or floats from 0 to 1"),
    ],
)
def test_what_cannot_be_decoded_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        FACTORY.decode(images)


def test_all_classes_have_their_dictionary_in_index_order():
    for name in FACTORY.CLASS_NAMES:
        first = list(islice(FACTORY.all_specifications(name), 40))
        assert FACTORY.decode(FACTORY.render_many(first))[0] == first
