"""The judges of lesson 16's exercises (they spoil them)."""

import json

import numpy as np
import torch

from diffusion_utilities import WEIGHTS
from exercises import Wrong, as_numbers, compare, exercise, guessed, shown_sum, tried


def stored(kind, measure):
    """What the three seeds of one kind of run measured (weights/own_sprites.json)."""
    content = json.loads((WEIGHTS / "own_sprites.json").read_text(encoding="utf8"))
    measured = []
    for name, run in content["runs"].items():
        if name.startswith(f"{kind}, seed"):
            measured.append(run[measure])
    return measured


# ---- 16.1 ----------------------------------------------------------------------------


def rms(a, b):
    return float(np.sqrt(np.square(a / 255 - b / 255).mean()))


def shifted(picture, rows, columns):
    """All copies shifted by these numbers of rows and columns; what leaves returns."""
    return [np.roll(picture, (y, x), axis=(0, 1)) for y in rows for x in columns]


def padded(picture):
    """The nine shifts by a pixel, filled up with white instead."""
    wide = np.pad(picture, ((1, 1), (1, 1), (0, 0)), constant_values=255)
    return [wide[y : y + 16, x : x + 16] for y in range(3) for x in range(3)]


def move_mistakes(figure, moved):
    """Other moves than the nine."""
    steps = (-1, 0, 1)
    nine = [rms(figure, copy) for copy in shifted(moved, steps, steps)]
    yield "this is the distance without any shift.", rms(figure, moved)
    without_diagonals = nine[1::2] + nine[4:5]
    yield (
        "are the diagonal moves missing? "
        "There are nine: one to the side and one up or down count together.",
        min(without_diagonals),
    )
    yield (
        "you fill up with white, "
        "and `np.roll` brings what leaves on one side back on the other.",
        min(rms(figure, copy) for copy in padded(moved)),
    )
    one_way = shifted(moved, range(3), range(3))
    yield (
        "the nine moves are a pixel each way, -1 to 1; do yours go from 0 to 2?",
        min(rms(figure, copy) for copy in one_way),
    )


def rms_mistakes(figure, copies):
    """Other numbers than the smallest RMS of the nine copies."""
    nine = [rms(figure, copy) for copy in copies]
    yield (
        "is the root missing? RMS is the root of the mean square.",
        min(nine) ** 2,
    )
    yield (
        "this is on the scale 0 to 255, and it should be 0 to 1: "
        "divide the pictures by 255.",
        255 * min(nine),
    )
    yield "this is the largest of the nine, and it should be the smallest.", max(nine)
    yield (
        "this is the mean of the nine, and it should be the smallest.",
        np.mean(nine),
    )
    wrapped = []
    for copy in copies:
        difference = (figure - copy) / 255  # of whole numbers of 8 bits
        wrapped.append(np.sqrt(np.square(difference).mean()))
    yield (
        "is that the difference of whole numbers of 8 bits? "
        "3 - 5 is 254 there: divide by 255 before you subtract.",
        min(wrapped),
    )


def shown_distance(result):
    return float(result), "your distance is"


@exercise(
    "16.1",
    "Run it on two pictures of `unique` that differ: "
    "how much nearer does the shift bring them?",
)
def distance(attempt):
    figure = np.full((16, 16, 3), 255, np.uint8)
    # its feet stand on the border, so that np.roll and padding differ
    colours = np.random.default_rng(0).integers(0, 200, (13, 8, 3))
    figure[3:16, 4:12] = colours
    cases = {
        "for two equal pictures": np.array((0, 0)),
        "one pixel to the right": np.array((0, 1)),
        "one pixel down and one to the left": np.array((1, -1)),
        "two pixels down (the best of the nine is still one off)": np.array((2, 0)),
    }
    for where, shift in cases.items():
        moved = np.roll(figure, shift, axis=(0, 1))
        copies = shifted(moved, (-1, 0, 1), (-1, 0, 1))
        mine = tried(attempt, figure, moved)
        right = min(rms(figure, copy) for copy in copies)
        compare(
            mine,
            right,
            [*move_mistakes(figure, moved), *rms_mistakes(figure, copies)],
            where=f"a figure and its copy, {where}",
            number=shown_distance,
        )


# ---- 16.2 ----------------------------------------------------------------------------


def held_out(artists, names):
    """The shortest beginning of `names` that drew a fifth of the pictures.

    Returns how many names it has, and the mask of their pictures.
    """
    for n in range(len(names) + 1):
        mask = np.isin(artists, names[:n])
        if mask.mean() >= 0.2:
            return n, mask


