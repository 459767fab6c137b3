"""Measure what training settings are worth: `python weights/experiments/ablation.py`.

Trains one small ContextUnet (32 features, no labels) for each row of CHANGES, on as
many pictures each, in float32, and writes weights/ablation.json. It takes about an
hour on two cores. Each row has one thread and half a gigabyte of memory; as many rows
as the machine has cores are made side by side (`--workers`). A row that is there
already is kept, so an interrupted program continues where it stopped; remove the file
to start again.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from scipy.optimize import linear_sum_assignment  # in tests/requirements.txt
from torch import Generator, Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import faults
from shipped import ddpm, draw_batches
from tables import (
    add_row,
    command_line,
    mean_and_error,
    missing,
    parsed,
    rounded,
    side_by_side,
    so_far,
    write_json,
)
from training import random_rows, steps_with

import diffusion_utilities as du  # found two folders up

SCHEDULE = du.NoiseSchedule.linear()
FEATURES = 32
PICTURES = 100_000
WARM_UP = 50
DECAY = 0.999
LOSS_STEPS = (5, 20, 50, 100, 200, 300, 400)
HELD_OUT = 600
SAMPLES = 1000
SAMPLING_STEPS = 50
SEED = 4


@dataclass(frozen=True)
class Change:
    """A recipe.

    target: what the network is asked for: "noise", "x0", "velocity" or "mean".
    weights: of its squared error over the steps: "none", "min-SNR" (gamma 5), or
    "bound": those of the variational bound.
    average: whether an average of the weights is scored.
    decay: whether the learning rate falls linearly to 0.
    assigned: whether the noises of a batch are dealt out among its pictures, so that
    the sum of the squared distances is smallest (Li et al. 2024, Immiscible
    Diffusion).
    fault: one of FAULTS, a fault of published code; or None.
    """

    learning_rate: float = 2e-3
    batch: int = 50
    target: str = "noise"
    weights: str = "none"
    average: bool = False
    decay: bool = True
    assigned: bool = False
    fault: str | None = None
    seed: int = 1


FAULTS = ("no square root", "random shortcut", "backward(loss)")
BASE = Change()
CHANGES = {
    "base: 2e-3, batch 50": BASE,
    "base, second seed": replace(BASE, seed=2),
    "base, third seed": replace(BASE, seed=3),
    "min-SNR": replace(BASE, weights="min-SNR"),
    "average": replace(BASE, average=True),
    "min-SNR and average": replace(BASE, weights="min-SNR", average=True),
    "target x0": replace(BASE, target="x0"),
    "target velocity": replace(BASE, target="velocity"),
    "target mean": replace(BASE, target="mean"),
    "weights of the bound": replace(BASE, weights="bound"),
    "target mean, weights of the bound": replace(BASE, target="mean", weights="bound"),
    "constant learning rate": replace(BASE, decay=False),
    "constant learning rate, average": replace(BASE, decay=False, average=True),
    "noise assigned in the batch": replace(BASE, assigned=True),
    "batch 100": replace(BASE, batch=100),
    "1e-3": replace(BASE, learning_rate=1e-3),
    "1e-3, batch 100 (published)": replace(BASE, learning_rate=1e-3, batch=100),
    "4e-3, batch 100": replace(BASE, learning_rate=4e-3, batch=100),
    "fault: no square root": replace(BASE, fault="no square root"),
    "fault: random shortcut": replace(BASE, fault="random shortcut"),
    "fault: backward(loss)": replace(BASE, fault="backward(loss)"),
}

# ---- Targets and weights ------------------------------------------------------------


def coefficients(
    t: Tensor, like: Tensor, schedule: du.NoiseSchedule
) -> Iterator[Tensor]:
    """sqrt(ab), sqrt(1 - ab), a and b at each picture's step: four (N, 1, 1, 1)."""
    signal = schedule.ab.sqrt()
    spread = (1 - schedule.ab).sqrt()
    for table in (signal, spread, schedule.a, schedule.b):
        yield table[t].view(-1, 1, 1, 1).to(like)


