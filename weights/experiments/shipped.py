"""What several programs need of the shipped networks, and the sets of real sprites.

A program draws with `draw_batches(model, n, draw, seed=...)`, where `draw` is `ddpm`,
`ddim`, `multistep`, or a faulty sampler of faults.py: all are called alike. Scores of
what is drawn depend on the files in `RULER`, too.
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.colors
import numpy as np
import torch
from torch import Generator, Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import diffusion_utilities as du  # found two folders up

SCHEDULE = du.NoiseSchedule.linear()
SHAPE = (3, 16, 16)
BATCH = 250
# The sampler of the best samples without labels. Lesson 4.
RESTARTS = {"steps": du.restart_steps(), "variance": "beta_tilde", "clip": True}
SPRITE_FILES = (
    du.DATA / "sprites_16x16.npy",
    du.DATA / "sprite_labels_16x16.npy",
    du.DATA / "sprite_factors_16x16.csv",
)
# The files that every measure of samples depends on.
RULER = (*SPRITE_FILES, du.WEIGHTS / "features.pth")

# ---- Networks -----------------------------------------------------------------------


def weights_file(name: str) -> Path:
    """The file of shipped weights with this name, such as "model_31"."""
    return du.WEIGHTS / f"{name}.pth"


def shipped_network(name: str) -> torch.nn.Module:
    """A shipped ContextUnet, in eval mode; the helper has `sprite_network`.

    name: "model_0" to "model_31", "model_trained" or "context_model_trained".
    Raises FileNotFoundError for other names.
    """
    network = du.ContextUnet(3, 64, 5, 16)
    network = network.to(memory_format=torch.channels_last)
    return du.load_weights(network, weights_file(name))


def contexts(name: str, n: int) -> Tensor | None:
    """Each class in turn (n, 5) for a network trained with labels; else None."""
    if name.startswith("context"):
        return torch.eye(5)[torch.arange(n) % 5]
    return None


# ---- Drawing ------------------------------------------------------------------------


def ddpm(model: Callable, schedule: du.NoiseSchedule, **options) -> Tensor:
    """The pictures of `sample_ddpm`; options as there, such as `x_T` and `steps`."""
    pictures, _ = du.sample_ddpm(model, schedule, keep=0, **options)
    return pictures


def ddim(model: Callable, schedule: du.NoiseSchedule, **options) -> Tensor:
    """The pictures of `sample_ddim`; options as there."""
    pictures, _ = du.sample_ddim(model, schedule, keep=0, **options)
    return pictures


def multistep(model: Callable, schedule: du.NoiseSchedule, **options) -> Tensor:
    """The pictures of `sample_multistep`; options as there."""
    pictures, _ = du.sample_multistep(model, schedule, keep=0, **options)
    return pictures


def pure_noise(n: int, schedule: du.NoiseSchedule, generator: Generator) -> Tensor:
    """The usual starts of a sampler: x_T (n, 3, 16, 16), normal."""
    return torch.randn((n, *SHAPE), generator=generator)


def draw_batches(
    model: Callable,
    n: int,
    draw: Callable,
    *,
    seed: int,
    context: Tensor | None = None,
    start: Callable = pure_noise,
    **options,
) -> np.ndarray:
    """n pictures (n, 16, 16, 3) uint8, drawn in batches of BATCH.

    draw: `draw(model, schedule, x_T=, context=, generator=, **options)` -> pictures.
    seed: of the one generator that all starts and all noise come from.
    context: (n, n_cfeat) or None. start: (size, schedule, generator) -> x_T.
    """
    generator = Generator().manual_seed(seed)
    pictures = []
    for first in range(0, n, BATCH):
        size = min(BATCH, n - first)
        asked = None if context is None else context[first : first + size]
        x_T = start(size, SCHEDULE, generator)
        x = draw(
            model, SCHEDULE, x_T=x_T, context=asked, generator=generator, **options
        )
        pictures.append(du.to_pictures(x))
    return np.concatenate(pictures)


# ---- Real sprites -------------------------------------------------------------------


@functools.cache
def training_features() -> np.ndarray:
    """The features of all training sprites (N, 64), which FD compares with."""
    return du.sprite_features(du.load_sprites("train").images)


def blurred(images: np.ndarray) -> np.ndarray:
    """Pictures (N, H, W, 3) uint8, each pixel mixed with its eight neighbours.

    The weights are 1, 2, 1 both ways; the border is repeated.
    """
    frame = ((0, 0), (1, 1), (1, 1), (0, 0))
    padded = np.pad(images.astype(float), frame, mode="edge")
    left, middle, right = padded[:, :, :-2], padded[:, :, 1:-1], padded[:, :, 2:]
    columns = left + 2 * middle + right
    above, here, below = columns[:, :-2], columns[:, 1:-1], columns[:, 2:]
    total = above + 2 * here + below
    return (total / 16).round().astype(np.uint8)


def hue_shifted(images: np.ndarray, turn: float = 0.1) -> np.ndarray:
    """Pictures (N, H, W, 3) uint8 with every hue turned by part of the circle."""
    hsv = matplotlib.colors.rgb_to_hsv(images / 255)
    hsv[..., 0] = (hsv[..., 0] + turn) % 1
    rgb = matplotlib.colors.hsv_to_rgb(hsv)
    return (rgb * 255).round().astype(np.uint8)


def pixels_shuffled(images: np.ndarray, seed: int = 0) -> np.ndarray:
    """Pictures (N, 16, 16, 3) with their pixels in another order, the same for all."""
    order = np.random.default_rng(seed).permutation(256)
    shuffled = images.reshape(-1, 256, 3)[:, order]
    return shuffled.reshape(-1, 16, 16, 3)


def held_out_sprites(n: int, seed: int = 0) -> np.ndarray:
    """n different sprites of `test` in random order: (n, 16, 16, 3) uint8."""
    images = du.load_sprites("test").images
    order = np.random.default_rng(seed).permutation(len(images))
    return images[order[:n]]


def real_sets(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The floor, the ceiling, and real sprites spoilt in known ways.

    Returns {name: (n or a few less, 16, 16, 3) uint8}.
    """
    factory = du.sprite_factory()
    scoring = du.sprite_scoring()
    train = du.load_sprites("train").images
    every = held_out_sprites(len(du.load_sprites("test")), seed)
    specifications, _ = factory.decode(every)
    images = every[:n]
    fresh = factory.draw_specifications(n, seed)
    without_spells = [name for name in du.CLASS_NAMES if name != "spell"]
    no_spells = factory.draw_specifications(n, seed, without_spells)
    copies = np.random.default_rng(seed).permutation(len(train))[:n]
    few = np.arange(n) % (n // 20)
    swapped = scoring.near_misses(specifications, "part", seed)
    mixed = scoring.near_misses(specifications, "colour", seed)
    sets = {}
    sets["test (floor)"] = images
    sets["fresh legal (ceiling)"] = factory.render_many(fresh)
    sets["blur"] = blurred(images)
    sets["hue shift"] = hue_shifted(images)
    sets["swapped parts"] = swapped[:n]
    sets["mixed colours"] = mixed[:n]
    sets["copies of training"] = train[copies]
    sets["no spells"] = factory.render_many(no_spells)
    sets["few, repeated"] = every[few]
    sets["pixels shuffled"] = pixels_shuffled(images, seed)
    return sets
