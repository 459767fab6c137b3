"""Lesson 16's comparison, three times over.

`python weights/experiments/fine_tuning.py` takes about ten minutes of one core.

On the sheet of sprites that the lesson draws, it compares the shipped weights as they
are, the same fine-tuned, a network trained from scratch, and the shipped weights
fine-tuned on four pictures only. Each is trained as the lesson does it, with three
seeds for everything that is random. It writes weights/own_sprites.json, with the
scores of held-out real pictures beside them. It uses one thread; seconds are those of
the processor. Rows that are there already are kept.
"""

import hashlib
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import tables
import torch
from shipped import weights_file
from training import random_rows

import diffusion_utilities as du  # tables.py makes it importable

WEIGHTS = Path(__file__).resolve().parents[1]
VERSION = 1  # raise it when the meaning of this code changes
START = "model_trained"
STEPS = 90
WARM_UP = 20  # steps
MEMORY = 0.95  # of the average of the weights
MIN_SNR = 5
LOSS_STEPS = range(25, 500, 50)
SAMPLES = 64
SAMPLING_STEPS = 50
NEAR = 0.03  # RMS; what is nearer to a training picture is a copy
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Run:
    """One training.

    shipped: start from the shipped weights; else from random ones.
    trained: False leaves the starting weights as they are.
    pictures: train on the first so many only; None is all of them.
    """

    shipped: bool
    rate: float
    trained: bool = True
    pictures: int | None = None
    batch: int = 50
    seed: int = 1


KINDS = {
    "shipped": Run(shipped=True, rate=0.0, trained=False),
    "fine-tuned": Run(shipped=True, rate=1e-3),
    "scratch": Run(shipped=False, rate=2e-3),
    "four pictures": Run(shipped=True, rate=1e-3, pictures=4, batch=16),
}
RUNS = {
    f"{name}, seed {seed}": replace(run, seed=seed)
    for name, run in KINDS.items()
    for seed in SEEDS
}


# ---- The sheet ----------------------------------------------------------------------


def sheet() -> tuple[np.ndarray, np.ndarray]:
    """Lesson 16's heroes with their copies: (to train on, held out), split as there.

    The lesson compares pictures to find the families of copies. Here they are known,
    because each tile knows which hero it shows.
    """
    tiles, shown = tiles_with_copies()
    _, kept = np.unique(tiles, axis=0, return_index=True)  # the first of equal tiles
    kept = np.sort(kept)
    tiles = tiles[kept]
    shown = shown[kept]
    family = np.array([np.flatnonzero(shown == hero)[0] for hero in shown])
    families = np.random.default_rng(0).permutation(np.unique(family))
    n_held = round(0.2 * len(families))
    held = np.isin(family, families[:n_held])
    return tiles[~held], tiles[held]


def tiles_with_copies() -> tuple[np.ndarray, np.ndarray]:
    """110 tiles in random order, and the number of the hero that each one shows.

    There are 96 heroes with pairs of colours that training lacks. Six tiles repeat a
    hero, four show one turned round, and four show one a little darker.
    """
    factory = du.sprite_factory()
    pairs = factory.held_out_pairs("hero")
    every = factory.sample_specifications(2000, 9, "hero")
    heroes = [hero for hero in every if pairs.hold(hero)]
    drawn = factory.render_many(heroes[:96])
    same = [3, 3, 14, 27, 65, 92]
    turned = [8, 30, 41, 77]
    dark = [5, 22, 50, 60]
    mirrored = drawn[turned][:, :, ::-1]
    tiles = np.concatenate([drawn, drawn[same], mirrored, darker(drawn[dark])])
    shown = np.array([*range(96), *same, *turned, *dark])
    order = np.random.default_rng(9).permutation(len(tiles))
    return tiles[order], shown[order]


def darker(images: np.ndarray) -> np.ndarray:
    """Pictures (N, 16, 16, 3) uint8 at 96 % of their brightness, white left white."""
    white = (images == 255).all(3, keepdims=True)
    return np.where(white, 255, images * 0.96).astype(np.uint8)


# ---- Training -----------------------------------------------------------------------


def start_of(run: Run) -> torch.nn.Module:
    """The network as it is before the training."""
    network = du.ContextUnet(3, 64, 5, 16)
    if run.shipped:
        du.load_weights(network, weights_file(START))
    return network.to(memory_format=torch.channels_last)


