"""Edit real sprites and count what changed: `python weights/experiments/editing.py`.

Writes weights/editing.json for lesson 7. Each of 300 sprites of `test` shall change one
factor, drawn at random, to another value. An edit is right if the decoder reads the
asked value, and every other factor as before. Rows: three methods from several steps
(the strength), and two baselines. The network may be told the class and the factor
that changes; only the baseline "redrawn" is told everything. The part "seam" holds the
errors of each column of pixels where the right half of a sprite is drawn anew. The
first 60 sprites and their edits by one row go to weights/results/editing.npz.

It takes about 10 minutes of a core. A row that was made with these settings and
weights is kept, so an interrupted program continues where it stopped.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from shipped import SPRITE_FILES
from tables import add_samples, command_line, digest, fill, parsed, so_far

import diffusion_utilities as du  # found two folders up

VERSION = 1  # raise it when the code makes other rows with the same settings
SCHEDULE = du.NoiseSchedule.linear()
RHO = (1 / SCHEDULE.ab - 1).sqrt()  # of the noise, where the picture counts 1
STEPS = du.straight_steps(SCHEDULE, 20)
STARTS = (141, 214, 299, 364, 444)  # of STEPS
SAMPLES = 300
SEAM_SAMPLES = 300
BATCH = 50
SEED = 4
GUIDANCE = 1.5  # of the difference
INVERSION_START = 33  # of STEPS: noise that the inversion begins with
SEAMS = {  # (strides, how often each is taken)
    "8 strides": (8, 1),
    "8 strides, 5 times": (8, 5),
    "40 strides": (40, 1),
}
WEIGHTS = du.WEIGHTS / "sprite_unet_trained.pth"


# ---- What is asked ------------------------------------------------------------------


@dataclass(frozen=True)
class Edits:
    """Real sprites, and how each of them shall change.

    x: (N, 3, 16, 16). factors: the factor to change. old, new: what may be said, the
    class and this factor. wanted: all factors of the edited sprite.
    """

    x: Tensor
    factors: list[str]
    old: list[dict[str, str]]
    new: list[dict[str, str]]
    wanted: list[dict[str, str]]


def draw_edits(n: int, seed: int = SEED) -> Edits:
    """n sprites of `test`, the classes in turn, each with a factor and a new value."""
    rng = np.random.default_rng(seed)
    test = du.load_sprites("test")
    order = rng.permutation(len(test))
    classes = [test.factors[row]["class"] for row in order]
    of_class = {
        name: iter([row for row, k in zip(order, classes) if k == name])
        for name in du.CLASS_NAMES
    }
    rows = [next(of_class[du.CLASS_NAMES[i % 5]]) for i in range(n)]
    edits = Edits(test.x[rows], [], [], [], [])
    for row in rows:
        add_edit(edits, test.factors[row], rng)
    return edits


def add_edit(edits: Edits, before: dict[str, str], rng: np.random.Generator) -> None:
    """Choose a factor of a sprite and its new value, and write them down."""
    name = before["class"]
    legal = du.sprite_factory().factors_of(name)
    factor = str(rng.choice(list(legal)))
    others = [value for value in legal[factor] if value != before[factor]]
    value = str(rng.choice(others))
    edits.factors.append(factor)
    edits.old.append({"class": name, factor: before[factor]})
    edits.new.append({"class": name, factor: value})
    edits.wanted.append({**before, factor: value})


def as_rows(asked: Sequence[dict[str, str]]) -> Tensor:
    """Contexts (N, 175)."""
    scoring = du.sprite_scoring()
    return torch.from_numpy(scoring.as_context(asked, scoring.factor_columns()))


# ---- The methods --------------------------------------------------------------------
# Each is method(model, x, old, new, steps, generator) -> edited pictures. `steps` lead
# from the start of the edit to 0; old and new are contexts.


@torch.no_grad()
def predicted(model: Callable, x: Tensor, t: int, context: Tensor) -> Tensor:
    """The noise in x at the whole step t."""
    return model(x, torch.tensor(t / SCHEDULE.T), context)


def normal_like(x: Tensor, generator: Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator)


def denoised(model, x, t, s, context, generator) -> Tensor:
    """One step of DDPM, with the smaller variance."""
    return du.denoise_add_noise(
        x,
        t,
        predicted(model, x, t, context),
        SCHEDULE,
        z=normal_like(x, generator),
        t_prev=s,
        variance="beta_tilde",
    )


def vary(model, x, old, new, steps, generator) -> Tensor:
    """SDEdit: add noise up to the first step, then denoise."""
    x = du.perturb_input(x, steps[0], normal_like(x, generator), SCHEDULE)
    for t, s in zip(steps, steps[1:]):
        x = denoised(model, x, t, s, new, generator)
    return x


def invert(model, x, old, new, steps, generator) -> Tensor:
    """DDIM up under the old context, and down under the new one.

    The way up begins with a little noise, because training had no clean pictures.
    """
    up = [t for t in reversed(steps) if t >= INVERSION_START]
    x = du.perturb_input(x, up[0], normal_like(x, generator), SCHEDULE)
    for t, s in zip(up, up[1:]):
        noise = predicted(model, x, t, old)
        x_0 = du.predict_x0(x, t, noise, SCHEDULE)
        x = du.perturb_input(x_0, s, noise, SCHEDULE)
    for t, s in zip(steps, steps[1:]):
        x = du.denoise_ddim(x, t, s, predicted(model, x, t, new), SCHEDULE)
    return x


def difference(model, x, old, new, steps, generator, guidance=GUIDANCE) -> Tensor:
    """Move by the difference of two predictions, under the old and the new context.

    Both pictures, the real and the edited one, get the same fresh noise at each step.
    guidance: how far the prediction for the edited picture goes from the old context to
    the new one, and past it if above 1.
    """
    edited = x
    for t, s in zip(steps, steps[1:]):
        noise = normal_like(x, generator)
        real_t = du.perturb_input(x, t, noise, SCHEDULE)
        edited_t = du.perturb_input(edited, t, noise, SCHEDULE)
        asked = predicted(model, edited_t, t, new)
        if guidance != 1:
            away = predicted(model, edited_t, t, old)
            asked = away + guidance * (asked - away)
        move = asked - predicted(model, real_t, t, old)
        edited = edited + float(RHO[s] - RHO[t]) * move
    return edited


def difference_plain(model, x, old, new, steps, generator) -> Tensor:
    """The difference without guidance."""
    return difference(model, x, old, new, steps, generator, guidance=1)


METHODS = {
    "variation": vary,
    "inversion": invert,
    "difference": difference_plain,
    "difference, guided": difference,
}
REDRAWN = "redrawn from the full description"
SPECIFIED = "the decoded specification changed"
SHOWN = "difference, guided, t = 444"  # the row whose pictures are kept
SHOWN_SAMPLES = 60


def edited(model: Callable, edits: Edits, method: Callable, start: int) -> np.ndarray:
    """The pictures (N, 16, 16, 3) after an edit that begins at step `start`."""
    generator = Generator().manual_seed(SEED)
    steps = [t for t in STEPS if t <= start]
    pictures = []
    for first in range(0, len(edits.x), BATCH):
        part = slice(first, first + BATCH)
        old = as_rows(edits.old[part])
        new = as_rows(edits.new[part])
        x = method(model, edits.x[part], old, new, steps, generator)
        pictures.append(du.to_pictures(x))
    return np.concatenate(pictures)


def redrawn(model: Callable, edits: Edits) -> np.ndarray:
    """New sprites, drawn from noise, for all factors of the edited one."""
    everything = Edits(edits.x, edits.factors, edits.old, edits.wanted, edits.wanted)

    def from_noise(model, x, old, new, steps, generator):
        x = normal_like(x, generator)
        for t, s in zip(steps, steps[1:]):
            x = denoised(model, x, t, s, new, generator)
        return x

    return edited(model, everything, from_noise, SCHEDULE.T)


def by_specification(edits: Edits) -> np.ndarray:
    """Decode the real sprites, change the factor, and render them again."""
    factory = du.sprite_factory()
    found, _ = factory.decode(du.to_pictures(edits.x))
    sprites = []
    for sprite, factor, new in zip(found, edits.factors, edits.new):
        values = {**dict(sprite.factors), factor: new[factor]}
        sprites.append(factory.specify(sprite.class_name, **values))
    return factory.render_many(sprites)


# ---- What came ----------------------------------------------------------------------


def verdicts(pictures: np.ndarray, edits: Edits) -> tuple[np.ndarray, np.ndarray]:
    """Whether the factor came as asked, and whether all others stayed: (N,) bool."""
    found, _ = du.sprite_factory().decode(pictures)
    changed = []
    kept = []
    for sprite, factor, wanted in zip(found, edits.factors, edits.wanted):
        came = sprite.as_dict()
        others = [other for other in wanted if other != factor]
        changed.append(came.get(factor) == wanted[factor])
        kept.append(all(came.get(other) == wanted[other] for other in others))
    return np.array(changed), np.array(kept)


def edit_scores(pictures: np.ndarray, edits: Edits) -> dict:
    """How often the edits are right: {measure: (share, low, high)}.

    "right": the asked value, and everything else as before; "changed", "kept": one of
    the two; "legal"; "right, colours" and "right, parts": of the edits of these
    factors alone.
    """
    factory = du.sprite_factory()
    scoring = du.sprite_scoring()
    found, _ = factory.decode(pictures)
    changed, kept = verdicts(pictures, edits)
    is_colour = []
    for factor, wanted in zip(edits.factors, edits.wanted):
        is_colour.append(factor in factory.colour_factors(wanted["class"]))
    is_colour = np.array(is_colour)
    right = changed & kept
    measures = {
        "right": right,
        "changed": changed,
        "kept": kept,
        "legal": scoring.are_legal(pictures, found),
        "right, colours": right[is_colour],
        "right, parts": right[~is_colour],
    }
    return {name: scoring.interval(values) for name, values in measures.items()}


def keep_pictures(path: Path, pictures: np.ndarray, edits: Edits) -> None:
    """Store the first edits, the sprites before them, and what was asked."""
    changed, kept = verdicts(pictures, edits)
    asked = [f"{f}: {new[f]}" for f, new in zip(edits.factors, edits.new)]
    everything = {
        "real": du.to_pictures(edits.x),
        "edited": pictures,
        "right": changed & kept,
        "asked": np.array(asked),
    }
    first = {name: values[:SHOWN_SAMPLES] for name, values in everything.items()}
    add_samples(path, first)


# ---- The seam -----------------------------------------------------------------------


def fill_right_half(model: Callable, n: int, strides: int, repeats: int) -> np.ndarray:
    """Real sprites whose right half is drawn anew: (n, 16, 16, 3).

    repeats: how often each stride is taken, with noise added again in between.
    """
    edits = draw_edits(n)
    context = as_rows([{"class": wanted["class"]} for wanted in edits.wanted])
    generator = Generator().manual_seed(SEED)
    pictures = []
    for first in range(0, n, BATCH):
        part = slice(first, first + BATCH)
        steps = du.straight_steps(SCHEDULE, strides)
        x = fill_half(model, edits.x[part], context[part], steps, repeats, generator)
        pictures.append(du.to_pictures(x))
    return np.concatenate(pictures)


def fill_half(model, real, context, steps, repeats, generator) -> Tensor:
    """One batch of `fill_right_half`."""
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1
    x = normal_like(real, generator)
    for t, s in zip(steps, steps[1:]):
        for turn in range(repeats):
            if turn:
                ratio = float(SCHEDULE.ab[t] / SCHEDULE.ab[s])
                fresh = normal_like(x, generator)
                x = ratio**0.5 * x + (1 - ratio) ** 0.5 * fresh
            x = denoised(model, x, t, s, context, generator)
            noise = normal_like(x, generator)
            known = du.perturb_input(real, s, noise, SCHEDULE)
            x = mask * x + (1 - mask) * known
    return x


def seam_row(model: Callable, n: int, strides: int, repeats: int) -> dict:
    """The share of legal pictures, and the mean error of each column, with intervals.

    The error is the distance to the nearest legal sprite, `pixel_errors`. "error" is
    that of the whole picture.
    """
    scoring = du.sprite_scoring()
    pictures = fill_right_half(model, n, strides, repeats)
    found, _ = du.sprite_factory().decode(pictures)
    errors = scoring.pixel_errors(pictures, found).mean(1)  # (n, 16)
    row = {
        "legal": scoring.interval(scoring.are_legal(pictures, found)),
        "error": scoring.interval(errors.mean(1)),
    }
    for column in range(errors.shape[1]):
        row[f"column {column}"] = scoring.interval(errors[:, column])
    return row


# ---- The tables ---------------------------------------------------------------------


def plan() -> dict[str, tuple]:
    """{name of a row: (method or None, start)}, in the order of the table."""
    rows = {SPECIFIED: (None, 0), REDRAWN: (None, SCHEDULE.T)}
    for name, method in METHODS.items():
        for start in STARTS:
            rows[f"{name}, t = {start}"] = (method, start)
    return rows


def main() -> None:
    parser = command_line(__doc__, du.WEIGHTS / "editing.json", workers=False)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--seam-samples", type=int, default=SEAM_SAMPLES)
    options = parsed(parser)
    settings = {"samples": options.samples, "seam samples": options.seam_samples}
    content = so_far(options.out, settings, parser, edits={}, seam={})
    model = du.sprite_network(options.weights)
    edits = draw_edits(options.samples)
    rows = plan()
    common = {"version": VERSION, "seed": SEED, "guidance": GUIDANCE, **settings}
    files = (*SPRITE_FILES, options.weights)
    digests = {name: digest({**common, "row": name}, files) for name in rows}

    def score(name: str) -> dict:
        method, start = rows[name]
        if name == SPECIFIED:
            return edit_scores(by_specification(edits), edits)
        if name == REDRAWN:
            return edit_scores(redrawn(model, edits), edits)
        pictures = edited(model, edits, method, start)
        if name == SHOWN:
            folder = options.out.parent / "results"
            keep_pictures(folder / f"{options.out.stem}.npz", pictures, edits)
        return edit_scores(pictures, edits)

    def seam(name: str) -> dict:
        return seam_row(model, options.seam_samples, *SEAMS[name])

    seam_digests = {name: digest({**common, "row": name}, files) for name in SEAMS}
    fill(options.out, content, "seam", seam_digests, seam)
    fill(options.out, content, "edits", digests, score)


if __name__ == "__main__":
    main()
