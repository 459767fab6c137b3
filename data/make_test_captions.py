"""Write the test captions: `python data/make_test_captions.py`.

Six sets of 300 captions, each of which names three to five factors of a sprite. They
were written before the network that reads captions was trained, and do not change: a
test compares the file with its SHA-256. No training sprite holds a held-out pair, and
no training caption has a held-out pattern or word.

- `seen`: sentences like those in training.
- `pattern`: a pattern of sentence that training never has.
- `words`: a word in a place where training never has it, such as "crimson" for hair.
- `pairs`: a pair of values that training never shows together.
- `swapped`: two captions at a time that differ in which thing has which of two colours.
- `negation`: something is denied, too.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import captions
import numpy as np
import sprite_factory as factory
from captions import Caption
from sprite_factory import Specification

FILE = Path(__file__).resolve().parent / "test_captions.json.gz"
SEED = 2026
EACH = 300  # captions in a set
SWAPPED = {  # the two factors whose colours change places, and the words they share
    "hero": ("hair_colour", "outfit_colour"),
    "side-facing": ("hair_colour", "outfit_colour"),
    "spell": ("primary", "secondary"),
}
Row = tuple[Caption, Specification]


def draw(class_name: str, rng: np.random.Generator, held_out: bool) -> Specification:
    """A legal sprite of a class, with or without a held-out pair of values."""
    pairs = factory.held_out_pairs(class_name)
    while True:
        index = rng.integers(factory.count_specifications(class_name))
        drawn = factory.specification_at(class_name, int(index))
        if pairs.hold(drawn) == held_out:
            return drawn


def some_factors(
    specification: Specification,
    rng: np.random.Generator,
    among: tuple[str, ...] = (),
    most: int = 5,
) -> list[str]:
    """Three to `most` factors of a sprite, those in `among` included."""
    others = [name for name, _ in specification.factors if name not in among]
    most = min(most, len(specification.factors))
    count = rng.integers(3, most + 1) - len(among)
    return [*among, *map(str, rng.permutation(others)[:count])]


def plain(rng: np.random.Generator, pattern: str | None = None) -> Iterator[Row]:
    """Captions of legal sprites without held-out pairs; the classes take turns."""
    for class_name in cycle(factory.CLASS_NAMES):
        sprite = draw(class_name, rng, held_out=False)
        named = some_factors(sprite, rng)
        yield captions.write_caption(sprite, named, rng, pattern=pattern), sprite


def with_held_out_words(rng: np.random.Generator) -> Iterator[Row]:
    """Captions with at least one word in a place that is new to it."""
    for class_name in cycle(factory.CLASS_NAMES):
        sprite = draw(class_name, rng, held_out=False)
        for factor, value in sprite.factors:
            words = captions.words_for(factor, value)
            if any((word, factor) in captions.HELD_OUT_WORDS for word in words):
                named = some_factors(sprite, rng, (factor,))
                yield (
                    captions.write_caption(sprite, named, rng, held_out_words=True),
                    sprite,
                )
                break


def with_held_out_pairs(rng: np.random.Generator) -> Iterator[Row]:
    """Captions that name a pair of values which training never shows together."""
    for class_name in cycle(factory.CLASS_NAMES):
        sprite = draw(class_name, rng, held_out=True)
        named = some_factors(sprite, rng, factory.PAIRED_FACTORS[class_name])
        yield captions.write_caption(sprite, named, rng), sprite


def with_swapped_colours(rng: np.random.Generator) -> Iterator[Row]:
    """A caption, then the same with two colours swapped; neither pair is held out."""
    for class_name in cycle(SWAPPED):
        first, second = SWAPPED[class_name]
        sprite = draw(class_name, rng, held_out=False)
        values = dict(sprite.factors)
        values[first], values[second] = values[second], values[first]
        legal = factory.factors_of(class_name)
        is_legal = values[first] in legal[first] and values[second] in legal[second]
        if not is_legal or values[first] == values[second]:
            continue
        swapped = factory.specify(class_name, **values)
        if factory.held_out_pairs(class_name).hold(swapped):
            continue
        named = some_factors(sprite, rng, (first, second))
        dice = rng.integers(2**32)  # the same words for everything else
        for each in (sprite, swapped):
            again = np.random.default_rng(dice)
            yield captions.write_caption(each, named, again), each


def with_negation(rng: np.random.Generator) -> Iterator[Row]:
    """Captions that name some factors and deny a value of another one."""
    for class_name in cycle(factory.CLASS_NAMES):
        sprite = draw(class_name, rng, held_out=False)
        named = some_factors(sprite, rng, most=4)
        caption = captions.write_caption(sprite, named, rng, deny=True)
        if caption.unwanted:
            yield caption, sprite


def test_captions() -> list[dict]:
    """All captions, as the file has them.

    "rest" holds the factors of the sprite behind the caption that it does not name.
    """
    sets = {
        "seen": plain,
        "pattern": lambda rng: plain(rng, captions.HELD_OUT_PATTERN),
        "words": with_held_out_words,
        "pairs": with_held_out_pairs,
        "swapped": with_swapped_colours,
        "negation": with_negation,
    }
    rows = []
    for number, (name, make) in enumerate(sets.items()):
        drawn = make(np.random.default_rng([SEED, number]))
        for _ in range(EACH):
            caption, sprite = next(drawn)
            shown = sprite.as_dict().items()
            rest = {key: value for key, value in shown if key not in caption.wanted}
            rows.append(
                {
                    "set": name,
                    "text": caption.text,
                    "wanted": caption.wanted,
                    "unwanted": caption.unwanted,
                    "rest": rest,
                }
            )
    return rows


def main() -> None:
    lines = [json.dumps(row, separators=(",", ":")) for row in test_captions()]
    text = "[\n" + ",\n".join(lines) + "\n]\n"
    FILE.write_bytes(gzip.compress(text.encode("utf8"), mtime=0))
    print(f"{FILE.name}: {len(lines)} captions")


if __name__ == "__main__":
    main()
