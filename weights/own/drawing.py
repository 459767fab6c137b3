"""Drawing new tiles."""

import numpy as np
import torch
from torch import Generator

import diffusion_utilities as du
from own.collection import Collection
from own.colours import in_colours, premultiplied
from own.network import SCHEDULE, network_sides, to_tiles

DRAWING_STEPS = 30
AT_ONCE = 64  # tiles that are drawn together
GUIDANCE = 2.0  # where a label is asked for
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
    sides = network_sides(height, width)
    model = network
    context = None
    if ask is not None:
        model = du.guided(network, GUIDANCE)
        context = asked(ask, collection.classes)
    sampled_steps = du.straight_steps(SCHEDULE, steps)
    generator = Generator().manual_seed(seed)
    network.doubt = doubt
    drawn = []
    for first in range(0, n, AT_ONCE):
        size = min(AT_ONCE, n - first)
        rows = None if context is None else context.expand(size, -1)
        x, _ = du.sample_ddpm(
            model,
            SCHEDULE,
            shape=(size, 4, *sides),
            context=rows,
            steps=sampled_steps,
            generator=generator,
            variance="beta_tilde",
            keep=0,
        )
        drawn.append(to_tiles(x)[:, :height, :width])
    return in_colours(np.concatenate(drawn), collection.palette)


def asked(label: str, classes: list[str]) -> torch.Tensor:
    """The context (1, classes) of a label. Raises ValueError for another one."""
    if label not in classes:
        raise ValueError(f"ask={label!r}; expected one of the folders {classes}")
    context = torch.zeros(1, len(classes))
    context[0, classes.index(label)] = 1
    return context


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