def aim(
    target: str, x0: Tensor, noise: Tensor, t: Tensor, schedule: du.NoiseSchedule
) -> Tensor:
    """What a network with this target should answer at x_t.

    x0, noise: (N, C, H, W); t: (N,). Lesson 2, section 10, has the conversions.
    """
    signal, spread, a, b = coefficients(t, x0, schedule)
    if target == "noise":
        return noise
    if target == "x0":
        return x0
    if target == "velocity":
        return signal * noise - spread * x0
    # the mean of the posterior, [DDPM] eq. 11
    return (signal * x0 + spread * noise - b / spread * noise) / a.sqrt()


def to_noise(
    target: str, answer: Tensor, x: Tensor, t: Tensor, schedule: du.NoiseSchedule
) -> Tensor:
    """The noise in x_t that such an answer implies; the inverse of `aim`."""
    signal, spread, a, b = coefficients(t, x, schedule)
    if target == "noise":
        return answer
    if target == "x0":
        return (x - signal * answer) / spread
    if target == "velocity":
        return spread * x + signal * answer
    return (x - a.sqrt() * answer) * spread / b


def step_weights(change: Change, schedule: du.NoiseSchedule) -> Tensor:
    """Weights (T + 1,) of the squared error of this target at each step.

    Those of the bound are scaled to mean 1. At t = 1, where the bound has another
    term, they follow the same formula.
    Raises ValueError for weights that this target does not have here.
    """
    known = {
        "none": (change.target,),
        "min-SNR": ("noise",),
        "bound": ("noise", "mean"),
    }
    if change.target not in known.get(change.weights, ()):
        raise ValueError(
            f"weights={change.weights!r} not known for target={change.target!r}; "
            "expected none, min-SNR (noise) or bound (noise, mean)"
        )
    if change.weights == "none":
        return torch.ones_like(schedule.b)
    if change.weights == "min-SNR":  # as in `diffusion_loss`
        return (5 / schedule.snr).clamp(max=1)
    # |mu - mu_theta|^2 / (2 sigma^2) with sigma^2 = beta, [DDPM] eq. 8
    weights = 1 / (2 * schedule.b)
    if change.target == "noise":  # [DDPM] eq. 12
        weights = weights * schedule.b**2 / (schedule.a * (1 - schedule.ab))
    return weights / weights[1:].mean()


class Denoiser(nn.Module):
    """A network with another target, for samplers, which ask for the noise."""

    def __init__(self, network: nn.Module, target: str, schedule: du.NoiseSchedule):
        super().__init__()
        self.network = network
        self.target = target
        self.schedule = schedule

    def forward(self, x, t, c=None):
        steps = (t * self.schedule.T).round().long()
        steps = steps.reshape(-1).expand(len(x))
        answer = self.network(x, t, c)
        return to_noise(self.target, answer, x, steps, self.schedule)


# ---- Training -----------------------------------------------------------------------


def nearest_noise(x: Tensor, noise: Tensor) -> Tensor:
    """The same noise (N, ...) in another order: the nearest assignment to x (N, ...).

    The sum of the squared distances is the smallest possible.
    """
    apart = torch.cdist(x.flatten(1), noise.flatten(1)).square()
    _, order = linear_sum_assignment(apart.numpy())
    return noise[torch.from_numpy(order)]


