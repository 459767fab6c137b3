"""Flow matching against DDPM on the sprites: `python weights/flow.py` (about 20 minutes on two cores).

Trains the same small ContextUnet (32 features, no labels) on as many pictures, in batches drawn alike, with three seeds for the noise of the
course's schedule and three for the velocity of the straight path (lesson 10); draws from each in 5 to 50 calls, and writes weights/flow.json and
weights/results/flow.npz (the first pictures of seed 1). Each run has one thread, and as many runs as the machine has cores go side by side;
`--workers` sets another number. A run that is there already is kept, so an interrupted program goes on; remove the file to start again.
"""

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from ablation import FEATURES, WARM_UP  # noqa: E402
from make_results import mean_and_error, real_sets  # noqa: E402
from rows import add_samples, side_by_side, so_far  # noqa: E402
from train import write_json  # noqa: E402

import diffusion_utilities as du  # noqa: E402  (found beside this folder)


@dataclass(frozen=True)
class Run:
    """`target` is what the network is asked for: "noise" at a step of the course's schedule, or "velocity" on the straight path."""

    target: str
    seed: int
    learning_rate: float = 2e-3  # as in the base of ablation.py
    batch: int = 50


RUNS = {
    f"{name}, seed {seed}": Run(target, seed)
    for seed in (1, 2, 3)
    for name, target in (("DDPM", "noise"), ("flow", "velocity"))
}
PICTURES, CALLS, SAMPLES, BATCH, SHOWN = 60_000, (5, 10, 20, 50), 400, 200, 10


