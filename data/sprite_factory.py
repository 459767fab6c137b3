"""The grammar of the sprites: from a specification of named factors to a 16x16 picture (numpy only).

A sprite is drawn in three steps. Its *structure* factors (species, hair style, pose ...) choose hand-drawn part templates, which are
laid over one another; a fixed rule then draws the outline, in the darkest tone of the part that it bounds; last, its *colour*
factors choose one ramp of four tones for each part. So every pixel is an exact member of a ramp, and a picture can be
decoded back to the factors that drew it.

`data/README.md` shows the classes and counts their factors; lesson 3 introduces them.
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
CLASS_NAMES = ("hero", "non-hero", "food", "spell", "side-facing")
SLOTS = tuple(LEGEND)
FAMILIES: dict[str, ModuleType] = dict(
    zip(CLASS_NAMES, (heroes, creatures, food, spells, sideways))
)
# Code of a pixel: 0 is the white ground, 1 + 4 * slot + tone is a tone of a slot's ramp.
_CODES = {
    char: 1 + 4 * i + tone
    for i, chars in enumerate(LEGEND.values())
    for tone, char in enumerate(chars)
}
_CODES |= {".": 0}
_CUT = "!"
# Where an empty pixel looks for the part that it bounds: above first, so that the ground line belongs to the feet.
_NEIGHBOURS = ((-1, 0), (0, -1), (0, 1), (1, 0))


@dataclass(frozen=True)
class Specification:
    """One legal sprite: its class and the value of each of that class's factors, in the grammar's order."""

    class_name: str
    factors: tuple[tuple[str, str], ...]

    def __getitem__(self, factor: str) -> str:
        return dict(self.factors)[factor]

    def as_dict(self) -> dict[str, str]:
        return {"class": self.class_name, **dict(self.factors)}


def factors_of(class_name: str) -> dict[str, tuple[str, ...]]:
    """The factors of a class and their legal values; every combination of values is a legal sprite.

    Raises KeyError, naming the five classes, for a class that does not exist.
    """
    if class_name not in FAMILIES:
        raise KeyError(
            f"unknown class {class_name!r}; expected one of {', '.join(CLASS_NAMES)}"
        )
    family = FAMILIES[class_name]
    return {
        **family.STRUCTURE,
        **{name: tuple(ramps) for name, (_, ramps) in family.COLOURS.items()},
    }


def colour_factors(class_name: str) -> tuple[str, ...]:
    """The factors of a class that choose a ramp; the others choose what is drawn. Raises KeyError as `factors_of`."""
    return tuple(
        name for name in factors_of(class_name) if name in FAMILIES[class_name].COLOURS
    )


def specify(class_name: str, **values: str) -> Specification:
    """A checked specification: one legal value for every factor of the class.

    Raises ValueError that names the missing, surplus or illegal factor and what was expected.
    """
    legal = factors_of(class_name)
    if set(values) != set(legal):
        raise ValueError(
            f"a {class_name} has the factors {', '.join(legal)}; got {', '.join(values) or 'none'}"
        )
    for name, value in values.items():
        if value not in legal[name]:
            raise ValueError(
                f"{name}={value!r} is not legal for a {class_name}; expected one of {', '.join(legal[name])}"
            )
    return Specification(class_name, tuple((name, values[name]) for name in legal))


def count_specifications(class_name: str) -> int:
    """How many legal sprites a class has."""
    return int(np.prod([len(values) for values in factors_of(class_name).values()]))


def specification_at(class_name: str, index: int) -> Specification:
    """The legal sprite with this index, 0 <= index < `count_specifications(class_name)` (last factor fastest)."""
    if not 0 <= index < count_specifications(class_name):
        raise IndexError(
            f"a {class_name} has indices 0 to {count_specifications(class_name) - 1}; got {index}"
        )
    values = []
    for name, legal in reversed(factors_of(class_name).items()):
        index, choice = divmod(index, len(legal))
        values.append((name, legal[choice]))
    return Specification(class_name, tuple(reversed(values)))


def all_specifications(class_name: str) -> Iterator[Specification]:
    """Every legal sprite of a class, in index order (a million for side-facing figures: a generator)."""
    legal = factors_of(class_name)
    for values in product(*legal.values()):
        yield Specification(class_name, tuple(zip(legal, values)))


def sample_specifications(n: int, seed: int, class_name: str) -> list[Specification]:
    """`n` different legal sprites of a class, drawn uniformly without replacement; the same for the same seed."""
    total = count_specifications(class_name)
    if n > total:
        raise ValueError(
            f"a {class_name} has only {total} legal specifications; got n={n}"
        )
    chosen = np.random.default_rng([seed, CLASS_NAMES.index(class_name)]).choice(
        total, size=n, replace=False
    )
    return [specification_at(class_name, int(i)) for i in chosen]


def draw_specifications(
    n: int, seed: int, class_names: Sequence[str] = CLASS_NAMES
) -> list[Specification]:
    """`n` fair draws with replacement: the classes in turn, any legal sprite of the class each time; the same for the same seed."""
    rng = np.random.default_rng([seed, len(CLASS_NAMES)])
    names = [class_names[i % len(class_names)] for i in range(n)]
    return [
        specification_at(name, int(rng.integers(count_specifications(name))))
        for name in names
    ]


def template_codes(template: str) -> tuple[np.ndarray, np.ndarray]:
    """A template's text as (codes, touched): (16, 16) uint8 pixel codes, and where it paints or cuts out.

    Raises ValueError for a template that is not 16 rows of 16 characters of the legend.
    """
    rows = template.split()
    if len(rows) != SIZE or any(len(row) != SIZE for row in rows):
        raise ValueError(
            f"a template has {SIZE} rows of {SIZE} characters; got {[len(row) for row in rows]}\n{template}"
        )
    unknown = set("".join(rows)) - set(_CODES) - {_CUT}
    if unknown:
        raise ValueError(
            f"characters {sorted(unknown)} are not in the legend of sprite_templates/ramps.py\n{template}"
        )
    codes = np.array(
        [[0 if char == _CUT else _CODES[char] for char in row] for row in rows],
        dtype=np.uint8,
    )
    return codes, (codes > 0) | np.array(
        [[char == _CUT for char in row] for row in rows]
    )


def _lay(canvas: np.ndarray, templates: Sequence[str]) -> np.ndarray:
    for template in templates:
        codes, touched = template_codes(template)
        canvas = np.where(touched, codes, canvas)
    return canvas


def _outlined(canvas: np.ndarray) -> np.ndarray:
    """The outline rule: each empty pixel beside a part takes that part's darkest tone."""
    padded = np.pad(canvas, 1)
    outline = np.zeros_like(canvas)
    for dy, dx in _NEIGHBOURS:
        neighbour = padded[1 + dy : 1 + dy + SIZE, 1 + dx : 1 + dx + SIZE]
        darkest = np.where(neighbour > 0, 1 + 4 * ((neighbour - 1) // 4), 0)
        outline = np.where(outline > 0, outline, darkest)
    return np.where(canvas > 0, canvas, outline).astype(np.uint8)


@cache
def structure_codes(class_name: str, structure: tuple[str, ...]) -> np.ndarray:
    """(16, 16) pixel codes of a structure: which slot's ramp, and which tone of it, each pixel shows."""
    family = FAMILIES[class_name]
    drawing = family.layers(**dict(zip(family.STRUCTURE, structure)))
    codes = _lay(
        _outlined(_lay(np.zeros((SIZE, SIZE), np.uint8), drawing["parts"])),
        drawing.get("overlays", ()),
    )
    codes = codes[:, ::-1] if drawing.get("mirrored") else codes
    codes.setflags(write=False)
    return codes


def _rgb(ramp: Sequence[str]) -> np.ndarray:
    return np.array(
        [[int(tone[i : i + 2], 16) for i in (0, 2, 4)] for tone in ramp], dtype=np.uint8
    )


@cache
def _fixed_colours() -> np.ndarray:
    """(1 + 4 * slots, 3) uint8: white for code 0, the fixed ramps in their slots, zeros where a factor decides."""
    colours = np.zeros((1 + 4 * len(SLOTS), 3), dtype=np.uint8)
    colours[0] = 255
    for name, ramp in FIXED.items():
        first = 1 + 4 * SLOTS.index(name)
        colours[first : first + 4] = _rgb(ramp)
    return colours


def render(specification: Specification) -> np.ndarray:
    """Draw a specification: (16, 16, 3) uint8, on white. Deterministic; no two specifications give the same picture."""
    family = FAMILIES[specification.class_name]
    values = dict(specification.factors)
    colours = _fixed_colours().copy()
    for factor, (slot, ramps) in family.COLOURS.items():
        first = 1 + 4 * SLOTS.index(slot)
        colours[first : first + 4] = _rgb(ramps[values[factor]])
    return colours[
        structure_codes(
            specification.class_name, tuple(values[name] for name in family.STRUCTURE)
        )
    ]


def render_many(specifications: Sequence[Specification]) -> np.ndarray:
    """(N, 16, 16, 3) uint8: one picture a specification."""
    return (
        np.stack([render(s) for s in specifications])
        if len(specifications)
        else np.zeros((0, SIZE, SIZE, 3), np.uint8)
    )


@cache
def palette() -> np.ndarray:
    """Every tone of every ramp, and white: (104, 3) uint8, in numerical order."""
    ramps = [
        *FIXED.values(),
        *(
            ramp
            for family in FAMILIES.values()
            for _, choices in family.COLOURS.values()
            for ramp in choices.values()
        ),
    ]
    colours = np.unique(
        np.concatenate([np.full((1, 3), 255, np.uint8), *map(_rgb, ramps)]), axis=0
    )
    colours.setflags(write=False)
    return colours


@dataclass(frozen=True)
class HeldOutPairs:
    """Pairs of values of two factors of a class that training never shows together."""

    first: str
    second: str
    pairs: frozenset[tuple[str, str]]

    def hold(self, specification: Specification) -> bool:
        """Whether the specification has a held-out pair."""
        return (specification[self.first], specification[self.second]) in self.pairs


PAIRED_FACTORS = {
    "hero": ("hair_colour", "outfit_colour"),
    "non-hero": ("species", "body_colour"),
    "food": ("kind", "colour"),
    "spell": ("primary", "secondary"),
    "side-facing": ("hair_colour", "outfit_colour"),
}


def held_out_pairs(class_name: str) -> HeldOutPairs:
    """The pairs held out of training for a class: each value of its first factor with one of its second (red hair, green outfit).

    Steps of three through the second factor spread the pairs, so that every single value stays common in training.
    """
    legal = factors_of(class_name)
    first, second = PAIRED_FACTORS[class_name]
    partners = legal[second]
    pairs = frozenset(
        (value, partners[(3 * i + 4) % len(partners)])
        for i, value in enumerate(legal[first])
    )
    return HeldOutPairs(first, second, pairs)


# ---- Decoding: from a picture back to its factors --------------------------------------------------------------------


@cache
def pattern_dictionary(
    class_name: str,
) -> tuple[
    list[tuple[str, ...]], list[tuple[str, tuple[str, ...]]], np.ndarray, np.ndarray
]:
    """What `decode` compares a picture with: (structures, colour factors, patterns, energies) of a class.

    A structure's squared distance to a picture x is |x|^2 plus, for what is fixed in it and for each colour factor's slot, the term
    |p|^2 - 2 x.p, where p (768,) holds a ramp's colours on that slot's pixels and 0 elsewhere. `patterns` (structures * terms, 768) holds
    these p in float32, the fixed part first, then each ramp of each colour factor; `energies` the |p|^2.
    """
    family = FAMILIES[class_name]
    structures = list(product(*family.STRUCTURE.values()))
    codes = np.stack(
        [structure_codes(class_name, structure) for structure in structures]
    ).reshape(len(structures), -1)
    free = np.zeros(1 + 4 * len(SLOTS), dtype=bool)
    tables = []
    for slot, ramps in family.COLOURS.values():
        first = 1 + 4 * SLOTS.index(slot)
        free[first : first + 4] = True
        for ramp in ramps.values():
            table = np.zeros((len(free), 3), np.float32)
            table[first : first + 4] = _rgb(ramp) / np.float32(255)
            tables.append(table)
    fixed = np.where(free[:, None], 0, _fixed_colours() / np.float32(255)).astype(
        np.float32
    )
    patterns = np.stack(
        [table[codes].reshape(len(structures), -1) for table in (fixed, *tables)],
        axis=1,
    )
    return (
        structures,
        [(name, tuple(ramps)) for name, (_, ramps) in family.COLOURS.items()],
        patterns,
        np.square(patterns).sum(2),
    )


def _nearest_in_class(
    x: np.ndarray, class_name: str, chunk: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """(squared distances - |x|^2, indices of the specifications) of the nearest legal sprites of one class; x (N, 768) in 0..1."""
    structures, colours, patterns, energies = pattern_dictionary(class_name)
    best, index = np.full(len(x), np.inf, np.float32), np.zeros(len(x), dtype=np.int64)
    for start in range(0, len(structures), chunk):
        part = patterns[start : start + chunk]
        terms = energies[start : start + chunk] - 2 * (
            x @ part.reshape(-1, x.shape[1]).T
        ).reshape(len(x), *part.shape[:2])
        total, code, first = terms[..., 0], np.arange(start, start + len(part)), 1
        code = np.broadcast_to(code, total.shape)
        for (
            _,
            ramps,
        ) in colours:  # each part's best ramp on its own mask: the choices don't depend on one another
            mine = terms[..., first : first + len(ramps)]
            choice, first = mine.argmin(2), first + len(ramps)
            total, code = (
                total + np.take_along_axis(mine, choice[..., None], 2)[..., 0],
                code * len(ramps) + choice,
            )
        column = total.argmin(1)[:, None]
        value = np.take_along_axis(total, column, 1)[:, 0]
        index = np.where(value < best, np.take_along_axis(code, column, 1)[:, 0], index)
        best = np.minimum(best, value)
    return best, index


def in_unit_range(images: np.ndarray) -> np.ndarray:
    """(N, 16, 16, 3) uint8 in 0..255, or floats already in 0..1, to float64 in 0..1. Raises ValueError for another shape or range."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1:] != (SIZE, SIZE, 3):
        raise ValueError(
            f"pictures have shape {images.shape}; expected (N, {SIZE}, {SIZE}, 3): to_pictures turns a sampler's tensor into that"
        )
    x = images.astype(np.float64) / (255 if images.dtype == np.uint8 else 1)
    if x.size and not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(
            f"values run from {x.min()} to {x.max()}; expected uint8, or floats from 0 to 1 (unorm maps [-1, 1] there)"
        )
    return x


def decode(
    images: np.ndarray, batch: int = 250
) -> tuple[list[Specification], np.ndarray]:
    """The legal sprite nearest to each picture, and how far it is: `decode(render_many(s))` gives `s` back, with distances 0.

    `images`: (N, 16, 16, 3) uint8, or floats in 0..1. Returns N specifications and (N,) distances: root mean square over pixels and
    channels, in units of 0 to 1. Exact: for each structure every part takes its best ramp on its own pixels, and all structures are
    compared. The first call builds tables of 280 MB, in some seconds. Raises ValueError for another shape or range. Lesson 4.
    """
    exact = in_unit_range(images)
    x = exact.reshape(len(exact), SIZE * SIZE * 3).astype(np.float32)
    found = []
    for start in range(0, len(x), batch):
        answers = [
            _nearest_in_class(x[start : start + batch], name) for name in CLASS_NAMES
        ]
        classes = np.stack([distance for distance, _ in answers]).argmin(0)
        found += [
            specification_at(CLASS_NAMES[k], int(answers[k][1][i]))
            for i, k in enumerate(classes)
        ]
    return found, np.sqrt(np.square(render_many(found) / 255 - exact).mean((1, 2, 3)))
