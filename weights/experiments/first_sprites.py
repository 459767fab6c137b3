"""Measure what lesson 3's three changes are worth: `... first_sprites.py`.

Trains the lesson's small ContextUnet (32 features) on heroes for as many steps each,
once as DDPM does it and then with every combination of three changes: what is asked
for, which steps are practised, and the optimiser. Three seeds for each. Writes
weights/first_sprites.json, and the first pictures of seed 1 to weights/results/.
It takes about half an hour on two cores; a row that is
there already is kept, so an interrupted program continues where it stopped.
"""

import itertools
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from shipped import ddim, draw_batches
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
FEATURES = 32
BATCH = 32
STEPS = 825
SAMPLES = 200
SAMPLING_STEPS = 20
SEED = 4
SHOWN = 16


@dataclass(frozen=True)
class Recipe:
    """target: "noise" or "picture". practised: "evenly" or "the middle" (logit-normal
    on the straight path). optimiser: "Adam" or "Muon".
    """

    target: str
    practised: str
    optimiser: str
    seed: int


def all_recipes() -> dict[str, Recipe]:
    recipes = {}
    targets = ("noise", "picture")
    practised = ("evenly", "the middle")
    optimisers = ("Adam", "Muon")
    for choice in itertools.product(targets, practised, optimisers, (1, 2, 3)):
        *words, seed = choice
        recipes[f"{', '.join(words)}, seed {seed}"] = Recipe(*words, seed)
    return recipes


RECIPES = all_recipes()


class AsNoise(nn.Module):
    """A network that predicts the picture, for samplers, which ask for the noise."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        picture = self.network(x, t, c)
        step = (t * SCHEDULE.T).round().long()
        ab = SCHEDULE.ab[step].view(-1, 1, 1, 1).to(x)
        return (x - ab.sqrt() * picture) / (1 - ab).sqrt()


def recipe_loss(
    model: nn.Module, recipe: Recipe, x_0: Tensor, generator: Generator
) -> Tensor:
    """The loss of clean pictures x_0 (N, C, H, W)."""
    if recipe.practised == "evenly":
        t = torch.randint(1, SCHEDULE.T + 1, (len(x_0),), generator=generator)
    else:
        often = du.straight_frequencies(SCHEDULE)
        t = torch.multinomial(often, len(x_0), True, generator=generator)
    noise = torch.randn(x_0.shape, generator=generator)
    answer = model(du.perturb_input(x_0, t, noise, SCHEDULE), t / SCHEDULE.T)
    if recipe.target == "noise":
        return (answer - noise).square().mean()
    noise_share = 1 - du.straight_share(SCHEDULE.ab[t])
    weight = noise_share.pow(-2).clamp(max=400).view(-1, 1, 1, 1).float()
    return (weight * (answer - x_0).square()).mean()


def train(recipe: Recipe, steps: int) -> nn.Module:
    """Train on heroes; the learning rate falls linearly to 0."""
    sprites = du.load_sprites("train")
    heroes = sprites.x[sprites.labels[:, 0] == 1]
    torch.manual_seed(recipe.seed)
    generator = Generator().manual_seed(recipe.seed)
    model = du.ContextUnet(3, FEATURES, 5, 16).to(memory_format=torch.channels_last)
    if recipe.optimiser == "Adam":
        optimiser = torch.optim.Adam(model.parameters(), 2e-3, fused=True)
    else:
        optimiser = du.Muon(model.named_parameters(), adam=("init_conv", "out"))
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0, total_iters=steps)

    def loss(rows):
        return recipe_loss(model, recipe, heroes[rows], generator)

    rows = random_rows(len(heroes), BATCH, steps, generator)
    for _ in steps_with(loss, rows, optimiser):
        decay.step()
    model.eval()
    return model if recipe.target == "noise" else AsNoise(model)


def row(recipe: Recipe, steps: int, samples: int) -> tuple[dict, np.ndarray]:
    """One row of the table, and the first SHOWN pictures.

    Runs in a process of its own, on one core.
    """
    torch.set_num_threads(1)
    started = time.perf_counter()
    model = train(recipe, steps)
    seconds = round(time.perf_counter() - started)
    pictures = draw_batches(
        model,
        samples,
        ddim,
        seed=SEED,
        steps=du.straight_steps(SCHEDULE, SAMPLING_STEPS),
        clip=True,
    )
    _, distances = du.sprite_factory().decode(pictures)
    answer = {
        "recipe": asdict(recipe),
        "seconds": seconds,
        "legal_distance": mean_and_error(distances),
    }
    return answer, pictures[:SHOWN]


def main() -> None:
    parser = command_line(__doc__, du.WEIGHTS / "first_sprites.json")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    options = parsed(parser)
    settings = {
        "features": FEATURES,
        "batch": BATCH,
        "steps": options.steps,
        "samples": options.samples,
    }
    content = so_far(options.out, settings, parser, runs={})
    planned = {name: asdict(recipe) for name, recipe in RECIPES.items()}
    jobs = {}
    for name in missing(content["runs"], planned, "recipe"):
        jobs[name] = (RECIPES[name], options.steps, options.samples)
    sheet = options.out.with_name("results") / f"{options.out.stem}.npz"
    for name, (answer, shown) in side_by_side(row, jobs, options.workers):
        if RECIPES[name].seed == 1:
            add_samples(sheet, {name: shown})
        add_row(content["runs"], name, answer, order=RECIPES)
        write_json(options.out, content)
        print(name, answer, flush=True)


if __name__ == "__main__":
    main()
