"""The noise schedule, the single steps and the samplers.

The schedule is compared with closed forms, the steps with `diffusers`, the samplers
with denoisers whose answer is known.
"""

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
LINEAR = SCHEDULES["linear"]
SHORT = SCHEDULES["short"]

every_schedule = pytest.mark.parametrize("name", SCHEDULES)
both_samplers = pytest.mark.parametrize("sample", [du.sample_ddim, du.sample_ddpm])
both_variances = pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
clipped_or_not = pytest.mark.parametrize("clip", [False, True])


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest absolute error over the largest value: signed errors would cancel."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def doubles(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


# ---- The schedule --------------------------------------------------------------------


@pytest.mark.parametrize(
    "T, beta1, beta2",
    [(500, 1e-4, 0.02), (1000, 1e-4, 0.02), (7, 0.1, 0.5), (1, 0.2, 0.3)],
)
def test_linear_schedule_has_its_closed_form(T, beta1, beta2):
    """b[t] = beta1 + (beta2 - beta1) t / T, and ab[t] is the product a[1] ... a[t]."""
    schedule = du.NoiseSchedule.linear(T, beta1, beta2)
    t = np.arange(1, T + 1)
    b = beta1 + (beta2 - beta1) * t / T
    ab = np.exp(np.log1p(-b).cumsum())
    assert schedule.T == T
    np.testing.assert_allclose(schedule.b[1:], b, rtol=1e-13)
    np.testing.assert_allclose(schedule.a[1:], 1 - b, rtol=1e-13)
    np.testing.assert_allclose(schedule.ab[1:], ab, rtol=1e-12)
    np.testing.assert_allclose(schedule.snr[1:], ab / (1 - ab), rtol=1e-9)


@every_schedule
def test_tables_are_float64_and_index_0_is_the_clean_picture(name):
    schedule = SCHEDULES[name]
    for table in (schedule.b, schedule.a, schedule.ab, schedule.snr):
        assert table.dtype == torch.float64
        assert table.shape == (schedule.T + 1,)
    assert schedule.b[0] == 0
    assert schedule.a[0] == 1
    assert schedule.ab[0] == 1
    assert schedule.snr[0] == np.inf


@pytest.mark.parametrize("T, s", [(500, 0.008), (50, 0.02), (1, 0.008)])
def test_cosine_schedule_has_its_closed_form(T, s):
    """ab[t] = f(t) / f(0) with f a squared cosine, wherever beta is below its cap."""
    schedule = du.NoiseSchedule.cosine(T, s)
    f = np.cos((np.arange(T + 1) / T + s) / (1 + s) * np.pi / 2) ** 2
    last = 0.001 * f[-2] / f[0]
    np.testing.assert_allclose(schedule.ab[:-1], f[:-1] / f[0], rtol=1e-11)
    assert schedule.b[-1] == 0.999
    assert schedule.ab[-1] == pytest.approx(last)


@pytest.mark.parametrize("T, s", [(500, 0.008), (50, 0.02)])
def test_cosine_schedule_caps_beta(T, s):
    assert du.NoiseSchedule.cosine(T, s, max_beta=0.5).b.max() == 0.5


def test_published_defaults():
    """T = 500 with beta up to 0.02, from 1e-4: what published samplers use."""
    schedule = du.NoiseSchedule.linear()
    assert schedule.T == 500
    assert float(schedule.b[500]) == pytest.approx(0.02)
    assert float(schedule.ab[500].sqrt()) == pytest.approx(0.079, abs=5e-4)


@every_schedule
def test_every_schedule_only_loses_signal(name):
    ab = SCHEDULES[name].ab
    assert (ab.diff() < 0).all()
    assert ab[-1] > 0


# ---- Against diffusers ---------------------------------------------------------------


def with_our_tables(scheduler, schedule: du.NoiseSchedule):
    """A scheduler of diffusers with our float64 tables; its step k is our t - 1.

    Tables that are given to its constructor would be rounded to float32.
    """
    scheduler.betas = schedule.b[1:]
    scheduler.alphas = schedule.a[1:]
    scheduler.alphas_cumprod = schedule.ab[1:]
    scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    return scheduler


