"""Lesson 10's networks and their variants, each trained for the same seconds.

`python weights/experiments/five_unets.py` takes 80 minutes of one core. The networks
and their training loop are in five_networks.py, which the lesson imports and shows.

It writes weights/five_unets.json (a row for each run, with three seeds), the first
seed's weights in weights/five_unets/ (half precision), the classifier whose features FD
compares, and a few samples of each run of that seed in weights/results/five_unets.npz.
Seconds are those of one core (`time.process_time`), so runs can go on side by side
(`--workers`). Rows that are there already are kept.
"""

import argparse
import hashlib
import itertools
import time
from pathlib import Path

import numpy as np
import tables
import torch
import torch.nn.functional as F
from five_networks import (
    DESIGNS,
    VARIANTS,
    classifier,
    draw,
    features,
    split,
    steps_at_levels,
    steps_throughout,
    train_for,
)

import diffusion_utilities as du  # tables.py makes it importable

WEIGHTS = Path(__file__).resolve().parents[1]
VERSION = 1  # raise it when the meaning of this code or of five_networks.py changes
SECONDS = 100
OPTIMISER = "Adam"  # or "Muon"; rows of another optimiser are made again
SEEDS = (1, 2, 3)
SAMPLES = 500
SHOWN = 10
CLASSIFIER_SECONDS = 60
EVERY = DESIGNS | VARIANTS
SHIPPED = (  # designs whose weights the lesson loads
    "time as a channel",
    "no time",
    "time at each level",
    "residual",
    "ContextUnet",
)


def planned_runs(seconds: float) -> dict[str, dict]:
    """The settings of each row, in the order of the table."""
    planned = {}
    for design, seed in itertools.product(EVERY, SEEDS):
        name = f"{design}, seed {seed}"
        planned[name] = {
            "design": design,
            "seed": seed,
            "seconds": seconds,
            "optimiser": OPTIMISER,
        }
    return planned


def file_of(name: str) -> str:
    """The file of a network's weights: mnist_time_as_a_channel.pth."""
    return f"mnist_{name.replace(' ', '_')}.pth"