def noised(change: Change, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """x_t of clean pictures x (N, C, H, W), or what the change's fault makes of it."""
    if change.fault == "no square root":
        return faults.noise_without_root(x, t, noise, SCHEDULE)
    return du.perturb_input(x, t, noise, SCHEDULE)


def build(change: Change) -> nn.Module:
    """The small network, with random weights."""
    network = du.ContextUnet(3, FEATURES, 5, 16)
    network = network.to(memory_format=torch.channels_last)
    if change.fault == "random shortcut":
        faults.with_random_shortcut(network)
    return network


def recipe_loss(
    model: nn.Module, change: Change, x: Tensor, weights: Tensor, generator: Generator
) -> Tensor:
    """The loss of a recipe: clean pictures x (N, C, H, W), noised to a random t each.

    weights: (T + 1,), of `step_weights`. Returns a scalar.
    """
    t = torch.randint(1, SCHEDULE.T + 1, (len(x),), generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    if change.assigned:
        noise = nearest_noise(x, noise)
    answer = model(noised(change, x, t, noise), t / SCHEDULE.T)
    error = (answer - aim(change.target, x, noise, t, SCHEDULE)).square()
    loss = (weights[t].view(-1, 1, 1, 1) * error).mean()
    if change.fault == "backward(loss)":
        loss = faults.scaled_by_itself(loss)
    return loss


def train(change: Change, pictures: int) -> Denoiser:
    """Train with a recipe on so many pictures (with repetitions).

    The learning rate rises over WARM_UP steps and then, with `decay`, falls to 0.
    Raises ValueError for a fault that does not exist.
    """
    if change.fault not in (None, *FAULTS):
        raise ValueError(
            f"fault={change.fault!r} not known; "
            f"expected None or one of {', '.join(FAULTS)}"
        )
    torch.manual_seed(change.seed)
    generator = Generator().manual_seed(change.seed)
    clean = du.load_sprites("train").x
    weights = step_weights(change, SCHEDULE).float()
    model = build(change)
    average = du.average_weights(model, DECAY)
    optimiser = torch.optim.Adam(model.parameters(), change.learning_rate, fused=True)
    steps = pictures // change.batch

    def rate(step):
        fall = 1 - step / steps if change.decay else 1
        return min(fall, (step + 1) / WARM_UP)

    def loss(rows):
        return recipe_loss(model, change, clean[rows], weights, generator)

    batches = random_rows(len(clean), change.batch, steps, generator)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    for _ in steps_with(loss, batches, optimiser):
        scheduler.step()
        if change.average:
            average.update_parameters(model)
    trained = average.module if change.average else model
    return Denoiser(trained, change.target, SCHEDULE).eval()


# ---- The table ----------------------------------------------------------------------


def score(model: nn.Module, samples: int) -> dict:
    """Losses and scores of a network that predicts noise.

    The held-out error of the noise at LOSS_STEPS; of so many samples, the distance
    to the nearest legal sprite, and three measures of `sprite_scores`.
    """
    x = du.load_sprites("test").x[:HELD_OUT]
    losses = du.denoising_losses(model, x, SCHEDULE, steps=LOSS_STEPS).mean(1)
    held_out = {str(t): round(float(loss), 4) for t, loss in zip(LOSS_STEPS, losses)}
    pictures = draw_batches(
        model,
        samples,
        ddpm,
        seed=SEED,
        steps=SAMPLING_STEPS,
        variance="beta_tilde",
        clip=True,
    )
    _, distances = du.sprite_factory().decode(pictures)
    scores = rounded(du.sprite_scores(pictures))
    return {
        "held_out_loss": held_out,
        "legal_distance": mean_and_error(distances),
        "scores": {name: scores[name] for name in ("legal", "coverage", "FD")},
    }


def row(change: Change, pictures: int, samples: int) -> dict:
    """One row of the table; runs in a process of its own, on one core."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    model = train(change, pictures)
    seconds = round(time.perf_counter() - started)
    return {"change": asdict(change), "seconds": seconds, **score(model, samples)}


def main() -> None:
    parser = command_line(__doc__, du.WEIGHTS / "ablation.json")
    parser.add_argument(
        "--pictures",
        type=int,
        default=PICTURES,
        help="training pictures a row (with repetitions)",
    )
    parser.add_argument("--samples", type=int, default=SAMPLES)
    options = parsed(parser)
    settings = {
        "features": FEATURES,
        "pictures": options.pictures,
        "held_out": HELD_OUT,
        "samples": options.samples,
    }
    content = so_far(options.out, settings, parser, runs={})
    planned = {name: asdict(change) for name, change in CHANGES.items()}
    jobs = {}
    for name in missing(content["runs"], planned, "change"):
        jobs[name] = (CHANGES[name], options.pictures, options.samples)
    for name, answer in side_by_side(row, jobs, options.workers):
        add_row(content["runs"], name, answer, order=CHANGES)
        write_json(options.out, content)
        print(name, answer, flush=True)


if __name__ == "__main__":
    main()
