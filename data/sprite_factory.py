"""The grammar of the sprites: from a specification of named factors to a 16x16 picture (numpy only).

A sprite is drawn in three steps. Its *structure* factors (species, hair style, pose ...) choose hand-drawn part templates, which are
laid over one another; a fixed rule then draws the outline, in the darkest tone of the part that it bounds; last, its *colour*
factors choose one ramp of four tones for each part. So every pixel is an exact member of a ramp, and a picture can be
decoded back to the factors that drew it.

`data/README.md` shows the classes and counts their factors; lesson 3 introduces them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
_FAMILIES: dict[str, ModuleType] = dict(
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
    if class_name not in _FAMILIES:
        raise KeyError(
            f"unknown class {class_name!r}; expected one of {', '.join(CLASS_NAMES)}"
        )
    family = _FAMILIES[class_name]
    return {
        **family.STRUCTURE,
        **{name: tuple(ramps) for name, (_, ramps) in family.COLOURS.items()},
    }


def colour_factors(class_name: str) -> tuple[str, ...]:
    """The factors of a class that choose a ramp; the others choose what is drawn. Raises KeyError as `factors_of`."""
    return tuple(
        name for name in factors_of(class_name) if name in _FAMILIES[class_name].COLOURS
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
    family = _FAMILIES[class_name]
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
    family = _FAMILIES[specification.class_name]
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
            for family in _FAMILIES.values()
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


_PAIRED_FACTORS = {
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
    first, second = _PAIRED_FACTORS[class_name]
    partners = legal[second]
    pairs = frozenset(
        (value, partners[(3 * i + 4) % len(partners)])
        for i, value in enumerate(legal[first])
    )
    return HeldOutPairs(first, second, pairs)


# ---- Decoding: from a picture back to its factors --------------------------------------------------------------------


@cache
def _dictionary(
    class_name: str,
) -> tuple[
    list[tuple[str, ...]], list[tuple[str, tuple[str, ...]]], np.ndarray, np.ndarray
]:
    """What `decode` compares a picture with: (structures, colour factors, patterns, energies) of a class.

    A structure's squared distance to a picture x is |x|^2 plus, for what is fixed in it and for each colour factor's slot, the term
    |p|^2 - 2 x.p, where p (768,) holds a ramp's colours on that slot's pixels and 0 elsewhere. `patterns` (structures * terms, 768) holds
    these p in float32, the fixed part first, then each ramp of each colour factor; `energies` the |p|^2.
    """
    family = _FAMILIES[class_name]
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
    structures, colours, patterns, energies = _dictionary(class_name)
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


def _in_unit_range(images: np.ndarray) -> np.ndarray:
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
    exact = _in_unit_range(images)
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


# ---- Denoising ideally: what a network could know of a noisy picture at best ----------------------------------------


def _mean_of_class(
    y: np.ndarray, variance: float, class_name: str, chunk: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Of one class, for noisy pictures y (N, 768): the log of the mean of exp(-|y - x|^2 / (2 variance)) over its sprites x, plus
    |y|^2 / (2 variance); and the sprites' mean with these weights. Given the structure no pixel belongs to two parts, so that the sum over all
    colours is a product of sums over each part's ramps."""
    structures, colours, patterns, energies = _dictionary(class_name)
    total, mean = np.full(len(y), -np.inf), np.zeros(y.shape)
    for start in range(0, len(structures), chunk):
        part = patterns[start : start + chunk].reshape(-1, y.shape[1])
        logs = (
            (2 * (y @ part.T) - energies[start : start + chunk].reshape(-1))
            / (2 * variance)
        ).reshape(len(y), -1, patterns.shape[1])
        weights, evidence, first = (
            np.ones(logs.shape, np.float32),
            logs[..., 0].astype(np.float64),
            1,
        )
        for _, ramps in colours:
            mine = logs[..., first : first + len(ramps)]
            peak = mine.max(2, keepdims=True)
            weights[..., first : first + len(ramps)] = np.exp(
                np.maximum(mine - peak, -50)
            )  # numbers below 1e-38 would be slow
            sums = weights[..., first : first + len(ramps)].sum(2, keepdims=True)
            weights[..., first : first + len(ramps)] /= sums
            evidence += (peak + np.log(sums))[..., 0]
            first += len(ramps)
        new = np.maximum(
            total, evidence.max(1)
        )  # what was summed so far and this chunk, over one largest term: exp must not overflow
        shares, kept = np.exp(evidence - new[:, None]), np.exp(total - new)
        sums = kept + shares.sum(1)
        shares = np.where(
            shares > 1e-12 * sums[:, None], shares / sums[:, None], 0
        ).astype(np.float32)
        live = shares.any(
            0
        )  # at little noise hardly any structure explains y: leave the others out of the sum
        terms = weights[:, live] * shares[:, live, None]
        mixed = terms.reshape(len(y), -1) @ patterns[start : start + chunk][
            live
        ].reshape(-1, y.shape[1])
        total, mean = new + np.log(sums), mean * (kept / sums)[:, None] + mixed
    return total - np.log(count_specifications(class_name)), mean


