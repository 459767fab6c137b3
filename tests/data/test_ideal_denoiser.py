"""`denoise_ideally` against the sum over every sprite of a class, one by one, and against what a best guess must fulfil."""

import numpy as np
import pytest
import torch

import diffusion_utilities as du

FACTORY = du.sprite_factory()


def noisy_sprites(names, std: float, n: int = 3, seed: int = 0):
    specifications = [
        s for name in names for s in FACTORY.sample_specifications(n, seed, name)
    ]
    clean = FACTORY.render_many(specifications) / 255
    return clean, clean + std * np.random.default_rng(seed).standard_normal(clean.shape)


@pytest.mark.parametrize("std", [0.1, 0.4, 2.0])
def test_it_is_the_mean_over_every_sprite_of_two_classes(std):
    """Brute force: 3,600 dishes and 5,120 spells, each with its own likelihood, the classes three to one."""
    names = ("food", "spell")
    _, y = noisy_sprites(names, std)
    logs, pictures = [], []
    for name, share in zip(names, (0.75, 0.25)):
        rendered = (
            FACTORY.render_many(list(FACTORY.all_specifications(name))).reshape(-1, 768)
            / 255
        )
        apart = np.stack(
            [np.square(row - rendered).sum(1) for row in y.reshape(len(y), -1)]
        )
        logs.append(-apart / (2 * std**2) + np.log(share / len(rendered)))
        pictures.append(rendered)
    logs = np.concatenate(logs, 1)
    weights = np.exp(logs - logs.max(1, keepdims=True))
    expected = (weights / weights.sum(1, keepdims=True)) @ np.concatenate(pictures)
    mine = FACTORY.denoise_ideally(y, std, (0, 0, 0.75, 0.25, 0))
    np.testing.assert_allclose(mine.reshape(len(y), -1), expected, atol=2e-4)


def test_little_noise_is_removed_whole_and_much_noise_leaves_the_mean():
    clean, y = noisy_sprites(FACTORY.CLASS_NAMES, 0.05, n=4)
    np.testing.assert_allclose(FACTORY.denoise_ideally(y, 0.05), clean, atol=1e-3)
    zero = np.zeros((1, 16, 16, 3))
    far, farther = (FACTORY.denoise_ideally(zero, std) for std in (1e3, 1e4))
    np.testing.assert_allclose(far, farther, atol=1e-3)
    drawn = FACTORY.render_many(FACTORY.draw_specifications(2000, 1)) / 255
    assert (
        np.abs(far[0] - drawn.mean(0)).max() < 0.06
    )  # 2,000 draws: standard errors up to 0.012


def ideal(schedule):
    """A "network" without weights, for samplers and losses."""
    return lambda x, t, c=None: torch.from_numpy(
        FACTORY.ideal_noise(
            x.numpy(), float(schedule.ab[round(float(t.flatten()[0]) * schedule.T)])
        )
    )


def test_the_noise_is_what_the_guess_leaves_of_the_picture():
    schedule, x = (
        du.NoiseSchedule.linear(),
        du.to_model_range(FACTORY.render_many(FACTORY.draw_specifications(5, 3))),
    )
    noise = torch.randn(x.shape)
    for t in (20, 200, 500):
        x_t, ab = du.perturb_input(x, t, noise, schedule), float(schedule.ab[t])
        implied = torch.from_numpy(FACTORY.ideal_noise(x_t.numpy(), ab))
        guess = FACTORY.denoise_ideally(
            ((x_t / ab**0.5).movedim(1, -1).numpy() + 1) / 2, (1 / ab - 1) ** 0.5 / 2
        )
        np.testing.assert_allclose(
            (du.predict_x0(x_t, t, implied, schedule).movedim(1, -1) + 1) / 2,
            guess,
            atol=2e-3,
        )
        if t == 20:
            np.testing.assert_allclose(implied, noise, atol=2e-3)
    for alpha_bar in (0.0, 1.0):
        with pytest.raises(ValueError, match="alpha_bar"):
            FACTORY.ideal_noise(x.numpy(), alpha_bar)


def test_no_network_comes_below_its_error():
    schedule = du.NoiseSchedule.linear()
    network = du.load_weights(du.ContextUnet(3, 64, 5, 16), du.WEIGHTS / "model_31.pth")
    x = du.to_model_range(FACTORY.render_many(FACTORY.draw_specifications(40, 3)))
    ours, best = (
        du.denoising_losses(model, x, schedule, steps=(50, 200, 350)).mean(1)
        for model in (network, ideal(schedule))
    )
    assert (best < ours).all() and best[0] < 0.01 * ours[0]


def test_samplers_draw_legal_sprites_with_it():
    """What a sampler spoils by itself is little: so mixed colours come from networks."""
    schedule = du.NoiseSchedule.linear()
    generator = torch.Generator().manual_seed(0)
    pictures = du.to_pictures(
        du.sample_ddim(
            ideal(schedule),
            schedule,
            shape=(16, 3, 16, 16),
            steps=25,
            generator=generator,
            keep=0,
        )[0]
    )
    assert FACTORY.are_legal(pictures, FACTORY.decode(pictures)[0]).mean() > 0.9


def test_bad_input_is_named():
    y = np.zeros((1, 16, 16, 3))
    for arguments, said in (
        ((y[0], 0.1), "shape"),
        ((y * np.nan, 0.1), "finite"),
        ((y, 0.0), "std=0.0"),
        ((y, 0.1, (1, 2)), "5 numbers"),
        ((y, 0.1, (0,) * 5), "not all 0"),
        ((y, 0.1, (1, 1, 1, 1, -1)), "none below 0"),
    ):
        with pytest.raises(ValueError, match=said):
            FACTORY.denoise_ideally(*arguments)