def data_digest() -> str:
    """SHA-256 of the digits and their labels as they are loaded."""
    pictures, labels = du.load_digits("mnist")
    content = pictures.numpy().tobytes() + labels.numpy().tobytes()
    return hashlib.sha256(content).hexdigest()


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Digits (N, 1, 28, 28) in [-1, 1]: (training, held out)."""
    pictures, _ = du.load_digits("mnist")
    return split(pictures * 2 - 1)


# ---- The classifier, and the floor of FD --------------------------------------------


def shifted(x: torch.Tensor, generator: torch.Generator, far: int = 2) -> torch.Tensor:
    """Move a batch by up to `far` pixels each way; background comes in at the edge."""
    across, down = torch.randint(-far, far + 1, (2,), generator=generator).tolist()
    margins = (far + across, far - across, far + down, far - down)
    wider = F.pad(x, margins, value=-1)
    return wider[:, :, far:-far, far:-far]


def train_classifier(seconds: float, folder: Path) -> float:
    """Train the classifier and write its weights.

    Returns the share of held-out pictures whose class it names.
    """
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network = classifier()
    training, held_out = digits()
    labels, held_out_labels = split(du.load_digits("mnist")[1])
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    start = time.process_time()
    share = 0.0  # of the time that is gone
    while share < 1:
        optimiser.param_groups[0]["lr"] = 2e-3 * (1 - share)
        rows = torch.randint(len(training), (64,), generator=generator)
        scores = network(shifted(training[rows], generator))
        loss = F.cross_entropy(scores, labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        share = (time.process_time() - start) / seconds
    path = folder / file_of("classifier")
    du.save_weights(network, path)
    shipped = du.load_weights(classifier(), path)  # half precision
    with torch.no_grad():
        named = shipped(held_out).argmax(1)
    right = (named == held_out_labels).float().mean()
    return round(float(right), 4)


def distance_to_training(
    pictures: torch.Tensor, training: torch.Tensor, folder: Path
) -> float:
    """The FD of pictures, by the features of the classifier."""
    judge = du.load_weights(classifier(), folder / file_of("classifier"))
    ours = features(judge, pictures)
    theirs = features(judge, training)
    return round(du.frechet_distance(ours, theirs), 3)


def floor(samples: int, folder: Path) -> list[float]:
    """The FD of held-out real pictures, in sets as large as the samples."""
    training, held_out = digits()
    distances = []
    for part in held_out.split(samples):
        if len(part) == samples:
            distances.append(distance_to_training(part, training, folder))
    return distances


# ---- A row --------------------------------------------------------------------------


def drawn(model, schedule, samples: int) -> torch.Tensor:
    """So many pictures, at most 100 at a time."""
    parts = []
    for start in range(0, samples, 100):
        size = min(100, samples - start)
        parts.append(draw(model, schedule, size, seed=4 + start))
    return torch.cat(parts)


def mean_losses(model, x, schedule, steps) -> torch.Tensor:
    """The held-out loss at each of these steps: (len(steps),)."""
    return du.denoising_losses(model, x, schedule, steps=steps).mean(1)


def row(run: dict, samples: int, folder: Path) -> tuple[dict, np.ndarray]:
    """Train one network and measure it, in a process of its own, on one core.

    run: one of `planned_runs`. Returns its row, and its first samples as uint8.
    """
    torch.set_num_threads(1)
    torch.manual_seed(run["seed"])
    build, schedule = EVERY[run["design"]]
    training, held_out = digits()
    network = build(1).to(memory_format=torch.channels_last)
    model, losses = train_for(
        run["seconds"],
        network,
        schedule,
        training,
        run["seed"],
        run["optimiser"],
        clock=time.process_time,
    )
    if run["seed"] == SEEDS[0] and run["design"] in SHIPPED:
        path = folder / file_of(run["design"])
        du.save_weights(model, path)
        model = du.load_weights(build(1), path)  # half precision, as it ships
    pictures = drawn(model, schedule, samples)
    loss = mean_losses(model, held_out, schedule, steps_throughout(schedule)).mean()
    levels = mean_losses(model, held_out, schedule, steps_at_levels(schedule))
    answer = {
        "run": run,
        "steps": len(losses),
        "loss": round(float(loss), 4),
        "loss_at_levels": [round(value, 4) for value in levels.tolist()],
        "FD": distance_to_training(pictures, training, folder),
    }
    return answer, du.to_pictures(pictures[:SHOWN])[..., 0]


# ---- The program --------------------------------------------------------------------


def settings_of(options: argparse.Namespace) -> dict:
    """What the whole table depends on: other settings or data need another file."""
    return {
        "samples": options.samples,
        "threads": 1,
        "version": VERSION,
        "data": data_digest(),
    }


def make_real(content: dict, options: argparse.Namespace, folder: Path) -> None:
    """Train the classifier if it is missing, and measure real digits with it."""
    if content["real"]:
        return
    torch.set_num_threads(1)
    right = train_classifier(min(CLASSIFIER_SECONDS, options.seconds), folder)
    content["real"] = {
        "classifier_right": right,
        "FD": floor(options.samples, folder),
    }
    tables.write_json(options.out / "five_unets.json", content)


def make_runs(content: dict, options: argparse.Namespace, folder: Path) -> None:
    """Make the rows that are missing, or are there with other settings.

    Each is written as soon as it is done.
    """
    planned = planned_runs(options.seconds)
    jobs = {}
    for name in tables.missing(content["runs"], planned, "run"):
        jobs[name] = (planned[name], options.samples, folder)
    for name, result in tables.side_by_side(row, jobs, options.workers):
        answer, pictures = result
        tables.add_row(content["runs"], name, answer, order=planned)
        if planned[name]["seed"] == SEEDS[0]:
            shown = {planned[name]["design"]: pictures}
            tables.add_samples(options.out / "results" / "five_unets.npz", shown)
        tables.write_json(options.out / "five_unets.json", content)
        print(name, answer, flush=True)


def main() -> None:
    parser = tables.command_line(__doc__, WEIGHTS)
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="of one core, for each network"
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=SAMPLES,
        help=f"pictures that FD compares, {SHOWN} to 1,000",
    )
    options = tables.parsed(parser)
    if not SHOWN <= options.samples <= 1000:
        parser.error(
            f"--samples {options.samples}; expected {SHOWN} to 1,000, the number of "
            "held-out pictures that the floor is made of"
        )
    path = options.out / "five_unets.json"
    folder = options.out / "five_unets"
    content = tables.so_far(path, settings_of(options), parser, real={}, runs={})
    make_real(content, options, folder)
    make_runs(content, options, folder)


if __name__ == "__main__":
    main()
