"""The one helper module of the course: diffusion models from scratch, on two CPU cores.

The sections follow the lessons: the noise schedule, the networks, training and
sampling; then files, data and measuring; then pictures, animations and instruments.
Each docstring ends with the lesson that explains the function.

Pictures are tensors (N, channels, height, width) with values in [-1, 1] unless a
docstring says otherwise. Noise is counted in steps t, whole numbers from 1 (least
noise) to T (most); t = 0 is the clean picture. Networks are told the share t / T.

Papers, by arXiv number:
[Adam] Kingma & Ba 2014, 1412.6980.
[Attention] Vaswani et al. 2017, 1706.03762.
[CFG] Ho & Salimans 2022, 2207.12598.
[DDIM] Song et al. 2021, 2010.02502.
[DDPM] Ho et al. 2020, 2006.11239.
[DPM++] Lu et al. 2022, 2211.01095.
[EDM] Karras et al. 2022, 2206.00364.
[FID] Heusel et al. 2017, 1706.08500.
[iDDPM] Nichol & Dhariwal 2021, 2102.09672.
[Memo] Yoon et al. 2023, SPIGM workshop at ICML.
[Min-SNR] Hang et al. 2023, 2303.09556.
[Muon] Jordan et al. 2024, kellerjordan.github.io/posts/muon.
[Plaid] Gulrajani & Hashimoto 2023, 2305.18619.
[PNDM] Liu et al. 2022, 2202.09778.
[PR] Kynkaanniemi et al. 2019, 1904.06991.
[PRDC] Naeem et al. 2020, 2002.09797.
[Restart] Xu et al. 2023, 2306.14878.
[SD3] Esser et al. 2024, 2403.03206.
[U-Net] Ronneberger et al. 2015, 1505.04597.
"""

from __future__ import annotations

import ast
import base64
import csv
import functools
import hashlib
import html
import importlib
import inspect
import io
import math
import os
import random
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from timeit import timeit

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from matplotlib.animation import FuncAnimation, PillowWriter
from PIL import Image, ImageDraw, ImageFont
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.utils import make_grid, save_image
from tqdm import tqdm

__all__ = [
    # what `from diffusion_utilities import *` has always brought along
    "os",
    "np",
    "torch",
    "nn",
    "F",
    "plt",
    "make_grid",
    "save_image",
    "FuncAnimation",
    "PillowWriter",
    "Dataset",
    "DataLoader",
    "transforms",
    "Image",
    "Path",
    "tqdm",
    # set-up
    "COURSE",
    "DATA",
    "WEIGHTS",
    "set_up",
    "seed_everything",
    "default_device",
    "has_fast_bf16",
    # the noise schedule
    "NoiseSchedule",
    "perturb_input",
    "predict_x0",
    "posterior",
    "corrupt",
    # networks
    "ResidualConvBlock",
    "UnetDown",
    "UnetUp",
    "EmbedFC",
    "ContextUnet",
    "BasicUNet",
    "SpriteUnet",
    "straight_frequencies",
    "straight_share",
    "straight_steps",
    "count_parameters",
    # training
    "diffusion_loss",
    "drop_context",
    "average_weights",
    "Muon",
    "train_steps",
    "save_weights",
    "load_state",
    "load_weights",
    # sampling
    "sampling_steps",
    "restart_steps",
    "denoise_add_noise",
    "denoise_ddim",
    "walk",
    "sample_ddpm",
    "sample_ddim",
    "sample_multistep",
    "guided",
    "sprite_network",
    "draw",
    # data
    "CLASS_NAMES",
    "transform",
    "CustomDataset",
    "Sprites",
    "load_sprites",
    "load_digits",
    "load_sprite_pictures",
    "load_tiles",
    "on_white",
    "joined_to_the_edge",
    "to_model_range",
    "sprite_factory",
    "sprite_palette",
    "sprite_scoring",
    "sprite_captions",
    # measuring
    "denoising_losses",
    "nearest_pictures",
    "frechet_distance",
    "precision_recall_density_coverage",
    "memorised",
    "feature_network",
    "sprite_features",
    "sprite_scores",
    "sprite_report",
    # pictures, animations and instruments
    "unorm",
    "norm_all",
    "norm_torch",
    "gen_tst_context",
    "plot_grid",
    "plot_sample",
    "to_pictures",
    "show_images",
    "filmstrip",
    "SpriteAnimation",
    "animate",
    "compare_checkpoints",
    "show",
    "show_source",
    "unet_figure",
    "Instrument",
    "explore",
]


# ---- Set-up --------------------------------------------------------------------------

COURSE = Path(__file__).resolve().parent
DATA = COURSE / "data"
WEIGHTS = COURSE / "weights"

# Numbers below 1e-38 count as 0: a CPU is slow with them, and the small probabilities
# of a palette's colours have many.
torch.set_flush_denormal(True)


def seed_everything(seed: int) -> Generator:
    """Seed Python, NumPy and torch.

    Returns a CPU generator with that seed, for samplers. Noise is always drawn on the
    CPU, so that it is the same on every device.

    Raises ValueError for a seed that is no whole number from 0 to 2**32 - 1.

    Lesson 1.
    """
    if not _is_whole(seed) or not 0 <= seed < 2**32:
        raise ValueError(
            f"seed={_shown(seed)}; expected a whole number from 0 to 2**32 - 1"
        )
    seed = int(seed)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return Generator().manual_seed(seed)


def default_device() -> torch.device:
    """CUDA where there is a GPU, else Apple's MPS, else the CPU.

    Lesson 1.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


@functools.cache
def has_fast_bf16(device: torch.device | str = "cpu") -> bool:
    """Whether bfloat16 trains faster than float32 on this device.

    A CPU that lists bfloat16 may emulate it, so a convolution is timed in both number
    formats. That takes a second, once.

    Lesson 3.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu" or not _cpu_lists_bf16():
        return False
    bf16_seconds, float32_seconds = _convolution_seconds()
    return bf16_seconds < float32_seconds


def _cpu_lists_bf16() -> bool:
    """Whether Linux names bfloat16 among the CPU's features; elsewhere no."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return False
    features = cpuinfo.read_text(encoding="utf8")
    return "avx512_bf16" in features or "amx_bf16" in features


def _convolution_seconds(repeats: int = 6) -> tuple[float, float]:
    """The shortest times of a convolution, forwards and backwards: (bf16, float32).

    The two take turns, so that other work on the machine slows both.
    """
    # Ones: drawing random numbers here would change the numbers that others draw.
    weight = torch.ones(64, 64, 3, 3, requires_grad=True)
    pictures = torch.ones(50, 64, 16, 16).to(memory_format=torch.channels_last)
    pictures.requires_grad_()

    def step(bf16: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            torch.conv2d(pictures, weight, padding=1).sum().backward()

    bf16_times = []
    float32_times = []
    for _ in range(repeats):
        bf16_times.append(timeit(lambda: step(bf16=True), number=1))
        float32_times.append(timeit(lambda: step(bf16=False), number=1))
    return min(bf16_times), min(float32_times)


def set_up(seed: int = 0) -> torch.device:
    """Seed everything, set the style of figures, and return the device.

    The first cell of each lesson calls it.

    Lesson 1.
    """
    seed_everything(seed)
    _prepare_notebook()
    plt.rcParams["figure.figsize"] = (7, 3)
    plt.rcParams["figure.dpi"] = 100
    plt.rcParams["axes.spines.top"] = False
    plt.rcParams["axes.spines.right"] = False
    plt.rcParams["axes.grid"] = True
    plt.rcParams["grid.alpha"] = 0.3
    plt.rcParams["legend.frameon"] = False
    plt.rcParams["image.interpolation"] = "nearest"
    return default_device()


def _prepare_notebook() -> None:
    """In a notebook: show every figure below its cell, and save each picture once.

    A figure is shown by Jupyter's inline backend only, so it is chosen whatever the
    environment variable MPLBACKEND says. Pillow's second copy of each picture, a JPEG,
    would make a notebook twice as large.
    """
    if "IPython" not in sys.modules:
        return
    shell = sys.modules["IPython"].get_ipython()
    if hasattr(shell, "kernel"):
        shell.enable_matplotlib("inline")
    if shell:
        shell.display_formatter.formatters["image/jpeg"].enabled = False


# ---- Arguments -----------------------------------------------------------------------

# What many functions ask of their arguments. For a wrong one each of these raises
# ValueError, with a message that says what was given and what was expected.


def _shown(value) -> str:
    """A value as a message shows it: its kind and shape, or its text cut short."""
    shape = getattr(value, "shape", ())
    if len(shape):
        return f"{type(value).__name__} of {value.dtype}, shape {tuple(shape)}"
    text = repr(value)
    if len(text) > 60:
        return f"{type(value).__name__} {text[:60]!r}..."
    return text


def _is_whole(value) -> bool:
    """Whether it is a whole number: Python's, NumPy's or torch's, but no Boolean."""
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.item()
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _whole(name: str, value, least: int = 1) -> int:
    """The value as an int; it must be a whole number, `least` or more."""
    if not _is_whole(value) or value < least:
        raise ValueError(
            f"{name}={_shown(value)}; expected a whole number, {least} or more"
        )
    return int(value)


def _multiple(name: str, value, of: int, why: str) -> int:
    """The value as an int; it must be `of` times a whole number, 1 or more."""
    number = _whole(name, value, least=of)
    if number % of:
        raise ValueError(f"{name}={number}; expected a multiple of {of}, because {why}")
    return number


def _check_number(name: str, value, low: float = 0, high: float = 1) -> None:
    """The value must be a number from `low` to `high`."""
    is_number = isinstance(value, (int, float, np.number))
    if isinstance(value, Tensor):
        is_number = value.ndim == 0
    if not is_number or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(
            f"{name}={_shown(value)}; expected a number from {low} to {high}"
        )


def _check_flag(name: str, value) -> None:
    """The value must be True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name}={_shown(value)}; expected True or False")


def _check_generator(generator: Generator | None) -> None:
    """The generator must be None or one that draws on the CPU."""
    if generator is None:
        return
    is_generator = isinstance(generator, Generator)
    if not is_generator or generator.device.type != "cpu":
        raise ValueError(
            f"generator={_shown(generator)}; expected one on the CPU, such as "
            "torch.Generator().manual_seed(0)"
        )


def _is_list(value) -> bool:
    """Whether it is a list, a tuple, a set, a range, or an array of several numbers."""
    if isinstance(value, (str, bytes, Mapping)):
        return False
    return hasattr(value, "__iter__") and getattr(value, "ndim", 1) > 0


def _listed(values) -> list:
    """What a list holds; what is no list gives an empty one."""
    if not _is_list(values):
        return []
    if isinstance(values, (Tensor, np.ndarray)):
        return values.tolist()
    return list(values)


def _check_kind(name: str, value, kind: type, example: str) -> None:
    """The value must be of this kind."""
    if not isinstance(value, kind):
        raise ValueError(f"{name}: {_shown(value)} given; expected {example}")


def _check_schedule(schedule: NoiseSchedule) -> None:
    """The schedule must have the tables of a NoiseSchedule."""
    if not hasattr(schedule, "ab"):
        raise ValueError(
            f"schedule: {_shown(schedule)} given; expected a NoiseSchedule, such as "
            "NoiseSchedule.linear(500)"
        )


def _seeded(seed: int) -> Generator:
    """A CPU generator with this seed, a whole number."""
    if not _is_whole(seed):
        raise ValueError(f"seed={_shown(seed)}; expected a whole number")
    return Generator().manual_seed(int(seed))


def _tensor(name: str, value) -> Tensor:
    """A tensor of what is given: a tensor, an array, or a list of numbers or rows."""
    try:
        if isinstance(value, (list, tuple)) and len(value):
            value = torch.stack([torch.as_tensor(one) for one in value])
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"{name}: {_shown(value)} given; expected a tensor, an array or a list of "
            "numbers"
        ) from None


def _check_floats(name: str, x) -> None:
    """x must be a tensor of floats, as networks take and return them."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise ValueError(
            f"{name}: {_shown(x)} given; expected a tensor of floats. to_model_range "
            "makes one of uint8 pictures"
        )


def _check_finite(name: str, x: Tensor) -> None:
    if not x.isfinite().all():
        raise ValueError(f"{name}: NaN or infinity found; expected finite numbers")


def _check_batch(name: str, x) -> None:
    """x must be a tensor of floats (B, ...), B at least 1."""
    _check_floats(name, x)
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(
            f"{name} has no pictures: its shape is {tuple(x.shape)}; expected "
            "(B, C, H, W)"
        )


def _check_noise(name: str, noise, x: Tensor) -> None:
    """x must be floats; the noise must be, too, in the shape of x, or one number.

    It may also be one noise for all pictures, or many noises for one picture.
    """
    _check_floats("x", x)
    if not isinstance(noise, (int, float)):
        _check_floats(name, noise)
    shape = tuple(getattr(noise, "shape", ()))
    like = tuple(x.shape)
    first = max(len(shape) - len(like), 0)
    fits = shape == () or shape[first:] == like
    one_for_all = shape[1:] == like[1:] and 1 in shape[:1] + like[:1]
    if not fits and not one_for_all:
        raise ValueError(f"{name} has shape {shape}; expected that of x, {like}")


def _context(
    c, x: Tensor | None = None, n_cfeat: int | None = None, one_for_all: bool = False
) -> Tensor | None:
    """A context as a tensor (N, n_cfeat); None stays None.

    c: a tensor, an array or a list. x: the pictures, one for each row. n_cfeat: the
    length of a row. one_for_all: whether (1, n_cfeat) will do.
    """
    if c is None:
        return None
    c = _tensor("context", c)
    width = n_cfeat or "n_cfeat"
    if c.ndim < 2:  # class numbers
        rows = f"({c.numel()}, {width})"
        raise ValueError(
            f"context: {tuple(c.shape)} given; one-hot rows {rows} expected: "
            f"F.one_hot(labels, {n_cfeat or 10}).float()"
        )
    allowed = [len(c)] if x is None else [len(x)]
    if one_for_all:
        allowed.append(1)
    fits = c.ndim == 2 and n_cfeat in (None, c.shape[1])
    if len(c) not in allowed or not fits:
        advice = ". n_cfeat= is set when the network is built" if n_cfeat else ""
        raise ValueError(
            f"context has shape {tuple(c.shape)}; expected ({allowed[0]}, {width}), "
            f"one row for each picture{advice}"
        )
    return c


# ---- The noise schedule --------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """How much noise each of T steps adds: float64 tables (T + 1,), indexed by t.

    b[t]: beta_t, the variance that step t adds.
    a[t]: 1 - b[t].
    ab[t]: alpha-bar_t = a[1] a[2] ... a[t], the share of the picture's variance that
        is left after t steps.
    snr[t]: the signal-to-noise ratio ab[t] / (1 - ab[t]).
    T: the number of steps.

    b[0] = 0, so ab[0] = 1 and snr[0] is infinite: t = 0 is the clean picture, and the
    last step is exact. To change a schedule, build another one.

    Source: [DDPM] eq. 2 and 4.

    Lesson 2.
    """

    b: Tensor

    def __post_init__(self):
        b = self._checked(self.b)
        a = 1 - b
        ab = a.cumprod(0)
        if ab[-1] < 1e-70:
            raise ValueError(
                f"alpha-bar falls to {ab[-1]:.1e} at step T = {len(b) - 1}: float32 "
                "cannot hold its root. Give smaller betas (with the paper's, times "
                "1000 / T, it falls to 4e-5)"
            )
        self._set("T", len(b) - 1)
        self._set("b", b)
        self._set("a", a)
        self._set("ab", ab)
        self._set("snr", ab / (1 - ab))

    @staticmethod
    def _checked(b) -> Tensor:
        """A copy of the betas in float64, once they are fit for a schedule."""
        try:
            b = torch.as_tensor(b, dtype=torch.float64, device="cpu").detach().clone()
        except (TypeError, ValueError, RuntimeError):
            b = torch.zeros(0)  # no table of numbers
        is_table = b.ndim == 1 and len(b) >= 2 and b[0] == 0
        a = 1 - b  # 1 where float64 cannot tell b from 0
        if not is_table or not ((a[1:] > 0) & (a[1:] < 1)).all():
            raise ValueError(
                "b must be a vector (T + 1,) with b[0] = 0 and 0 < b[t] < 1 for "
                "t = 1..T; use NoiseSchedule.linear or .cosine, with betas between "
                "0 and 1"
            )
        return b

    def _set(self, name: str, value: Tensor | int) -> None:
        """Set an attribute once, although the dataclass is frozen."""
        object.__setattr__(self, name, value)

    @classmethod
    def linear(
        cls, T: int = 500, beta1: float = 1e-4, beta2: float = 0.02
    ) -> NoiseSchedule:
        """b[t] = beta1 + (beta2 - beta1) t / T, the schedule of the shipped weights.

        Source: [DDPM] section 4, where T = 1000.
        """
        T = _whole("T", T)
        _check_number("beta1", beta1)
        _check_number("beta2", beta2)
        b = torch.linspace(beta1, beta2, T + 1, dtype=torch.float64)
        b[0] = 0
        return cls(b)

    @classmethod
    def cosine(
        cls, T: int = 500, s: float = 0.008, max_beta: float = 0.999
    ) -> NoiseSchedule:
        """ab[t] proportional to cos^2((t/T + s) / (1 + s) * pi/2).

        b[t] = 1 - ab[t] / ab[t-1], but at most `max_beta`.

        Source: [iDDPM] eq. 17.
        """
        T = _whole("T", T)
        _check_number("s", s)
        _check_number("max_beta", max_beta)
        share = torch.arange(T + 1, dtype=torch.float64) / T
        f = torch.cos((share + s) / (1 + s) * torch.pi / 2) ** 2
        b = torch.zeros(T + 1, dtype=torch.float64)
        b[1:] = (1 - f[1:] / f[:-1]).clamp(max=max_beta)
        return cls(b)


def _at(table: Tensor, t: Tensor | int, like: Tensor) -> Tensor:
    """table[t] in the dtype and on the device of `like`, ready to multiply it.

    For t of shape (B,) the result is (B, 1, ..., 1), with as many dimensions as `like`.
    """
    _check_floats("x", like)
    t = _tensor("t", t)
    _check_step_numbers(t, len(table) - 1, like)
    table = table.to(like.dtype).to(like.device)  # dtype first: MPS has no float64
    values = table[t.to(like.device)]
    if t.ndim == 0:
        return values
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _check_step_numbers(t: Tensor, T: int, x: Tensor) -> None:
    """t must be steps from 0 to T: one number, or one for each picture in x."""
    is_whole = not t.is_floating_point() and not t.is_complex()
    if not is_whole or t.dtype == torch.bool:
        raise ValueError(
            f"t={_shown(t)}; expected steps, whole numbers from 0 to T = {T} (only "
            "networks are told t / T)"
        )
    if t.numel():
        first = int(t.min())
        last = int(t.max())
        if first < 0 or last > T:
            raise ValueError(f"t runs from {first} to {last}; expected 0 to T = {T}")
    pictures = len(x) if x.ndim else 1
    if t.numel() != 1 and pictures not in (1, t.numel()):
        raise ValueError(
            f"t has shape {tuple(t.shape)} for {pictures} pictures; expected one step, "
            f"or ({pictures},)"
        )


def perturb_input(
    x: Tensor, t: Tensor | int, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """Jump from the clean picture to step t: x_t = sqrt(ab_t) x + sqrt(1 - ab_t) noise.

    x, noise: (B, C, H, W). t: (B,) or one number, from 0 to T. Returns (B, C, H, W).

    Raises ValueError for noise of another shape, and for t that is no step.

    Source: [DDPM] eq. 4.

    Lesson 2.
    """
    _check_schedule(schedule)
    _check_noise("noise", noise, x)
    signal = _at(schedule.ab.sqrt(), t, x)
    spread = _at((1 - schedule.ab).sqrt(), t, x)
    return signal * x + spread * noise


def predict_x0(
    x: Tensor, t: Tensor | int, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The clean picture that x_t and this noise imply: `perturb_input` solved for x_0.

    x, noise: (B, C, H, W). t: (B,) or one number, from 0 to T. Returns (B, C, H, W).

    Raises ValueError as `perturb_input` does.

    Source: [DDPM] eq. 15.

    Lesson 2.
    """
    _check_schedule(schedule)
    _check_noise("noise", noise, x)
    signal = _at(schedule.ab.sqrt(), t, x)
    spread = _at((1 - schedule.ab).sqrt(), t, x)
    return (x - spread * noise) / signal


def posterior(
    t: int, schedule: NoiseSchedule, *, t_prev: int | None = None
) -> tuple[float, float, float]:
    """q(x_prev | x_t, x_0) is normal, with mean c0 x_0 + ct x_t.

    t_prev: the step to go to, t - 1 unless you say otherwise. A longer stride is one
        step with a = ab_t / ab_prev.

    Returns (c0, ct, variance). The variance is called beta-tilde. Raises ValueError
    unless 0 <= t_prev < t <= T.

    Source: [DDPM] eq. 6 and 7.

    Lesson 2.
    """
    _check_schedule(schedule)
    if t_prev is None and _is_whole(t):
        t_prev = t - 1
    are_whole = _is_whole(t) and _is_whole(t_prev)
    if not are_whole or not 0 <= t_prev < t <= schedule.T:
        raise ValueError(
            f"t={_shown(t)}, t_prev={_shown(t_prev)}; expected whole numbers, "
            f"0 <= t_prev < t <= T = {schedule.T}"
        )
    ab = float(schedule.ab[t])
    ab_prev = float(schedule.ab[t_prev])
    a = ab / ab_prev
    c0 = ab_prev**0.5 * (1 - a) / (1 - ab)
    ct = a**0.5 * (1 - ab_prev) / (1 - ab)
    variance = (1 - a) * (1 - ab_prev) / (1 - ab)
    return c0, ct, variance


