"""New sprites in the style of yours: `python weights/own_sprites.py FOLDER_OR_SHEET`.

It reads a sheet or a folder of sprites, trains the course's strong network with them
for ten minutes (`--minutes`), and draws. Training starts from the course's weights
where they help, otherwise anew. The folder `--out` then holds
- understood.png: what was read, written before the training;
- progress.png and weights.pth: samples and weights, written again as training goes on;
- sheet.png: the best 64 sprites, with alpha, and each of them in sprites/;
- copies.png: what was drawn, and left out because it repeats one of yours;
- report.json: what was read, the losses, and the scores of each sprite.
The same command goes on training from there; Ctrl-C stops the training early, and
draws. `--tile`, `--margin`, `--spacing` and `--background` say how a sheet is cut.
"""

import argparse
import hashlib
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor
from torch import Generator, Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent / "experiments"))
from tables import check_writable, stored, write_json
from training import random_rows

import diffusion_utilities as du  # found beside this folder

SCHEDULE = du.NoiseSchedule.linear()
SHIPPED = du.WEIGHTS / "sprite_unet_trained.pth"
SIDES = range(8, 33)  # of a tile, in pixels
MOST_COLOURS = 64
TRANSPARENT = (255, 255, 255, 0)
BEST = 64  # sprites on the sheet
PICTURES = ("understood.png", "progress.png", "sheet.png", "copies.png")
WRITTEN = (*PICTURES, "weights.pth", "sprites")  # and report.json, first of all

# ---- What was understood -------------------------------------------------------------


@dataclass(frozen=True)
class Collection:
    """A user's sprites, ready to train on.

    tiles: (N, height, width, 4) uint8, in the colours of the palette.
    names: where each comes from. labels: the name of its folder, or "".
    family: (N,), equal for relatives: copies that may be shifted, mirrored, recoloured.
    held: (N,) bool, True for what is held out: whole families.
    palette: (K, 4) uint8.
    """

    tiles: np.ndarray
    names: list[str]
    labels: list[str]
    family: np.ndarray
    held: np.ndarray
    palette: np.ndarray

    @property
    def train(self) -> np.ndarray:
        return self.tiles[~self.held]

    @property
    def held_out(self) -> np.ndarray:
        return self.tiles[self.held]

    @property
    def classes(self) -> list[str]:
        """The labels there are; none if all tiles have the same one."""
        different = sorted(set(self.labels))
        return different if len(different) > 1 else []

    def contexts(self) -> Tensor | None:
        """One-hot rows of the labels (N, classes); None without classes."""
        if not self.classes:
            return None
        places = [self.classes.index(label) for label in self.labels]
        return torch.eye(len(self.classes))[places]


def understand(
    path: str | Path,
    tile: int | tuple[int, int] = 16,
    *,
    margin: int = 0,
    spacing: int = 0,
    background="auto",
    only_transparent: bool = False,
) -> Collection:
    """Read a sheet or a folder of sprites.

    tile, margin, spacing, background: as in `du.load_tiles`.
    only_transparent: leave out tiles without a transparent pixel, such as floors.

    Sides may have 8 to 32 pixels. Exact copies are left out, relatives stay on one side
    of the split, and a label is the name of the folder that a tile lies in.

    Raises errors as `du.load_tiles` does, and ValueError for sides out of range, and
    for fewer than two different sprites.

    Lesson 16.
    """
    tiles, files = du.load_tiles(
        path, tile, margin=margin, spacing=spacing, background=background
    )
    check_sides(tiles)
    kept = worth_keeping(tiles, only_transparent)
    if len(kept) < 2:
        raise ValueError(
            f"{path} holds {len(kept)} different sprites; expected two or more, and "
            "better a hundred"
        )
    files = [files[place] for place in kept]
    palette = find_palette(tiles[kept])
    tiles = in_colours(tiles[kept], palette)
    family = families(tiles)
    return Collection(
        tiles=tiles,
        names=[file.name for file in files],
        labels=labels_of(path, files),
        family=family,
        held=split(family),
        palette=palette,
    )


def check_sides(tiles: np.ndarray) -> None:
    height, width = tiles.shape[1:3]
    if height not in SIDES or width not in SIDES:
        raise ValueError(
            f"the tiles have {width}x{height} pixels; expected sides from {SIDES[0]} "
            f"to {SIDES[-1]}: scale the sprites, or cut the sheet into smaller tiles"
        )


def worth_keeping(tiles: np.ndarray, only_transparent: bool) -> np.ndarray:
    """The places of the different tiles; prints how many others there are."""
    kept = first_of_equal(tiles)
    if len(kept) < len(tiles):
        print(f"left out: {len(tiles) - len(kept)} tiles equal to another one")
    if only_transparent:
        transparent = (tiles[kept, ..., 3] == 0).any((1, 2))
        if not transparent.all():
            print(f"left out: {(~transparent).sum()} tiles that are opaque")
        kept = kept[transparent]
    return kept


def first_of_equal(tiles: np.ndarray) -> np.ndarray:
    """The place of the first of each group of equal tiles, in their order."""
    _, first = np.unique(tiles.reshape(len(tiles), -1), axis=0, return_index=True)
    return np.sort(first)


