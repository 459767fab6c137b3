"""Compare flow matching with DDPM: `python weights/experiments/flow.py`.

Trains the same network twice: for the noise of the course's schedule, and for the
velocity of the straight path (lesson 13). Draws from each in 5 to 50 calls, and writes
weights/flow.json and weights/results/flow.npz (the first pictures of seed 1, in 5 and
in 50 calls).

- Small: a ContextUnet of 32 features without labels, as many pictures for both, three
  seeds; four minutes of one core each.
- Strong: the body of SpriteUnet with an ordinary last layer, told the class, equal
  seconds for both, two seeds; drawn with guidance. The velocity is trained twice: with
  all shares of the picture equally often, and with SD3's logit-normal shares.

Each run has one thread; as many runs as the machine has cores are made side by side
(`--workers`). A run that is there already is kept, so an interrupted program continues
where it stopped; remove the file to start again.
"""

import functools
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from shipped import contexts, ddim, ddpm, held_out_sprites, training_features
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
CALLS = (5, 10, 20, 50)
SAMPLES = 400
BATCH = 200
SHOWN = 10
# Small: Adam, with a warm-up, and a rate that falls linearly to 0.
FEATURES = 32
PICTURES = 60_000
SMALL_BATCH = 50
WARM_UP = 50
RATE = 2e-3
# Strong: Muon, with a rate that is steady for the first part of the time.
SECONDS = 900
STRONG_BATCH = 64
STEADY = 0.4
P_DROP = 0.15
GUIDANCE = 2.0


@dataclass(frozen=True)
class Run:
    """What is trained for what.

    network: "small" or "strong".
    target: "noise" at a step of the course's schedule, all steps equally often, or
        "velocity" on the straight path.
    shares: how the picture's share is drawn for a velocity: "even" or "logit-normal".
    """

    network: str
    target: str
    seed: int
    shares: str = "even"


def all_runs() -> dict[str, Run]:
    """The small networks with each of three seeds, the strong ones with two."""
    runs = {}
    for seed in (1, 2, 3):
        runs[f"DDPM, seed {seed}"] = Run("small", "noise", seed)
        runs[f"flow, seed {seed}"] = Run("small", "velocity", seed)
    for seed in (1, 2):
        middle = Run("strong", "velocity", seed, "logit-normal")
        runs[f"strong DDPM, seed {seed}"] = Run("strong", "noise", seed)
        runs[f"strong flow, seed {seed}"] = Run("strong", "velocity", seed)
        runs[f"strong flow, logit-normal, seed {seed}"] = middle
    return runs


RUNS = all_runs()

# ---- The straight path --------------------------------------------------------------


def flow_loss(
    model: Callable, x0: Tensor, s: Tensor, generator: Generator | None = None
) -> Tensor:
    """Mean squared error of the velocity x0 - noise of the straight path.

    x0: clean pictures (B, ...). s: the picture's share of each, (B,), from 0 to 1. The
    model is called with the mixtures and s. [RF] eq. 1.

    Lesson 13.
    """
    noise = torch.randn(x0.shape, generator=generator).to(x0)
    share = s.to(x0).view(-1, *[1] * (x0.ndim - 1))
    x = share * x0 + (1 - share) * noise
    return (model(x, s.to(x0)) - (x0 - noise)).square().mean()


def drawn_shares(kind: str, n: int, generator: Generator | None = None) -> Tensor:
    """n shares of the picture, (n,): "even" or "logit-normal" ([SD3] section 3.1)."""
    if kind == "even":
        return torch.rand(n, generator=generator)
    return torch.randn(n, generator=generator).sigmoid()


@torch.no_grad()
def euler(model: Callable, x: Tensor, calls: int) -> Tensor:
    """From noise (share 0) to pictures (share 1) in equal steps of the velocity.

    x: (N, ...), normal noise. Lesson 13.
    """
    for i in range(calls):
        s = x.new_full((len(x),), i / calls)
        x = x + model(x, s) / calls
    return x


