"""Colour ramps: four tones each, (outline, shadow, middle, light).

A tone is six hexadecimal digits. A ramp's shadow leans towards blue or purple and its
light towards yellow, as painters do it, instead of only getting darker and brighter.
No other colour occurs, so that every pixel of a sprite is an exact member of a ramp.
"""

COLOURS = {
    "red": ("5a1228", "9e2238", "d83a3c", "f47a5e"),
    "orange": ("6b2414", "b4481c", "ea7a24", "ffb454"),
    "yellow": ("6e4310", "c08420", "f0c030", "fff07a"),
    "green": ("12402e", "1f7a3c", "46b048", "a4dc5e"),
    "teal": ("0c3a46", "147478", "26ac9c", "7ce2c0"),
    "blue": ("16245e", "2450a8", "3c86e0", "82c8f8"),
    "purple": ("2e1450", "5e2c94", "9450c8", "cc92ee"),
    "pink": ("641a4a", "b03a78", "ea72a4", "ffb6cc"),
    "brown": ("36190f", "68371f", "9c5f34", "cc9560"),
    "slate": ("24283a", "4e586e", "8490a4", "c0cad4"),
    "charcoal": ("12101c", "2a2a3c", "464a5e", "70788c"),
    "white": ("5c6484", "a8b2cc", "dce4f0", "ffffff"),
}


def choose(*names: str) -> dict[str, tuple[str, ...]]:
    """The ramps of some of these colours, in the order asked for."""
    return {name: COLOURS[name] for name in names}


SKINS = {
    "fair": ("7a3e34", "d08e72", "f4c4a0", "ffe4c8"),
    "peach": ("6a3020", "b87448", "e2a26c", "f8cc98"),
    "tan": ("58281a", "9c5c34", "c88850", "e8b47c"),
    "brown": ("3e1c18", "743e28", "9e6238", "c48a58"),
    "dark": ("28121a", "4c2824", "6e4030", "966044"),
}

# Fixed ramps: the materials whose colour no factor chooses.
FIXED = {
    "steel": ("2a3048", "5c6a88", "a4b4c8", "eef4fa"),
    "wood": ("351a12", "643a22", "96602f", "c8945a"),
    "gold": ("60340c", "b07818", "ecb82c", "fff0a0"),
    "leaf": ("123c28", "23703a", "4ea846", "a6da68"),
    "bone": ("5a4a4a", "b49c88", "e4d4b4", "fffae6"),
    "flesh": ("5c1020", "a02c3c", "dc5c5c", "f8a098"),
    "stone": ("26242e", "4a4854", "787884", "a8aab4"),
    "water": ("1c3460", "3a74b0", "7cc0e4", "d8f4ff"),
    "ink": ("0c0a18", "1a1626", "2c2838", "444054"),
}

# The characters of a template: four for each slot, from its outline to its light.
LEGEND = {
    "main": "0123",
    "second": "4567",
    "skin": "abcd",
    "steel": "efgh",
    "wood": "ijkl",
    "gold": "mnop",
    "leaf": "qrst",
    "bone": "uvwx",
    "flesh": "ABCD",
    "stone": "EFGH",
    "water": "IJKL",
    "ink": "MNOP",
}