def corrupt(x: Tensor, amount: Tensor, generator: Generator | None = None) -> Tensor:
    """(1 - amount) x + amount * noise, where the noise is uniform on [0, 1].

    x: (B, C, H, W) in [0, 1]. amount: (B,) in [0, 1], or one number. Returns
    (B, C, H, W). Raises ValueError for others.

    Lesson 1.
    """
    amount = _tensor("amount", amount)
    _check_corruption(x, amount, generator)
    noise = torch.rand(x.shape, generator=generator).to(x)
    amount = amount.to(x).view(-1, 1, 1, 1)
    return x * (1 - amount) + noise * amount


def _check_corruption(x: Tensor, amount: Tensor, generator: Generator | None) -> None:
    """Raise ValueError for wrong arguments of `corrupt`."""
    _check_floats("x", x)
    _check_generator(generator)
    if x.ndim != 4 or amount.numel() not in (1, len(x)):
        raise ValueError(
            f"x has shape {tuple(x.shape)} and amount {tuple(amount.shape)}; expected "
            "(B, C, H, W) and (B,)"
        )
    if not ((amount >= 0) & (amount <= 1)).all():
        raise ValueError(f"amount={_shown(amount)}; expected numbers from 0 to 1")


# ---- Networks ------------------------------------------------------------------------


class ResidualConvBlock(nn.Module):
    """Two 3x3 convolutions, each with batch norm and GELU.

    x: (B, in_channels, H, W). Returns (B, out_channels, H, W).

    With `is_res` the output is (shortcut + second convolution) / sqrt(2). The shortcut
    is the input, or where the channel counts differ the first convolution's output: it
    has no parameters, so the state dict keeps its keys.

    Lesson 3.
    """

    def __init__(
        self, in_channels: int, out_channels: int, is_res: bool = False
    ) -> None:
        super().__init__()
        self.same_channels = in_channels == out_channels
        self.is_res = is_res
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.GELU(),
        )
        self.conv2 = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.GELU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.conv1(x)
        x2 = self.conv2(x1)
        if not self.is_res:
            return x2
        shortcut = x if self.same_channels else x1
        return (shortcut + x2) / 2**0.5


class UnetDown(nn.Module):
    """Two convolution blocks and a 2x2 max pooling.

    x: (B, in_channels, H, W). Returns (B, out_channels, H/2, W/2).

    Lesson 3.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            ResidualConvBlock(in_channels, out_channels),  # (B, out_channels, H, W)
            ResidualConvBlock(out_channels, out_channels),  # (B, out_channels, H, W)
            nn.MaxPool2d(2),  # (B, out_channels, H/2, W/2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class UnetUp(nn.Module):
    """Join with the skip connection, double height and width, two convolution blocks.

    x, skip: (B, C, H, W) and (B, C', H, W), with C + C' = in_channels.
    Returns (B, out_channels, 2H, 2W).

    Lesson 3.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.ConvTranspose2d(in_channels, out_channels, 2, 2),  # (B, out, 2H, 2W)
            ResidualConvBlock(out_channels, out_channels),  # (B, out, 2H, 2W)
            ResidualConvBlock(out_channels, out_channels),  # (B, out, 2H, 2W)
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        joined = torch.cat((x, skip), 1)
        return self.model(joined)


class EmbedFC(nn.Module):
    """A two-layer network that embeds a time or a context.

    x: anything that reshapes to (rows, input_dim). Returns (rows, emb_dim).

    Lesson 3.
    """

    def __init__(self, input_dim: int, emb_dim: int) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.model = nn.Sequential(
            nn.Linear(input_dim, emb_dim),  # (rows, emb_dim)
            nn.GELU(),
            nn.Linear(emb_dim, emb_dim),  # (rows, emb_dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.input_dim)
        return self.model(rows)


def _context_or_zeros(c: Tensor | None, x: Tensor, n_cfeat: int) -> Tensor:
    """The context as the network wants it: (B, n_cfeat), or (1, n_cfeat) for all.

    None becomes zeros.
    """
    if c is None:
        return x.new_zeros(len(x), n_cfeat)
    return _context(c, x, n_cfeat, one_for_all=True).to(x)


def _check_pictures(x: Tensor, weight: Tensor) -> None:
    """x must be floats, and of float64 only if the network's weights are."""
    _check_floats("x", x)
    if x.dtype == torch.float64 and weight.dtype != x.dtype:
        raise ValueError(
            f"x is {x.dtype} and the network {weight.dtype}; expected the same, as "
            "x.float() makes it"
        )


def _check_time(t: Tensor, x: Tensor, last: float = 1) -> None:
    """t must be t / T: from 0 to `last`, one number or one for each picture in x.

    Floats on a GPU are not looked at, as that would wait for the GPU at each call; and
    nothing is looked at while the network is compiled or traced.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    t = _tensor("t", t).detach()
    if t.numel() not in (1, len(x)):
        raise ValueError(
            f"t has shape {tuple(t.shape)} for {len(x)} pictures; expected "
            f"t = step / T, one number or ({len(x)},)"
        )
    if t.numel() == 0 or (t.is_floating_point() and t.device.type != "cpu"):
        return
    lowest = float(t.min())
    highest = float(t.max())
    if not 0 <= lowest <= highest <= last:
        raise ValueError(
            f"t runs from {lowest:g} to {highest:g}; expected t = step / T, from 0 to 1"
        )


class ContextUnet(nn.Module):
    """The course's network: predicts the noise in x_t, given t / T and a context.

    in_channels: of the pictures, 3 for colour or 1 for grey.
    n_feat: how many channels the full resolution has, a multiple of 8.
    n_cfeat: the length of a context.
    height: of the pictures, which are square; from 8 to 64, a multiple of 4.

    At two resolutions the activations are multiplied by the embedded context, and the
    embedded time is added. Only `init_conv` is residual, as in the published code. The
    layers keep their published names, so that published weights load strictly.

    Raises ValueError for sizes that do not work, and for other pictures, times and
    contexts than the network was built for.

    Source: T. Pearce, github.com/TeaPearce/Conditional_Diffusion_MNIST, `script.py`.

    Lesson 3.
    """

    # The largest t that `forward` takes; lessons raise it to show what goes wrong then.
    last_time = 1.0

    def __init__(
        self, in_channels: int, n_feat: int = 256, n_cfeat: int = 10, height: int = 28
    ) -> None:
        super().__init__()
        in_channels = _whole("in_channels", in_channels)
        n_cfeat = _whole("n_cfeat", n_cfeat)
        n_feat = _multiple("n_feat", n_feat, 8, "the group norms have 8 groups")
        if not _is_whole(height) or height % 4 or not 8 <= height <= 64:
            raise ValueError(
                f"height={height}; expected one number, as the pictures are square: a "
                "multiple of 4 from 8 to 64 (28 for digits, 16 for sprites)"
            )
        height = int(height)
        self.in_channels = in_channels
        self.n_feat = n_feat
        self.n_cfeat = n_cfeat
        self.h = height
        wide = 2 * n_feat  # the channels at h/4
        low = height // 4  # h/4 itself, in pixels

        # Down. The comments give channels x height of each output; h is `height`.
        # init_conv: n_feat x h
        self.init_conv = ResidualConvBlock(in_channels, n_feat, is_res=True)
        self.down1 = UnetDown(n_feat, n_feat)  # n_feat x h/2
        self.down2 = UnetDown(n_feat, wide)  # wide x h/4
        self.to_vec = nn.Sequential(
            nn.AvgPool2d(low),  # wide x 1
            nn.GELU(),
        )

        # Embeddings of time and context, for the channels at h/4 and at h/2.
        self.timeembed1 = EmbedFC(1, wide)  # wide
        self.timeembed2 = EmbedFC(1, n_feat)  # n_feat
        self.contextembed1 = EmbedFC(n_cfeat, wide)  # wide
        self.contextembed2 = EmbedFC(n_cfeat, n_feat)  # n_feat

        # Up. Each input is the activation from below and its skip connection, joined.
        self.up0 = nn.Sequential(
            nn.ConvTranspose2d(wide, wide, low, low),  # wide x h/4
            nn.GroupNorm(8, wide),
            nn.ReLU(),
        )
        self.up1 = UnetUp(wide + wide, n_feat)  # n_feat x h/2
        self.up2 = UnetUp(n_feat + n_feat, n_feat)  # n_feat x h
        self.out = nn.Sequential(
            nn.Conv2d(n_feat + n_feat, n_feat, 3, padding=1),  # n_feat x h
            nn.GroupNorm(8, n_feat),
            nn.ReLU(),
            nn.Conv2d(n_feat, in_channels, 3, padding=1),  # in_channels x h
        )

    def forward(self, x: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        """Predict the noise in x.

        x: (B, in_channels, height, height).
        t: step / T in [0, 1], as (B,), (B, 1, 1, 1) or one number.
        c: (B, n_cfeat), (1, n_cfeat) for all pictures, or None for zeros.

        Returns the noise, in the shape of x.
        """
        _check_pictures(x, self.out[0].weight)
        if x.shape[1:] != (self.in_channels, self.h, self.h):
            raise ValueError(
                f"x has shape {tuple(x.shape)}; expected square pictures "
                f"(B, {self.in_channels}, {self.h}, {self.h}), as the network was "
                f"built: in_channels={self.in_channels}, height={self.h}"
            )
        _check_time(t, x, self.last_time)
        t = torch.as_tensor(t, dtype=x.dtype, device=x.device)
        c = _context_or_zeros(c, x, self.n_cfeat)
        time1 = self.timeembed1(t)[..., None, None]
        time2 = self.timeembed2(t)[..., None, None]
        context1 = self.contextembed1(c)[..., None, None]
        context2 = self.contextembed2(c)[..., None, None]

        full = self.init_conv(x)
        half = self.down1(full)
        quarter = self.down2(half)
        vector = self.to_vec(quarter)

        up = self.up0(vector)
        up = self.up1(context1 * up + time1, quarter)
        up = self.up2(context2 * up + time2, half)
        return self.out(torch.cat((up, full), 1))


class BasicUNet(nn.Module):
    """A small U-Net that is not told the time.

    x: (B, in_channels, H, W), where H and W are multiples of 4.
    Returns (B, out_channels, H, W). Raises ValueError for other pictures.

    The last SiLU bounds the output from below, at -0.28. That suits pictures in [0, 1],
    but not noise.

    Lesson 1.
    """

    def __init__(self, in_channels: int = 1, out_channels: int = 1) -> None:
        super().__init__()
        # The comments give channels x height of each output.
        self.down_layers = nn.ModuleList(
            [
                nn.Conv2d(in_channels, 32, 5, padding=2),  # 32 x H
                nn.Conv2d(32, 64, 5, padding=2),  # 64 x H/2
                nn.Conv2d(64, 64, 5, padding=2),  # 64 x H/4
            ]
        )
        self.up_layers = nn.ModuleList(
            [
                nn.Conv2d(64, 64, 5, padding=2),  # 64 x H/4
                nn.Conv2d(64, 32, 5, padding=2),  # 32 x H/2
                nn.Conv2d(32, out_channels, 5, padding=2),  # out_channels x H
            ]
        )
        self.act = nn.SiLU()
        self.downscale = nn.MaxPool2d(2)
        self.upscale = nn.Upsample(scale_factor=2)

    def forward(self, x: Tensor) -> Tensor:
        self._check_size(x)
        full = self.act(self.down_layers[0](x))
        half = self.act(self.down_layers[1](self.downscale(full)))
        quarter = self.act(self.down_layers[2](self.downscale(half)))

        up = self.act(self.up_layers[0](quarter))
        up = self.act(self.up_layers[1](self.upscale(up) + half))
        return self.act(self.up_layers[2](self.upscale(up) + full))

    def _check_size(self, x: Tensor) -> None:
        _check_pictures(x, self.down_layers[0].weight)
        channels = self.down_layers[0].in_channels
        *_, height, width = x.shape
        if x.ndim != 4 or x.shape[1] != channels or height % 4 or width % 4:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; expected (B, {channels}, H, W), where "
                "H and W are multiples of 4"
            )


class Attention(nn.Module):
    """Multi-head attention: each place gathers information from a source.

    The source is the places themselves, or the words of a caption.

    x: (B, N, width), the places. source: (B, M, source_width). Returns (B, N, width).

    Keys and values have no bias, so a row of zeros in the source contributes nothing.
    Padding is such a row.

    Source: [Attention] section 3.2.

    Lesson 8.
    """

    def __init__(self, width: int, source_width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(source_width, width, bias=False)
        self.value = nn.Linear(source_width, width, bias=False)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        query = self._split(self.query(x))  # (B, heads, N, width / heads)
        key = self._split(self.key(source))  # (B, heads, M, width / heads)
        value = self._split(self.value(source))  # (B, heads, M, width / heads)
        read = F.scaled_dot_product_attention(query, key, value)
        return self.out(read.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """One row for each head: (B, N, width) becomes (B, heads, N, width / heads)."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class ReaderBlock(nn.Module):
    """A transformer block: self-attention, then a perceptron for each word.

    x: (B, M, width). is_word: (B, M, 1), 1 for a word and 0 for padding.
    Returns (B, M, width).

    Lesson 8.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 3 * width),  # (B, M, 3 * width)
            nn.GELU(),
            nn.Linear(3 * width, width),  # (B, M, width)
        )

    def forward(self, x: Tensor, is_word: Tensor) -> Tensor:
        seen = self.norm1(x) * is_word
        x = x + self.attention(seen, seen)
        return x + self.perceptron(self.norm2(x))


class Reader(nn.Module):
    """A small transformer that reads captions.

    numbers: (B, max_words), the numbers of words; 0 where there is none.
    Returns (B, max_words, width), with zeros where there is no word.

    Lesson 8.
    """

    def __init__(
        self, n_words: int, max_words: int = 40, width: int = 96, depth: int = 2
    ) -> None:
        super().__init__()
        self.word = nn.Embedding(n_words, width)
        self.position = nn.Parameter(torch.randn(max_words, width) / 10)
        self.blocks = nn.ModuleList(ReaderBlock(width) for _ in range(depth))

    def forward(self, numbers: Tensor) -> Tensor:
        is_word = (numbers > 0)[..., None].to(self.position)  # (B, max_words, 1)
        x = self.word(numbers) + self.position  # (B, max_words, width)
        for block in self.blocks:
            x = block(x, is_word)
        return x * is_word


class ConditionedBlock(nn.Module):
    """A residual block of two 3x3 convolutions, conditioned on time and context.

    The condition scales and shifts the activations between the convolutions. The second
    convolution starts at zero, so an untrained block is its shortcut.

    x: (B, in_channels, H, W). condition: (B, width), from the time and the context.
    Returns (B, out_channels, H, W).

    Lesson 8.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int) -> None:
        super().__init__()
        # The comments give channels x height of each output.
        self.norm1 = nn.GroupNorm(8, in_channels)  # in_channels x H
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)  # out x H
        self.modulate = nn.Linear(width, 2 * out_channels)  # scale and shift
        self.norm2 = nn.GroupNorm(8, out_channels)  # out x H
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)  # out x H
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)  # out x H
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulate(condition)[..., None, None].chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.norm2(h) * (1 + scale) + shift
        h = self.conv2(F.silu(h))
        return self.shortcut(x) + h


class AttentionBlock(nn.Module):
    """Self-attention between the places of a picture, then cross-attention to words.

    x: (B, channels, H, W). words: (B, M, width). Returns (B, channels, H, W).

    Lesson 8.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.places = Attention(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.words = Attention(channels, width)

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        places = x.flatten(2).transpose(1, 2)  # (B, H W, channels)
        seen = self.norm1(places)
        places = places + self.places(seen, seen)
        places = places + self.words(self.norm2(places), words)
        return places.transpose(1, 2).unflatten(2, x.shape[2:])


class SpriteUnet(nn.Module):
    """The strong network: it draws anything, a class, some factors, or a caption.

    A U-Net of residual blocks, with attention at two of its three resolutions. Inside,
    it names the colour of each pixel out of a palette, and so predicts the clean
    picture. From outside, it is used as a `ContextUnet`: it takes x_t, t / T and a
    context, and returns the noise.

    schedule: gives alpha-bar; samplers must use the same one.
    palette: the colours that pictures consist of, (K, in_channels) from -1 to 1;
        `sprite_palette()` for the course's sprites.
    n_cfeat: the length of a context row.
    n_words, max_words: of the vocabulary, and of a caption.
    channels: how many at each resolution, multiples of 8.
    width, reader_width: of the condition of the blocks, and of a word.
    doubt: added to the variance of the noise before a pixel counts as evidence. The
        network trains with almost none. With 1 it draws better: it can then correct a
        pixel that an earlier step got wrong.

    Raises ValueError for a palette or sizes that do not work, and for other pictures,
    times and contexts than the network was built for.

    Sources: [EDM] section 5 for the clean picture, [Plaid], output prior, for the
    evidence of a pixel, [SD3] section 3.1 for the loss.

    Lesson 8.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        palette: Tensor,
        *,
        n_cfeat: int = 175,
        n_words: int = 217,
        max_words: int = 40,
        channels: Sequence[int] = (48, 96, 128),
        width: int = 128,
        reader_width: int = 96,
        doubt: float = 0.002,
    ) -> None:
        super().__init__()
        _check_schedule(schedule)
        _check_number("doubt", doubt, low=0.001, high=1000)
        palette = _checked_palette(palette)
        full, half, quarter = _three_channels(channels)
        width = _whole("width", width)
        heads = "attention has 4 heads"
        reader_width = _multiple("reader_width", reader_width, 4, heads)
        n_words = _whole("n_words", n_words)
        self.n_cfeat = _whole("n_cfeat", n_cfeat)
        self.max_words = _whole("max_words", max_words)
        if n_cfeat == max_words:
            raise ValueError(
                f"n_cfeat and max_words are both {n_cfeat}; expected two numbers, as "
                "the length of a context tells a row from a caption"
            )
        self.doubt = doubt
        colours, self.in_channels = palette.shape
        self.register_buffer("palette", palette)
        waves = 2.0 ** torch.linspace(-2, 4, 16)
        self.register_buffer("ab", schedule.ab.float(), persistent=False)
        self.register_buffer("waves", waves, persistent=False)

        # The condition of the blocks: the time, and what to draw.
        self.time = EmbedFC(2 * len(waves), width)
        self.columns = nn.Linear(n_cfeat, reader_width, bias=False)
        self.reader = Reader(n_words, max_words, reader_width)
        self.asked = nn.Linear(reader_width, width)

        # Down and up. The comments give channels x height of each output.
        self.stem = nn.Conv2d(self.in_channels, full, 3, padding=1)  # full x h
        self.down1 = ConditionedBlock(full, full, width)  # full x h
        self.down2 = ConditionedBlock(full, half, width)  # half x h/2
        self.look1 = AttentionBlock(half, reader_width)  # half x h/2
        self.down3 = ConditionedBlock(half, quarter, width)  # quarter x h/4
        self.look2 = AttentionBlock(quarter, reader_width)  # quarter x h/4
        self.up3 = ConditionedBlock(2 * quarter, quarter, width)  # quarter x h/4
        self.up2 = ConditionedBlock(quarter + half, half, width)  # half x h/2
        self.look3 = AttentionBlock(half, reader_width)  # half x h/2
        self.up1 = ConditionedBlock(half + full, full, width)  # full x h
        self.norm = nn.GroupNorm(8, full)
        self.out = nn.Conv2d(full, colours, 1)  # colours x h
        nn.init.zeros_(self.out.weight)

    def read(self, context: Tensor) -> Tensor:
        """What a context says, as words: (B, M, reader_width).

        context: (B, max_words), numbers of words, which the reader reads; or
        (B, n_cfeat), a row. Its 16 largest columns become words, and the sum of all
        stands in the places that are left. A shorter row, such as that of a class
        alone, is filled up with zeros.
        """
        length = context.shape[1]
        if length == self.max_words:
            return self.reader(context.long())
        row = F.pad(context, (0, self.n_cfeat - length))
        values, columns = row.topk(min(16, self.n_cfeat))
        words = values[..., None] * self.columns.weight.T[columns]
        whole = self.columns(row)[:, None]
        return torch.where(values[..., None] == 0, whole, words)

    def picture(self, x: Tensor, ab: Tensor, words: Tensor) -> Tensor:
        """The clean picture behind x_t, (B, C, H, W).

        ab: alpha-bar of t, (B, 1). words: from `read`.
        """
        angles = torch.log(ab / (1 - ab)) * self.waves
        time = self.time(torch.cat((angles.sin(), angles.cos()), 1))
        count = (words != 0).any(2).sum(1, keepdim=True).clamp(min=1)
        condition = F.silu(time + self.asked(words.sum(1) / count))

        full = self.down1(self.stem(x), condition)
        half = self.down2(F.avg_pool2d(full, 2), condition)
        half = self.look1(half, words)
        quarter = self.down3(F.avg_pool2d(half, 2), condition)

        up = self.look2(quarter, words)
        up = self.up3(torch.cat((up, quarter), 1), condition)
        up = F.interpolate(up, scale_factor=2)
        up = self.up2(torch.cat((up, half), 1), condition)
        up = self.look3(up, words)
        up = F.interpolate(up, scale_factor=2)
        up = self.up1(torch.cat((up, full), 1), condition)
        scores = self.out(F.silu(self.norm(up)))
        return self.mixed(scores, x, ab)

    def mixed(self, scores: Tensor, x: Tensor, ab: Tensor) -> Tensor:
        """The mean of the colours that a pixel may have, (B, C, H, W).

        The network's scores (B, K, H, W) say which colours it expects at each place.
        Bayes' rule adds what the noisy pixel itself says: how likely its value is,
        if the colour behind it is this one, and the noise has the variance
        1 - ab + doubt.
        """
        ab = ab[..., None]
        pixels = x.flatten(2).transpose(1, 2)  # (B, H * W, C)
        with _no_autocast(x):
            closeness = ab.sqrt() * pixels @ self.palette.T
            length = ab / 2 * self.palette.square().sum(1)
            evidence = (closeness - length) / (1 - ab + self.doubt)
            expected = scores.flatten(2).transpose(1, 2)
            shares = (expected + evidence).softmax(2)  # (B, H * W, K)
            picture = shares @ self.palette
        return picture.transpose(1, 2).reshape(x.shape)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        c: Tensor | None = None,
        clean: Tensor | None = None,
    ) -> Tensor:
        """The noise in x, (B, C, H, W).

        x: (B, in_channels, H, W), where H and W are multiples of 4.
        t: step / T in [0, 1], as (B,), (B, 1, 1, 1) or one number; 0 counts as step 1.
        c: a context as for `read`, for each picture or (1, ...) for all; or None.

        With `clean` it returns `loss` instead, so that whatever wraps the network (an
        average, several processes) sees its training.
        """
        self._check(x, t, c)
        if clean is not None:
            _check_predicted(clean, x, "clean:", "clean pictures")
        if c is None:
            c = x.new_zeros(x.shape[0], self.n_cfeat)
        c = torch.as_tensor(c, dtype=x.dtype, device=x.device)
        c = c.expand(x.shape[0], c.shape[1])
        T = len(self.ab) - 1
        t = torch.as_tensor(t, dtype=x.dtype, device=x.device)
        step = (t * T).round().long().clamp(1, T).reshape(-1)
        ab = self.ab[step].expand(x.shape[0])[:, None]
        picture = self.picture(x, ab, self.read(c))
        ab = ab[..., None, None]
        if clean is not None:
            return self.loss(picture, clean, ab)
        return (x - ab.sqrt() * picture) / (1 - ab).sqrt()

    def loss(self, picture: Tensor, clean: Tensor, ab: Tensor) -> Tensor:
        """The squared error of the velocity on the straight path.

        It is that of the clean picture, divided by the noise's share squared, but never
        multiplied by more than 400.

        picture, clean: (B, C, H, W). ab: (B, 1, 1, 1). Returns (B, C, H, W).
        """
        noise_share = 1 - straight_share(ab)
        weight = noise_share.pow(-2).clamp(max=400)
        return weight * (picture - clean).square()

    def _check(self, x: Tensor, t: Tensor, c: Tensor | None) -> None:
        _check_pictures(x, self.stem.weight)
        *_, height, width = x.shape
        if x.ndim != 4 or x.shape[1] != self.in_channels or height % 4 or width % 4:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; expected (B, {self.in_channels}, H, W)"
                ", where H and W are multiples of 4"
            )
        _check_time(t, x)
        if c is None:
            return
        c = _context(c, x, one_for_all=True)
        if c.shape[1] > self.n_cfeat:
            raise ValueError(
                f"context has shape {tuple(c.shape)}; expected rows of at most "
                f"{self.n_cfeat} numbers, or captions of {self.max_words} words"
            )
        if c.shape[1] == self.max_words:
            _check_words(c, self.reader.word.num_embeddings)
        elif c.shape[1] == 1 < self.n_cfeat:
            raise ValueError(
                f"context: {tuple(c.shape)} given; one-hot rows expected: "
                "F.one_hot(labels.flatten(), 5).float()"
            )


