"""Lesson 10's five U-Nets and their variants, each trained for the same seconds.

`python weights/experiments/five_unets.py` takes 95 minutes of one core. The networks
and their training loop are in five_networks.py, which the lesson imports and shows.

It writes weights/five_unets.json (a row for each run, with three seeds), the first
seed's weights for digits in weights/five_unets/ (half precision), the two classifiers
whose features FD compares, and a few samples of each run of that seed in
weights/results/five_unets.npz. Seconds are those of one core (`time.process_time`), so
runs can go on side by side (`--workers`). Rows that are there already are kept.
"""

import argparse
import hashlib
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
DATA_SETS = ("mnist", "fashion_mnist")
SECONDS = 100
SEEDS = (1, 2, 3)
SAMPLES = 500
SHOWN = 10
CLASSIFIER_SECONDS = 60
SHIPPED = (  # designs whose weights the lesson loads
    "time as a channel",
    "no time",
    "time at each level",
    "residual",
    "ContextUnet",
)


def planned_runs() -> list[tuple[str, str, int]]:
    """(data set, design, seed) of each row, in the order of the table."""
    garments = [name for name in DESIGNS if "cosine" not in name]
    plans = (
        ("mnist", list(DESIGNS)),
        ("mnist", list(VARIANTS)),
        ("fashion_mnist", garments),
    )
    runs = []
    for data, names in plans:
        for seed in SEEDS:
            runs += [(data, name, seed) for name in names]
    return runs


def file_of(data: str, name: str) -> str:
    """The file of a run's weights: mnist_time_as_a_channel.pth."""
    name = name.replace(",", "").replace(" ", "_")
    return f"{data}_{name}.pth"


def data_digest(data: str) -> str:
    """SHA-256 of the pictures and labels of a data set as they are loaded."""
    pictures, labels = du.load_digits(data)
    content = pictures.numpy().tobytes() + labels.numpy().tobytes()
    return hashlib.sha256(content).hexdigest()


def pictures_of(data: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (N, 1, 28, 28) in [-1, 1]: (training, held out)."""
    pictures, _ = du.load_digits(data)
    return split(pictures * 2 - 1)


# ---- The classifiers, and the floor of FD -------------------------------------------


def shifted(x: torch.Tensor, generator: torch.Generator, far: int = 2) -> torch.Tensor:
    """Move a batch by up to `far` pixels each way; background comes in at the edge."""
    across, down = torch.randint(-far, far + 1, (2,), generator=generator).tolist()
    margins = (far + across, far - across, far + down, far - down)
    wider = F.pad(x, margins, value=-1)
    return wider[:, :, far:-far, far:-far]


def train_classifier(data: str, seconds: float, folder: Path) -> float:
    """Train a classifier and write its weights.

    Returns the share of held-out pictures whose class it names.
    """
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network = classifier()
    pictures, labels = du.load_digits(data)
    training, held_out = split(pictures * 2 - 1)
    labels, held_out_labels = split(labels)
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
    path = folder / file_of(data, "classifier")
    du.save_weights(network, path)
    shipped = du.load_weights(classifier(), path)  # half precision
    with torch.no_grad():
        named = shipped(held_out).argmax(1)
    right = (named == held_out_labels).float().mean()
    return round(float(right), 4)


def distance_to_training(
    pictures: torch.Tensor, training: torch.Tensor, data: str, folder: Path
) -> float:
    """The FD of pictures, by the features of the data set's classifier."""
    path = folder / file_of(data, "classifier")
    judge = du.load_weights(classifier(), path)
    ours = features(judge, pictures)
    theirs = features(judge, training)
    return round(du.frechet_distance(ours, theirs), 3)


def floor(data: str, samples: int, folder: Path) -> dict:
    """The FD of held-out real pictures, in sets as large as the samples."""
    training, held_out = pictures_of(data)
    distances = []
    for part in held_out.split(samples):
        if len(part) == samples:
            distances.append(distance_to_training(part, training, data, folder))
    return {"FD": distances}


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


def row(
    run: tuple[str, str, int], seconds: float, samples: int, folder: Path
) -> tuple[dict, np.ndarray]:
    """Train one network and measure it, in a process of its own, on one core.

    Returns its row, and its first samples as uint8.
    """
    data, name, seed = run
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    build, schedule = (DESIGNS | VARIANTS)[name]
    training, held_out = pictures_of(data)
    network = build(1).to(memory_format=torch.channels_last)
    started = time.perf_counter()
    model, losses = train_for(
        seconds, network, schedule, training, seed, clock=time.process_time
    )
    wall = time.perf_counter() - started
    if seed == SEEDS[0] and data == "mnist" and name in SHIPPED:
        path = folder / file_of(data, name)
        du.save_weights(model, path)
        model = du.load_weights(build(1), path)  # half precision, as it ships
    pictures = drawn(model, schedule, samples)
    loss = mean_losses(model, held_out, schedule, steps_throughout(schedule)).mean()
    levels = mean_losses(model, held_out, schedule, steps_at_levels(schedule))
    answer = {
        "data": data,
        "design": name,
        "seed": seed,
        "seconds": seconds,
        "wall_seconds": round(wall),
        "steps": len(losses),
        "pictures_a_second": round(len(losses) * 16 / seconds),
        "loss": round(float(loss), 4),
        "loss_at_levels": [round(value, 4) for value in levels.tolist()],
        "FD": distance_to_training(pictures, training, data, folder),
    }
    return answer, du.to_pictures(pictures[:SHOWN])[..., 0]


# ---- The program --------------------------------------------------------------------


def settings_of(options: argparse.Namespace) -> dict:
    """What every row depends on: other settings or data need another file."""
    return {
        "seconds": options.seconds,
        "samples": options.samples,
        "threads": 1,
        "version": VERSION,
        "data": {data: data_digest(data) for data in DATA_SETS},
    }


def make_real(content: dict, options: argparse.Namespace, folder: Path) -> None:
    """Train the classifiers that are missing, and measure real pictures with them."""
    torch.set_num_threads(1)
    seconds = min(CLASSIFIER_SECONDS, options.seconds)
    for data in DATA_SETS:
        if data not in content["real"]:
            right = train_classifier(data, seconds, folder)
            real = floor(data, options.samples, folder)
            content["real"][data] = {"classifier_right": right} | real
            tables.write_json(options.out / "five_unets.json", content)


def make_runs(content: dict, options: argparse.Namespace, folder: Path) -> None:
    """Make the rows that are missing, and write each as soon as it is done."""
    planned = planned_runs()
    done = {}
    for known in content["runs"]:
        done[known["data"], known["design"], known["seed"]] = known
    jobs = {}
    for run in planned:
        if run not in done:
            jobs[run] = (run, options.seconds, options.samples, folder)
    samples = options.out / "results" / "five_unets.npz"
    for run, result in tables.side_by_side(row, jobs, options.workers):
        answer, pictures = result
        data, name, seed = run
        tables.add_row(done, run, answer, planned)
        content["runs"] = list(done.values())
        if seed == SEEDS[0]:
            tables.add_samples(samples, {f"{data}: {name}": pictures})
        tables.write_json(options.out / "five_unets.json", content)
        print(answer, flush=True)


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
    content = tables.so_far(path, settings_of(options), parser, real={}, runs=[])
    make_real(content, options, folder)
    make_runs(content, options, folder)


if __name__ == "__main__":
    main()
