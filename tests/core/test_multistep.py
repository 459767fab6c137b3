"""The multistep solvers against `diffusers`, and against an equation whose solution is known."""

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

import diffusion_utilities as du

SCHEDULE = du.NoiseSchedule.linear(500)
MEAN, STD = 0.3, 0.5


def gaussian(x, t, c):
    """The ideal noise prediction for data from N(MEAN, STD^2)."""
    ab = SCHEDULE.ab[(t * SCHEDULE.T).round().long()].to(x).view(-1, 1, 1, 1)
    return (x - ab.sqrt() * MEAN) * (1 - ab).sqrt() / (ab * STD**2 + 1 - ab)


def noise(n: int = 8) -> torch.Tensor:
    return torch.randn(
        n, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


def exact(x_T: torch.Tensor) -> torch.Tensor:
    """Where the probability flow carries x_T: as many standard deviations from the mean at t = 0 as at T."""
    ab = float(SCHEDULE.ab[-1])
    return MEAN + STD * (x_T - ab**0.5 * MEAN) / (ab * STD**2 + 1 - ab) ** 0.5


def error(sample, **options) -> float:
    return float(
        (sample(gaussian, SCHEDULE, x_T=noise(), keep=1, **options)[0] - exact(noise()))
        .abs()
        .max()
    )


def test_2m_is_diffusers_dpm_solver():
    """Step for step, with the ideal network's answers; diffusers rounds its pictures to float32."""
    theirs = DPMSolverMultistepScheduler(
        500,
        trained_betas=SCHEDULE.b[1:].numpy(),
        final_sigmas_type="zero",
        lower_order_final=True,
    )
    theirs.alphas_cumprod = SCHEDULE.ab[1:]
    theirs.alpha_t, theirs.sigma_t = (
        theirs.alphas_cumprod.sqrt(),
        (1 - theirs.alphas_cumprod).sqrt(),
    )
    steps = du.sampling_steps(10, 500)
    theirs.set_timesteps(timesteps=[t - 1 for t in steps[:-1]])
    ab = torch.cat((SCHEDULE.ab[steps[:-1]], torch.ones(1, dtype=torch.float64)))
    theirs.sigmas = ((1 - ab) / ab).sqrt()
    x = noise()
    frames = du.sample_multistep(gaussian, SCHEDULE, x_T=noise(), steps=10, keep=steps)[
        1
    ]
    for i, t in enumerate(steps[:-1]):
        assert torch.allclose(x, frames[i], rtol=1e-5, atol=1e-5), t
        x = theirs.step(
            gaussian(x, torch.full((len(x),), t / 500, dtype=torch.float64), None),
            theirs.timesteps[i],
            x,
        ).prev_sample
    assert torch.allclose(x, frames[-1], rtol=1e-5, atol=1e-5)


def test_the_first_steps_of_ipndm_by_hand():
    steps = du.sampling_steps(5, 500)
    frames = du.sample_multistep(
        gaussian, SCHEDULE, x_T=noise(), steps=5, solver="ipndm", keep=steps
    )[1]
    e = [
        gaussian(x, torch.full((len(x),), t / 500, dtype=torch.float64), None)
        for x, t in zip(frames, steps)
    ]
    mixed = [e[0], (3 * e[1] - e[0]) / 2, (23 * e[2] - 16 * e[1] + 5 * e[0]) / 12]
    mixed += [
        (55 * e[i] - 59 * e[i - 1] + 37 * e[i - 2] - 9 * e[i - 3]) / 24 for i in (3, 4)
    ]
    for i, m in enumerate(mixed):
        assert torch.allclose(
            du.denoise_ddim(frames[i], steps[i], steps[i + 1], m, SCHEDULE),
            frames[i + 1],
        )


@pytest.mark.parametrize("solver", ["2m", "ipndm"])
def test_a_multistep_solver_is_nearer_to_the_solution_than_ddim(solver):
    for steps, times in ((10, 1.5), (20, 3), (50, 10)):
        assert (
            error(du.sample_multistep, steps=steps, solver=solver)
            < error(du.sample_ddim, steps=steps) / times
        )


@pytest.mark.parametrize("solver", ["2m", "ipndm"])
def test_every_number_of_steps_finds_a_single_picture(solver):
    """Data of one picture: the ideal network names the noise exactly, and every step must land on it."""
    target = torch.full((2, 3, 4, 4), 0.25, dtype=torch.float64)

    def model(x, t, c):
        ab = SCHEDULE.ab[(t * 500).round().long()].view(-1, 1, 1, 1)
        return (x - ab.sqrt() * target) / (1 - ab).sqrt()

    for steps in (1, 2, 3, 4, 5, 17, 500):
        x, _ = du.sample_multistep(
            model, SCHEDULE, x_T=noise(2), steps=steps, solver=solver, keep=1
        )
        assert torch.allclose(x, target, atol=1e-8)


@pytest.mark.parametrize("solver", ["2m", "ipndm"])
def test_multistep_is_deterministic_and_clips(solver):
    wild = lambda x, t, c: -5 * x  # noqa: E731
    x, _ = du.sample_multistep(wild, SCHEDULE, x_T=noise(), clip=True, solver=solver)
    again, _ = du.sample_multistep(
        wild, SCHEDULE, x_T=noise(), clip=True, solver=solver
    )
    assert torch.equal(x, again) and x.abs().max() <= 1 + 1e-9


def test_another_solver_is_refused():
    with pytest.raises(
        ValueError, match="solver='3m' does not exist; expected '2m' or 'ipndm'"
    ):
        du.sample_multistep(gaussian, SCHEDULE, x_T=noise(), solver="3m")
