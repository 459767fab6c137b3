"""Lesson 9's comparison, three times over: `python weights/own_sprites.py` (about ten minutes on one core).

On the sheet that the lesson draws: the shipped weights as they are, fine-tuned, and a network from scratch, each as the lesson trains it, and the
shipped weights fine-tuned on four pictures only; each with three seeds, for everything that is random. Writes weights/own_sprites.json, with what
held-out real pictures score beside them. One thread; seconds are those of the processor. A row that is there already is kept, so an interrupted run
goes on where it stopped; remove the file to start again.
"""

import argparse
import hashlib
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from rows import so_far  # noqa: E402
from train import machine, write_json  # noqa: E402

import diffusion_utilities as du  # noqa: E402  (found beside this folder)


@dataclass(frozen=True)
class Run:
    """One training as lesson 9 has it; `trained` False leaves the starting weights as they are."""

    shipped: bool  # where it starts; else from random numbers
    rate: float
    trained: bool = True
    pictures: int | None = None  # train on the first so many only
    batch: int = 50
    seed: int = 1


KINDS = {
    "shipped": Run(True, 0.0, trained=False),
    "fine-tuned": Run(True, 1e-3),
    "scratch": Run(False, 2e-3),
    "four pictures": Run(True, 1e-3, pictures=4, batch=16),
}
SEEDS = (1, 2, 3)
RUNS = {
    f"{name}, seed {seed}": replace(run, seed=seed)
    for name, run in KINDS.items()
    for seed in SEEDS
}
START = "model_trained.pth"
STEPS, WARM_UP, MEMORY, MIN_SNR = 90, 20, 0.95, 5
LOSS_STEPS, SAMPLES, SAMPLING_STEPS = range(25, 500, 50), 64, 50
NEAR = 0.03  # RMS; nearer is a copy


def sheet() -> tuple[np.ndarray, np.ndarray]:
    """(to train on, held out): lesson 9's heroes with their copies, split as there (a test compares).

    The lesson finds the families of copies by comparing pictures; here they are known, because each tile knows whom it shows.
    """
    factory = du.sprite_factory()
    heroes = [
        hero
        for hero in factory.sample_specifications(2000, 9, "hero")
        if factory.held_out_pairs("hero").hold(hero)
    ][:96]
    drawn, (same, turned, dark) = (
        factory.render_many(heroes),
        ([3, 3, 14, 27, 65, 92], [8, 30, 41, 77], [5, 22, 50, 60]),
    )
    darker = np.where(
        (drawn[dark] == 255).all(3, keepdims=True), 255, drawn[dark] * 0.96
    ).astype(np.uint8)
    order = np.random.default_rng(9).permutation(110)
    tiles = np.concatenate([drawn, drawn[same], drawn[turned][:, :, ::-1], darker])[
        order
    ]
    shown = np.array([*range(96), *same, *turned, *dark])[order]
    kept = np.sort(
        np.unique(tiles, axis=0, return_index=True)[1]
    )  # of equal tiles the first
    tiles, shown = tiles[kept], shown[kept]
    family = np.array([np.flatnonzero(shown == hero)[0] for hero in shown])
    names = np.random.default_rng(0).permutation(np.unique(family))
    held = np.isin(family, names[: round(0.2 * len(names))])
    return tiles[~held], tiles[held]


def train(run: Run, pictures: np.ndarray, steps: int) -> torch.nn.Module:
    """The rate rises over WARM_UP steps, then falls to 0; the average of the weights, with a short memory, is what comes back."""
    torch.manual_seed(run.seed)
    network, generator, schedule = (
        du.ContextUnet(3, 64, 5, 16),
        torch.Generator().manual_seed(run.seed),
        du.NoiseSchedule.linear(),
    )
    if run.shipped:
        du.load_weights(network, HERE / START)
    network = network.to(memory_format=torch.channels_last)
    if not run.trained:
        return network.eval()
    adam, average, x = (
        torch.optim.Adam(network.parameters(), run.rate),
        du.average_weights(network, MEMORY),
        du.to_model_range(pictures),
    )
    factor = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda step: min(1, (step + 1) / WARM_UP) * (1 - step / steps)
    )
    batches = (
        (x[torch.randint(len(x), (run.batch,), generator=generator)], None)
        for _ in range(steps)
    )
    for _ in du.train_steps(
        network,
        batches,
        schedule,
        optimiser=adam,
        average=average,
        generator=generator,
        min_snr=MIN_SNR,
    ):
        factor.step()
    return average.module.eval()