def ddpm_scheduler(schedule, variance="beta", clip=False):
    kinds = {"beta": "fixed_large", "beta_tilde": "fixed_small"}
    scheduler = DDPMScheduler(
        schedule.T,
        trained_betas=schedule.b[1:].numpy(),
        variance_type=kinds[variance],
        clip_sample=clip,
    )
    return with_our_tables(scheduler, schedule)


def ddim_scheduler(schedule, clip=False):
    scheduler = DDIMScheduler(
        schedule.T,
        trained_betas=schedule.b[1:].numpy(),
        clip_sample=clip,
        set_alpha_to_one=True,
    )
    return with_our_tables(scheduler, schedule)


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
@every_schedule
def test_their_alphas_cumprod_is_our_ab_one_later(kind, name):
    """alphas_cumprod[k] == ab[k + 1], up to float32; they have no entry for ab[0]."""
    schedule = SCHEDULES[name]
    theirs = kind(schedule.T, trained_betas=schedule.b[1:].numpy()).alphas_cumprod
    assert len(theirs) == schedule.T
    np.testing.assert_allclose(theirs.double(), schedule.ab[1:], rtol=2e-5)


def test_their_linear_schedule_meets_ours_at_the_noisy_end():
    """Theirs runs from beta1 to beta2 in T values, ours in T + 1 from the clean one."""
    theirs = DDPMScheduler(
        500, beta_start=1e-4, beta_end=0.02, beta_schedule="linear"
    ).betas
    ours = du.NoiseSchedule.linear(500).b
    assert float(ours[500]) == pytest.approx(float(theirs[499]), rel=1e-6)