def denoise_ideally(
    noisy: np.ndarray, std: float, class_shares: Sequence[float] = (0.2,) * 5
) -> np.ndarray:
    """The best guess of the sprite behind noise: the mean E[x | y] of all 1,363,920 legal sprites x, weighted by how well they explain y.

    `noisy`: (N, 16, 16, 3) floats, y = x + std * noise in units where a sprite runs from 0 to 1; `std` > 0; `class_shares`: how common each
    class is, equally likely sprites in each. Returns (N, 16, 16, 3) floats. No denoiser has a smaller expected squared error on sprites drawn
    so; exact up to rounding, for each structure sums over each part's ramps. `ideal_noise` has it for
    diffusion's x_t. The first call builds the tables of `decode`. Raises ValueError for another shape, std or shares. Lesson 4.
    """
    noisy, shares = (
        np.asarray(noisy, dtype=np.float32),
        np.asarray(class_shares, dtype=float),
    )
    if (
        noisy.ndim != 4
        or noisy.shape[1:] != (SIZE, SIZE, 3)
        or not np.isfinite(noisy).all()
    ):
        raise ValueError(
            f"noisy pictures have shape {noisy.shape}; expected (N, {SIZE}, {SIZE}, 3), finite numbers"
        )
    if not std > 0:
        raise ValueError(f"std={std}; expected the noise's standard deviation, above 0")
    if (
        shares.shape != (len(CLASS_NAMES),)
        or not (shares >= 0).all()
        or not shares.sum() > 0
    ):
        raise ValueError(
            f"class_shares={class_shares}; expected {len(CLASS_NAMES)} numbers, none below 0 and not all 0, in the order of CLASS_NAMES"
        )
    y = noisy.reshape(len(noisy), -1)
    names = [name for name, share in zip(CLASS_NAMES, shares) if share]
    answers = [_mean_of_class(y, std**2, name) for name in names]
    logs = (
        np.stack([evidence for evidence, _ in answers])
        + np.log(shares[shares > 0])[:, None]
    )
    weights = np.exp(logs - logs.max(0))
    return sum(
        (weights / weights.sum(0))[k][:, None] * mean
        for k, (_, mean) in enumerate(answers)
    ).reshape(noisy.shape)


def ideal_noise(
    x_t: np.ndarray, alpha_bar: float, class_shares: Sequence[float] = (0.2,) * 5
) -> np.ndarray:
    """The noise in x_t that `denoise_ideally` implies: what the best possible network would answer.

    `x_t`: (N, 3, 16, 16) floats, sqrt(alpha_bar) * sprites in [-1, 1] + sqrt(1 - alpha_bar) * noise, 0 < alpha_bar < 1,
    one for all; returns float32 of the same shape.
    Raises ValueError for another alpha_bar, and as `denoise_ideally`. Lesson 4.
    """
    if not 0 < alpha_bar < 1:
        raise ValueError(
            f"alpha_bar={alpha_bar}; expected a number between 0 and 1: schedule.ab[t] for one t from 1 to T"
        )
    noisy = (np.moveaxis(np.asarray(x_t), 1, -1) / alpha_bar**0.5 + 1) / 2
    clean = (
        2
        * np.moveaxis(
            denoise_ideally(noisy, (1 / alpha_bar - 1) ** 0.5 / 2, class_shares), -1, 1
        )
        - 1
    )
    return ((x_t - alpha_bar**0.5 * clean) / (1 - alpha_bar) ** 0.5).astype(np.float32)


