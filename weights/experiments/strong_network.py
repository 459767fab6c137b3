"""Score the network that reads words: `python weights/experiments/strong_network.py`.

Writes weights/strong_network.json: the usual scores of 1,000 samples asked for by
class, in 20, 10 and 5 steps, with three seeds each, beside held-out real sprites; and
how often a sprite is as its caption says, for each set of `data/test_captions.json.gz`
and guidance 1, 2 and 4, beside the decoder on real sprites. A row that is there already
is kept; remove the file after training anew. `--weights FILE`
scores other weights, such as a checkpoint's average.
"""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from shipped import contexts, ddpm, draw_batches, held_out_sprites
from tables import command_line, parsed, rounded, sha256, so_far, write_json

import diffusion_utilities as du  # found two folders up

SCHEDULE = du.NoiseSchedule.linear()
SEEDS = (4, 5, 6)
STEPS = (20, 10, 5)
GUIDANCE = (1, 2, 4)
SAMPLES, CAPTION_STEPS = 1000, 20
WEIGHTS = du.WEIGHTS / "sprite_unet_trained.pth"


# ---- Samples asked for by class -----------------------------------------------------


def sample_row(model, steps: int, seed: int, n: int) -> dict:
    """The scores of n samples, each class in turn."""
    asked = contexts("context", n)
    pictures = draw_batches(
        model,
        n,
        ddpm,
        seed=seed,
        context=asked,
        steps=du.straight_steps(SCHEDULE, steps),
        variance="beta_tilde",
    )
    return rounded(du.sprite_scores(pictures, asked.numpy()))


def real_row(n: int) -> dict:
    """The scores of held-out real sprites."""
    return rounded(du.sprite_scores(held_out_sprites(n)))


# ---- Captions -----------------------------------------------------------------------


def test_captions() -> list[dict]:
    """The rows of the file; `make_test_captions.py` says what they hold."""
    text = gzip.decompress((du.DATA / "test_captions.json.gz").read_bytes())
    return json.loads(text)


def caption_row(model, rows: list[dict], guidance: float) -> dict:
    """The scores of a sprite for each caption."""
    numbers = du.sprite_captions().encode([row["text"] for row in rows])
    asks = model if guidance == 1 else du.guided(model, guidance)
    pictures = draw_batches(
        asks,
        len(rows),
        ddpm,
        seed=SEEDS[0],
        context=torch.from_numpy(numbers),
        steps=du.straight_steps(SCHEDULE, CAPTION_STEPS),
        variance="beta_tilde",
    )
    return caption_scores(pictures, rows)


def ceiling_row(rows: list[dict]) -> dict:
    """The scores of the real sprite behind each caption."""
    factory = du.sprite_factory()
    sprites = []
    for row in rows:
        values = {**row["wanted"], **row["rest"]}
        name = values.pop("class")
        sprites.append(factory.specify(name, **values))
    return caption_scores(factory.render_many(sprites), rows)


def caption_scores(pictures: np.ndarray, rows: list[dict]) -> dict:
    """How often the pictures are as their captions say.

    Returns {"all": [share, low, high] with everything that the caption says right,
    "factors": {factor: such a share}, "legal": such a share}; 95 % intervals.
    """
    found, _ = du.sprite_factory().decode(pictures)
    scoring = du.sprite_scoring()
    verdicts = []
    by_factor = {}
    for sprite, row in zip(found, rows):
        values = sprite.as_dict()
        caption = du.sprite_captions().Caption(
            row["text"], row["wanted"], row["unwanted"]
        )
        verdicts.append(caption.is_met_by(values))
        for factor, value in row["wanted"].items():
            by_factor.setdefault(factor, []).append(values.get(factor) == value)
        for factor, value in row["unwanted"].items():
            by_factor.setdefault(f"not {factor}", []).append(
                values.get(factor) != value
            )
    shares = {
        "all": scoring.interval(np.array(verdicts)),
        "legal": scoring.interval(scoring.are_legal(pictures, found)),
    }
    factors = {
        name: scoring.interval(np.array(right)) for name, right in by_factor.items()
    }
    return {**rounded(shares), "factors": rounded(factors)}


# ---- The tables ---------------------------------------------------------------------


def main() -> None:
    parser = command_line(__doc__, du.WEIGHTS / "strong_network.json", workers=False)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    options = parsed(parser)
    settings = {"weights": sha256(options.weights), "samples": options.samples}
    content = so_far(options.out, settings, parser, samples={}, captions={})
    model = du.sprite_network(options.weights)

    def fill(part: str, name: str, make, *arguments) -> None:
        if name not in content[part]:
            content[part][name] = make(*arguments)
            write_json(options.out, content)
            print(part, name, content[part][name], flush=True)

    fill("samples", "held-out real sprites", real_row, options.samples)
    for steps in STEPS:
        for seed in SEEDS:
            name = f"{steps} steps, seed {seed}"
            fill("samples", name, sample_row, model, steps, seed, options.samples)
    sets = {}
    for row in test_captions():
        sets.setdefault(row["set"], []).append(row)
    for name, rows in sets.items():
        fill("captions", f"{name}, real sprites", ceiling_row, rows)
        for guidance in GUIDANCE:
            which = f"{name}, guidance {guidance}"
            fill("captions", which, caption_row, model, rows, guidance)


if __name__ == "__main__":
    main()