def _checked_palette(palette) -> Tensor:
    """A new tensor of colours (K, channels), once they are numbers from -1 to 1."""
    colours = _tensor("palette", palette).detach()
    _check_floats("palette", colours)
    if colours.ndim != 2 or colours.numel() == 0:
        raise ValueError(
            f"palette has shape {tuple(colours.shape)}; expected (colours, channels), "
            "as sprite_palette() returns it"
        )
    if not (colours.abs() <= 1).all():  # NaN is not, either
        raise ValueError(
            f"palette runs from {colours.min():g} to {colours.max():g}; expected "
            "colours from -1 to 1, as to_model_range makes pictures"
        )
    return colours.float().clone()


def _three_channels(channels) -> list:
    """The channels at three resolutions, once groups and heads divide them."""
    given = _listed(channels)
    fits = [_is_whole(count) and count > 0 and count % 8 == 0 for count in given]
    if fits != [True, True, True]:
        raise ValueError(
            f"channels={_shown(channels)}; expected three multiples of 8, such as "
            "(48, 96, 128)"
        )
    return given


def _check_words(c: Tensor, n_words: int) -> None:
    """The word numbers in captions must be in the vocabulary.

    Like times, they are not checked on a GPU, nor while the network is traced.
    """
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if is_traced or c.device.type != "cpu":
        return
    are_known = (c >= 0) & (c < n_words) & (c == c.long())
    if not are_known.all():
        raise ValueError(
            f"context runs from {c.min():g} to {c.max():g}; expected captions, whole "
            f"numbers from 0 to {n_words - 1}, as sprite_captions().encode makes them"
        )


def straight_share(ab: Tensor) -> Tensor:
    """The picture's share of x_t, when the shares of picture and noise add up to 1.

    Flow matching goes along the straight path s x_0 + (1 - s) noise. A step of any
    schedule has the same mixture up to a factor, with s = sqrt(ab) / (sqrt(ab) +
    sqrt(1 - ab)).

    ab: alpha-bar, any shape. Returns the same shape, from 0 to 1.

    Lesson 13.
    """
    signal = ab.sqrt()
    noise = (1 - ab).sqrt()
    return signal / (signal + noise)


def straight_steps(schedule: NoiseSchedule, n: int) -> list[int]:
    """n + 1 steps from T to 0 for a sampler, as even as possible on the straight path.

    n: how many strides, from 1 to T. Raises ValueError for another number.

    Lesson 13.
    """
    _check_schedule(schedule)
    T = schedule.T
    if _whole("n", n) > T:
        raise ValueError(f"n={n}; expected a number of strides from 1 to T = {T}")
    shares = straight_share(schedule.ab)
    wanted = torch.linspace(float(shares[T]), 1, n + 1)
    steps = [T]
    for place, share in enumerate(wanted[1:-1], start=1):
        nearest = int((shares - share).abs().argmin())
        highest = steps[-1] - 1
        lowest = n - place  # each later step needs one of its own
        steps.append(min(max(nearest, lowest), highest))
    return [*steps, 0]


def straight_frequencies(
    schedule: NoiseSchedule,
    *,
    mean: float = -0.8,
    spread: float = 0.8,
    even: float = 0.0,
) -> Tensor:
    """How often to practise each step: the picture's share is logit-normal.

    log(s / (1 - s)) of the shares s (`straight_share`) then has a normal distribution,
    cut off at the schedule's ends. It favours the middle, where a picture takes shape.

    mean, spread: of the normal distribution.
    even: this part of the practice is spread evenly over the shares instead, so that
        steps with little noise are practised, too.

    Returns (T + 1,) for `diffusion_loss`; the first is 0, and they sum to 1. Raises
    ValueError for a mean or spread beyond 100, for a spread below 0.01, and for another
    part than 0 to 1.

    Source: [SD3] section 3.1.

    Lesson 13.
    """
    _check_schedule(schedule)
    _check_number("mean", mean, low=-100, high=100)
    _check_number("spread", spread, low=0.01, high=100)
    _check_number("even", even)
    shares = straight_share(schedule.ab[1:].double())
    places = torch.logit(shares)
    density = torch.exp(-((places - mean) / spread).square() / 2)
    # how much room a step has between its neighbours
    normal = density * torch.gradient(places)[0].abs()
    evenly = torch.gradient(shares)[0].abs()
    mixed = (1 - even) * normal / normal.sum() + even * evenly / evenly.sum()
    return F.pad(mixed, (1, 0)).float()


def _no_autocast(x: Tensor) -> torch.autocast:
    """A block in which x keeps its precision."""
    return torch.autocast("cuda" if x.is_cuda else "cpu", enabled=False)


def count_parameters(model: nn.Module) -> int:
    """How many numbers training adjusts.

    Lesson 1.
    """
    return sum(p.numel() for p in model.parameters())


# ---- Training ------------------------------------------------------------------------


def drop_context(c: Tensor, p: float, generator: Generator | None = None) -> Tensor:
    """Set each row of c to zero with probability p, for classifier-free guidance.

    The network then also learns to draw without a context.

    c: (B, n_cfeat). p: from 0 to 1. Returns (B, n_cfeat). Raises ValueError for
    another p, and for class numbers.

    Source: [CFG] algorithm 1.

    Lesson 3.
    """
    _check_number("p", p)
    if c is None:
        raise ValueError("context is None; expected (B, n_cfeat)")
    c = _context(c)
    _check_generator(generator)
    kept = torch.rand(len(c), 1, generator=generator) >= p
    return c * kept.to(c)


def diffusion_loss(
    model: nn.Module,
    x: Tensor,
    schedule: NoiseSchedule,
    *,
    c: Tensor | None = None,
    generator: Generator | None = None,
    min_snr: float | None = None,
    frequencies: Tensor | None = None,
) -> Tensor:
    """The DDPM loss: add noise, predict it, take the mean squared error.

    Each picture gets its own random step t and its own noise.

    x: clean pictures (B, C, H, W).
    c: contexts (B, n_cfeat), or None.
    generator: a CPU generator for steps and noise; None uses torch's global one.
    min_snr: gamma > 0 multiplies each error by min(gamma / SNR(t), 1), so that almost
        clean steps count less.
    frequencies: how often each step is drawn, (T + 1,) on the CPU, with frequencies[0]
        = 0. They need not sum to 1. None draws all steps equally often.

    A network can define its own error in a `loss` method. Its forward must then take
    clean= and return the error, (B, ...): the model is called as
    model(x_t, t / T, c, clean=x). (A wrapper such as DistributedDataParallel passes on
    calls of the model, but not of its methods.)

    Returns one number. Raises ValueError for frequencies that do not fit the schedule,
    for no pictures, and for contexts or answers of the model that do not fit the
    pictures.

    Sources: [DDPM] eq. 14, [Min-SNR] section 3.4.

    Lesson 3.
    """
    _check_schedule(schedule)
    _check_same_schedule(model, schedule)
    _check_weighting(schedule, min_snr, frequencies)
    _check_generator(generator)
    _check_batch("x", x)
    c = _context(c, x, one_for_all=True)
    if frequencies is None:
        t = torch.randint(1, schedule.T + 1, (len(x),), generator=generator)
    else:
        t = torch.multinomial(
            frequencies, len(x), replacement=True, generator=generator
        )
    t = t.to(x.device)
    noise = torch.randn(x.shape, generator=generator).to(x)
    x_t = perturb_input(x, t, noise, schedule)
    if _has_own_loss(model):
        error = model(x_t, t / schedule.T, c, clean=x)
    else:
        predicted = model(x_t, t / schedule.T, c)
        _check_predicted(predicted, x)
        predicted = predicted.to(noise.dtype)  # autocast may return bfloat16
        error = (predicted - noise).square()
    if min_snr is not None:
        weights = _min_snr_weights(schedule, min_snr)
        error = _at(weights, t, error) * error
    return error.mean()


def _check_weighting(
    schedule: NoiseSchedule, min_snr: float | None, frequencies: Tensor | None
) -> None:
    """Raise ValueError for options that `diffusion_loss` refuses."""
    if min_snr is not None:
        is_number = isinstance(min_snr, (int, float, np.number))
        if not is_number or not 0 < min_snr < math.inf:
            raise ValueError(
                f"min_snr={_shown(min_snr)}; expected a number above 0, such as 5"
            )
    if frequencies is None:
        return
    _check_floats("frequencies", frequencies)
    if frequencies.shape != schedule.b.shape or frequencies[0] != 0:
        raise ValueError(
            f"frequencies has shape {tuple(frequencies.shape)} and begins with "
            f"{frequencies.flatten()[:1].tolist()}; expected T + 1 = "
            f"{len(schedule.b)} numbers, of which the first is 0"
        )
    are_counts = ((frequencies >= 0) & frequencies.isfinite()).all()
    if not are_counts or not frequencies.sum() > 0:
        raise ValueError(
            "frequencies: expected finite numbers, none below 0, not all 0"
        )


def _check_predicted(
    predicted,
    x: Tensor,
    what: str = "the model returned",
    wanted: str = "the noise in x",
) -> None:
    """Raise ValueError unless a model's answer has the shape of its pictures.

    what, wanted: how the message begins, and what it expects.
    """
    shape = getattr(predicted, "shape", None)
    if shape != x.shape:
        given = _shown(predicted) if shape is None else f"shape {tuple(shape)}"
        raise ValueError(
            f"{what} {given}; expected {wanted}, of shape {tuple(x.shape)}"
        )


def _min_snr_weights(schedule: NoiseSchedule, gamma: float) -> Tensor:
    """min(gamma / SNR(t), 1) for each step: (T + 1,)."""
    return (gamma / schedule.snr).clamp(max=1)


def _with_wrapped(model: Callable) -> Iterator[Callable]:
    """A model, and whatever it wraps, from the outside in.

    DataParallel, DistributedDataParallel and AveragedModel keep the network as
    `module`, and torch.compile keeps it as `_orig_mod`.
    """
    while model is not None:
        yield model
        compiled = getattr(model, "_orig_mod", None)
        model = getattr(model, "module", compiled)


def _has_own_loss(model: nn.Module) -> bool:
    """Whether the network, or the network inside a wrapper, has a `loss` method."""
    return any(callable(getattr(one, "loss", None)) for one in _with_wrapped(model))


def _check_same_schedule(model: Callable, schedule: NoiseSchedule) -> None:
    """A network that knows a schedule's alpha-bar, as `SpriteUnet` does, must get it.

    Rounded numbers will do: a network may be of half precision.
    """
    for one in _with_wrapped(model):
        own = getattr(one, "ab", None)
        if not isinstance(own, Tensor):
            continue
        given = schedule.ab.to(own)
        if own.shape != given.shape or not own.allclose(given, atol=1e-3):
            raise ValueError(
                f"{type(one).__name__} was built for another schedule than the one "
                f"given, which has T = {schedule.T}; expected the same, such as "
                "NoiseSchedule.linear(500) for the course's weights"
            )


def average_weights(
    model: nn.Module, decay: float = 0.998
) -> torch.optim.swa_utils.AveragedModel:
    """An exponential moving average of a model's weights and batch-norm statistics.

    Call its `update_parameters(model)` after each step. The average is `.module`. The
    decay warms up as (1 + n) / (10 + n) over the steps n, so that the random first
    weights are forgotten. Raises ValueError for a decay that is not from 0 to 1.

    Lesson 3.
    """
    _check_kind("model", model, nn.Module, "a network")
    _check_number("decay", decay)

    def average(old: Tensor, new: Tensor, n: Tensor | int) -> Tensor:
        if not old.is_floating_point():  # batch norm's counter
            return new
        warm_up = (1 + float(n)) / (10 + float(n))
        return old.lerp(new, 1 - min(decay, warm_up))

    return torch.optim.swa_utils.AveragedModel(model, avg_fn=average, use_buffers=True)


class Muon(torch.optim.Optimizer):
    """An optimiser whose steps of a weight matrix are equally large in all directions.

    The averaged gradient of a matrix is replaced by the nearest matrix whose singular
    values are all about 1. A convolution counts as a matrix, with a row for each output
    channel. Other parameters are trained by Adam.

    named_parameters: as model.named_parameters() gives them.
    adam: the beginnings of the names of matrices that Adam trains, too: layers that
        read or write data, such as the first and the last one.
    lr, adam_lr: the learning rates of the two.

    Raises ValueError for parameters without names, for a beginning that no name has,
    and for rates below 0.

    Sources: [Muon]; [Adam] algorithm 1, with betas 0.9 and 0.95.

    Lesson 10.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        adam: Sequence[str] = (),
        lr: float = 0.012,
        adam_lr: float = 1e-3,
    ) -> None:
        _check_number("lr", lr, high=100)
        _check_number("adam_lr", adam_lr, high=100)
        adam = (adam,) if isinstance(adam, str) else tuple(adam)
        named = _named(named_parameters, adam)
        matrices = []
        others = []
        for name, parameter in named.items():
            is_matrix = parameter.ndim > 1 and not name.startswith(adam)
            (matrices if is_matrix else others).append(parameter)
        groups = [
            {"params": matrices, "lr": lr, "of_matrices": True},
            {"params": others, "lr": adam_lr, "of_matrices": False},
        ]
        super().__init__([group for group in groups if group["params"]], {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Change each parameter that has a gradient."""
        for group in self.param_groups:
            direction = self._by_muon if group["of_matrices"] else self._by_adam
            for parameter in group["params"]:
                if parameter.grad is not None:
                    change = direction(parameter.grad, self.state[parameter])
                    parameter.add_(change, alpha=-group["lr"])

    def _by_muon(self, gradient: Tensor, state: dict) -> Tensor:
        mean = state.setdefault("mean", torch.zeros_like(gradient))
        mean.lerp_(gradient, 0.05)
        ahead = gradient.lerp(mean, 0.95)  # Nesterov's momentum
        matrix = orthogonal(ahead.flatten(1))
        rows, columns = matrix.shape
        return matrix.view_as(gradient) * max(1, rows / columns) ** 0.5

    def _by_adam(self, gradient: Tensor, state: dict) -> Tensor:
        mean = state.setdefault("mean", torch.zeros_like(gradient))
        square = state.setdefault("square", torch.zeros_like(gradient))
        n = state["n"] = state.get("n", 0) + 1
        mean.lerp_(gradient, 1 - 0.9)
        square.lerp_(gradient.square(), 1 - 0.95)
        size = (square / (1 - 0.95**n)).sqrt() + 1e-8
        return mean / (1 - 0.9**n) / size