def shares(pictures: np.ndarray, training: np.ndarray) -> dict[str, float]:
    """Of pictures: what is legal, what looks like a hero, and like one of the sheet's pairs of colours; and how near they come to training."""
    factory, apart = du.sprite_factory(), du.nearest_pictures(pictures, training)[0]
    found, _ = factory.decode(pictures)
    values = {
        "memorised": du.memorised(pictures, training).mean(),
        "copies": (apart < NEAR).mean(),
        "distance": apart.mean(),
        "legal": factory.are_legal(pictures, found).mean(),
        "heroes": np.mean([sprite.class_name == "hero" for sprite in found]),
        "with a pair": np.mean(
            [
                sprite.class_name == "hero"
                and factory.held_out_pairs("hero").hold(sprite)
                for sprite in found
            ]
        ),
    }
    return {name: round(float(value), 4) for name, value in values.items()}


def row(run: Run, steps: int, samples: int) -> dict:
    """One row of the table: train, measure the loss, draw, measure what is drawn."""
    (training, held_out), schedule, started = (
        sheet(),
        du.NoiseSchedule.linear(),
        time.process_time(),
    )
    training = training[: run.pictures]
    model = train(run, training, steps)
    seconds = round(time.process_time() - started)
    losses = {
        name: round(
            float(
                du.denoising_losses(
                    model, du.to_model_range(pictures), schedule, steps=LOSS_STEPS
                ).mean()
            ),
            5,
        )
        for name, pictures in (("held_out_loss", held_out), ("training_loss", training))
    }
    generator = torch.Generator().manual_seed(100 + run.seed)
    options = {
        "steps": SAMPLING_STEPS,
        "variance": "beta_tilde",
        "clip": True,
        "generator": generator,
        "keep": 0,
    }
    x, _ = du.sample_ddpm(model, schedule, shape=(samples, 3, 16, 16), **options)
    return (
        {"run": asdict(run), "seconds": seconds}
        | losses
        | shares(du.to_pictures(x), training)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "own_sprites.json")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="training steps of each run"
    )
    parser.add_argument(
        "--samples", type=int, default=SAMPLES, help="sprites that each run draws"
    )
    options = parser.parse_args()
    if options.out.resolve() == HERE / "own_sprites.json" and (
        options.steps,
        options.samples,
    ) != (STEPS, SAMPLES):
        parser.error(
            "these settings would overwrite the shipped results; add --out FILE"
        )
    torch.set_num_threads(1)
    training, held_out = sheet()
    digests = {
        "sheet": np.concatenate([training, held_out]).tobytes(),
        "start": (HERE / START).read_bytes(),
    }
    settings = {
        "steps": options.steps,
        "samples": options.samples,
        "sampling_steps": SAMPLING_STEPS,
    }
    settings |= {
        name: hashlib.sha256(content).hexdigest() for name, content in digests.items()
    }
    content = so_far(options.out, settings, parser, real={}, runs={})
    content["real"] = {
        name: shares(held_out, training[: KINDS[name].pictures])
        for name in ("fine-tuned", "four pictures")
    }
    for name, run in RUNS.items():
        if content["runs"].get(name, {}).get("run") != asdict(run):
            content["runs"][name] = row(run, options.steps, options.samples)
            content["runs"] = {
                name: content["runs"][name] for name in RUNS if name in content["runs"]
            }  # in the order of the table
            write_json(options.out, content | {"machine": machine(torch.device("cpu"))})
            print(name, content["runs"][name], flush=True)


if __name__ == "__main__":
    main()
