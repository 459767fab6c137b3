"""`decode`: from a picture back to the factors that drew it.

It is compared with rendering and with brute force.
"""

from itertools import islice

import numpy as np
import pytest

import diffusion_utilities as du

pytestmark = pytest.mark.slow  # together they take over five seconds

FACTORY = du.sprite_factory()


def some(n: int, seed: int = 11) -> list:
    """`n` specifications of each class."""
    specifications = []
    for name in FACTORY.CLASS_NAMES:
        specifications += FACTORY.sample_specifications(n, seed, name)
    return specifications


def test_a_rendered_sprite_is_decoded_to_itself():
    """100 of each class, and the first and last legal one."""
    specifications = some(100)
    for name in FACTORY.CLASS_NAMES:
        last = FACTORY.count_specifications(name) - 1
        specifications.append(FACTORY.specification_at(name, 0))
        specifications.append(FACTORY.specification_at(name, last))
    found, distances = FACTORY.decode(FACTORY.render_many(specifications))
    assert found == specifications
    assert distances.max() == 0


def test_sprites_survive_noise_of_std_005():
    specifications = some(200)
    clean = FACTORY.render_many(specifications) / 255
    noise = np.random.default_rng(0).standard_normal(clean.shape)
    found, distances = FACTORY.decode((clean + 0.05 * noise).clip(0, 1))
    recovered = [ours == theirs for ours, theirs in zip(found, specifications)]
    assert np.mean(recovered) >= 0.995
    # The distances are about as large as the noise.
    assert distances.min() > 0.03
    assert distances.max() < 0.06


def brute_force(images: np.ndarray, specifications: list) -> np.ndarray:
    """RMS distances (pictures, specifications), one rendered picture at a time."""
    x = images.reshape(len(images), -1) / 255
    columns = []
    for specification in specifications:
        picture = FACTORY.render(specification).ravel() / 255
        columns.append(np.sqrt(np.square(x - picture).mean(1)))
    return np.stack(columns, axis=1)


@pytest.fixture(scope="module")
def hard_pictures() -> np.ndarray:
    """Pictures near no legal sprite.

    Noise, blends of two sprites, their halves together, and shuffled pixels.
    """
    rng = np.random.default_rng(5)
    a = FACTORY.render_many(some(2, 1)).astype(float)
    b = FACTORY.render_many(some(2, 2)).astype(float)
    is_upper = np.arange(16)[:, None, None] < 8
    halves = np.where(is_upper, a, b)
    shuffled = a.reshape(len(a), 256, 3)[:, rng.permutation(256)].reshape(a.shape)
    noise = rng.uniform(0, 255, a.shape)
    pictures = np.concatenate((noise, (a + b) / 2, halves, shuffled))
    return pictures.round().astype(np.uint8)


@pytest.mark.parametrize("name", ["food", "spell", "non-hero"])
def test_decoding_equals_brute_force_over_a_class(monkeypatch, name, hard_pictures):
    monkeypatch.setattr(FACTORY, "CLASS_NAMES", (name,))
    legal = list(FACTORY.all_specifications(name))
    every = brute_force(hard_pictures, legal)
    found, distances = FACTORY.decode(hard_pictures)
    np.testing.assert_allclose(distances, every.min(1), atol=1e-6)
    index = {specification: i for i, specification in enumerate(legal)}
    chosen = [index[specification] for specification in found]
    theirs = every[np.arange(len(every)), chosen]
    np.testing.assert_allclose(theirs, every.min(1), atol=1e-6)


def test_no_sampled_legal_sprite_is_nearer(hard_pictures):
    """All five classes at once, against 400 sampled specifications of each."""
    _, distances = FACTORY.decode(hard_pictures)
    sampled = brute_force(hard_pictures, some(400, 21))
    assert (distances <= sampled.min(1) + 1e-6).all()


def test_no_neighbour_of_the_answer_is_nearer(hard_pictures):
    """A neighbour differs from it in one factor."""
    found, distances = FACTORY.decode(hard_pictures)
    for picture, answer, distance in zip(hard_pictures, found, distances):
        neighbours = []
        for factor, legal in FACTORY.factors_of(answer.class_name).items():
            for value in legal:
                values = dict(answer.factors) | {factor: value}
                neighbours.append(FACTORY.specify(answer.class_name, **values))
        assert distance <= brute_force(picture[None], neighbours).min() + 1e-6


def test_batches_do_not_change_the_answer(hard_pictures):
    found, distances = FACTORY.decode(hard_pictures, batch=7)
    whole, all_distances = FACTORY.decode(hard_pictures)
    assert found == whole
    np.testing.assert_allclose(distances, all_distances, atol=1e-12)


def test_no_pictures_give_no_answers(hard_pictures):
    found, distances = FACTORY.decode(hard_pictures[:0])
    assert found == []
    assert distances.shape == (0,)


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


@pytest.mark.parametrize("name", FACTORY.CLASS_NAMES)
def test_all_classes_have_their_patterns_in_index_order(name):
    first = list(islice(FACTORY.all_specifications(name), 40))
    found, _ = FACTORY.decode(FACTORY.render_many(first))
    assert found == first