def _named(named_parameters, adam: tuple[str, ...]) -> dict[str, nn.Parameter]:
    """The parameters by name, once each of the beginnings in `adam` is one's."""
    try:
        named = dict(named_parameters)
    except (TypeError, ValueError, RuntimeError):
        named = {}
    if not named or not all(isinstance(name, str) for name in named):
        raise ValueError(
            "named_parameters: expected pairs of a name and a parameter, as "
            "model.named_parameters() gives them"
        )
    for beginning in adam:
        if not any(name.startswith(beginning) for name in named):
            raise ValueError(
                f"adam names {_shown(beginning)}, but no parameter's name begins so; "
                f"they are {_shown(', '.join(named))}"
            )
    return named


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """A matrix (M, N) with its singular values moved close to 1, its vectors kept.

    Each step of this Newton-Schulz iteration applies a polynomial to all singular
    values. After five, those that were not tiny are between 0.7 and 1.2.

    Source: [Muon].

    Lesson 10.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        squares = x @ x.T
        mixed = -4.7750 * squares + 2.0315 * squares @ squares
        x = 3.4445 * x + mixed @ x
    return x.T if is_tall else x


def train_steps(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor | None]],
    schedule: NoiseSchedule,
    *,
    optimiser: torch.optim.Optimizer,
    p_drop: float | None = None,
    average: torch.optim.swa_utils.AveragedModel | None = None,
    generator: Generator | None = None,
    min_snr: float | None = None,
    frequencies: Tensor | None = None,
) -> Iterator[float]:
    """Take one training step for each batch, and yield its loss.

    It is a generator, so the caller owns the progress bar, the log and the clock. It
    runs on the model's device, in bfloat16 where that is fast, and leaves the model in
    train mode.

    batches: pairs of pictures (B, C, H, W) and contexts (B, n_cfeat) or None; or
        pictures alone, as a TensorDataset gives them.
    p_drop: the share of contexts that is dropped, from 0 to 1. With None the network
        is trained without contexts, even if the batches have them.
    average: from `average_weights`; it follows each step.
    generator, min_snr, frequencies: as in `diffusion_loss`.

    Raises ValueError for a batch or an optimiser that does not fit, and
    FloatingPointError when the loss is not finite; no step is taken then.

    Lesson 3.
    """
    _check_trained(model, optimiser, average)
    weight = next(model.parameters())
    device = weight.device
    for batch in batches:
        x, c = _pictures_and_context(batch, p_drop)
        model.train()  # the caller may have sampled in eval mode since the last step
        x = x.to(weight, memory_format=torch.channels_last)
        c = None if p_drop is None else drop_context(c.to(device), p_drop, generator)
        with _fast_precision(device):
            loss = diffusion_loss(
                model,
                x,
                schedule,
                c=c,
                generator=generator,
                min_snr=min_snr,
                frequencies=frequencies,
            )
        value = loss.item()
        # Before the step, which would spoil the weights.
        _check_finite_loss(value, x, c)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if average is not None:
            average.update_parameters(model)
        yield value


def _check_trained(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: torch.optim.swa_utils.AveragedModel | None,
) -> None:
    """Raise ValueError for what is none, or an optimiser that trains another model."""
    _check_kind("model", model, nn.Module, "a network")
    averaged = torch.optim.swa_utils.AveragedModel
    if average is not None:
        _check_kind("average", average, averaged, "what average_weights(model) returns")
    if not hasattr(optimiser, "param_groups"):
        raise ValueError(
            f"optimiser: {_shown(optimiser)} given; expected one such as "
            "torch.optim.Adam(model.parameters())"
        )
    trained = set()
    for group in optimiser.param_groups:
        trained.update(map(id, group["params"]))
    if trained.isdisjoint(map(id, model.parameters())):
        raise ValueError(
            "the optimiser trains no parameter of this model; build it after the "
            "model, from model.parameters()"
        )


def _pictures_and_context(batch, p_drop: float | None) -> tuple[Tensor, Tensor | None]:
    """The two parts of a batch of `train_steps`; without p_drop the second is None."""
    parts = batch if isinstance(batch, (tuple, list)) else (batch,)
    if len(parts) not in (1, 2):
        raise ValueError(
            f"a batch has {len(parts)} parts; batches are pairs: expected pictures and "
            "contexts (or None), or pictures alone"
        )
    x = _tensor("pictures", parts[0])
    if x.ndim != 4 or len(x) == 0:
        raise ValueError(
            f"a batch has pictures of shape {tuple(x.shape)}; expected (B, C, H, W), B "
            "at least 1"
        )
    _check_floats("pictures", x)
    if p_drop is None:
        return x, None
    if len(parts) == 1 or parts[1] is None:
        raise ValueError(
            f"p_drop={p_drop} drops contexts, but this batch has none; give "
            "(pictures, context) or p_drop=None"
        )
    return x, _context(parts[1], x)


def _check_finite_loss(value: float, x: Tensor, c: Tensor | None) -> None:
    """Say what to do about a loss that is not finite, as far as the batch shows it."""
    if np.isfinite(value):
        return
    remedy = "start again from a checkpoint with a lower learning rate"
    if not x.isfinite().all():
        remedy = "the batch's pictures hold NaN or infinity"
    elif c is not None and not c.isfinite().all():
        remedy = "the batch's contexts hold NaN or infinity"
    raise FloatingPointError(f"the loss is {value}; no step was taken: {remedy}")


def _fast_precision(device: torch.device):
    """A block that computes in bfloat16 where that is fast, else in float32."""
    if has_fast_bf16(device):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


# ---- Sampling ------------------------------------------------------------------------

# Samplers combine two kinds of function:
# model(x, time, context) returns the noise that it predicts in x (B, C, H, W);
#     time = t / T is (B,), and context is (B, n_cfeat) or None.
# step(x, t, t_prev, pred_noise, z) returns x at t_prev, the step below t that the
#     sampler goes to next; z is fresh noise, shaped like x.


def sampling_steps(steps: int | Sequence[int], T: int) -> list[int]:
    """The steps that a sampler visits, from T to 0.

    steps: a number from 1 to T. The result then has steps + 1 different entries, as
        evenly spaced as whole numbers can be. Or a list of steps, which is only
        checked: it must start with T, reach 0 at the end only and change at every
        step. It may go up again (lesson 4).

    Raises ValueError for any other number or list.

    Lesson 5.
    """
    T = _whole("T", T)
    if not _is_whole(steps):
        return _checked_path(steps, T)
    steps = int(steps)
    if not 1 <= steps <= T:
        raise ValueError(f"steps={steps}; expected 1 to T = {T}")
    return [round(T * i / steps) for i in range(steps, -1, -1)]


def _checked_path(steps: Sequence[int], T: int) -> list[int]:
    """The same steps as a list of int, once it is clear that they lead from T to 0."""
    path = _listed(steps)
    if not _leads_to_0(path, T):
        raise ValueError(
            f"steps={str(steps)[:60]}; expected a whole number, or a list of whole "
            f"numbers that starts with T = {T} and reaches 0 only at its end"
        )
    return [int(t) for t in path]


def _leads_to_0(path: list, T: int) -> bool:
    if len(path) < 2 or path[0] != T or path[-1] != 0:
        return False
    for t, t_next in zip(path, path[1:]):
        if t_next == t or t not in range(1, T + 1):
            return False
    return True


def restart_steps(
    rounds=((300, 120, 4), (200, 60, 8), (120, 20, 7)),
    T: int = 500,
    stride: int = 8,
    round_stride: int = 6,
) -> list[int]:
    """A restart schedule: at a low step, add noise again up to a high one, and repeat.

    rounds: (high, low, times) for each place where the sampler restarts, from the
        noisiest place to the cleanest. It arrives at `low`, jumps up to `high` and
        denoises down to `low` again, `times` times.
    stride, round_stride: the length of a step on the way down, and in the rounds. The
        last step before a `low` is shorter where the stride does not fit.

    Returns the list of steps from T to 0, for a sampler's `steps`. The default list
    calls the network 495 times. Raises ValueError for rounds that overlap or leave the
    range from 0 to T, and for strides that are no whole numbers above 0.

    Source: [Restart] algorithm 1.

    Lesson 4.
    """
    T = _whole("T", T)
    stride = _whole("stride", stride)
    round_stride = _whole("round_stride", round_stride)
    if not _is_list(rounds):
        raise ValueError(
            f"rounds={_shown(rounds)}; expected (high, low, times) for each"
        )
    path = []
    reached = T
    for one in rounds:
        high, low, times = _checked_round(one, reached, T)
        path += range(reached, low, -stride)
        up_and_down = [low, *range(high, low, -round_stride)]
        path += up_and_down * times
        reached = low
    path += range(reached, 0, -stride)
    path.append(0)
    return path


def _checked_round(one, reached: int, T: int) -> list[int]:
    """A round of `restart_steps`, once it fits below the step `reached`."""
    numbers = _listed(one)
    fits = False
    if len(numbers) == 3 and all(map(_is_whole, numbers)):
        high, low, times = numbers
        fits = 0 < low < high <= T and low < reached and times >= 0
    if not fits:
        raise ValueError(
            f"round {_shown(one)} after step {reached}; expected "
            f"0 < low < high <= T = {T}, each low below the last, times >= 0, all "
            "whole numbers (high, low, times)"
        )
    return [int(number) for number in numbers]


def denoise_add_noise(
    x, t, pred_noise, schedule, *, z=0.0, t_prev=None, variance="beta", clip=False
) -> Tensor:
    """One DDPM step from t to t_prev: the mean of the posterior plus sigma z.

    x, pred_noise: x_t and the noise predicted in it, (B, C, H, W).
    z: fresh noise shaped like x; 0 gives the mean alone. The step to 0 does not use it.
    t_prev: the step to go to, t - 1 unless you say otherwise.
    variance: which sigma^2 to use, "beta" or "beta_tilde" (smaller).
    clip: whether to clip the implied x_0 to [-1, 1].

    Returns x at t_prev, (B, C, H, W). Raises ValueError for steps or a variance that do
    not exist, and for noise of another shape.

    Source: [DDPM] algorithm 2.

    Lesson 4.
    """
    if not isinstance(variance, str) or variance not in ("beta", "beta_tilde"):
        raise ValueError(
            f"variance={_shown(variance)}; expected 'beta' or 'beta_tilde'"
        )
    _check_flag("clip", clip)
    _check_noise("z", z, x)
    if t_prev is None and _is_whole(t):
        t_prev = t - 1
    c0, ct, beta_tilde = posterior(t, schedule, t_prev=t_prev)
    x0 = predict_x0(x, t, pred_noise, schedule)
    if clip:
        x0 = x0.clamp(-1, 1)
    mean = c0 * x0 + ct * x
    if t_prev == 0:
        return mean
    beta = 1 - float(schedule.ab[t] / schedule.ab[t_prev])
    sigma_squared = beta if variance == "beta" else beta_tilde
    return mean + sigma_squared**0.5 * z


def denoise_ddim(
    x, t, t_prev, pred_noise, schedule, *, eta=0.0, z=0.0, clip=False
) -> Tensor:
    """One DDIM step: the implied x_0, noised again to t_prev in the same direction.

    x, pred_noise: x_t and the noise predicted in it, (B, C, H, W).
    t_prev: the step to go to, anywhere below t.
    eta: how much of the noise is fresh. 0 makes the step deterministic; with 1 the
        fresh noise has DDPM's variance beta_tilde.
    z: fresh noise shaped like x, needed where eta is above 0.
    clip: whether to clip the implied x_0 to [-1, 1].

    Returns x at t_prev, (B, C, H, W). Raises ValueError for steps that do not exist,
    for an eta that is not from 0 to 1, and for noise of another shape.

    Source: [DDIM] eq. 12.

    Lesson 5.
    """
    _check_number("eta", eta)
    _check_flag("clip", clip)
    _check_noise("z", z, x)
    _, _, beta_tilde = posterior(t, schedule, t_prev=t_prev)
    x0 = predict_x0(x, t, pred_noise, schedule)
    if clip:  # the noise must agree with the clipped picture
        x0 = x0.clamp(-1, 1)
        pred_noise = _implied_noise(x, t, x0, schedule)
    ab_prev = float(schedule.ab[t_prev])
    sigma = eta * beta_tilde**0.5
    old_noise = max(1 - ab_prev - sigma**2, 0.0) ** 0.5 * pred_noise
    return ab_prev**0.5 * x0 + old_noise + sigma * z


def _implied_noise(x: Tensor, t: int, x0: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The noise that x_t and x_0 imply: perturb_input solved for the noise."""
    ab = schedule.ab[t]
    return (x - float(ab) ** 0.5 * x0) / float(1 - ab) ** 0.5


@contextmanager
def evaluating(model: Callable) -> Iterator[None]:
    """Run a `with` block with the network in eval mode; then restore its old mode.

    In eval mode there is no dropout, and batch norm uses its running statistics. Each
    part of the network gets its own mode back, so that a frozen part stays frozen.
    A model that is a plain function is left alone.

    Lesson 4.
    """
    training_parts = []
    if isinstance(model, nn.Module):
        training_parts = [part for part in model.modules() if part.training]
    for part in training_parts:
        part.training = False
    try:
        yield
    finally:
        for part in training_parts:
            part.training = True


@torch.no_grad()
def walk(
    model, schedule, *, x, steps, step, context=None, generator=None
) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """Take x from step to step along a list, and yield after each of them.

    It yields (t_prev, x at t_prev, the noise predicted at t), where t is a step of the
    list and t_prev the next one, which was just reached. (It is called "previous"
    because noise adds up from 0 to T, and sampling goes back.) Where the list goes up,
    fresh noise brings x to the noise level of the higher step; the model is not called,
    and the predicted noise is None. A network is called in eval mode, as `evaluating`
    does it. A plain function must do that itself.

    model: any function model(x, time, context) that returns the predicted noise.
    x: where to start, (N, C, H, W).
    steps: the list, such as [500, 250, 0], of steps from 0 to T; `sampling_steps` makes
        one.
    step: the function step(x, t, t_prev, pred_noise, z) that takes x from t down to
        t_prev; z is fresh noise.
    context: (N, n_cfeat), or None.
    generator: a CPU generator. It draws one z for each step, needed or not, so that the
        same seed gives every model the same noise.

    Raises ValueError for other arguments, and for an answer of the model that does not
    have the shape of x.

    Lesson 4.
    """
    _check_schedule(schedule)
    _check_same_schedule(model, schedule)
    _check_generator(generator)
    _check_batch("x", x)
    context = _context(context, x, one_for_all=True)
    steps = _checked_steps(steps, least=0, T=schedule.T)
    for t, t_prev in zip(steps[:-1], steps[1:]):
        z = torch.randn(x.shape, generator=generator).to(x)
        if t_prev > t:  # up: add noise
            pred_noise = None
            kept = float(schedule.ab[t_prev] / schedule.ab[t])  # of x's variance
            x = kept**0.5 * x + (1 - kept) ** 0.5 * z
        else:  # down: predict the noise, then take one step
            time = x.new_full((len(x),), t / schedule.T)
            with evaluating(model):  # the caller may train between two steps
                pred_noise = model(x, time, context)
            _check_predicted(pred_noise, x)
            x = step(x, t, t_prev, pred_noise, z)
        yield t_prev, x, pred_noise


def _checked_steps(steps: Sequence[int], least: int, T: int) -> list[int]:
    """The same steps as a list of int, once they are from `least` to T."""
    path = _listed(steps)
    for t in path:
        if not _is_whole(t) or not least <= t <= T:
            path = []
    if not path:
        raise ValueError(
            f"steps={str(steps)[:60]}; expected a list of whole numbers from {least} "
            f"to T = {T}"
        )
    return [int(t) for t in path]


def _starting_point(
    model, shape, x_T, context, generator
) -> tuple[Tensor, Tensor | None]:
    """x_T, drawn unless it is given, and the context: on the model's device."""
    _check_generator(generator)
    if shape is None and x_T is None:
        raise ValueError("give shape=(N, C, H, W), or the noise to start from as x_T=")
    if shape is not None and x_T is not None:
        raise ValueError(f"shape={shape} and x_T are both given; give one of them")
    if x_T is None:
        sizes = [_whole("shape", size) for size in _listed(shape)]
        if not sizes:
            raise ValueError(f"shape={_shown(shape)}; expected (N, C, H, W)")
        x_T = torch.randn(sizes, generator=generator)
    return _on_device(model, "x_T", x_T, context)


def _on_device(model: Callable, name: str, x, context) -> tuple[Tensor, Tensor | None]:
    """Pictures and a context as tensors on the model's device, once they are finite."""
    x = _tensor(name, x).detach()
    _check_batch(name, x)
    _check_finite(name, x)
    x = _like_weights(x, model)
    context = _context(context, x)
    if context is None:
        return x, None
    _check_finite("context", context)
    return x, context.to(x)


def _warn_of_signal(schedule: NoiseSchedule) -> None:
    """Warn where step T of a schedule is far from the noise that a sampler draws."""
    ab_T = float(schedule.ab[-1])
    if ab_T <= 0.1:
        return
    T = schedule.T
    remedy = f"use NoiseSchedule.cosine({T})"
    if T > 20:  # below, the last beta would not stay below 1
        factor = 1000 / T
        betas = f"{1e-4 * factor:.2g}, {0.02 * factor:.2g}"
        remedy += f", or the betas times 1000 / T: NoiseSchedule.linear({T}, {betas})"
    warnings.warn(
        f"alpha-bar is {ab_T:.2f} at T = {T}, so step T still shows the picture; but "
        f"sampling starts from pure noise. To train and to sample, {remedy}",
        stacklevel=4,
    )


def _like_weights(x: Tensor, model: Callable) -> Tensor:
    """x on the device and in the dtype of the model's weights, if it has any."""
    if not isinstance(model, nn.Module):
        return x
    weight = next(model.parameters(), None)
    if weight is None:
        return x
    return x.to(weight)


def _places_to_keep(keep: int | Sequence[int], path: list[int]) -> set[int]:
    """The places in a list of steps that a sampler's `keep` asks for."""
    if not _is_list(keep):
        keep = _whole("keep", keep, least=0)
        # From the end, so that one frame is the result.
        evenly = np.linspace(len(path) - 1, 0, min(keep, len(path)))
        return {round(place) for place in evenly}
    keep = _listed(keep)
    unknown = [t for t in keep if t not in path]
    if unknown:
        raise ValueError(
            f"keep names steps {sorted(unknown, key=str)} that this sampler does not "
            "visit; "
            f"it visits {path}"
        )
    return {place for place, t in enumerate(path) if t in keep}


def _sample(
    model, schedule, step, *, shape, x_T, context, steps, generator, keep, progress
) -> tuple[Tensor, Tensor]:
    """What all samplers share: walk from x_T to the samples, and keep some frames."""
    _check_schedule(schedule)
    if steps is None:
        steps = schedule.T
    path = sampling_steps(steps, schedule.T)
    x, context = _starting_point(model, shape, x_T, context, generator)
    if x_T is None:
        _warn_of_signal(schedule)
    kept = _places_to_keep(keep, path)
    frames = []
    if 0 in kept:  # place 0 of the list is x_T
        frames.append(x.cpu())
    trip = walk(
        model,
        schedule,
        x=x,
        steps=path,
        step=step,
        context=context,
        generator=generator,
    )
    bar = tqdm(
        trip, desc="sampling", total=len(path) - 1, leave=False, disable=not progress
    )
    for place, (_, x, _) in enumerate(bar, start=1):
        if place in kept:
            frames.append(x.cpu())
    if not frames:  # keep=0
        return x, x.new_zeros((0, *x.shape), device="cpu")
    return x, torch.stack(frames)


def sample_ddpm(
    model,
    schedule,
    *,
    shape=None,
    x_T=None,
    context=None,
    steps=None,
    generator=None,
    keep=16,
    variance="beta",
    clip=False,
    noise_scale=1.0,
    progress=False,
) -> tuple[Tensor, Tensor]:
    """Sample pictures with DDPM: `walk` from x_T to step 0 with `denoise_add_noise`.

    model: a network, or any function as in `walk`.
    shape, x_T: give one of the two: the shape (N, C, H, W) of the noise to start from,
        or that noise itself.
    context: what to ask for, (N, n_cfeat), or None.
    steps: None for all T steps; a whole number for fewer, longer strides (lesson 5); or
        a list such as that of `restart_steps`.
    generator: a CPU generator, which draws all noise.
    keep: how many frames to keep, evenly spaced from x_T to the result (one frame is
        the result); or a list of steps t, each kept as often as it is visited.
    variance: of the added noise, "beta" or the smaller "beta_tilde".
    clip: whether to clip the implied x_0 to [-1, 1].
    noise_scale: a factor for the added noise. Only 1 is right; lesson 4 shows why.
    progress: whether to show a progress bar.

    Returns (samples, frames): (N, C, H, W), and (frames, N, C, H, W) on the CPU. Raises
    ValueError for steps that do not lead from T to 0, for a context that is not one row
    for each picture, and for kept steps that are never visited. Warns when noise is
    drawn for a schedule that does not end in noise.

    Source: [DDPM] algorithm 2.

    Lesson 4.
    """
    _check_number("noise_scale", noise_scale, high=100)

    def step(x, t, t_prev, pred_noise, z):
        z = noise_scale * z
        return denoise_add_noise(
            x, t, pred_noise, schedule, z=z, t_prev=t_prev, variance=variance, clip=clip
        )

    return _sample(
        model,
        schedule,
        step,
        shape=shape,
        x_T=x_T,
        context=context,
        steps=steps,
        generator=generator,
        keep=keep,
        progress=progress,
    )


def sample_ddim(
    model,
    schedule,
    *,
    shape=None,
    x_T=None,
    context=None,
    steps=20,
    generator=None,
    keep=16,
    eta=0.0,
    clip=False,
    progress=False,
) -> tuple[Tensor, Tensor]:
    """Sample pictures with DDIM, in any number of steps from 1 to T or along a list.

    eta, clip: as in `denoise_ddim`.

    The other arguments, the result and the errors are those of `sample_ddpm`.

    Source: [DDIM] eq. 12.

    Lesson 5.
    """

    def step(x, t, t_prev, pred_noise, z):
        return denoise_ddim(x, t, t_prev, pred_noise, schedule, eta=eta, z=z, clip=clip)

    return _sample(
        model,
        schedule,
        step,
        shape=shape,
        x_T=x_T,
        context=context,
        steps=steps,
        generator=generator,
        keep=keep,
        progress=progress,
    )


class AdamsBashforth:
    """DDIM steps along a weighted sum of up to four noise predictions (iPNDM).

    The newest prediction and the three before it show how the direction turns, so a
    step follows the curve and not its tangent. The weights are right for strides that
    are equal in t. Make a new object for each trip from T to 0: it remembers the
    predictions.

    Source: [PNDM] eq. 12, with fewer terms in the first three steps.

    Lesson 5.
    """

    WEIGHTS = (  # the newest prediction first; one row for each number of predictions
        (1,),
        (3 / 2, -1 / 2),
        (23 / 12, -16 / 12, 5 / 12),
        (55 / 24, -59 / 24, 37 / 24, -9 / 24),
    )

    def __init__(self, schedule: NoiseSchedule, clip: bool = False):
        self.schedule = schedule
        self.clip = clip
        self.predictions = []

    def __call__(self, x, t, t_prev, pred_noise, z) -> Tensor:
        self.predictions = [pred_noise, *self.predictions[:3]]
        weights = self.WEIGHTS[len(self.predictions) - 1]
        pairs = zip(weights, self.predictions)
        mixed = sum(weight * noise for weight, noise in pairs)
        return denoise_ddim(x, t, t_prev, mixed, self.schedule, clip=self.clip)


class SecondOrder:
    """DDIM steps towards an extrapolated x_0 (DPM-Solver++ 2M).

    A straight line in lambda = log(SNR) / 2 goes through the newest implied x_0 and the
    one before it. The step aims at the point of this line half a step ahead. Make a new
    object for each trip from T to 0: it remembers the x_0 of the step before.

    Source: [DPM++] algorithm 2.

    Lesson 5.
    """

    def __init__(self, schedule: NoiseSchedule, clip: bool = False):
        self.schedule = schedule
        self.clip = clip
        self.lambdas = schedule.snr.log() / 2
        self.t_last = None
        self.x0_last = None

    def __call__(self, x, t, t_prev, pred_noise, z) -> Tensor:
        x0 = predict_x0(x, t, pred_noise, self.schedule)
        if self.clip:
            x0 = x0.clamp(-1, 1)
        target = x0
        if self.t_last is not None and t_prev > 0:  # lambda is infinite at t = 0
            ahead = self.lambdas[t_prev] - self.lambdas[t]
            behind = self.lambdas[t] - self.lambdas[self.t_last]
            target = x0 + (x0 - self.x0_last) * float(ahead / behind / 2)
        self.t_last = t
        self.x0_last = x0
        towards = _implied_noise(x, t, target, self.schedule)
        return denoise_ddim(x, t, t_prev, towards, self.schedule)


def sample_multistep(
    model,
    schedule,
    *,
    shape=None,
    x_T=None,
    context=None,
    steps=10,
    generator=None,
    keep=16,
    solver="2m",
    clip=False,
    progress=False,
) -> tuple[Tensor, Tensor]:
    """Sample pictures in few steps by remembering what the network predicted before.

    solver: "2m" for `SecondOrder`, or "ipndm" for `AdamsBashforth`. Both are
        deterministic, and each step calls the network once.
    steps: how many, from 1 to T.
    clip: whether to clip the implied x_0 to [-1, 1].

    The other arguments, the result and the errors are those of `sample_ddpm`. Raises
    ValueError also for another solver, or for a list of steps.

    Sources: [DPM++] algorithm 2, [PNDM] eq. 12.

    Lesson 5.
    """
    if solver not in ("2m", "ipndm"):
        raise ValueError(f"solver={solver!r} does not exist; expected '2m' or 'ipndm'")
    _check_flag("clip", clip)
    if not _is_whole(steps):
        raise ValueError(
            f"steps={str(steps)[:60]}; expected a whole number of steps "
            "(on a list's way up a solver remembers wrongly)"
        )
    _check_schedule(schedule)
    kind = SecondOrder if solver == "2m" else AdamsBashforth
    step = kind(schedule, clip)
    return _sample(
        model,
        schedule,
        step,
        shape=shape,
        x_T=x_T,
        context=context,
        steps=steps,
        generator=generator,
        keep=keep,
        progress=progress,
    )


