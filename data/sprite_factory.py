"""The grammar of the sprites: from named factors to a 16x16 picture (numpy only).

A sprite is drawn in three steps. Its *structure* factors (species, hair style, pose
and so on) choose hand-drawn part templates, which are laid over one another. A fixed
rule then draws the outline, in the darkest tone of the part beside it. Last, its
*colour* factors choose one ramp of four tones for each part. Every pixel is therefore
an exact member of a ramp, and a picture can be decoded back to the factors that drew
it.

`data/README.md` shows the classes and counts their factors. `sprite_scores` measures
pictures with this grammar.
Lesson 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from types import ModuleType

import numpy as np
from sprite_templates import creatures, food, heroes, sideways, spells
from sprite_templates.ramps import FIXED, LEGEND

SIZE = 16
VALUES = SIZE * SIZE * 3  # numbers in one picture
TONES = 4  # tones in one ramp
CLASS_NAMES = ("hero", "non-hero", "food", "spell", "side-facing")
SLOTS = tuple(LEGEND)
FAMILIES: dict[str, ModuleType] = {
    "hero": heroes,
    "non-hero": creatures,
    "food": food,
    "spell": spells,
    "side-facing": sideways,
}
# The two factors of each class of which some pairs of values are held out of training.
PAIRED_FACTORS = {
    "hero": ("hair_colour", "outfit_colour"),
    "non-hero": ("species", "body_colour"),
    "food": ("kind", "colour"),
    "spell": ("primary", "secondary"),
    "side-facing": ("hair_colour", "outfit_colour"),
}
_EMPTY, _CUT = ".!"  # a template leaves the pixel as it is; it cuts the pixel out
# Where an empty pixel looks for the part that it outlines, as (dy, dx). It looks up
# first, so that the line on the ground belongs to the feet.
_NEIGHBOURS = ((-1, 0), (0, -1), (0, 1), (1, 0))


# ---- Specifications: the named factors of a sprite -----------------------------------


@dataclass(frozen=True)
class Specification:
    """One legal sprite: its class, and (factor, value) pairs in the grammar's order."""

    class_name: str
    factors: tuple[tuple[str, str], ...]

    def __getitem__(self, factor: str) -> str:
        return dict(self.factors)[factor]

    def as_dict(self) -> dict[str, str]:
        """{"class": the class, factor: value, ...}."""
        return {"class": self.class_name, **dict(self.factors)}


def factors_of(class_name: str) -> dict[str, tuple[str, ...]]:
    """The factors of a class and their legal values.

    Every combination of these values is a legal sprite. Raises KeyError, which names
    the five classes, for a class that does not exist.
    """
    if class_name not in FAMILIES:
        expected = ", ".join(CLASS_NAMES)
        raise KeyError(f"unknown class {class_name!r}; expected one of {expected}")
    family = FAMILIES[class_name]
    factors = dict(family.STRUCTURE)
    for name, (_, ramps) in family.COLOURS.items():
        factors[name] = tuple(ramps)
    return factors


def colour_factors(class_name: str) -> tuple[str, ...]:
    """The factors of a class that choose a ramp; the others choose what is drawn.

    Raises KeyError as `factors_of` does.
    """
    factors = factors_of(class_name)
    colours = FAMILIES[class_name].COLOURS
    return tuple(name for name in factors if name in colours)


def specify(class_name: str, **values: str) -> Specification:
    """A checked specification: one legal value for every factor of the class.

    Raises ValueError, which names what was expected, for a missing or surplus factor
    and for an illegal value.
    """
    legal = factors_of(class_name)
    if set(values) != set(legal):
        expected = ", ".join(legal)
        got = ", ".join(values) or "none"
        raise ValueError(f"a {class_name} has the factors {expected}; got {got}")
    for name, value in values.items():
        if value not in legal[name]:
            expected = ", ".join(legal[name])
            raise ValueError(
                f"{name}={value!r} is not legal for a {class_name}; "
                f"expected one of {expected}"
            )
    factors = [(name, values[name]) for name in legal]
    return Specification(class_name, tuple(factors))


def count_specifications(class_name: str) -> int:
    """How many legal sprites a class has."""
    counts = [len(values) for values in factors_of(class_name).values()]
    return int(np.prod(counts))


def specification_at(class_name: str, index: int) -> Specification:
    """The legal sprite with this index, 0 <= index < count_specifications(class_name).

    The last factor varies fastest. Raises IndexError for another index.
    """
    total = count_specifications(class_name)
    if not 0 <= index < total:
        raise IndexError(f"a {class_name} has indices 0 to {total - 1}; got {index}")
    factors = []
    for name, legal in reversed(factors_of(class_name).items()):
        index, choice = divmod(index, len(legal))
        factors.append((name, legal[choice]))
    factors.reverse()
    return Specification(class_name, tuple(factors))


