"""Score the network that reads words: `python weights/experiments/strong_network.py`.

Writes weights/strong_network.json: the usual scores of 1,000 samples asked for by
class, in 20, 10 and 5 steps, with three seeds each, beside held-out real sprites; and
how often a sprite is as its caption says, for each set of `data/test_captions.json.gz`
and guidance 1, 2 and 4, beside the decoder on real sprites. Three sets are made from
those: `unknown` has an unknown word instead of a colour, `left out` does not mention
what `negation` denies, and `avoided` moves it into a negative caption.

A row that is there already is kept; remove the file after training anew. `--weights
FILE` scores other weights, such as a checkpoint's average, and `--captions N` takes the
first N captions of each set.
"""

import gzip
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from shipped import contexts, ddpm, draw_batches, held_out_sprites
from tables import (
    add_row,
    command_line,
    parsed,
    rounded,
    sha256,
    side_by_side,
    so_far,
    write_json,
)

import diffusion_utilities as du  # found two folders up

SCHEDULE = du.NoiseSchedule.linear()
SEEDS = (4, 5, 6)
STEPS = (20, 10, 5)
GUIDANCE = (1, 2, 4)
SAMPLES = 1000
CAPTIONS = 300
CAPTION_STEPS = 20
UNKNOWN_WORD = "heliotrope"  # a colour that no caption of the grammar has
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


def caption_sets(n: int) -> dict[str, list[dict]]:
    """The first n rows of each set, and the sets that are made from them."""
    sets = {}
    for row in test_captions():
        sets.setdefault(row["set"], []).append(row)
    sets = {name: rows[:n] for name, rows in sets.items()}
    with_colour = [row for row in sets["seen"] if colour_word(row)]
    left_out = [without_denial(row) for row in sets["negation"]]
    sets["unknown"] = [with_unknown_word(row) for row in with_colour]
    sets["left out"] = left_out
    sets["avoided"] = [{**row, "avoid": denied_thing(row)} for row in left_out]
    return sets


def colour_word(row: dict) -> tuple[str, str] | None:
    """The first colour that a caption names, as (factor, word); None for no colour."""
    language = du.sprite_captions()
    for factor in language.COLOUR_FACTORS:
        if factor in row["wanted"]:
            for word in language.words_for(factor, row["wanted"][factor]):
                if language.split_words(row["text"]).count(word) == 1:
                    return factor, word
    return None


def with_unknown_word(row: dict) -> dict:
    """The row with an unknown word for its first colour, which is then not wanted."""
    factor, word = colour_word(row)
    text = re.sub(rf"\b{word}\b", UNKNOWN_WORD, row["text"])
    wanted = dict(row["wanted"])
    rest = {**row["rest"], factor: wanted.pop(factor)}
    return {**row, "text": text, "wanted": wanted, "rest": rest}


def without_denial(row: dict) -> dict:
    """The row with a text that does not mention what is denied."""
    language = du.sprite_captions()
    (unwanted,) = row["unwanted"].items()
    things = []
    for words in language.words_for(*unwanted):
        things += [f"without {words}", "no " + re.sub(r"^an? ", "", words)]
    denial = f"(?:{'|'.join(things)})"
    first = rf"(?<=: ){denial}(?:, )?|^{denial}, "
    join = "(?: and |, | )"
    text = re.sub(rf"{first}|{join}?{denial}\b", "", row["text"], count=1)
    return {**row, "text": text.strip(" :").replace(":,", ":")}


def denied_thing(row: dict) -> str:
    """A caption of what a row denies: "a hero with a sword"."""
    language = du.sprite_captions()
    (unwanted,) = row["unwanted"].items()
    subject = language.words_for("class", row["wanted"]["class"])[0]
    return f"{subject} with {language.words_for(*unwanted)[0]}"


def avoiding(model, weight: float) -> Callable:
    """Guidance from a context to avoid to one that is asked for, (B, 2 * 40) in all."""

    def predicted(x, t, c):
        asked, avoid = c.chunk(2, dim=1)
        return du.guided(model, weight, avoid)(x, t, asked)

    return predicted