# ---- Judging: is a picture a legal sprite, and is it a new one? ------------------------------------------------------

# A picture is legal when no pixel of it is further than this from the sprite that it was decoded to. Fixed before any weights were
# scored, with real sprites and `near_misses`: see there.
LEGAL_ERROR = 0.15
# A pixel is off the palette when it is further than this from every colour of it: noise of this size leaves a sprite readable (`decode`).
PALETTE_ERROR = 0.05


def pixel_errors(
    images: np.ndarray, specifications: Sequence[Specification]
) -> np.ndarray:
    """How far each pixel lies from its sprite: (N, 16, 16), root mean square over the channels, in units of 0 to 1.

    `images` as for `decode`, whose first answer the `specifications` are. Raises ValueError when there are not as many of each. Lesson 4.
    """
    if len(images) != len(specifications):
        raise ValueError(
            f"{len(images)} pictures and {len(specifications)} specifications; expected as many: decode(images) gives them"
        )
    return np.sqrt(
        np.square(render_many(specifications) / 255 - _in_unit_range(images)).mean(3)
    )


def palette_errors(images: np.ndarray) -> np.ndarray:
    """How far each pixel lies from the nearest colour of the palette: (N, 16, 16), root mean square over the channels, in units of 0 to 1.

    `images` as for `decode`. Real sprites have 0 everywhere. Lesson 4.
    """
    pictures, colours = (
        _in_unit_range(images).reshape(len(images), SIZE * SIZE, 1, 3),
        palette() / 255,
    )
    nearest = np.array(
        [np.square(picture - colours).mean(2).min(1) for picture in pictures]
    )
    return np.sqrt(nearest).reshape(len(images), SIZE, SIZE)


def palette_distance(images: np.ndarray) -> np.ndarray:
    """The root mean square of each picture's `palette_errors`: (N,), in units of 0 to 1. Lesson 4."""
    return np.sqrt(np.square(palette_errors(images)).mean((1, 2)))


def are_legal(
    images: np.ndarray, specifications: Sequence[Specification]
) -> np.ndarray:
    """(N,) bool: whether the worst pixel of each picture is nearer than LEGAL_ERROR to its sprite; arguments as `pixel_errors`. Lesson 4.

    Why the worst pixel, and not `decode`'s distance over the whole picture: a part may be ten pixels of 256, so that half of it in a wrong
    colour hardly moves the distance, while noise that nobody sees moves it as much.
    """
    return pixel_errors(images, specifications).max((1, 2), initial=0.0) < LEGAL_ERROR


def near_misses(
    specifications: Sequence[Specification], kind: str, seed: int = 0
) -> np.ndarray:
    """Pictures that are almost sprites, one for each specification or fewer: (M, 16, 16, 3) uint8. Lesson 4.

    Each is its sprite with one factor changed in half of the pixels that it changes (the upper or the left half): a colour factor for
    `kind` "colour" (two colours mixed in one part), a structure factor for "part" (half a hat on another head). Where fewer than four
    pixels change there is no half, and no picture. LEGAL_ERROR refuses 91 of 100 mixed colours and practically every half part, and lets 99 of
    100 real sprites with Gaussian noise of standard deviation 0.05 pass (tests/data/test_judging.py). Raises ValueError for another kind.
    """
    if kind not in ("colour", "part"):
        raise ValueError(f"kind={kind!r} does not exist; expected 'colour' or 'part'")
    rng = np.random.default_rng([seed, 7])
    pictures = []
    for specification in specifications:
        family, legal = (
            _FAMILIES[specification.class_name],
            factors_of(specification.class_name),
        )
        factor = str(
            rng.choice(list(family.COLOURS if kind == "colour" else family.STRUCTURE))
        )
        other = str(
            rng.choice(
                [value for value in legal[factor] if value != specification[factor]]
            )
        )
        picture = render(specification)
        changed = render(
            specify(
                specification.class_name,
                **{**dict(specification.factors), factor: other},
            )
        )
        where = np.argwhere((picture != changed).any(2))
        if len(where) >= 4:
            y, x = where[where[:, rng.integers(2)].argsort(kind="stable")][
                : len(where) // 2
            ].T
            picture[y, x] = changed[y, x]
            pictures.append(picture)
    return np.stack(pictures) if pictures else np.zeros((0, SIZE, SIZE, 3), np.uint8)


