"""Answers to lesson 9's exercises. WRONG ones that learners and published notebooks give: (exercise, their code, what the check must say);
RIGHT ones that look otherwise than the solution: (exercise, their code)."""

NINE = "min(rms(a, np.roll(b, (y, x), axis=(0, 1))) for y in (-1, 0, 1) for x in (-1, 0, 1))"
SPLIT = """def my_split(artists):
    held = np.zeros(len(artists), bool)
    for name in NAMES:
        if held.mean() >= 0.2:
            break
        held |= artists == name
    return held"""
GROUND = """def my_ground(picture):
    white = (picture == 255).all(2)
    ground = np.zeros_like(white)
    START
    for _ in range(ROUNDS):
        padded = np.pad(ground, 1)
        beside = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
        ground = white & (ground | beside)
    return ground"""
BORDER = "ground[[0, -1]], ground[:, [0, -1]] = white[[0, -1]], white[:, [0, -1]]"


def distance(rms, answer=NINE):
    return f"def my_distance(a, b):\n    rms = lambda a, b: {rms}\n    return {answer}"


WRONG = [
    ("9.1", distance("np.sqrt(np.square(a / 255 - b / 255).mean())", "rms(a, b)"),
     r"your distance is 0\.\d+, expected 0: this is the distance without any shift"),
    ("9.1", distance("np.sqrt(np.square((a - b) / 255).mean())"), "whole numbers of 8 bits"),
    ("9.1", distance("np.square(a / 255 - b / 255).mean()"), "is the root missing"),
    ("9.1", distance("np.sqrt(np.square(a.astype(float) - b).mean())"), "scale 0 to 255"),
    ("9.1", distance("np.sqrt(np.square(a / 255 - b / 255).mean())",
                     "min(rms(a, np.roll(b, s, axis=i)) for s in (-1, 0, 1) for i in (0, 1))"), "are the diagonal moves missing"),
    # what leaves on one side is lost instead of coming back on the other
    ("9.1", distance("np.sqrt(np.square(a / 255 - b / 255).mean())",
                     "min(rms(a, np.pad(b, ((1, 1), (1, 1), (0, 0)), constant_values=255)[y:y + 16, x:x + 16]) for y in range(3) for x in range(3))"),
     "fill up with white"),
    ("9.2", "def my_split(artists):\n    return np.arange(len(artists)) < len(artists) / 5", "you split by picture"),
    ("9.2", SPLIT.replace("NAMES", "np.unique(artists)"), r"for the artists ed, .* by the alphabet"),
    ("9.2", SPLIT.replace("NAMES", "dict.fromkeys(artists)").replace(">= 0.2", "> 0.2"), "one artist too many"),
    ("9.2", SPLIT.replace("NAMES", "dict.fromkeys(artists)").replace("return held", "return ~held"), "True for training"),
    ("9.2", "def my_split(artists):\n    names = list(dict.fromkeys(artists))\n    return np.isin(artists, names[:-(-len(names) // 5)])",
     "a fifth of the artists"),
    ("9.3", 'my_guess = ["fine-tuned", "shipped", "scratch"]', "The last is right"),
    ("9.3", 'my_guess = ("scratch", "fine-tuned", "shipped")', "The highest loss belongs to another"),
    ("9.3", 'my_guess = ["fine-tuned"]', "expected a list of the three words"),
    ("9.4", "my_guess = 90", "Less than that"),
    ("9.4", "my_guess = 1", "More than that"),
    ("9.4", "my_guess = 0.2", "Is that a share of 1"),
    ("9.4", "my_guess = 120", "0 to 100"),
    # "make white transparent": holes in the eyes
    ("9.5", "def my_ground(picture):\n    return (picture == 255).all(2)",
     "face with white eyes: the pixels of ground are 33, expected 29: you make all white transparent"),
    ("9.5", GROUND.replace("START", BORDER).replace("ROUNDS", "1"), "grown by one pixel only"),
    ("9.5", GROUND.replace("START", "ground[0, 0] = white[0, 0]").replace("ROUNDS", "400"), "start from one corner"),
    ("9.5", GROUND.replace("START", BORDER).replace("ROUNDS", "400").replace("return ground", "return ~ground"), "mask of what stays"),
    ("9.5", GROUND.replace("START", BORDER).replace("ROUNDS", "400").replace(".all(2)", ".any(2)"), "`any` in place of `all`"),
    ("9.5", GROUND.replace("START", BORDER).replace("ROUNDS", "400").replace(
        "white & (ground | beside)", "white & (ground | beside | padded[:-2, :-2] | padded[2:, 2:] | padded[:-2, 2:] | padded[2:, :-2])"),
     "leaks through a corner"),
    ("9.6", "def my_share(batch, rank, processes):\n    return batch[rank::processes]", "the shares are uneven"),
    ("9.6", "def my_share(batch, rank, processes):\n    size = len(batch) // processes\n    return batch[rank * size:(rank + 1) * size]",
     "in blocks"),
    ("9.6", "def my_share(batch, rank, processes):\n    return batch[len(batch) % processes:][rank::processes]", "what is left out is the end"),
    ("9.6", "def my_share(batch, rank, processes):\n    return batch", "the whole batch"),
    ("9.5", GROUND.replace("START", BORDER).replace("ROUNDS", "400").replace("picture == 255", "picture >= 250"), "a pixel of 254 belongs"),
]  # fmt: skip

RIGHT = [
    ("9.1", distance("torch.from_numpy(a / np.float32(255) - b / np.float32(255)).square().mean().sqrt()")),
    ("9.3", 'my_guess = ("Shipped", "Fine-tuned", "Scratch")'),
    ("9.3", 'my_guess = np.array(["shipped", "fine-tuned", "scratch"])'),
    ("9.4", "my_guess = np.float64(20)"),
    ("9.4", "my_guess = torch.tensor(20)"),
    ("9.5", GROUND.replace("START", BORDER).replace("ROUNDS", "400")),
    # what a share of no rows is was never asked
    ("9.6", "def my_share(batch, rank, processes):\n    return torch.stack([batch[i * processes + rank] for i in range(len(batch) // processes)])"),
]  # fmt: skip
