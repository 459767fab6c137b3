"""The measures of quality against closed forms, brute-force counts and the package `prdc`."""

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
    rows = (
        rows
        @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(rows, rowvar=False)))).T
    )
    return rows @ np.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_two_gaussians_in_closed_form():
    """In two dimensions tr (AB)^(1/2) = sqrt(tr AB + 2 sqrt(det AB)), also where A and B don't commute."""
    a, b = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[0.5, -0.3], [-0.3, 3.0]])
    mean_a, mean_b = np.array([1.0, -2.0]), np.array([0.5, 1.0])
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    expected = np.square(mean_a - mean_b).sum() + np.trace(a) + np.trace(b) - 2 * root
    found = du.frechet_distance(
        with_moments(mean_a, a, 300, 0), with_moments(mean_b, b, 400, 1)
    )
    assert found == pytest.approx(expected, rel=1e-9)


@given(st.integers(1, 12), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_frechet_distance_of_diagonal_gaussians(dimensions, seed):
    """Sum of squared differences of the means and of the standard deviations; 0 for a set and itself."""
    rng = np.random.default_rng(seed)
    mean_a, mean_b = rng.standard_normal((2, dimensions))
    std_a, std_b = rng.uniform(0.1, 2, (2, dimensions))
    a, b = (
        with_moments(mean, np.diag(std**2), 200, seed + i)
        for i, (mean, std) in enumerate(((mean_a, std_a), (mean_b, std_b)))
    )
    expected = np.square(mean_a - mean_b).sum() + np.square(std_a - std_b).sum()
    assert du.frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert du.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("k", [1, 5])
def test_precision_recall_density_coverage_are_those_of_prdc(shift, k):
    rng = np.random.default_rng(3)
    real, fake = (
        rng.standard_normal((120, 6)),
        0.8 * rng.standard_normal((90, 6)) + shift,
    )
    ours = du.precision_recall_density_coverage(real, fake, k)
    assert {name: len(values) for name, values in ours.items()} == {
        "precision": 90,
        "recall": 120,
        "density": 90,
        "coverage": 120,
    }
    for name, value in prdc.compute_prdc(real, fake, k).items():
        assert ours[name].mean() == pytest.approx(value), name


def test_precision_and_coverage_by_counting():
    real, fake = (
        np.array([[0.0], [1.0], [10.0], [11.0]]),
        np.array([[0.5], [10.2], [10.4], [50.0]]),
    )
    found = du.precision_recall_density_coverage(real, fake, k=1)
    assert found["precision"].tolist() == [1, 1, 1, 0]  # each real's ball has radius 1
    assert found["coverage"].tolist() == [1, 1, 1, 1]
    assert found["density"].tolist() == [2, 2, 2, 0]


def test_balls_are_open_as_in_prdc():
    """A fake exactly as far from a real as that real's neighbour is outside."""
    real = np.array([[0.0], [1.0], [5.0]])
    for fake, inside in (
        ([[-0.999], [90.0], [99.0]], 1),
        ([[-1.0], [90.0], [99.0]], 0),
    ):
        found = du.precision_recall_density_coverage(real, np.array(fake), k=1)
        assert (
            found["precision"][0] == inside
            and prdc.compute_prdc(real, np.array(fake), 1)["precision"]
            == found["precision"].mean()
        )


def test_features_that_cannot_be_compared_are_refused():
    rows = np.zeros((4, 2))
    with pytest.raises(
        ValueError,
        match=r"shapes \(4, 2\) and \(4, 3\); expected \(N, d\) and \(M, d\)",
    ):
        du.frechet_distance(rows, np.zeros((4, 3)))
    with pytest.raises(ValueError, match="N and M at least 2"):
        du.frechet_distance(rows[:1], rows)
    for k in (0, 4):
        with pytest.raises(
            ValueError,
            match=f"k={k} with 4 and 9 features; expected 1 <= k < the smaller number",
        ):
            du.precision_recall_density_coverage(rows, np.zeros((9, 2)), k)


def test_memorised_are_copies_and_not_new_sprites():
    train, test = (
        du.load_sprites("train").images[:1500],
        du.load_sprites("test").images[:100],
    )
    nearly = train[:50].astype(int) + np.random.default_rng(0).integers(
        -3, 4, (50, 16, 16, 3)
    )
    assert du.memorised(nearly.clip(0, 255).astype(np.uint8), train).mean() > 0.9
    assert du.memorised(test, train).mean() < 0.05
    assert du.memorised(
        train[:20], np.concatenate((train, train))
    ).all()  # a training set that repeats its pictures
    with pytest.raises(
        ValueError, match="k=2; expected 1 to 1, the number of reference pictures"
    ):
        du.memorised(test, train[:1])


def test_the_k_nearest_pictures_come_in_order():
    reference = np.random.default_rng(0).integers(0, 255, (30, 8, 8, 3), dtype=np.uint8)
    distances, indices = du.nearest_pictures(reference[:4], reference, k=3)
    assert distances.shape == indices.shape == (4, 3) and indices[:, 0].tolist() == [
        0,
        1,
        2,
        3,
    ]
    by_hand = np.sqrt(
        np.square(reference[:4, None] / 255 - reference[None] / 255).mean((2, 3, 4))
    )
    np.testing.assert_allclose(distances, np.sort(by_hand, 1)[:, :3], atol=1e-6)


def test_min_snr_weighs_each_picture_by_its_step():
    schedule = du.NoiseSchedule.linear(500)
    steps = []

    def model(x, t, c):
        steps.append((t * 500).round().long())
        return torch.zeros_like(x)

    x = torch.zeros(40, 3, 4, 4)
    loss = du.diffusion_loss(
        model,
        x,
        schedule,
        c=None,
        generator=torch.Generator().manual_seed(2),
        min_snr=5.0,
    )
    generator = torch.Generator().manual_seed(2)
    t, noise = (
        torch.randint(1, 501, (40,), generator=generator),
        torch.randn(x.shape, generator=generator),
    )
    assert torch.equal(t, steps[0])
    ab = np.cumprod(1 - (1e-4 + (0.02 - 1e-4) * np.arange(1, 501) / 500))[t - 1]
    weight = np.minimum(ab / (1 - ab), 5) / (ab / (1 - ab))  # as the paper writes it
    assert loss.item() == pytest.approx(
        (weight * noise.square().mean((1, 2, 3)).numpy()).mean(), rel=1e-5
    )
    plain = du.diffusion_loss(
        model, x, schedule, c=None, generator=torch.Generator().manual_seed(2)
    )
    assert loss < plain
    with pytest.raises(
        ValueError,
        match="min_snr=0; expected None .no weights. or a number above 0, such as 5",
    ):
        du.diffusion_loss(model, x, schedule, min_snr=0)
