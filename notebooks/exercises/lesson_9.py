"""The judges of lesson 9's exercises (they spoil them)."""

import json

import numpy as np
import torch

from diffusion_utilities import WEIGHTS
from exercises import Wrong, as_numbers, compare, exercise, guessed, tried


def stored(kind, measure):
    """What the three seeds of one kind of run measured: weights/own_sprites.json."""
    runs = json.loads((WEIGHTS / "own_sprites.json").read_text(encoding="utf8"))["runs"]
    return [
        run[measure] for name, run in runs.items() if name.startswith(f"{kind}, seed")
    ]


def rms(a, b):
    return float(np.sqrt(np.square(a / 255 - b / 255).mean()))


@exercise(
    "9.1",
    "Run it on two pictures of `unique` that differ: how much nearer does the shift bring them?",
)
def distance(attempt):
    g, steps = np.random.default_rng(0), (-1, 0, 1)
    figure = np.full((16, 16, 3), 255, np.uint8)
    figure[3:16, 4:12] = g.integers(
        0, 200, (13, 8, 3)
    )  # its feet stand on the border, so that np.roll and padding differ
    cases = {
        "for two equal pictures": np.zeros(2, int),
        "one pixel to the right": np.array((0, 1)),
        "one pixel down and one to the left": np.array((1, -1)),
        "two pixels down (the best of the nine is still one off)": np.array((2, 0)),
    }
    for where, (dy, dx) in cases.items():
        moved = np.roll(figure, (dy, dx), axis=(0, 1))
        nine = [
            rms(figure, np.roll(moved, (y, x), axis=(0, 1)))
            for y in steps
            for x in steps
        ]
        padded = np.pad(moved, ((1, 1), (1, 1), (0, 0)), constant_values=255)
        mistakes = {
            "this is the distance without any shift.": rms(figure, moved),
            "are the diagonal moves missing? There are nine: one to the side and one up or down count together.": min(
                nine[1::2] + nine[4:5]
            ),
            "is the root missing? RMS is the root of the mean square.": min(nine) ** 2,
            "this is on the scale 0 to 255, and it should be 0 to 1: divide the pictures by 255.": 255
            * min(nine),
            "this is the largest of the nine, and it should be the smallest.": max(
                nine
            ),
            "this is the mean of the nine, and it should be the smallest.": float(
                np.mean(nine)
            ),
            "is that the difference of whole numbers of 8 bits? 3 - 5 is 254 there: divide by 255 before you subtract.": min(
                float(
                    np.sqrt(
                        np.square(
                            (figure - np.roll(moved, (y, x), axis=(0, 1))) / 255
                        ).mean()
                    )
                )
                for y in steps
                for x in steps
            ),
            "you fill up with white, and `np.roll` brings what leaves on one side back on the other.": min(
                rms(figure, padded[1 - y : 17 - y, 1 - x : 17 - x])
                for y in steps
                for x in steps
            ),
            "the nine moves are a pixel each way, -1 to 1; do yours go from 0 to 2?": min(
                rms(figure, np.roll(moved, (y, x), axis=(0, 1)))
                for y in range(3)
                for x in range(3)
            ),
        }
        compare(
            tried(attempt, figure, moved),
            min(nine),
            mistakes,
            f"a figure and its copy, {where}",
            1e-5,
            lambda r: (float(r), "your distance is"),
        )