@every_schedule
def test_perturb_input_is_add_noise(name):
    schedule = SCHEDULES[name]
    T = schedule.T
    x = doubles(5, 3, 4, 4)
    noise = doubles(5, 3, 4, 4, seed=1)
    t = torch.tensor([1, 2, T // 2, T - 1, T])
    theirs = ddpm_scheduler(schedule).add_noise(x, noise, t - 1)
    ours = du.perturb_input(x, t, noise, schedule)
    assert relative_error(ours, theirs) < 1e-12


@every_schedule
def test_perturb_input_takes_one_number_for_the_batch(name):
    schedule = SCHEDULES[name]
    x = doubles(5, 3, 4, 4)
    noise = doubles(5, 3, 4, 4, seed=1)
    for t in (1, 2, schedule.T // 2, schedule.T):
        many = du.perturb_input(x, torch.full((5,), t), noise, schedule)
        assert torch.equal(du.perturb_input(x, t, noise, schedule), many)
    assert torch.equal(du.perturb_input(x, 0, noise, schedule), x)


def noise_as_theirs() -> torch.Tensor:
    """What their step draws from `seeded(5)`."""
    return torch.randn(SHAPE, generator=seeded(5), dtype=torch.float64)


@every_schedule
@clipped_or_not
@both_variances
def test_ddpm_step_is_that_of_diffusers(name, variance, clip):
    schedule = SCHEDULES[name]
    scheduler = ddpm_scheduler(schedule, variance, clip)
    for t in (1, 2, 3, schedule.T // 2, schedule.T - 1, schedule.T):
        x = doubles(*SHAPE, seed=t)
        eps = doubles(*SHAPE, seed=t + 1)
        theirs = scheduler.step(eps, t - 1, x, generator=seeded(5)).prev_sample
        ours = du.denoise_add_noise(
            x, t, eps, schedule, z=noise_as_theirs(), variance=variance, clip=clip
        )
        assert relative_error(ours, theirs) < 1e-10


@clipped_or_not
@both_variances
def test_strided_ddpm_step_is_that_of_diffusers(variance, clip):
    steps = [500, 499, 480, 333, 100, 7, 1, 0]
    scheduler = ddpm_scheduler(LINEAR, variance, clip)
    scheduler.set_timesteps(timesteps=[t - 1 for t in steps[:-1]])
    for t, t_prev in zip(steps, steps[1:]):
        x = doubles(*SHAPE, seed=t)
        eps = doubles(*SHAPE, seed=t + 1)
        theirs = scheduler.step(eps, t - 1, x, generator=seeded(5)).prev_sample
        ours = du.denoise_add_noise(
            x,
            t,
            eps,
            LINEAR,
            z=noise_as_theirs(),
            t_prev=t_prev,
            variance=variance,
            clip=clip,
        )
        assert relative_error(ours, theirs) < 1e-10


@pytest.mark.parametrize("stride", [1, 2, 25, 100, 250, 500])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@clipped_or_not
def test_ddim_step_is_that_of_diffusers(stride, eta, clip):
    scheduler = ddim_scheduler(LINEAR, clip)
    scheduler.num_inference_steps = LINEAR.T // stride
    starts = {stride, 2 * stride, 250 + stride // 2, 500}
    for t in sorted(starts):
        if t > 500:
            continue
        x = doubles(*SHAPE, seed=t)
        eps = doubles(*SHAPE, seed=t + 1)
        z = doubles(*SHAPE, seed=t + 2)
        theirs = scheduler.step(
            eps, t - 1, x, eta=eta, use_clipped_model_output=clip, variance_noise=z
        ).prev_sample
        ours = du.denoise_ddim(x, t, t - stride, eps, LINEAR, eta=eta, z=z, clip=clip)
        assert relative_error(ours, theirs) < 1e-10


def wavy(x, time, context=None):
    """A deterministic stand-in for a network: smooth, bounded, different at each t."""
    return torch.sin(3 * x + 5 * time.view(-1, 1, 1, 1)) + 0.3 * x


def wavy_at(x: torch.Tensor, t: int, T: int = 500) -> torch.Tensor:
    return wavy(x, x.new_full((len(x),), t / T))


@both_variances
@clipped_or_not
def test_ddpm_trajectory_is_that_of_a_diffusers_loop(variance, clip, monkeypatch):
    """500 steps with the same network and noise: every picture on the way agrees."""
    x_T = doubles(*SHAPE)
    scheduler = ddpm_scheduler(LINEAR, variance, clip)
    generator = seeded(7)

    def same_noise(shape, **_):
        return torch.randn(shape, generator=generator).double()

    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", same_noise)
    theirs = [x_T]
    for t in range(500, 0, -1):
        x = theirs[-1]
        theirs.append(scheduler.step(wavy_at(x, t), t - 1, x).prev_sample)

    ours, frames = du.sample_ddpm(
        wavy,
        LINEAR,
        x_T=x_T,
        generator=seeded(7),
        keep=501,
        variance=variance,
        clip=clip,
    )
    assert frames.shape == (501, *SHAPE)
    assert torch.equal(frames[-1], ours)
    assert relative_error(frames, torch.stack(theirs)) < 1e-9


@pytest.mark.parametrize("n", [500, 50, 4])
@pytest.mark.parametrize(
    "eta, clip", [(0.0, False), (0.0, True), (0.5, False), (1.0, True)]
)
def test_ddim_trajectory_is_that_of_a_diffusers_loop(n, eta, clip):
    x_T = doubles(*SHAPE)
    scheduler = ddim_scheduler(LINEAR, clip)
    scheduler.num_inference_steps = n
    generator = seeded(7)
    theirs = [x_T]
    for t in range(500, 0, -500 // n):
        x = theirs[-1]
        step = scheduler.step(
            wavy_at(x, t),
            t - 1,
            x,
            eta=eta,
            use_clipped_model_output=clip,
            variance_noise=torch.randn(SHAPE, generator=generator).double(),
        )
        theirs.append(step.prev_sample)

    _, frames = du.sample_ddim(
        wavy,
        LINEAR,
        x_T=x_T,
        steps=n,
        generator=seeded(7),
        keep=n + 1,
        eta=eta,
        clip=clip,
    )
    assert relative_error(frames, torch.stack(theirs)) < 1e-9


# ---- The posterior -------------------------------------------------------------------


@every_schedule
@pytest.mark.parametrize("stride", [1, 5])
def test_posterior_is_bayes_rule_on_a_grid(name, stride):
    """Prior times likelihood on a grid has the mean and variance of the formula."""
    schedule = SCHEDULES[name]
    x0 = 0.4
    xt = -0.7
    for t in (stride + 1, schedule.T // 2, schedule.T - 2):
        ab = schedule.ab[t].item()
        ab_prev = schedule.ab[t - stride].item()
        a = ab / ab_prev
        c0, ct, variance = du.posterior(t, schedule, t_prev=t - stride)
        expected = c0 * x0 + ct * xt

        grid = expected + np.linspace(-12, 12, 20001) * variance**0.5
        log_prior = -((grid - ab_prev**0.5 * x0) ** 2) / (2 * (1 - ab_prev))
        log_likelihood = -((xt - a**0.5 * grid) ** 2) / (2 * (1 - a))
        log = log_prior + log_likelihood
        p = np.exp(log - log.max())
        p /= p.sum()
        mean = (p * grid).sum()
        assert mean == pytest.approx(expected, abs=1e-8)
        assert (p * (grid - mean) ** 2).sum() == pytest.approx(variance, rel=1e-6)


def test_posterior_at_the_last_step_is_the_picture():
    assert du.posterior(1, LINEAR) == pytest.approx((1.0, 0.0, 0.0), abs=1e-12)


def test_one_step_and_the_jump_agree():
    """Noising to t - 1 and once more has the mean and variance of the jump to t."""
    a = LINEAR.a[1:]
    b = LINEAR.b[1:]
    ab = LINEAR.ab[1:]
    ab_prev = LINEAR.ab[:-1]
    signal = ab_prev.sqrt() * a.sqrt()
    variance = (1 - ab_prev) * a + b
    torch.testing.assert_close(signal, ab.sqrt(), rtol=1e-12, atol=0)
    torch.testing.assert_close(variance, 1 - ab, rtol=1e-9, atol=0)


def test_predict_x0_undoes_perturb_input():
    x = doubles(4, 3, 4, 4)
    noise = doubles(4, 3, 4, 4, seed=1)
    t = torch.tensor([0, 1, 250, 500])
    x_t = du.perturb_input(x, t, noise, LINEAR)
    assert relative_error(du.predict_x0(x_t, t, noise, LINEAR), x) < 1e-12


# ---- Samplers with known answers -----------------------------------------------------


def ideal(x0: torch.Tensor, schedule: du.NoiseSchedule):
    """The best denoiser for data that are one picture: all the rest is noise."""

    def denoiser(x, time, context=None):
        t = (time * schedule.T).round().long()
        ab = schedule.ab[t].view(-1, 1, 1, 1)
        return (x - ab.sqrt() * x0) / (1 - ab).sqrt()

    return denoiser


def picture(seed: int = 3) -> torch.Tensor:
    return doubles(1, 3, 4, 4, seed=seed).clamp(-1, 1)


@both_samplers
@pytest.mark.parametrize("n", range(1, 38))
def test_samplers_give_back_the_picture_for_every_number_of_steps(sample, n):
    x0 = picture()
    x, frames = sample(
        ideal(x0, SHORT), SHORT, x_T=doubles(*SHAPE), steps=n, keep=n + 1
    )
    torch.testing.assert_close(x, x0.expand(SHAPE), rtol=0, atol=1e-9)
    assert len(frames) == n + 1


@both_samplers
@pytest.mark.parametrize("n", [1, 2, 3, 7, 30, 64, 333, 499, 500])
@clipped_or_not
def test_samplers_give_back_the_picture_at_full_length(sample, n, clip):
    x0 = picture()
    x, _ = sample(
        ideal(x0, LINEAR), LINEAR, x_T=doubles(*SHAPE), steps=n, keep=0, clip=clip
    )
    torch.testing.assert_close(x, x0.expand(SHAPE), rtol=0, atol=1e-8)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_with_noise_gives_back_the_picture(eta):
    x0 = picture()
    x, _ = du.sample_ddim(
        ideal(x0, SHORT), SHORT, x_T=doubles(*SHAPE), steps=13, eta=eta
    )
    torch.testing.assert_close(x, x0.expand(SHAPE), rtol=0, atol=1e-9)


def bell(mean: float, std: float, schedule: du.NoiseSchedule):
    """The best denoiser for data whose pixels are independent and normal.

    E[x_0 | x_t] then has a closed form.
    """

    def denoiser(x, time, context=None):
        t = (time * schedule.T).round().long()
        ab = schedule.ab[t].view(-1, 1, 1, 1).to(x)
        x0 = (std**2 * ab.sqrt() * x + (1 - ab) * mean) / (ab * std**2 + 1 - ab)
        return (x - ab.sqrt() * x0) / (1 - ab).sqrt()

    return denoiser


NOISIER = du.NoiseSchedule.linear(500, 2e-4, 0.04)


@pytest.mark.parametrize("mean, std", [(0.3, 0.5), (-0.2, 0.3)])
@both_variances
def test_ddpm_draws_normal_data_with_their_mean_and_variance(mean, std, variance):
    """12,000 values have a standard error of 0.7 % on the standard deviation.

    T = 500 steps cost about 1 % more.
    """
    x, _ = du.sample_ddpm(
        bell(mean, std, NOISIER),
        NOISIER,
        shape=(40, 3, 10, 10),
        variance=variance,
        generator=seeded(11),
        keep=0,
    )
    assert x.mean().item() == pytest.approx(mean, abs=4 * std / 12000**0.5 + 0.005)
    assert x.std().item() == pytest.approx(std, rel=0.04)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_draws_normal_data_with_their_variance(eta):
    x, _ = du.sample_ddim(
        bell(0.3, 0.5, NOISIER),
        NOISIER,
        shape=(40, 3, 10, 10),
        steps=500,
        eta=eta,
        generator=seeded(11),
        keep=0,
    )
    assert x.std().item() == pytest.approx(0.5, rel=0.04)
    assert x.mean().item() == pytest.approx(0.3, abs=0.025)


@pytest.mark.parametrize("t, t_prev", [(2, 1), (100, 99), (500, 250)])
def test_added_noise_has_the_standard_deviation_sigma(t, t_prev):
    """z = 1 shifts every pixel by sigma, the root of beta or of beta-tilde."""
    zeros = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    ones = torch.ones_like(zeros)

    def shift(variance):
        return du.denoise_add_noise(
            zeros, t, zeros, LINEAR, z=ones, t_prev=t_prev, variance=variance
        )

    ab = LINEAR.ab[t]
    ab_prev = LINEAR.ab[t_prev]
    beta = 1 - ab / ab_prev
    beta_tilde = beta * (1 - ab_prev) / (1 - ab)
    torch.testing.assert_close(shift("beta"), ones * beta.sqrt())
    torch.testing.assert_close(shift("beta_tilde"), ones * beta_tilde.sqrt())


@both_variances
def test_the_last_step_adds_no_noise(variance):
    zeros = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    x = du.denoise_add_noise(
        zeros, 1, zeros, LINEAR, z=torch.ones_like(zeros), variance=variance
    )
    assert torch.equal(x, zeros)


def test_ddim_with_eta_1_is_ddpm_with_beta_tilde():
    options = {"x_T": doubles(*SHAPE), "steps": 13}
    ddim, _ = du.sample_ddim(wavy, SHORT, generator=seeded(1), eta=1.0, **options)
    ddpm, _ = du.sample_ddpm(
        wavy, SHORT, generator=seeded(1), variance="beta_tilde", **options
    )
    assert relative_error(ddim, ddpm) < 1e-9


@both_samplers
def test_clipping_keeps_the_implied_picture_in_range(sample):
    """With a wild noise prediction only a clipped sampler ends in [-1, 1]."""

    def wild(x, time, context):
        return -x

    x_T = 5 * doubles(*SHAPE)
    clipped, _ = sample(wild, LINEAR, x_T=x_T, steps=5, clip=True)
    free, _ = sample(wild, LINEAR, x_T=x_T, steps=5)
    assert clipped.abs().max() <= 1
    assert free.abs().max() > 1


# ---- What the samplers accept --------------------------------------------------------


@given(T=st.integers(1, 600), data=st.data())
def test_sampling_steps_descend_evenly_from_T_to_0(T, data):
    n = data.draw(st.integers(1, T))
    steps = du.sampling_steps(n, T)
    assert len(steps) == n + 1
    assert steps[0] == T
    assert steps[-1] == 0
    strides = -np.diff(steps)
    assert strides.min() >= 1
    assert strides.max() - strides.min() <= 2
    distances = np.abs(np.array(steps) - np.linspace(T, 0, n + 1))
    assert distances.max() <= 0.5 + 1e-9  # T = 231 in 90 steps has a tie, rounded


def small_net() -> nn.Module:
    return du.ContextUnet(3, 8, 5, 8).eval()


SMALL_SHAPE = (2, 3, 8, 8)
TWENTY = du.NoiseSchedule.linear(20)


@both_samplers
def test_same_seed_same_pictures_and_another_seed_others(sample):
    model = small_net()

    def draw(seed):
        x, _ = sample(model, TWENTY, shape=SMALL_SHAPE, steps=4, generator=seeded(seed))
        return x

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_only_ddim_is_deterministic_from_one_x_T():
    """With eta = 0 nothing is random after x_T: another generator changes nothing."""
    model = small_net()
    x_T = torch.randn(SMALL_SHAPE)

    def draw(sample, seed):
        x, _ = sample(model, TWENTY, x_T=x_T, steps=5, generator=seeded(seed))
        return x

    assert torch.equal(draw(du.sample_ddim, 1), draw(du.sample_ddim, 2))
    assert not torch.equal(draw(du.sample_ddpm, 1), draw(du.sample_ddpm, 2))


def test_x_T_given_or_drawn_first_from_the_generator():
    model = small_net()
    drawn, frames = du.sample_ddpm(
        model, TWENTY, shape=SMALL_SHAPE, generator=seeded(1), steps=5
    )
    generator = seeded(1)
    x_T = torch.randn(SMALL_SHAPE, generator=generator)
    given_, _ = du.sample_ddpm(model, TWENTY, x_T=x_T, generator=generator, steps=5)
    assert torch.equal(drawn, given_)
    assert torch.equal(frames[0], x_T)


@both_samplers
def test_x_T_is_not_changed(sample):
    x_T = torch.randn(SMALL_SHAPE)
    before = x_T.clone()
    sample(small_net(), TWENTY, x_T=x_T, steps=3)
    assert torch.equal(x_T, before)


def test_each_picture_gets_its_own_context_whatever_the_batch():
    """A batch of contexts gives what each gives alone, and the context matters."""
    model = small_net()
    with torch.no_grad():  # an untrained network hardly reacts to its context
        for layer in (model.contextembed1.model[2], model.contextembed2.model[2]):
            layer.weight.mul_(1000)
    x_T = torch.randn(3, 3, 8, 8)
    context = torch.eye(5)[[0, 3, 4]]

    def draw(x_T, context):
        x, _ = du.sample_ddim(model, TWENTY, x_T=x_T, context=context, steps=3)
        return x

    together = draw(x_T, context)
    for i in range(3):
        alone = draw(x_T[[i]], context[[i]])
        torch.testing.assert_close(together[[i]], alone, rtol=1e-4, atol=1e-4)
    assert (draw(x_T, None) - together).abs().max() > 1e-3


def test_no_context_is_a_context_of_zeros():
    model = small_net()
    x_T = torch.randn(SMALL_SHAPE)
    zeros = torch.zeros(2, 5)
    without, _ = du.sample_ddim(model, TWENTY, x_T=x_T, steps=3)
    with_zeros, _ = du.sample_ddim(model, TWENTY, x_T=x_T, context=zeros, steps=3)
    assert torch.equal(without, with_zeros)


def test_integer_context_is_accepted():
    labels = torch.eye(5, dtype=torch.int64)[:2]
    x, _ = du.sample_ddim(
        small_net(), TWENTY, shape=SMALL_SHAPE, context=labels, steps=2
    )
    assert torch.isfinite(x).all()


def test_a_model_gets_its_context_in_the_dtype_of_the_pictures():
    def note(x, time, context):
        dtypes.append(context.dtype)
        return x

    dtypes = []
    labels = torch.eye(5, dtype=torch.int64)[:2]
    du.sample_ddim(note, TWENTY, x_T=doubles(*SHAPE), context=labels, steps=2)
    assert dtypes == [torch.float64, torch.float64]


@given(n=st.integers(1, 37), keep=st.integers(2, 40))
def test_keep_a_number_of_frames_first_and_last_among_them(n, keep):
    x_T = doubles(1, 1, 2, 2)
    x, frames = du.sample_ddim(wavy, SHORT, x_T=x_T, steps=n, keep=keep)
    assert len(frames) == min(keep, n + 1)
    assert torch.equal(frames[0], x_T)
    assert torch.equal(frames[-1], x)


def test_keep_one_frame_is_to_keep_the_result():
    x, frames = du.sample_ddim(wavy, SHORT, x_T=doubles(*SHAPE), keep=1)
    assert torch.equal(frames, x[None])


def test_keep_nothing():
    _, frames = du.sample_ddim(wavy, SHORT, x_T=doubles(*SHAPE), keep=0)
    assert frames.shape == (0, *SHAPE)


def test_keep_exactly_the_steps_of_a_list():
    x_T = doubles(*SHAPE)
    _, every = du.sample_ddim(wavy, SHORT, x_T=x_T, steps=37, keep=38)
    _, some = du.sample_ddim(wavy, SHORT, x_T=x_T, steps=37, keep=[30, 5, 0])
    assert torch.equal(some, every[[37 - 30, 37 - 5, 37]])


@both_samplers
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_dtype_of_the_model_is_kept(sample, dtype):
    model = small_net().to(dtype)
    context = torch.eye(5)[:2]
    x, frames = sample(model, TWENTY, shape=SMALL_SHAPE, context=context, steps=3)
    assert x.dtype == dtype
    assert frames.dtype == dtype
    assert torch.isfinite(x).all()


TEN = du.NoiseSchedule.linear(10)


class Spy(nn.Module):
    """A network with dropout and batch norm that notes how it was called."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.dropout = nn.Dropout(0.5)
        self.times = []
        self.was_training = []
        self.had_gradients = []

    def forward(self, x, t, c=None):
        self.times.append(t.tolist())
        self.was_training.append(self.training or self.dropout.training)
        self.had_gradients.append(torch.is_grad_enabled())
        return self.dropout(self.norm(x))


@both_samplers
def test_a_network_is_sampled_in_eval_mode_and_without_gradients(sample):
    model = Spy().train()
    x, _ = sample(model, TEN, shape=SHAPE, steps=5)
    assert model.was_training == [False] * 5
    assert model.had_gradients == [False] * 5
    assert not x.requires_grad
    assert model.norm.num_batches_tracked == 0


@both_samplers
def test_a_network_gets_its_mode_back_after_sampling(sample):
    model = Spy().train()
    sample(model, TEN, shape=SHAPE, steps=5)
    assert model.training
    assert model.dropout.training
    sample(model.eval(), TEN, shape=SHAPE, steps=5)
    assert not model.training


def test_training_mode_returns_after_an_error():
    class Broken(Spy):
        def forward(self, x, t, c=None):
            raise RuntimeError("broken")

    model = Broken().train()
    with pytest.raises(RuntimeError, match="broken"):
        du.sample_ddim(model, TEN, shape=SHAPE, steps=2)
    assert model.training


def test_training_mode_returns_although_a_walk_is_left_early():
    model = Spy().train()
    trip = du.walk(
        model, TEN, x=torch.randn(SHAPE), steps=[10, 5, 0], step=lambda x, *_: x
    )
    next(trip)
    assert model.training


def test_a_frozen_part_stays_frozen_after_sampling():
    """Each part of the network gets its own mode back, not that of the whole."""
    model = Spy().train()
    model.norm.eval()
    du.sample_ddim(model, TEN, shape=SHAPE, steps=2)
    assert model.training
    assert model.dropout.training
    assert not model.norm.training


def test_the_network_is_told_t_over_T_once_a_picture():
    model = Spy()
    du.sample_ddim(model, TEN, shape=SHAPE, steps=3)
    assert model.times == [
        pytest.approx([1.0, 1.0]),
        pytest.approx([0.7, 0.7]),
        pytest.approx([0.3, 0.3]),
    ]


def test_walk_yields_the_step_the_picture_and_the_predicted_noise():
    """Each picture follows from the one before, with the noise predicted there."""

    def step(x, t, t_prev, pred_noise, z):
        return du.denoise_ddim(x, t, t_prev, pred_noise, SHORT)

    x = doubles(*SHAPE)
    steps = [37, 20, 6, 0]
    trip = du.walk(wavy, SHORT, x=x, steps=steps, step=step)
    for t, t_prev in zip(steps, steps[1:]):
        reached, x_prev, eps = next(trip)
        assert reached == t_prev
        assert torch.equal(eps, wavy_at(x, t, T=37))
        x = du.denoise_ddim(x, t, t_prev, eps, SHORT)
        assert torch.equal(x_prev, x)
    assert next(trip, None) is None


def test_noise_scale_0_leaves_out_the_added_noise():
    x_T = doubles(*SHAPE)
    x, _ = du.sample_ddpm(wavy, SHORT, x_T=x_T, noise_scale=0.0)
    expected = x_T
    for t in range(37, 0, -1):
        predicted = wavy_at(expected, t, T=37)
        expected = du.denoise_add_noise(expected, t, predicted, SHORT)
    assert torch.equal(x, expected)


# ---- Measuring -----------------------------------------------------------------------


def test_denoising_losses_are_0_for_a_network_that_knows_the_picture():
    x0 = picture()
    x = x0.expand(7, 3, 4, 4)
    losses = du.denoising_losses(ideal(x0, LINEAR), x, LINEAR, steps=[5, 250, 500])
    torch.testing.assert_close(losses, torch.zeros(3, 7).double(), atol=1e-9, rtol=0)


def test_denoising_losses_are_1_for_a_network_that_predicts_nothing():
    def silent(x, time, context):
        return torch.zeros_like(x)

    x = torch.zeros(200, 3, 8, 8)
    losses = du.denoising_losses(silent, x, LINEAR, steps=[100], batch=64)
    assert losses.shape == (1, 200)
    assert losses.mean().item() == pytest.approx(1, abs=0.03)


def test_denoising_losses_do_not_depend_on_the_batch():
    x = picture().expand(7, 3, 4, 4)
    in_twos = du.denoising_losses(wavy, x, LINEAR, steps=[5, 250], batch=2)
    at_once = du.denoising_losses(wavy, x, LINEAR, steps=[5, 250], batch=100)
    assert torch.equal(in_twos, at_once)


def test_nearest_pictures_finds_itself_and_measures_rms():
    reference = np.random.default_rng(0).integers(0, 200, (20, 8, 8, 3), dtype=np.uint8)
    brighter = reference[[4, 17]] + np.uint8(51)
    distances, indices = du.nearest_pictures(brighter, reference)
    assert indices.tolist() == [4, 17]
    np.testing.assert_allclose(distances, 0.2, atol=1e-4)