# How to draw with a network that predicts noise: {name: (sampler, options)}. It is
# clipped because the schedule leaks (lesson 2).
WAYS = {
    "DDIM": (ddim, {}),
    "DDIM, clipped": (ddim, {"clip": True}),
    "DDPM, clipped": (ddpm, {"clip": True, "variance": "beta_tilde"}),
}
EULER = "flow, Euler"
PICTURED = ("DDIM", EULER)


def draw(
    way: str,
    model: Callable,
    x_T: Tensor,
    calls: int,
    seed: int,
    context: Tensor | None = None,
) -> Tensor:
    """Pictures from the noise x_T (N, 3, 16, 16) in one of the WAYS, or by EULER.

    context: a row for each picture, (N, 5), or None.
    """
    generator = Generator().manual_seed(seed)
    pictures = []
    for rows in torch.arange(len(x_T)).split(BATCH):
        c = None if context is None else context[rows]
        if way == EULER:
            pictures.append(euler(functools.partial(model, c=c), x_T[rows], calls))
            continue
        sample, options = WAYS[way]
        options = {"steps": calls, "generator": generator, **options}
        pictures.append(sample(model, SCHEDULE, x_T=x_T[rows], context=c, **options))
    return torch.cat(pictures)


# ---- Training -----------------------------------------------------------------------


class Body(du.SpriteUnet):
    """The strong network's body with an ordinary last layer, which learns any target.

    It is called as body(x, time, c).

    alpha_bar: a function from the times (B,) to alpha-bar, which the blocks are told.
    """

    loss = None  # it comes from outside

    def __init__(self, alpha_bar: Callable) -> None:
        super().__init__(SCHEDULE, du.sprite_palette())
        self.alpha_bar = alpha_bar
        self.out = nn.Conv2d(self.out.in_channels, self.in_channels, 1)
        nn.init.zeros_(self.out.weight)

    def mixed(self, scores: Tensor, x: Tensor, ab: Tensor) -> Tensor:
        return scores

    def forward(self, x: Tensor, time: Tensor, c: Tensor) -> Tensor:
        ab = self.alpha_bar(time).clamp(1e-5, 1 - 1e-5)
        return self.picture(x, ab[:, None], self.read(c))


def at_step(time: Tensor) -> Tensor:
    """Alpha-bar of the course's schedule at t / T."""
    return SCHEDULE.ab.float()[(time * SCHEDULE.T).round().long()]


def at_share(s: Tensor) -> Tensor:
    """The alpha-bar with the signal-to-noise ratio of the picture's share s."""
    return s**2 / (s**2 + (1 - s) ** 2)


def loss_of(run: Run, model, x0: Tensor, c: Tensor | None, generator) -> Tensor:
    """The loss of the run's target. x0: (B, 3, 16, 16). c: (B, 5) or None."""
    if run.target == "noise":
        return du.diffusion_loss(model, x0, SCHEDULE, c=c, generator=generator)
    s = drawn_shares(run.shares, len(x0), generator)
    return flow_loss(functools.partial(model, c=c), x0, s, generator)


def train_small(run: Run, pictures: int) -> nn.Module:
    """Train on so many pictures (with repetitions), in float32."""
    torch.manual_seed(run.seed)
    generator = Generator().manual_seed(run.seed)
    clean = du.load_sprites("train").x
    model = du.ContextUnet(3, FEATURES, 5, 16).to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(model.parameters(), RATE, fused=True)
    steps = pictures // SMALL_BATCH

    def rate(step):
        return min(1 - step / steps, (step + 1) / WARM_UP)

    def loss(rows):
        return loss_of(run, model, clean[rows], None, generator)

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    batches = random_rows(len(clean), SMALL_BATCH, steps, generator)
    for _ in steps_with(loss, batches, optimiser):
        scheduler.step()
    return model.eval()


