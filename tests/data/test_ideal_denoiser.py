"""`denoise_ideally` and `ideal_noise`: the best guess that any denoiser could make.

It is compared with the sum over every sprite of a class, one by one, and with what a
best guess must fulfil.
"""

import numpy as np
import pytest
import torch

import diffusion_utilities as du

FACTORY = du.sprite_factory()
SCORING = du.sprite_scoring()
SCHEDULE = du.NoiseSchedule.linear()


def noisy_sprites(names, std: float, n: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """`n` sprites of each class: (clean, noisy), (N, 16, 16, 3) in units of 0 to 1."""
    specifications = []
    for name in names:
        specifications += FACTORY.sample_specifications(n, 0, name)
    clean = FACTORY.render_many(specifications) / 255
    noise = np.random.default_rng(0).standard_normal(clean.shape)
    return clean, clean + std * noise


@pytest.mark.parametrize("std", [0.1, 0.4, 2.0])
def test_it_is_the_mean_over_every_sprite_of_two_classes(std):
    """Brute force: 3,600 dishes and 5,120 spells, the classes three to one."""
    names = ("food", "spell")
    _, noisy = noisy_sprites(names, std)
    y = noisy.reshape(len(noisy), -1)
    logs = []
    pictures = []
    for name, share in zip(names, (0.75, 0.25)):
        legal = list(FACTORY.all_specifications(name))
        rendered = FACTORY.render_many(legal).reshape(len(legal), -1) / 255
        apart = np.stack([np.square(row - rendered).sum(1) for row in y])
        logs.append(-apart / (2 * std**2) + np.log(share / len(legal)))
        pictures.append(rendered)
    logs = np.concatenate(logs, 1)
    weights = np.exp(logs - logs.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    expected = weights @ np.concatenate(pictures)
    mine = SCORING.denoise_ideally(noisy, std, (0, 0, 0.75, 0.25, 0))
    np.testing.assert_allclose(mine.reshape(y.shape), expected, atol=2e-4)


def test_little_noise_is_removed_completely():
    clean, noisy = noisy_sprites(FACTORY.CLASS_NAMES, 0.05, n=4)
    guess = SCORING.denoise_ideally(noisy, 0.05)
    np.testing.assert_allclose(guess, clean, atol=1e-3)


def test_much_noise_leaves_the_mean_of_all_sprites():
    zero = np.zeros((1, 16, 16, 3))
    far = SCORING.denoise_ideally(zero, 1e3)
    farther = SCORING.denoise_ideally(zero, 1e4)
    np.testing.assert_allclose(far, farther, atol=1e-3)
    drawn = FACTORY.render_many(FACTORY.draw_specifications(2000, 1)) / 255
    # The standard errors of the 2,000 draws are up to 0.012.
    np.testing.assert_allclose(far[0], drawn.mean(0), atol=0.06)


def ideal(x, t, c=None) -> torch.Tensor:
    """A "network" without weights, for samplers and losses."""
    step = round(float(t.flatten()[0]) * SCHEDULE.T)
    noise = SCORING.ideal_noise(x.numpy(), float(SCHEDULE.ab[step]))
    return torch.from_numpy(noise)


def in_model_range(n: int) -> torch.Tensor:
    """`n` fair draws as a network sees them: (n, 3, 16, 16) in [-1, 1]."""
    specifications = FACTORY.draw_specifications(n, 3)
    return du.to_model_range(FACTORY.render_many(specifications))


@pytest.mark.parametrize("t", [20, 200, 500])
def test_the_noise_is_what_the_guess_leaves_of_the_picture(t):
    x = in_model_range(5)
    x_t = du.perturb_input(x, t, torch.randn(x.shape), SCHEDULE)
    ab = float(SCHEDULE.ab[t])
    implied = torch.from_numpy(SCORING.ideal_noise(x_t.numpy(), ab))
    implied_x0 = du.predict_x0(x_t, t, implied, SCHEDULE)
    noisy = ((x_t / ab**0.5).movedim(1, -1).numpy() + 1) / 2
    guess = SCORING.denoise_ideally(noisy, (1 / ab - 1) ** 0.5 / 2)
    ours = (implied_x0.movedim(1, -1) + 1) / 2
    np.testing.assert_allclose(ours, guess, atol=2e-3)


def test_a_little_noise_is_found_exactly():
    x = in_model_range(5)
    noise = torch.randn(x.shape)
    x_t = du.perturb_input(x, 20, noise, SCHEDULE)
    implied = SCORING.ideal_noise(x_t.numpy(), float(SCHEDULE.ab[20]))
    np.testing.assert_allclose(implied, noise, atol=2e-3)


@pytest.mark.parametrize("alpha_bar", [0.0, 1.0])
def test_a_step_without_noise_or_without_picture_is_refused(alpha_bar):
    with pytest.raises(ValueError, match="alpha_bar"):
        SCORING.ideal_noise(in_model_range(1).numpy(), alpha_bar)


def test_no_network_has_a_smaller_error():
    network = du.load_weights(du.ContextUnet(3, 64, 5, 16), du.WEIGHTS / "model_31.pth")
    x = in_model_range(40)
    steps = (50, 200, 350)
    ours = du.denoising_losses(network, x, SCHEDULE, steps=steps).mean(1)
    best = du.denoising_losses(ideal, x, SCHEDULE, steps=steps).mean(1)
    assert (best < ours).all()
    assert best[0] < 0.01 * ours[0]


def test_samplers_draw_legal_sprites_with_it():
    """A sampler alone spoils little; the mixed colours come from the networks."""
    x, _ = du.sample_ddim(
        ideal,
        SCHEDULE,
        shape=(16, 3, 16, 16),
        steps=15,
        generator=torch.Generator().manual_seed(0),
        keep=0,
    )
    pictures = du.to_pictures(x)
    found, _ = FACTORY.decode(pictures)
    assert SCORING.are_legal(pictures, found).mean() > 0.9


ZERO = np.zeros((1, 16, 16, 3))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((ZERO[0], 0.1), "shape"),
        ((ZERO * np.nan, 0.1), "finite"),
        ((ZERO, 0.0), "std=0.0"),
        ((ZERO, 0.1, (1, 2)), "5 numbers"),
        ((ZERO, 0.1, (0,) * 5), "not all 0"),
        ((ZERO, 0.1, (1, 1, 1, 1, -1)), "none below 0"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SCORING.denoise_ideally(*arguments)
