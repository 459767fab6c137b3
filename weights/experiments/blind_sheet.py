"""Judge samples by eye: `python weights/experiments/blind_sheet.py 201 --out FOLDER`.

This draws four numbered sheets (about a minute). They show 64 samples of epoch 31,
drawn with restarts and not selected, shuffled among 64 real `test` sprites. A reader
looks through reference.png (128 training sprites), answers QUESTION for each of the
128 numbered pictures, and gives the numbers to reject. readings.json keeps what
readers said, and which places held samples. Without a seed, this program counts it.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import tables
from shipped import RESTARTS, ddpm, draw_batches, shipped_network, weights_file

import diffusion_utilities as du  # found two folders up

QUESTION = (
    "Is this a sprite that anyone would accept in such a set? Reject what is a blot, "
    "a mixture of two things, unrecognisable, or visibly broken."
)
N = 64
WEIGHTS = "model_31"


def shuffled(seed: int, n_test: int) -> tuple[np.ndarray, np.ndarray]:
    """The `test` sprites of a sheet (N,), and the order of its pictures (2 N,).

    Place i shows sample order[i], or, from N on, real sprite order[i] - N.
    """
    rng = np.random.default_rng(seed + 100)
    reals = rng.choice(n_test, N, replace=False)
    order = rng.permutation(2 * N)
    return reals, order


def draw(seed: int) -> np.ndarray:
    """N samples with restarts, (N, 16, 16, 3) uint8."""
    return draw_batches(shipped_network(WEIGHTS), N, ddpm, seed=seed, **RESTARTS)


def write_sheets(seed: int, out: Path) -> list[int]:
    """Write sheet_1.png to sheet_4.png and reference.png.

    Returns the numbers, 1 to 2 N, that are samples.
    """
    test = du.load_sprites("test").images
    reals, order = shuffled(seed, len(test))
    pictures = np.concatenate([draw(seed), test[reals]])[order]
    out.mkdir(parents=True, exist_ok=True)
    for number in range(1, 5):
        first = (number - 1) * 32
        labels = [f"{first + i + 1}-{first + i + 8}" for i in range(0, 32, 8)]
        some = pictures[first : first + 32]
        sheet = du.show_images(some, columns=8, zoom=8, rows=labels)
        sheet.save(out / f"sheet_{number}.png")
    reference().save(out / "reference.png")
    return (np.flatnonzero(order < N) + 1).tolist()


def reference():
    """128 training sprites on one sheet, always the same."""
    train = du.load_sprites("train").images
    rows = np.random.default_rng(0).choice(len(train), 128, replace=False)
    return du.show_images(train[rows], columns=16, zoom=5)


def made_with() -> dict:
    """What the samples depend on, as JSON has it.

    Readings of other weights or another sampler say nothing about these.
    """
    return {"weights": tables.sha256(weights_file(WEIGHTS)), "sampler": RESTARTS}


def count(stored: dict) -> list[tuple[str, str, int, int]]:
    """Count what readers said.

    Returns (reader, seed, samples accepted of N, real sprites accepted of N) of each
    reading. Raises ValueError for a reading that is impossible.
    """
    every = set(range(1, 2 * N + 1))
    rows = []
    for reading in stored["readings"]:
        reader, seed = reading["reader"], reading["seed"]
        samples = set(stored["samples"][seed])
        rejected = set(reading["rejected"])
        are_different = len(rejected) == len(reading["rejected"])
        if not are_different or not rejected <= every:
            raise ValueError(
                f"rejected={reading['rejected']} of reader {reader}; "
                f"expected different numbers from 1 to {2 * N}"
            )
        accepted = N - len(rejected & samples)
        accepted_reals = N - len(rejected - samples)
        rows.append((reader, seed, accepted, accepted_reals))
    return rows


def print_counts(stored: dict) -> None:
    """Print what each reader accepted, and what all did together."""
    rows = count(stored)
    for reader, seed, samples, reals in rows:
        print(
            f"reader {reader}, sheet {seed}: {samples} of {N} samples accepted, "
            f"{reals} of {N} real sprites"
        )
    n = N * len(rows)
    samples = sum(row[2] for row in rows)
    reals = sum(row[3] for row in rows)
    print(
        f"all: {samples} of {n} judgements accept a sample, {samples / n:.1%}; "
        f"{reals} of {n} a real sprite, {reals / n:.1%}"
    )
    is_current = stored["made_with"] == made_with()
    print(f"with the weights that are shipped and this sampler: {is_current}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "seed",
        type=int,
        nargs="?",
        help="draw the sheets of this seed, 0 or more (default: count what readers "
        "said)",
    )
    parser.add_argument("--out", type=Path, help="folder for the sheets")
    options = parser.parse_args()
    draws = options.seed is not None
    if draws != (options.out is not None) or (draws and options.seed < 0):
        parser.error("give a seed, 0 or more, and --out FOLDER together, or neither")
    if not draws:
        readings = du.WEIGHTS / "readings.json"
        print_counts(json.loads(readings.read_text(encoding="utf8")))
        return
    numbers = write_sheets(options.seed, options.out)
    print(f"{options.out}: ask each reader", QUESTION, sep="\n")
    print(f"Afterwards: the samples are the numbers {numbers}")


if __name__ == "__main__":
    main()
