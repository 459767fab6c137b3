"""The judges of lesson 16's exercises (they spoil them)."""

import numpy as np

from exercises import compare, exercise, shown_sum, tried

# ---- 16.1 ----------------------------------------------------------------------------


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
    "16.1",
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


# ---- 16.2 ----------------------------------------------------------------------------


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
    "16.2",
    "Run it on two heroes of `mine.tiles[..., :3]`: how much nearer does a shift bring "
    "them?",
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


# ---- 16.3 ----------------------------------------------------------------------------


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
    "16.3",
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


# ---- 16.4 ----------------------------------------------------------------------------

HELD_OUT = 3  # the column of a look: seconds, steps, training loss, held-out loss


def looks_of(held_out, training, seconds=60.0, steps=150):
    """The rows of a training with these losses; the first is before it."""
    rows = [[0.0, 0, None, held_out[0]]]
    for i, loss in enumerate(training, start=1):
        rows.append([round(i * seconds, 1), i * steps, loss, held_out[i]])
    return rows


def first_place(mine, theirs, column=HELD_OUT, start=0):
    """The first look at which `theirs` is not above `mine`, or else the last one."""
    for i in range(start, len(mine)):
        if theirs[i][column] <= mine[i][column]:
            return i
    return len(mine) - 1


def catch_up_mistakes(a, b):
    """Other times than that of the first look at which b is not above a."""
    place = first_place(a, b)
    yield (
        "this is the number of the look; its first entry has the seconds.",
        place,
    )
    yield (
        "these are the steps, the second entry; the first has the seconds.",
        b[place][1],
    )
    yield "this is in minutes, and it should be in seconds.", b[place][0] / 60
    yield (
        "do you compare training losses? "
        "The held-out loss is the last entry of a look.",
        b[first_place(a, b, column=2, start=1)][0],
    )
    yield (
        "this is the clock of the first training; the second one's counts.",
        a[place][0],
    )
    above = [i for i in range(len(a)) if b[i][HELD_OUT] > a[i][HELD_OUT]]
    after = min(above[-1] + 1, len(a) - 1)
    yield (
        "is that the last time that it happens? The curves may cross again; "
        "expected the first time.",
        b[after][0],
    )
    below = [i for i in range(len(a)) if b[i][HELD_OUT] < a[i][HELD_OUT]]
    yield "equal counts, too: it has caught up then.", b[below[0]][0]
    lowest = min(range(len(b)), key=lambda i: b[i][HELD_OUT])
    yield "this is when the second loss is lowest.", b[lowest][0]
    level = a[-1][HELD_OUT]
    late = [row for row in b if row[HELD_OUT] <= level]
    if late:
        yield (
            "do you compare with the last loss of the first training? "
            "Compare look by look.",
            late[0][0],
        )


@exercise(
    "16.4",
    "Try it on the two stored curves, in the next cell.",
)
def catching_up(attempt):
    good_start = [0.9, 0.5, 0.44, 0.42, 0.41, 0.40, 0.39]
    cases = {
        "a curve that starts higher and falls faster": (
            [2.0, 0.8, 0.6, 0.419, 0.40, 0.38, 0.37],
            [0.9, 0.45, 0.43, 0.42, 0.40, 0.35],
        ),
        "two curves that meet at equal losses": (
            [3.0, 0.7, 0.44, 0.415, 0.415, 0.39, 0.385],
            [1.2, 0.6, 0.5, 0.41, 0.39, 0.35],
        ),
        "two curves that cross three times": (
            [1.5, 0.49, 0.45, 0.43, 0.405, 0.40, 0.38],
            [0.95, 0.55, 0.52, 0.5, 0.3, 0.2],
        ),
    }
    training = [0.8, 0.5, 0.45, 0.43, 0.41, 0.40]
    a = looks_of(good_start, training, seconds=60.1)
    for where, (held_out, own) in cases.items():
        b = looks_of(held_out, own, seconds=60.4, steps=140)
        compare(
            tried(attempt, a, b),
            b[first_place(a, b)][0],
            catch_up_mistakes(a, b),
            where=where,
            number=lambda result: (float(result), "your answer in seconds is"),
        )


# ---- 16.5 ----------------------------------------------------------------------------


def choice_mistakes(strangeness, is_copy, count):
    """Other places than those of the least strange samples that are no copies."""
    new = np.flatnonzero(~is_copy)
    order = np.argsort(strangeness[new], kind="stable")
    everything = np.argsort(strangeness, kind="stable")
    yield (
        "these are places in the list *without* the copies; "
        "expected places among all samples.",
        order[:count],
    )
    yield (
        "there are copies among them: they are familiar, so they win.",
        everything[:count],
    )
    first = everything[:count]
    yield (
        "you choose first and then take the copies out, so too few are left; "
        "take the copies out first.",
        first[~is_copy[first]],
    )
    yield (
        "these are the strangest ones; expected the least strange.",
        new[order[::-1]][:count],
    )
    yield (
        "these are the values of strangeness; expected places (`np.argsort`).",
        strangeness[new[order[:count]]],
    )
    yield (
        "the least strange comes first; these are in another order.",
        np.sort(new[order[:count]]),
    )
    yield "these are the copies; expected the others.", np.flatnonzero(is_copy)[:count]
    yield "these are all of them; expected `count`.", new[order]


@exercise(
    "16.5",
    "What would the sheet look like with copies left in? The instrument shows it.",
)
def choice_of_the_best(attempt):
    rng = np.random.default_rng(0)
    for n, count in ((12, 3), (40, 8)):
        strangeness = rng.permutation(n) / n + 0.05
        is_copy = np.zeros(n, bool)
        ranked = np.argsort(strangeness)
        is_copy[ranked[[0, 2, n // 2]]] = True  # the most familiar one is a copy
        is_copy[1] = True
        right = np.flatnonzero(~is_copy)
        right = right[np.argsort(strangeness[right])][:count]
        compare(
            tried(attempt, strangeness, is_copy, count),
            right,
            choice_mistakes(strangeness, is_copy, count),
            where=f"{n} samples, {is_copy.sum()} of them copies, count={count}",
        )
