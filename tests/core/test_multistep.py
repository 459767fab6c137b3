"""The multistep solvers: against `diffusers`, and where the solution is known."""

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

import diffusion_utilities as du

SCHEDULE = du.NoiseSchedule.linear(500)
MEAN = 0.3
STD = 0.5

both_solvers = pytest.mark.parametrize("solver", ["2m", "ipndm"])


def gaussian(x, time, context):
    """The ideal noise prediction for data from N(MEAN, STD^2)."""
    t = (time * SCHEDULE.T).round().long()
    ab = SCHEDULE.ab[t].to(x).view(-1, 1, 1, 1)
    return (x - ab.sqrt() * MEAN) * (1 - ab).sqrt() / (ab * STD**2 + 1 - ab)


def predict(x: torch.Tensor, t: int) -> torch.Tensor:
    """What the ideal network says of pictures that are all at step t."""
    return gaussian(x, x.new_full((len(x),), t / SCHEDULE.T), None)


def noise(n: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, 4, 4, generator=generator, dtype=torch.float64)


def exact(x_T: torch.Tensor) -> torch.Tensor:
    """Where the probability flow carries x_T.

    It ends as many standard deviations from the mean as it starts.
    """
    ab = float(SCHEDULE.ab[-1])
    std_T = (ab * STD**2 + 1 - ab) ** 0.5
    return MEAN + STD * (x_T - ab**0.5 * MEAN) / std_T


def error(sample, **options) -> float:
    x, _ = sample(gaussian, SCHEDULE, x_T=noise(), keep=1, **options)
    return float((x - exact(noise())).abs().max())


def their_solver(steps: list[int]) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ of diffusers, with our float64 tables and our steps."""
    solver = DPMSolverMultistepScheduler(
        500,
        trained_betas=SCHEDULE.b[1:].numpy(),
        final_sigmas_type="zero",
        lower_order_final=True,
    )
    solver.alphas_cumprod = SCHEDULE.ab[1:]
    solver.alpha_t = SCHEDULE.ab[1:].sqrt()
    solver.sigma_t = (1 - SCHEDULE.ab[1:]).sqrt()
    solver.set_timesteps(timesteps=[t - 1 for t in steps[:-1]])
    ab = SCHEDULE.ab[steps]
    solver.sigmas = ((1 - ab) / ab).sqrt()
    return solver


def test_2m_is_diffusers_dpm_solver():
    """Step for step, with the ideal network; diffusers rounds to float32."""
    steps = du.sampling_steps(10, 500)
    theirs = their_solver(steps)
    _, frames = du.sample_multistep(
        gaussian, SCHEDULE, x_T=noise(), steps=10, keep=steps
    )
    x = noise()
    for i, t in enumerate(steps[:-1]):
        assert torch.allclose(x, frames[i], rtol=1e-5, atol=1e-5), t
        x = theirs.step(predict(x, t), theirs.timesteps[i], x).prev_sample
    assert torch.allclose(x, frames[-1], rtol=1e-5, atol=1e-5)


def test_the_first_steps_of_ipndm_by_hand():
    steps = du.sampling_steps(5, 500)
    _, frames = du.sample_multistep(
        gaussian, SCHEDULE, x_T=noise(), steps=5, solver="ipndm", keep=steps
    )
    e = [predict(x, t) for x, t in zip(frames[:-1], steps)]
    mixed = [
        e[0],
        (3 * e[1] - e[0]) / 2,
        (23 * e[2] - 16 * e[1] + 5 * e[0]) / 12,
        (55 * e[3] - 59 * e[2] + 37 * e[1] - 9 * e[0]) / 24,
        (55 * e[4] - 59 * e[3] + 37 * e[2] - 9 * e[1]) / 24,
    ]
    for i, noise_ in enumerate(mixed):
        x = du.denoise_ddim(frames[i], steps[i], steps[i + 1], noise_, SCHEDULE)
        assert torch.allclose(x, frames[i + 1])


@both_solvers
@pytest.mark.parametrize("steps, times", [(10, 1.5), (20, 3), (50, 10)])
def test_a_multistep_solver_is_nearer_to_the_solution_than_ddim(solver, steps, times):
    ours = error(du.sample_multistep, steps=steps, solver=solver)
    assert ours < error(du.sample_ddim, steps=steps) / times


@both_solvers
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 17, 500])
def test_every_number_of_steps_finds_a_single_picture(solver, steps):
    """The data are one picture, so the ideal network names the noise exactly."""
    target = torch.full((2, 3, 4, 4), 0.25, dtype=torch.float64)

    def model(x, time, context):
        ab = SCHEDULE.ab[(time * 500).round().long()].view(-1, 1, 1, 1)
        return (x - ab.sqrt() * target) / (1 - ab).sqrt()

    x, _ = du.sample_multistep(
        model, SCHEDULE, x_T=noise(2), steps=steps, solver=solver, keep=1
    )
    assert torch.allclose(x, target, atol=1e-8)


@both_solvers
def test_multistep_is_deterministic_and_clips(solver):
    def draw() -> torch.Tensor:
        x, _ = du.sample_multistep(
            wild, SCHEDULE, x_T=noise(), clip=True, solver=solver
        )
        return x

    def wild(x, time, context):
        return -5 * x

    x = draw()
    assert torch.equal(x, draw())
    assert x.abs().max() <= 1 + 1e-9


def test_another_solver_is_refused():
    message = "solver='3m' does not exist; expected '2m' or 'ipndm'"
    with pytest.raises(ValueError, match=message):
        du.sample_multistep(gaussian, SCHEDULE, x_T=noise(), solver="3m")
