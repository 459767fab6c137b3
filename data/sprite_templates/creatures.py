"""Monsters and animals ("non-hero"): a species, its mood and one coloured feature.

Each species is one hand-drawn body in the main slot. A feature (horns, wings, spots,
belly or spikes) is drawn in the second slot, and each species has its own version of
it. Eyes and mouths are laid over the outlined body, at a place that each species names.
"""

from .ramps import choose

SPECIES = (
    "slime",
    "bat",
    "ghost",
    "dragon",
    "spider",
    "crab",
    "mushroom",
    "beholder",
    "snake",
    "fish",
    "owl",
    "cat",
    "golem",
    "octopus",
)
MOODS = ("calm", "angry", "sleepy", "happy")

STRUCTURE = {
    "species": SPECIES,
    "mood": MOODS,
    "feature": ("horns", "wings", "spots", "belly", "spikes"),
}
COLOURS = {
    "body_colour": (
        "main",
        choose(
            "red",
            "orange",
            "green",
            "teal",
            "blue",
            "purple",
            "pink",
            "brown",
            "slate",
            "charcoal",
        ),
    ),
    "accent": ("second", choose("yellow", "white", "pink", "blue")),
}

SIZE = 16
# Features that stick out from behind the body, and their species; the others lie on it.
BEHIND = {
    "wings": ("spider", "mushroom", "golem"),
    "spikes": tuple(name for name in SPECIES if name not in ("dragon", "crab")),
}


def layers(species: str, mood: str, feature: str) -> dict:
    """The templates of a creature: its body and feature, and its face over them."""
    body = BODIES[species]
    extra = FEATURES[species][feature]
    parts = (body, extra)
    if species in BEHIND.get(feature, ()):
        parts = (extra, body)
    eyes, eyes_row, eyes_column, mouth, mouth_row, mouth_column = FACES[species]
    look = place(EYES[eyes][mood], eyes_row, eyes_column)
    expression = place(MOUTHS[mouth][mood], mouth_row, mouth_column)
    return {"parts": parts, "overlays": (look, expression)}


def place(art: str, row: int, column: int) -> str:
    """A full template that holds only a small drawing.

    `art`: the rows of the drawing, separated by white space. (row, column) is its upper
    left corner.
    """
    empty = "." * SIZE
    rows = [empty] * row
    for line in art.split():
        shifted = "." * column + line
        rows.append(shifted.ljust(SIZE, "."))
    rows += [empty] * (SIZE - len(rows))
    return "\n".join(rows)


def join(*templates: str) -> str:
    """One template from several; where they overlap, the last one shows."""
    rows = [["."] * SIZE for _ in range(SIZE)]
    for template in templates:
        for y, line in enumerate(template.split()):
            rows[y] = [new if new != "." else old for old, new in zip(rows[y], line)]
    return "\n".join("".join(row) for row in rows)


def pair(art: str, row: int, column: int) -> str:
    """A drawing on the left and its mirror image on the right, which has less light."""
    left = place(art, row, column)
    mirrored = "\n".join(line[::-1] for line in left.split())
    right = mirrored.replace("7", "6")
    return join(right, left)


# ---- Bodies --------------------------------------------------------------------------

BODIES = {}

BODIES["slime"] = """
................
................
................
................
......2222......
....33322222....
...3333222222...
...3332222222...
..333222222222..
..332222222222..
..322222222221..
.22222222222221.
.22222222222221.
.12222222222111.
..111111111111..
................
"""

BODIES["bat"] = """
................
................
.2..2......2..2.
.22.32....22.22.
.21233222222112.
.21132222222112.
.21133222222112.
.11133222222111.
.1.1322222221.1.
....22222222....
.....221221.....
......1111......
......1..1......
................
................
................
"""

BODIES["ghost"] = """
................
................
................
.....332222.....
....33322222....
...3332222222...
...3322222222...
...3222222222...
.32322222222222.
.22222222222221.
..122222222221..
...2222222221...
...22.2222.22...
...1...21...1...
................
................
"""

BODIES["dragon"] = """
................
............2...
....2222...22...
...332222..212..
...322222.02112.
.33322222202111.
.30222222202101.
.22222222201011.
..1112222201..1.
.....322222..2..
....3322212.222.
....32222122.2..
....322221222...
....2202222211..
...222.22211....
................
"""

BODIES["spider"] = """
................
................
..2..........2..
..2..........2..
...2.332222.2...
.2.2332222222.2.
.2..32222222..2.
..223222222222..
....22222222....
..222222222122..
.2..22222221..2.
.2.2122222112.2.
...2.111111.2...
..2..........2..
..2..........2..
................
"""