def are_new(
    specifications: Sequence[Specification], known: Sequence[dict[str, str]]
) -> np.ndarray:
    """(N,) bool: whether each specification is missing among `known`, dictionaries of factors such as `load_sprites("train").factors`. Lesson 4."""
    seen = {frozenset(factors.items()) for factors in known}
    return np.array(
        [frozenset(s.as_dict().items()) not in seen for s in specifications], dtype=bool
    )


def total_variation(
    ours: Sequence[dict[str, str]], theirs: Sequence[dict[str, str]]
) -> float:
    """How much the frequencies of factor values differ between two sets of sprites: 0 (not at all) to 1.

    Half the sum of the absolute differences between two histograms, sum |p - q| / 2, for the classes and for each factor of each class,
    averaged over these. The factors of a class that one set lacks count as 1, those of a class that both lack not at all. Small sets differ by
    chance: compare equal N, and put the score of real test sprites beside it. Lesson 4.
    """

    def histogram(rows: Sequence[dict[str, str]], factor: str) -> dict[str, float]:
        values = Counter(row[factor] for row in rows)
        return {value: count / len(rows) for value, count in values.items()}

    def distance(
        a: Sequence[dict[str, str]], b: Sequence[dict[str, str]], factor: str
    ) -> float:
        p, q = histogram(a, factor), histogram(b, factor)
        return (
            sum(abs(p.get(value, 0) - q.get(value, 0)) for value in p.keys() | q.keys())
            / 2
            if a and b
            else 1.0
        )

    distances = [distance(ours, theirs, "class")]
    for name in CLASS_NAMES:
        a, b = (
            [row for row in rows if row["class"] == name] for rows in (ours, theirs)
        )
        distances += (
            [distance(a, b, factor) for factor in factors_of(name)] if a or b else []
        )
    return float(np.mean(distances))


def distinct_by_chance(counts: dict[str, int]) -> float:
    """How many different sprites are expected among fair draws with replacement, {class: how many}: sum of K (1 - (1 - 1/K)^n). Lesson 4."""
    totals = {name: count_specifications(name) for name in counts}
    return float(
        sum(
            total * -np.expm1(n * np.log1p(-1 / total))
            for (name, n), total in zip(counts.items(), totals.values())
        )
    )


def as_factors(
    asked: Sequence[dict[str, str]] | np.ndarray, n: int
) -> list[dict[str, str]]:
    """What was asked of n pictures, as n dictionaries of factors such as {"class": "hero", "item": "sword"}; an empty one asks nothing.

    `asked`: such dictionaries, or contexts (n, 5), one-hot rows in the order of CLASS_NAMES or rows of zeros. Raises ValueError for another
    number or shape, for rows that are neither, and for a factor or a value that no class has. Lesson 4.
    """
    if len(asked) != n:
        raise ValueError(
            f"asked has {len(asked)} entries for {n} pictures; give one for each"
        )
    if not n or not isinstance(asked[0], dict):
        rows = np.asarray(asked, dtype=float)
        one_hot = (
            rows.ndim == 2
            and rows.shape[1] == len(CLASS_NAMES)
            and np.isin(rows, (0, 1)).all()
            and (rows.sum(1) <= 1).all()
        )
        if n and not one_hot:
            raise ValueError(
                f"asked has shape {rows.shape}; expected dictionaries of factors, or contexts ({n}, 5), each row one-hot or zero"
            )
        return [
            {"class": CLASS_NAMES[row.argmax()]} if row.any() else {} for row in rows
        ]
    legal = {"class": set(CLASS_NAMES)}
    for name in CLASS_NAMES:
        for factor, values in factors_of(name).items():
            legal.setdefault(factor, set()).update(values)
    for factor, value in {item for row in asked for item in row.items()}:
        if value not in legal.get(factor, ()):
            raise ValueError(
                f"asked for {factor}={value!r}, which no sprite has; expected {factor} among {sorted(legal.get(factor, legal))}"
            )
    return list(asked)