def guided(model: Callable, weight: float, avoid: Tensor | None = None) -> Callable:
    """A model with classifier-free guidance, for any sampler.

    It goes from the noise predicted without a context towards that with it, and beyond:
    weight = 0 ignores the context, 1 obeys it, and more than 1 exaggerates it.

    avoid: a context (1, n_cfeat) to go away from, instead of from none.

    Raises ValueError for a weight outside 0 to 100. The model that it returns raises
    ValueError when it gets no context, or one that is not as long as `avoid`.

    Source: [CFG] eq. 6, with weight = 1 + w.

    Lesson 6.
    """
    _check_number("weight", weight, high=100)

    avoid = _context(avoid)

    def predicted(x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        c = _context_to_guide(c, x, avoid)
        towards = model(x, t, c)
        away = torch.zeros_like(c)
        if avoid is not None:
            away = away + avoid.to(away)
        start = model(x, t, away)
        return start + weight * (towards - start)

    return predicted


def _context_to_guide(c, x: Tensor, avoid: Tensor | None) -> Tensor:
    """A context for guidance, which needs one as long as what it avoids."""
    c = _context(c, x, one_for_all=True)
    if c is None:
        raise ValueError(
            "guidance without a context; give the sampler context=, (N, n_cfeat)"
        )
    if avoid is not None and avoid.shape[1] != c.shape[1]:
        raise ValueError(
            f"avoid has shape {tuple(avoid.shape)}, and the context {tuple(c.shape)}; "
            "expected rows of the same length"
        )
    return c


@functools.cache
def sprite_network(file: Path = WEIGHTS / "sprite_unet_trained.pth") -> SpriteUnet:
    """The shipped `SpriteUnet` with its weights, in eval mode on the CPU.

    file: other weights of it, such as those of another training.

    Raises FileNotFoundError without the file.

    Lesson 6.
    """
    model = SpriteUnet(NoiseSchedule.linear(), sprite_palette(), doubt=1.0)
    model = load_weights(model, file)
    return model.to(memory_format=torch.channels_last).eval()


def draw(
    caption: str | None,
    n: int = 16,
    *,
    seed: int = 0,
    guidance: float = 2.0,
    avoid: str = "",
    steps: int = 20,
) -> np.ndarray:
    """Draw sprites for a caption, such as "a hero with long pink hair in a blue robe".

    caption: at most 40 words; None draws anything.
    n: how many. seed: the same seed draws the same sprites.
    guidance: how much the caption counts, as the weight of `guided`.
    avoid: a caption of what not to draw. steps: more steps draw better, and slower.

    Returns (n, 16, 16, 3) uint8. Raises ValueError for a caption that is no text or is
    too long, and for an n or steps below 1.

    Lesson 8.
    """
    n = _whole("n", n)
    encode = sprite_captions().encode
    asked = torch.from_numpy(encode(["" if caption is None else caption]))
    model = sprite_network()
    schedule = NoiseSchedule.linear()
    predicted = model
    if guidance != 1:
        predicted = guided(model, guidance, torch.from_numpy(encode([avoid])))
    generator = Generator().manual_seed(seed)
    pictures, _ = sample_ddpm(
        predicted,
        schedule,
        shape=(n, 3, 16, 16),
        context=asked.expand(n, -1),
        steps=straight_steps(schedule, steps),
        generator=generator,
        variance="beta_tilde",
        keep=0,
    )
    return to_pictures(pictures)


# ---- Files ---------------------------------------------------------------------------

MAX_BYTES = 512 * 2**20  # of a file, and of what it holds when it is unpacked
MAX_PIXELS = 16_000_000  # of a picture
PLAIN = "biuf"  # the kinds of numbers that an array may hold, in NumPy's letters
# Formats with a signature come first; TGA has none.
PICTURE_FORMATS = ("PNG", "GIF", "BMP", "JPEG", "WEBP", "TGA")
NUMBERS = (
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
)


class UnusableFile(ValueError):
    """A file that cannot be used. The message names it and says what to do."""


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path that becomes `path` only when the block has ended well.

    The temporary file ends in .tmp and is in the same folder, which is made if it is
    missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())  # or a power cut could leave an empty file
        os.replace(temporary, path)
    except OSError as error:
        if error.errno and error.filename is None:  # as when the disk is full
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def sweep_temporary(folder: str | os.PathLike, start: str = "") -> int:
    """Remove the files that `written_whole` left in a folder when it was killed.

    start: what their names begin with. Call it when no other program is writing such
        files there.

    Returns how many it removed.
    """
    left = list(Path(folder).glob(f"{start}*.{'[0-9a-f]' * 8}.tmp"))
    for file in left:
        file.unlink(missing_ok=True)
    return len(left)


@contextmanager
def _reading(path: Path, kind: str, remedy: str = "copy it again") -> Iterator[None]:
    """Turn any error in the block into an `UnusableFile`.

    Libraries raise more than a dozen types of error for damaged files.
    """
    try:
        yield
    except UnusableFile:
        raise
    except Exception as error:
        why = _reason(error, path)
        # `from None`, because torch's own message advises to load the file unsafely
        raise UnusableFile(
            f"{path} is damaged, or is not {kind} ({why}); {remedy}"
        ) from None


def _reason(error: Exception, path: Path) -> str:
    """An error in a few words, without the path and without unsafe advice."""
    words = str(error).partition("\n")[0].replace(f" {str(path)!r}", "")
    if words == "" or "load" in words:
        return type(error).__name__
    return words[:120]


def _check_file(path: Path, remedy: str) -> None:
    """Raise an error unless `path` is a file, not too large, and as SHA256SUMS says."""
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} does not exist; {remedy}")
    if not os.path.isfile(path):
        raise UnusableFile(f"{path} is a folder or a device; expected a file")
    _check_bytes(path, os.path.getsize(path))
    with _reading(path, "a file that may be read"):
        _check_sum(path)


def _check_bytes(path: Path, size: int) -> None:
    if size > MAX_BYTES:
        raise UnusableFile(
            f"{path} holds {size:,} bytes; at most {MAX_BYTES:,} are read. Split it, "
            "or raise diffusion_utilities.MAX_BYTES"
        )


def _check_sum(path: Path) -> None:
    """Raise an error if a file differs from its line in SHA256SUMS, in its folder."""
    sums = path.with_name("SHA256SUMS")
    if not sums.is_file():
        return
    for line in sums.read_text(encoding="utf8").splitlines():
        digest, _, name = line.partition("  ")
        if name != path.name:
            continue
        if digest != hashlib.sha256(path.read_bytes()).hexdigest():
            raise UnusableFile(
                f"{path} is damaged or was changed: its SHA-256 is not the one in "
                "SHA256SUMS beside it; copy it again, or delete its line there"
            )


def _check_archive(path: Path, file: io.BufferedReader) -> list[int]:
    """Raise an error unless a file is a whole zip archive: torch checks no checksums.

    It leaves the file at its start. Returns the sizes of the archive's parts.
    """
    if file.read(4) != b"PK\x03\x04":
        raise zipfile.BadZipFile("not a zip archive, as torch.save writes since 1.6")
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(member.external_attr & 0x10 for member in members):
            # torch would read no data of it, and take memory as it is
            raise zipfile.BadZipFile("a part of the archive is marked as a folder")
        sizes = [member.file_size for member in members]
        _check_bytes(path, sum(sizes))
        damaged = archive.testzip()
    if damaged is not None:
        raise UnusableFile(
            f"{path} is damaged: the checksum of {damaged} is wrong; copy it again"
        )
    file.seek(0)
    return sizes


# ---- Files of weights ----------------------------------------------------------------


def save_weights(
    model: nn.Module | Mapping, path: str | os.PathLike, half: bool = True
) -> None:
    """Write a model's state dict, whole or not at all.

    model: a network, which may be wrapped (by `average_weights`, DataParallel,
        DistributedDataParallel or torch.compile), or a state dict.
    half: write in half precision, which halves the file; loading it into a network
        turns the numbers into float32 again.

    Raises ValueError for weights that are not finite, or too large for half precision.

    Lesson 3.
    """
    state = model
    if not isinstance(model, Mapping):
        state = _unwrapped(model).state_dict()
    stored = {}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{name} is a {type(value).__name__}; expected a network, or a state "
                "dict of tensors"
            )
        value = value.detach().cpu()
        if half and value.is_floating_point():
            value = value.half()
        if not value.isfinite().all():
            raise ValueError(
                f"{name} holds numbers that are not finite (half={half}), so {path} "
                "was not written; half=False writes numbers over 65504"
            )
        stored[name.replace("_orig_mod.", "")] = value
    memory = io.BytesIO()  # on a full disk, torch would raise errors of its own
    torch.save(stored, memory)
    with written_whole(path) as temporary:
        temporary.write_bytes(memory.getbuffer())


def load_state(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read a state dict from a file: {name: tensor}, on the CPU.

    Only tensors are loaded (`weights_only=True`). Raises FileNotFoundError that lists
    the weights there are, or ValueError for a file that is damaged or no state dict.

    Lesson 3.
    """
    state = _load_archive(Path(path))
    is_state_dict = isinstance(state, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor)
        for name, value in state.items()
    )
    if not is_state_dict:
        raise UnusableFile(
            f"{path} holds {type(state).__name__}, not a state dict of tensors; save "
            "model.state_dict() instead"
        )
    return dict(state)


def load_checkpoint(path: str | os.PathLike) -> dict:
    """Read what a training needs in order to resume: a dictionary, on the CPU.

    Its values are state dicts, tensors, numbers, text and lists of them. Raises
    FileNotFoundError, or ValueError for a file that is damaged or holds anything else.
    """
    content = _load_archive(Path(path))
    if not isinstance(content, dict):
        raise UnusableFile(
            f"{path} holds {type(content).__name__}; expected a dictionary of state "
            "dicts"
        )
    return content


def load_weights(model: nn.Module, path: str | os.PathLike) -> nn.Module:
    """Load a file of weights into a model, strictly; returns the model in eval mode.

    Either may be wrapped (by `average_weights`, DataParallel, DistributedDataParallel
    or torch.compile). Raises errors as `load_state` and `fitting_state` do; the model
    is then as it was.

    Lesson 4.
    """
    network = _unwrapped(model)
    state = fitting_state(network, load_state(path), path)
    network.load_state_dict(state)
    return model.eval()


def fitting_state(
    network: nn.Module, state: Mapping[str, Tensor], path: str | os.PathLike
) -> dict[str, Tensor]:
    """A state dict as `network.load_state_dict` takes it, in the network's dtypes.

    state: from `load_state(path)`. The prefixes that wrappers add to names ("module."
        and "_orig_mod.") are dropped if the names do not fit as they are.

    Raises ValueError for weights of another network; it counts the missing, the
    surplus, the misshapen and the mistyped entries, and names one of each.
    """
    own = network.state_dict()
    if state.keys() != own.keys():
        state = _without_prefixes(state, own)
    missing = own.keys() - state.keys()
    surplus = state.keys() - own.keys()
    shared = own.keys() & state.keys()
    misshapen = [name for name in shared if own[name].shape != state[name].shape]
    mistyped = [name for name in shared if not _has_type_of(own[name], state[name])]
    if missing or surplus or misshapen or mistyped:
        raise UnusableFile(
            f"{path} does not fit this {type(network).__name__}: "
            f"{_count(missing)} missing, {_count(surplus)} surplus, "
            f"{_count(misshapen)} of another shape, {_count(mistyped)} of another "
            "type. Build the network as it was built for training: "
            "ContextUnet(3, 64, 5, 16) for the files model_*.pth and "
            "context_model_*.pth; weights/README.md lists the others"
        )
    fitting = {name: state[name].detach().to(own[name].dtype) for name in own}
    _check_tensors(path, list(fitting.items()))  # float64 may be too large for float32
    return fitting


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside an average, parallel copies and torch.compile."""
    if not isinstance(model, nn.Module):
        is_path = isinstance(model, (str, os.PathLike))
        given = str(model) if is_path else f"{model!r:.80}"
        raise ValueError(f"expected a network, then a path; got {given}")
    wrappers = (
        nn.DataParallel,
        nn.parallel.DistributedDataParallel,
        torch.optim.swa_utils.AveragedModel,
    )
    if isinstance(model, wrappers):
        return _unwrapped(model.module)
    if hasattr(model, "_orig_mod"):  # torch.compile
        return _unwrapped(model._orig_mod)
    return model


def _without_prefixes(
    state: Mapping[str, Tensor], names: Iterable[str]
) -> Mapping[str, Tensor]:
    """A state dict with the network's own names, which wrappers have lengthened."""
    own_names = {_plain_name(name): name for name in names}
    renamed = {}
    for name, value in state.items():
        plain = _plain_name(name)
        renamed[own_names.get(plain, plain)] = value
    if len(renamed) < len(state):  # two names became one
        return state
    if "n_averaged" not in own_names:
        renamed.pop("n_averaged", None)  # the counter of an AveragedModel
    return renamed


def _plain_name(name: str) -> str:
    """The name without what wrappers add: "module.out.0.bias" is "out.0.bias"."""
    parts = name.split(".")
    return ".".join(part for part in parts if part not in ("module", "_orig_mod"))


def _has_type_of(own: Tensor, value: Tensor) -> bool:
    """Whether both are floating point, or both have the same whole numbers."""
    if own.is_floating_point():
        return value.is_floating_point()
    return own.dtype == value.dtype


def _count(names: Iterable[str]) -> str:
    """How many entries, with the name of one, as in "3 entries (out.0.bias ...)"."""
    if not names:
        return "0 entries"
    return f"{len(names)} entries ({min(names)} ...)"


def _load_archive(path: Path):
    """What torch.save wrote: tensors, numbers and text in dictionaries and lists.

    The tensors are plain numbers, finite and not too many.
    """
    names = sorted(file.name for file in path.parent.glob("*.pth"))
    _check_file(
        path,
        f"in that folder: {', '.join(names) or 'none'}. "
        "`python weights/train.py` trains what the course ships",
    )
    kind = "a file of weights that can be loaded safely"
    with _reading(path, kind, "train or copy it again"), open(path, "rb") as file:
        sizes = _check_archive(path, file)
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        if foreign:
            raise UnusableFile(_foreign_fault(path, foreign))
        file.seek(0)
        content = torch.load(file, map_location="cpu", weights_only=True)
        tensors = _tensors_in(path, content)
        _check_sizes(path, tensors, sizes)
    _check_tensors(path, tensors)
    return content


def _check_sizes(
    path: Path, tensors: Sequence[tuple[str, Tensor]], sizes: Sequence[int]
) -> None:
    """Raise an error if a tensor is said to be larger than its part of the archive.

    torch 2.6 would read on, in memory that has nothing to do with it.
    """
    claimed = {}
    for _, value in tensors:
        if value.layout == torch.strided and not value.is_meta:
            storage = value.untyped_storage()
            claimed[storage.data_ptr()] = storage.nbytes()
    claimed.pop(0, None)  # what is empty has no place in memory
    without_data = Counter(claimed.values()) - Counter(sizes)
    if without_data:
        raise UnusableFile(
            f"{path} is damaged: it has no data of {min(without_data):,} bytes, though "
            "a tensor of that size is listed; train or copy it again"
        )


def _foreign_fault(path: Path, names: Sequence[str]) -> str:
    """What to say of a file that names classes or functions, which it would call."""
    if any(name.startswith("torch.nn.modules.") for name in names):
        return (
            f"{path} holds a whole model, which cannot be loaded safely; save "
            "model.state_dict() instead"
        )
    return (
        f"{path} holds Python objects ({min(names)} ...), perhaps a whole model, which "
        "cannot be loaded safely; save tensors alone, as in model.state_dict()"
    )


def _tensors_in(path: Path, content) -> list[tuple[str, Tensor]]:
    """(the first key, the tensor) of every tensor in nested dictionaries and lists.

    Raises an error for anything else but numbers and text.
    """
    plain = (str, bytes, bool, int, float, type(None))
    tensors = []
    seen = set()  # a list may be in itself
    waiting = [("it", content)]
    if isinstance(content, Mapping):
        waiting = list(content.items())
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Tensor):
            tensors.append((name, value))
        elif isinstance(value, (Mapping, list, tuple)):
            if id(value) in seen:
                continue
            seen.add(id(value))
            parts = value.values() if isinstance(value, Mapping) else value
            waiting += [(name, part) for part in parts]
        elif not isinstance(value, plain):
            raise UnusableFile(
                f"{path}: {name} holds a {type(value).__name__}; expected tensors, "
                "numbers, text, lists and dictionaries"
            )
    return tensors


def _check_tensors(
    path: str | os.PathLike, tensors: Sequence[tuple[str, Tensor]]
) -> None:
    """Raise an error unless the tensors are plain numbers, finite and not too many."""
    with _reading(path, "a file of plain tensors"):
        _check_bytes(path, sum(v.numel() * v.element_size() for _, v in tensors))
        for name, value in tensors:
            fault = _tensor_fault(value)
            if fault:
                raise UnusableFile(
                    f"{path} cannot be used: {name} {fault}; train or copy it again"
                )


def _tensor_fault(value: Tensor) -> str:
    """What is wrong with a tensor from a file, or no word."""
    is_plain = type(value) in (Tensor, nn.Parameter)
    is_dense = value.layout == torch.strided and not value.is_nested
    if not is_plain or not is_dense or value.is_meta or value.dtype not in NUMBERS:
        return (
            f"is {value.dtype}, {value.layout}, on {value.device}; expected a plain "
            "tensor of real numbers"
        )
    if not value.isfinite().all():
        return "holds numbers that are not finite"
    return ""


# ---- Files of arrays and pictures ----------------------------------------------------


def load_array(path: str | os.PathLike, name: str | None = None) -> np.ndarray:
    """Read an array of finite numbers from a file.

    name: the array's name in a .npz file; None for a .npy file.

    Raises FileNotFoundError, or ValueError that names the file and what is wrong.
    """
    path = Path(path)
    _check_file(
        path,
        f"the course's own arrays are in {DATA} (written by data/make_sprites.py): "
        "copy the course's data/ folder beside diffusion_utilities.py",
    )
    kind = "a NumPy array file of plain numbers"
    with _reading(path, kind, "copy it again, or write it with np.save"):
        array = _read_npy(path) if name is None else _read_npz(path, name)
        _check_plain(path, array.dtype)
        native = array.dtype.newbyteorder("=")
        array = np.array(array, dtype=native, order="C")
    if not np.isfinite(array).all():
        raise UnusableFile(
            f"{path} holds numbers that are not finite (NaN or infinity); make it again"
        )
    return array


def _check_plain(path: Path, dtype: np.dtype) -> None:
    """Raise UnusableFile unless an array of this type holds plain numbers."""
    if dtype.kind not in PLAIN:
        raise UnusableFile(f"{path} holds {str(dtype)[:80]}; expected plain numbers")


def _read_npy(path: Path) -> np.ndarray:
    """The array in a .npy file, which must be neither too short nor too long."""
    with open(path, "rb") as file:
        start = file.read(6)
    if start.startswith(b"PK"):
        with open(path, "rb") as file:
            _check_archive(path, file)
        raise UnusableFile(
            f"{path} holds several arrays (.npz); expected one (.npy): "
            "save it with np.save"
        )
    if start != b"\x93NUMPY":
        raise ValueError("it does not begin as np.save begins a file")
    with open(path, "rb") as file:
        shape, dtype = _npy_header(path, file)
        expected = file.tell() + dtype.itemsize * math.prod(shape)
    size = os.path.getsize(path)
    if size != expected:
        raise UnusableFile(
            f"{path} is damaged: it has {size:,} bytes; expected {expected:,} for "
            f"{dtype} of shape {shape}. Copy it again"
        )
    return np.load(path, allow_pickle=False)


def _npy_header(path: Path, file: io.BufferedReader) -> tuple[tuple, np.dtype]:
    """The (shape, dtype) in a .npy file's header; leaves the file just after it.

    They are checked before the array is read, because NumPy trusts them: a side of -1
    can crash Python itself.
    """
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
        (3, 0): np.lib.format.read_array_header_2_0,  # other letters, same layout
    }
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"version {version} of the format is unknown")
    shape, _, dtype = readers[version](file)
    _check_plain(path, dtype)
    if any(side < 0 for side in shape):
        raise UnusableFile(
            f"{path} is damaged: its shape is {shape}; expected sides of 0 or more. "
            "Copy it again"
        )
    return shape, dtype


def _read_npz(path: Path, name: str) -> np.ndarray:
    """The array of that name in a .npz file."""
    with open(path, "rb") as file:
        _check_archive(path, file)
        with np.load(file, allow_pickle=False) as stored:
            if name not in stored.files:
                raise UnusableFile(
                    f"{path} has no array {name!r}; it has {', '.join(stored.files)}"
                )
            return stored[name]


def load_picture(path: str | os.PathLike) -> Image.Image:
    """Read a picture whole: its first frame, as Pillow decodes it.

    Pillow chooses the decoder by content, so it is given a short list of formats.
    Raises FileNotFoundError, or ValueError that names the file and what is wrong.
    """
    path = Path(path)
    _check_file(path, f"expected a picture ({', '.join(PICTURE_FORMATS)})")
    kind = "a picture that Pillow can read"
    with _reading(path, kind, "remove it or save it again as PNG"):
        if os.path.getsize(path) == 0:
            raise ValueError("0 bytes")
        with _open_picture(path) as picture:
            picture.verify()  # the checksums of a PNG
        with _open_picture(path) as picture:
            picture.load()
    return picture


def _open_picture(path: Path) -> Image.Image:
    """Read a picture's header; raises an error for too many pixels."""
    too_large = UnusableFile(
        f"{path} is too large: the limit is {MAX_PIXELS:,} pixels; cut it into smaller "
        "pictures, or raise diffusion_utilities.MAX_PIXELS"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            picture = Image.open(path, formats=PICTURE_FORMATS)
        except Image.DecompressionBombError:
            raise too_large from None
    if picture.width * picture.height > MAX_PIXELS:
        picture.close()
        raise too_large
    return picture


# ---- Data ----------------------------------------------------------------------------

CLASS_NAMES = ("hero", "non-hero", "food", "spell", "side-facing")
PARTS = ("train", "test", "compositional")
# uint8 (H, W, C) in 0..255 to float (C, H, W) in [-1, 1]
transform = transforms.Compose(
    [transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))]
)


def _data_module(name: str):
    """Import `data/{name}.py`, or raise FileNotFoundError that says what is missing."""
    path = DATA / f"{name}.py"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: copy the course's data/ folder beside "
            "diffusion_utilities.py"
        )
    if str(DATA) not in sys.path:
        sys.path.append(str(DATA))
    return importlib.import_module(name)