BODIES["crab"] = """
................
................
.3.2........2.2.
.3.2........2.2.
.322.32..22.222.
.222.222222.221.
..21.222222.12..
..133322222221..
..332222222222..
.33222222222222.
.32222222222221.
.22222222222211.
..111111111111..
.22.22....22.22.
.1...1....1...1.
................
"""

BODIES["mushroom"] = """
................
................
................
.....332222.....
...3333222222...
..333322222222..
..333222222222..
.33222222222222.
.22222222222221.
.11111111111111.
...uwwwwwwwwu...
...xxwwwwwwwv...
...xwwwwwwwwv...
...xwwwwwwwvv...
....wwwwwvvv....
................
"""

BODIES["beholder"] = """
................
................
................
.....332222.....
...3333222222...
..333222222222..
..332222222222..
..322222222222..
..322222222221..
..222222222221..
..222222222211..
...2222222211...
....12222111....
...2..211..2....
...2...1...1....
................
"""

BODIES["snake"] = """
................
................
.....332222.....
....33222222....
...3322222222...
...3222222222...
...3222222221...
....22222211....
.....122211..2..
....3322222..22.
...332212212.21.
...122222211021.
..1000000000221.
.33222122212221.
..111111111111..
................
"""

BODIES["fish"] = """
................
................
................
......222.......
....3322222...2.
...333222222.22.
..3332222222222.
..332222222222..
.332222222222...
.3222222222122..
..222222221122..
..1222222211.22.
...1112211....1.
......111.......
.......1........
................
"""

BODIES["owl"] = """
................
................
................
..32........22..
..332222222222..
..333332233332..
..332222222232..
..322223322232..
..322223322231..
..223332233321..
.10222222222201.
.21021221221012.
.21022122122012.
.11012221221011.
....oo....on....
................
"""

BODIES["cat"] = """
................
..2..........2..
..32........22..
..3C2......2C2..
..332222222222..
..332222222222..
..322222222222..
..322222222221..
..222222222221..
...1222222211.2.
....00000000.22.
....32222222.21.
...332222222121.
...32022220221..
...22022220221..
................
"""

BODIES["golem"] = """
................
................
................
....33222222....
....32222222....
.33.32222221.22.
.33232222221221.
.32202222221021.
.22200000000211.
.00033222221000.
.33202221221022.
.33202212221021.
.221.222221.211.
....332..221....
....221..211....
................
"""

BODIES["octopus"] = """
................
................
................
.....332222.....
....33322222....
...3332222222...
...3322222222...
...3222222222...
...2222222221...
....22222221....
.22..222222..22.
.2..22222222..2.
.22222222222222.
..222202202221..
....22.11.21....
................
"""


# ---- Features ------------------------------------------------------------------------

HORN = """
7..
66.
.65
"""

WING = """
7..
76.
776
766
656
5.5
"""

RAISED_WING = """
76..
776.
.766
7766
.566
..55
"""

SPOT = """
77
75
"""

SPIKE = """
76
66
55
"""

