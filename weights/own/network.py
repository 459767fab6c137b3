"""The course's strong network, rebuilt for a collection's colours and labels."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import diffusion_utilities as du
from own.collection import Collection
from own.colours import TRANSPARENT, with_transparency

SCHEDULE = du.NoiseSchedule.linear()
SHIPPED = du.WEIGHTS / "sprite_unet_trained.pth"


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


def take_over(network: du.SpriteUnet, old: dict[str, Tensor]) -> None:
    """Put the course's weights into a network for other colours, in place."""
    state = network.state_dict()
    old = {name: value.float() for name, value in old.items()}
    nearest = torch.cdist(network.palette[:, :3], old["palette"]).argmin(1)
    counts = torch.bincount(nearest, minlength=len(old["palette"]))
    for name, value in state.items():
        if name != "palette" and name in old and old[name].shape == value.shape:
            state[name] = old[name]
    state["stem.weight"][:, :3] = old["stem.weight"]
    state["stem.weight"][:, 3:] = 0
    state["out.weight"] = old["out.weight"][nearest]
    # colours that share a score share its probability; of white, the course's
    # background, transparent takes nearly all
    log_share = -counts[nearest].float().log()
    is_clear = network.palette[:, 3] == -1
    if is_clear.any():
        white = nearest == nearest[is_clear][0]
        log_share = torch.where(white & ~is_clear, log_share - 4, log_share)
        log_share = torch.where(is_clear, torch.zeros(()), log_share)
    state["out.bias"] = old["out.bias"][nearest] + log_share
    network.load_state_dict(state)


def to_numbers(tiles: np.ndarray) -> Tensor:
    """Tiles (N, H, W, 4) uint8 as (N, 4, H', W') from -1 to 1.

    H' and W' are the next multiples of 4; what is added is transparent.
    """
    height, width = tiles.shape[1:3]
    padded = np.empty((len(tiles), *network_sides(height, width), 4), np.uint8)
    padded[:] = TRANSPARENT
    padded[:, :height, :width] = tiles
    return torch.from_numpy(padded).permute(0, 3, 1, 2) / 127.5 - 1


def to_tiles(x: Tensor) -> np.ndarray:
    """(N, 4, H, W) from -1 to 1 as (N, H, W, 4) uint8."""
    numbers = (x.clamp(-1, 1) + 1) * 127.5
    tiles = numbers.round().to(torch.uint8).permute(0, 2, 3, 1)
    return np.ascontiguousarray(tiles.cpu().numpy())


def network_sides(height: int, width: int) -> tuple[int, int]:
    """The next multiples of 4: the network halves its pictures twice."""
    return height + -height % 4, width + -width % 4


def colours_to_numbers(palette: np.ndarray) -> Tensor:
    return torch.from_numpy(palette) / 127.5 - 1