def sprite_factory():
    """The module `data/sprite_factory.py`: the grammar, rendering and decoding.

    It is imported only where it is needed. Raises FileNotFoundError without it.

    Lesson 3.
    """
    return _data_module("sprite_factory")


def sprite_palette() -> Tensor:
    """Every colour of the course's sprites: (104, 3), from -1 to 1.

    Lesson 8.
    """
    colours = sprite_factory().palette()
    return torch.from_numpy(colours / 127.5 - 1).float()


def sprite_scoring():
    """The module `data/sprite_scores.py`: what can be measured with the grammar.

    It is imported only where it is needed. Raises FileNotFoundError without it.

    Lesson 4.
    """
    return _data_module("sprite_scores")


def sprite_captions():
    """The grammar of captions, data/captions.py, as a module.

    Raises FileNotFoundError if it is missing.

    Lesson 8.
    """
    return _data_module("captions")


def _load_pictures(path: str | os.PathLike) -> np.ndarray:
    """The pictures (N, H, W, 3) uint8 in a .npy file; errors as `load_array`."""
    array = load_array(path)
    is_coloured = array.ndim == 4 and array.shape[3] == 3
    if not is_coloured or array.dtype != np.uint8 or array.size == 0:
        raise UnusableFile(
            f"{path} holds {array.dtype} of shape {array.shape}; expected uint8 of "
            "shape (N, H, W, 3). load_sprite_pictures makes such an array from PNGs"
        )
    return array


def _load_labels(
    path: str | os.PathLike, n: int, classes: int | None = None
) -> np.ndarray:
    """The labels of n sprites in a .npy file: one-hot rows (uint8) or soft (float32).

    classes: how many there have to be; None for any number.
    """
    labels = load_array(path)
    wanted = f"expected ({n}, {classes or 'classes'}), one-hot rows"
    fits = labels.ndim == 2 and len(labels) == n
    if not fits or classes not in (None, labels.shape[1]):
        raise UnusableFile(
            f"{path} has shape {labels.shape} beside {n} sprites; {wanted}. "
            "np.eye(classes)[numbers] makes them of class numbers"
        )
    if (labels < 0).any() or (labels > 1).any():
        raise UnusableFile(
            f"{path} holds numbers from {labels.min()} to {labels.max()}; {wanted}, or "
            "soft ones with numbers from 0 to 1"
        )
    is_one_hot = np.isin(labels, (0, 1)).all()
    return labels.astype(np.uint8 if is_one_hot else np.float32)


class CustomDataset(Dataset):
    """Sprites and labels from two .npy files.

    sfilename: the file of the sprites, (N, H, W, 3) uint8.
    lfilename: the file of the labels, (N, classes), one-hot rows.
    transform: a function that makes a picture from one sprite, or None for tensors
        (3, H, W) in [-1, 1].
    null_context: whether to set all labels to zero.

    Item i is (picture, label); the label is (classes,) int64, or float32 if the rows
    are soft (with numbers between 0 and 1). Raises FileNotFoundError or ValueError that
    names the file and the remedy.

    Lesson 3.
    """

    def __init__(self, sfilename, lfilename, transform, null_context=False):
        self.sprites = _load_pictures(sfilename)
        self.slabels = _load_labels(lfilename, len(self))
        self.transform = transform
        self.null_context = null_context
        self.sprites_shape = self.sprites.shape
        self.slabel_shape = self.slabels.shape

    def __len__(self):
        return len(self.sprites)

    def __getitem__(self, idx):
        change = self.transform or to_model_range
        picture = change(self.sprites[idx])
        label = torch.as_tensor(self.slabels[idx])
        if not label.is_floating_point():
            label = label.long()
        if self.null_context:
            label = torch.zeros_like(label)
        return picture, label

    def getshapes(self):
        """The shapes of the two arrays."""
        return self.sprites_shape, self.slabel_shape


def to_model_range(pictures: np.ndarray) -> Tensor:
    """Pictures as networks take them: `transform` for many at once.

    pictures: (..., H, W, C) uint8. Returns (..., C, H, W) float32 in [-1, 1]. Raises
    ValueError for others.

    Lesson 3.
    """
    pictures = np.asarray(pictures)
    if pictures.dtype != np.uint8 or pictures.ndim < 3:
        raise ValueError(
            f"pictures: {_shown(pictures)} given; expected uint8 (..., H, W, C)"
        )
    channels_first = np.moveaxis(pictures, -1, -3)
    values = torch.from_numpy(np.ascontiguousarray(channels_first))
    return values.float() / 127.5 - 1


@dataclass(frozen=True, eq=False)
class Sprites:
    """One part of the sprites.

    images: (N, 16, 16, 3) uint8.
    labels: (N, 5) uint8, one-hot in the order of CLASS_NAMES; float32 if they are soft.
    factors: N dictionaries with the named factors of each sprite.

    Lesson 3.
    """

    images: np.ndarray
    labels: np.ndarray
    factors: list[dict[str, str]]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def x(self) -> Tensor:
        """The images for a network: (N, 3, 16, 16) float32 in [-1, 1]."""
        return to_model_range(self.images)

    @property
    def c(self) -> Tensor:
        """The labels for a network: (N, 5) float32."""
        return torch.from_numpy(self.labels).float()


def load_sprites(part: str = "train", root: str | os.PathLike = DATA) -> Sprites:
    """The sprites of one part of the data.

    part: "train", "test" (drawn like it) or "compositional" (with pairs of factor
        values that train lacks).
    root: the folder of the files.

    Raises ValueError if there is no such part, or if the files do not belong together,
    and FileNotFoundError where a file is missing.

    Lesson 3.
    """
    if part not in PARTS:
        raise ValueError(
            f"part={part!r} does not exist; expected one of {', '.join(PARTS)}"
        )
    folder = Path(root)
    images = _load_pictures(folder / "sprites_16x16.npy")
    label_file = folder / "sprite_labels_16x16.npy"
    labels = _load_labels(label_file, len(images), len(CLASS_NAMES))
    rows = _load_rows(folder / "sprite_factors_16x16.csv")
    if len(images) != len(rows):
        raise UnusableFile(
            f"{len(images)} sprites and {len(rows)} rows of factors in {root}; "
            "expected equal numbers"
        )
    chosen = [i for i, row in enumerate(rows) if row["part"] == part]
    factors = [_factors_of(rows[i]) for i in chosen]
    return Sprites(images[chosen], labels[chosen], factors)


def _load_rows(path: Path) -> list[dict[str, str]]:
    """The rows of the CSV file of parts and factors, {column: text} each."""
    _check_file(path, "`python data/make_sprites.py` writes it")
    with _reading(path, "a table of factors"):
        with open(path, newline="", encoding="utf8") as file:
            rows = list(csv.DictReader(file, strict=True))
        for number, row in enumerate(rows, start=2):
            is_whole = None not in row and None not in row.values()
            if not is_whole or row.get("part") not in PARTS:
                raise UnusableFile(
                    f"{path}, row {number}: expected as many cells as the first row "
                    f"has, and a part, one of {', '.join(PARTS)}; copy it again"
                )
    return rows


def _factors_of(row: dict[str, str]) -> dict[str, str]:
    """The factors in a row; those that its class does not have are empty there."""
    return {name: text for name, text in row.items() if text and name != "part"}


def load_digits(
    name: str = "mnist", root: str | os.PathLike = DATA, download: bool = False
) -> tuple[Tensor, Tensor]:
    """Real pictures of digits or clothes.

    name: "mnist" or "fashion_mnist".
    root: the folder where torchvision keeps its files.
    download: whether torchvision may fetch them.

    Returns pictures (N, 1, 28, 28) in [0, 1] and labels (N,) int64. It is the full
    training set if torchvision finds it; otherwise it is the 5,000 pictures that come
    with the course, and a printed line says so. Raises ValueError for any other name,
    and for a full set that is damaged.

    Lesson 1.
    """
    from torchvision import datasets

    sets = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST}
    if name not in sets:
        raise ValueError(
            f"name={name!r} does not exist; expected one of {', '.join(sets)}"
        )
    try:
        full = sets[name](root, train=True, download=download)
        _check_digits(full.data, full.targets)
    except Exception as error:  # torchvision raises half a dozen types
        folder = Path(root) / sets[name].__name__
        if _is_complete(folder):
            raise UnusableFile(
                f"{folder} is damaged ({_reason(error, folder)}); remove it, and try "
                "again with download=True"
            ) from None
        why = ""
        if root != DATA:
            why = f" (the full set is not under root={Path(root).name!r})"
        if download:
            last_line = str(error).strip().split("\n")[-1]
            why = f" (the download failed: {last_line})"
        print(f"{name}: the 5,000 pictures that ship with the course{why}")
        return _load_shipped_digits(name)
    return full.data[:, None].float() / 255, full.targets


def _is_complete(folder: Path) -> bool:
    """Whether torchvision has all files of a set; old versions had processed ones."""
    raw = list((folder / "raw").glob("*-ubyte"))
    processed = list((folder / "processed").glob("*.pt"))
    return len(raw) == 4 or len(processed) == 2


def _load_shipped_digits(name: str) -> tuple[Tensor, Tensor]:
    """The 5,000 pictures of `load_digits` that come with the course, and labels."""
    path = DATA / f"{name}_5k.npz"
    pictures = torch.from_numpy(load_array(path, "images"))
    labels = torch.from_numpy(load_array(path, "labels")).long()
    with _reading(path, "a file of digits"):
        _check_digits(pictures, labels)
    return pictures[:, None].float() / 255, labels


def _check_digits(pictures: Tensor, labels: Tensor) -> None:
    """Raise an error unless they are (N, 28, 28) uint8 and (N,) whole, from 0 to 9."""
    fits = pictures.shape == (len(labels), 28, 28) and pictures.dtype == torch.uint8
    if not fits or labels.dtype != torch.int64 or labels.ndim != 1:
        raise ValueError(
            f"pictures {tuple(pictures.shape)} {pictures.dtype} with labels "
            f"{tuple(labels.shape)}; expected (N, 28, 28) uint8 and (N,)"
        )
    if (labels < 0).any() or (labels > 9).any():
        raise ValueError("the labels are not all from 0 to 9")


PICTURE_ENDINGS = (".png", ".gif", ".bmp", ".jpg", ".jpeg", ".webp", ".tga")


def load_sprite_pictures(
    path: str | os.PathLike,
    tile: int | tuple[int, int] = 16,
    *,
    alpha: bool = False,
    margin: int = 0,
    spacing: int = 0,
    background: tuple[int, int, int] | str | None = None,
) -> np.ndarray:
    """Your own sprites as an array (N, height, width, 3) uint8, or 4 with alpha.

    alpha: keep transparency, as a fourth channel from 0 to 255. Else it becomes white.
    The other arguments are those of `load_tiles`, and so are the errors.

    Lesson 16.
    """
    tiles, _ = load_tiles(
        path, tile, margin=margin, spacing=spacing, background=background
    )
    return tiles if alpha else on_white(tiles)


def load_tiles(
    path: str | os.PathLike,
    tile: int | tuple[int, int] = 16,
    *,
    margin: int = 0,
    spacing: int = 0,
    background: tuple[int, int, int] | str | None = None,
) -> tuple[np.ndarray, list[Path]]:
    """Your own sprites, and the file that each comes from.

    path: a sheet, which is cut into tiles row by row, or a folder of pictures of the
        size of one tile. They are read in the order of their paths, subfolders too,
        except those whose names begin with a dot.
    tile: the side of a sprite in pixels, or its (width, height).
    margin: pixels to the left of the first tile and above it.
    spacing: pixels between two tiles.
    background: a colour (red, green, blue) that becomes transparent; or "auto" for the
        colour that most corners of the tiles have. A ground of black or white is
        then transparent only where it is joined to the edge, because drawings have
        such colours, too. If anything is transparent already, "auto" changes nothing.

    Empty tiles are left out, and nothing is resized. If a file in a folder cannot be
    used, it is left out, and a printed line says why. Another line says if a sheet
    seems to have gaps between its tiles.

    Returns (N, height, width, 4) uint8, and N paths. Pixels with an alpha of 0 are
    white. Raises FileNotFoundError for a path that does not exist, and ValueError for
    other arguments, and if no tile is left; the message says what is wrong with the
    files.

    Lesson 16.
    """
    path = Path(path)
    grid = _Grid.of(tile, margin, spacing, in_folder=os.path.isdir(path))
    key = _checked_background(background)
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"{path} does not exist; expected a folder of pictures, or a file that "
            f"holds a sheet of {grid.width}x{grid.height} tiles"
        )
    files = _picture_files(path) if grid.in_folder else [path]
    cut, faults = _cut_files(files, grid)
    tiles, sources, empty = _drawn_tiles(cut, key)
    base = path if grid.in_folder else path.parent
    left_out = _grouped(faults + empty, base)
    if not sources:
        raise _nothing_drawn(path, len(files), left_out)
    for line in left_out:
        print(f"left out: {line}")
    return np.concatenate(tiles), sources


def _nothing_drawn(path: Path, count: int, left_out: Sequence[str]) -> ValueError:
    """The error for a path of which no tile is left.

    count: of the pictures that were found there.
    """
    why = "; ".join(left_out)
    if count == 0:
        why = f"Expected files that end in {', '.join(PICTURE_ENDINGS)}"
    return ValueError(
        f"{path} holds no tile with anything drawn on it (pictures found: {count}). "
        f"{why}"
    )


@dataclass(frozen=True)
class _Grid:
    """How a sheet is cut: the arguments of `load_tiles`."""

    width: int
    height: int
    margin: int
    spacing: int
    in_folder: bool

    @classmethod
    def of(cls, tile, margin: int, spacing: int, in_folder: bool) -> _Grid:
        pair = tuple(tile) if _is_list(tile) else (tile, tile)
        if len(pair) != 2 or not all(map(_is_whole, pair)):
            raise ValueError(
                f"tile={_shown(tile)}; expected a whole number of pixels, or a pair "
                "(width, height)"
            )
        _whole("margin", margin, least=0)
        _whole("spacing", spacing, least=0)
        return cls(*pair, margin, spacing, in_folder)

    def corners(self, size: tuple[int, int]) -> list[tuple[int, int]] | None:
        """The upper left corners (x, y) of the tiles, row by row.

        size: of a picture (width, height). None if tiles do not fill it.
        """
        columns = self._along(size[0], self.width)
        rows = self._along(size[1], self.height)
        if self.in_folder and size != (self.width, self.height):
            return None
        if not columns or not rows:
            return None
        return [(x, y) for y in rows for x in columns]

    def _along(self, length: int, side: int) -> list[int]:
        """Where tiles begin along one side. The last may have a gap after it."""
        if side < 1:
            return []
        stride = side + self.spacing
        count = (length - self.margin + self.spacing) // stride
        end = self.margin + count * stride - self.spacing
        if length - end > max(self.margin, self.spacing):
            return []
        return [self.margin + i * stride for i in range(count)]

    def fault(self, size: tuple[int, int]) -> str:
        """What is wrong with the size of a picture that this grid does not cut."""
        tile = f"{self.width}x{self.height}"
        wanted = f"{tile} (a sheet? give its own path)"
        if not self.in_folder:
            side = self.width if self.width == self.height else tile
            wanted = f"sides that tile={side} divides"
            with_gaps = self.with_gaps(size)
            if with_gaps:
                wanted += f"; with {with_gaps[0].gaps} it would fit"
        return (
            f"is {size[0]}x{size[1]} pixels; expected {wanted}: "
            "tile= is the tile size, in pixels"
        )

    def with_gaps(self, size: tuple[int, int]) -> list[_Grid]:
        """Grids of the same tiles with gaps that fit a picture of this size."""
        grids = []
        for spacing in range(1, 5):
            for margin in range(spacing + 1):
                grid = replace(self, margin=margin, spacing=spacing)
                if len(grid.corners(size) or []) > 1:
                    grids.append(grid)
        return grids

    @property
    def gaps(self) -> str:
        if self.margin:
            return f"margin={self.margin} and spacing={self.spacing}"
        return f"spacing={self.spacing}"


def _picture_files(folder: Path) -> list[Path]:
    """The pictures in a folder and its subfolders; other files get one line."""
    with _reading(folder, "a folder that may be read"):
        every = sorted(file for file in folder.rglob("*") if file.is_file())
    every = [file for file in every if not _is_hidden(file.relative_to(folder))]
    files = [file for file in every if file.suffix.lower() in PICTURE_ENDINGS]
    endings = {file.suffix or file.name for file in every} - {f.suffix for f in files}
    if len(files) < len(every):
        print(
            f"left out, because they are not pictures: {len(every) - len(files)} "
            f"({', '.join(sorted(endings)[:5])})"
        )
    return files


def _is_hidden(path: Path) -> bool:
    """Whether the name of a file, or of a folder above it, begins with a dot."""
    return any(part.startswith(".") for part in path.parts)


def _cut_files(
    files: Sequence[Path], grid: _Grid
) -> tuple[list[tuple[Path, np.ndarray]], list[tuple[Path, str]]]:
    """([(file, its tiles)], [(file, what is wrong with it)])."""
    cut = []
    faults = []
    for file in files:
        try:
            picture = load_picture(file)
        except (UnusableFile, FileNotFoundError) as error:
            faults.append((file, str(error).removeprefix(f"{file} ")))
            continue
        corners = grid.corners(picture.size)
        if corners is None:
            faults.append((file, grid.fault(picture.size)))
            continue
        pixels = _as_rgba(picture)
        _hint_at_gaps(file.name, pixels, grid)
        cut.append((file, _cut(pixels, corners, grid)))
    return cut, faults


def _drawn_tiles(
    cut: Sequence[tuple[Path, np.ndarray]], key
) -> tuple[list[np.ndarray], list[Path], list[tuple[Path, str]]]:
    """(arrays of tiles, the file of each tile, [(file, that it is empty)])."""
    only_outside = isinstance(key, str)
    if only_outside:
        key = _corner_colour([tiles for _, tiles in cut])
    arrays = []
    sources = []
    empty = []
    for file, tiles in cut:
        tiles = _without_background(tiles, key, only_outside)
        drawn = tiles[_are_drawn(tiles)]
        arrays.append(drawn)
        sources += [file] * len(drawn)
        if not len(drawn):
            empty.append((file, "is empty: white or transparent all over"))
    return arrays, sources, empty


def _cut(sheet: np.ndarray, corners: Sequence, grid: _Grid) -> np.ndarray:
    """The tiles (N, height, width, 4) of a sheet (H, W, 4)."""
    tiles = [sheet[y : y + grid.height, x : x + grid.width] for x, y in corners]
    return np.stack(tiles)


def _hint_at_gaps(name: str, sheet: np.ndarray, grid: _Grid) -> None:
    """Say if another grid has nothing but one colour between its tiles."""
    if grid.in_folder or grid.spacing:
        return
    height, width = sheet.shape[:2]
    for other in grid.with_gaps((width, height)):
        between = np.ones((height, width), bool)
        for x, y in other.corners((width, height)):
            between[y : y + grid.height, x : x + grid.width] = False
        gaps = sheet[between]
        if (gaps == gaps[0]).all():
            print(
                f"hint: {name} seems to have gaps between its tiles; try {other.gaps}"
            )
            return


def _grouped(
    faults: Sequence[tuple[Path, str]], base: Path, most: int = 20
) -> list[str]:
    """One line for each fault; more than three files with the same one share it.

    base: the folder that files are named from.
    """
    same = {}
    for file, fault in sorted(faults):
        same.setdefault(fault, []).append(file)
    lines = []
    for file, fault in sorted(faults):
        name = file.relative_to(base).as_posix()
        count = len(same[fault])
        if count <= 3:
            lines.append(f"{name} {fault}")
        elif file == same[fault][0]:
            lines.append(f"{count} files, such as {name}: each {fault}")
    if len(lines) > most:
        lines[most:] = [f"{len(lines) - most} more with other faults"]
    return lines


def _as_rgba(picture: Image.Image) -> np.ndarray:
    """A picture of any mode: (H, W, 4) uint8, white where it is transparent."""
    if picture.mode in ("I;16", "I;16B", "I"):  # Pillow would clip 16-bit grey
        values = np.asarray(picture, dtype=np.int64) >> 8
        picture = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    if picture.mode == "CMYK":  # a JPEG for print
        picture = picture.convert("RGB")
    pixels = np.array(picture.convert("RGBA"))
    pixels[pixels[..., 3] == 0, :3] = 255
    return pixels


def on_white(pictures: np.ndarray) -> np.ndarray:
    """Pictures (..., 4) uint8 laid on white: (..., 3) uint8.

    Raises ValueError for other arrays.

    Lesson 16.
    """
    pictures = np.asarray(pictures)
    if pictures.dtype != np.uint8 or pictures.shape[-1:] != (4,):
        raise ValueError(
            f"pictures: {pictures.dtype} of shape {pictures.shape} given; expected "
            "uint8 of shape (..., 4)"
        )
    alpha = pictures[..., 3:].astype(int)
    mixed = pictures[..., :3] * alpha + 255 * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def _are_drawn(tiles: np.ndarray) -> np.ndarray:
    """Whether anything is drawn on each tile (N, H, W, 4): (N,) bool.

    Where a tile has transparent pixels, any other pixel is a drawing, even a white one.
    """
    opaque = (tiles[..., 3] == 255).all((1, 2))
    coloured = (tiles[..., :3] < 255).any((1, 2, 3))
    return np.where(opaque, coloured, (tiles[..., 3] > 0).any((1, 2)))


def _checked_background(background):
    """None, "auto", or a colour as an array (3,) uint8."""
    if background is None or isinstance(background, str) and background == "auto":
        return background
    colour = _listed(background) if _is_list(background) else []
    if len(colour) != 3 or not all(_is_whole(c) and 0 <= c <= 255 for c in colour):
        raise ValueError(
            f"background={_shown(background)}; expected three whole numbers from 0 to "
            '255, "auto" or None'
        )
    return np.array(colour, np.uint8)


