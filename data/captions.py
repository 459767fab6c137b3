"""Captions of sprites: a small grammar that says in words what a sprite shows.

A caption names some of a sprite's factors and leaves the rest open: "a hero with long
red hair in a green robe, holding a staff". It may also say what the sprite does not
have: "without a crown". Words have synonyms, and phrases come in any order.

Some of the language is never used in training: one pattern of sentence, and some words
in some places ("crimson" is said of clothes, but never of hair). `make_test_captions`
asks for them. `encode` turns captions into the numbers that a network reads.
Lesson 8.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import sprite_factory as factory
from sprite_factory import Specification

MAX_WORDS = 40
PADDING = 0  # the number of no word
UNKNOWN = 1  # the number of a word that is not known

# ---- Words: what a value is called ---------------------------------------------------

COLOUR_WORDS = {
    "red": ("red", "crimson"),
    "orange": ("orange", "amber"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "teal": ("teal", "turquoise"),
    "blue": ("blue", "azure"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rosy"),
    "slate": ("slate", "grey"),
    "charcoal": ("charcoal", "sooty"),
    "brown": ("brown", "chestnut"),
    "black": ("black", "ebony"),
    "white": ("white", "snowy"),
    "blond": ("blond", "fair"),
}
COLOUR_FACTORS = (
    "hair_colour",
    "outfit_colour",
    "body_colour",
    "accent",
    "colour",
    "primary",
    "secondary",
)
# Never said of these factors in training. Each word is common in another place.
HELD_OUT_WORDS = (
    ("crimson", "hair_colour"),
    ("rosy", "hair_colour"),
    ("emerald", "outfit_colour"),
    ("azure", "outfit_colour"),
    ("violet", "body_colour"),
    ("amber", "body_colour"),
    ("golden", "accent"),
    ("turquoise", "colour"),
    ("grey", "colour"),
    ("snowy", "secondary"),
    ("violet", "primary"),
)
# What a caption calls the values of the other factors, where it is not their own name.
# Everything that can be counted has its article here.
WORDS = {
    "class": {
        "hero": ("a hero", "an adventurer"),
        "side-facing": ("a traveller", "a wanderer"),
        "non-hero": ("a creature", "a monster"),
        "food": ("food", "a dish"),
        "spell": ("a magic item", "an enchanted thing"),
    },
    "hair_style": {
        "short": ("short hair", "cropped hair"),
        "long": ("long hair", "flowing hair"),
        "bob": ("a bob",),
        "ponytail": ("a ponytail",),
        "spiky": ("spiky hair", "wild hair"),
        "curly": ("curly hair", "frizzy hair"),
        "mohawk": ("a mohawk",),
        "cap": ("a cap",),
        "hood": ("a hood",),
        "helmet": ("a helmet",),
        "wizard_hat": ("a wizard hat", "a pointed hat"),
        "crown": ("a crown",),
    },
    "outfit": {
        "tunic": ("a tunic",),
        "robe": ("a robe", "a gown"),
        "plate": ("armour", "mail"),
        "vest": ("a vest",),
        "dress": ("a dress",),
        "overalls": ("overalls", "dungarees"),
        "striped": ("a striped shirt", "a striped sweater"),
        "cape": ("a cape", "a cloak"),
    },
    "item": {
        "none": ("empty hands", "bare hands"),
        "sword": ("a sword", "a blade"),
        "staff": ("a staff", "a stick"),
        "shield": ("a shield",),
        "bow": ("a bow",),
        "axe": ("an axe", "a hatchet"),
        "lantern": ("a lantern", "a lamp"),
    },
    "species": {
        "slime": ("a slime", "a blob"),
        "mushroom": ("a mushroom monster", "a toadstool monster"),
        "beholder": ("a beholder", "a floating eye"),
        "snake": ("a snake", "a serpent"),
        "fish": ("a fish monster",),
        "ghost": ("a ghost", "a phantom"),
        "owl": ("an owl",),
        "octopus": ("an octopus", "a kraken"),
    },
    "mood": {
        "calm": ("calm", "peaceful"),
        "angry": ("angry", "furious"),
        "sleepy": ("sleepy", "tired"),
        "happy": ("happy", "cheerful"),
    },
    "feature": {"belly": ("a belly",)},
    "kind": {
        "apple": ("an apple",),
        "cherries": ("cherries",),
        "grapes": ("grapes",),
        "toast": ("toast",),
        "cheese": ("cheese",),
        "cupcake": ("a cupcake", "a muffin"),
        "doughnut": ("a doughnut", "a donut"),
        "ice_cream": ("an ice cream",),
        "lollipop": ("a lollipop", "a lolly"),
        "burger": ("a burger", "a hamburger"),
        "candy": ("candy",),
        "potion": ("a potion", "an elixir"),
        "open_book": ("an open book",),
        "wand": ("a wand", "a magic wand"),
        "orb": ("an orb", "a crystal ball"),
        "amulet": ("an amulet", "a pendant"),
        "crystals": ("crystals", "gems"),
        "hourglass": ("an hourglass",),
        "thundercloud": ("a thundercloud", "a stormcloud"),
    },
    "serving": {
        "whole": ("whole", "untouched"),
        "bitten": ("bitten", "nibbled"),
        "creamed": ("creamy",),
    },
    "garnish": {"berries": ("berries",), "sparkle": ("a sparkle", "a glint")},
    "effect": {
        "sparkles": ("sparkles", "stars"),
        "bubbles": ("bubbles",),
        "hearts": ("hearts",),
        "leaves": ("leaves",),
    },
    "pose": {"step": ("walking", "strolling"), "stride": ("running", "rushing")},
}
PLURAL = ("horns", "wings", "spots", "spikes")  # features without an article
ADJECTIVES = ("skin", "facing")  # factors whose values have no article
HEADGEAR = ("cap", "hood", "helmet", "wizard_hat")  # in the hair's colour
# How a phrase begins in a sentence. In a list of tags it stands alone.
LEADS = {
    "hair": ("with",),
    "outfit": ("in", "wearing"),
    "item": ("holding", "carrying"),
    "hands": ("with",),
    "skin": ("with",),
    "facing": ("facing", "looking"),
    "feature": ("with",),
    "garnish": ("with",),
    "secondary": ("with",),
    "effect": ("with", "surrounded by"),
    "without": ("without",),
}
ON = ("plate", "leaf", "napkin", "tray")  # a dish stands on these garnishes

# ---- Patterns: how a caption is put together -----------------------------------------

# {subject}: "a hero". {details}: "with red hair, in a robe". {tags}: "red hair, robe".
PATTERNS = (
    "{subject} {details}",
    "{subject} {details}",  # the most natural one comes twice as often
    "a picture of {subject} {details}",
    "{subject}: {tags}",
    "{tags}",
)
HELD_OUT_PATTERN = "{details}: {subject}"  # never in training
JOINS = (", ", " ", " and ")

# What may be denied in a class: "without a sword".
DENIABLE = {
    "hero": ("hair_style", "item"),
    "side-facing": ("hair_style", "item"),
    "non-hero": ("feature",),
    "food": ("garnish",),
    "spell": ("effect",),
}
SUBJECT = {"non-hero": "species", "food": "kind", "spell": "kind"}


@dataclass(frozen=True)
class Caption:
    """A text, and what it says.

    wanted: {factor or "class": value} that it names. unwanted: {factor: value} that it
    denies.
    """

    text: str
    wanted: dict[str, str]
    unwanted: dict[str, str] = field(default_factory=dict)

    def is_met_by(self, factors: dict[str, str]) -> bool:
        """Whether a sprite with these factors, class included, is as the text says."""
        named = all(factors.get(key) == value for key, value in self.wanted.items())
        denied = any(factors.get(key) == value for key, value in self.unwanted.items())
        return named and not denied


# ---- Phrases: what is said of one or two factors -------------------------------------


def words_for(factor: str, value: str) -> tuple[str, ...]:
    """What a caption may call a value: ("red", "crimson"), or ("a sword", "a blade").

    Lesson 8.
    """
    if factor in COLOUR_FACTORS:
        return COLOUR_WORDS[value]
    if value in WORDS.get(factor, ()):
        return WORDS[factor][value]
    name = value.replace("_", " ")
    if value in PLURAL or factor in ADJECTIVES:
        return (name,)
    return (f"a {name}",)


def _coloured(colour: str | None, thing: str) -> str:
    """A thing in a colour: ("red", "a robe") gives "a red robe"."""
    if colour is None:
        return thing
    article, _, rest = thing.partition(" ")
    if article not in ("a", "an"):
        return f"{colour} {thing}"
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {rest}"


class _Writer:
    """Chooses the words of one caption.

    held_out: False leaves out the words of `HELD_OUT_WORDS`; True uses them wherever
    one fits.
    """

    def __init__(self, rng: np.random.Generator, held_out: bool):
        self.rng = rng
        self.held_out = held_out

    def one_of(self, choices: Sequence[str]) -> str:
        return choices[self.rng.integers(len(choices))]

    def word(self, factor: str, value: str | None) -> str | None:
        """A word for a value, or None for no value."""
        if value is None:
            return None
        choices = words_for(factor, value)
        rare = [word for word in choices if (word, factor) in HELD_OUT_WORDS]
        if self.held_out and rare:
            return rare[0]
        return self.one_of([word for word in choices if word not in rare])

    def hair(self, named: dict[str, str], style_shown: str | None) -> str | None:
        """ "long red hair", "a red hood", "red hair"; None if neither is named."""
        style = self.word("hair_style", named.get("hair_style"))
        colour = self.word("hair_colour", named.get("hair_colour"))
        if style is None:
            thing = "headgear" if style_shown in HEADGEAR else "hair"
            return colour and f"{colour} {thing}"
        first, _, last = style.rpartition(" ")
        if colour and last == "hair":
            return f"{first} {colour} hair"
        return _coloured(colour, style)

    def outfit(self, named: dict[str, str]) -> str | None:
        """ "a green robe", "a robe", "green clothes"; None if neither is named."""
        thing = self.word("outfit", named.get("outfit"))
        colour = self.word("outfit_colour", named.get("outfit_colour"))
        if thing is None and colour is None:
            return None
        return _coloured(colour, thing or "clothes")

    def feature(self, named: dict[str, str]) -> str | None:
        """ "yellow horns", "horns", "yellow details"; None if neither is named."""
        thing = self.word("feature", named.get("feature"))
        colour = self.word("accent", named.get("accent"))
        if thing is None and colour is None:
            return None
        return _coloured(colour, thing or "details")

    def subject(self, class_name: str, named: dict[str, str]) -> str:
        """ "a running traveller", "an angry red slime", "a bitten apple"."""
        factor = SUBJECT.get(class_name)
        if factor in named:
            thing = self.word(factor, named[factor])
        else:
            thing = self.word("class", class_name)
        for factor in ("primary", "colour", "body_colour", "serving", "mood", "pose"):
            thing = _coloured(self.word(factor, named.get(factor)), thing)
        return thing

    def details(
        self, named: dict[str, str], values: dict[str, str]
    ) -> list[tuple[str, str]]:
        """(kind of phrase, phrase) for what the subject does not say.

        named: what to say; values: all that the sprite shows.
        """
        secondary = self.word("secondary", named.get("secondary"))
        skin = self.word("skin", named.get("skin"))
        item = "hands" if named.get("item") == "none" else "item"
        phrases = {
            "hair": self.hair(named, values.get("hair_style")),
            "outfit": self.outfit(named),
            item: self.word("item", named.get("item")),
            "skin": skin and f"{skin} skin",
            "facing": named.get("facing"),
            "feature": self.feature(named),
            "garnish": self.word("garnish", named.get("garnish")),
            "secondary": secondary and f"{secondary} trim",
            "effect": self.word("effect", named.get("effect")),
        }
        return [(kind, phrase) for kind, phrase in phrases.items() if phrase]

    def prose(self, kind: str, phrase: str) -> str:
        """ "with red hair", "on a plate"."""
        last = phrase.rpartition(" ")[2]
        if kind == "garnish" and last in ON:
            return f"on {phrase}"
        return f"{self.one_of(LEADS[kind])} {phrase}"

    def tag(self, kind: str, phrase: str) -> str:
        """ "red hair", "plate", "facing left", "no sword"."""
        if kind == "facing":
            return f"facing {phrase}"
        article, _, rest = phrase.partition(" ")
        bare = rest if article in ("a", "an") else phrase
        return f"no {bare}" if kind == "without" else bare


# ---- Captions ------------------------------------------------------------------------


def write_caption(
    specification: Specification,
    factors: Sequence[str],
    rng: np.random.Generator,
    *,
    deny: bool = False,
    pattern: str | None = None,
    held_out_words: bool = False,
) -> Caption:
    """Say in words what a sprite shows.

    factors: those that the caption names. The class is always named, too, by itself or
        by the kind of thing. rng: chooses words, pattern and order.
    deny: also name one thing that the sprite does not have, if a deniable factor
        (`DENIABLE`) is not named yet.
    pattern: one of `PATTERNS` or `HELD_OUT_PATTERN`; None draws one of `PATTERNS`.
    held_out_words: use the words of `HELD_OUT_WORDS` wherever one fits; training
        never does.

    Raises ValueError for a factor that the sprite's class does not have.
    Lesson 8.
    """
    values = dict(specification.factors)
    for factor in factors:
        if factor not in values:
            raise ValueError(
                f"a {specification.class_name} has no {factor}; expected some of "
                f"{', '.join(values)}"
            )
    named = {factor: values[factor] for factor in values if factor in factors}
    writer = _Writer(rng, held_out_words)
    pattern = pattern or writer.one_of(PATTERNS)
    subject = writer.subject(specification.class_name, named)
    found = writer.details(named, values)
    unwanted = _something_else(specification, named, rng) if deny else {}
    for factor, value in unwanted.items():
        found.append(("without", writer.word(factor, value)))
    rng.shuffle(found)

    details = [writer.prose(kind, phrase) for kind, phrase in found]
    tags = [writer.tag(kind, phrase) for kind, phrase in found]
    if "{subject}" not in pattern:
        tags.append(writer.tag("subject", subject))
    text = pattern.format(
        subject=subject,
        details=writer.one_of(JOINS).join(details),
        tags=", ".join(tags),
    )
    wanted = {"class": specification.class_name, **named}
    return Caption(text.strip(" :"), wanted, unwanted)


def _something_else(
    specification: Specification, named: dict[str, str], rng: np.random.Generator
) -> dict[str, str]:
    """{factor: a value that the sprite does not have}; the factor is not named."""
    free = [each for each in DENIABLE[specification.class_name] if each not in named]
    if not free:
        return {}
    factor = free[rng.integers(len(free))]
    legal = factory.factors_of(specification.class_name)[factor]
    others = [value for value in legal if value not in (specification[factor], "none")]
    return {factor: others[rng.integers(len(others))]}


def draw_caption(specification: Specification, rng: np.random.Generator) -> Caption:
    """A caption for training: it names any number of the sprite's factors.

    One in five may also deny something, if a factor of `DENIABLE` is left to name. For
    the sprites of `train`, one caption in nine does.
    Lesson 8.
    """
    factors = [factor for factor, _ in specification.factors]
    count = rng.integers(len(factors) + 1)
    named = rng.permutation(factors)[:count]
    return write_caption(specification, named, rng, deny=rng.random() < 0.2)


# ---- Words to numbers ----------------------------------------------------------------


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation.

    Lesson 8.
    """
    return re.findall(r"[a-z0-9]+", text.lower())


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word that a caption can have, after the padding and the unknown word.

    Lesson 8.
    """
    words = set()
    for class_name in factory.CLASS_NAMES:
        words.update(*map(split_words, WORDS["class"][class_name]))
        for factor, values in factory.factors_of(class_name).items():
            for value in values:
                words.update(*map(split_words, words_for(factor, value)))
    for leads in LEADS.values():
        words.update(*map(split_words, leads))
    for pattern in PATTERNS:
        words.update(split_words(pattern.format(subject="", details="", tags="")))
    others = "a an and on no hair headgear clothes details skin trim"
    words.update(others.split())
    return ("", "?", *sorted(words))


def encode(captions: Sequence[str]) -> np.ndarray:
    """Captions as numbers of words: (N, MAX_WORDS) int64, padded with PADDING.

    A word that no caption of the grammar has becomes UNKNOWN. Raises ValueError for
    what is no list of texts, and for a caption of more than MAX_WORDS words.
    Lesson 8.
    """
    if isinstance(captions, str) or not all(isinstance(one, str) for one in captions):
        raise ValueError(
            f"captions={str(captions)[:60]!r}; expected a list of texts, such as "
            "['a hero with red hair']"
        )
    numbers = {word: number for number, word in enumerate(vocabulary())}
    encoded = np.full((len(captions), MAX_WORDS), PADDING, np.int64)
    for row, caption in zip(encoded, captions):
        words = split_words(caption)
        if len(words) > MAX_WORDS:
            raise ValueError(
                f"a caption has {len(words)} words, {caption[:40]!r}...; expected at "
                f"most {MAX_WORDS}"
            )
        row[: len(words)] = [numbers.get(word, UNKNOWN) for word in words]
    return encoded
