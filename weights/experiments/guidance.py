"""Guided samples of lesson 6: `python weights/experiments/guidance.py`.

Writes weights/guidance.json: scores of guided samples for several weights w, and how
often a network draws pairs of factors that it is asked for, both pairs that training
shows and pairs that it never shows together. Three seeds a row, 300 samples each; it
takes about half an hour on two cores. A row that was made with these settings and
these data is kept, so an interrupted program continues where it stopped.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from shipped import (
    BATCH,
    RULER,
    TRUST,
    contexts,
    ddim,
    ddpm,
    draw_batches,
    shipped_network,
    weights_file,
)
from tables import command_line, digest, fill, parsed, stored

import diffusion_utilities as du  # found two folders up

VERSION = 1  # raise it when the code makes other rows with the same settings
N = 300
SEEDS = (4, 5, 6)
SAMPLERS = {"DDPM": ddpm, "DDIM": ddim}
TILDE_20 = {"variance": "beta_tilde", "steps": 20}
FACTORS = "factor_model_trained"

# ---- Guidance -----------------------------------------------------------------------


def guided(model: Callable, w: float, weak: Callable | None = None) -> Callable:
    """Guidance: from a base prediction towards the model's, and past it for w > 1.

    weak: the model that the base prediction comes from. None: the same model without
    the context, which is classifier-free guidance.
    Returns a function (x, t, c) -> noise.

    Lesson 6.
    """
    if w == 1:
        return model

    def predict(x, t, c):
        base = model(x, t, None) if weak is None else weak(x, t, c)
        return base + w * (model(x, t, c) - base)

    return predict


def asked_apart(
    model: Callable, w: float, n_classes: int = len(du.CLASS_NAMES)
) -> Callable:
    """Guidance by two factors, each asked for alone with its class.

    The two guidances are added to what the model predicts for the class alone.
    Contexts hold the class and exactly two factors.
    Returns a function (x, t, c) -> noise.

    Lesson 6.
    """

    def predict(x, t, c):
        class_alone = c.clone()
        class_alone[:, n_classes:] = 0
        base = model(x, t, class_alone)
        first, second = factors_alone(c, class_alone)
        guidances = (model(x, t, first) - base) + (model(x, t, second) - base)
        return base + w * guidances

    return predict


def factors_alone(c: torch.Tensor, class_alone: torch.Tensor) -> list[torch.Tensor]:
    """Two contexts like c, with only the first and only the second of its factors."""
    rows = torch.arange(len(c))
    columns = torch.stack([row.nonzero().flatten()[1:] for row in c])
    answers = []
    for i in (0, 1):
        one = class_alone.clone()
        one[rows, columns[:, i]] = 1
        answers.append(one)
    return answers


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


@dataclass(frozen=True)
class Guided:
    """Guided samples, each class in turn; weak: as in `guided`."""

    weights: str
    sampler: str
    options: dict
    w: float
    seed: int
    weak: str | None = None

    def score(self) -> dict:
        model = shipped_network(self.weights)
        weak = shipped_network(self.weak) if self.weak else None
        context = contexts(self.weights, N)
        pictures = draw_batches(
            guided(model, self.w, weak),
            N,
            SAMPLERS[self.sampler],
            seed=self.seed,
            context=context,
            **self.options,
        )
        return du.sprite_scores(pictures, context)


@dataclass(frozen=True)
class Asked:
    """Samples asked for pairs of factors; together: one guidance for the pair."""

    held_out: bool
    together: bool
    w: float
    seed: int
    weights: str = FACTORS
    options: dict = field(default_factory=TILDE_20.copy)

    def score(self) -> dict:
        asked = asked_pairs(self.held_out, N, self.seed)
        context = torch.from_numpy(du.sprite_scoring().as_context(asked))
        way = guided if self.together else asked_apart
        model = way(shipped_network(self.weights), self.w)
        pictures = draw_batches(
            model, N, ddpm, seed=self.seed, context=context, **self.options
        )
        return pair_scores(pictures, asked)


def guided_rows() -> dict[str, Guided]:
    """Several networks and samplers, guided with several weights."""
    ddim_20 = {"steps": 20}
    kinds = {
        "PaletteNet, DDPM": ("best_trained", "DDPM", TILDE_20),
        "PaletteNet, DDIM": ("best_trained", "DDIM", ddim_20),
        "ContextUnet, DDIM": ("context_model_trained", "DDIM", ddim_20),
    }
    rows = {}
    for label, (weights, sampler, options) in kinds.items():
        for w in (0, 1, 2, 4, 8):
            for seed in SEEDS:
                row = Guided(weights, sampler, options, w, seed)
                rows[f"{label}, w = {w}, seed {seed}"] = row
    for w in (1, 2):
        for seed in SEEDS:
            row = Guided("model_31", "DDPM", TILDE_20, w, seed, weak="model_12")
            rows[f"epoch 31 by epoch 12, w = {w}, seed {seed}"] = row
    return rows


def asked_rows() -> dict[str, Asked]:
    """Pairs that training shows or not, asked for together or apart."""
    rows = {}
    for held_out, kind in ((False, "seen"), (True, "held-out")):
        for together, how in ((True, "together"), (False, "apart")):
            for w in (1, 2):
                for seed in SEEDS:
                    name = f"{kind} pairs, {how}, w = {w}, seed {seed}"
                    rows[name] = Asked(held_out, together, w, seed)
    return rows


FLOOR = "test (floor)"
ROWS = guided_rows() | asked_rows()


def row_digest(row: Guided | Asked) -> str:
    """The digest of a row: its settings, its weights, and the ruler."""
    common = {"version": VERSION, "n": N, "batch": BATCH, "trust": TRUST}
    settings = {"kind": type(row).__name__, **common, **asdict(row)}
    weak = getattr(row, "weak", None)
    names = [row.weights, weak] if weak else [row.weights]
    return digest(settings, [*RULER, *map(weights_file, names)])


def floor_digest() -> str:
    """The digest of the row of real sprites."""
    return digest({"version": VERSION, "n": N, "set": FLOOR}, RULER)


def floor_scores() -> dict:
    """The scores of N held-out real sprites."""
    test = du.load_sprites("test")
    rows = np.random.default_rng(0).permutation(len(test))[:N]
    return du.sprite_scores(test.images[rows], test.c[rows].numpy())


def write_guidance(path: Path) -> None:
    """Score what is missing in the file at this path."""
    content = stored(path, {"n": N, "rows": {}})
    digests = {FLOOR: floor_digest()}
    for name, row in ROWS.items():
        digests[name] = row_digest(row)

    def score(name):
        return floor_scores() if name == FLOOR else ROWS[name].score()

    fill(path, content, "rows", digests, score)


def main() -> None:
    parser = command_line(__doc__, du.WEIGHTS / "guidance.json", workers=False)
    write_guidance(parsed(parser).out)


if __name__ == "__main__":
    main()