def _corner_colour(sheets: Sequence[np.ndarray]) -> np.ndarray | None:
    """The colour of at least half of the tiles' corners, if nothing is transparent."""
    if not sheets or any((tiles[..., 3] < 255).any() for tiles in sheets):
        return None
    corners = [tiles[:, [0, 0, -1, -1], [0, -1, 0, -1], :3] for tiles in sheets]
    colours, counts = np.unique(
        np.concatenate(corners).reshape(-1, 3), axis=0, return_counts=True
    )
    return colours[counts.argmax()] if counts.max() >= counts.sum() / 2 else None


def _without_background(
    tiles: np.ndarray, colour: np.ndarray | None, only_outside: bool
) -> np.ndarray:
    """Tiles (N, H, W, 4) with one colour made transparent.

    only_outside: black and white only where they are joined to the edge of a tile.
    """
    if colour is None:
        return tiles
    ground = (tiles[..., :3] == colour).all(3)
    if only_outside and (np.ptp(colour) == 0 and colour[0] in (0, 255)):
        ground = joined_to_the_edge(ground)
    tiles = tiles.copy()
    tiles[ground] = (255, 255, 255, 0)
    return tiles


def joined_to_the_edge(marked: np.ndarray) -> np.ndarray:
    """The marked pixels that other marked ones join to the edge of their picture.

    marked: (N, H, W) bool. Steps go up, down, left and right, not diagonally.
    Returns (N, H, W) bool.

    Lesson 16.
    """
    found = marked.copy()
    found[:, 1:-1, 1:-1] = False
    while True:
        wider = np.pad(found, ((0, 0), (1, 1), (1, 1)))
        beside = wider[:, :-2, 1:-1] | wider[:, 2:, 1:-1]
        beside |= wider[:, 1:-1, :-2] | wider[:, 1:-1, 2:]
        grown = marked & (found | beside)
        if (grown == found).all():
            return found
        found = grown


# ---- Measuring -----------------------------------------------------------------------


@torch.no_grad()
def denoising_losses(model, x, schedule, *, steps, c=None, seed=0, batch=100) -> Tensor:
    """The error of the predicted noise, for each picture at each step.

    x: clean pictures (N, C, H, W). c: contexts (N, n_cfeat), or None.
    steps: which t to measure at, each from 1 to T.
    seed: the seed of the noise, which is the same for every model.
    batch: how many pictures the model gets at once.

    Returns (len(steps), N): the squared error, averaged over pixels and channels. On
    held-out pictures it tells learning from memorising. The standard error of the mean
    of a row is std / sqrt(N). Raises ValueError for other arguments.

    Source: [DDPM] eq. 14.

    Lesson 4.
    """
    generator = _seeded(seed)
    _check_schedule(schedule)
    steps = _checked_steps(steps, least=1, T=schedule.T)
    batch = _whole("batch", batch)
    x, c = _on_device(model, "x", x, c)
    losses = []
    with evaluating(model):
        for t in steps:
            noise = torch.randn(x.shape, generator=generator).to(x)
            x_t = perturb_input(x, t, noise, schedule)
            predicted = _predict_in_batches(model, x_t, t / schedule.T, c, batch)
            errors = (predicted - noise).square()
            losses.append(errors.flatten(1).mean(1))
    return torch.stack(losses).cpu()


def _predict_in_batches(model, x, time, context, batch) -> Tensor:
    """The noise that a model predicts in all of x (N, C, H, W), for one t / T."""
    predictions = []
    for first in range(0, len(x), batch):
        rows = slice(first, first + batch)
        times = x.new_full((len(x[rows]),), time)
        asked = None if context is None else context[rows]
        predicted = model(x[rows], times, asked)
        _check_predicted(predicted, x[rows])
        predictions.append(predicted)
    return torch.cat(predictions)


