"""The noise schedule against closed forms, the steps against `diffusers`, the samplers against denoisers whose answer is known."""

import numpy as np
import pytest
import torch
import torch.nn as nn
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.schedulers import scheduling_ddpm
from hypothesis import given
from hypothesis import strategies as st

import diffusion_utilities as du

SHAPE = (2, 3, 4, 4)
SCHEDULES = {
    "linear": du.NoiseSchedule.linear(500),
    "cosine": du.NoiseSchedule.cosine(500),
    "short": du.NoiseSchedule.linear(37, 1e-3, 0.3),
}


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest absolute error over the largest value: signed errors would cancel."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def doubles(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


# ------------------------------------------------------------------------------------------------------------ the schedule


@pytest.mark.parametrize(
    "T, beta1, beta2",
    [(500, 1e-4, 0.02), (1000, 1e-4, 0.02), (7, 0.1, 0.5), (1, 0.2, 0.3)],
)
def test_linear_schedule_has_its_closed_form(T, beta1, beta2):
    """b[t] = beta1 + (beta2 - beta1) t / T, and ab[t] the product of the first t values of a, in float64."""
    schedule = du.NoiseSchedule.linear(T, beta1, beta2)
    t = np.arange(1, T + 1)
    b = beta1 + (beta2 - beta1) * t / T
    ab = np.exp(np.log1p(-b).cumsum())
    assert (
        schedule.T == T
        and schedule.b.dtype == schedule.a.dtype == schedule.ab.dtype == torch.float64
    )
    assert schedule.b[0] == 0 and schedule.a[0] == 1 and schedule.ab[0] == 1
    np.testing.assert_allclose(schedule.b[1:], b, rtol=1e-13)
    np.testing.assert_allclose(schedule.a[1:], 1 - b, rtol=1e-13)
    np.testing.assert_allclose(schedule.ab[1:], ab, rtol=1e-12)
    np.testing.assert_allclose(schedule.snr[1:], ab / (1 - ab), rtol=1e-9)
    assert schedule.snr[0] == np.inf


@pytest.mark.parametrize("T, s", [(500, 0.008), (50, 0.02), (1, 0.008)])
def test_cosine_schedule_has_its_closed_form(T, s):
    """ab[t] = f(t) / f(0) with f a squared cosine, wherever beta stays below its cap."""
    schedule = du.NoiseSchedule.cosine(T, s)
    f = np.cos((np.arange(T + 1) / T + s) / (1 + s) * np.pi / 2) ** 2
    np.testing.assert_allclose(schedule.ab[:-1], f[:-1] / f[0], rtol=1e-11)
    assert schedule.b[-1] == 0.999 and schedule.ab[-1] == pytest.approx(
        0.001 * f[-2] / f[0]
    )
    assert du.NoiseSchedule.cosine(T, s, max_beta=0.5).b.max() == 0.5 or T == 1


def test_published_defaults():
    """T = 500 with beta up to 0.02, from 1e-4: what published samplers use."""
    schedule = du.NoiseSchedule.linear()
    assert schedule.T == 500 and float(schedule.b[500]) == pytest.approx(0.02)
    assert float(schedule.ab[500].sqrt()) == pytest.approx(0.079, abs=5e-4)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_only_loses_signal(name):
    ab = SCHEDULES[name].ab
    assert (ab.diff() < 0).all() and ab[-1] > 0


# ------------------------------------------------------------------------------------------------------ against diffusers


def with_our_tables(scheduler, schedule: du.NoiseSchedule):
    """A scheduler of diffusers with our float64 tables: it would round those that it is given to float32. Its k is our t - 1."""
    scheduler.betas, scheduler.alphas, scheduler.alphas_cumprod = (
        schedule.b[1:],
        schedule.a[1:],
        schedule.ab[1:],
    )
    scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    return scheduler


def ddpm_scheduler(schedule, variance="beta", clip=False):
    kind = {"beta": "fixed_large", "beta_tilde": "fixed_small"}[variance]
    betas = schedule.b[1:].numpy()
    return with_our_tables(
        DDPMScheduler(
            schedule.T, trained_betas=betas, variance_type=kind, clip_sample=clip
        ),
        schedule,
    )