def split_mistakes(artists):
    n = len(artists)
    names = list(dict.fromkeys(artists.tolist()))
    enough, right = held_out(artists, names)
    yield (
        "you split by picture, so an artist has pictures on both sides; "
        "hold out whole artists.",
        np.arange(n) < n / 5,
    )
    yield "this is True for training; the mask says what is held out.", ~right
    _, by_alphabet = held_out(artists, np.unique(artists))
    yield (
        "the artists come in the order in which they first appear, "
        "not by the alphabet (`np.unique` sorts).",
        by_alphabet,
    )
    yield (
        "one artist too many: stop as soon as a fifth is held out.",
        np.isin(artists, names[: enough + 1]),
    )
    a_fifth = -(-len(names) // 5)  # rounded up
    yield (
        "this is a fifth of the artists; the fifth is of the pictures.",
        np.isin(artists, names[:a_fifth]),
    )
    yield (
        "one artist too few: at least a fifth of the pictures must be held out.",
        np.isin(artists, names[: enough - 1]),
    )


@exercise(
    "16.2",
    "Hold out a fifth of the *artists* instead: "
    "what becomes of the share of pictures if one of them drew half of all?",
)
def split_by_artist(attempt):
    lists = (
        "ann bob ann cy cy cy dee ann bob cy",
        "ed bob cy cy cy cy bob dee dee dee",
        # the first two drew exactly a fifth
        "zoe amy zoe cy ben cy dee cy dee cy dee cy dee cy dee",
    )
    for names in lists:
        artists = np.array(names.split())
        _, right = held_out(artists, list(dict.fromkeys(artists.tolist())))
        mine = tried(attempt, artists)
        compare(
            mine,
            right,
            split_mistakes(artists),
            where=f"for the artists {', '.join(artists)}",
            tolerance=0,
            number=shown_sum("pictures held out:"),
        )


# ---- 16.3 ----------------------------------------------------------------------------

KINDS = ("shipped", "fine-tuned", "scratch")


@exercise(
    "16.3",
    "Now run the two trainings. If fine-tuning does not lower this loss, "
    "what does it bring? Section 6 looks.",
)
def order_of_losses(guess):
    expected = (
        "a list of the three words 'shipped', 'fine-tuned' and 'scratch', "
        "the lowest loss first"
    )
    guess = guessed(guess, expected, KINDS, n=3)
    if len(set(guess)) < 3:
        raise Wrong(f"One of the words comes twice; expected {expected}.")
    losses = {kind: np.mean(stored(kind, "held_out_loss")) for kind in KINDS}
    right = sorted(losses, key=losses.get)
    if guess[-1] != right[-1]:
        raise Wrong(
            "The highest loss belongs to another. How far does a network come in "
            "90 steps that starts from random numbers?"
        )
    if guess != right:
        raise Wrong(
            "The last is right. It sounds certain that training on a sheet lowers the "
            "loss on similar sprites, but here it does not: the shipped weights know "
            "thousands of sprites of the same grammar. "
            "Might 90 steps on 85 pictures cost something?"
        )


# ---- 16.4 ----------------------------------------------------------------------------


@exercise(
    "16.4",
    "Now run it: the first row of the table under the pictures gives the share of "
    "this one run.",
)
def share_of_copies(guess):
    guess = guessed(guess, "a number of per cent, 0 to 100", between=(0, 100))
    if 0 < guess < 1:
        raise Wrong(
            f"{guess:g} per cent is less than one sample of the 64. "
            "Is that a share of 1? Give per cent, 0 to 100."
        )
    # 64 samples a seed: such a share is uncertain by about ten points
    truth = 100 * np.array(stored("four pictures", "memorised"))
    if guess < truth.min() - 10:
        raise Wrong(
            "More than that. Four pictures, each seen 360 times: "
            "the network has begun to draw these four and nothing else."
        )
    if guess > truth.max() + 10:
        raise Wrong(
            "Less than that. In 90 steps most sprites come near one of the four "
            "without reaching it; a memorised one must be three times as near to it as "
            "to any other of them."
        )


# ---- 16.5 ----------------------------------------------------------------------------


def is_white(picture):
    return (picture == 255).all(2)


def on_the_border(white):
    """The white pixels at the edge of the picture."""
    found = white.copy()
    found[1:-1, 1:-1] = False
    return found


def grown(found, white, diagonal):
    """`found`, and the white pixels beside it."""
    height, width = white.shape
    padded = np.pad(found, 1)
    near = np.zeros_like(white)
    for y in (-1, 0, 1):
        for x in (-1, 0, 1):
            if diagonal or y * x == 0:
                rows = slice(1 + y, 1 + y + height)
                columns = slice(1 + x, 1 + x + width)
                near |= padded[rows, columns]
    return white & near


def background(white, found, diagonal=False, rounds=1000):
    """The white pixels (H, W) that are joined to those in `found`.

    `diagonal` steps, too few `rounds` and another start are usual mistakes.
    """
    for _ in range(rounds):
        larger = grown(found, white, diagonal)
        if (larger == found).all():
            break
        found = larger
    return found


def growth_mistakes(white):
    """The right white pixels, and another way from the border inwards."""
    start = on_the_border(white)
    yield (
        "diagonal steps are not allowed: "
        "the background leaks through a corner of the outline.",
        background(white, start, diagonal=True),
    )
    yield (
        "only the border itself is found: "
        "from there the background must grow inwards until nothing changes.",
        start,
    )
    yield (
        "the background has grown by one pixel only: repeat until nothing changes.",
        background(white, start, rounds=1),
    )
    corner = np.zeros_like(white)
    corner[0, 0] = white[0, 0]
    yield (
        "you start from one corner, and a sprite can cut the border in two: "
        "start from all its white.",
        background(white, corner),
    )


def white_mistakes(picture, white, right):
    """Other white pixels than those of the background."""
    yield (
        "you make all white transparent, and eyes, teeth and highlights become holes.",
        white,
    )
    yield "this is the mask of what stays; the background is what goes.", ~right
    yield (
        "this is white outside and inside swapped: you return what is enclosed.",
        white & ~right,
    )
    bright = (picture >= 250).all(2)
    yield (
        "white is 255 in all three colours; a pixel of 254 belongs to the drawing.",
        background(bright, on_the_border(bright)),
    )
    partly = (picture == 255).any(2)
    yield (
        "a pixel is white if all three of its colours are 255: "
        "is that `any` in place of `all`?",
        background(partly, on_the_border(partly)),
    )


def face():
    """A face with two white eyes, on a body that cuts the lower border in two."""
    picture = np.full((9, 8, 3), 255, np.uint8)
    picture[2:9, 1:7] = (200, 150, 110)
    picture[4:6, [2, 5]] = 255
    picture[0, 5] = (255, 255, 0)  # a bright yellow pixel at the border
    return picture


def ring():
    """A ring whose corners touch diagonally, with a pixel under it."""
    picture = np.full((7, 7, 3), 255, np.uint8)
    picture[[1, 5], 2:5] = 0
    picture[2:5, [1, 5]] = 0
    picture[6, 3] = 0
    return picture


def wall():
    """A wall from top to bottom.

    The background to its right can be reached from the right border only.
    """
    picture = np.full((8, 8, 3), 255, np.uint8)
    picture[7, 1] = 254  # at the border, and not quite white
    picture[:, 3:5] = 90
    return picture


def spiral():
    """(11, 14, 3): a wall that winds inwards, with white between.

    The background takes many steps to reach the middle.
    """
    picture = np.full((11, 14, 3), 255, np.uint8)
    picture[1, 1:13] = 40
    picture[1:10, 12] = 40
    picture[9, 1:13] = 40
    picture[3:10, 1] = 40
    picture[3, 1:11] = 40
    picture[3:8, 10] = 40
    picture[7, 3:11] = 40
    return picture


@exercise(
    "16.5",
    "Now colour the background of a sprite in green: "
    "which white does it lose that you would have liked to keep?",
)
def background_of_a_picture(attempt):
    pictures = {
        "for a face with white eyes": face(),
        "for a ring whose corners touch diagonally": ring(),
        "for a wall from top to bottom": wall(),
        "for a spiral, with white to its middle": spiral(),
    }
    for where, picture in pictures.items():
        white = is_white(picture)
        mine = tried(attempt, picture)
        right = background(white, on_the_border(white))
        compare(
            mine,
            right,
            [*growth_mistakes(white), *white_mistakes(picture, white, right)],
            where,
            tolerance=0,
            number=shown_sum("the pixels of background are"),
        )


# ---- 16.6 ----------------------------------------------------------------------------


def share_mistakes(batch, rank, processes):
    n = len(batch)
    size = n // processes
    even = batch[: size * processes]
    yield (
        f"the shares are uneven: each of the {processes} takes {size} of the {n} rows, "
        "and the rest is left out.",
        batch[rank::processes],
    )
    start = rank * size
    yield (
        "these are equal shares, but in blocks; "
        "the task is every n-th row, from `rank` on.",
        even[start : start + size],
    )
    yield (
        "do you start one row too late? The first process has the rank 0.",
        even[rank + 1 :: processes],
    )
    rest = n - len(even)
    yield (
        "you drop rows at the front; what is left out is the end.",
        batch[rest + rank :: processes],
    )
    yield (
        "every n-th row starts at `rank`: this is the share of process 0.",
        even[0::processes],
    )
    yield "this is the whole batch, on every process.", batch
    is_own = torch.arange(len(even)) % processes == rank
    yield "the rows are those that this process does not take.", even[~is_own]


@exercise(
    "16.6",
    "What do three processes lose of each batch of 50, "
    "and how large a batch would lose nothing?",
)
def share_of_a_batch(attempt):
    whole = torch.arange(48).view(24, 2).float()
    for n, processes in ((24, 3), (8, 3), (7, 2), (5, 1)):
        batch = whole[:n]
        end = n // processes * processes
        for rank in range(processes):
            mine = as_numbers(tried(attempt, batch, rank, processes))
            right = batch[rank:end:processes]
            compare(
                mine,
                right,
                share_mistakes(batch, rank, processes),
                where=f"process {rank} of {processes}, a batch of {n} rows",
                tolerance=0,
            )
