"""What a SpriteUnet trains on: sprites in new colours, and contexts that ask for them.

train.py trains the strong network with it, and distill.py a student of that network.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import diffusion_utilities as du  # found two folders up


def batches(x: Tensor, c: Tensor, size: int, passes: int, generator: Generator):
    """One epoch: every picture once in each pass, in random order.

    Yields batches (pictures, contexts).
    """
    for _ in range(passes):
        for rows in torch.randperm(len(x), generator=generator).split(size):
            yield x[rows], c[rows]


def in_new_colours(row: dict[str, str], tests: set, rng: np.random.Generator):
    """The specification of a sprite in other colours of its class.

    A side-facing sprite is turned either way, too. Colours are drawn evenly, so its own
    may come again. Never a sprite of `test`, nor a pair of values that training must
    not show.
    row: the sprite's factors. tests: those of `test`, as sets of items.
    """
    factory = du.sprite_factory()
    name = row["class"]
    kept = {factor: value for factor, value in row.items() if factor != "class"}
    legal = factory.factors_of(name)
    held_out = factory.held_out_pairs(name)
    free = [*factory.colour_factors(name)]
    if "facing" in legal:
        free.append("facing")
    while True:
        drawn = {key: legal[key][rng.integers(len(legal[key]))] for key in free}
        new = factory.specify(name, **{**kept, **drawn})
        is_test = frozenset(new.as_dict().items()) in tests
        if not is_test and not held_out.hold(new):
            return new


def drawn_anew(
    sprites: du.Sprites, size: int, passes: int, generator: Generator, seed: int
):
    """One epoch for a SpriteUnet: every sprite once in each pass, in new colours.

    Yields batches (pictures, contexts). In half of them, by chance, the contexts are
    captions (B, 40), else they are rows (B, 175).
    """
    factory = du.sprite_factory()
    rng = np.random.default_rng(seed)
    tests = {frozenset(row.items()) for row in du.load_sprites("test").factors}
    places = torch.arange(len(sprites.factors))
    for rows, _ in batches(places, places, size, passes, generator):
        drawn = [in_new_colours(sprites.factors[row], tests, rng) for row in rows]
        x = du.to_model_range(factory.render_many(drawn))
        write = captions if rng.random() < 0.5 else factor_rows
        yield x, torch.from_numpy(write(drawn, rng))


def captions(specifications: list, rng: np.random.Generator) -> np.ndarray:
    """A new caption for each sprite: (B, 40)."""
    language = du.sprite_captions()
    drawn = [language.draw_caption(each, rng).text for each in specifications]
    return language.encode(drawn)


def factor_rows(specifications: list, rng: np.random.Generator) -> np.ndarray:
    """A row for each sprite, (B, 175).

    It names the class, and in six of ten rows any number of factors, too.
    """
    columns = du.sprite_scoring().factor_columns()
    places = {column: place for place, column in enumerate(columns)}
    rows = np.zeros((len(specifications), len(columns)), np.float32)
    for row, specification in zip(rows, specifications):
        row[places["class", specification.class_name]] = 1
        share = rng.random() if rng.random() < 0.6 else 0
        for factor in specification.factors:
            if rng.random() < share:
                row[places[factor]] = 1
    return rows
