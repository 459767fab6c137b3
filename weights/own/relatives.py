"""Which sprites are relatives: copies that may be shifted, mirrored, recoloured."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from own.colours import TRANSPARENT, premultiplied

NEAR = 0.07  # RMS of the colours over the drawn pixels
NEAR_SHADES = 0.35  # of the shades, in standard deviations
AT_ONCE = 500  # tiles that are compared with all others, for the memory's sake


def related(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which tiles of a (N, H, W, 4) and b (M, H, W, 4) are relatives: (N, M) bool.

    Relatives have nearly equal colours, or nearly equal shades in other colours, or
    the same silhouette. Their drawings may be shifted or mirrored.

    Lesson 16.
    """
    theirs = Looks.of(b)
    rows = [np.zeros((0, len(b)), bool)]
    for first in range(0, len(a), AT_ONCE):
        some = a[first : first + AT_ONCE]
        as_they_are = related_looks(Looks.of(some), theirs)
        mirrored = related_looks(Looks.of(some[:, :, ::-1]), theirs)
        rows.append((as_they_are | mirrored).numpy())
    return np.concatenate(rows)


def families(tiles: np.ndarray) -> np.ndarray:
    """A number for each tile (N,), equal for relatives, also by way of a third.

    Lesson 16.
    """
    pairs = torch.from_numpy(related(tiles, tiles))
    pairs |= pairs.T.clone()
    pairs.fill_diagonal_(True)
    family = torch.arange(len(tiles))
    while True:  # each takes the smallest number among its relatives
        parts = [
            torch.where(some, family, len(family)).amin(1)
            for some in pairs.split(AT_ONCE)
        ]
        smallest = torch.cat(parts)
        if torch.equal(smallest, family):
            return family.numpy()
        family = smallest


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


def related_looks(a: Looks, b: Looks) -> Tensor:
    """Which of N and M looks are those of relatives as they stand: (N, M) bool."""
    area = torch.maximum(a.areas[:, None], b.areas)
    colours = torch.cdist(a.colours, b.colours) / (4 * area).sqrt()
    shades = torch.cdist(a.shades, b.shades) / area.sqrt()
    # the silhouette of a tile without transparency says nothing
    same = torch.cdist(a.masks, b.masks) < 0.5
    same &= area < a.masks.shape[1]
    return (colours < NEAR) | (shades < NEAR_SHADES) | same
