"""The measures of quality: closed forms, brute-force counts and the package `prdc`."""

import numpy as np
import prdc
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import diffusion_utilities as du


def with_moments(
    mean: np.ndarray, covariance: np.ndarray, n: int, seed: int
) -> np.ndarray:
    """n rows whose sample mean and covariance are exactly these."""
    rows = np.random.default_rng(seed).standard_normal((n, len(mean)))
    rows -= rows.mean(0)
    found = np.atleast_2d(np.cov(rows, rowvar=False))
    white = rows @ np.linalg.inv(np.linalg.cholesky(found)).T
    return white @ np.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_two_gaussians_in_closed_form():
    """In two dimensions tr (AB)^(1/2) = sqrt(tr AB + 2 sqrt(det AB)).

    It holds also where A and B do not commute.
    """
    a = np.array([[2.0, 0.7], [0.7, 1.0]])
    b = np.array([[0.5, -0.3], [-0.3, 3.0]])
    mean_a = np.array([1.0, -2.0])
    mean_b = np.array([0.5, 1.0])
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    shift = np.square(mean_a - mean_b).sum()
    expected = shift + np.trace(a) + np.trace(b) - 2 * root
    rows_a = with_moments(mean_a, a, n=300, seed=0)
    rows_b = with_moments(mean_b, b, n=400, seed=1)
    assert du.frechet_distance(rows_a, rows_b) == pytest.approx(expected, rel=1e-9)


@given(st.integers(1, 12), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_frechet_distance_of_diagonal_gaussians(dimensions, seed):
    """The squared differences of the means and of the standard deviations, summed."""
    rng = np.random.default_rng(seed)
    mean_a, mean_b = rng.standard_normal((2, dimensions))
    std_a, std_b = rng.uniform(0.1, 2, (2, dimensions))
    a = with_moments(mean_a, np.diag(std_a**2), n=200, seed=seed)
    b = with_moments(mean_b, np.diag(std_b**2), n=200, seed=seed + 1)
    expected = np.square(mean_a - mean_b).sum() + np.square(std_a - std_b).sum()
    assert du.frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert du.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("k", [1, 5])
def test_precision_recall_density_coverage_are_those_of_prdc(shift, k):
    rng = np.random.default_rng(3)
    real = rng.standard_normal((120, 6))
    fake = 0.8 * rng.standard_normal((90, 6)) + shift
    ours = du.precision_recall_density_coverage(real, fake, k)
    lengths = {name: len(values) for name, values in ours.items()}
    assert lengths == {"precision": 90, "recall": 120, "density": 90, "coverage": 120}
    for name, value in prdc.compute_prdc(real, fake, k).items():
        assert ours[name].mean() == pytest.approx(value), name


def test_precision_and_coverage_by_counting():
    real = np.array([[0.0], [1.0], [10.0], [11.0]])
    fake = np.array([[0.5], [10.2], [10.4], [50.0]])
    found = du.precision_recall_density_coverage(real, fake, k=1)
    assert found["precision"].tolist() == [1, 1, 1, 0]  # each real's ball has radius 1
    assert found["coverage"].tolist() == [1, 1, 1, 1]
    assert found["density"].tolist() == [2, 2, 2, 0]


@pytest.mark.parametrize("place, inside", [(-0.999, 1), (-1.0, 0)])
def test_balls_are_open_as_in_prdc(place, inside):
    """A fake exactly as far from a real as that real's neighbour is outside."""
    real = np.array([[0.0], [1.0], [5.0]])
    fake = np.array([[place], [90.0], [99.0]])
    precision = du.precision_recall_density_coverage(real, fake, k=1)["precision"]
    assert precision[0] == inside
    assert precision.mean() == prdc.compute_prdc(real, fake, 1)["precision"]


def test_features_that_cannot_be_compared_are_refused():
    rows = np.zeros((4, 2))
    message = r"shapes \(4, 2\) and \(4, 3\); expected \(N, d\) and \(M, d\)"
    with pytest.raises(ValueError, match=message):
        du.frechet_distance(rows, np.zeros((4, 3)))
    with pytest.raises(ValueError, match="N and M at least 2"):
        du.frechet_distance(rows[:1], rows)


@pytest.mark.parametrize("k", [0, 4])
def test_a_neighbour_that_does_not_exist_is_refused(k):
    message = f"k={k} with 4 and 9 features; expected 1 <= k < the smaller number"
    with pytest.raises(ValueError, match=message):
        du.precision_recall_density_coverage(np.zeros((4, 2)), np.zeros((9, 2)), k)


def test_memorised_are_copies_and_not_new_sprites():
    train = du.load_sprites("train").images[:1500]
    test = du.load_sprites("test").images[:100]
    changes = np.random.default_rng(0).integers(-3, 4, (50, 16, 16, 3))
    nearly = (train[:50] + changes).clip(0, 255).astype(np.uint8)
    assert du.memorised(nearly, train).mean() > 0.9
    assert du.memorised(test, train).mean() < 0.05


def test_a_training_set_that_repeats_its_pictures_hides_no_copies():
    train = du.load_sprites("train").images[:1500]
    repeated = np.concatenate((train, train))
    assert du.memorised(train[:20], repeated).all()


def test_memorised_needs_two_different_training_pictures():
    pictures = du.load_sprites("test").images[:3]
    message = r"training holds 1 different picture\(s\); expected 2 or more"
    with pytest.raises(ValueError, match=message):
        du.memorised(pictures, pictures[:1])


def test_the_k_nearest_pictures_come_in_order():
    reference = np.random.default_rng(0).integers(0, 255, (30, 8, 8, 3), dtype=np.uint8)
    distances, indices = du.nearest_pictures(reference[:4], reference, k=3)
    assert distances.shape == (4, 3)
    assert indices.shape == (4, 3)
    assert indices[:, 0].tolist() == [0, 1, 2, 3]
    differences = reference[:4, None] / 255 - reference[None] / 255
    by_hand = np.sqrt(np.square(differences).mean((2, 3, 4)))
    np.testing.assert_allclose(distances, np.sort(by_hand, 1)[:, :3], atol=1e-6)


def test_min_snr_weighs_each_picture_by_its_step():
    schedule = du.NoiseSchedule.linear(500)
    steps = []

    def model(x, time, context):
        steps.append((time * 500).round().long())
        return torch.zeros_like(x)

    def loss(**options) -> float:
        generator = torch.Generator().manual_seed(2)
        return du.diffusion_loss(
            model, x, schedule, generator=generator, **options
        ).item()

    x = torch.zeros(40, 3, 4, 4)
    weighted = loss(min_snr=5.0)

    generator = torch.Generator().manual_seed(2)
    t = torch.randint(1, 501, (40,), generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    assert torch.equal(t, steps[0])
    b = 1e-4 + (0.02 - 1e-4) * np.arange(1, 501) / 500
    ab = np.cumprod(1 - b)[t - 1]
    snr = ab / (1 - ab)
    weight = np.minimum(snr, 5) / snr  # as the paper writes it
    errors = noise.square().mean((1, 2, 3)).numpy()
    assert weighted == pytest.approx((weight * errors).mean(), rel=1e-5)
    assert weighted < loss()


def test_a_min_snr_that_is_no_weight_is_refused():
    schedule = du.NoiseSchedule.linear(500)
    message = "min_snr=0; expected a number above 0, such as 5"
    with pytest.raises(ValueError, match=message):
        du.diffusion_loss(
            torch.zeros_like, torch.zeros(2, 3, 4, 4), schedule, min_snr=0
        )