@cache
def context_columns() -> tuple[tuple[str, str], ...]:
    """What each column of a context that names factors asks for: (factor, value), first the five classes.

    Then every value of the two factors of each class of which pairs are held out (`held_out_pairs`): hair and outfit colours, kinds and their
    colours, ... A value that two classes share has one column. Lesson 6.
    """
    columns = [("class", name) for name in CLASS_NAMES]
    for name in CLASS_NAMES:
        columns += [
            (factor, value)
            for factor in _PAIRED_FACTORS[name]
            for value in factors_of(name)[factor]
        ]
    return tuple(dict.fromkeys(columns))


def as_context(asked: Sequence[dict[str, str]]) -> np.ndarray:
    """Dictionaries of factors, such as {"class": "hero", "hair_colour": "red"}, to contexts (N, columns) float32.

    1 in the column of each value asked for, 0 elsewhere; a factor that has no columns (`context_columns`) is left out. Raises ValueError for a
    factor or a value that no class has. Lesson 6.
    """
    asked = as_factors(asked, len(asked))
    place = {column: i for i, column in enumerate(context_columns())}
    contexts = np.zeros((len(asked), len(place)), np.float32)
    for context, row in zip(contexts, asked):
        context[[place[item] for item in row.items() if item in place]] = 1
    return contexts


def verdicts(
    images: np.ndarray,
    known: Sequence[dict[str, str]],
    asked: Sequence[dict[str, str]] | np.ndarray | None = None,
) -> tuple[list[dict[str, str]], dict[str, np.ndarray]]:
    """What can be said of each picture by itself: (the factors it was decoded to, {measure: one value a picture}).

    "legal" (N,) bool, "new among legal" for the legal ones (all, and those of each class), "off-palette pixels" (N,) from 0 to 1 and, for
    each factor that is asked for (`as_factors`), "... as asked" for the pictures it was asked of, legal or not. `known`: the factors of the
    training sprites. Raises ValueError as `as_factors` and `decode`. Lesson 4.
    """
    asked = [] if asked is None else as_factors(asked, len(images))
    specifications, _ = decode(images)
    found = [specification.as_dict() for specification in specifications]
    legal, classes = (
        are_legal(images, specifications),
        np.array([row["class"] for row in found]),
    )
    new = are_new(specifications, known)
    values = {"legal": legal, "new among legal": new[legal]}
    values |= {
        f"new among legal, {name}": new[legal & (classes == name)]
        for name in CLASS_NAMES
    }
    for factor in dict.fromkeys(factor for row in asked for factor in row):
        values[f"{factor} as asked"] = np.array(
            [
                row.get(factor) == want[factor]
                for row, want in zip(found, asked)
                if factor in want
            ]
        )
    return found, values | {
        "off-palette pixels": (palette_errors(images) > PALETTE_ERROR).mean((1, 2))
    }


# ---- Intervals: how far chance may have moved a score ----------------------------------------------------------------


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """(mean, low, high): the mean of independent values (N,) and its 95 % interval; all NaN for no values. Lesson 4.

    For booleans Wilson's interval (1927), which stays inside 0 to 1 and has a width even where all agree; else mean -+ 1.96 standard errors
    (a lone value has none).
    """
    n = len(values)
    if not n:
        return (float("nan"),) * 3
    mean = float(np.mean(values))
    if values.dtype == bool:
        centre, shrink = (
            (mean + 1.96**2 / (2 * n)) / (1 + 1.96**2 / n),
            1 / (1 + 1.96**2 / n),
        )
        half = 1.96 * shrink * (mean * (1 - mean) / n + 1.96**2 / (4 * n * n)) ** 0.5
        return mean, max(centre - half, 0.0), min(centre + half, 1.0)
    half = 1.96 * float(np.std(values, ddof=1)) / n**0.5 if n > 1 else float("nan")
    return mean, mean - half, mean + half


