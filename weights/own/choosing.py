"""Choosing among drawn tiles: familiar in their parts, new as a whole."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from own.collection import Collection
from own.colours import TRANSPARENT, premultiplied
from own.relatives import related

BEST = 64  # sprites on the sheet
NOISE = 1.3  # times as strange as held-out tiles; set by eye on two collections


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


def without_specks(tiles: np.ndarray) -> np.ndarray:
    """Tiles (N, H, W, 4) without specks: drawn pixels that have no drawn neighbour.

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


def still_noise(scores: np.ndarray, collection: Collection) -> float | None:
    """The mean strangeness of drawn tiles, as a multiple of that of held-out ones.

    scores: the strangeness of drawn tiles. None where nothing is held out. Above NOISE,
    samples are still noise.
    """
    if not collection.held.any():
        return None
    real = strangeness(collection.held_out[:200], collection.train)
    return float(np.mean(scores) / max(np.mean(real), 1e-6))