def flow_loss(
    model: Callable, x0: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Mean squared error of the velocity n - x0 at an even amount of each of x0 (B, ...). [RF] eq. 1, with the time turned round. Lesson 10."""
    n, a = (
        torch.randn(x0.shape, generator=generator).to(x0),
        torch.rand(len(x0), generator=generator).to(x0),
    )
    at = a.view(-1, *[1] * (x0.ndim - 1))
    return (model((1 - at) * x0 + at * n, a) - (n - x0)).square().mean()


@torch.no_grad()
def euler(model: Callable, x: torch.Tensor, calls: int) -> torch.Tensor:
    """From noise (amount 1) down to pictures (amount 0), in so many equal steps along the velocity. Lesson 10."""
    for i in range(calls, 0, -1):
        x = x - model(x, x.new_full((len(x),), i / calls)) / calls
    return x


def flow_clock(schedule: du.NoiseSchedule, calls: int) -> list[int]:
    """Steps from T to 0 for DDIM, nearest in signal-to-noise to equal steps of the amount a: the root of the SNR is (1 - a) / a. Lesson 10."""
    first = 1 / (1 + float(schedule.snr[schedule.T]) ** 0.5)
    a = torch.linspace(first, 0, calls + 1, dtype=torch.float64)[1:-1]
    wanted = (1 - a) ** 2 / ((1 - a) ** 2 + a**2)
    return [
        schedule.T,
        *((schedule.ab[1:, None] - wanted).abs().argmin(0) + 1).tolist(),
        0,
    ]


def own_clock(schedule: du.NoiseSchedule, calls: int) -> list[int]:
    return du.sampling_steps(calls, schedule.T)


WAYS = {  # to draw with a network that predicts noise: {name: (sampler, options, clock)}; clipped is what the schedule's leak (lesson 2) asks for
    "DDIM": (du.sample_ddim, {}, own_clock),
    "DDIM, clipped": (du.sample_ddim, {"clip": True}, own_clock),
    "DDIM, clipped, flow's clock": (du.sample_ddim, {"clip": True}, flow_clock),
    "DDPM, clipped": (
        du.sample_ddpm,
        {"clip": True, "variance": "beta_tilde"},
        own_clock,
    ),
}
PICTURED = ("DDIM", "flow, Euler")


def draw(
    way: str, model: torch.nn.Module, x_T: torch.Tensor, calls: int, seed: int
) -> torch.Tensor:
    """Pictures from the noise x_T (N, 3, 16, 16) in one of the WAYS, or by "flow, Euler"."""
    if way == "flow, Euler":
        return torch.cat([euler(model, x, calls) for x in x_T.split(BATCH)])
    schedule, (sample, options, clock), generator = (
        du.NoiseSchedule.linear(),
        WAYS[way],
        torch.Generator().manual_seed(seed),
    )
    options = options | {
        "steps": clock(schedule, calls),
        "generator": generator,
        "keep": 0,
    }
    return torch.cat(
        [sample(model, schedule, x_T=x, **options)[0] for x in x_T.split(BATCH)]
    )


def train(run: Run, pictures: int) -> torch.nn.Module:
    """A learning rate that rises over the first WARM_UP steps and falls linearly to 0; only the loss depends on the target."""
    torch.manual_seed(run.seed)
    generator, schedule, clean = (
        torch.Generator().manual_seed(run.seed),
        du.NoiseSchedule.linear(),
        du.load_sprites("train").x,
    )
    model = du.ContextUnet(3, FEATURES, 5, 16).to(memory_format=torch.channels_last)
    optimiser, steps = (
        torch.optim.Adam(model.parameters(), run.learning_rate, fused=True),
        pictures // run.batch,
    )
    for i in range(steps):
        optimiser.param_groups[0]["lr"] = run.learning_rate * min(
            1 - i / steps, (i + 1) / WARM_UP
        )
        x = clean[torch.randint(len(clean), (run.batch,), generator=generator)]
        loss = (
            flow_loss(model, x, generator)
            if run.target == "velocity"
            else du.diffusion_loss(model, x, schedule, generator=generator)
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


@functools.cache
def training_features() -> np.ndarray:
    return du.sprite_features(du.load_sprites("train").images)


def score(pictures: np.ndarray) -> dict:
    """Of pictures (N, 16, 16, 3) uint8: the distance to the nearest legal sprite, and three measures as `sprite_scores` takes them."""
    factory, ours, theirs = (
        du.sprite_factory(),
        du.sprite_features(pictures),
        training_features(),
    )
    specifications, distances = factory.decode(pictures)
    some = theirs[np.random.default_rng(0).permutation(len(theirs))[: len(ours)]]
    return {
        "legal_distance": mean_and_error(distances),
        "legal": round(float(factory.are_legal(pictures, specifications).mean()), 4),
        "coverage": round(
            float(du.precision_recall_density_coverage(some, ours)["coverage"].mean()),
            4,
        ),
        "FD": round(du.frechet_distance(ours, theirs), 1),
    }


def row(run: Run, seen: int, samples: int) -> tuple[dict, dict[str, np.ndarray]]:
    """The scores of one run, and the first SHOWN pictures of the ways in PICTURED; in a process of its own, on one core.

    Seconds are those of the processor, so that other work beside does not count. Both targets start from the same noise, seed by seed.
    """
    torch.set_num_threads(1)
    started = time.process_time()
    model = train(run, seen)
    answer, shown = (
        {
            "run": asdict(run),
            "seconds": round(time.process_time() - started),
            "scores": {},
        },
        {},
    )
    x_T = torch.randn(
        (samples, 3, 16, 16), generator=torch.Generator().manual_seed(100 + run.seed)
    )
    for way in WAYS if run.target == "noise" else ("flow, Euler",):
        for calls in CALLS:
            pictures = du.to_pictures(draw(way, model, x_T, calls, 200 + run.seed))
            answer["scores"][f"{way}, {calls}"] = score(pictures)
            if way in PICTURED:
                shown[f"{way}, {calls}"] = pictures[:SHOWN]
    return answer, shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out",
        type=Path,
        default=HERE / "flow.json",
        help="pictures go to results/ beside it",
    )
    parser.add_argument(
        "--pictures",
        type=int,
        default=PICTURES,
        help="training pictures a run (with repetitions)",
    )
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count(),
        help="runs that go side by side, each on one core",
    )
    options = parser.parse_args()
    if options.out.resolve() == HERE / "flow.json" and (
        options.pictures,
        options.samples,
    ) != (PICTURES, SAMPLES):
        parser.error(
            "these settings would overwrite the shipped results; add --out FILE"
        )
    settings = {
        "features": FEATURES,
        "pictures": options.pictures,
        "samples": options.samples,
        "calls": [*CALLS],
    }
    content = so_far(options.out, settings, parser, floor=None, runs={})
    content["floor"] = content["floor"] or score(
        real_sets(options.samples)["test (floor)"]
    )
    wanted = {
        name: (run, options.pictures, options.samples)
        for name, run in RUNS.items()
        if content["runs"].get(name, {}).get("run") != asdict(run)
    }
    sheet = options.out.with_name("results") / f"{options.out.stem}.npz"
    for name, (answer, shown) in side_by_side(row, wanted, options.workers):
        if name.endswith("seed 1"):
            add_samples(sheet, shown)
        content["runs"][name] = answer
        content["runs"] = {
            name: content["runs"][name] for name in RUNS if name in content["runs"]
        }  # in the order of the table
        write_json(options.out, content)
        print(name, answer, flush=True)


if __name__ == "__main__":
    main()
