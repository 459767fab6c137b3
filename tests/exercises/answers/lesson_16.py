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


def distance(rms=RMS, copies=NINE):
    return DISTANCE.format(rms=rms, copies=copies)


def ground(start=BORDER, rounds=400, grown="ground | above_or_below | beside"):
    return GROUND.format(start=start, rounds=rounds, grown=grown)


def split(names="dict.fromkeys(artists)"):
    return SPLIT.format(names=names)


def share(answer):
    return f"def my_share(batch, rank, processes):\n    return {answer}"


WRONG = [
    (
        "16.1",
        distance(copies="[b]"),
        (
            r"your distance is 0\.\d+, expected 0: this is the distance without any "
            "shift"
        ),
    ),
    (
        "16.1",
        distance("np.sqrt(np.square((a - b) / 255).mean())"),
        "whole numbers of 8 bits",
    ),
    ("16.1", distance("np.square(a / 255 - b / 255).mean()"), "is the root missing"),
    (
        "16.1",
        distance("np.sqrt(np.square(a.astype(float) - b).mean())"),
        "scale 0 to 255",
    ),
    (
        "16.1",
        distance(copies="[np.roll(b, s, axis=i) for s in (-1, 0, 1) for i in (0, 1)]"),
        "are the diagonal moves missing",
    ),
    # what leaves on one side is lost instead of coming back on the other
    (
        "16.1",
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
        "16.2",
        """
        def my_split(artists):
            return np.arange(len(artists)) < len(artists) / 5
        """,
        "you split by picture",
    ),
    (
        "16.2",
        split("np.unique(artists)"),
        "for the artists ed, .* by the alphabet",
    ),
    (
        "16.2",
        split().replace(">= 0.2", "> 0.2"),
        "one artist too many",
    ),
    (
        "16.2",
        split().replace("return held", "return ~held"),
        "True for training",
    ),
    (
        "16.2",
        """
        def my_split(artists):
            names = list(dict.fromkeys(artists))
            return np.isin(artists, names[:-(-len(names) // 5)])
        """,
        "a fifth of the artists",
    ),
    ("16.3", 'my_guess = ["fine-tuned", "shipped", "scratch"]', "The last is right"),
    (
        "16.3",
        'my_guess = ("scratch", "fine-tuned", "shipped")',
        "The highest loss belongs to another",
    ),
    ("16.3", 'my_guess = ["fine-tuned"]', "expected a list of the three words"),
    ("16.4", "my_guess = 90", "Less than that"),
    ("16.4", "my_guess = 1", "More than that"),
    ("16.4", "my_guess = 0.2", "Is that a share of 1"),
    ("16.4", "my_guess = 120", "0 to 100"),
    # "make white transparent": holes in the eyes
    (
        "16.5",
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
        "16.5",
        ground(rounds=1),
        "grown by one pixel only",
    ),
    (
        "16.5",
        ground("ground[0, 0] = white[0, 0]"),
        "start from one corner",
    ),
    (
        "16.5",
        ground().replace("return ground", "return ~ground"),
        "mask of what stays",
    ),
    (
        "16.5",
        ground().replace(".all(2)", ".any(2)"),
        "`any` in place of `all`",
    ),
    (
        "16.5",
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
        "16.5",
        ground().replace("picture == 255", "picture >= 250"),
        "a pixel of 254 belongs",
    ),
    ("16.6", share("batch[rank::processes]"), "the shares are uneven"),
    (
        "16.6",
        """
        def my_share(batch, rank, processes):
            size = len(batch) // processes
            return batch[rank * size:(rank + 1) * size]
        """,
        "in blocks",
    ),
    (
        "16.6",
        share("batch[len(batch) % processes:][rank::processes]"),
        "what is left out is the end",
    ),
    ("16.6", share("batch"), "the whole batch"),
]


RIGHT = [
    (
        "16.1",
        distance("torch.from_numpy(a / 255 - b / 255).float().square().mean().sqrt()"),
    ),
    ("16.3", 'my_guess = ("Shipped", "Fine-tuned", "Scratch")'),
    ("16.3", 'my_guess = np.array(["shipped", "fine-tuned", "scratch"])'),
    ("16.4", "my_guess = np.float64(20)"),
    ("16.4", "my_guess = torch.tensor(20)"),
    ("16.5", ground()),
    # a share of no rows is never asked for
    (
        "16.6",
        """
        def my_share(batch, rank, processes):
            rounds = range(len(batch) // processes)
            return torch.stack([batch[i * processes + rank] for i in rounds])
        """,
    ),
]