def ddim_scheduler(schedule, clip=False):
    betas = schedule.b[1:].numpy()
    return with_our_tables(
        DDIMScheduler(
            schedule.T, trained_betas=betas, clip_sample=clip, set_alpha_to_one=True
        ),
        schedule,
    )


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
@pytest.mark.parametrize("name", SCHEDULES)
def test_their_alphas_cumprod_is_our_ab_one_later(kind, name):
    """alphas_cumprod[k] == ab[k + 1], to the float32 that they compute in; there is no ab[0] on their side."""
    schedule = SCHEDULES[name]
    theirs = kind(schedule.T, trained_betas=schedule.b[1:].numpy()).alphas_cumprod
    assert len(theirs) == schedule.T
    np.testing.assert_allclose(theirs.double(), schedule.ab[1:], rtol=2e-5)


def test_their_linear_schedule_meets_ours_at_the_noisy_end():
    """Theirs runs from beta1 to beta2 in T values, ours in T + 1 of which index 0 is the clean picture: the last beta is the same."""
    theirs = DDPMScheduler(
        500, beta_start=1e-4, beta_end=0.02, beta_schedule="linear"
    ).betas
    assert float(du.NoiseSchedule.linear(500).b[500]) == pytest.approx(
        float(theirs[499]), rel=1e-6
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_perturb_input_is_add_noise(name):
    schedule = SCHEDULES[name]
    T = schedule.T
    x, noise, t = (
        doubles(5, 3, 4, 4),
        doubles(5, 3, 4, 4, seed=1),
        torch.tensor([1, 2, T // 2, T - 1, T]),
    )
    theirs = ddpm_scheduler(schedule).add_noise(x, noise, t - 1)
    assert relative_error(du.perturb_input(x, t, noise, schedule), theirs) < 1e-12
    for i, step in enumerate(t.tolist()):  # one number for the batch does the same
        assert (
            relative_error(
                du.perturb_input(x[i : i + 1], step, noise[i : i + 1], schedule),
                theirs[i : i + 1],
            )
            < 1e-12
        )
    torch.testing.assert_close(
        du.perturb_input(x, 0, noise, schedule), x, rtol=0, atol=0
    )


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
def test_ddpm_step_is_that_of_diffusers(name, variance, clip):
    schedule = SCHEDULES[name]
    scheduler = ddpm_scheduler(schedule, variance, clip)
    for t in (1, 2, 3, schedule.T // 2, schedule.T - 1, schedule.T):
        x, eps = doubles(*SHAPE, seed=t), doubles(*SHAPE, seed=t + 1)
        z = torch.randn(
            SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64
        )  # what they draw from the same seed
        theirs = scheduler.step(
            eps, t - 1, x, generator=torch.Generator().manual_seed(5)
        ).prev_sample
        assert (
            relative_error(
                du.denoise_add_noise(
                    x, t, eps, schedule, z=z, variance=variance, clip=clip
                ),
                theirs,
            )
            < 1e-10
        )


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
def test_strided_ddpm_step_is_that_of_diffusers(variance, clip):
    schedule = SCHEDULES["linear"]
    steps = [500, 499, 480, 333, 100, 7, 1]
    scheduler = ddpm_scheduler(schedule, variance, clip)
    scheduler.set_timesteps(timesteps=[t - 1 for t in steps])
    for t, t_prev in zip(steps, [*steps[1:], 0]):
        x, eps = doubles(*SHAPE, seed=t), doubles(*SHAPE, seed=t + 1)
        z = torch.randn(
            SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64
        )
        theirs = scheduler.step(
            eps, t - 1, x, generator=torch.Generator().manual_seed(5)
        ).prev_sample
        assert (
            relative_error(
                du.denoise_add_noise(
                    x,
                    t,
                    eps,
                    schedule,
                    z=z,
                    t_prev=t_prev,
                    variance=variance,
                    clip=clip,
                ),
                theirs,
            )
            < 1e-10
        )


@pytest.mark.parametrize("stride", [1, 2, 25, 100, 250, 500])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("clip", [False, True])
def test_ddim_step_is_that_of_diffusers(stride, eta, clip):
    schedule = SCHEDULES["linear"]
    scheduler = ddim_scheduler(schedule, clip)
    scheduler.num_inference_steps = schedule.T // stride
    for t in sorted({stride, 2 * stride, 250 + stride // 2, 500}):
        if stride <= t <= schedule.T:
            x, eps, z = (
                doubles(*SHAPE, seed=t),
                doubles(*SHAPE, seed=t + 1),
                doubles(*SHAPE, seed=t + 2),
            )
            theirs = scheduler.step(
                eps, t - 1, x, eta=eta, use_clipped_model_output=clip, variance_noise=z
            ).prev_sample
            assert (
                relative_error(
                    du.denoise_ddim(
                        x, t, t - stride, eps, schedule, eta=eta, z=z, clip=clip
                    ),
                    theirs,
                )
                < 1e-10
            )


def wavy(x, t, context=None):
    """A deterministic stand-in for a network: smooth, bounded, different at each t."""
    return torch.sin(3 * x + 5 * t.view(-1, 1, 1, 1)) + 0.3 * x


@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
@pytest.mark.parametrize("clip", [False, True])
def test_ddpm_trajectory_is_that_of_a_diffusers_loop(variance, clip, monkeypatch):
    """500 steps with the same network and noise: every picture on the way agrees, and each is kept under its own t."""
    schedule, x_T = SCHEDULES["linear"], doubles(*SHAPE)
    scheduler = ddpm_scheduler(schedule, variance, clip)
    generator = torch.Generator().manual_seed(7)
    monkeypatch.setattr(
        scheduling_ddpm,
        "randn_tensor",
        lambda shape, **_: torch.randn(shape, generator=generator).double(),
    )
    theirs = [x_T]
    for t in range(500, 0, -1):
        eps = wavy(theirs[-1], torch.full((2,), t / 500, dtype=torch.float64))
        theirs.append(scheduler.step(eps, t - 1, theirs[-1]).prev_sample)
    ours, frames = du.sample_ddpm(
        wavy,
        schedule,
        x_T=x_T,
        generator=torch.Generator().manual_seed(7),
        keep=501,
        variance=variance,
        clip=clip,
    )
    assert frames.shape == (501, *SHAPE) and torch.equal(frames[-1], ours)
    assert relative_error(frames, torch.stack(theirs)) < 1e-9


@pytest.mark.parametrize("n", [500, 50, 4])
@pytest.mark.parametrize(
    "eta, clip", [(0.0, False), (0.0, True), (0.5, False), (1.0, True)]
)
def test_ddim_trajectory_is_that_of_a_diffusers_loop(n, eta, clip):
    schedule, x_T = SCHEDULES["linear"], doubles(*SHAPE)
    scheduler = ddim_scheduler(schedule, clip)
    scheduler.num_inference_steps = n
    generator = torch.Generator().manual_seed(7)
    theirs = [x_T]
    for t in range(500, 0, -500 // n):
        eps = wavy(theirs[-1], torch.full((2,), t / 500, dtype=torch.float64))
        z = torch.randn(SHAPE, generator=generator).double()
        theirs.append(
            scheduler.step(
                eps,
                t - 1,
                theirs[-1],
                eta=eta,
                use_clipped_model_output=clip,
                variance_noise=z,
            ).prev_sample
        )
    _, frames = du.sample_ddim(
        wavy,
        schedule,
        x_T=x_T,
        steps=n,
        generator=torch.Generator().manual_seed(7),
        keep=n + 1,
        eta=eta,
        clip=clip,
    )
    assert relative_error(frames, torch.stack(theirs)) < 1e-9


# ---------------------------------------------------------------------------------------------------------- the posterior


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("stride", [1, 5])
def test_posterior_is_bayes_rule_on_a_grid(name, stride):
    """q(x_prev | x_t, x_0) as prior times likelihood on a fine grid: its mean and variance are those of the closed form."""
    schedule = SCHEDULES[name]
    x0, xt = 0.4, -0.7
    for t in (stride + 1, schedule.T // 2, schedule.T - 2):
        t_prev = t - stride
        ab, ab_prev = schedule.ab[t].item(), schedule.ab[t_prev].item()
        a = ab / ab_prev
        c0, ct, variance = du.posterior(t, schedule, t_prev=t_prev)
        grid = np.linspace(-1, 1, 20001) * 12 * variance**0.5 + c0 * x0 + ct * xt
        log = -((grid - ab_prev**0.5 * x0) ** 2) / (2 * (1 - ab_prev)) - (
            xt - a**0.5 * grid
        ) ** 2 / (2 * (1 - a))
        p = np.exp(log - log.max())
        p /= p.sum()
        mean = (p * grid).sum()
        assert mean == pytest.approx(c0 * x0 + ct * xt, abs=1e-8)
        assert (p * (grid - mean) ** 2).sum() == pytest.approx(variance, rel=1e-6)


def test_posterior_at_the_last_step_is_the_picture():
    assert du.posterior(1, SCHEDULES["linear"]) == pytest.approx(
        (1.0, 0.0, 0.0), abs=1e-12
    )


def test_one_step_and_the_jump_agree():
    """Noising to t_prev, then once more to t, has the mean and variance of the jump to t: ab_t = ab_prev a_t."""
    schedule = SCHEDULES["linear"]
    for t in range(1, 501):
        signal = schedule.ab[t - 1].sqrt() * schedule.a[t].sqrt()
        variance = (1 - schedule.ab[t - 1]) * schedule.a[t] + schedule.b[t]
        assert signal == pytest.approx(schedule.ab[t].sqrt().item(), rel=1e-12)
        assert variance == pytest.approx((1 - schedule.ab[t]).item(), rel=1e-9)


def test_predict_x0_undoes_perturb_input():
    x, noise, t = (
        doubles(4, 3, 4, 4),
        doubles(4, 3, 4, 4, seed=1),
        torch.tensor([0, 1, 250, 500]),
    )
    schedule = SCHEDULES["linear"]
    assert (
        relative_error(
            du.predict_x0(du.perturb_input(x, t, noise, schedule), t, noise, schedule),
            x,
        )
        < 1e-12
    )


# ------------------------------------------------------------------------------------------- samplers with known answers


def ideal(x0: torch.Tensor, schedule: du.NoiseSchedule):
    """The best denoiser for data that are one picture: all that differs from it is noise."""

    def denoiser(x, t, context=None):
        ab = schedule.ab[(t * schedule.T).round().long()].view(-1, 1, 1, 1)
        return (x - ab.sqrt() * x0) / (1 - ab).sqrt()

    return denoiser


def picture(seed: int = 3) -> torch.Tensor:
    return doubles(1, 3, 4, 4, seed=seed).clamp(-1, 1)


@pytest.mark.parametrize("sample", [du.sample_ddim, du.sample_ddpm])
@pytest.mark.parametrize("n", range(1, 38))
def test_samplers_give_back_the_picture_for_every_number_of_steps(sample, n):
    schedule, x0 = SCHEDULES["short"], picture()
    x, frames = sample(
        ideal(x0, schedule), schedule, x_T=doubles(*SHAPE), steps=n, keep=n + 1
    )
    torch.testing.assert_close(x, x0.expand(SHAPE), rtol=0, atol=1e-9)
    assert len(frames) == n + 1


@pytest.mark.parametrize("sample", [du.sample_ddim, du.sample_ddpm])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 30, 64, 333, 499, 500])
@pytest.mark.parametrize("clip", [False, True])
def test_samplers_give_back_the_picture_at_full_length(sample, n, clip):
    schedule, x0 = SCHEDULES["linear"], picture()
    x, _ = sample(
        ideal(x0, schedule), schedule, x_T=doubles(*SHAPE), steps=n, keep=0, clip=clip
    )
    torch.testing.assert_close(x, x0.expand(SHAPE), rtol=0, atol=1e-8)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_with_noise_gives_back_the_picture(eta):
    schedule, x0 = SCHEDULES["short"], picture()
    x, _ = du.sample_ddim(
        ideal(x0, schedule), schedule, x_T=doubles(*SHAPE), steps=13, eta=eta
    )
    torch.testing.assert_close(x, x0.expand(SHAPE), rtol=0, atol=1e-9)


def bell(mean: float, std: float, schedule: du.NoiseSchedule):
    """The best denoiser for data whose pixels are independent and normal: E[x_0 | x_t] has a closed form."""

    def denoiser(x, t, context=None):
        ab = schedule.ab[(t * schedule.T).round().long()].view(-1, 1, 1, 1).to(x)
        x0 = (std**2 * ab.sqrt() * x + (1 - ab) * mean) / (ab * std**2 + 1 - ab)
        return (x - ab.sqrt() * x0) / (1 - ab).sqrt()

    return denoiser


@pytest.mark.parametrize("mean, std", [(0.3, 0.5), (-0.2, 0.3)])
@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
def test_ddpm_draws_normal_data_with_their_mean_and_variance(mean, std, variance):
    schedule = du.NoiseSchedule.linear(500, 2e-4, 0.04)
    generator = torch.Generator().manual_seed(11)
    x, _ = du.sample_ddpm(
        bell(mean, std, schedule),
        schedule,
        shape=(40, 3, 10, 10),
        variance=variance,
        generator=generator,
        keep=0,
    )
    # 12,000 values: a standard error of 0.7 % on the standard deviation, and T = 500 steps cost about 1 % more
    assert x.mean().item() == pytest.approx(mean, abs=4 * std / 12000**0.5 + 0.005)
    assert x.std().item() == pytest.approx(std, rel=0.04)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_draws_normal_data_with_their_variance(eta):
    schedule = du.NoiseSchedule.linear(500, 2e-4, 0.04)
    generator = torch.Generator().manual_seed(11)
    x, _ = du.sample_ddim(
        bell(0.3, 0.5, schedule),
        schedule,
        shape=(40, 3, 10, 10),
        steps=500,
        eta=eta,
        generator=generator,
        keep=0,
    )
    assert x.std().item() == pytest.approx(
        0.5, rel=0.04
    ) and x.mean().item() == pytest.approx(0.3, abs=0.025)


@pytest.mark.parametrize("t, t_prev", [(1, 0), (2, 1), (100, 99), (500, 250)])
@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
def test_added_noise_has_the_standard_deviation_sigma(t, t_prev, variance):
    """z = 1 shifts every pixel by sigma itself, which is the root of beta or beta-tilde, and zero in the last step."""
    schedule, x = SCHEDULES["linear"], torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    shift = du.denoise_add_noise(
        x, t, x, schedule, z=torch.ones_like(x), t_prev=t_prev, variance=variance
    )
    beta = 1 - (schedule.ab[t] / schedule.ab[t_prev]).item()
    expected = (
        beta
        if variance == "beta"
        else beta * (1 - schedule.ab[t_prev].item()) / (1 - schedule.ab[t].item())
    )
    torch.testing.assert_close(
        shift,
        torch.full_like(x, expected**0.5 if t_prev else 0.0),
        rtol=1e-9,
        atol=1e-15,
    )


def test_ddim_with_eta_1_is_ddpm_with_beta_tilde():
    schedule = SCHEDULES["short"]
    arguments = {"x_T": doubles(*SHAPE), "steps": 13}
    ddim, _ = du.sample_ddim(
        wavy, schedule, **arguments, eta=1.0, generator=torch.Generator().manual_seed(1)
    )
    ddpm, _ = du.sample_ddpm(
        wavy,
        schedule,
        **arguments,
        variance="beta_tilde",
        generator=torch.Generator().manual_seed(1),
    )
    assert relative_error(ddim, ddpm) < 1e-9


def test_clipping_keeps_the_implied_picture_in_range():
    """With a wild noise prediction the last step of a clipped sampler still lands in [-1, 1]; the unclipped one does not."""
    for sample in (du.sample_ddim, du.sample_ddpm):
        x_T = 5 * doubles(*SHAPE)
        clipped, _ = sample(wavy, SCHEDULES["linear"], x_T=x_T, steps=5, clip=True)
        free, _ = sample(lambda x, t, c: -x, SCHEDULES["linear"], x_T=x_T, steps=5)
        assert clipped.abs().max() <= 1 < free.abs().max()


# ---------------------------------------------------------------------------------------------- what the samplers accept


@given(T=st.integers(1, 600), data=st.data())
def test_sampling_steps_descend_evenly_from_T_to_0(T, data):
    n = data.draw(st.integers(1, T))
    steps = du.sampling_steps(n, T)
    strides = -np.diff(steps)
    assert len(steps) == n + 1 and steps[0] == T and steps[-1] == 0
    assert strides.min() >= 1 and strides.max() - strides.min() <= 2
    assert (
        np.abs(np.array(steps) - np.linspace(T, 0, n + 1)).max() <= 0.5 + 1e-9
    )  # T = 231 in 90 steps: a tie, and linspace rounds


def small_net() -> nn.Module:
    return du.ContextUnet(3, 8, 5, 8).eval()


@pytest.mark.parametrize("sample", [du.sample_ddim, du.sample_ddpm])
def test_same_seed_same_pictures_and_another_seed_others(sample):
    def draw(seed):
        return sample(
            model,
            schedule,
            (2, 3, 8, 8),
            steps=4,
            generator=torch.Generator().manual_seed(seed),
        )[0]

    model, schedule = small_net(), du.NoiseSchedule.linear(20)
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


def test_ddim_is_deterministic_from_one_x_T():
    """With eta = 0 nothing is random after x_T: another generator changes nothing. DDPM is not so."""
    model, schedule, x_T = (
        small_net(),
        du.NoiseSchedule.linear(20),
        torch.randn(2, 3, 8, 8),
    )
    ddim = [
        du.sample_ddim(
            model,
            schedule,
            x_T=x_T,
            steps=5,
            generator=torch.Generator().manual_seed(s),
        )[0]
        for s in (1, 2)
    ]
    ddpm = [
        du.sample_ddpm(
            model,
            schedule,
            x_T=x_T,
            steps=5,
            generator=torch.Generator().manual_seed(s),
        )[0]
        for s in (1, 2)
    ]
    assert torch.equal(*ddim) and not torch.equal(*ddpm)


def test_x_T_given_or_drawn_first_from_the_generator():
    model, schedule, shape = small_net(), du.NoiseSchedule.linear(20), (2, 3, 8, 8)
    drawn, frames = du.sample_ddpm(
        model,
        schedule,
        shape=shape,
        generator=torch.Generator().manual_seed(1),
        steps=5,
    )
    generator = torch.Generator().manual_seed(1)
    given_, _ = du.sample_ddpm(
        model,
        schedule,
        x_T=torch.randn(shape, generator=generator),
        generator=generator,
        steps=5,
    )
    assert torch.equal(drawn, given_) and torch.equal(
        frames[0], torch.randn(shape, generator=torch.Generator().manual_seed(1))
    )


@pytest.mark.parametrize("sample", [du.sample_ddim, du.sample_ddpm])
def test_x_T_is_not_changed(sample):
    x_T = torch.randn(2, 3, 8, 8)
    before = x_T.clone()
    sample(small_net(), du.NoiseSchedule.linear(20), x_T=x_T, steps=3)
    assert torch.equal(x_T, before)


def test_each_picture_gets_its_own_context_whatever_the_batch():
    """A batch of contexts gives what each gives alone, and the context matters."""
    model = small_net()
    with torch.no_grad():  # untrained, the context is hardly heard
        for layer in (model.contextembed1.model[2], model.contextembed2.model[2]):
            layer.weight.mul_(1000)
    schedule, x_T = du.NoiseSchedule.linear(20), torch.randn(3, 3, 8, 8)
    context = torch.eye(5)[[0, 3, 4]]
    together, _ = du.sample_ddim(model, schedule, x_T=x_T, context=context, steps=3)
    for i in range(3):
        alone, _ = du.sample_ddim(
            model, schedule, x_T=x_T[i : i + 1], context=context[i : i + 1], steps=3
        )
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)
    assert (
        du.sample_ddim(model, schedule, x_T=x_T, steps=3)[0] - together
    ).abs().max() > 1e-3


def test_no_context_is_a_context_of_zeros():
    model, schedule, x_T = (
        small_net(),
        du.NoiseSchedule.linear(20),
        torch.randn(2, 3, 8, 8),
    )
    without, zeros = (
        du.sample_ddim(model, schedule, x_T=x_T, context=c, steps=3)[0]
        for c in (None, torch.zeros(2, 5))
    )
    assert torch.equal(without, zeros)


def test_integer_context_is_accepted():
    labels = torch.eye(5, dtype=torch.int64)[:2]
    x, _ = du.sample_ddim(
        small_net(),
        du.NoiseSchedule.linear(20),
        shape=(2, 3, 8, 8),
        context=labels,
        steps=2,
    )
    assert torch.isfinite(x).all()


@given(n=st.integers(1, 37), keep=st.integers(2, 40))
def test_keep_a_number_of_frames_first_and_last_among_them(n, keep):
    schedule, x_T = SCHEDULES["short"], doubles(1, 1, 2, 2)
    x, frames = du.sample_ddim(wavy, schedule, x_T=x_T, steps=n, keep=keep)
    assert len(frames) == min(keep, n + 1)
    assert torch.equal(frames[0], x_T) and torch.equal(frames[-1], x)


def test_keep_one_frame_is_to_keep_the_result():
    x, frames = du.sample_ddim(wavy, SCHEDULES["short"], x_T=doubles(*SHAPE), keep=1)
    assert torch.equal(frames, x[None])


def test_keep_nothing():
    assert du.sample_ddim(wavy, SCHEDULES["short"], x_T=doubles(*SHAPE), keep=0)[
        1
    ].shape == (0, *SHAPE)


def test_keep_exactly_the_steps_of_a_list():
    schedule, x_T = SCHEDULES["short"], doubles(*SHAPE)
    _, every = du.sample_ddim(wavy, schedule, x_T=x_T, steps=37, keep=38)
    _, some = du.sample_ddim(wavy, schedule, x_T=x_T, steps=37, keep=[30, 5, 0])
    assert torch.equal(some, every[[37 - 30, 37 - 5, 37]])


@pytest.mark.parametrize("sample", [du.sample_ddim, du.sample_ddpm])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_dtype_of_the_model_is_kept(sample, dtype):
    model = small_net().to(dtype)
    x, frames = sample(
        model,
        du.NoiseSchedule.linear(20),
        (2, 3, 8, 8),
        context=torch.eye(5)[:2],
        steps=3,
    )
    assert x.dtype == frames.dtype == dtype and torch.isfinite(x).all()


class Spy(nn.Module):
    """A network with dropout and batch norm that notes how it was called."""

    def __init__(self):
        super().__init__()
        self.norm, self.dropout, self.calls = nn.BatchNorm2d(3), nn.Dropout(0.5), []

    def forward(self, x, t, c=None):
        self.calls.append((self.training, torch.is_grad_enabled(), t))
        return self.dropout(self.norm(x))


@pytest.mark.parametrize("sample", [du.sample_ddim, du.sample_ddpm])
def test_eval_mode_without_gradients_while_sampling_and_training_mode_after(sample):
    model = Spy().train()
    x, _ = sample(model, du.NoiseSchedule.linear(10), (2, 3, 4, 4), steps=5)
    assert (
        all(not training and not gradients for training, gradients, _ in model.calls)
        and len(model.calls) == 5
    )
    assert (
        model.training
        and model.dropout.training
        and model.norm.num_batches_tracked == 0
        and not x.requires_grad
    )
    sample(model.eval(), du.NoiseSchedule.linear(10), (2, 3, 4, 4), steps=5)
    assert not model.training


def test_training_mode_returns_after_an_error_or_a_walk_left_early():
    class Broken(Spy):
        def forward(self, x, t, c=None):
            raise RuntimeError("broken")

    model = Broken().train()
    with pytest.raises(RuntimeError, match="broken"):
        du.sample_ddim(model, du.NoiseSchedule.linear(10), shape=(1, 3, 4, 4), steps=2)
    assert model.training
    spy = Spy().train()
    next(
        du.walk(
            spy,
            du.NoiseSchedule.linear(10),
            x=torch.randn(1, 3, 4, 4),
            steps=[10, 5, 0],
            step=lambda x, *_: x,
        )
    )
    assert spy.training


def test_a_frozen_part_stays_frozen_after_sampling():
    """Each part of the network gets its own mode back, not that of the whole."""
    model = Spy().train()
    model.norm.eval()
    du.sample_ddim(model, du.NoiseSchedule.linear(10), shape=(1, 3, 4, 4), steps=2)
    assert model.training and model.dropout.training and not model.norm.training


def test_the_network_is_told_t_over_T_once_a_picture():
    model = Spy()
    du.sample_ddim(model, du.NoiseSchedule.linear(10), shape=(2, 3, 4, 4), steps=3)
    assert [t.tolist() for _, _, t in model.calls] == [
        pytest.approx([s / 10] * 2) for s in (10, 7, 3)
    ]


def test_walk_yields_the_step_the_picture_and_the_predicted_noise():
    """Each picture follows from the one before by the step function, with the noise that was predicted there."""
    schedule, x = SCHEDULES["short"], doubles(*SHAPE)
    steps = [37, 20, 6, 0]
    trip = du.walk(
        wavy,
        schedule,
        x=x,
        steps=steps,
        step=lambda x, t, t_prev, eps, z: du.denoise_ddim(x, t, t_prev, eps, schedule),
    )
    for t, t_prev, (reached, x_prev, eps) in zip(steps, steps[1:], trip):
        assert reached == t_prev
        assert torch.equal(eps, wavy(x, torch.full((2,), t / 37, dtype=torch.float64)))
        x = du.denoise_ddim(x, t, t_prev, eps, schedule)
        assert torch.equal(x_prev, x)


def test_noise_scale_0_leaves_out_the_added_noise():
    schedule, x_T = SCHEDULES["short"], doubles(*SHAPE)
    x, _ = du.sample_ddpm(wavy, schedule, x_T=x_T, noise_scale=0.0)
    expected = x_T
    for t in range(37, 0, -1):
        expected = du.denoise_add_noise(
            expected,
            t,
            wavy(expected, torch.full((2,), t / 37, dtype=torch.float64)),
            schedule,
        )
    assert torch.equal(x, expected)


# ------------------------------------------------------------------------------------------------------------- measuring


def test_denoising_losses_of_known_denoisers():
    """Zero for one that knows the picture, one for one that predicts nothing; batches do not matter."""
    schedule, x0 = SCHEDULES["linear"], picture()
    x = x0.expand(7, 3, 4, 4)
    known = du.denoising_losses(ideal(x0, schedule), x, schedule, steps=[5, 250, 500])
    torch.testing.assert_close(known, torch.zeros(3, 7).double(), atol=1e-9, rtol=0)
    silent = du.denoising_losses(
        lambda x, t, c: torch.zeros_like(x),
        torch.zeros(200, 3, 8, 8),
        schedule,
        steps=[100],
        batch=64,
    )
    assert silent.shape == (1, 200) and silent.mean().item() == pytest.approx(
        1, abs=0.03
    )
    one, two = (
        du.denoising_losses(wavy, x, schedule, steps=[5, 250], batch=batch)
        for batch in (2, 100)
    )
    assert torch.equal(one, two)


def test_nearest_pictures_finds_itself_and_measures_rms():
    reference = np.random.default_rng(0).integers(0, 200, (20, 8, 8, 3), dtype=np.uint8)
    distances, indices = du.nearest_pictures(
        reference[[4, 17]] + np.uint8(51), reference
    )
    assert indices.tolist() == [4, 17]
    np.testing.assert_allclose(distances, 0.2, atol=1e-4)