def labels_of(path: str | Path, files: list[Path]) -> list[str]:
    """The name of the folder of each file; "" for files in `path` itself."""
    if not Path(path).is_dir():
        return [""] * len(files)
    folders = [file.relative_to(path).parent.as_posix() for file in files]
    return ["" if folder == "." else folder for folder in folders]


def split(family: np.ndarray, share: float = 0.1, seed: int = 0) -> np.ndarray:
    """True for held-out tiles (N,): whole families, about that share of the tiles.

    With fewer than twelve families nothing can be spared.
    """
    names = np.random.default_rng(seed).permutation(np.unique(family))
    held = np.zeros(len(family), bool)
    if len(names) < 12:
        return held
    wanted = max(2, round(share * len(family)))
    for name in names:
        more = held | (family == name)
        if more.sum() <= wanted:
            held = more
    return held


def contact_sheet(collection: Collection, most: int = 400) -> Image.Image:
    """What was understood, on a checkerboard: held-out tiles stand last."""
    order = np.argsort(collection.held, kind="stable")
    shown = order[np.linspace(0, len(order) - 1, min(most, len(order))).astype(int)]
    tiles = on_checkerboard(collection.tiles[shown])
    zoom = max(1, 48 // tiles.shape[1])
    return du.show_images(tiles, columns=20, zoom=zoom)


def on_checkerboard(tiles: np.ndarray) -> np.ndarray:
    """Tiles (N, H, W, 4) on two greys, as drawing programs show what is transparent."""
    height, width = tiles.shape[1:3]
    squares = (np.arange(height)[:, None] // 4 + np.arange(width) // 4) % 2
    ground = np.where(squares, 206, 236)[..., None]
    alpha = tiles[..., 3:] / 255
    mixed = tiles[..., :3] * alpha + ground * (1 - alpha)
    return mixed.round().astype(np.uint8)


# ---- Colours -------------------------------------------------------------------------


def find_palette(tiles: np.ndarray, most: int = MOST_COLOURS) -> np.ndarray:
    """The colours of tiles (N, H, W, 4): (K, 4) uint8, K at most `most`.

    If there are more, this is k-means. It starts with the colour that is worst
    represented, again and again, so a rare hue keeps a colour of its own. A colour
    counts by the root of how often it is there.

    Lesson 16.
    """
    packed = np.ascontiguousarray(tiles).view(np.uint32)
    packed, counts = np.unique(packed, return_counts=True)
    colours = packed.view(np.uint8).reshape(-1, 4)
    if len(colours) <= most:
        return colours
    is_clear = colours[:, 3] == 0
    clear = colours[is_clear][:1]  # kept, whatever else is nearly transparent
    colours = colours[~is_clear]
    counts = counts[~is_clear]
    most -= len(clear)
    points = torch.from_numpy(premultiplied(colours))
    weights = torch.from_numpy(counts).float().sqrt()
    centres = farthest_first(points, weights, most)
    for _ in range(10):
        nearest = torch.cdist(points, centres).argmin(1)
        total = torch.zeros(most).index_add_(0, nearest, weights)
        sums = torch.zeros(most, 4).index_add_(0, nearest, weights[:, None] * points)
        centres = torch.where(total[:, None] > 0, sums / total[:, None], centres)
    own = torch.cdist(centres, points).argmin(1).unique()  # colours that are there
    return np.concatenate([clear, colours[own.numpy()]])


def farthest_first(points: Tensor, weights: Tensor, count: int) -> Tensor:
    """`count` of the points (N, D), each the one that most weight is far from."""
    chosen = [int(weights.argmax())]
    apart = torch.full((len(points),), float("inf"))
    while len(chosen) < count:
        newest = (points - points[chosen[-1]]).square().sum(1)
        apart = torch.minimum(apart, newest)
        chosen.append(int((apart * weights).argmax()))
    return points[chosen]


def premultiplied(pictures: np.ndarray) -> np.ndarray:
    """Pictures (..., 4) uint8 as numbers from 0 to 1, colours times alpha, float32."""
    numbers = pictures.astype(np.float32) / 255
    numbers[..., :3] *= numbers[..., 3:]
    return numbers


def in_colours(pictures: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Pictures (N, H, W, 4) uint8 with the nearest colours of the palette (K, 4)."""
    packed = np.ascontiguousarray(pictures).view(np.uint32)
    packed, places = np.unique(packed, return_inverse=True)
    colours = packed.view(np.uint8).reshape(-1, 4)
    ours = torch.from_numpy(premultiplied(colours))
    theirs = torch.from_numpy(premultiplied(palette))
    nearest = torch.cdist(ours, theirs).argmin(1).numpy()
    return palette[nearest][places.reshape(-1)].reshape(pictures.shape)


# ---- Relatives -----------------------------------------------------------------------

NEAR = 0.07  # RMS of the colours over the drawn pixels
NEAR_SHADES = 0.35  # of the shades, in standard deviations


def aligned(tiles: np.ndarray) -> np.ndarray:
    """Tiles (N, H, W, 4) with each drawing moved to the upper left corner."""
    moved = np.empty_like(tiles)
    moved[:] = TRANSPARENT
    for tile, place in zip(tiles, moved):
        rows = np.flatnonzero(tile[..., 3].any(1))
        columns = np.flatnonzero(tile[..., 3].any(0))
        if len(rows):
            part = tile[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            place[: part.shape[0], : part.shape[1]] = part
    return moved


@dataclass(frozen=True)
class Looks:
    """What relatives are recognised by, for N tiles: tensors (N, ...).

    colours: premultiplied. shades: the brightness with mean 0 and spread 1 over the
    drawn pixels, and twice the silhouette. masks: the silhouette. areas: (N,), in
    pixels.
    """

    colours: Tensor
    shades: Tensor
    masks: Tensor
    areas: Tensor

    @classmethod
    def of(cls, tiles: np.ndarray) -> "Looks":
        numbers = torch.from_numpy(premultiplied(aligned(tiles)))
        masks = (numbers[..., 3] > 0.5).float().flatten(1)
        areas = masks.sum(1).clamp(min=1)
        grey = numbers[..., :3].mean(3).flatten(1) * masks
        centred = (grey - (grey.sum(1) / areas)[:, None]) * masks
        spread = (centred.square().sum(1) / areas).sqrt()
        shades = centred / spread.clamp(min=0.02)[:, None]
        return cls(numbers.flatten(1), torch.cat((shades, 2 * masks), 1), masks, areas)


def related(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which tiles of a (N, H, W, 4) and b (M, H, W, 4) are relatives: (N, M) bool.

    Relatives have nearly equal colours, or nearly equal shades in other colours, or
    the same silhouette. Their drawings may be shifted or mirrored.

    Lesson 16.
    """
    theirs = Looks.of(b)
    rows = [np.zeros((0, len(b)), bool)]
    for first in range(0, len(a), 500):
        some = a[first : first + 500]
        as_they_are = related_looks(Looks.of(some), theirs)
        mirrored = related_looks(Looks.of(some[:, :, ::-1]), theirs)
        rows.append((as_they_are | mirrored).numpy())
    return np.concatenate(rows)


def related_looks(a: Looks, b: Looks) -> Tensor:
    area = torch.maximum(a.areas[:, None], b.areas)
    colours = torch.cdist(a.colours, b.colours) / (4 * area).sqrt()
    shades = torch.cdist(a.shades, b.shades) / area.sqrt()
    # the silhouette of a tile without transparency says nothing
    same = torch.cdist(a.masks, b.masks) < 0.5
    same &= area < a.masks.shape[1]
    return (colours < NEAR) | (shades < NEAR_SHADES) | same


def families(tiles: np.ndarray) -> np.ndarray:
    """A number for each tile (N,), equal for relatives, also by way of a third.

    Lesson 16.
    """
    pairs = torch.from_numpy(related(tiles, tiles))
    pairs |= pairs.T.clone()
    pairs.fill_diagonal_(True)
    family = torch.arange(len(tiles))
    while True:  # each takes the smallest number among its relatives
        smallest = [
            torch.where(some, family, len(family)).amin(1) for some in pairs.split(500)
        ]
        smallest = torch.cat(smallest)
        if torch.equal(smallest, family):
            return family.numpy()
        family = smallest


# ---- The network ---------------------------------------------------------------------


def to_numbers(tiles: np.ndarray) -> Tensor:
    """Tiles (N, H, W, 4) uint8 as (N, 4, H', W') from -1 to 1.

    H' and W' are the next multiples of 4; what is added is transparent.
    """
    height, width = tiles.shape[1:3]
    padded = np.empty((len(tiles), *network_sides(height, width), 4), np.uint8)
    padded[:] = TRANSPARENT
    padded[:, :height, :width] = tiles
    return torch.from_numpy(padded).permute(0, 3, 1, 2) / 127.5 - 1


def network_sides(height: int, width: int) -> tuple[int, int]:
    """The next multiples of 4: the network halves its pictures twice."""
    return height + -height % 4, width + -width % 4


def colours_to_numbers(palette: np.ndarray) -> Tensor:
    return torch.from_numpy(palette) / 127.5 - 1


def new_network(collection: Collection, start: Path | None = SHIPPED) -> du.SpriteUnet:
    """A network for the collection's colours and labels.

    start: the weights of the course's network. They are kept except for what reads
    pixels and words and what names colours. The fourth channel, alpha, starts at zero;
    a colour starts with the score of the course's colour that is nearest to it. None
    starts from random weights.

    Lesson 16.
    """
    palette = collection.palette
    sides = collection.tiles.shape[1:3]
    if network_sides(*sides) != sides:
        palette = with_transparency(palette)
    network = du.SpriteUnet(
        SCHEDULE,
        colours_to_numbers(palette),
        n_cfeat=max(2, len(collection.classes)),
        n_words=1,
        max_words=1,
    )
    if start is not None:
        take_over(network, du.load_state(start))
    return network.to(memory_format=torch.channels_last)


def first_network(collection: Collection) -> du.SpriteUnet:
    """The network that training starts from: the course's, if it knows the style.

    It does if its held-out loss is below a third of that of random weights, or if
    nothing is held out. Four collections of other styles reached as low a loss or a
    lower one from random weights, in ten minutes (own_collections.json).

    Lesson 16.
    """
    course = new_network(collection)
    known = held_out_loss(course, collection)
    if known is None:
        print("training starts from the course's network")
        return course
    fresh = new_network(collection, None)
    unknown = held_out_loss(fresh, collection)
    losses = f"its loss is {known:.2f}, that of random weights {unknown:.2f}"
    if known < unknown / 3:
        print(f"training starts from the course's network: {losses}")
        return course
    print(f"training starts anew; the course's network is of no help: {losses}")
    return fresh


def with_transparency(palette: np.ndarray) -> np.ndarray:
    """The palette (K, 4), and the transparent colour if it is missing."""
    if (palette[:, 3] == 0).any():
        return palette
    return np.concatenate([palette, np.array([TRANSPARENT], np.uint8)])


def take_over(network: du.SpriteUnet, old: dict[str, Tensor]) -> None:
    """Put the course's weights into a network for other colours, in place."""
    state = network.state_dict()
    nearest = torch.cdist(network.palette[:, :3], old["palette"].float()).argmin(1)
    shared = torch.bincount(nearest, minlength=len(old["palette"]))[nearest]
    for name, value in state.items():
        if name != "palette" and name in old and old[name].shape == value.shape:
            state[name] = old[name].float()
    state["stem.weight"][:, :3] = old["stem.weight"].float()
    state["stem.weight"][:, 3:] = 0
    state["out.weight"] = old["out.weight"].float()[nearest]
    # colours that share a score share its probability; of white, the course's
    # background, transparent takes nearly all
    share = -shared.float().log()
    is_clear = network.palette[:, 3] == -1
    if is_clear.any():
        white = nearest == nearest[is_clear][0]
        share = torch.where(white & ~is_clear, share - 4, share)
        share = torch.where(is_clear, torch.zeros(()), share)
    state["out.bias"] = old["out.bias"].float()[nearest] + share
    network.load_state_dict(state)


# ---- Training ------------------------------------------------------------------------

RATE = 0.012  # of Muon; Adam's, for the outer layers, is a twelfth
WARM_UP = 20  # steps
BATCH = 64
MEMORY = 0.99  # of the average of the weights
LOOKS = 10
PATIENCE = 3  # looks without a lower loss, far from the lowest
OUTER_LAYERS = ("stem", "out", "columns", "reader")
TRAINING_DOUBT = 0.002
FREQUENCIES = du.straight_frequencies(SCHEDULE, even=0.25)  # of the steps


@dataclass(frozen=True)
class Look:
    """A look at a training: its numbers so far, and the average of the weights.

    held_out is the loss of the held-out tiles, None without any. best: whether no
    earlier look had a lower one.
    """

    step: int
    seconds: float
    training: float
    held_out: float | None
    best: bool
    network: nn.Module


def train(
    network: du.SpriteUnet,
    collection: Collection,
    seconds: float = math.inf,
    *,
    steps: float = math.inf,
    rate: float = RATE,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Look]:
    """Train for so many seconds, or steps; yields LOOKS looks, or fewer.

    The learning rate rises over WARM_UP steps and reaches 0 at the end. The training
    ends early when the held-out loss has stopped falling and is a tenth above its
    lowest value. The clock stands still while the caller looks.

    Raises ValueError for a training without a step, or without an end.

    Lesson 16.
    """
    check_length(seconds, steps)
    torch.manual_seed(seed)
    generator = Generator().manual_seed(seed)
    average = du.average_weights(network, MEMORY)
    optimiser = du.Muon(
        network.named_parameters(), adam=OUTER_LAYERS, lr=rate, adam_lr=rate / 12
    )
    losses = steps_of(network, collection, optimiser, average, generator)
    rates = [group["lr"] for group in optimiser.param_groups]
    spent = 0.0
    step = 0
    done = 0.0  # the share of the training
    history = []
    for look in range(1, LOOKS + 1):
        recent = []
        while not recent or done < look / LOOKS:
            started = clock()
            set_rates(optimiser, rates, step, done)
            recent.append(next(losses))
            step += 1
            spent += clock() - started
            done = max(spent / seconds, step / steps)
        held_out = held_out_loss(average.module, collection)
        history.append(held_out)
        best = held_out is None or held_out == min(history)
        loss = float(np.mean(recent))
        yield Look(step, spent, loss, held_out, best, average.module.eval())
        if has_turned(history):
            print("the held-out loss rises: more training would only copy")
            return


def check_length(seconds: float, steps: float) -> None:
    if not 0 < min(seconds, steps) < math.inf:
        raise ValueError(
            f"seconds={seconds}, steps={steps}; expected numbers above 0, not both "
            "infinite"
        )


def set_rates(optimiser, rates: list[float], step: int, done: float) -> None:
    """Let the learning rates rise over WARM_UP steps, and fall with what is done."""
    warm = min(1, (step + 1) / WARM_UP)
    for group, highest in zip(optimiser.param_groups, rates):
        group["lr"] = highest * warm * max(0.0, 1 - done)


def has_turned(history: list[float | None]) -> bool:
    """Whether a held-out loss has risen for good."""
    if None in history or len(history) <= PATIENCE:
        return False
    return min(history[-PATIENCE:]) > 1.1 * min(history)


def steps_of(network, collection: Collection, optimiser, average, generator):
    """Endless steps of training; yields the loss of each."""
    network.doubt = TRAINING_DOUBT
    x = to_numbers(collection.train)
    contexts = collection.contexts()
    own = None if contexts is None else contexts[~torch.from_numpy(collection.held)]
    rows = random_rows(len(x), BATCH, sys.maxsize, generator)
    batches = ((x[some], None if own is None else own[some]) for some in rows)
    return du.train_steps(
        network,
        batches,
        SCHEDULE,
        optimiser=optimiser,
        average=average,
        generator=generator,
        p_drop=None if own is None else 0.15,
        frequencies=FREQUENCIES,
    )


@torch.no_grad()
def held_out_loss(
    network: nn.Module, collection: Collection, most: int = 256, repeats: int = 4
) -> float | None:
    """The loss of held-out tiles, always with the same noise; None without any."""
    tiles = collection.held_out[:most]
    if not len(tiles):
        return None
    network.doubt = TRAINING_DOUBT
    x = to_numbers(tiles).repeat(repeats, 1, 1, 1)
    generator = Generator().manual_seed(1)
    losses = []
    with du.evaluating(network):
        for some in x.split(128):
            loss = du.diffusion_loss(
                network, some, SCHEDULE, generator=generator, frequencies=FREQUENCIES
            )
            losses.append(float(loss) * len(some))
    return sum(losses) / len(x)


# ---- Drawing -------------------------------------------------------------------------

DRAWING_STEPS = 30
DOUBTS = (0.02, 0.05, 0.1, 0.3, 1.0)  # of the network when it draws


@torch.no_grad()
def draw(
    network: du.SpriteUnet,
    collection: Collection,
    n: int,
    *,
    seed: int = 0,
    ask: str | None = None,
    steps: int = DRAWING_STEPS,
    doubt: float = 1.0,
) -> np.ndarray:
    """n new tiles (n, height, width, 4) uint8, in the collection's colours.

    ask: a label of the collection; None asks for nothing.
    doubt: how little the network believes a noisy pixel; see `best_doubt`.

    Raises ValueError for another label.

    Lesson 16.
    """
    height, width = collection.tiles.shape[1:3]
    model = network
    context = None
    if ask is not None:
        if ask not in collection.classes:
            raise ValueError(
                f"ask={ask!r}; expected one of the folders {collection.classes}"
            )
        place = collection.classes.index(ask)
        context = torch.eye(len(collection.classes))[[place]]
        model = du.guided(network, 2.0)
    generator = Generator().manual_seed(seed)
    network.doubt = doubt
    drawn = []
    for first in range(0, n, 64):
        size = min(64, n - first)
        x, _ = du.sample_ddpm(
            model,
            SCHEDULE,
            shape=(size, 4, *network_sides(height, width)),
            context=None if context is None else context.expand(size, -1),
            steps=du.straight_steps(SCHEDULE, steps),
            generator=generator,
            variance="beta_tilde",
            keep=0,
        )
        drawn.append(to_tiles(x)[:, :height, :width])
    return in_colours(np.concatenate(drawn), collection.palette)


def best_doubt(
    network: du.SpriteUnet,
    collection: Collection,
    n: int = 16,
    steps: int = DRAWING_STEPS,
) -> float:
    """The one of DOUBTS whose samples have as much detail as the collection's tiles.

    A well-trained network draws best with 1, as in lesson 8. One that knows little
    would then draw the mean of all colours; with less doubt it settles for some.

    Lesson 16.
    """
    wanted = float(np.median(detail(collection.tiles)))
    apart = {}
    for doubt in DOUBTS:
        drawn = draw(network, collection, n, seed=1, steps=steps, doubt=doubt)
        apart[doubt] = abs(float(np.median(detail(drawn))) - wanted)
    return min(apart, key=apart.get)


def detail(tiles: np.ndarray) -> np.ndarray:
    """The mean difference of colour between drawn neighbours: (N,), from 0 to 1.

    Lesson 16.
    """
    colours = premultiplied(tiles)[..., :3]
    drawn = tiles[..., 3] > 0
    below = np.abs(np.diff(colours, axis=1)).mean(3)
    beside = np.abs(np.diff(colours, axis=2)).mean(3)
    both_below = drawn[:, 1:] & drawn[:, :-1]
    both_beside = drawn[:, :, 1:] & drawn[:, :, :-1]
    total = (below * both_below).sum((1, 2)) + (beside * both_beside).sum((1, 2))
    count = both_below.sum((1, 2)) + both_beside.sum((1, 2))
    return total / np.maximum(count, 1)


def to_tiles(x: Tensor) -> np.ndarray:
    """(N, 4, H, W) from -1 to 1 as (N, H, W, 4) uint8."""
    bytes_ = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(bytes_.permute(0, 2, 3, 1).cpu().numpy())


# ---- Choosing ------------------------------------------------------------------------


def without_specks(tiles: np.ndarray) -> np.ndarray:
    """Tiles (N, H, W, 4) without drawn pixels that have no drawn one around them.

    Lesson 16.
    """
    drawn = tiles[..., 3] > 0
    height, width = drawn.shape[1:]
    wider = np.pad(drawn, ((0, 0), (1, 1), (1, 1))).astype(int)
    around = -drawn.astype(int)
    for y in range(3):
        for x in range(3):
            around += wider[:, y : y + height, x : x + width]
    cleaned = tiles.copy()
    cleaned[drawn & (around == 0)] = TRANSPARENT
    return cleaned


def strangeness(tiles: np.ndarray, data: np.ndarray, side: int = 6) -> np.ndarray:
    """How unlike the data the parts of tiles (N, H, W, 4) are: (N,), from 0.

    Each part of side x side pixels with something drawn in it is compared with the same
    part of every tile of the data. The RMS distance to the nearest is divided by the
    part's own contrast, or a flat dark blot would be the most familiar picture. The
    mean over the parts is returned.

    Lesson 16.
    """
    ours = torch.from_numpy(premultiplied(tiles))
    theirs = torch.from_numpy(premultiplied(data))
    height, width = tiles.shape[1:3]
    stride = max(2, height // 8)
    total = torch.zeros(len(tiles))
    count = torch.zeros(len(tiles))
    for y in range(0, height - side + 1, stride):
        for x in range(0, width - side + 1, stride):
            part = ours[:, y : y + side, x : x + side].flatten(1)
            others = theirs[:, y : y + side, x : x + side].flatten(1)
            nearest = torch.cdist(part, others).amin(1) / part.shape[1] ** 0.5
            is_drawn = (part > 0).any(1).float()
            total += nearest / (contrast(part) + 0.01) * is_drawn
            count += is_drawn
    return (total / count.clamp(min=1)).numpy()


def contrast(parts: Tensor) -> Tensor:
    """The RMS distance of the pixels of parts (N, pixels * 4) to their mean: (N,)."""
    pixels = parts.unflatten(1, (-1, 4))
    middle = pixels.mean(1, keepdim=True)
    return (pixels - middle).square().mean((1, 2)).sqrt()


@dataclass(frozen=True)
class Choice:
    """What became of N drawn tiles.

    order: the places of those that were chosen, the best first.
    copies: the places of those that are relatives of a tile of the collection.
    nearest: (N,), the first tile that each is a relative of, or else 0.
    strangeness: (N,).
    """

    order: np.ndarray
    copies: np.ndarray
    nearest: np.ndarray
    strangeness: np.ndarray


def choose(tiles: np.ndarray, collection: Collection, most: int = BEST) -> Choice:
    """The best of drawn tiles (N, H, W, 4): familiar in their parts, new as a whole.

    Empty tiles and relatives of the collection's tiles are left out. A relative of a
    better one comes after all others.

    Lesson 16.
    """
    kin = related(tiles, collection.tiles)
    is_copy = kin.any(1)
    scores = strangeness(tiles, collection.train)
    is_empty = ~(tiles[..., 3] > 0).any((1, 2))
    usable = np.flatnonzero(~is_copy & ~is_empty)
    ranked = usable[np.argsort(scores[usable], kind="stable")]
    alike = related(tiles[ranked], tiles[ranked])
    new = []
    repeated = []
    for place in range(len(ranked)):
        if alike[place, new].any():
            repeated.append(place)
        else:
            new.append(place)
    order = ranked[[*new, *repeated]][:most].astype(int)
    copies = np.flatnonzero(is_copy & ~is_empty)
    return Choice(order, copies, kin.argmax(1), scores)


NOISE = 1.3  # times as strange as held-out tiles; set by eye on two collections


def still_noise(scores: np.ndarray, collection: Collection) -> float | None:
    """How many times as strange as held-out tiles drawn ones are, on average.

    scores: the strangeness of drawn tiles. None where nothing is held out. Above NOISE,
    samples are still noise.
    """
    if not collection.held.any():
        return None
    real = strangeness(collection.held_out[:200], collection.train)
    return float(np.mean(scores) / max(np.mean(real), 1e-6))


# ---- Writing -------------------------------------------------------------------------


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    with du.written_whole(path) as temporary, open(temporary, "wb") as file:
        picture.save(file, format="PNG")


def as_sheet(tiles: np.ndarray, columns: int = 8) -> Image.Image:
    """Tiles (N, H, W, 4) side by side, row by row, as a picture with alpha.

    Transparent pixels are (0, 0, 0, 0), and so is what is left of the last row. Without
    tiles it is one row that is transparent: a PNG must have pixels.

    Lesson 16.
    """
    n, height, width = tiles.shape[:3]
    rows = max(1, -(-n // columns))
    every = np.zeros((rows * columns, height, width, 4), np.uint8)
    every[:n] = np.where(tiles[..., 3:] > 0, tiles, 0)
    grid = every.reshape(rows, columns, height, width, 4).swapaxes(1, 2)
    return Image.fromarray(grid.reshape(rows * height, columns * width, 4))


def copies_sheet(
    tiles: np.ndarray, choice: Choice, collection: Collection
) -> Image.Image:
    """Each copy above the tile of yours that it repeats, at most 32 of them."""
    shown = choice.copies[:32]
    pairs = np.stack([tiles[shown], collection.tiles[choice.nearest[shown]]], 1)
    height, width = tiles.shape[1:3]
    return as_sheet(pairs.reshape(-1, height * 2, width, 4), 16)


def write_sprites(
    out: Path, tiles: np.ndarray, choice: Choice, collection: Collection
) -> None:
    """Write sheet.png, sprites/ and copies.png."""
    best = tiles[choice.order]
    save_picture(copies_sheet(tiles, choice, collection), out / "copies.png")
    for place, tile in enumerate(best):
        save_picture(as_sheet(tile[None], 1), out / "sprites" / f"{place:02d}.png")
    for place in range(len(best), BEST):
        (out / "sprites" / f"{place:02d}.png").unlink(missing_ok=True)
    save_picture(as_sheet(best), out / "sheet.png")


# ---- The program ---------------------------------------------------------------------


def size(text: str) -> int | tuple[int, int]:
    """16 or 16x24, for argparse."""
    numbers = [int(number) for number in text.lower().split("x")]
    if len(numbers) > 2:
        raise argparse.ArgumentTypeError(f"{text}: expected 16 or 16x24")
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def colour(text: str):
    """auto, none, a name, #rrggbb or r,g,b, for argparse."""
    if text == "auto":
        return text
    if text == "none":
        return None
    try:
        if "," in text:
            return tuple(int(number) for number in text.split(","))
        return ImageColor.getrgb(text)[:3]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text}: expected auto, none, a colour such as #476c6c, or 71,108,108"
        ) from None


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="a folder of sprites, or a sheet")
    parser.add_argument("--out", type=Path, default=Path("own_sprites"))
    parser.add_argument("--minutes", type=float, default=10, help="of training")
    parser.add_argument("--tile", type=size, default=16, help="16, or 16x24")
    parser.add_argument("--margin", type=int, default=0)
    parser.add_argument("--spacing", type=int, default=0)
    parser.add_argument(
        "--background",
        type=colour,
        default="auto",
        help="a colour that becomes transparent; auto (the default) or none",
    )
    parser.add_argument(
        "--only-transparent",
        action="store_true",
        help="leave out tiles without a transparent pixel, such as floors",
    )
    parser.add_argument("--ask", help="draw for this subfolder's name")
    parser.add_argument("--samples", type=int, default=256, help="to choose from")
    parser.add_argument(
        "--steps", type=int, default=DRAWING_STEPS, help="to draw a sprite in"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(arguments: list[str] | None = None) -> None:
    parser = command_line()
    options = parser.parse_args(arguments)
    try:
        run(options)
    except (ValueError, OSError) as error:
        parser.error(str(error))


def run(options: argparse.Namespace) -> None:
    """The whole of it: read, show, train, draw, choose and write."""
    out = options.out
    check(options)
    torch.manual_seed(options.seed)  # for weights that start anew
    collection = read(options)
    print(described(collection))
    report = earlier_report(out, collection)
    network = earlier_network(out, collection, report)
    check_folder(out)
    du.sweep_temporary(out)
    du.sweep_temporary(out / "sprites")
    write_json(out / "report.json", report)  # says whose the other files are
    save_picture(contact_sheet(collection), out / "understood.png")
    print(f"look at {out / 'understood.png'}: is this what you meant?")
    network = trained(network, collection, options, report)
    tiles = drawn(network, collection, options, options.samples, ask=options.ask)
    tiles = without_specks(tiles)
    choice = choose(tiles, collection)
    write_sprites(out, tiles, choice, collection)
    report["samples"] = in_numbers(choice, collection)
    write_json(out / "report.json", report)
    tell(report, out)


def check(options: argparse.Namespace) -> None:
    """Raise ValueError for options that cannot be meant."""
    if not 0 <= options.minutes < math.inf:
        raise ValueError(f"--minutes {options.minutes}; expected a number, 0 or more")
    if options.samples < 1:
        raise ValueError(f"--samples {options.samples}; expected 1 or more")
    if not 1 <= options.steps <= SCHEDULE.T:
        raise ValueError(f"--steps {options.steps}; expected 1 to {SCHEDULE.T}")
    out = options.out.resolve()
    is_inside = options.path.resolve() in (out, *out.parents)
    if options.path.is_dir() and is_inside:
        raise ValueError(
            f"--out {options.out} is inside {options.path}: its pictures would be read "
            "as yours the next time; give another folder"
        )


def check_folder(out: Path) -> None:
    """Make the folder. Raises ValueError if nothing can be written there."""
    try:
        check_writable(out, "report.json")
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written: {error}") from None


def read(options: argparse.Namespace) -> Collection:
    """The collection that the options name. Raises ValueError for another `--ask`."""
    collection = understand(
        options.path,
        options.tile,
        margin=options.margin,
        spacing=options.spacing,
        background=options.background,
        only_transparent=options.only_transparent,
    )
    if options.ask is not None and options.ask not in collection.classes:
        raise ValueError(
            f"--ask {options.ask}; expected one of the folders {collection.classes}"
        )
    return collection


def described(collection: Collection) -> str:
    """What was understood, in words."""
    n, height, width = collection.tiles.shape[:3]
    sizes = Counter(collection.family.tolist())
    words = (
        f"{n} sprites of {width}x{height} pixels in {len(collection.palette)} colours; "
        f"{n - len(sizes)} are relatives of others; {collection.held.sum()} held out"
    )
    if collection.classes:
        words += f"; folders: {', '.join(collection.classes)}"
    if n < 100:
        words += "\nfew sprites: expect copies; a few hundred are better"
    return words


def fingerprint(collection: Collection) -> str:
    """SHA-256 of the sprites, and of their labels: others need another folder."""
    content = hashlib.sha256(collection.tiles.tobytes())
    if collection.classes:
        content.update(json.dumps(collection.labels).encode())
    return content.hexdigest()


def earlier_report(out: Path, collection: Collection) -> dict:
    """The report of an earlier run in the same folder, or the beginning of one.

    Raises ValueError if that run had other sprites or labels, and for a folder in which
    something else would be overwritten, such as the sheet that is read.
    """
    file = out / "report.json"
    others = [name for name in WRITTEN if (out / name).exists()]
    if others and not file.exists():
        raise ValueError(
            f"{out} holds {others[0]} and no report.json: it is not from this program, "
            "and would be overwritten; give another --out"
        )
    own = fingerprint(collection)
    n, height, width = collection.tiles.shape[:3]
    new = {
        "sprites": {
            "sha256": own,
            "n": n,
            "width": width,
            "height": height,
            "colours": len(collection.palette),
            "families": len(np.unique(collection.family)),
            "held_out": int(collection.held.sum()),
            "folders": collection.classes,
        },
        "runs": [],
    }
    report = stored(file, new)
    if report.get("sprites", {}).get("sha256") != own:
        raise ValueError(
            f"{out} was made from other sprites, or from other folders of them; give "
            "another --out, or remove it"
        )
    return report


def earlier_network(out: Path, collection: Collection, report: dict) -> du.SpriteUnet:
    """The network of an earlier run, or the one that a first run starts from."""
    weights = out / "weights.pth"
    if not weights.exists():
        return first_network(collection)
    network = du.load_weights(new_network(collection, None), weights)
    minutes = sum(run["minutes"] for run in report["runs"])
    print(f"going on from {weights}, after {minutes:.1f} minutes")
    return network


def trained(network, collection, options, report: dict) -> nn.Module:
    """The network after `--minutes`, with the lowest held-out loss of its looks.

    At each look it writes progress.png, weights.pth and report.json.
    """
    out = options.out
    before = held_out_loss(network, collection)
    row = {"minutes": 0.0, "steps": 0, "before": before, "looks": []}
    best = deepcopy(network).eval()
    seed = options.seed + len(report["runs"])
    report["runs"].append(row)
    looks = ()
    if options.minutes:
        looks = train(network, collection, options.minutes * 60, seed=seed)
    try:
        for look in looks:
            row["minutes"] = round(look.seconds / 60, 3)
            row["steps"] = look.step
            row["looks"].append([look.step, look.training, look.held_out])
            if look.best and (before is None or not look.held_out > before):
                best = deepcopy(look.network)
                du.save_weights(best, out / "weights.pth", half=False)
            samples = drawn(best, collection, options, 16, trials=8)
            shown = on_checkerboard(samples)
            save_picture(du.show_images(shown, 8, 4), out / "progress.png")
            write_json(out / "report.json", report)
            print(told(look), flush=True)
    except KeyboardInterrupt:
        print("stopped early; drawing with the best weights so far")
    if not (out / "weights.pth").exists():
        du.save_weights(best, out / "weights.pth", half=False)
    return best


def drawn(network, collection, options, n: int, *, trials: int = 16, ask=None):
    """n tiles, with the options' seed and steps, and the doubt that suits the network.

    trials: tiles that are drawn to find that doubt.
    """
    doubt = best_doubt(network, collection, n=trials, steps=options.steps)
    return draw(
        network,
        collection,
        n,
        seed=options.seed,
        ask=ask,
        steps=options.steps,
        doubt=doubt,
    )


def in_numbers(choice: Choice, collection: Collection) -> dict:
    """What became of the drawn tiles, for the report."""
    times = still_noise(choice.strangeness, collection)
    chosen = choice.strangeness[choice.order]
    return {
        "drawn": len(choice.strangeness),
        "copies": len(choice.copies),
        "chosen": len(choice.order),
        "strangeness": [round(float(score), 4) for score in chosen],
        "times_as_strange_as_yours": None if times is None else round(times, 3),
    }


def told(look: Look) -> str:
    held_out = "" if look.held_out is None else f", held out {look.held_out:.4f}"
    return (
        f"{look.seconds / 60:.1f} min, {look.step} steps: loss {look.training:.4f}"
        f"{held_out}"
    )


def tell(report: dict, out: Path) -> None:
    """What the user should know at the end."""
    samples = report["samples"]
    print(
        f"{samples['drawn']} drawn, {samples['copies']} left out as copies, the best "
        f"{samples['chosen']} are in {out / 'sheet.png'}"
    )
    times = samples["times_as_strange_as_yours"]
    if times is not None and times > NOISE:
        print(
            f"your samples are still noise: {times:.1f} times as strange as held-out "
            "sprites of yours; run the same command again to go on training"
        )


if __name__ == "__main__":
    main()
