"""Factors that heroes and side-facing figures share.

A name means the same seen from the front and from the side.
"""

from .ramps import COLOURS, SKINS, choose

HAIR_STYLES = (
    "short",
    "long",
    "bob",
    "ponytail",
    "spiky",
    "curly",
    "mohawk",
    "cap",
    "hood",
    "helmet",
    "wizard_hat",
    "crown",
)
OUTFITS = ("tunic", "robe", "plate", "vest", "dress", "overalls", "striped", "cape")
ITEMS = ("none", "sword", "staff", "shield", "bow", "axe", "lantern")

# The second slot: the hair, or the cloth of the headgear.
HAIR_COLOURS = {
    "black": COLOURS["charcoal"],
    "brown": COLOURS["brown"],
    "blond": COLOURS["yellow"],
    "red": COLOURS["red"],
    "white": COLOURS["white"],
    "blue": COLOURS["blue"],
    "pink": COLOURS["pink"],
    "green": COLOURS["green"],
}
OUTFIT_COLOURS = choose(
    "red",
    "orange",
    "yellow",
    "green",
    "teal",
    "blue",
    "purple",
    "pink",
    "slate",
    "charcoal",
)

COLOUR_FACTORS = {
    "hair_colour": ("second", HAIR_COLOURS),
    "skin": ("skin", SKINS),
    "outfit_colour": ("main", OUTFIT_COLOURS),
}
