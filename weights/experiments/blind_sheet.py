"""Judge samples by eye, without knowing which are real: `python weights/blind_sheet.py 201 --out FOLDER` draws numbered sheets (about a minute).

The four sheets show 64 samples of epoch 31, drawn with restarts and not picked, shuffled among 64 real `test` sprites. A reader leafs through
reference.png (128 training sprites), answers QUESTION for each of the 128 numbered pictures, and gives the numbers to reject. readings.json keeps
what readers said, and which places held samples; without a seed, this program counts it.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from make_results import RESTARTS, network  # noqa: E402

import diffusion_utilities as du  # noqa: E402  (found beside this folder)

QUESTION = "Is this a sprite that anyone would accept in such a set? Reject what is a blot, a mixture of two things, unrecognisable, or visibly broken."
N, WEIGHTS = 64, "model_31"


def shuffled(seed: int, n_test: int) -> tuple[np.ndarray, np.ndarray]:
    """Which `test` sprites a sheet has (N,), and its order (2 N,): place i shows sample order[i], or from N on real sprite order[i] - N."""
    rng = np.random.default_rng(seed + 100)
    return rng.choice(n_test, N, replace=False), rng.permutation(2 * N)


def draw(seed: int) -> np.ndarray:
    """N samples with restarts, (N, 16, 16, 3) uint8."""
    generator = torch.Generator().manual_seed(seed)
    return du.to_pictures(
        du.sample_ddpm(
            network(WEIGHTS),
            du.NoiseSchedule.linear(),
            shape=(N, 3, 16, 16),
            generator=generator,
            keep=0,
            **RESTARTS,
        )[0]
    )


def write_sheets(seed: int, out: Path) -> list[int]:
    """sheet_1.png to sheet_4.png and reference.png; returns the numbers, 1 to 2 N, that are samples."""
    test, train = du.load_sprites("test").images, du.load_sprites("train").images
    rows, order = shuffled(seed, len(test))
    pictures = np.concatenate([draw(seed), test[rows]])[order]
    out.mkdir(parents=True, exist_ok=True)
    for k in range(0, 2 * N, 32):
        numbers = [f"{k + i + 1}-{k + i + 8}" for i in range(0, 32, 8)]
        du.show_images(pictures[k : k + 32], columns=8, zoom=8, rows=numbers).save(
            out / f"sheet_{k // 32 + 1}.png"
        )
    du.show_images(
        train[np.random.default_rng(0).choice(len(train), 128, replace=False)],
        columns=16,
        zoom=5,
    ).save(out / "reference.png")
    return (np.flatnonzero(order < N) + 1).tolist()


def made_with() -> dict:
    """What the samples depend on, as JSON has it: readings of other weights or another sampler say nothing about these."""
    return {
        "weights": hashlib.sha256((HERE / f"{WEIGHTS}.pth").read_bytes()).hexdigest(),
        "sampler": RESTARTS,
    }


def count(stored: dict) -> list[tuple[str, str, int, int]]:
    """(reader, seed, samples accepted of N, real ones accepted of N) of each reading. Raises ValueError for one that cannot be."""
    rows = []
    for reading in stored["readings"]:
        samples, rejected = (
            set(stored["samples"][reading["seed"]]),
            set(reading["rejected"]),
        )
        if len(rejected) != len(reading["rejected"]) or not rejected <= set(
            range(1, 2 * N + 1)
        ):
            raise ValueError(
                f"rejected={reading['rejected']} of reader {reading['reader']}; expected different numbers from 1 to {2 * N}"
            )
        rows.append(
            (
                reading["reader"],
                reading["seed"],
                N - len(rejected & samples),
                N - len(rejected - samples),
            )
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "seed",
        type=int,
        nargs="?",
        help="draw the sheets of this seed, 0 or more (default: count what readers said)",
    )
    parser.add_argument("--out", type=Path, help="folder for the sheets")
    options = parser.parse_args()
    if (options.seed is None) != (options.out is None) or (options.seed or 0) < 0:
        parser.error("give a seed, 0 or more, and --out FOLDER together, or neither")
    if options.seed is not None:
        numbers = write_sheets(options.seed, options.out)
        return print(
            f"{options.out}: ask each reader\n{QUESTION}\nAfterwards: the samples are the numbers {numbers}"
        )
    stored = json.loads((HERE / "readings.json").read_text(encoding="utf8"))
    rows = count(stored)
    for reader, seed, samples, reals in rows:
        print(
            f"reader {reader}, sheet {seed}: {samples} of {N} samples accepted, {reals} of {N} real sprites"
        )
    all_samples, all_reals, n = (
        sum(row[2] for row in rows),
        sum(row[3] for row in rows),
        N * len(rows),
    )
    print(
        f"all: {all_samples} of {n} judgements accept a sample, {all_samples / n:.1%}; {all_reals} of {n} a real sprite, {all_reals / n:.1%}"
    )
    print(
        f"with the weights that are shipped and this sampler: {stored['made_with'] == made_with()}"
    )


if __name__ == "__main__":
    main()