def all_specifications(class_name: str) -> Iterator[Specification]:
    """Every legal sprite of a class, in the order of their indices.

    This is a generator, because there are a million side-facing figures.
    """
    legal = factors_of(class_name)
    for values in product(*legal.values()):
        factors = zip(legal, values)
        yield Specification(class_name, tuple(factors))


def sample_specifications(n: int, seed: int, class_name: str) -> list[Specification]:
    """`n` different legal sprites of a class, drawn uniformly without replacement.

    The same seed gives the same sprites. Raises ValueError if the class has fewer.
    """
    total = count_specifications(class_name)
    if n > total:
        raise ValueError(
            f"a {class_name} has only {total} legal specifications; got n={n}"
        )
    rng = np.random.default_rng([seed, CLASS_NAMES.index(class_name)])
    chosen = rng.choice(total, size=n, replace=False)
    return [specification_at(class_name, int(index)) for index in chosen]


def draw_specifications(
    n: int, seed: int, class_names: Sequence[str] = CLASS_NAMES
) -> list[Specification]:
    """`n` fair draws with replacement: the classes take turns.

    Each draw is uniform over the legal sprites of its class. The same seed gives the
    same sprites.
    """
    rng = np.random.default_rng([seed, len(CLASS_NAMES)])
    drawn = []
    for i in range(n):
        class_name = class_names[i % len(class_names)]
        index = rng.integers(count_specifications(class_name))
        drawn.append(specification_at(class_name, int(index)))
    return drawn


@dataclass(frozen=True)
class HeldOutPairs:
    """Pairs of values of two factors of a class that training never shows together."""

    first: str
    second: str
    pairs: frozenset[tuple[str, str]]

    def hold(self, specification: Specification) -> bool:
        """Whether the specification has a held-out pair."""
        pair = (specification[self.first], specification[self.second])
        return pair in self.pairs


def held_out_pairs(class_name: str) -> HeldOutPairs:
    """The pairs of values held out of training for a class.

    Each value of its first factor is paired with one of its second, such as red hair
    with a green outfit. Steps of three through the second factor spread the pairs, so
    that every single value stays common in training.
    """
    legal = factors_of(class_name)
    first, second = PAIRED_FACTORS[class_name]
    partners = legal[second]
    pairs = set()
    for i, value in enumerate(legal[first]):
        partner = partners[(3 * i + 4) % len(partners)]
        pairs.add((value, partner))
    return HeldOutPairs(first, second, frozenset(pairs))


# ---- Rendering: from a specification to a picture ------------------------------------


def slot_codes(slot: str) -> slice:
    """The pixel codes of a slot's four tones, from its outline to its light.

    Code 0 is the white background; code 1 + 4 * slot + tone is a tone of a slot's ramp.
    """
    first = 1 + TONES * SLOTS.index(slot)
    return slice(first, first + TONES)


def _codes_of_legend() -> dict[str, int]:
    """{character of a template: pixel code}."""
    codes = {_EMPTY: 0, _CUT: 0}
    for slot, characters in LEGEND.items():
        first = slot_codes(slot).start
        for tone, character in enumerate(characters):
            codes[character] = first + tone
    return codes


_CODES = _codes_of_legend()


def template_codes(template: str) -> tuple[np.ndarray, np.ndarray]:
    """A template's text as (codes, touched), two arrays of shape (16, 16).

    codes: uint8 pixel codes; touched: bool, where the template paints or cuts out.
    Raises ValueError unless the template has 16 rows of 16 characters of the legend.
    """
    rows = template.split()
    lengths = [len(row) for row in rows]
    if lengths != [SIZE] * SIZE:
        raise ValueError(
            f"a template has {SIZE} rows of {SIZE} characters; got {lengths}\n"
            f"{template}"
        )
    characters = "".join(rows)
    unknown = set(characters) - set(_CODES)
    if unknown:
        raise ValueError(
            f"characters {sorted(unknown)} are not in the legend of "
            f"sprite_templates/ramps.py\n{template}"
        )
    codes = np.array([_CODES[character] for character in characters], dtype=np.uint8)
    touched = np.array([character != _EMPTY for character in characters])
    return codes.reshape(SIZE, SIZE), touched.reshape(SIZE, SIZE)


def _lay(canvas: np.ndarray, templates: Sequence[str]) -> np.ndarray:
    """The canvas with templates laid over it, the last one on top."""
    for template in templates:
        codes, touched = template_codes(template)
        canvas = np.where(touched, codes, canvas)
    return canvas