GROUPS, T_QUANTILE = 20, 2.093  # Student's t with 19 degrees of freedom, 97.5 %


def check_number(n: int) -> None:
    """Raises ValueError for fewer pictures than `jackknife` has groups. Lesson 4."""
    if n < GROUPS:
        raise ValueError(
            f"{n} pictures; expected at least {GROUPS}, the number of groups that the intervals are made of"
        )


def jackknife(
    statistic: Callable[[np.ndarray], Sequence[float]], n: int
) -> list[tuple[float, float, float]]:
    """[(value, low, high)]: each number that `statistic(indices)` returns of n pictures, and its 95 % interval. For what is no mean over pictures.

    The delete-a-group jackknife: 20 random groups (so that an order of classes does no harm), each left out in turn, and a half-width of
    2.093 sqrt(19/20 sum (s_i - mean s)^2). It is about the expected score of n pictures: what falls with n, as FD does, is not corrected.
    Raises ValueError as `check_number`. Lesson 4.
    """
    check_number(n)
    group = np.random.default_rng(0).permutation(n) % GROUPS
    without = np.array(
        [statistic(np.flatnonzero(group != left_out)) for left_out in range(GROUPS)]
    )
    values = np.array(statistic(np.arange(n)))
    half = (
        T_QUANTILE
        * ((GROUPS - 1) / GROUPS * np.square(without - without.mean(0)).sum(0)) ** 0.5
    )
    return list(
        zip(values.tolist(), (values - half).tolist(), (values + half).tolist())
    )


def summary(
    images: np.ndarray,
    known: Sequence[dict[str, str]],
    asked: Sequence[dict[str, str]] | np.ndarray | None = None,
) -> dict[str, tuple[float, float, float]]:
    """All that the grammar says of a set of pictures: {measure: (value, low, high)}, the ends of a 95 % interval; arguments as `verdicts`.

    The means of its measures; then of the set as a whole, each picture taken for its nearest sprite, legal or not: "total variation", the
    `total_variation` of factors against `known`, and "distinct", different sprites over what as many fair draws with replacement from each
    class would give (a set without repetitions is just above 1). Raises ValueError for fewer than 20 pictures, and as `verdicts`. Lesson 4.
    """
    check_number(len(images))
    found, values = verdicts(images, known, asked)

    def of_the_set(rows: Sequence[int]) -> tuple[float, float]:
        some = [found[i] for i in rows]
        counts = Counter(row["class"] for row in some)
        return total_variation(some, known), len(
            {frozenset(row.items()) for row in some}
        ) / distinct_by_chance(counts)

    scores = {name: interval(each) for name, each in values.items()}
    return scores | dict(
        zip(("total variation", "distinct"), jackknife(of_the_set, len(found)))
    )


def score_table(
    columns: dict[str, dict[str, tuple[float, float, float]]], n: int
) -> str:
    """{column: {measure: (value, low, high)}} as text to print, each value (low, high), n pictures a column. Lesson 4."""
    names = dict.fromkeys(name for scores in columns.values() for name in scores)

    def cell(scores: dict[str, tuple[float, float, float]], name: str) -> str:
        known = name in scores and not np.isnan(scores[name]).any()
        return (
            "{} ({}, {})".format(
                *(f"{value:.{3 if abs(value) < 10 else 1}f}" for value in scores[name])
            )
            if known
            else "-"
        )

    head = f"{f'n = {n:,} each':30s}" + "".join(f"{title:24s}" for title in columns)
    rows = [
        f"{name:30s}"
        + "".join(f"{cell(scores, name):24s}" for scores in columns.values())
        for name in names
    ]
    return "\n".join(line.rstrip() for line in (head, *rows))