def train(run: Run, pictures: np.ndarray, steps: int) -> torch.nn.Module:
    """Train as lesson 16 does; returns the average of the weights, in eval mode.

    The learning rate rises over WARM_UP steps, then falls to 0.
    """
    torch.manual_seed(run.seed)
    generator = torch.Generator().manual_seed(run.seed)
    network = start_of(run)
    if not run.trained:
        return network.eval()
    x = du.to_model_range(pictures)
    rows = random_rows(len(x), run.batch, steps, generator)
    average = du.average_weights(network, MEMORY)
    adam = torch.optim.Adam(network.parameters(), run.rate)

    def factor(step):
        return min(1, (step + 1) / WARM_UP) * (1 - step / steps)

    rate = torch.optim.lr_scheduler.LambdaLR(adam, factor)
    for _ in du.train_steps(
        network,
        ((x[some], None) for some in rows),
        du.NoiseSchedule.linear(),
        optimiser=adam,
        average=average,
        generator=generator,
        min_snr=MIN_SNR,
    ):
        rate.step()
    return average.module.eval()


# ---- Measuring ----------------------------------------------------------------------


def shares(pictures: np.ndarray, training: np.ndarray) -> dict[str, float]:
    """How near pictures come to the training, and what they show.

    pictures, training: (N, 16, 16, 3) uint8.
    Returns the shares that are memorised, copies, legal, heroes, and heroes with one
    of the sheet's pairs of colours; and the mean distance to the nearest training
    picture (RMS).
    """
    factory = du.sprite_factory()
    pairs = factory.held_out_pairs("hero")
    distances, _ = du.nearest_pictures(pictures, training)
    sprites, _ = factory.decode(pictures)
    heroes = np.array([sprite.class_name == "hero" for sprite in sprites])
    paired = heroes.copy()
    for i in np.flatnonzero(heroes):
        paired[i] = pairs.hold(sprites[i])
    values = {
        "memorised": du.memorised(pictures, training),
        "copies": distances < NEAR,
        "distance": distances,
        "legal": du.sprite_scoring().are_legal(pictures, sprites),
        "heroes": heroes,
        "with a pair": paired,
    }
    return {name: round(float(value.mean()), 4) for name, value in values.items()}


def mean_loss(model, pictures: np.ndarray) -> float:
    """The mean loss over LOSS_STEPS."""
    x = du.to_model_range(pictures)
    schedule = du.NoiseSchedule.linear()
    losses = du.denoising_losses(model, x, schedule, steps=LOSS_STEPS)
    return round(float(losses.mean()), 5)


def drawn(model, samples: int, seed: int) -> np.ndarray:
    """So many pictures (samples, 16, 16, 3) uint8 of a model."""
    x, _ = du.sample_ddpm(
        model,
        du.NoiseSchedule.linear(),
        shape=(samples, 3, 16, 16),
        steps=SAMPLING_STEPS,
        variance="beta_tilde",
        clip=True,
        generator=torch.Generator().manual_seed(seed),
        keep=0,
    )
    return du.to_pictures(x)


def row(run: Run, steps: int, samples: int) -> dict:
    """One row of the table: train, and measure the losses and the samples."""
    started = time.process_time()
    training, held_out = sheet()
    training = training[: run.pictures]
    model = train(run, training, steps)
    seconds = time.process_time() - started
    answer = {
        "run": asdict(run),
        "seconds": round(seconds),
        "held_out_loss": mean_loss(model, held_out),
        "training_loss": mean_loss(model, training),
    }
    return answer | shares(drawn(model, samples, 100 + run.seed), training)


# ---- The program --------------------------------------------------------------------


def settings_of(steps: int, samples: int) -> dict:
    """What every row depends on: other settings or data need another file."""
    pictures = np.concatenate(sheet())
    return {
        "steps": steps,
        "samples": samples,
        "sampling_steps": SAMPLING_STEPS,
        "version": VERSION,
        "sheet": hashlib.sha256(pictures.tobytes()).hexdigest(),
        "start": tables.sha256(weights_file(START)),
    }


def main() -> None:
    parser = tables.command_line(__doc__, WEIGHTS / "own_sprites.json", workers=False)
    parser.add_argument("--steps", type=int, default=STEPS, help="of each training")
    parser.add_argument(
        "--samples", type=int, default=SAMPLES, help="sprites that each run draws"
    )
    options = tables.parsed(parser)
    torch.set_num_threads(1)
    settings = settings_of(options.steps, options.samples)
    content = tables.so_far(options.out, settings, parser, real={}, runs={})
    training, held_out = sheet()
    for name in ("fine-tuned", "four pictures"):
        content["real"][name] = shares(held_out, training[: KINDS[name].pictures])
    machine = tables.machine(torch.device("cpu"))
    planned = {name: asdict(run) for name, run in RUNS.items()}
    for name in tables.missing(content["runs"], planned, "run"):
        answer = row(RUNS[name], options.steps, options.samples)
        tables.add_row(content["runs"], name, answer, RUNS)
        tables.write_json(options.out, content | {"machine": machine})
        print(name, answer, flush=True)


if __name__ == "__main__":
    main()