def caption_row(model, rows: list[dict], guidance: float) -> dict:
    """The scores of a sprite for each caption."""
    encode = du.sprite_captions().encode
    numbers = encode([row["text"] for row in rows])
    asks = model if guidance == 1 else du.guided(model, guidance)
    if "avoid" in rows[0]:
        avoid = encode([row["avoid"] for row in rows])
        numbers = np.concatenate((numbers, avoid), 1)
        asks = avoiding(model, guidance)
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
    "factors": {factor: such a share}, "legal": such a share}; 95 % intervals. Captions
    that deny something have "unwanted", too: it is there. Swapped captions have
    "exchanged": the two colours are those of the other caption.
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
    if rows[0]["unwanted"]:
        shares["unwanted"] = scoring.interval(np.array(are_denied(found, rows)))
    if rows[0]["set"] == "swapped":
        shares["exchanged"] = scoring.interval(np.array(are_exchanged(found, rows)))
    factors = {
        name: scoring.interval(np.array(right)) for name, right in by_factor.items()
    }
    return {**rounded(shares), "factors": rounded(factors)}


def are_denied(found: list, rows: list[dict]) -> list[bool]:
    """Whether each sprite has what its caption denies."""
    verdicts = []
    for sprite, row in zip(found, rows):
        values = sprite.as_dict().items()
        verdicts.append(any(pair in values for pair in row["unwanted"].items()))
    return verdicts


def are_exchanged(found: list, rows: list[dict]) -> list[bool]:
    """Whether each sprite has the two colours of the other caption of its pair."""
    verdicts = []
    for place, sprite in enumerate(found):
        other = rows[place ^ 1]["wanted"]
        own = rows[place]["wanted"]
        differ = [factor for factor in own if own[factor] != other[factor]]
        verdicts.append(all(sprite[factor] == other[factor] for factor in differ))
    return verdicts


# ---- The tables ---------------------------------------------------------------------


def row(weights: Path, part: str, make, *arguments) -> dict:
    """One row of a table. Runs in a process of its own, on one core."""
    torch.set_num_threads(1)
    if make in (real_row, ceiling_row):
        return make(*arguments)
    return make(du.sprite_network(weights), *arguments)


def all_rows(samples: int, captions: int) -> dict[str, tuple]:
    """{part and name of each row: (part, function, its arguments)}."""
    rows = {"samples, held-out real sprites": ("samples", real_row, samples)}
    for steps in STEPS:
        for seed in SEEDS:
            name = f"samples, {steps} steps, seed {seed}"
            rows[name] = ("samples", sample_row, steps, seed, samples)
    for which, texts in caption_sets(captions).items():
        rows[f"captions, {which}, real sprites"] = ("captions", ceiling_row, texts)
        for guidance in GUIDANCE:
            name = f"captions, {which}, guidance {guidance}"
            rows[name] = ("captions", caption_row, texts, guidance)
    return rows


def main() -> None:
    parser = command_line(__doc__, du.WEIGHTS / "strong_network.json")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--captions", type=int, default=CAPTIONS)
    options = parsed(parser)
    settings = {
        "weights": sha256(options.weights),
        "samples": options.samples,
        "captions": options.captions,
    }
    content = so_far(options.out, settings, parser, samples={}, captions={})
    planned = all_rows(options.samples, options.captions)
    jobs = {}
    for name, (part, *work) in planned.items():
        if name.removeprefix(f"{part}, ") not in content[part]:
            jobs[name] = (options.weights, part, *work)
    for name, answer in side_by_side(row, jobs, options.workers):
        part = planned[name][0]
        order = [each.removeprefix(f"{part}, ") for each in planned]
        add_row(content[part], name.removeprefix(f"{part}, "), answer, order)
        write_json(options.out, content)
        print(name, answer, flush=True)


if __name__ == "__main__":
    main()