def train_strong(run: Run, seconds: float) -> nn.Module:
    """Train for so many seconds of the processor; returns the averaged network."""
    torch.manual_seed(run.seed)
    generator = Generator().manual_seed(run.seed)
    sprites = du.load_sprites("train")
    clean = sprites.x
    model = Body(at_step if run.target == "noise" else at_share)
    model = model.to(memory_format=torch.channels_last)
    outer = ("stem", "out", "columns", "reader.word", "reader.position")
    optimiser = du.Muon(model.named_parameters(), adam=outer)
    rates = [group["lr"] for group in optimiser.param_groups]
    average = du.average_weights(model)

    def loss(rows):
        c = du.drop_context(sprites.c[rows], P_DROP, generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=du.has_fast_bf16()):
            return loss_of(run, model, clean[rows], c, generator)

    started = time.process_time()
    batches = random_rows(len(clean), STRONG_BATCH, 10**9, generator)
    for _ in steps_with(loss, batches, optimiser):
        average.update_parameters(model)
        passed = (time.process_time() - started) / seconds
        if passed >= 1:
            break
        for group, rate in zip(optimiser.param_groups, rates):
            group["lr"] = rate * min(1, (1 - passed) / (1 - STEADY))
    return average.module.eval()


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


def row(run: Run, budget: float, samples: int) -> tuple[dict, dict[str, np.ndarray]]:
    """The scores of one run, and some of its pictures.

    They are the first SHOWN of each way in PICTURED, in the fewest calls and the most.

    budget: pictures for a small network, seconds for a strong one.
    Runs in a process of its own, on one core. Seconds are those of the processor, so
    that other work at the same time does not count. All targets start from the same
    noise, seed by seed.
    """
    torch.set_num_threads(1)
    started = time.process_time()
    context = None
    if run.network == "small":
        model = train_small(run, budget)
    else:
        model = du.guided(train_strong(run, budget), GUIDANCE)
        context = contexts("context", samples)
    seconds = round(time.process_time() - started)
    generator = Generator().manual_seed(100 + run.seed)
    x_T = torch.randn((samples, 3, 16, 16), generator=generator)
    ways = WAYS if run.target == "noise" else (EULER,)
    scores = {}
    shown = {}
    for way in ways:
        for calls in CALLS:
            name = f"{way}, {calls}"
            with torch.no_grad():
                x = draw(way, model, x_T, calls, 200 + run.seed, context)
            pictures = du.to_pictures(x)
            scores[name] = score(pictures)
            if way in PICTURED and calls in (CALLS[0], CALLS[-1]):
                shown[name] = pictures[:SHOWN]
    return {"run": asdict(run), "seconds": seconds, "scores": scores}, shown


def sheet_names(name: str, shown: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The pictures of a run under the names of the sheet: those of the small are bare.

    name: of the run, such as "strong flow, seed 1".
    """
    recipe = name.removesuffix(", seed 1")
    if not recipe.startswith("strong"):
        return shown
    return {f"{recipe}: {way}": pictures for way, pictures in shown.items()}


def main() -> None:
    parser = command_line(__doc__, du.WEIGHTS / "flow.json")
    parser.add_argument(
        "--pictures",
        type=int,
        default=PICTURES,
        help="training pictures of a small run (with repetitions)",
    )
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="of training a strong run"
    )
    parser.add_argument("--samples", type=int, default=SAMPLES)
    options = parsed(parser)
    settings = {
        "features": FEATURES,
        "pictures": options.pictures,
        "seconds": options.seconds,
        "samples": options.samples,
        "calls": [*CALLS],
    }
    content = so_far(options.out, settings, parser, floor=None, runs={})
    if content["floor"] is None:
        content["floor"] = score(held_out_sprites(options.samples))
    planned = {name: asdict(run) for name, run in RUNS.items()}
    budgets = {"small": options.pictures, "strong": options.seconds}
    jobs = {}
    for name in missing(content["runs"], planned, "run"):
        run = RUNS[name]
        jobs[name] = (run, budgets[run.network], options.samples)
    sheet = options.out.with_name("results") / f"{options.out.stem}.npz"
    for name, (answer, shown) in side_by_side(row, jobs, options.workers):
        if name.endswith("seed 1"):
            add_samples(sheet, sheet_names(name, shown))
        add_row(content["runs"], name, answer, order=RUNS)
        write_json(options.out, content)
        print(name, answer, flush=True)


if __name__ == "__main__":
    main()
