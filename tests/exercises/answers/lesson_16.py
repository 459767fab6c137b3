"""Answers to lesson 16's exercises.

WRONG: answers that learners and published notebooks give, each as (exercise, code,
what the check must say, a regular expression). RIGHT: correct answers that differ from
the solution, as (exercise, code).
"""

DISTANCE = """
def my_distance(a, b):
    rms = lambda a, b: {rms}
    copies = {copies}
    return min(rms(a, copy) for copy in copies)
"""

RMS = "np.sqrt(np.square(a / 255 - b / 255).mean())"

NINE = "[np.roll(b, (y, x), axis=(0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]"

SPLIT = """
def my_split(artists):
    held = np.zeros(len(artists), bool)
    for name in {names}:
        if held.mean() >= 0.2:
            break
        held |= artists == name
    return held
"""

GROUND = """
def my_ground(picture):
    white = (picture == 255).all(2)
    ground = np.zeros_like(white)
    {start}
    for _ in range({rounds}):
        near = np.pad(ground, 1)
        above_or_below = near[:-2, 1:-1] | near[2:, 1:-1]
        beside = near[1:-1, :-2] | near[1:-1, 2:]
        ground = white & ({grown})
    return ground
"""

BORDER = "ground[[0, -1]], ground[:, [0, -1]] = white[[0, -1]], white[:, [0, -1]]"


CATCH_UP = """
def my_catch_up(a, b):
    for place, (one, other) in enumerate(zip(a, b)):
        if {caught_up}:
            return {answer}
"""

CHOICE = """
def my_choice(strangeness, is_copy, count):
    new = np.flatnonzero(~is_copy)
    return {answer}
"""


def catch_up(caught_up="other[3] <= one[3]", answer="other[0]"):
    return CATCH_UP.format(caught_up=caught_up, answer=answer)


def choice(answer):
    return CHOICE.format(answer=answer)


def distance(rms=RMS, copies=NINE):
    return DISTANCE.format(rms=rms, copies=copies)


def ground(start=BORDER, rounds=400, grown="ground | above_or_below | beside"):
    return GROUND.format(start=start, rounds=rounds, grown=grown)


def split(names="dict.fromkeys(artists)"):
    return SPLIT.format(names=names)