# A small drawing that only one species needs is on one line, a space between its rows.
FEATURES = {
    "slime": {
        "horns": pair(HORN, 3, 3),
        "wings": pair("7... 776. 7764 .664 ..54", 3, 1),
        "spots": join(
            place(SPOT, 5, 8),
            place(SPOT, 8, 3),
            place(SPOT, 11, 12),
            place(SPOT, 12, 3),
        ),
        "belly": place("...7777... .77777776. 7777666655", 12, 3),
        "spikes": join(place(SPIKE, 2, 7), pair(SPIKE, 4, 3), pair(SPIKE, 8, 1)),
    },
    "bat": {
        "horns": pair(HORN, 1, 3),
        "wings": pair("7.. 77. 765 766 766 656 5.5", 2, 1),
        "spots": join(pair("76 77 .5", 5, 1), place(SPOT, 10, 7)),
        "belly": place("77777665 .777665. ..7765..", 9, 4),
        "spikes": join(place(SPIKE, 1, 7), place("7 6", 2, 6), place("6 5", 2, 9)),
    },
    "ghost": {
        "horns": pair(HORN, 2, 3),
        "wings": pair(WING, 6, 1),
        "spots": join(
            place(SPOT, 4, 8),
            place(SPOT, 9, 3),
            place(SPOT, 11, 10),
            place(SPOT, 12, 4),
        ),
        "belly": place("..7777.. .777776. 77777665 .776665.", 10, 4),
        "spikes": join(place(SPIKE, 1, 7), pair("76 66", 2, 4), pair("7. 66", 5, 1)),
    },
    "dragon": {
        "horns": place("7...77 76.776 ..665.", 1, 4),
        "wings": place("..6.. .76.. .756. 47766 47756 47546 45456 .5..5", 1, 10),
        "spots": join(place(SPOT, 9, 7), place(SPOT, 11, 9), place(SPOT, 12, 5)),
        "belly": place("77. 777 776 776 66.", 9, 4),
        "spikes": join(place("7.7.6 76766", 1, 4), place("7. 766 5.", 9, 12)),
    },
    "spider": {
        "horns": pair(HORN, 2, 4),
        "wings": pair("76. 766 666 655", 1, 4),
        "spots": join(place(SPOT, 4, 7), pair(SPOT, 10, 5)),
        "belly": place("77777765 77777665 .776655.", 10, 4),
        "spikes": join(place(SPIKE, 2, 7), pair(SPIKE, 3, 5)),
    },
    "crab": {
        "horns": pair("7. 76 66", 1, 5),
        "wings": pair("..76 .766 7656 6656 655.", 7, 1),
        "spots": join(pair(SPOT, 8, 2), pair(SPOT, 4, 2), place(SPOT, 11, 5)),
        "belly": place("77777665 .776655.", 11, 4),
        "spikes": join(place("76 76 66 55", 3, 7), pair("7 6", 6, 3)),
    },
    "mushroom": {
        "horns": pair(HORN, 2, 3),
        "wings": pair(RAISED_WING, 1, 1),
        "spots": join(
            place("766 665", 5, 4),
            place(SPOT, 4, 8),
            place(SPOT, 7, 11),
            place(SPOT, 7, 7),
        ),
        "belly": place("77777665 .776665.", 13, 4),
        "spikes": join(place(SPIKE, 1, 7), pair(SPIKE, 2, 4), pair(SPIKE, 4, 1)),
    },
    "beholder": {
        "horns": pair(HORN, 2, 3),
        "wings": pair(WING, 6, 1),
        "spots": join(
            place(SPOT, 4, 5), place(SPOT, 4, 9), place(SPOT, 9, 3), place(SPOT, 9, 11)
        ),
        "belly": place(".777776. 77777665 .776655.", 10, 4),
        "spikes": join(place(SPIKE, 1, 7), pair(SPIKE, 2, 4)),
    },
    "snake": {
        "horns": pair(HORN, 1, 3),
        "wings": pair(WING, 6, 1),
        "spots": join(pair(SPOT, 12, 3), place(SPOT, 13, 7), pair(SPOT, 9, 5)),
        "belly": place(".76. .66. 7665 6665", 8, 6),
        "spikes": join(place(SPIKE, 1, 7), pair("76 66", 1, 4), pair("7. 66 .6", 3, 1)),
    },
    "fish": {
        "horns": join(place("7... 76.. .76. ..65", 2, 1), place("7. 76 65", 1, 5)),
        "wings": place("...76 ..766 .7766 77665 7665. .55..", 1, 8),
        "spots": join(place(SPOT, 5, 8), place(SPOT, 8, 9), place(SPOT, 10, 6)),
        "belly": place("77766. .77766 ..776.", 10, 3),
        "spikes": join(
            place("76 76 66", 1, 7), place("76 66", 2, 4), place("6 6 5 5", 2, 10)
        ),
    },
    "owl": {
        "horns": pair(HORN, 1, 2),
        "wings": pair("6.. 76. 66. 55.", 10, 1),
        "spots": join(place(SPOT, 10, 5), place(SPOT, 10, 9), place(SPOT, 12, 7)),
        "belly": place("777776 777765 777655 .7655.", 10, 5),
        "spikes": join(place(SPIKE, 2, 7), pair(SPIKE, 3, 5)),
    },
    "cat": {
        "horns": pair(HORN, 1, 4),
        "wings": pair(WING, 8, 1),
        "spots": join(pair(SPOT, 7, 3), place(SPOT, 11, 5), place(SPOT, 12, 9)),
        "belly": place("7776 7766 7665", 11, 6),
        "spikes": join(place(SPIKE, 1, 7), pair(SPIKE, 2, 5)),
    },
    "golem": {
        "horns": pair(HORN, 2, 3),
        "wings": pair(RAISED_WING, 1, 1),
        "spots": join(place(SPOT, 9, 6), pair(SPOT, 6, 1), place(SPOT, 10, 9)),
        "belly": place("777776 777665 .7665.", 9, 5),
        "spikes": join(place(SPIKE, 1, 7), pair(SPIKE, 3, 1)),
    },
    "octopus": {
        "horns": pair(HORN, 2, 3),
        "wings": pair(WING, 6, 1),
        "spots": join(place(SPOT, 4, 7), place(SPOT, 5, 4), pair(SPOT, 12, 3)),
        "belly": place(".7776. 777765 776655", 10, 5),
        "spikes": join(place(SPIKE, 1, 7), pair(SPIKE, 2, 4)),
    },
}


# ---- Faces ---------------------------------------------------------------------------