def nearest_pictures(
    x: Tensor | np.ndarray, reference: Tensor | np.ndarray, k: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest reference pictures of each picture, nearest first.

    x, reference: tensors (N, C, H, W) in [-1, 1], or uint8 arrays (N, H, W, 3).
    k: how many, from 1 to the number of reference pictures.

    Returns (distances, indices), both (N,), or (N, k) for k > 1. A distance is the root
    mean square over pixels and channels, from 0 to 1. Raises ValueError for a k
    outside its range, and for pictures of different sizes.

    Lesson 4.
    """
    ours = _as_vectors(x)
    theirs = _as_vectors(reference)
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(
            f"a picture has {ours.shape[1]} numbers and a reference picture "
            f"{theirs.shape[1]}; expected the same size"
        )
    if not _is_whole(k) or not 1 <= k <= len(theirs):
        raise ValueError(
            f"k={k}; expected 1 to {len(theirs)}, the number of reference pictures"
        )
    nearest = torch.cdist(ours, theirs).topk(k, largest=False)
    distances = nearest.values.squeeze(1) / ours.shape[1] ** 0.5
    indices = nearest.indices.squeeze(1)
    return distances.numpy(), indices.numpy()


def _as_vectors(pictures: Tensor | np.ndarray) -> Tensor:
    """Pictures (N, ...) as rows of numbers from 0 to 1, rounded to uint8 first."""
    pictures = to_pictures(pictures)
    if pictures.ndim != 4:
        raise ValueError(
            f"pictures have shape {pictures.shape}; expected (N, H, W, 3) or a tensor "
            "(N, C, H, W)"
        )
    return torch.from_numpy(pictures / 255).flatten(1)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The squared Frechet distance between Gaussians fitted to two sets of features.

    a: features (N, d). b: features (M, d).

    Returns |mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), in squared units of the
    features. Small sets score too high, so compare sets of equal size. Raises
    ValueError for other shapes, fewer than two rows, and NaN.

    Source: [FID] eq. 6.

    Lesson 4.
    """
    a, b = _features(a, b)
    covariance_a = np.atleast_2d(np.cov(a, rowvar=False))
    covariance_b = np.atleast_2d(np.cov(b, rowvar=False))
    shift = np.square(a.mean(0) - b.mean(0)).sum()
    spread = np.trace(covariance_a + covariance_b)
    eigenvalues = np.linalg.eigvals(covariance_a @ covariance_b)
    # They are real and not negative, apart from rounding errors.
    overlap = np.sqrt(eigenvalues.real.clip(0)).sum()
    return float(shift + spread - 2 * overlap)


def _features(a, b) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of features as arrays, once they are finite tables of equal width."""
    a = _tensor("features", a).detach().cpu().numpy()
    b = _tensor("features", b).detach().cpu().numpy()
    are_tables = a.ndim == 2 and b.ndim == 2 and a.shape[1] == b.shape[1]
    if not are_tables or min(len(a), len(b)) < 2:
        raise ValueError(
            f"features have shapes {a.shape} and {b.shape}; "
            "expected (N, d) and (M, d), N and M at least 2"
        )
    if not np.isfinite(a).all() or not np.isfinite(b).all():
        raise ValueError("features: NaN or infinity found; expected finite numbers")
    return a, b


def precision_recall_density_coverage(
    real: np.ndarray, fake: np.ndarray, k: int = 5
) -> dict[str, np.ndarray]:
    """Four scores from neighbourhoods of features.

    The neighbourhood of a feature is the open ball around it that reaches to its k-th
    neighbour in its own set.

    real: features (N, d). fake: features (M, d).

    Returns one value for each picture; the means are the scores.
    "precision" (M,): is the fake in the ball of any real?
    "recall" (N,): is the real in the ball of any fake?
    "density" (M,): the number of reals whose ball holds the fake, divided by k.
    "coverage" (N,): is any fake in the ball of the real?

    Raises ValueError unless k is at least 1 and smaller than N and M, and for features
    that are no finite tables of equal width.

    Sources: [PR] eq. 2, [PRDC] eq. 3 and 4.

    Lesson 9.
    """
    real, fake = _features(real, fake)
    if not _is_whole(k) or not 1 <= k < min(len(real), len(fake)):
        raise ValueError(
            f"k={k} with {len(real)} and {len(fake)} features; "
            "expected 1 <= k < the smaller number"
        )
    real = torch.as_tensor(real, dtype=torch.float64)
    fake = torch.as_tensor(fake, dtype=torch.float64)
    distances = torch.cdist(real, fake)
    in_real = distances < _ball_radius(real, k)[:, None]
    in_fake = distances < _ball_radius(fake, k)
    values = {
        "precision": in_real.any(0),
        "recall": in_fake.any(1),
        "density": in_real.double().sum(0) / k,
        "coverage": in_real.any(1),
    }
    return {name: value.numpy() for name, value in values.items()}


def _ball_radius(features: Tensor, k: int) -> Tensor:
    """How far the k-th neighbour of each feature (N, d) is in the same set: (N,)."""
    distances = torch.cdist(features, features)
    return distances.kthvalue(k + 1).values  # the nearest is the feature itself


def memorised(
    pictures: Tensor | np.ndarray, training: Tensor | np.ndarray
) -> np.ndarray:
    """Whether each picture is a copy of a training picture: (N,) bool.

    A picture counts as a copy if its nearest training picture is less than a third as
    far away as the second-nearest, duplicates aside.

    pictures, training: as in `nearest_pictures`. Raises ValueError for fewer than two
    different training pictures.

    Source: [Memo].

    Lesson 9.
    """
    different = np.unique(to_pictures(training), axis=0)
    if len(different) < 2:
        raise ValueError(
            f"training holds {len(different)} different picture(s); expected 2 or more"
        )
    distances, _ = nearest_pictures(pictures, different, k=2)
    first, second = distances.T
    return first < second / 3


def feature_network(
    path: str | os.PathLike | None = WEIGHTS / "features.pth",
) -> nn.Sequential:
    """The body of a small classifier of class and factors.

    `weights/train.py` trains it with a head, which is then thrown away. In the same way
    [FID] uses the last layer but one of Inception.

    path: the file of its weights, or None for random weights.

    Returns a network from pictures (N, 3, 16, 16) in [-1, 1] to features (N, 64).

    Lesson 4.
    """
    body = nn.Sequential(
        UnetDown(3, 32),  # (N, 32, 8, 8)
        UnetDown(32, 64),  # (N, 64, 4, 4)
        nn.Flatten(),  # (N, 1024)
        nn.Linear(1024, 64),  # (N, 64)
    )
    if path is None:
        return body
    return load_weights(body, path)


@torch.no_grad()
def sprite_features(pictures: Tensor | np.ndarray) -> np.ndarray:
    """The features of sprites, as `feature_network` sees them: (N, 64) float64.

    pictures: a tensor (N, 3, 16, 16) in [-1, 1], which is rounded to uint8 first, or a
        uint8 array (N, 16, 16, 3). Raises ValueError for another shape.

    Lesson 4.
    """
    pictures = to_pictures(pictures)
    if pictures.ndim != 4 or pictures.shape[1:3] != (16, 16):
        raise ValueError(
            f"pictures have shape {pictures.shape}; expected (N, 16, 16, 3) or a "
            "tensor (N, 3, 16, 16)"
        )
    network = feature_network()
    x = to_model_range(pictures)
    features = [network(part) for part in x.split(250)]
    return torch.cat(features).double().numpy()


def sprite_scores(pictures, asked=None) -> dict[str, tuple[float, float, float]]:
    """Every measure of a set of sprites, compared with the part `train`.

    pictures: as in `sprite_features`, at least 20.
    asked: what was asked for: contexts (N, 5), in which a row of zeros asks for
        nothing, or N dictionaries of factors; or None.

    Returns {measure: (value, low, high)}, where low and high are the ends of a 95 %
    interval. First come the measures of `sprite_scoring().summary`, then "memorised",
    then those of `precision_recall_density_coverage` against as many pictures of
    `train`, then "FD", the `frechet_distance` to all of `train`. Raises ValueError as
    `summary` does.

    Lesson 9.
    """
    scoring = sprite_scoring()
    train = load_sprites("train")
    pictures = to_pictures(pictures)
    scores = scoring.summary(pictures, train.factors, asked)
    copies = memorised(pictures, train.images)
    scores["memorised"] = scoring.interval(copies)
    return scores | _feature_scores(pictures, train.images)


def _feature_scores(
    pictures: np.ndarray, training: np.ndarray
) -> dict[str, tuple[float, float, float]]:
    """The scores that `sprite_scores` computes from features."""
    scoring = sprite_scoring()
    ours = sprite_features(pictures)
    theirs = sprite_features(training)
    order = np.random.default_rng(0).permutation(len(theirs))
    real = theirs[order[: len(ours)]]  # as many as there are samples
    near = precision_recall_density_coverage(real, ours)
    scores = {
        "precision": scoring.interval(near["precision"]),
        "recall": None,  # the order of the table; filled in below
        "density": scoring.interval(near["density"]),
        "coverage": None,
        "FD": None,
    }

    def scores_of(rows):
        some = ours[rows]
        near = precision_recall_density_coverage(real, some)
        distance = frechet_distance(some, theirs)
        return near["recall"].mean(), near["coverage"].mean(), distance

    # The jackknife leaves out samples. Recall and coverage have one value for each real
    # sprite, but what chance has drawn are the samples.
    intervals = scoring.jackknife(scores_of, len(ours))
    scores["recall"], scores["coverage"], scores["FD"] = intervals
    return scores


def sprite_report(samples, asked=None, n: int = 1000, seed: int = 0) -> str:
    """The scores of the first n samples in a table, beside a floor and a ceiling.

    Samples are as good as training sprites if they score like `test`, sprites that are
    drawn like `train` and held out: this column is called the floor. The column called
    the ceiling has sprites drawn evenly from the whole grammar. All columns have n
    pictures.

    samples, asked: as in `sprite_scores`.
    n: from 20 to 1,100 (the number of `test` sprites), at most len(samples).
    seed: the seed of the choice of test sprites, and of the fresh draws.

    Returns text to print. Raises ValueError for an n outside this range.

    Lesson 9.
    """
    factory = sprite_factory()
    scoring = sprite_scoring()
    test = load_sprites("test")
    if not _is_whole(n) or not scoring.GROUPS <= n <= min(len(samples), len(test)):
        raise ValueError(
            f"n={n} of {len(samples)} samples; expected {scoring.GROUPS} to "
            f"{len(test)}, and no more than there are samples"
        )
    if asked is not None:
        asked = asked[:n]
    chosen = np.random.default_rng(seed).permutation(len(test))[:n]
    fresh = factory.render_many(factory.draw_specifications(n, seed))
    columns = {
        "samples": sprite_scores(samples[:n], asked),
        "test (floor)": sprite_scores(test.images[chosen]),
        "fresh legal (ceiling)": sprite_scores(fresh),
    }
    return scoring.score_table(columns, n)


# ---- Pictures ------------------------------------------------------------------------


def unorm(x):
    """Map values in [-1, 1] to [0, 1], and clip what lies outside.

    The map is the same for every picture and every channel, so that colours stay true.

    Lesson 3.
    """
    return (x * 0.5 + 0.5).clip(0, 1)


def norm_all(store, n_t, n_s):
    """`unorm` for the first n_t frames and n_s pictures of a store.

    store: (frames, pictures, ...).

    Lesson 4.
    """
    return unorm(store[:n_t, :n_s])


def norm_torch(x_all):
    """`unorm` for a batch; returns a tensor on the CPU, without gradient.

    Lesson 3.
    """
    return unorm(torch.as_tensor(x_all).detach().cpu())


def gen_tst_context(n_cfeat):
    """36 test contexts: the one-hot rows and a row of zeros, over and over.

    Returns (36, contexts), where the contexts are a tensor (36, n_cfeat).

    Lesson 3.
    """
    n_cfeat = _whole("n_cfeat", n_cfeat)
    one_hot = torch.eye(n_cfeat)
    nothing = torch.zeros(1, n_cfeat)
    rows = torch.cat((one_hot, nothing))
    which = torch.arange(36) % len(rows)
    return 36, rows[which]


def plot_grid(x, n_sample, n_rows, save_dir, w):
    """Save a grid of pictures as {save_dir}run_image_w{w}.png.

    x: pictures (N, 3, H, W) in [-1, 1]. The first n_sample of them are shown, in n_rows
    rows. Returns the grid, a tensor (3, H', W') in [0, 1].

    Lesson 3.
    """
    pictures = norm_torch(x)[:n_sample]
    columns = math.ceil(n_sample / _whole("n_rows", n_rows))
    grid = make_grid(pictures, nrow=columns)
    path = f"{save_dir}run_image_w{w}.png"
    with written_whole(path) as temporary:
        save_image(grid, temporary, format="png")
    print(f"saved image at {path}")
    return grid


def plot_sample(x_gen_store, n_sample, nrows, save_dir, fn, w, save=False):
    """Animate the first n_sample pictures of a store in nrows rows.

    x_gen_store: (frames, N, 3, H, W) in [-1, 1]. With `save`, the animation is also
    written as {save_dir}{fn}_w{w}.gif. Returns the `SpriteAnimation`.

    Lesson 4.
    """
    store = torch.as_tensor(x_gen_store)[:, :n_sample]
    columns = math.ceil(store.shape[1] / _whole("nrows", nrows))
    animation = animate(store, columns=columns)
    if save:
        path = f"{save_dir}{fn}_w{w}.gif"
        animation.save(path)
        print(f"saved gif at {path}")
    return animation


def to_pictures(
    x: Tensor | np.ndarray, value_range: tuple[float, float] = (-1.0, 1.0)
) -> np.ndarray:
    """Turn anything that holds pictures into an array (..., H, W, 3) of uint8.

    x: a tensor (..., C, H, W) with C = 1 or 3. Its `value_range` is mapped to 0..255,
    the same for all pictures, and values outside it are clipped. A uint8 array
    (..., H, W, 3) is returned as it is; one channel is shown as grey, and the fourth of
    four is opacity, on white. A list of pictures counts as one array. Raises ValueError
    for other shapes, for a uint8 tensor, for NaN, and for whole numbers outside
    `value_range`.

    Lesson 3.
    """
    if isinstance(x, (list, tuple)) and not any(map(torch.is_tensor, x)):
        x = _array("pictures", x)
    if isinstance(x, np.ndarray) and x.dtype == np.uint8:
        return _as_rgb(x)
    if torch.is_tensor(x) and x.dtype == torch.uint8:
        raise ValueError(
            "pictures are a uint8 tensor; give the uint8 array (..., H, W, 3) itself, "
            "or to_model_range of it"
        )
    x = _tensor("pictures", x).detach().cpu()
    low, high = _checked_range(value_range)
    _check_inside(x, low, high)
    x = x.float()
    if not x.isfinite().all():
        raise ValueError(
            "pictures hold NaN or infinity: the network or the sampler that made them "
            "diverged"
        )
    if x.ndim < 3 or x.shape[-3] not in (1, 3):
        raise ValueError(
            f"pictures have shape {tuple(x.shape)}; expected (..., 1 or 3, H, W)"
        )
    share = ((x - low) / (high - low)).clamp(0, 1)
    values = share.mul(255).round().byte()
    pictures = values.movedim(-3, -1)
    return pictures.expand(*pictures.shape[:-1], 3).numpy()


def _array(name: str, pictures: Sequence) -> np.ndarray:
    """A list of pictures of one size, arrays or Pillow's, as one array."""
    try:
        return np.stack([np.asarray(one) for one in pictures])
    except (TypeError, ValueError):
        raise ValueError(
            f"{name}: a list of {len(pictures)} given; expected arrays of one shape"
        ) from None


def _as_rgb(pictures: np.ndarray) -> np.ndarray:
    """uint8 pictures (..., H, W, 1, 3 or 4) as colours: (..., H, W, 3)."""
    channels = pictures.shape[-1] if pictures.ndim >= 3 else 0
    if channels == 3:
        return pictures
    if channels == 1:
        return pictures.repeat(3, axis=-1)
    if channels != 4:
        raise ValueError(
            f"pictures have shape {pictures.shape}; expected (..., H, W, 3) for uint8, "
            "or 1 or 4 channels in place of 3"
        )
    colours = pictures[..., :3].astype(np.uint16)
    opacity = pictures[..., 3:].astype(np.uint16)
    on_white = (colours * opacity + 255 * (255 - opacity) + 127) // 255
    return on_white.astype(np.uint8)


def _check_inside(x: Tensor, low: float, high: float) -> None:
    """Whole numbers must lie in the range: clipped, 0 to 255 would all be white."""
    if x.is_floating_point() or not x.numel():
        return
    if x.is_complex() or float(x.min()) < low or float(x.max()) > high:
        raise ValueError(
            f"pictures are {x.dtype}, with values outside value_range={(low, high)}; "
            "expected floats, or a uint8 array (..., H, W, 3)"
        )


def _checked_range(value_range: tuple[float, float]) -> tuple[float, float]:
    """The two ends of a range of values, once the first is below the second."""
    ends = _tensor("value_range", value_range)
    if ends.shape != (2,) or not -math.inf < ends[0] < ends[1] < math.inf:
        raise ValueError(
            f"value_range={_shown(value_range)}; expected (low, high), low below high"
        )
    low, high = value_range
    return low, high


def _sheet(pictures: np.ndarray, columns: int) -> np.ndarray:
    """Lay pictures (N, H, W, 3) out on one canvas, row by row.

    White lines stand between them, and places left over in the last row stay white.
    """
    count, height, width, _ = pictures.shape
    rows = math.ceil(count / columns)
    empty = rows * columns - count
    line = (1, 0)
    tiles = np.pad(pictures, ((0, empty), line, line, (0, 0)), constant_values=255)
    grid = tiles.reshape(rows, columns, height + 1, width + 1, 3)
    grid = grid.swapaxes(1, 2)  # (rows, height + 1, columns, width + 1, 3)
    sheet = grid.reshape(rows * (height + 1), columns * (width + 1), 3)
    return np.pad(sheet, ((0, 1), (0, 1), (0, 0)), constant_values=255)


def _labelled(
    sheet: np.ndarray, zoom: int, rows: Sequence[str], columns: Sequence[str]
) -> Image.Image:
    """Enlarge a canvas (H, W, 3) and write labels beside it.

    rows: labels of evenly spaced rows, written left of the canvas. columns: labels of
    evenly spaced columns, written above it. Either may be empty.
    """
    enlarged = sheet.repeat(zoom, axis=0).repeat(zoom, axis=1)
    picture = Image.fromarray(enlarged)
    font = ImageFont.load_default(13)
    rows = _labels("rows", rows)
    columns = _labels("titles", columns)
    widths = [int(font.getlength(label)) + 8 for label in rows]
    left = max(widths, default=0)
    top = 20 if columns else 0
    canvas = Image.new("RGB", (left + picture.width, top + picture.height), "white")
    canvas.paste(picture, (left, top))
    draw = ImageDraw.Draw(canvas)
    for i, label in enumerate(rows):
        middle = top + picture.height * (i + 0.5) / len(rows)
        draw.text((left - 4, middle), label, "black", font, anchor="rm")
    for i, label in enumerate(columns):
        middle = left + picture.width * (i + 0.5) / len(columns)
        draw.text((middle, 3), label, "black", font, anchor="ma")
    return canvas


def _labels(name: str, labels: Sequence[str]) -> tuple[str, ...]:
    """The labels as text; a text alone would be taken letter by letter."""
    if not _is_list(labels):
        raise ValueError(f"{name}={_shown(labels)}; expected a list of labels")
    return tuple(str(label) for label in labels)


def show_images(
    x, columns=None, zoom=3, rows=(), titles=(), value_range=(-1.0, 1.0)
) -> Image.Image:
    """A grid of pictures, enlarged by a whole number and never blurred, as a PIL image.

    x: a tensor (N, C, H, W) with values in `value_range`, or an array (N, H, W, 3) of
    uint8. columns: how many pictures stand in a row; if left out, one for each of the
    titles, or 8 without titles. rows, titles: labels of the rows and of the columns.
    Raises ValueError for other shapes, and for a zoom or columns that are no whole
    number, 1 or more.

    Lesson 1.
    """
    pictures = to_pictures(x, value_range)
    zoom = _whole("zoom", zoom)
    if pictures.ndim != 4 or not len(pictures):
        raise ValueError(
            f"pictures have shape {pictures.shape}; expected (N, H, W, 3) or a tensor "
            "(N, C, H, W), N at least 1"
        )
    titles = _labels("titles", titles)
    usual = len(titles) or min(8, len(pictures))
    columns = usual if columns is None else _whole("columns", columns)
    sheet = _sheet(pictures, columns)
    return _labelled(sheet, zoom, rows, titles)


def filmstrip(
    stores: Mapping[str, Tensor], titles: Sequence[str] = (), zoom: int = 3
) -> Image.Image:
    """One labelled row of pictures for each entry: time, epochs or samplers compared.

    stores: {label: (pictures, C, H, W)}, the same number of pictures in each. titles:
    labels of the columns. Raises ValueError for rows of different lengths or sizes.

    Lesson 4.
    """
    _check_kind("stores", stores, Mapping, "{label: pictures}")
    lengths = {len(store) for store in stores.values()}
    if len(lengths) != 1:
        raise ValueError(
            f"the rows hold {sorted(lengths)} pictures; expected as many in each"
        )
    columns = lengths.pop()
    rows = [to_pictures(store) for store in stores.values()]
    sizes = {row.shape for row in rows}
    if len(sizes) != 1:
        raise ValueError(
            f"the rows have shapes {sorted(sizes)}; expected the same in each"
        )
    pictures = np.concatenate(rows)
    return show_images(pictures, columns, zoom, tuple(stores), titles)


# ---- Animations ----------------------------------------------------------------------

# The HTML has no empty line, because Markdown would end it there. The same player may
# stand on a page twice (JupyterLab can show an output in a second view): each run of
# the script takes the first copy that no earlier run has taken.
_PLAYER = Template("""\
<div id="$id" role="group" aria-label="$alt">
  <div style="display:flex; width:max-content; max-width:100%;
      background:white; color:black; font:13px sans-serif">
    <div style="display:flex; flex-direction:column; justify-content:space-around;
        padding-right:4px; text-align:right">$labels</div>
    <canvas role="img" aria-label="$alt" width="$width" height="$height"
      style="$style" hidden></canvas>
    <img src="data:image/png;base64,$last" alt="$alt, last frame" style="$style">
  </div>
  <div hidden>
    <button type="button">Pause</button>
    <input type="range" min="0" max="$end" value="0" aria-label="frame"
      data-lm-suppress-shortcuts="true">
    <output aria-live="off"></output>
  </div>
</div>
<script>
(() => {
  const copies = [...document.querySelectorAll("#$id")];
  const player = copies.find((copy) => !copy.dataset.ready) ?? copies[0];
  player.dataset.ready = "1";
  const canvas = player.querySelector("canvas");
  const lastFrame = player.querySelector("img");
  const controls = player.lastElementChild;
  const [button, slider, output] = controls.children;
  const strip = new Image();  /* all frames, one below the other */
  let timer = null;
  let waited = 0;
  function draw() {
    const frame = Number(slider.value);
    const context = canvas.getContext("2d");
    output.textContent = "frame " + (frame + 1) + " of $frames";
    if (frame === $end) {
      context.drawImage(lastFrame, 0, 0);  /* its colours are exact */
    } else {
      context.drawImage(strip, 0, -frame * $height);
    }
  }
  function pause() {
    clearInterval(timer);
    timer = null;
    button.textContent = "Play";
  }
  function play() {
    waited = 0;
    timer = setInterval(advance, $interval);
    button.textContent = "Pause";
  }
  function advance() {
    if (!player.isConnected) {
      pause();
      return;
    }
    if (Number(slider.value) < $end) {
      slider.value = Number(slider.value) + 1;
    } else if (waited < 6) {
      waited += 1;
    } else {
      waited = 0;
      slider.value = 0;
    }
    draw();
  }
  function toggle() {
    if (timer) {
      pause();
    } else {
      play();
    }
  }
  function seek() {
    pause();
    draw();
  }
  function start() {
    lastFrame.style.display = "none";
    canvas.hidden = false;
    controls.hidden = false;
    draw();
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
      pause();
    } else {
      play();
    }
  }
  button.onclick = toggle;
  slider.oninput = seek;
  strip.onload = start;
  strip.src = "data:image/png;base64,$strip";
})();
</script>""")


def _as_base64(picture: Image.Image) -> str:
    """A picture as a PNG in base64, as HTML and notebooks hold it."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


class SpriteAnimation:
    """Frames that play in a notebook, or are saved as a GIF. Made by `animate`.

    frames: (F, H, W, 3) uint8. zoom: a whole number, by which the browser enlarges
    them. labels: one for each row. fps: frames per second, from 0.01 to 100. alt: what
    the animation shows, in words. Raises ValueError for others.

    matplotlib's player stores each frame enlarged and fetches its icons from the
    network. Here a frame is stored pixel for pixel. Where JavaScript does not run (on
    GitHub, in a PDF), the last frame is shown.

    Lesson 4.
    """

    def __init__(
        self,
        frames: np.ndarray,
        zoom: int = 3,
        labels: Sequence[str] = (),
        fps: float = 8,
        alt: str = "animation of sprites",
    ):
        self.frames = to_pictures(frames)
        if self.frames.ndim != 4 or not self.frames.size:
            raise ValueError(
                f"frames have shape {self.frames.shape}; expected (F, H, W, 3)"
            )
        self.zoom = _whole("zoom", zoom)
        self.labels = _labels("labels", labels)
        _check_number("fps", fps, 0.01, 100)
        self.fps = fps
        self.alt = str(alt)

    def _milliseconds(self, fps: float | None) -> int:
        """How long a frame stays, with these frames per second or with its own."""
        if fps is None:
            fps = self.fps
        _check_number("fps", fps, 0.01, 100)
        return round(1000 / fps)

    def to_jshtml(self, fps: float | None = None) -> str:
        """The player as HTML that needs nothing from the network."""
        count, height, width, _ = self.frames.shape
        labels = [f"<span>{html.escape(label)}</span>" for label in self.labels]
        last = Image.fromarray(self.frames[-1])
        strip = Image.fromarray(self.frames.reshape(count * height, width, 3))
        style = (
            f"width:{width * self.zoom}px; min-width:0; align-self:center; "
            "image-rendering:pixelated; margin:0"
        )
        return _PLAYER.substitute(
            id=f"sprites-{os.urandom(6).hex()}",
            alt=html.escape(self.alt),
            labels="".join(labels),
            width=width,
            height=height,
            style=style,
            frames=count,
            end=count - 1,
            interval=self._milliseconds(fps),
            last=_as_base64(last),
            strip=_as_base64(strip.quantize(96)),
        )

    _repr_html_ = to_jshtml

    def picture(self, frame: int = -1) -> Image.Image:
        """One frame, enlarged, with its labels."""
        return _labelled(self.frames[frame], self.zoom, self.labels, ())

    def save(
        self,
        path: str | os.PathLike,
        writer: PillowWriter | str | None = None,
        fps: float | None = None,
        dpi: float | None = None,
    ) -> None:
        """Write an endless GIF, whole or not at all. The last frame stays a second.

        The arguments are those of matplotlib's animations. writer: a PillowWriter,
        which may say the frames per second, or "pillow". fps: frames per second,
        instead of the writer's and the animation's own. dpi: not needed, as a frame
        keeps its pixels. Raises ValueError for another writer, and for a path that does
        not end in .gif.
        """
        if Path(path).suffix.lower() != ".gif":
            raise ValueError(f"{path}: expected a name that ends in .gif")
        if isinstance(writer, PillowWriter):
            fps = writer.fps if fps is None else fps
        elif writer not in (None, "pillow"):
            raise ValueError(
                f"writer={_shown(writer)}; expected PillowWriter(), which writes GIFs"
            )
        milliseconds = self._milliseconds(fps)
        count = len(self.frames)
        pictures = [self.picture(i).quantize(256) for i in range(count)]
        durations = [milliseconds] * (count - 1) + [1000]
        with written_whole(path) as temporary:
            pictures[0].save(
                temporary,
                "GIF",
                save_all=True,
                append_images=pictures[1:],
                duration=durations,
                loop=0,
            )


def animate(store, columns=None, zoom=3, fps=8) -> SpriteAnimation:
    """Animate pictures, such as the frames that a sampler kept.

    store: (frames, N, C, H, W) in [-1, 1], shown in `columns` columns (8 if left out).
    Or {label: such a store}: labelled rows that move together, with the same number of
    frames and pictures in each. Raises ValueError for other shapes.

    Lesson 4.
    """
    if isinstance(store, Mapping):
        return _animate_rows(store, zoom, fps)
    pictures = to_pictures(store)
    if pictures.ndim != 5 or not pictures.size:
        raise ValueError(
            f"frames have shape {pictures.shape}; expected (frames, N, H, W, 3): a "
            "sampler's second result"
        )
    usual = min(8, pictures.shape[1])
    columns = usual if columns is None else _whole("columns", columns)
    frames = np.stack([_sheet(frame, columns) for frame in pictures])
    return SpriteAnimation(frames, zoom, fps=fps)


def _animate_rows(stores: Mapping, zoom: int, fps: float) -> SpriteAnimation:
    """Animate {label: (frames, N, C, H, W)}, a labelled row for each entry."""
    rows = [to_pictures(store) for store in stores.values()]
    shapes = {row.shape for row in rows}
    if len(shapes) != 1 or len(rows[0].shape) != 5 or not rows[0].size:
        raise ValueError(
            f"the rows have shapes {sorted(shapes)}; expected the same number of "
            "frames and pictures in each: (frames, N, H, W, 3)"
        )
    columns = rows[0].shape[1]
    pictures = np.concatenate(rows, axis=1)  # (frames, rows * N, H, W, 3)
    frames = np.stack([_sheet(frame, columns) for frame in pictures])
    labels = tuple(str(label) for label in stores)
    alt = "sampling, one row each: " + ", ".join(labels)
    return SpriteAnimation(frames, zoom, labels, fps, alt)


def compare_checkpoints(
    models, sample, seed=0, zoom=3
) -> tuple[SpriteAnimation, dict[str, Tensor]]:
    """Sample every model from the same x_T with the same noise.

    models: {label: network}. sample(model, generator) returns a sampler's (samples,
    frames). Each generator has the same seed, so only the weights differ. Returns an
    animation with a row for each model, and {label: samples}.

    Lesson 4.
    """
    _check_kind("models", models, Mapping, "{label: network}")
    samples = {}
    frames = {}
    for label, model in models.items():
        generator = _seeded(seed)
        x, kept = sample(model, generator)
        samples[label] = x.cpu()
        frames[label] = kept
    return animate(frames, zoom=zoom), samples


# ---- Source code ---------------------------------------------------------------------


def show_source(thing: Callable | type, docstring: bool = False):
    """The source of a function or a class, as a listing for a lesson.

    The listing shows the code as it stands in the file. Without `docstring`, which is
    the default, it leaves the docstrings out.

    Lesson 1.
    """
    from IPython.display import Markdown

    lines = inspect.getsource(thing).splitlines()
    indent = lines[0][: -len(lines[0].lstrip())]
    lines = [line.removeprefix(indent) for line in lines]
    if not docstring:
        hidden = _docstring_lines(lines)
        lines = [line for i, line in enumerate(lines, 1) if i not in hidden]
    code = "\n".join(lines)
    return Markdown(f"```python\n{code}\n```")


def _docstring_lines(lines: list[str]) -> set[int]:
    """The numbers, from 1, of the lines of docstrings and of the blanks after them.

    A docstring does not count if it is all that a body holds, or if it shares a line
    with code: without it, the rest would not be Python.
    """
    numbers = set()
    try:
        tree = ast.parse("\n".join(lines))
    except SyntaxError:  # a lambda amid other code
        return numbers
    for node in ast.walk(tree):
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if ast.get_docstring(node, clean=False) is None or len(node.body) == 1:
            continue
        text, following = node.body[:2]
        before = lines[text.lineno - 1][: text.col_offset]
        end = text.end_lineno
        if before.strip() or following.lineno == end:
            continue
        while not lines[end].strip():
            end += 1
        numbers.update(range(text.lineno, end + 1))
    return numbers


# ---- Figures -------------------------------------------------------------------------


def show(picture: Image.Image | plt.Figure, alt: str) -> None:
    """Show a picture or a figure, with words for readers who cannot see it.

    picture: a PIL image, or a figure of matplotlib, which is closed. alt: what it
    shows, in a sentence. Raises ValueError for anything else.

    Lesson 1.
    """
    from IPython.display import display

    if not isinstance(picture, (Image.Image, plt.Figure)):
        raise ValueError(
            f"picture: {_shown(picture)} given; expected a PIL image, such as "
            "show_images returns, or a figure of matplotlib"
        )
    display(picture, metadata={"image/png": {"alt": str(alt)}})
    if isinstance(picture, plt.Figure):
        plt.close(picture)


def unet_figure(
    blocks: Sequence[tuple[str, int, int]],
    skips: Sequence[tuple[int, int]] = (),
    entering: Mapping[str, Sequence[int]] = {},
) -> plt.Figure:
    """Draw a network: height stands for resolution, and width for channels.

    blocks: (name, channels, height) of each output, from left to right.
    skips: pairs (from, to) of places in `blocks`, for the skip connections.
    entering: {what enters: places of the blocks that it enters}.

    Lesson 1.
    """
    figure, ax = plt.subplots(figsize=(10, 4), layout="constrained")
    tallest = max(height for _, _, height in blocks)
    middles = []
    edges = []
    left = 0.0
    for name, channels, height in blocks:
        width = 0.1 + 0.35 * (channels / 64) ** 0.5
        size = height / tallest
        box = plt.Rectangle((left, -size / 2), width, size, fc="#cfe0f3", ec="#33587f")
        ax.add_patch(box)
        words = f"{name}\n{channels} x {height} x {height}"
        ax.text(left + width / 2, -0.95, words, ha="center", va="top", fontsize=9)
        middles.append((left + width / 2, size / 2))
        edges.append((left, left + width))
        left += width + 0.65
    for (_, end), (start, _) in zip(edges, edges[1:]):
        _arrow(ax, (end + 0.08, 0), (start - 0.08, 0), "0.4")
    for start, end in skips:
        lift = 0.12 + 0.1 * (end - start)
        _bridge(ax, middles[start], middles[end], lift)
    for place, (name, targets) in enumerate(entering.items()):
        for target in targets:
            x, top = middles[target]
            x += 0.2 * (place - (len(entering) - 1) / 2)
            _arrow(ax, (x, -0.72), (x, -top), "#c44e00")
            ax.text(x, -0.74, name, ha="center", va="top", color="#c44e00")
    ax.set(xlim=(-0.3, left - 0.3), ylim=(-1.3, 1.5))
    ax.axis("off")
    return figure


def _arrow(ax: plt.Axes, start: tuple, end: tuple, color: str) -> None:
    style = {"arrowstyle": "->", "color": color, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=style)


def _bridge(ax: plt.Axes, start: tuple, end: tuple, lift: float) -> None:
    """An arrow up from one block, over those between, and down to another."""
    height = max(start[1], end[1]) + lift
    ax.plot([start[0], start[0], end[0]], [start[1], height, height], "0.4", lw=1)
    _arrow(ax, (end[0], height), end, "0.4")


# ---- Instruments ---------------------------------------------------------------------


class Instrument:
    """Knobs above a picture that is redrawn in place when a knob is turned.

    Made by `explore`, which says what `draw` and `alt` are. knobs: {name: widget}, or
    {name: `FixedKnob`} where ipywidgets is missing. picture: the PIL image that was
    drawn last. caption: the words under it. A page without a kernel shows the picture
    alone.

    Lesson 1.
    """

    def __init__(self, draw: Callable, alt: str, knobs: Mapping):
        self.draw = draw
        self.alt = str(alt)
        self.knobs = knobs
        self._view = None
        self._box = None
        if _has_widgets():
            import ipywidgets

            self._view = ipywidgets.HTML()
            self._box = ipywidgets.VBox([*knobs.values(), self._view])
        self.redraw()
        for knob in knobs.values():
            knob.tooltip = knob.description  # or a browser's tip would say "null"
            knob.observe(self.redraw, names="value")

    def redraw(self, change=None) -> None:
        """Draw for the settings of the knobs, in place of the picture that is there.

        A widget passes the change that it saw, which is not needed.
        """
        settings = {name: knob.value for name, knob in self.knobs.items()}
        picture, caption = _drawn(self.draw(**settings))
        self.picture = picture
        self.caption = caption
        self.words = ". ".join(part for part in (self.alt, caption) if part)
        self._png = _as_base64(picture)
        if self._view is None:
            return
        self._view.value = (
            f'<img alt="{html.escape(self.words)}" '
            f'src="data:image/png;base64,{self._png}" style="max-width:100%;margin:0">'
            f'<div style="line-height:1.4">{html.escape(caption)}</div>'
        )

    def _repr_mimebundle_(self, **options) -> tuple[dict, dict]:
        """What Jupyter shows and saves: (data, metadata), each by type.

        A page with a kernel shows the widget, any other page the picture.
        """
        data = {"image/png": self._png, "text/plain": self.words}
        if self._box is not None:
            data["application/vnd.jupyter.widget-view+json"] = {
                "version_major": 2,
                "version_minor": 0,
                "model_id": self._box.model_id,
            }
        return data, {"image/png": {"alt": self.words}}


def _has_widgets() -> bool:
    """Whether ipywidgets can be imported."""
    try:
        import ipywidgets  # noqa: F401  (whether it can be)
    except ImportError:
        return False
    return True


class FixedKnob:
    """What stands for a knob where ipywidgets is missing: it keeps its first value."""

    def __init__(self, value, description: str):
        self.value = value
        self.description = description

    def observe(self, handler: Callable, names: str) -> None:
        """Nothing to observe."""


def _drawn(drawn) -> tuple[Image.Image, str]:
    """What an instrument's `draw` returned, as a PIL image and a caption."""
    picture, caption = drawn if isinstance(drawn, tuple) else (drawn, "")
    if isinstance(picture, plt.Figure):
        picture = _as_picture(picture)
    if not isinstance(picture, Image.Image):
        raise ValueError(
            f"draw returned {_shown(picture)}; expected a PIL image or a figure, or "
            "(either, a caption)"
        )
    return picture, str(caption)


def _as_picture(figure: plt.Figure) -> Image.Image:
    """Draw a figure of matplotlib as a PIL image, and close it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    plt.close(figure)
    return Image.open(buffer).convert("RGB")


def explore(
    draw: Callable, alt: str, start: Mapping = {}, **options: Sequence
) -> Instrument:
    """Make an `Instrument` with a knob for each named list of options.

    draw: takes one option of each list, by name; returns a PIL image or a figure, or
    (either, a caption). alt: says in words what the picture is. start: {name: option},
    for the knobs that do not start with the first of their options. options: (False,
    True) gives a box to tick, words give buttons, anything else gives a slider. Raises
    ValueError for a start that is no option, and for no options.

    Without ipywidgets the picture is drawn once, and a printed line says what to
    install.

    Lesson 1.
    """
    _check_kind("start", start, Mapping, "{name of a knob: its first value}")
    for name, values in options.items():
        if not _listed(values):
            raise ValueError(f"{name}={_shown(values)}; expected a list of options")
    if not _has_widgets():
        print("To turn this picture's knobs: pip install ipywidgets, then start again.")
    wrong = {}
    for name, value in start.items():
        if value not in options.get(name, ()):
            wrong[name] = value
    if wrong:
        raise ValueError(f"start has {wrong}; expected options of {options}")
    knobs = {}
    for name, values in options.items():
        values = list(values)
        knobs[name] = _knob(name, values, start.get(name, values[0]))
    return Instrument(draw, alt, knobs)


def _knob(name: str, values: list, value):
    """The widget for a list of options, set to one of them."""
    if not _has_widgets():
        return FixedKnob(value, name.replace("_", " "))
    import ipywidgets

    common = {
        "description": name.replace("_", " "),
        "style": {"description_width": "initial"},
        "value": value,
    }
    if all(isinstance(option, bool) for option in values):
        return ipywidgets.Checkbox(indent=False, **common)
    if isinstance(values[0], str):
        return ipywidgets.ToggleButtons(options=values, **common)
    return ipywidgets.SelectionSlider(options=values, continuous_update=False, **common)