def _outlined(canvas: np.ndarray) -> np.ndarray:
    """The outline rule: an empty pixel beside a part takes that part's darkest tone."""
    padded = np.pad(canvas, 1)
    outline = np.zeros_like(canvas)
    for dy, dx in _NEIGHBOURS:
        neighbour = padded[1 + dy : 1 + dy + SIZE, 1 + dx : 1 + dx + SIZE]
        slot = (neighbour - 1) // TONES
        darkest = np.where(neighbour > 0, 1 + TONES * slot, 0)
        outline = np.where(outline > 0, outline, darkest)
    drawn = np.where(canvas > 0, canvas, outline)
    return drawn.astype(np.uint8)


@cache
def structure_codes(class_name: str, structure: tuple[str, ...]) -> np.ndarray:
    """(16, 16) uint8 pixel codes: the slot and the tone that each pixel shows.

    `structure`: the values of the class's structure factors, in their order.
    """
    family = FAMILIES[class_name]
    values = dict(zip(family.STRUCTURE, structure))
    drawing = family.layers(**values)
    empty = np.zeros((SIZE, SIZE), np.uint8)
    parts = _lay(empty, drawing["parts"])
    codes = _lay(_outlined(parts), drawing.get("overlays", ()))
    if drawing.get("mirrored"):
        codes = codes[:, ::-1]
    codes.setflags(write=False)
    return codes


def rgb(ramp: Sequence[str]) -> np.ndarray:
    """A ramp of hexadecimal colours as (tones, 3) uint8."""
    colours = [list(bytes.fromhex(tone)) for tone in ramp]
    return np.array(colours, dtype=np.uint8)


@cache
def fixed_colours() -> np.ndarray:
    """(1 + 4 * slots, 3) uint8: the colour of each pixel code that no factor chooses.

    Code 0 is white; the slots that a factor colours hold zeros.
    """
    colours = np.zeros((1 + TONES * len(SLOTS), 3), dtype=np.uint8)
    colours[0] = 255
    for slot, ramp in FIXED.items():
        colours[slot_codes(slot)] = rgb(ramp)
    return colours


def render(specification: Specification) -> np.ndarray:
    """Draw a specification: (16, 16, 3) uint8, on white.

    Rendering is deterministic. No two specifications give the same picture.
    """
    family = FAMILIES[specification.class_name]
    values = dict(specification.factors)
    colours = fixed_colours().copy()
    for factor, (slot, ramps) in family.COLOURS.items():
        ramp = ramps[values[factor]]
        colours[slot_codes(slot)] = rgb(ramp)
    structure = tuple(values[name] for name in family.STRUCTURE)
    codes = structure_codes(specification.class_name, structure)
    return colours[codes]


def render_many(specifications: Sequence[Specification]) -> np.ndarray:
    """(N, 16, 16, 3) uint8: one picture for each specification."""
    pictures = np.zeros((len(specifications), SIZE, SIZE, 3), np.uint8)
    for i, specification in enumerate(specifications):
        pictures[i] = render(specification)
    return pictures


@cache
def palette() -> np.ndarray:
    """Every tone of every ramp, and white: (104, 3) uint8, in numerical order."""
    white = ("ffffff",)
    ramps = [white, *FIXED.values()]
    for family in FAMILIES.values():
        for _, choices in family.COLOURS.values():
            ramps += choices.values()
    tones = np.concatenate([rgb(ramp) for ramp in ramps])
    colours = np.unique(tones, axis=0)
    colours.setflags(write=False)
    return colours


# ---- Decoding: from a picture back to its factors ------------------------------------


@dataclass(frozen=True)
class Patterns:
    """A class's sprites as sums of patterns, one sum for each structure.

    A pattern p (768 numbers) holds the colours of one ramp on the pixels that show it,
    and 0 elsewhere. Given its structure, a sprite is the sum of its fixed pattern and
    of one pattern for each colour factor, and no pixel belongs to two of them. Its
    squared distance to a picture x is therefore |x|^2 plus one term |p|^2 - 2 x.p for
    each of its patterns.

    structures: the values of the structure factors, S tuples.
    ramp_counts: how many ramps each colour factor has.
    values: (S, P, 768) float32, the fixed pattern first, then every ramp of every
    colour factor.
    energies: (S, P) float32, the |p|^2.
    """

    structures: list[tuple[str, ...]]
    ramp_counts: tuple[int, ...]
    values: np.ndarray
    energies: np.ndarray

    def chunks(self, size: int = 256) -> Iterator[slice]:
        """The structures in chunks: one at a time fits into memory."""
        for start in range(0, len(self.structures), size):
            stop = min(start + size, len(self.structures))
            yield slice(start, stop)

    def terms(self, x: np.ndarray, chunk: slice) -> np.ndarray:
        """The terms |p|^2 - 2 x.p of pictures x (N, 768): (N, structures, P)."""
        energies = self.energies[chunk]
        patterns = self.values[chunk].reshape(-1, VALUES)
        products = x @ patterns.T
        return energies - 2 * products.reshape(len(x), *energies.shape)

    def by_factor(self, terms: np.ndarray) -> list[np.ndarray]:
        """Views of an array (..., P), one for each colour factor: (..., its ramps)."""
        ends = np.cumsum(self.ramp_counts)
        return np.split(terms[..., 1:], ends[:-1], axis=-1)