# A small drawing for each mood, a space between its rows.
EYES = {
    "big": {
        "calm": "xxx..xxx xMM..MMx xMM..MMx .xx..xx.",
        "angry": "MM....MM xMM..MMx xBM..MBx ........",
        "sleepy": "........ 111..111 MMM..MMM ........",
        "happy": ".MM..MM. MxM..MxM MMM..MMM ........",
    },
    "small": {
        "calm": "...... xx..xx xM..Mx xM..Mx",
        "angry": "M....M MM..MM xB..Bx xB..Bx",
        "sleepy": "...... ...... 11..11 MM..MM",
        "happy": "...... xM..xM MM..MM ......",
    },
    "ink": {
        "calm": ".M..M. .M..M. D....D",
        "angry": "MM..MM .M..M. .B..B.",
        "sleepy": "...... MM..MM ......",
        "happy": "xM..xM MM..MM D....D",
    },
    "stalk": {
        "calm": "...... xx..xx xM..Mx xM..Mx",
        "angry": "M....M MM..MM xB..Bx xB..Bx",
        "sleepy": "...... ...... 11..11 MM..MM",
        "happy": "...... xM..xM MM..MM xx..xx",
    },
    "spider": {
        "calm": "..x..x.. ........ .xx..xx. .xM..Mx. .xM..Mx.",
        "angry": "..B..B.. .M....M. .MM..MM. .xB..Bx. .xB..Bx.",
        "sleepy": "..M..M.. ........ ........ .11..11. .MM..MM.",
        "happy": "..M..M.. ........ .xM..xM. .MM..MM. ........",
    },
    "profile": {
        "calm": "xxx MMx MMx",
        "angry": ".MM MMx BBx",
        "sleepy": "... 111 MMM",
        "happy": ".MM MxM MMM",
    },
    "cyclops": {
        "calm": "..xxxx.. .xJKKJx. .xKMMJx. .xJMMIx. ..xJIx..",
        "angry": "MM....MM .MMxxMM. .xBMMBx. .xBMMAx. ..xAAx..",
        "sleepy": "..1111.. .111111. MMMMMMMM .xJMMIx. ..xxxx..",
        "happy": "..xxxx.. .xJMMJx. .xMxMMx. .xMMMMx. ..1111..",
    },
}

MOUTHS = {
    "wide": {
        "calm": "...... .MMMM.",
        "angry": ".MMMM. MxMMxM",
        "sleepy": "..M.KL ....JK",
        "happy": "MMMMMM .MCCM.",
    },
    "narrow": {
        "calm": ".... .MM.",
        "angry": ".MM. MxxM",
        "sleepy": ".MKL ..JK",
        "happy": "MMMM .CC.",
    },
    "fangs": {
        "calm": "MMMM x..x",
        "angry": "MMMM xBBx",
        "sleepy": "xMKL ..JK",
        "happy": "MMMM xCCx",
    },
    "tongue": {
        "calm": ".MM. .CC. .C.C",
        "angry": ".MM. MxxM ....",
        "sleepy": ".MKL ..JK ....",
        "happy": "MMMM .CC. ....",
    },
    "cat": {
        "calm": ".DD. M..M",
        "angry": ".MM. MxxM",
        "sleepy": ".DKL ..JK",
        "happy": ".DD. MBBM",
    },
    "beak": {
        "calm": ".op. .no.",
        "angry": ".on. m..m",
        "sleepy": ".oKL ..JK",
        "happy": ".op. .AC.",
    },
    "profile": {
        "calm": "M... .MM.",
        "angry": "MxMx .MMM",
        "sleepy": "KL.. JKM.",
        "happy": "MMMM .CC.",
    },
}

# Which eyes, their upper left corner (row, column), which mouth, and its corner.
FACES = {
    "slime": ("big", 7, 4, "wide", 11, 5),
    "bat": ("small", 4, 5, "narrow", 8, 6),
    "ghost": ("big", 5, 4, "wide", 9, 5),
    "dragon": ("profile", 3, 4, "profile", 7, 1),
    "spider": ("spider", 4, 4, "fangs", 10, 6),
    "crab": ("stalk", 3, 5, "wide", 8, 5),
    "mushroom": ("ink", 10, 5, "narrow", 12, 6),
    "beholder": ("cyclops", 5, 4, "wide", 10, 5),
    "snake": ("small", 2, 5, "tongue", 7, 6),
    "fish": ("profile", 6, 3, "profile", 9, 1),
    "owl": ("big", 5, 4, "beak", 8, 6),
    "cat": ("small", 3, 5, "cat", 8, 6),
    "golem": ("small", 3, 5, "narrow", 7, 6),
    "octopus": ("big", 5, 4, "wide", 9, 5),
}