WRONG = [
    (
        "16.2",
        distance(copies="[b]"),
        (
            r"your distance is 0\.\d+, expected 0: this is the distance without any "
            "shift"
        ),
    ),
    (
        "16.2",
        distance("np.sqrt(np.square((a - b) / 255).mean())"),
        "whole numbers of 8 bits",
    ),
    ("16.2", distance("np.square(a / 255 - b / 255).mean()"), "is the root missing"),
    (
        "16.2",
        distance("np.sqrt(np.square(a.astype(float) - b).mean())"),
        "scale 0 to 255",
    ),
    (
        "16.2",
        distance(copies="[np.roll(b, s, axis=i) for s in (-1, 0, 1) for i in (0, 1)]"),
        "are the diagonal moves missing",
    ),
    # what leaves on one side is lost instead of coming back on the other
    (
        "16.2",
        """
        def my_distance(a, b):
            padded = np.pad(b, ((1, 1), (1, 1), (0, 0)), constant_values=255)
            distances = []
            for y in range(3):
                for x in range(3):
                    moved = padded[y:y + 16, x:x + 16]
                    distances.append(np.sqrt(np.square(a / 255 - moved / 255).mean()))
            return min(distances)
        """,
        "fill up with white",
    ),
    (
        "16.3",
        """
        def my_split(artists):
            return np.arange(len(artists)) < len(artists) / 5
        """,
        "you split by picture",
    ),
    (
        "16.3",
        split("np.unique(artists)"),
        "for the artists ed, .* by the alphabet",
    ),
    (
        "16.3",
        split().replace(">= 0.2", "> 0.2"),
        "one artist too many",
    ),
    (
        "16.3",
        split().replace("return held", "return ~held"),
        "True for training",
    ),
    (
        "16.3",
        """
        def my_split(artists):
            names = list(dict.fromkeys(artists))
            return np.isin(artists, names[:-(-len(names) // 5)])
        """,
        "a fifth of the artists",
    ),
    # "make white transparent": holes in the eyes
    (
        "16.1",
        """
        def my_ground(picture):
            return (picture == 255).all(2)
        """,
        (
            "face with white eyes: the pixels of background are 33, expected 29: you "
            "make all white transparent"
        ),
    ),
    (
        "16.1",
        ground(rounds=1),
        "grown by one pixel only",
    ),
    (
        "16.1",
        ground("ground[0, 0] = white[0, 0]"),
        "start from one corner",
    ),
    (
        "16.1",
        ground().replace("return ground", "return ~ground"),
        "mask of what stays",
    ),
    (
        "16.1",
        ground().replace(".all(2)", ".any(2)"),
        "`any` in place of `all`",
    ),
    (
        "16.1",
        """
        def my_ground(picture):
            white = (picture == 255).all(2)
            ground = white.copy()
            ground[1:-1, 1:-1] = False
            for _ in range(400):
                near = np.pad(ground, 1)
                near = near[:-2] | near[1:-1] | near[2:]
                ground = white & (near[:, :-2] | near[:, 1:-1] | near[:, 2:])
            return ground
        """,
        "leaks through a corner",
    ),
    (
        "16.1",
        ground().replace("picture == 255", "picture >= 250"),
        "a pixel of 254 belongs",
    ),
    ("16.4", catch_up(answer="place"), "the number of the look"),
    ("16.4", catch_up(answer="other[1]"), "these are the steps"),
    ("16.4", catch_up(answer="other[0] / 60"), "in minutes"),
    ("16.4", catch_up(answer="one[0]"), "clock of the first training"),
    ("16.4", catch_up("other[3] < one[3]"), "equal counts, too"),
    (
        "16.4",
        catch_up("place and other[2] <= one[2]"),
        "expected 181: do you compare training losses",
    ),
    ("16.4", catch_up("other[3] <= a[-1][3]"), "Compare look by look"),
    (
        "16.4",
        """
        def my_catch_up(a, b):
            for one, other in reversed(list(zip(a, b))):
                if other[3] > one[3]:
                    return seconds
                seconds = other[0]
        """,
        "the last time that it happens",
    ),
    # the first entry of a training loss is None
    ("16.4", catch_up("other[2] <= one[2]"), "Your code stopped with TypeError"),
    ("16.5", choice("new[np.argsort(strangeness)][:count]"), "Your code stopped"),
    ("16.5", choice("np.argsort(strangeness[new])[:count]"), "without. the copies"),
    ("16.5", choice("np.argsort(strangeness)[:count]"), "they are familiar"),
    (
        "16.5",
        choice("[i for i in np.argsort(strangeness)[:count] if not is_copy[i]]"),
        "too few are left",
    ),
    ("16.5", choice("new[np.argsort(-strangeness[new])][:count]"), "the strangest"),
    ("16.5", choice("np.sort(strangeness[new])[:count]"), "values of strangeness"),
    (
        "16.5",
        choice("np.sort(new[np.argsort(strangeness[new])][:count])"),
        "another order",
    ),
    ("16.5", choice("new[np.argsort(strangeness[new])]"), "expected `count`"),
]


RIGHT = [
    (
        "16.2",
        distance("torch.from_numpy(a / 255 - b / 255).float().square().mean().sqrt()"),
    ),
    ("16.1", ground()),
    ("16.4", catch_up()),
    (
        "16.4",
        """
        def my_catch_up(a, b):
            lower = np.array([other[3] <= one[3] for one, other in zip(a, b)])
            return np.array([other[0] for other in b])[lower][0]
        """,
    ),
    ("16.5", choice("torch.tensor(new[strangeness[new].argsort()[:count]])")),
    (
        "16.5",
        choice("np.where(is_copy, np.inf, strangeness).argsort()[:count].tolist()"),
    ),
]