@cache
def patterns_of(class_name: str) -> Patterns:
    """The patterns of a class. They are computed once; the largest take 200 MB."""
    family = FAMILIES[class_name]
    structures = list(product(*family.STRUCTURE.values()))
    codes = np.stack([structure_codes(class_name, each) for each in structures])
    painted = []
    for table in _colour_tables(class_name):
        pictures = table[codes]
        painted.append(pictures.reshape(len(structures), VALUES))
    values = np.stack(painted, axis=1)
    energies = np.square(values).sum(2)
    ramp_counts = tuple(len(ramps) for _, ramps in family.COLOURS.values())
    return Patterns(structures, ramp_counts, values, energies)


def _colour_tables(class_name: str) -> list[np.ndarray]:
    """For each pattern, the colour of every pixel code: (codes, 3) float32 in 0..1."""
    fixed = fixed_colours().astype(np.float32) / 255
    tables = [fixed]
    for slot, ramps in FAMILIES[class_name].COLOURS.values():
        for ramp in ramps.values():
            table = np.zeros_like(fixed)
            table[slot_codes(slot)] = rgb(ramp).astype(np.float32) / 255
            tables.append(table)
    return tables


def _nearest_in_class(x: np.ndarray, class_name: str) -> tuple[np.ndarray, np.ndarray]:
    """The nearest legal sprites of one class to pictures x (N, 768) in 0..1.

    Returns (distances, indices), both (N,): the squared distances less |x|^2, and the
    indices of the specifications.
    """
    patterns = patterns_of(class_name)
    pictures = np.arange(len(x))
    best = np.full(len(x), np.inf, np.float32)
    index = np.zeros(len(x), dtype=np.int64)
    for chunk in patterns.chunks():
        terms = patterns.terms(x, chunk)
        distances = terms[..., 0]
        codes = np.arange(chunk.start, chunk.stop)
        # The best ramp of one part does not depend on the ramps of the others.
        for ramps in patterns.by_factor(terms):
            distances = distances + ramps.min(2)
            codes = codes * ramps.shape[2] + ramps.argmin(2)
        nearest = distances.argmin(1)
        distance = distances[pictures, nearest]
        code = codes[pictures, nearest]
        index = np.where(distance < best, code, index)
        best = np.minimum(best, distance)
    return best, index


def _nearest(x: np.ndarray) -> list[Specification]:
    """The nearest legal sprites of all classes to pictures x (N, 768) in 0..1."""
    answers = [_nearest_in_class(x, name) for name in CLASS_NAMES]
    distances = np.stack([distance for distance, _ in answers])
    found = []
    for i, k in enumerate(distances.argmin(0)):
        _, index = answers[k]
        found.append(specification_at(CLASS_NAMES[k], int(index[i])))
    return found


def in_unit_range(images: np.ndarray) -> np.ndarray:
    """Pictures (N, 16, 16, 3) as float64 in 0..1.

    `images`: uint8 in 0..255, or floats that are in 0..1 already. Raises ValueError for
    another shape or range.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1:] != (SIZE, SIZE, 3):
        raise ValueError(
            f"pictures have shape {images.shape}; expected (N, {SIZE}, {SIZE}, 3): "
            "to_pictures turns a sampler's tensor into that"
        )
    scale = 255 if images.dtype == np.uint8 else 1
    x = images.astype(np.float64) / scale
    if x.size and not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(
            f"values run from {x.min()} to {x.max()}; "
            "expected uint8, or floats from 0 to 1 (unorm maps [-1, 1] there)"
        )
    return x


def decode(
    images: np.ndarray, batch: int = 250
) -> tuple[list[Specification], np.ndarray]:
    """The legal sprite nearest to each picture, and how far it is.

    `images`: (N, 16, 16, 3) uint8, or floats in 0..1. Returns N specifications and
    their distances (N,): root mean square over pixels and channels, in units of 0 to 1.
    `decode(render_many(s))` gives `s` back, with distances 0.

    The answer is exact: for each structure every part takes its best ramp on its own
    pixels, and all structures are compared. The first call builds tables of 280 MB,
    which takes some seconds. Raises ValueError for another shape or range.
    Lesson 4.
    """
    exact = in_unit_range(images)
    x = exact.reshape(len(exact), VALUES).astype(np.float32)
    found = []
    for start in range(0, len(x), batch):
        found += _nearest(x[start : start + batch])
    errors = render_many(found) / 255 - exact
    distances = np.sqrt(np.square(errors).mean((1, 2, 3)))
    return found, distances