@exercise(
    "9.2",
    "Hold out a fifth of the *artists* instead: what becomes of the share of pictures if one of them drew half of all?",
)
def split_by_artist(attempt):
    lists = (
        ["ann", "bob", "ann", "cy", "cy", "cy", "dee", "ann", "bob", "cy"],
        ["ed", "bob", "cy", "cy", "cy", "cy", "bob", "dee", "dee", "dee"],
        ["zoe", "amy", "zoe", "cy", "ben"]
        + ["cy", "dee"] * 5,  # the first two drew exactly a fifth
    )
    for artists in map(np.array, lists):
        n, names = len(artists), [*dict.fromkeys(artists.tolist())]
        some = [np.isin(artists, names[:i]) for i in range(len(names) + 1)]
        enough = next(i for i, mask in enumerate(some) if mask.mean() >= 0.2)
        ordered = [
            np.isin(artists, np.unique(artists)[:i]) for i in range(len(names) + 1)
        ]
        sorted_names = next(mask for mask in ordered if mask.mean() >= 0.2)
        mistakes = {
            "you split by picture, so an artist has pictures on both sides; hold out whole artists.": np.arange(
                n
            )
            < n / 5,
            "this is True for training; the mask says what is held out.": ~some[enough],
            "the artists come in the order in which they first appear, not by the alphabet (`np.unique` sorts).": sorted_names,
            "one artist too many: stop as soon as a fifth is held out.": some[
                min(enough + 1, len(names))
            ],
            "this is a fifth of the artists; the fifth is of the pictures.": some[
                -(-len(names) // 5)
            ],
            "one artist too few: at least a fifth of the pictures must be held out.": some[
                enough - 1
            ],
        }
        where = f"for the artists {', '.join(artists)}"
        compare(
            tried(attempt, artists),
            some[enough],
            mistakes,
            where,
            0,
            lambda r: (float(r.sum()), "pictures held out:"),
        )


@exercise(
    "9.3",
    "Now run the two trainings. If fine-tuning does not lower this loss, what does it bring? Section 6 looks.",
)
def order_of_losses(guess):
    kinds = ("shipped", "fine-tuned", "scratch")
    expected = "a list of the three words 'shipped', 'fine-tuned' and 'scratch', the lowest loss first"
    guess = guessed(guess, expected, kinds, n=3)
    if len(set(guess)) < 3:
        raise Wrong(f"One of the words comes twice; expected {expected}.")
    losses = {kind: float(np.mean(stored(kind, "held_out_loss"))) for kind in kinds}
    if guess[-1] != max(losses, key=losses.get):
        raise Wrong(
            "The highest loss belongs to another. How far does a network come in 90 steps that starts from random numbers?"
        )
    if guess != sorted(losses, key=losses.get):
        raise Wrong("The last is right. That training on a sheet lowers the loss on its like sounds certain, and here it is not so: "
                    "the shipped weights know thousands of sprites of the same grammar. Might 90 steps on 85 pictures cost something?")  # fmt: skip


@exercise(
    "9.4",
    "Now run it: the first row of the table under the pictures gives the share of this one run.",
)
def share_of_copies(guess):
    guess = guessed(guess, "a number of per cent, 0 to 100", between=(0, 100))
    truth = 100 * np.array(
        stored("four pictures", "memorised")
    )  # 64 samples a seed: such a share is uncertain by about ten points
    if 0 < guess < 1:
        raise Wrong(
            f"{guess:g} per cent is less than one sample of the 64. Is that a share of 1? Give per cent, 0 to 100."
        )
    if guess < truth.min() - 10:
        raise Wrong(
            "More than that. Four pictures, each seen 360 times: the network has begun to draw these four and nothing else."
        )
    if guess > truth.max() + 10:
        raise Wrong("Less than that. In 90 steps most sprites come near one of the four and are not yet it; a memorised one must be three times "
                    "as near to it as to any other of them.")  # fmt: skip


def ground(picture, white=None, diagonal=False, seeds="border", rounds=1000):
    """The white pixels that are joined to those of the border (H, W); the other arguments are usual mistakes."""
    white = (picture == 255).all(2) if white is None else white
    found = np.zeros_like(white)
    if seeds == "border":
        found[[0, -1]], found[:, [0, -1]] = white[[0, -1]], white[:, [0, -1]]
    else:
        found[0, 0] = white[0, 0]
    for _ in range(rounds):
        padded, (h, w) = np.pad(found, 1), white.shape
        near = [
            padded[1 + y : 1 + y + h, 1 + x : 1 + x + w]
            for y in (-1, 0, 1)
            for x in (-1, 0, 1)
            if diagonal or y * x == 0
        ]
        grown = white & np.any(near, axis=0)
        if (grown == found).all():
            break
        found = grown
    return found


def spiral():
    """(11, 14, 3): a wall that winds inwards, with white between, so that the ground takes many steps to reach the middle."""
    picture = np.full((11, 14, 3), 255, np.uint8)
    picture[1, 1:13] = picture[1:10, 12] = picture[9, 1:13] = picture[
        3:10, 1
    ] = picture[3, 1:11] = picture[3:8, 10] = picture[7, 3:11] = 40
    return picture


@exercise(
    "9.5",
    "Now colour the ground of a sprite in green: which white does it lose that you would have liked to keep?",
)
def ground_of_a_picture(attempt):
    ring = np.full((7, 7, 3), 255, np.uint8)
    ring[[1, 5], 2:5] = ring[2:5, [1, 5]] = 0  # a ring whose corners touch diagonally
    ring[6, 3] = 0
    face = np.full((9, 8, 3), 255, np.uint8)
    face[2:9, 1:7], face[4:6, [2, 5]] = (
        (200, 150, 110),
        255,
    )  # two white eyes, and a body that cuts the lower border in two
    face[0, 5] = (255, 255, 0)  # a bright yellow pixel at the border
    split = np.full((8, 8, 3), 255, np.uint8)
    split[7, 1] = 254  # at the border, and not quite white
    split[:, 3:5] = (
        90  # a wall from top to bottom: the ground at its right is reached from the right border only
    )
    pictures = {"for a face with white eyes": face, "for a ring whose corners touch diagonally": ring,
                "for a wall from top to bottom": split, "for a spiral, with white to its middle": spiral()}  # fmt: skip
    for where, picture in pictures.items():
        white = (picture == 255).all(2)
        right = ground(picture)
        mistakes = {
            "diagonal steps are not allowed: the ground leaks through a corner of the outline.": ground(
                picture, diagonal=True
            ),
            "you make all white transparent, and eyes, teeth and highlights become holes.": white,
            "this is the mask of what stays; the ground is what goes.": ~right,
            "this is white outside and inside swapped: you return what is shut in.": white
            & ~right,
            "only the border itself is found: from there the ground must grow inwards until nothing changes.": ground(
                picture, rounds=0
            ),
            "the ground has grown by one pixel only: repeat until nothing changes.": ground(
                picture, rounds=1
            ),
            "you start from one corner, and a sprite can cut the border in two: start from all its white.": ground(
                picture, seeds="corner"
            ),
            "white is 255 in all three colours; a pixel of 254 belongs to the drawing.": ground(
                picture, white=(picture >= 250).all(2)
            ),
            "a pixel is white if all three of its colours are 255: is that `any` in place of `all`?": ground(
                picture, white=(picture == 255).any(2)
            ),
        }
        compare(
            tried(attempt, picture),
            right,
            mistakes,
            where,
            0,
            lambda r: (float(r.sum()), "the pixels of ground are"),
        )


@exercise(
    "9.6",
    "What do three processes lose of each batch of 50, and how large a batch would lose nothing?",
)
def share_of_a_batch(attempt):
    whole = torch.arange(48).view(24, 2).float()
    for n, processes in ((24, 3), (8, 3), (7, 2), (5, 1)):
        batch, size = whole[:n], n // processes
        for rank in range(processes):
            even = batch[: size * processes]
            uneven = f"the shares are uneven: each of the {processes} takes {size} of the {n} rows, and the rest is left out."
            mistakes = {
                uneven: batch[rank::processes],
                "these are equal shares, but in blocks; the task is every n-th row, from `rank` on.": even[
                    rank * size : (rank + 1) * size
                ],
                "do you start one row too late? The first process has the rank 0.": even[
                    rank + 1 :: processes
                ],
                "you drop rows at the front; what is left out is the end.": batch[
                    n - size * processes :
                ][rank::processes],
                "every n-th row starts at `rank`: this is the share of process 0.": even[
                    0::processes
                ],
                "this is the whole batch, on every process.": batch,
                "the rows are those that this process does not take.": even[
                    torch.arange(len(even)) % processes != rank
                ],
            }
            where = f"process {rank} of {processes}, a batch of {n} rows"
            mine = as_numbers(tried(attempt, batch, rank, processes))
            compare(mine, even[rank::processes], mistakes, where, 0)
