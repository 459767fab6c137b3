"""Compare flow matching with DDPM: `python weights/experiments/flow.py`.

Trains the same small ContextUnet (32 features, no labels) on as many pictures, in
batches drawn alike, in float32: with three seeds for the noise of the course's
schedule, and three for the velocity of the straight path (lesson 13). Draws from each
in 5 to 50 calls, and writes weights/flow.json and weights/results/flow.npz (the first
pictures of seed 1). It takes about 20 minutes on two cores. Each run has one thread;
as many runs as the machine has cores are made side by side (`--workers`). A run that
is there already is kept, so an interrupted program continues where it stopped; remove
the file to start again.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from shipped import ddim, ddpm, held_out_sprites, training_features
from tables import (
    add_row,
    add_samples,
    command_line,
    mean_and_error,
    missing,
    parsed,
    side_by_side,
    so_far,
    write_json,
)
from training import random_rows, steps_with

import diffusion_utilities as du  # found two folders up

SCHEDULE = du.NoiseSchedule.linear()
FEATURES, WARM_UP, PICTURES = 32, 50, 60_000
CALLS = (5, 10, 20, 50)
SAMPLES, BATCH, SHOWN = 400, 200, 10


@dataclass(frozen=True)
class Run:
    """What a network is trained for, with the base settings of ablation.py.

    target: "noise" at a step of the course's schedule, or "velocity" on the straight
    path.
    """

    target: str
    seed: int
    learning_rate: float = 2e-3
    batch: int = 50


def all_runs() -> dict[str, Run]:
    """Both targets with each of three seeds."""
    runs = {}
    for seed in (1, 2, 3):
        runs[f"DDPM, seed {seed}"] = Run("noise", seed)
        runs[f"flow, seed {seed}"] = Run("velocity", seed)
    return runs


RUNS = all_runs()

# ---- The straight path --------------------------------------------------------------


def flow_loss(
    model: Callable, x0: Tensor, generator: Generator | None = None
) -> Tensor:
    """Mean squared error of the velocity n - x0 at a random amount of each picture.

    x0: clean pictures (B, ...). The model is called with x and the amount (B,).
    [RF] eq. 1, with the time reversed.

    Lesson 13.
    """
    n = torch.randn(x0.shape, generator=generator).to(x0)
    a = torch.rand(len(x0), generator=generator).to(x0)
    amount = a.view(-1, *[1] * (x0.ndim - 1))
    x = (1 - amount) * x0 + amount * n
    return (model(x, a) - (n - x0)).square().mean()


@torch.no_grad()
def euler(model: Callable, x: Tensor, calls: int) -> Tensor:
    """From noise (amount 1) to pictures (amount 0) in equal steps of the velocity.

    x: (N, ...), normal noise. Lesson 13.
    """
    for i in range(calls, 0, -1):
        x = x - model(x, x.new_full((len(x),), i / calls)) / calls
    return x


def flow_clock(schedule: du.NoiseSchedule, calls: int) -> list[int]:
    """Steps from T to 0 for DDIM that are nearest to equal steps of the amount a.

    At amount a the root of the signal-to-noise ratio is (1 - a) / a.

    Lesson 13.
    """
    first = 1 / (1 + float(schedule.snr[schedule.T]) ** 0.5)
    a = torch.linspace(first, 0, calls + 1, dtype=torch.float64)[1:-1]
    wanted = (1 - a) ** 2 / ((1 - a) ** 2 + a**2)
    apart = (schedule.ab[1:, None] - wanted).abs()
    between = apart.argmin(0) + 1
    return [schedule.T, *between.tolist(), 0]


def own_clock(schedule: du.NoiseSchedule, calls: int) -> list[int]:
    """The steps that DDIM takes anyway."""
    return du.sampling_steps(calls, schedule.T)


# How to draw with a network that predicts noise: {name: (sampler, options, clock)}.
# It is clipped because the schedule leaks (lesson 2).
WAYS = {
    "DDIM": (ddim, {}, own_clock),
    "DDIM, clipped": (ddim, {"clip": True}, own_clock),
    "DDIM, clipped, flow's clock": (ddim, {"clip": True}, flow_clock),
    "DDPM, clipped": (ddpm, {"clip": True, "variance": "beta_tilde"}, own_clock),
}
EULER = "flow, Euler"
PICTURED = ("DDIM", EULER)


def draw(way: str, model: torch.nn.Module, x_T: Tensor, calls: int, seed: int):
    """Pictures from the noise x_T (N, 3, 16, 16) in one of the WAYS, or by EULER."""
    batches = x_T.split(BATCH)
    if way == EULER:
        return torch.cat([euler(model, x, calls) for x in batches])
    sample, options, clock = WAYS[way]
    steps = clock(SCHEDULE, calls)
    generator = Generator().manual_seed(seed)
    pictures = []
    for x in batches:
        x = sample(model, SCHEDULE, x_T=x, steps=steps, generator=generator, **options)
        pictures.append(x)
    return torch.cat(pictures)


# ---- Training -----------------------------------------------------------------------


def train(run: Run, pictures: int) -> torch.nn.Module:
    """Train on so many pictures (with repetitions); only the loss depends on the run.

    The learning rate rises over WARM_UP steps, and falls linearly to 0. Both targets
    are trained in float32 by the same loop.
    """
    torch.manual_seed(run.seed)
    generator = Generator().manual_seed(run.seed)
    clean = du.load_sprites("train").x
    model = du.ContextUnet(3, FEATURES, 5, 16).to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(model.parameters(), run.learning_rate, fused=True)
    steps = pictures // run.batch

    def rate(step):
        return min(1 - step / steps, (step + 1) / WARM_UP)

    def loss(rows):
        if run.target == "velocity":
            return flow_loss(model, clean[rows], generator)
        return du.diffusion_loss(model, clean[rows], SCHEDULE, generator=generator)

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    batches = random_rows(len(clean), run.batch, steps, generator)
    for _ in steps_with(loss, batches, optimiser):
        scheduler.step()
    return model.eval()


# ---- The table ----------------------------------------------------------------------


def score(pictures: np.ndarray) -> dict:
    """Scores of pictures (N, 16, 16, 3) uint8.

    The distance to the nearest legal sprite, and three measures as `sprite_scores`
    takes them.
    """
    ours = du.sprite_features(pictures)
    theirs = training_features()
    rows = np.random.default_rng(0).permutation(len(theirs))[: len(ours)]
    shares = du.precision_recall_density_coverage(theirs[rows], ours)
    specifications, distances = du.sprite_factory().decode(pictures)
    legal = du.sprite_scoring().are_legal(pictures, specifications)
    return {
        "legal_distance": mean_and_error(distances),
        "legal": round(float(legal.mean()), 4),
        "coverage": round(float(shares["coverage"].mean()), 4),
        "FD": round(du.frechet_distance(ours, theirs), 1),
    }


def row(run: Run, seen: int, samples: int) -> tuple[dict, dict[str, np.ndarray]]:
    """The scores of one run, and the first SHOWN pictures of the ways in PICTURED.

    Runs in a process of its own, on one core. Seconds are those of the processor, so
    that other work at the same time does not count. Both targets start from the same
    noise, seed by seed.
    """
    torch.set_num_threads(1)
    started = time.process_time()
    model = train(run, seen)
    seconds = round(time.process_time() - started)
    generator = Generator().manual_seed(100 + run.seed)
    x_T = torch.randn((samples, 3, 16, 16), generator=generator)
    ways = WAYS if run.target == "noise" else (EULER,)
    scores = {}
    shown = {}
    for way in ways:
        for calls in CALLS:
            name = f"{way}, {calls}"
            pictures = du.to_pictures(draw(way, model, x_T, calls, 200 + run.seed))
            scores[name] = score(pictures)
            if way in PICTURED:
                shown[name] = pictures[:SHOWN]
    return {"run": asdict(run), "seconds": seconds, "scores": scores}, shown


def main() -> None:
    parser = command_line(__doc__, du.WEIGHTS / "flow.json")
    parser.add_argument(
        "--pictures",
        type=int,
        default=PICTURES,
        help="training pictures a run (with repetitions)",
    )
    parser.add_argument("--samples", type=int, default=SAMPLES)
    options = parsed(parser)
    settings = {
        "features": FEATURES,
        "pictures": options.pictures,
        "samples": options.samples,
        "calls": [*CALLS],
    }
    content = so_far(options.out, settings, parser, floor=None, runs={})
    if content["floor"] is None:
        content["floor"] = score(held_out_sprites(options.samples))
    planned = {name: asdict(run) for name, run in RUNS.items()}
    jobs = {}
    for name in missing(content["runs"], planned, "run"):
        jobs[name] = (RUNS[name], options.pictures, options.samples)
    sheet = options.out.with_name("results") / f"{options.out.stem}.npz"
    for name, (answer, shown) in side_by_side(row, jobs, options.workers):
        if name.endswith("seed 1"):
            add_samples(sheet, shown)
        add_row(content["runs"], name, answer, order=RUNS)
        write_json(options.out, content)
        print(name, answer, flush=True)


if __name__ == "__main__":
    main()
