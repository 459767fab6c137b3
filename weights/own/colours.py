"""The colours of sprites: few of them, and those of the collection."""

import numpy as np
import torch
from torch import Tensor

TRANSPARENT = (255, 255, 255, 0)
MOST_COLOURS = 64


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


def palette_of(tiles: np.ndarray, colours: np.ndarray | None) -> np.ndarray:
    """The palette (K, 4) of tiles (N, H, W, 4) that are limited to colours (L, 3).

    It has all the colours in their order; the transparent one comes last, if tiles need
    it. Without colours, or with more than MOST_COLOURS, `find_palette` finds it.
    """
    if colours is None or len(colours) > MOST_COLOURS:
        return find_palette(tiles)
    palette = as_opaque(colours)
    is_clear = tiles[..., 3] == 0
    return with_transparency(palette) if is_clear.any() else palette


def limited(tiles: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Tiles (N, H, W, 4) in the nearest of the colours (L, 3), opaque or transparent.

    What is more than half transparent becomes transparent.
    """
    opaque = tiles.copy()
    opaque[..., 3] = 255
    nearest = in_colours(opaque, as_opaque(colours))
    nearest[tiles[..., 3] < 128] = TRANSPARENT
    return nearest


def as_opaque(colours: np.ndarray) -> np.ndarray:
    """Colours (L, 3) as a palette (L, 4) with an alpha of 255."""
    return np.pad(colours, ((0, 0), (0, 1)), constant_values=255)


def with_transparency(palette: np.ndarray) -> np.ndarray:
    """The palette (K, 4), and the transparent colour if it is missing."""
    if (palette[:, 3] == 0).any():
        return palette
    return np.concatenate([palette, np.array([TRANSPARENT], np.uint8)])
