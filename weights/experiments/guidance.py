"""Guided samples of lesson 6: `python weights/experiments/guidance.py`.

Writes weights/guidance.json: scores of samples asked for by class with several weights
of guidance, of the strong network and of the ContextUnet, beside held-out real sprites;
and how often the strong network draws a pair of factors as asked, for pairs that
training shows and for pairs that it never shows together. Three seeds each. It takes
about 40 minutes of one core. A row that was made with these settings, weights and data
is kept, so an interrupted program continues where it stopped.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from shipped import (
    BATCH,
    RULER,
    contexts,
    ddpm,
    draw_batches,
    held_out_sprites,
    shipped_network,
    weights_file,
)
from tables import (
    add_row,
    command_line,
    digest,
    missing,
    parsed,
    rounded,
    side_by_side,
    so_far,
    write_json,
)

import diffusion_utilities as du  # found two folders up

VERSION = 2  # raise it when the code makes other rows with the same settings
SCHEDULE = du.NoiseSchedule.linear()
SAMPLES = 200
STEPS = 20
SEEDS = (4, 5, 6)
WEIGHTS = (0, 1, 1.5, 2, 3, 5, 8)
PAIR_WEIGHTS = (1, 2, 3, 5)
NETWORKS = {
    "strong network": "sprite_unet_trained",
    "ContextUnet": "context_model_trained",
}
MEASURES = ("class as asked", "legal", "total variation", "recall", "coverage", "FD")

# ---- Drawing ------------------------------------------------------------------------


def network(name: str) -> torch.nn.Module:
    """The network of a file of weights, in eval mode."""
    if name == "sprite_unet_trained":
        return du.sprite_network()
    return shipped_network(name).eval()


def drawn(name: str, weight: float, context: torch.Tensor, seed: int) -> np.ndarray:
    """A picture for each row of the context: (N, 16, 16, 3) uint8."""
    model = network(name)
    if weight == 0:
        context = torch.zeros_like(context)
    elif weight != 1:
        model = du.guided(model, weight)
    return draw_batches(
        model,
        len(context),
        ddpm,
        seed=seed,
        context=context,
        steps=du.straight_steps(SCHEDULE, STEPS),
        variance="beta_tilde",
    )


# ---- Pairs of factors ---------------------------------------------------------------


def asked_pairs(held_out: bool, n: int, seed: int) -> list[dict[str, str]]:
    """What n pictures are asked for: the classes in turn, with a pair of factors.

    held_out: all pairs that training never shows, in turn; else pairs that it shows,
    at random.
    """
    rng = np.random.default_rng(seed)
    asked = []
    for i in range(n):
        turn, k = divmod(i, len(du.CLASS_NAMES))
        name = du.CLASS_NAMES[k]
        pairs = du.sprite_factory().held_out_pairs(name)
        if held_out:
            every = sorted(pairs.pairs)
            one, other = every[turn % len(every)]
        else:
            every = shown_pairs(name)
            one, other = every[rng.integers(len(every))]
        asked.append({"class": name, pairs.first: one, pairs.second: other})
    return asked


def shown_pairs(name: str) -> list[tuple[str, str]]:
    """The pairs of values of a class that training may show."""
    factory = du.sprite_factory()
    pairs = factory.held_out_pairs(name)
    legal = factory.factors_of(name)
    shown = []
    for one in legal[pairs.first]:
        for other in legal[pairs.second]:
            if (one, other) not in pairs.pairs:
                shown.append((one, other))
    return shown


def factor_rows(asked: list[dict[str, str]]) -> torch.Tensor:
    """A context row for each dictionary, such as {"class": "food", "kind": "apple"}."""
    columns = du.sprite_scoring().factor_columns()
    places = {column: place for place, column in enumerate(columns)}
    rows = torch.zeros(len(asked), len(columns))
    for row, wanted in zip(rows, asked):
        for column in wanted.items():
            row[places[column]] = 1
    return rows


def pair_scores(
    pictures: np.ndarray, asked: list[dict[str, str]]
) -> dict[str, tuple[float, float, float]]:
    """The shares of pictures that are as asked, legal or not.

    pictures: (n, 16, 16, 3) uint8; asked: n times a class and two factors.
    Returns {measure: (value, low, high)}, the last measures class by class.
    """
    scoring = du.sprite_scoring()
    train = du.load_sprites("train").factors
    found, values = scoring.verdicts(pictures, train, asked)
    right = []
    for row, want in zip(found, asked):
        right.append([row.get(factor) == value for factor, value in want.items()])
    right = np.array(right)  # (n, 3)
    every = right.all(1)
    shares = {
        "class": right[:, 0],
        "first": right[:, 1],
        "second": right[:, 2],
        "all": every,
        "legal": values["legal"],
        "all, and legal": every & values["legal"],
    }
    classes = np.array([want["class"] for want in asked])
    for name in du.CLASS_NAMES:
        shares[f"all, {name}"] = every[classes == name]
    return {measure: scoring.interval(share) for measure, share in shares.items()}


# ---- Rows ---------------------------------------------------------------------------


def class_scores(pictures: np.ndarray, asked=None) -> dict:
    """The scores in MEASURES that there are."""
    scores = du.sprite_scores(pictures, asked)
    return {measure: scores[measure] for measure in MEASURES if measure in scores}


@dataclass(frozen=True)
class Real:
    """Held-out real sprites: the floor."""

    seed: int

    def score(self, n: int) -> dict:
        return class_scores(held_out_sprites(n, self.seed))


@dataclass(frozen=True)
class Classes:
    """Samples of each class in turn."""

    weights: str
    guidance: float
    seed: int

    def score(self, n: int) -> dict:
        asked = contexts("context", n)
        pictures = drawn(self.weights, self.guidance, asked, self.seed)
        return class_scores(pictures, asked.numpy())


@dataclass(frozen=True)
class Pairs:
    """Samples asked for a class and two of its factors."""

    held_out: bool
    guidance: float
    seed: int
    weights: str = "sprite_unet_trained"

    def score(self, n: int) -> dict:
        asked = asked_pairs(self.held_out, n, self.seed)
        pictures = drawn(self.weights, self.guidance, factor_rows(asked), self.seed)
        return pair_scores(pictures, asked)


def planned_rows() -> dict[str, Real | Classes | Pairs]:
    rows = {}
    for seed in SEEDS:
        rows[f"held-out real sprites, seed {seed}"] = Real(seed)
    for label, weights in NETWORKS.items():
        for w in WEIGHTS:
            for seed in SEEDS:
                name = f"{label}, w = {w}, seed {seed}"
                rows[name] = Classes(weights, w, seed)
    for held_out, kind in ((False, "seen"), (True, "held-out")):
        for w in PAIR_WEIGHTS:
            for seed in SEEDS:
                name = f"{kind} pairs, w = {w}, seed {seed}"
                rows[name] = Pairs(held_out, w, seed)
    return rows


ROWS = planned_rows()


def row_digest(row: Real | Classes | Pairs, n: int) -> str:
    """The digest of a row: its settings, its weights, and the ruler."""
    common = {"version": VERSION, "n": n, "batch": BATCH, "steps": STEPS}
    settings = {"kind": type(row).__name__, **common, **asdict(row)}
    files = [*RULER]
    if not isinstance(row, Real):
        files.append(weights_file(row.weights))
    return digest(settings, files)


def score(name: str, n: int) -> dict:
    """The scores of a row; runs in a process of its own, on one core."""
    torch.set_num_threads(1)
    return rounded(ROWS[name].score(n))


def write_guidance(path: Path, content: dict, n: int, workers: int = 1) -> None:
    """Score what is missing in the content, and write the file after each row."""
    digests = {name: row_digest(row, n) for name, row in ROWS.items()}
    names = missing(content["rows"], digests, "drawn_with")
    jobs = {name: (name, n) for name in names}
    for name, scores in side_by_side(score, jobs, workers):
        row = {"drawn_with": digests[name], "scores": scores}
        add_row(content["rows"], name, row, order=ROWS)
        write_json(path, content)
        print(f"{name}: scored", flush=True)


def main() -> None:
    parser = command_line(__doc__, du.WEIGHTS / "guidance.json")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    options = parsed(parser)
    settings = {"samples": options.samples, "steps": STEPS}
    content = so_far(options.out, settings, parser, rows={})
    write_guidance(options.out, content, options.samples, options.workers)


if __name__ == "__main__":
    main()
