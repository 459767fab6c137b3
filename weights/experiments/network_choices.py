"""Compare what the strong network is made of: `... network_choices.py`.

Trains it for five minutes of one core on the sprites, asked for by class, and then
four times more with one thing changed: its head, its body, its optimiser, and the steps
that it practises. Two seeds for each. Writes weights/network_choices.json: distance to
the nearest legal sprite, legal share and FD of 500 samples in 20 steps.
It takes half an hour on two idle cores; a row that is there already is kept.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from shipped import contexts, ddpm, draw_batches, held_out_sprites
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
from training import random_rows

import diffusion_utilities as du  # found two folders up

SCHEDULE = du.NoiseSchedule.linear()
SECONDS = 300
BATCH = 64
P_DROP = 0.15
SAMPLES = 500
STEPS = 20
SEED = 4
EMA = 0.998
STEADY = 0.4  # the learning rate falls after this part of the time


@dataclass(frozen=True)
class Choice:
    """head: "palette" or "continuous". body: "U-Net" or "hybrid".

    optimiser: "Muon" or "Adam". practised: "the middle" or "evenly".
    """

    seed: int
    head: str = "palette"
    body: str = "U-Net"
    optimiser: str = "Muon"
    practised: str = "the middle"


def all_choices() -> dict[str, Choice]:
    changes = {
        "as shipped": {},
        "continuous head": {"head": "continuous"},
        "hybrid body": {"body": "hybrid"},
        "Adam": {"optimiser": "Adam"},
        "practised evenly": {"practised": "evenly"},
    }
    choices = {}
    for seed in (1, 2):
        for name, change in changes.items():
            choices[f"{name}, seed {seed}"] = Choice(seed, **change)
    return choices


CHOICES = all_choices()


# ---- What is changed ----------------------------------------------------------------


class Continuous(du.SpriteUnet):
    """The same body with an ordinary last layer: it predicts the picture itself."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.out = nn.Conv2d(self.out.in_channels, self.in_channels, 1)
        nn.init.zeros_(self.out.weight)

    def mixed(self, scores: Tensor, x: Tensor, ab: Tensor) -> Tensor:
        return scores


class TransformerBlocks(nn.Module):
    """Three transformer blocks over the places of a small picture, with words."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.looks = nn.ModuleList(du.AttentionBlock(channels, width) for _ in range(3))
        self.perceptrons = nn.ModuleList(self.perceptron(channels) for _ in range(3))

    @staticmethod
    def perceptron(channels: int) -> nn.Sequential:
        return nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.Conv2d(channels, 4 * channels, 1),
            nn.GELU(),
            nn.Conv2d(4 * channels, channels, 1),
        )

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        for look, perceptron in zip(self.looks, self.perceptrons):
            x = look(x, words)
            x = x + perceptron(x)
        return x


def network(choice: Choice) -> du.SpriteUnet:
    kind = Continuous if choice.head == "continuous" else du.SpriteUnet
    channels = (40, 80, 176) if choice.body == "hybrid" else (48, 96, 128)
    model = kind(SCHEDULE, du.sprite_palette(), channels=channels)
    if choice.body == "hybrid":
        model.look2 = TransformerBlocks(channels[2], 96)
    return model.to(memory_format=torch.channels_last)


def optimiser_of(choice: Choice, model: nn.Module) -> torch.optim.Optimizer:
    if choice.optimiser == "Adam":
        return torch.optim.Adam(model.parameters(), 2e-3, fused=True)
    outer = ("stem", "out", "columns", "reader.word", "reader.position")
    return du.Muon(model.named_parameters(), adam=outer, lr=0.012)


def frequencies(choice: Choice) -> Tensor | None:
    if choice.practised == "evenly":
        return None
    return du.straight_frequencies(SCHEDULE, even=0.25)


# ---- Training and scores ------------------------------------------------------------


def endless_batches(sprites: du.Sprites, generator: Generator) -> Iterator:
    for rows in random_rows(len(sprites.x), BATCH, 10**9, generator):
        yield sprites.x[rows], sprites.labels[rows]


def train(choice: Choice, seconds: float) -> tuple[nn.Module, int]:
    """The averaged network after so many seconds of one core, and how many pictures."""
    torch.manual_seed(choice.seed)
    generator = Generator().manual_seed(choice.seed)
    model = network(choice)
    optimiser = optimiser_of(choice, model)
    rates = [group["lr"] for group in optimiser.param_groups]
    average = du.average_weights(model, EMA)
    steps = du.train_steps(
        model,
        endless_batches(du.load_sprites("train"), generator),
        SCHEDULE,
        optimiser=optimiser,
        p_drop=P_DROP,
        average=average,
        generator=generator,
        frequencies=frequencies(choice),
    )
    started = time.process_time()
    pictures = 0
    for _ in steps:
        pictures += BATCH
        passed = (time.process_time() - started) / seconds
        if passed >= 1:
            break
        for group, rate in zip(optimiser.param_groups, rates):
            group["lr"] = rate * min(1, (1 - passed) / (1 - STEADY))
    return average.module.eval(), pictures


def multiply_adds(model: nn.Module) -> int:
    """Of one sprite and one step."""
    x = torch.zeros(1, 3, 16, 16)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x, 0.5, torch.zeros(1, 5))
    return counter.get_total_flops() // 2


def scored(pictures, asked: Tensor) -> dict:
    _, distances = du.sprite_factory().decode(pictures)
    scores = rounded(du.sprite_scores(pictures, asked.numpy()))
    return {
        "legal_distance": mean_and_error(distances),
        "legal": scores["legal"],
        "FD": scores["FD"],
    }


def row(choice: Choice, seconds: float, samples: int) -> dict:
    """One row of the table. Runs in a process of its own, on one core."""
    torch.set_num_threads(1)
    model, pictures = train(choice, seconds)
    asked = contexts("context", samples)
    drawn = draw_batches(
        model,
        samples,
        ddpm,
        seed=SEED,
        context=asked,
        steps=du.straight_steps(SCHEDULE, STEPS),
        variance="beta_tilde",
    )
    return {
        "choice": asdict(choice),
        "pictures": pictures,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "multiply_adds": multiply_adds(model),
        **scored(drawn, asked),
    }


def main() -> None:
    parser = command_line(__doc__, du.WEIGHTS / "network_choices.json")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    options = parsed(parser)
    settings = {"seconds": options.seconds, "samples": options.samples}
    content = so_far(options.out, settings, parser, real={}, runs={})
    if not content["real"]:
        real = held_out_sprites(options.samples)
        content["real"] = scored(real, contexts("context", options.samples))
    planned = {name: asdict(choice) for name, choice in CHOICES.items()}
    jobs = {}
    for name in missing(content["runs"], planned, "choice"):
        jobs[name] = (CHOICES[name], options.seconds, options.samples)
    for name, answer in side_by_side(row, jobs, options.workers):
        add_row(content["runs"], name, answer, order=CHOICES)
        write_json(options.out, content)
        print(name, answer, flush=True)


if __name__ == "__main__":
    main()
