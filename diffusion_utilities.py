"""The one helper module of the course: diffusion models from scratch, on two CPU cores.

Each docstring ends with the lesson that explains the function. Pictures are tensors (N, channels, height, width) with values in [-1, 1] unless a
docstring says otherwise; `t` is an integer step from 1 (least noise) to T (most); index 0 is the clean picture.

Papers, by arXiv number: [DDPM] Ho et al. 2020, 2006.11239. [DDIM] Song et al. 2021, 2010.02502. [iDDPM] Nichol & Dhariwal 2021, 2102.09672. [CFG] Ho
& Salimans 2022, 2207.12598. [U-Net] Ronneberger et al. 2015, 1505.04597. [Min-SNR] Hang et al. 2023, 2303.09556. [PNDM] Liu et al. 2022, 2202.09778.
[Restart] Xu et al. 2023, 2306.14878. [DPM++] Lu et al. 2022, 2211.01095. [Plaid] Gulrajani & Hashimoto 2023, 2305.18619. [FID] Heusel et al. 2017,
1706.08500. [PR] Kynkaanniemi et al. 2019, 1904.06991. [PRDC] Naeem et al. 2020, 2002.09797. [Memo] Yoon et al. 2023, SPIGM workshop at ICML.
"""

from __future__ import annotations

import base64
import csv
import functools
import html
import importlib
import inspect
import io
import os
import random
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
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

__all__ = [  # first the libraries that `from diffusion_utilities import *` has always brought along, then section by section
    "os", "np", "torch", "nn", "F", "plt", "make_grid", "save_image", "FuncAnimation", "PillowWriter", "Dataset", "DataLoader", "transforms", "Image",
    "Path", "tqdm", "COURSE", "DATA", "WEIGHTS", "set_up", "seed_everything", "default_device", "has_fast_bf16", "CLASS_NAMES", "transform",
    "CustomDataset", "Sprites", "load_sprites", "load_digits", "load_sprite_pictures", "to_model_range", "sprite_factory", "sprite_scoring", "NoiseSchedule",
    "perturb_input", "predict_x0", "posterior", "ResidualConvBlock", "UnetDown", "UnetUp", "EmbedFC", "ContextUnet", "BasicUNet", "PaletteNet",
    "count_parameters", "corrupt", "diffusion_loss", "drop_context", "average_weights", "train_steps", "save_weights", "load_state", "load_weights",
    "sampling_steps", "restart_steps", "denoise_add_noise", "denoise_ddim", "walk", "sample_ddpm", "sample_ddim", "sample_multistep",
    "denoising_losses", "nearest_pictures", "frechet_distance", "precision_recall_density_coverage", "memorised", "feature_network",
    "sprite_features", "sprite_scores", "sprite_report", "unorm", "norm_all", "norm_torch", "gen_tst_context", "plot_grid", "plot_sample",
    "to_pictures", "show_images", "filmstrip", "SpriteAnimation", "animate", "compare_checkpoints", "show_source", "Instrument", "explore",
]  # fmt: skip

# ---- Set-up ----------------------------------------------------------------------------------------------------------

COURSE = Path(__file__).resolve().parent
DATA, WEIGHTS = COURSE / "data", COURSE / "weights"
torch.set_flush_denormal(
    True
)  # numbers below 1e-38 count as 0: a CPU is slow with them, and a PaletteNet's small probabilities have many


def seed_everything(seed: int) -> Generator:
    """Seed Python, NumPy and torch; returns a CPU generator with that seed, for samplers: the same noise on every device. Lesson 1."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return Generator().manual_seed(seed)


def default_device() -> torch.device:
    """CUDA where there is one, else Apple's MPS, else the CPU. Lesson 1."""
    return torch.device(
        "cuda"
        if torch.cuda.is_available()
        else "mps"
        if torch.backends.mps.is_available()
        else "cpu"
    )


@functools.cache
def has_fast_bf16(device: torch.device | str = "cpu") -> bool:
    """Whether bfloat16 trains faster than float32 there: a CPU that lists it may emulate it, so a convolution is timed (a second, once). Lesson 3."""
    kind, cpuinfo = (
        torch.device(device).type,
        Path("/proc/cpuinfo"),
    )  # not on Linux: no, the safe answer
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if (
        kind != "cpu"
        or not cpuinfo.exists()
        or not re.search("avx512_bf16|amx_bf16", cpuinfo.read_text(encoding="utf8"))
    ):
        return False
    # ones, because random numbers drawn here would shift everyone else's
    w, x = (
        torch.ones(64, 64, 3, 3, requires_grad=True),
        torch.ones(50, 64, 16, 16)
        .to(memory_format=torch.channels_last)
        .requires_grad_(),
    )

    def step(bf16: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            torch.conv2d(x, w, padding=1).sum().backward()

    seconds = [
        [timeit(functools.partial(step, bf16), number=1) for bf16 in (True, False)]
        for _ in range(6)
    ]
    return min(fast for fast, _ in seconds) < min(slow for _, slow in seconds)


def set_up(seed: int = 0) -> torch.device:
    """What the first cell of each lesson does: seed everything, set the style of figures, return the device. Lesson 1."""
    seed_everything(seed)
    style = {
        "figure.figsize": (7, 3),
        "figure.dpi": 100,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
    }
    plt.rcParams.update(
        style
        | {"grid.alpha": 0.3, "legend.frameon": False, "image.interpolation": "nearest"}
    )
    if "IPython" in sys.modules and (shell := sys.modules["IPython"].get_ipython()):
        shell.display_formatter.formatters[
            "image/jpeg"
        ].enabled = False  # Pillow's second copy of each picture: twice the notebook
    return default_device()


# ---- Data ------------------------------------------------------------------------------------------------------------

CLASS_NAMES = ("hero", "non-hero", "food", "spell", "side-facing")
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


def sprite_scoring():
    """The module `data/sprite_scores.py`: what can be measured with the grammar.

    It is imported only where it is needed. Raises FileNotFoundError without it.
    Lesson 4.
    """
    return _data_module("sprite_scores")


def _load_array(path: str | os.PathLike, sprites: bool = False) -> np.ndarray:
    if not Path(path).exists():
        raise FileNotFoundError(
            f"{path} does not exist; the course's own arrays are in {DATA} (written by data/make_sprites.py)"
        )
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(
            f"{path} is not a NumPy array file (.npy) of plain numbers: {error}"
        ) from error
    if not isinstance(array, np.ndarray):
        raise ValueError(
            f"{path} holds several arrays (.npz); expected one (.npy): save it with np.save"
        )
    if sprites and (array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8):
        found = f"{path} holds {array.dtype} of shape {array.shape}; expected uint8 of shape (N, H, W, 3)"
        raise ValueError(f"{found}. load_sprite_pictures makes such an array from PNGs")
    return array


class CustomDataset(Dataset):
    """Sprites and labels from two .npy files: (N, H, W, 3) uint8 and (N, classes) one-hot.

    Item i is (picture, label): `transform(sprites[i])`, or with `transform=None` the same (3, H, W) tensor in [-1, 1]; the label
    is int64 (classes,), all zero with `null_context=True`. Raises FileNotFoundError or ValueError, naming file and remedy. Lesson 3."""

    def __init__(self, sfilename, lfilename, transform, null_context=False):
        self.sprites, self.slabels = (
            _load_array(sfilename, True),
            _load_array(lfilename),
        )
        if self.slabels.ndim != 2 or len(self.slabels) != len(self.sprites):
            raise ValueError(
                f"{lfilename} has shape {self.slabels.shape} beside {len(self)} sprites; expected ({len(self)}, classes), one-hot rows"
            )
        self.transform, self.null_context = transform, null_context
        self.sprites_shape, self.slabel_shape = self.sprites.shape, self.slabels.shape

    def __len__(self):
        return len(self.sprites)

    def __getitem__(self, idx):
        picture = (
            self.transform(self.sprites[idx])
            if self.transform
            else to_model_range(self.sprites[idx])
        )
        label = torch.as_tensor(self.slabels[idx], dtype=torch.int64)
        return picture, torch.zeros_like(label) if self.null_context else label

    def getshapes(self):
        """The shapes of the two arrays."""
        return self.sprites_shape, self.slabel_shape


def to_model_range(pictures: np.ndarray) -> Tensor:
    """uint8 (..., H, W, C) in 0..255 to float32 (..., C, H, W) in [-1, 1]: `transform` for many at once. Lesson 3."""
    return (
        torch.from_numpy(
            np.ascontiguousarray(np.moveaxis(np.asarray(pictures), -1, -3))
        ).float()
        / 127.5
        - 1
    )


@dataclass(frozen=True, eq=False)
class Sprites:
    """One part of the sprites: `images` (N, 16, 16, 3) uint8, `labels` (N, 5) one-hot uint8 and the named factors of each. Lesson 3."""

    images: np.ndarray
    labels: np.ndarray
    factors: list[dict[str, str]]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def x(self) -> Tensor:  # (N, 3, 16, 16) float32 in [-1, 1]
        return to_model_range(self.images)

    @property
    def c(self) -> Tensor:  # (N, 5) float32, one-hot in the order of CLASS_NAMES
        return torch.from_numpy(self.labels).float()


def load_sprites(part: str = "train", root: str | os.PathLike = DATA) -> Sprites:
    """The sprites of one part: "train", "test" (drawn like it) or "compositional" (with factor pairs that train lacks).

    Raises ValueError for another part, FileNotFoundError where `root` lacks a file. Lesson 3."""
    if part not in ("train", "test", "compositional"):
        raise ValueError(
            f"part={part!r} does not exist; expected one of train, test, compositional"
        )
    images, labels = (
        _load_array(Path(root) / name, name.startswith("sprites"))
        for name in ("sprites_16x16.npy", "sprite_labels_16x16.npy")
    )
    if not (path := Path(root) / "sprite_factors_16x16.csv").exists():
        raise FileNotFoundError(
            f"{path} does not exist; `python data/make_sprites.py` writes it"
        )
    rows = list(csv.DictReader(path.read_text(encoding="utf8").splitlines()))
    if not len(images) == len(labels) == len(rows):
        raise ValueError(
            f"{len(images)} sprites, {len(labels)} labels and {len(rows)} rows of factors in {root}; expected equal numbers"
        )
    chosen = [i for i, row in enumerate(rows) if row["part"] == part]
    factors = [
        {key: value for key, value in rows[i].items() if value and key != "part"}
        for i in chosen
    ]
    return Sprites(images[chosen], labels[chosen], factors)


def load_digits(
    name: str = "mnist", root: str | os.PathLike = DATA, download: bool = False
) -> tuple[Tensor, Tensor]:
    """Real digits ("mnist") or garments ("fashion_mnist"): pictures (N, 1, 28, 28) in [0, 1], labels (N,) int64.

    The full training set where torchvision's files lie under `root`, or where `download=True` can fetch them; else the 5,000 that
    ship with the course, with one printed line that says so. Raises ValueError for another name. Lesson 1."""
    from torchvision import datasets

    sets = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST}
    if name not in sets:
        raise ValueError(
            f"name={name!r} does not exist; expected one of {', '.join(sets)}"
        )
    try:
        full = sets[name](root, train=True, download=download)
        return full.data[:, None].float() / 255, full.targets
    except (
        RuntimeError,
        OSError,
    ):  # torchvision's words for "not found" and "no network"
        print(
            f"{name}: the 5,000 pictures that ship with the course (the full set is not under root={Path(root).name!r})"
        )
    if not (path := DATA / f"{name}_5k.npz").exists():
        raise FileNotFoundError(
            f"{path} is missing: copy the course's data/ folder beside diffusion_utilities.py"
        )
    with np.load(path) as stored:
        return torch.from_numpy(stored["images"])[
            :, None
        ].float() / 255, torch.from_numpy(stored["labels"]).long()


def load_sprite_pictures(path: str | os.PathLike, tile: int = 16) -> np.ndarray:
    """Your own sprites to (N, tile, tile, 3) uint8: one sheet, cut row by row, or a folder of PNGs of that size, in the order of their names.

    Transparent ground becomes white, empty tiles go, nothing is resized; a file of a folder that cannot be used is left out, with a printed line that
    says why. Raises FileNotFoundError, or where nothing is left ValueError that names each file and its fault. Lesson 9."""
    if not (path := Path(path)).exists():
        raise FileNotFoundError(
            f"{path} does not exist; expected a folder of PNGs, or a picture file that holds a sheet of {tile}x{tile} tiles"
        )
    folder, tiles, faults = path.is_dir(), [], []
    files = (
        sorted(file for file in path.iterdir() if file.suffix.lower() == ".png")
        if folder
        else [path]
    )
    wanted = (
        f"{tile}x{tile} (a sheet? give its own path)"
        if folder
        else f"sides that tile={tile} divides"
    )
    for file in files:
        drawn, fault = [], "is empty: white or transparent all over"
        try:
            with (
                Image.open(file) as picture
            ):  # only its head is read yet: a huge one in a folder is never unpacked
                if (
                    tile < 1
                    or any(side % tile for side in picture.size)
                    or (folder and picture.size != (tile, tile))
                ):
                    fault = f"is {picture.width}x{picture.height} pixels; expected {wanted}: tile= is the tile size, in pixels"
                else:
                    if picture.mode in (
                        "I;16",
                        "I;16B",
                        "I",
                    ):  # 16-bit grey: Pillow would clip it, not scale it
                        picture = Image.fromarray(
                            (np.asarray(picture, dtype=np.int64) >> 8)
                            .clip(0, 255)
                            .astype(np.uint8)
                        )
                    rgb = np.asarray(
                        Image.alpha_composite(
                            Image.new("RGBA", picture.size, "white"),
                            picture.convert("RGBA"),
                        ).convert("RGB")
                    )
                    drawn = [
                        one
                        for row in np.vsplit(rgb, len(rgb) // tile)
                        for one in np.hsplit(row, row.shape[1] // tile)
                        if (one < 255).any()
                    ]
        except Exception as error:  # Pillow raises half a dozen types for a broken file
            why = (
                "0 bytes"
                if file.is_file() and not file.stat().st_size
                else str(error).replace(f" {str(file)!r}", "")
            )
            fault = f"is not a picture that Pillow can read ({why}); remove it or save it again as PNG"
        tiles, faults = tiles + drawn, faults + [f"{file.name} {fault}"] * (not drawn)
    if not tiles:
        raise ValueError(
            f"{path} holds no tile with anything drawn on it ({len(files)} PNGs found). {'; '.join(faults)}"
        )
    print("".join(f"left out: {fault}\n" for fault in faults), end="")
    return np.stack(tiles)


# ---- Noise -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """How much noise each of T steps adds, as float64 tables of length T + 1 whose index is t.

    `b[t]` is beta_t, the variance that step t adds; `a[t]` = 1 - b[t]; `ab[t]` = a[1] a[2] ... a[t] is alpha-bar_t, the share of the picture's
    variance that is left after t steps; `snr[t]` = ab[t] / (1 - ab[t]) is the signal-to-noise ratio. b[0] = 0, so a[0] = ab[0] = 1 and snr[0]
    is infinite: t = 0 is the clean picture and the last step is exact. `T` is the number of steps. [DDPM] eq. 2 and 4. Lesson 2."""

    b: Tensor

    def __post_init__(self):
        b = torch.as_tensor(self.b, dtype=torch.float64).clone()
        if (
            b.ndim != 1
            or len(b) < 2
            or b[0] != 0
            or not ((b[1:] > 0) & (b[1:] < 1)).all()
        ):
            raise ValueError(
                "b must be a vector (T + 1,) with b[0] = 0 and 0 < b[t] < 1 for t = 1..T; use NoiseSchedule.linear or .cosine"
            )
        a = 1 - b
        ab = a.cumprod(0)
        for name, value in {
            "T": len(b) - 1,
            "b": b,
            "a": a,
            "ab": ab,
            "snr": ab / (1 - ab),
        }.items():
            object.__setattr__(
                self, name, value
            )  # frozen: for other steps build another schedule

    @classmethod
    def linear(
        cls, T: int = 500, beta1: float = 1e-4, beta2: float = 0.02
    ) -> NoiseSchedule:
        """b[t] = beta1 + (beta2 - beta1) t / T: the schedule of the shipped weights. [DDPM] section 4 has T = 1000."""
        _check_steps(T)
        b = torch.linspace(beta1, beta2, T + 1, dtype=torch.float64)
        b[0] = 0
        return cls(b)

    @classmethod
    def cosine(
        cls, T: int = 500, s: float = 0.008, max_beta: float = 0.999
    ) -> NoiseSchedule:
        """ab[t] proportional to cos^2((t/T + s) / (1 + s) * pi/2), b[t] = 1 - ab[t] / ab[t-1], at most `max_beta`. [iDDPM] eq. 17."""
        _check_steps(T)
        f = (
            torch.cos(
                (torch.arange(T + 1, dtype=torch.float64) / T + s)
                / (1 + s)
                * torch.pi
                / 2
            )
            ** 2
        )
        b = torch.zeros(T + 1, dtype=torch.float64)
        b[1:] = (1 - f[1:] / f[:-1]).clamp(max=max_beta)
        return cls(b)


def _check_steps(T: int) -> None:
    if not isinstance(T, (int, np.integer)) or T < 1:
        raise ValueError(f"T={T!r}; expected a whole number of steps, 1 or more")


def _at(table: Tensor, t: Tensor | int, like: Tensor) -> Tensor:
    """table[t], in the dtype and on the device of `like`, shaped to broadcast against it (B, 1, 1, 1). Rounded only here, at the end."""
    t = torch.as_tensor(t)
    if t.numel() and not 0 <= int(t.min()) <= int(t.max()) < len(table):
        raise ValueError(
            f"t runs from {int(t.min())} to {int(t.max())}; expected 0 to T = {len(table) - 1}"
        )
    values = table.to(like.dtype).to(like.device)[
        t.to(like.device)
    ]  # dtype first: MPS has no float64
    return values.reshape(-1, *[1] * (like.ndim - 1)) if t.ndim else values


def perturb_input(
    x: Tensor, t: Tensor | int, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """Jump from the clean picture to step t at once: x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) noise.

    `x` and `noise` (B, C, H, W), `t` (B,) or one number in 0..T. [DDPM] eq. 4. Lesson 2."""
    return (
        _at(schedule.ab.sqrt(), t, x) * x + _at((1 - schedule.ab).sqrt(), t, x) * noise
    )


def predict_x0(
    x: Tensor, t: Tensor | int, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The clean picture that x_t and this noise imply: perturb_input solved for x_0. [DDPM] eq. 15. Lesson 4."""
    return (x - _at((1 - schedule.ab).sqrt(), t, x) * noise) / _at(
        schedule.ab.sqrt(), t, x
    )


def posterior(
    t: int, schedule: NoiseSchedule, t_prev: int | None = None
) -> tuple[float, float, float]:
    """q(x_prev | x_t, x_0) is normal with mean c0 x_0 + ct x_t: returns (c0, ct, variance), the variance being beta-tilde.

    `t_prev` is t - 1 unless told otherwise: a longer stride is one step with a = ab_t / ab_prev. [DDPM] eq. 6 and 7. Lesson 2."""
    t_prev = t - 1 if t_prev is None else t_prev
    if not 0 <= t_prev < t <= schedule.T:
        raise ValueError(
            f"t={t}, t_prev={t_prev}; expected 0 <= t_prev < t <= T = {schedule.T}"
        )
    ab, ab_prev = float(schedule.ab[t]), float(schedule.ab[t_prev])
    a = ab / ab_prev
    return (
        ab_prev**0.5 * (1 - a) / (1 - ab),
        a**0.5 * (1 - ab_prev) / (1 - ab),
        (1 - a) * (1 - ab_prev) / (1 - ab),
    )


# ---- Blocks and U-Nets -----------------------------------------------------------------------------------------------


class ResidualConvBlock(nn.Module):
    """Two 3x3 convolutions, each with batch norm and GELU: (B, in_channels, H, W) to (B, out_channels, H, W).

    With `is_res` the output is (shortcut + second convolution) / sqrt(2), which keeps the variance. The shortcut is the input, or where
    channel counts differ the first convolution's output: no parameters, so the state dict keeps its keys. Lesson 3."""

    def __init__(
        self, in_channels: int, out_channels: int, is_res: bool = False
    ) -> None:
        super().__init__()
        self.same_channels, self.is_res = in_channels == out_channels, is_res
        self.conv1, self.conv2 = (
            self._convolution(in_channels, out_channels),
            self._convolution(out_channels, out_channels),
        )

    @staticmethod
    def _convolution(in_channels: int, out_channels: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.GELU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.conv1(x)
        x2 = self.conv2(x1)
        return ((x if self.same_channels else x1) + x2) / 2**0.5 if self.is_res else x2


class UnetDown(nn.Module):
    """Two convolution blocks and a 2x2 max pooling: (B, in_channels, H, W) to (B, out_channels, H/2, W/2). Lesson 3."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            ResidualConvBlock(in_channels, out_channels),
            ResidualConvBlock(out_channels, out_channels),
            nn.MaxPool2d(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class UnetUp(nn.Module):
    """Join with the skip connection, double height and width, two convolution blocks.

    `forward(x, skip)`: x and skip together have `in_channels` channels; the output is (B, out_channels, 2H, 2W). Lesson 3."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        wider = nn.ConvTranspose2d(in_channels, out_channels, 2, 2)
        self.model = nn.Sequential(
            wider,
            ResidualConvBlock(out_channels, out_channels),
            ResidualConvBlock(out_channels, out_channels),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.model(torch.cat((x, skip), 1))


class EmbedFC(nn.Module):
    """A two-layer network that embeds a time or a context: anything that reshapes to (-1, input_dim), to (-1, emb_dim). Lesson 3."""

    def __init__(self, input_dim: int, emb_dim: int) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.model = nn.Sequential(
            nn.Linear(input_dim, emb_dim), nn.GELU(), nn.Linear(emb_dim, emb_dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.reshape(-1, self.input_dim))


def _context(c: Tensor | None, x: Tensor, n_cfeat: int) -> Tensor:
    if c is not None and (
        c.ndim != 2 or c.shape[1] != n_cfeat or len(c) not in (1, len(x))
    ):
        raise ValueError(
            f"c has shape {tuple(c.shape)}; expected ({len(x)}, {n_cfeat}), one-hot for labels: set n_cfeat= when you build it"
        )
    return x.new_zeros(len(x), n_cfeat) if c is None else c.to(x)


class ContextUnet(nn.Module):
    """The course's network: predicts the noise in x_t, given t / T and a context vector.

    Embedded context multiplies and embedded time is added, at two resolutions. `height` (and width) from 8 to 64, divisible by 4.
    Only `init_conv` is residual: kept so, and every name with it, because published weights load here strictly. Lesson 3."""

    def __init__(
        self, in_channels: int, n_feat: int = 256, n_cfeat: int = 10, height: int = 28
    ) -> None:
        super().__init__()
        if height % 4 or not 8 <= height <= 64:
            raise ValueError(
                f"height={height}; expected a height from 8 to 64 that 4 divides (28 for digits, 16 for sprites)"
            )
        if n_feat % 8:
            raise ValueError(
                f"n_feat={n_feat}; expected a multiple of 8, for the group norms of 8 groups"
            )
        self.in_channels, self.n_feat, self.n_cfeat, self.h = (
            in_channels,
            n_feat,
            n_cfeat,
            height,
        )
        self.init_conv = ResidualConvBlock(in_channels, n_feat, is_res=True)
        self.down1, self.down2 = UnetDown(n_feat, n_feat), UnetDown(n_feat, 2 * n_feat)
        self.to_vec = nn.Sequential(nn.AvgPool2d(height // 4), nn.GELU())
        self.timeembed1, self.timeembed2 = EmbedFC(1, 2 * n_feat), EmbedFC(1, n_feat)
        self.contextembed1, self.contextembed2 = (
            EmbedFC(n_cfeat, 2 * n_feat),
            EmbedFC(n_cfeat, n_feat),
        )
        self.up0 = nn.Sequential(
            nn.ConvTranspose2d(2 * n_feat, 2 * n_feat, height // 4, height // 4),
            nn.GroupNorm(8, 2 * n_feat),
            nn.ReLU(),
        )
        self.up1, self.up2 = UnetUp(4 * n_feat, n_feat), UnetUp(2 * n_feat, n_feat)
        out = (
            nn.Conv2d(2 * n_feat, n_feat, 3, padding=1),
            nn.GroupNorm(8, n_feat),
            nn.ReLU(),
            nn.Conv2d(n_feat, in_channels, 3, padding=1),
        )
        self.out = nn.Sequential(*out)

    def forward(self, x: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        """x (B, in_channels, height, height); t = step / T in [0, 1], (B,) or (B, 1, 1, 1) or one number; c (B, n_cfeat), None for all zero."""
        if x.shape[1:] != (self.in_channels, self.h, self.h):
            raise ValueError(
                f"x has shape {tuple(x.shape)}; expected (B, {self.in_channels}, {self.h}, {self.h}): set height= when you build it"
            )
        t = torch.as_tensor(t, dtype=x.dtype, device=x.device)
        c = _context(c, x, self.n_cfeat)
        full = self.init_conv(x)
        half = self.down1(full)
        quarter = self.down2(half)
        up = self.up0(self.to_vec(quarter))
        up = self.up1(
            self.contextembed1(c)[..., None, None] * up
            + self.timeembed1(t)[..., None, None],
            quarter,
        )
        up = self.up2(
            self.contextembed2(c)[..., None, None] * up
            + self.timeembed2(t)[..., None, None],
            half,
        )
        return self.out(torch.cat((up, full), 1))


class BasicUNet(nn.Module):
    """A small U-Net without time: (B, in_channels, H, W) to (B, out_channels, H, W), H and W divisible by 4.

    The last SiLU bounds the output from below (at -0.28): right for pictures in [0, 1], wrong for noise. Lesson 1."""

    def __init__(self, in_channels: int = 1, out_channels: int = 1) -> None:
        super().__init__()
        self.down_layers = nn.ModuleList(
            nn.Conv2d(before, after, 5, padding=2)
            for before, after in ((in_channels, 32), (32, 64), (64, 64))
        )
        self.up_layers = nn.ModuleList(
            nn.Conv2d(before, after, 5, padding=2)
            for before, after in ((64, 64), (64, 32), (32, out_channels))
        )
        self.act, self.downscale, self.upscale = (
            nn.SiLU(),
            nn.MaxPool2d(2),
            nn.Upsample(scale_factor=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for layer in self.down_layers[:2]:
            skips.append(self.act(layer(x)))
            x = self.downscale(skips[-1])
        x = self.act(self.up_layers[0](self.act(self.down_layers[2](x))))
        for layer in self.up_layers[1:]:
            x = self.act(layer(self.upscale(x) + skips.pop()))
        return x


class PaletteNet(nn.Module):
    """The course's second network for sprites: it names the colour of each pixel, out of a palette, and so predicts the noise.

    A perceptron sees the whole picture and writes a palette for it, `slots` rows of scores for the colours; each pixel mixes the rows, and adds how
    likely its noisy value is under each colour ([Plaid], output prior). `images` (N, H, W, 3) uint8, those it learns from, give the colours and their
    shares, which no file holds; `schedule`, which samplers must share, gives alpha-bar. In float32, or under autocast. `loss` trains it. `trust` > 0
    has `forward` believe the whole picture more, and each noisy pixel less, than training found right: scores times 1 + trust ab_t^2. Lesson 3."""

    def __init__(
        self,
        images,
        schedule,
        n_cfeat: int = 5,
        width: int = 256,
        depth: int = 3,
        slots=16,
        dropout=0.0,
        trust=0.0,
    ) -> None:
        super().__init__()
        colours, counts = np.unique(
            images.reshape(-1, images.shape[-1]), axis=0, return_counts=True
        )
        if images.dtype != np.uint8 or images.shape[3:] != (3,) or len(colours) > 1024:
            raise ValueError(
                f"images: {images.dtype} {images.shape}, {len(colours)} colours; expected uint8 (N, H, W, 3), 1024 at most"
            )
        self.shape, self.n_cfeat, self.trust, k, size, wide = (
            (3, *images.shape[1:3]),
            n_cfeat,
            trust,
            len(colours),
            images[0, ..., 0].size,
            2 * width,
        )
        tables = {
            "palette": colours / 127.5 - 1,
            "log_share": np.log(counts / counts.sum()),
            "log_snr": schedule.snr.log().clamp(max=99),
        }
        for name, table in (
            tables | {"frequencies": np.geomspace(0.25, 25, 32)}
        ).items():  # half precision would round them: not in the file
            self.register_buffer(
                name, torch.as_tensor(table, dtype=torch.float32), persistent=False
            )
        self.embed, self.read = (
            nn.Linear(k, 8, bias=False),
            nn.Linear((3 + 8) * size, width),
        )
        self.time, self.context, self.condition = (
            EmbedFC(2 * 32, 64),
            EmbedFC(n_cfeat, 64),
            nn.Linear(64, width),
        )
        self.norms, self.scale = (
            nn.ModuleList(make() for _ in range(depth))
            for make in (lambda: nn.LayerNorm(width), lambda: nn.Linear(64, wide))
        )
        self.widen, self.narrow = (
            nn.ModuleList(nn.Linear(*ends) for _ in range(depth))
            for ends in ((width, wide), (wide, width))
        )
        self.norm, self.place, self.pixel = (
            nn.LayerNorm(width),
            nn.Linear(width, 12 * size),
            nn.Linear(3 + 8 + 12, 32),
        )
        self.own, self.mix, self.dropout = (
            nn.Linear(32, k),
            nn.Linear(32, slots),
            nn.Dropout(dropout),
        )
        self.rows, self.score = (
            nn.Linear(width, 24 * slots),
            nn.Linear(24, k, bias=False),
        )
        nn.init.normal_(self.score.weight)
        for start in (self.own.weight, self.rows.weight, self.rows.bias):
            nn.init.zeros_(
                start
            )  # untrained, a pixel has but its evidence and the prior
        self.own.bias.data.copy_(self.log_share)

    def _log_snr(
        self, x: Tensor, t: Tensor
    ) -> Tensor:  # (B, 1); t = 0 counts as the first step
        step = (
            (
                torch.as_tensor(t, dtype=torch.float32, device=x.device)
                * (len(self.log_snr) - 1)
            )
            .round()
            .long()
        )
        return _at(
            self.log_snr,
            torch.where(step == 0, 1, step).reshape(-1).expand(len(x)),
            x[:, 0, 0],
        )

    def logits(
        self, x: Tensor, t: Tensor, c: Tensor | None = None, trust: float = 0.0
    ) -> Tensor:
        """Log-probabilities, up to a constant, of each colour at each pixel (B, H W, colours); arguments as `forward`."""
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; expected (B, {str(self.shape)[1:]}, the size of the training pictures"
            )
        log_snr, pixels, c = (
            self._log_snr(x, t),
            x.flatten(2).mT,
            _context(c, x, self.n_cfeat),
        )
        signal, variance = (
            log_snr.sigmoid()[..., None].sqrt(),
            (-log_snr).sigmoid()[..., None],
        )
        pull, colours = signal / variance, self.palette.T.expand(len(x), -1, -1)
        with torch.autocast(
            "cuda" if x.is_cuda else "cpu", enabled=False
        ):  # log N(x_t; sqrt(ab) colour, 1 - ab), but for x_t squared
            likely = torch.baddbmm(
                -pull * signal / 2 * self.palette.square().sum(1),
                pull * pixels,
                colours,
            )
        seen = torch.cat(
            (pixels, 3 * self.embed((likely + self.log_share).softmax(2))), 2
        )
        condition = F.silu(
            self.time(
                torch.cat(
                    [
                        wave(log_snr * self.frequencies)
                        for wave in (torch.sin, torch.cos)
                    ],
                    1,
                )
            )
            + self.context(c)
        )
        h = self.read(seen.flatten(1)) + self.condition(condition)
        for norm, widen, scale, narrow in zip(
            self.norms, self.widen, self.scale, self.narrow
        ):
            h = h + narrow(
                self.dropout(F.gelu(widen(norm(h))) * (1 + scale(condition)))
            )  # FiLM
        h = self.norm(h)
        each = F.gelu(
            self.pixel(torch.cat((seen, self.place(h).view(len(x), -1, 12)), 2))
        )
        scores = self.own(each) + self.mix(each) @ self.score(
            self.rows(h).view(len(x), -1, 24)
        )
        return torch.addcmul(likely, scores, 1 + trust * signal**4)

    def loss(self, x: Tensor, t: Tensor, c: Tensor | None, clean: Tensor) -> Tensor:
        """Cross-entropy of the clean picture's colours, in nats a pixel: (B, H W); x, t, c as `forward`, clean (B, 3, H, W)."""
        right = torch.cdist(clean.flatten(2).mT, self.palette).argmin(2)
        return F.cross_entropy(
            self.logits(x, t, c).flatten(0, 1), right.flatten(), reduction="none"
        ).view_as(right)

    def forward(
        self, x: Tensor, t: Tensor, c: Tensor | None = None, clean: Tensor | None = None
    ) -> Tensor:
        """Arguments and result as `ContextUnet`: x (B, 3, H, W), t = step / T, c (B, n_cfeat) or None; the noise. With `clean`, `loss` instead."""
        if (
            clean is not None
        ):  # so that an average or several processes see its training
            return self.loss(x, t, c, clean)
        log_snr, logits = (
            self._log_snr(x, t)[..., None, None],
            self.logits(x, t, c, self.trust),
        )
        with torch.autocast(
            "cuda" if x.is_cuda else "cpu", enabled=False
        ):  # it would round the colours
            x0 = (logits.softmax(2) @ self.palette).mT.reshape(x.shape)
        return (x - log_snr.sigmoid().sqrt() * x0) / (-log_snr).sigmoid().sqrt()


def count_parameters(model: nn.Module) -> int:
    """How many numbers training adjusts. Lesson 1."""
    return sum(p.numel() for p in model.parameters())


# ---- Training --------------------------------------------------------------------------------------------------------


def corrupt(x: Tensor, amount: Tensor, generator: Generator | None = None) -> Tensor:
    """(1 - amount) x + amount * noise, the noise uniform on [0, 1]: x (B, C, H, W) in [0, 1], amount (B,) in [0, 1]. Lesson 1."""
    noise, amount = (
        torch.rand(x.shape, generator=generator).to(x),
        amount.to(x).view(-1, 1, 1, 1),
    )
    return x * (1 - amount) + noise * amount


def drop_context(c: Tensor, p: float, generator: Generator | None = None) -> Tensor:
    """Set each row of c (B, n_cfeat) to zero with probability p, so that one network also learns "no context". [CFG] alg. 1. Lesson 3."""
    return c * (torch.rand(len(c), 1, generator=generator) >= p).to(c)


def diffusion_loss(
    model, x, schedule, c=None, generator=None, min_snr=None, weights=None
) -> Tensor:
    """The simple loss: noise clean pictures x (B, C, H, W) to a random t each, ask for the noise, mean squared error. [DDPM] eq. 14.

    `c` (B, n_cfeat) or None. `min_snr`, gamma > 0, weighs each error with min(gamma / SNR(t), 1): less in almost clean steps. [Min-SNR] section 3.4.
    Or `weights` (T + 1,), 0 at t = 0, on the CPU: steps are drawn as often as their roots say, and errors weighted with the roots, so that the
    mean is that of weights * error. A PaletteNet has its own error. Raises ValueError for other weights. Lesson 3."""
    if (
        weights is not None
        and (min_snr is not None or len(weights) != len(schedule.b) or weights[0] != 0)
        or min_snr is not None
        and min_snr <= 0
    ):
        raise ValueError(
            f"min_snr={min_snr}; expected None (no weights) or a number above 0, such as 5; or instead weights (T + 1,), 0 at t = 0"
        )
    t = (torch.randint(1, schedule.T + 1, (len(x),), generator=generator) if weights is None else
         torch.multinomial(weights.sqrt(), len(x), replacement=True, generator=generator)).to(x.device)  # fmt: skip
    noise = torch.randn(x.shape, generator=generator).to(x)
    x_t = perturb_input(x, t, noise, schedule)
    asked, inner = (
        (x_t, t / schedule.T, c),
        getattr(model, "module", model),
    )  # without what wraps it
    error = (
        model(*asked, x)
        if isinstance(inner, PaletteNet)
        else (model(*asked).to(noise.dtype) - noise).square()
    )
    if min_snr is not None or weights is not None:
        error = (
            _at(
                (min_snr / schedule.snr).clamp(max=1)
                if weights is None
                else weights.sqrt() * weights[1:].sqrt().mean(),
                t,
                error,
            )
            * error
        )
    return error.mean()


def average_weights(
    model: nn.Module, decay: float = 0.998
) -> torch.optim.swa_utils.AveragedModel:
    """An exponential moving average of a model's weights and of its batch norms' buffers; call `update_parameters(model)` each step.

    The decay warms up as (1 + n) / (10 + n), so that the random first weights are forgotten. The average itself is `.module`. Lesson 3."""

    def average(
        old: Tensor, new: Tensor, n: Tensor | int
    ) -> Tensor:  # batch norm's counter is no float
        return (
            old.lerp(new, 1 - min(decay, (1 + float(n)) / (10 + float(n))))
            if old.is_floating_point()
            else new
        )

    return torch.optim.swa_utils.AveragedModel(model, avg_fn=average, use_buffers=True)


def train_steps(
    model,
    batches,
    schedule,
    optimiser,
    p_drop=None,
    average=None,
    generator=None,
    min_snr=None,
    weights=None,
) -> Iterator[float]:
    """One training step for each batch (pictures, context); yields its loss, so that the caller owns the bar, the log and the clock.

    `batches`: (B, C, H, W) and (B, n_cfeat) or None. `p_drop` is the share of contexts dropped; None trains without context. `average` (from
    `average_weights`) follows; the last three go to `diffusion_loss`. Runs where the model lies, in bfloat16 where that is done in
    hardware; leaves the model in train mode. Raises FloatingPointError, before the step, when the loss is no number. Lesson 3."""
    device = next(model.parameters()).device
    for x, c in batches:
        if p_drop is not None and c is None:
            raise ValueError(
                f"p_drop={p_drop} drops contexts, but this batch has none; give (pictures, context) or p_drop=None"
            )
        model.train()  # the caller may have sampled in eval mode since the last step
        x = x.to(device, memory_format=torch.channels_last)
        c = None if p_drop is None else drop_context(c.to(device), p_drop, generator)
        with (
            torch.autocast(device.type, torch.bfloat16)
            if has_fast_bf16(device)
            else nullcontext()
        ):
            loss = diffusion_loss(model, x, schedule, c, generator, min_snr, weights)
        value = loss.item()
        if not np.isfinite(value):  # before the step, which would spoil the weights
            raise FloatingPointError(
                f"the loss is {value}; no step was taken: start again from a checkpoint with a lower learning rate"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if average is not None:
            average.update_parameters(model)
        yield value


@contextmanager
def _written_whole(path: str | os.PathLike):
    """A temporary path beside `path` that takes its name only when the block has ended well."""
    (path := Path(path)).parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{os.urandom(6).hex()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_weights(
    model: nn.Module | Mapping, path: str | os.PathLike, half: bool = True
) -> None:
    """Write a state dict whole or not at all; `half` halves the file, and `load_state_dict` widens it again. Lesson 3."""
    state = model.state_dict() if isinstance(model, nn.Module) else model
    state = {
        k: v.detach().cpu().half()
        if half and v.is_floating_point()
        else v.detach().cpu()
        for k, v in state.items()
    }
    with _written_whole(path) as temporary, open(temporary, "wb") as file:
        torch.save(
            state, file
        )  # a file, not its path, whose random name would go into the archive


def load_state(path: str | os.PathLike) -> dict[str, Tensor]:
    """A state dict from a file, tensors only (`weights_only=True`): {name: tensor}, on the CPU.

    Raises FileNotFoundError that lists the weights there are, or ValueError for a file that is no state dict. Lesson 3."""
    path = Path(path)
    if not path.is_file():
        there = (
            ", ".join(sorted(file.name for file in path.parent.glob("*.pth"))) or "none"
        )
        raise FileNotFoundError(
            f"{path} does not exist; in that folder: {there}. `python weights/train.py` trains what the course ships"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # torch raises half a dozen types for a broken or unsafe file
        raise ValueError(
            f"{path} is not a file of weights that can be loaded safely ({type(error).__name__}); train or copy it again"
        ) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise ValueError(
            f"{path} holds {type(state).__name__}, not a state dict of tensors; save model.state_dict() instead"
        )
    return dict(state)


def load_weights(model: nn.Module, path: str | os.PathLike) -> nn.Module:
    """Load a file of weights into a model strictly, and return the model in eval mode.

    Raises ValueError that counts missing, surplus and misshapen entries. Lesson 4."""
    state, own = load_state(path), model.state_dict()
    missing, surplus = own.keys() - state.keys(), state.keys() - own.keys()
    misshapen = [
        key for key in own.keys() & state.keys() if own[key].shape != state[key].shape
    ]
    if missing or surplus or misshapen:
        counts = f"{len(missing)} entries missing, {len(surplus)} surplus, {len(misshapen)} of another shape"
        hint = "build the network it was trained as (model_*, context_*: ContextUnet(3, 64, 5, 16); others: weights/README.md)"
        raise ValueError(
            f"{path} does not fit this {type(model).__name__}: {counts}; {hint}"
        )
    model.load_state_dict(state)
    return model.eval()


# ---- Sampling --------------------------------------------------------------------------------------------------------

# To a sampler a `model` is any function of (x_t (B, C, H, W), t / T (B,), context (B, n_cfeat) or None) that returns the predicted noise, and a
# `step` goes down once: (x_t, t, t_prev, predicted noise, fresh noise) to x at t_prev.


def sampling_steps(steps: int | Sequence[int], T: int) -> list[int]:
    """That many + 1 different steps from T down to 0, as evenly spaced as whole numbers can be, for any number from 1 to T.

    A list is only checked: whole numbers that start with T, come to 0 at the end only and never stand still; it may rise (lesson 4). Lesson 5."""
    if not isinstance(steps, (int, np.integer)):
        path = [*steps] if hasattr(steps, "__iter__") else []
        if (
            len(path) < 2
            or path[0] != T
            or path[-1] != 0
            or any(
                t == after or t not in range(1, T + 1)
                for t, after in zip(path, path[1:])
            )
        ):
            raise ValueError(
                f"steps={str(steps)[:60]}; expected a whole number, or several that start with T = {T} and come to 0 at the end only"
            )
        return [int(t) for t in path]
    if not 1 <= steps <= T:
        raise ValueError(f"steps={steps}; expected 1 to T = {T}")
    return [round(T * i / steps) for i in range(steps, -1, -1)]


def restart_steps(
    rounds=((300, 120, 4), (200, 60, 8), (120, 20, 7)),
    T: int = 500,
    stride: int = 8,
    round_stride: int = 6,
) -> list[int]:
    """Steps from T to 0 for a sampler that goes back: at `low`, so many times up to `high` and down again, for each (high, low, times).

    `stride` is the length of a step on the way, `round_stride` in the rounds; where it does not fit the last is shorter. The defaults make 495
    calls of the network. Raises ValueError for rounds that go nowhere. [Restart] alg. 1. Lesson 4."""
    if stride < 1 or round_stride < 1:
        raise ValueError(
            f"stride={stride}, round_stride={round_stride}; expected whole numbers, 1 or more"
        )
    path, at = [], T
    for high, low, times in rounds:
        if not (0 < low < high <= T and low < at and times >= 0):
            raise ValueError(
                f"round {(high, low, times)} after step {at}; expected 0 < low < high <= T = {T}, each low below the last, times >= 0"
            )
        path += [
            *range(at, low, -stride),
            *[low, *range(high, low, -round_stride)] * times,
        ]
        at = low
    return [*path, *range(at, 0, -stride), 0]


def denoise_add_noise(
    x, t, pred_noise, schedule, z=0.0, t_prev=None, variance="beta", clip=False
) -> Tensor:
    """One DDPM step from t to t_prev (t - 1 unless told otherwise): the posterior's mean plus sigma z. [DDPM] alg. 2.

    `z` is fresh noise like x (0: the mean alone). `variance` chooses sigma^2: "beta" or "beta_tilde" (smaller). `clip` keeps the implied
    x_0 in [-1, 1]. The step to 0 adds no noise. Raises ValueError for steps or a variance that do not exist. Lesson 4."""
    if variance not in ("beta", "beta_tilde"):
        raise ValueError(f"variance={variance!r}; expected 'beta' or 'beta_tilde'")
    t_prev = t - 1 if t_prev is None else t_prev
    c0, ct, beta_tilde = posterior(t, schedule, t_prev)
    x0 = predict_x0(x, t, pred_noise, schedule)
    mean = c0 * (x0.clamp(-1, 1) if clip else x0) + ct * x
    if t_prev == 0:
        return mean
    beta = 1 - float(schedule.ab[t] / schedule.ab[t_prev])
    return mean + (beta if variance == "beta" else beta_tilde) ** 0.5 * z


def denoise_ddim(
    x, t, t_prev, pred_noise, schedule, eta=0.0, z=0.0, clip=False
) -> Tensor:
    """One DDIM step from t to any t_prev below it: the implied x_0, noised again to t_prev in the same direction. [DDIM] eq. 12.

    `eta` 0 is deterministic, 1 has DDPM's beta-tilde as the variance of the fresh noise that z brings (eta above 0 needs z). Lesson 5."""
    _, _, beta_tilde = posterior(t, schedule, t_prev)
    x0 = predict_x0(x, t, pred_noise, schedule)
    if clip:  # the noise must agree with the clipped picture
        x0 = x0.clamp(-1, 1)
        pred_noise = (x - float(schedule.ab[t]) ** 0.5 * x0) / float(
            1 - schedule.ab[t]
        ) ** 0.5
    ab_prev, sigma = float(schedule.ab[t_prev]), eta * beta_tilde**0.5
    return (
        ab_prev**0.5 * x0
        + max(1 - ab_prev - sigma**2, 0.0) ** 0.5 * pred_noise
        + sigma * z
    )


@contextmanager
def _evaluating(model):
    """Eval mode for the block (no dropout, batch norm's stored averages), and after it each part's old mode again."""
    training = (
        [part for part in model.modules() if part.training]
        if isinstance(model, nn.Module)
        else []
    )
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


@torch.no_grad()
def walk(
    model, schedule, x, steps, step, context=None, generator=None
) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """Walk x along a list of steps; yields (t, x at t, predicted noise at the step before) after each.

    Where the list rises, x gets the noise that it lacks there, and the network is not asked (its prediction is None). Noise comes from a CPU
    generator, whatever the device, and one draw is made for each step, needed or not: the same generator state gives every model the same noise. A
    network is put into eval mode; a plain function must see to that itself. Lesson 4."""
    for t, t_prev in zip(steps[:-1], steps[1:]):
        z = torch.randn(x.shape, generator=generator).to(x)
        if t_prev > t:
            share, pred_noise = float(schedule.ab[t_prev] / schedule.ab[t]), None
            x = share**0.5 * x + (1 - share) ** 0.5 * z
        else:
            with _evaluating(model):
                pred_noise = model(x, x.new_full((len(x),), t / schedule.T), context)
            x = step(x, t, t_prev, pred_noise, z)
        yield t_prev, x, pred_noise


def _start(model, shape, x_T, context, generator) -> tuple[Tensor, Tensor | None]:
    """x_T and the context, on the model's device and in its dtype; x_T is drawn where it is not given."""
    if (shape is None) == (x_T is None):
        raise ValueError(
            f"give either shape=(N, C, H, W) or x_T; got shape={shape} and x_T {'given' if x_T is not None else 'None'}"
        )
    x = torch.randn(shape, generator=generator) if x_T is None else x_T
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    x = x if parameter is None else x.to(parameter)
    if context is not None and len(context) != len(x):
        raise ValueError(
            f"context has {len(context)} rows for {len(x)} pictures; give (N, n_cfeat), one row for each"
        )
    return x, None if context is None else context.to(x)


def _sample(
    model, schedule, shape, x_T, steps, step, context, generator, keep, progress
):
    steps = sampling_steps(schedule.T if steps is None else steps, schedule.T)
    x, context = _start(model, shape, x_T, context, generator)
    if isinstance(
        keep, (int, np.integer)
    ):  # so many places in the list of steps, evenly, the last and the first included
        kept = {round(i) for i in np.linspace(len(steps) - 1, 0, min(keep, len(steps)))}
    elif unknown := set(keep) - set(steps):
        raise ValueError(
            f"keep names steps {sorted(unknown)} that this sampler does not visit; it visits {list(steps)}"
        )
    else:
        kept = {i for i, t in enumerate(steps) if t in keep}
    frames = [x.cpu()] if 0 in kept else []
    trip = walk(model, schedule, x, steps, step, context, generator)
    for i, (_, x, _) in enumerate(
        tqdm(
            trip,
            total=len(steps) - 1,
            leave=False,
            disable=not progress,
            desc="sampling",
        ),
        start=1,
    ):
        if i in kept:
            frames.append(x.cpu())
    return x, torch.stack(frames) if frames else x.new_zeros(
        (0, *x.shape), device="cpu"
    )


def sample_ddpm(model, schedule, shape=None, x_T=None, context=None, steps=None, generator=None, keep=16,
                variance="beta", clip=False, noise_scale=1.0, progress=False) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Draw pictures with DDPM: returns (samples (N, C, H, W), intermediate (frames, N, C, H, W) on the CPU). [DDPM] alg. 2.

    Give `shape` or `x_T`, both (N, C, H, W). `context` (N, n_cfeat). `steps` below T strides (lesson 5); a list is walked as it stands
    (`restart_steps`). `generator` on the CPU. `keep`: how many frames, or which steps (each visit). `variance`, `clip` as `denoise_add_noise`.
    `noise_scale` 0 leaves out the added noise (a fault). `progress` shows a bar. Raises ValueError for what does not fit. Lesson 4."""

    def step(x, t, t_prev, pred_noise, z):
        return denoise_add_noise(
            x, t, pred_noise, schedule, noise_scale * z, t_prev, variance, clip
        )

    return _sample(
        model, schedule, shape, x_T, steps, step, context, generator, keep, progress
    )


def sample_ddim(model, schedule, shape=None, x_T=None, context=None, steps=20, generator=None, keep=16,
                eta=0.0, clip=False, progress=False) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Draw pictures with DDIM in any number of steps from 1 to T, or along a list: arguments and result as `sample_ddpm`. [DDIM] eq. 12. Lesson 5."""

    def step(x, t, t_prev, pred_noise, z):
        return denoise_ddim(x, t, t_prev, pred_noise, schedule, eta, z, clip)

    return _sample(
        model, schedule, shape, x_T, steps, step, context, generator, keep, progress
    )


def _adams_bashforth(schedule: NoiseSchedule, clip: bool) -> Callable:
    """DDIM steps along a weighted sum of up to four noise predictions: the straight line becomes a curve."""
    past, weights = (
        [],
        (
            (1,),
            (3 / 2, -1 / 2),
            (23 / 12, -16 / 12, 5 / 12),
            (55 / 24, -59 / 24, 37 / 24, -9 / 24),
        ),
    )

    def step(x, t, t_prev, pred_noise, z):
        past[:] = [pred_noise, *past[:3]]
        mixed = sum(w * noise for w, noise in zip(weights[len(past) - 1], past))
        return denoise_ddim(x, t, t_prev, mixed, schedule, clip=clip)

    return step


def _second_order(schedule: NoiseSchedule, clip: bool) -> Callable:
    """DDIM steps towards an x_0 extrapolated, in lambda = log(SNR) / 2, from this prediction and the one before."""
    lambdas, past = schedule.snr.log() / 2, []

    def step(x, t, t_prev, pred_noise, z):
        x0 = predict_x0(x, t, pred_noise, schedule)
        x0 = aim = x0.clamp(-1, 1) if clip else x0
        if past and t_prev > 0:  # at t = 0 lambda is infinite: the last step is DDIM's
            t_last, x0_last = past
            aim = x0 + (x0 - x0_last) * float(
                (lambdas[t_prev] - lambdas[t]) / (lambdas[t] - lambdas[t_last]) / 2
            )
        past[:] = t, x0
        towards = (x - float(schedule.ab[t]) ** 0.5 * aim) / float(
            1 - schedule.ab[t]
        ) ** 0.5
        return denoise_ddim(x, t, t_prev, towards, schedule)

    return step


def sample_multistep(model, schedule, shape=None, x_T=None, context=None, steps=10, generator=None, keep=16,
                     solver="2m", clip=False, progress=False) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Draw pictures in few steps by remembering what the network said before: arguments and result as `sample_ddpm`.

    `solver` "2m" is DPM-Solver++(2M), [DPM++] alg. 2; "ipndm" is PNDM's four-term mixture for strides equal in t, [PNDM] eq. 12, with fewer
    terms in the first three steps. Both are deterministic; a step costs one call. Raises ValueError for another solver, or a list. Lesson 5."""
    if solver not in ("2m", "ipndm"):
        raise ValueError(f"solver={solver!r} does not exist; expected '2m' or 'ipndm'")
    if not isinstance(steps, (int, np.integer)):
        raise ValueError(
            f"steps={str(steps)[:60]}; expected a whole number of steps (on a list's way up a solver remembers wrongly)"
        )
    step = (
        _second_order(schedule, clip)
        if solver == "2m"
        else _adams_bashforth(schedule, clip)
    )
    return _sample(
        model, schedule, shape, x_T, steps, step, context, generator, keep, progress
    )


# ---- Measuring -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def denoising_losses(model, x, schedule, steps, c=None, seed=0, batch=100) -> Tensor:
    """The noise-prediction error of each picture at each step: (len(steps), N), mean squared, the same noise for every model.

    On held-out pictures this tells learning from memorising; its standard error is std / sqrt(N). [DDPM] eq. 14. Lesson 4."""
    generator, rows = Generator().manual_seed(seed), []
    x, c = _start(model, None, x, c, None)
    with _evaluating(model):
        for t in steps:
            noise = torch.randn(x.shape, generator=generator).to(x)
            x_t = perturb_input(x, t, noise, schedule)
            parts = [slice(i, i + batch) for i in range(0, len(x), batch)]
            predicted = [
                model(
                    x_t[i],
                    x.new_full((len(x_t[i]),), t / schedule.T),
                    None if c is None else c[i],
                )
                for i in parts
            ]
            rows.append((torch.cat(predicted) - noise).square().flatten(1).mean(1))
    return torch.stack(rows).cpu()


def nearest_pictures(
    x: Tensor | np.ndarray, reference: Tensor | np.ndarray, k: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest reference pictures, nearest first: (distances as RMS over pixels and channels, 0 to 1; indices), (N,), or (N, k) for k > 1.

    Raises ValueError where the reference has fewer than k. Lesson 4."""
    ours, theirs = (
        torch.from_numpy(to_pictures(p) / 255).flatten(1) for p in (x, reference)
    )
    if not 1 <= k <= len(theirs):
        raise ValueError(
            f"k={k}; expected 1 to {len(theirs)}, the number of reference pictures"
        )
    distances, indices = torch.cdist(ours, theirs).topk(k, largest=False)
    return (distances.squeeze(1) / ours.shape[1] ** 0.5).numpy(), indices.squeeze(
        1
    ).numpy()


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The squared Frechet distance of two sets of features (N, d), (M, d), each taken for a Gaussian. [FID] eq. 6.

    |mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), in squared units of the features. Small sets score too high: compare equal N.
    Raises ValueError for other shapes, or fewer than two rows. Lesson 4."""
    if (
        a.ndim != 2
        or b.ndim != 2
        or a.shape[1] != b.shape[1]
        or min(len(a), len(b)) < 2
    ):
        raise ValueError(
            f"features have shapes {a.shape} and {b.shape}; expected (N, d) and (M, d), N and M at least 2"
        )
    (mu_a, c_a), (mu_b, c_b) = (
        (rows.mean(0), np.atleast_2d(np.cov(rows, rowvar=False))) for rows in (a, b)
    )
    eigenvalues = np.linalg.eigvals(c_a @ c_b).real.clip(
        0
    )  # real and not negative, but for rounding
    return float(
        np.square(mu_a - mu_b).sum()
        + np.trace(c_a + c_b)
        - 2 * np.sqrt(eigenvalues).sum()
    )


def precision_recall_density_coverage(
    real: np.ndarray, fake: np.ndarray, k: int = 5
) -> dict[str, np.ndarray]:
    """Four scores from neighbourhoods: the open ball around each feature that reaches to its k-th neighbour in its own set.

    {"precision": (M,), "recall": (N,), "density": (M,), "coverage": (N,)}, one value a picture, whose means are the scores: precision, is a fake in a
    real's ball; recall, is a real in a fake's; density, how many reals' balls hold a fake, over k; coverage, does a real's ball hold a fake.
    `real` (N, d), `fake` (M, d). Raises ValueError unless 1 <= k < N, M. [PR] eq. 2, [PRDC] eq. 3 and 4. Lesson 4."""
    if not 1 <= k < min(len(real), len(fake)):
        raise ValueError(
            f"k={k} with {len(real)} and {len(fake)} features; expected 1 <= k < the smaller number"
        )
    real, fake = (torch.as_tensor(rows, dtype=torch.float64) for rows in (real, fake))
    real_radius, fake_radius = (
        torch.cdist(rows, rows).kthvalue(k + 1).values for rows in (real, fake)
    )
    between = torch.cdist(real, fake)
    in_real, in_fake = between < real_radius[:, None], between < fake_radius
    shares = {
        "precision": in_real.any(0),
        "recall": in_fake.any(1),
        "density": in_real.double().sum(0) / k,
        "coverage": in_real.any(1),
    }
    return {name: share.numpy() for name, share in shares.items()}


def memorised(
    pictures: Tensor | np.ndarray, training: Tensor | np.ndarray
) -> np.ndarray:
    """(N,) bool: is the nearest training picture less than a third as far as the second-nearest, duplicates aside? [Memo]. Lesson 4."""
    first, second = nearest_pictures(
        pictures, np.unique(to_pictures(training), axis=0), k=2
    )[0].T
    return first < second / 3


def feature_network(
    path: str | os.PathLike | None = WEIGHTS / "features.pth",
) -> nn.Sequential:
    """The body of a small classifier of class and factors: (N, 3, 16, 16) in [-1, 1] to features (N, 64); `path=None` for random weights.

    `weights/train.py` trains it, with a head that is then thrown away, as [FID] uses Inception's last layer but one. Lesson 4."""
    body = nn.Sequential(
        UnetDown(3, 32), UnetDown(32, 64), nn.Flatten(), nn.Linear(1024, 64)
    )
    return body if path is None else load_weights(body, path)


@torch.no_grad()
def sprite_features(pictures: Tensor | np.ndarray) -> np.ndarray:
    """The features of pictures (N, 3, 16, 16) in [-1, 1] or (N, 16, 16, 3) uint8, rounded to uint8 first: (N, 64) float64. Lesson 4."""
    network, x = feature_network(), to_model_range(to_pictures(pictures))
    return torch.cat([network(some) for some in x.split(250)]).double().numpy()


def sprite_scores(pictures, asked=None) -> dict[str, tuple[float, float, float]]:
    """Every measure of a set of sprites against `train`: {measure: (value, low, high)}, the ends of a 95 % interval.

    `pictures` as `sprite_features`. `asked`: contexts (N, 5), a row of zeros asking nothing, or N dictionaries of factors. First those of the
    factory's `summary` (and its errors); then `memorised`; the four of neighbourhoods against as many of `train`; FD against all. Lesson 4."""
    scoring, train, pictures = (
        sprite_scoring(),
        load_sprites("train"),
        to_pictures(pictures),
    )
    scores = scoring.summary(pictures, train.factors, asked)
    ours, theirs = sprite_features(pictures), sprite_features(train.images)
    some = theirs[np.random.default_rng(0).permutation(len(theirs))[: len(ours)]]
    values = {
        "memorised": memorised(pictures, train.images)
    } | precision_recall_density_coverage(some, ours)

    def of_the_set(
        rows,
    ):  # recall and coverage are shares of real ones, but it is the samples that chance might change
        near = precision_recall_density_coverage(some, ours[rows])
        return (
            near["recall"].mean(),
            near["coverage"].mean(),
            frechet_distance(ours[rows], theirs),
        )

    scores |= {name: scoring.interval(each) for name, each in values.items()}
    return scores | dict(
        zip(("recall", "coverage", "FD"), scoring.jackknife(of_the_set, len(ours)))
    )


def sprite_report(samples, asked=None, n: int = 1000, seed: int = 0) -> str:
    """The scores of the first n samples as a table beside those of held-out `test` sprites (the floor) and of fresh legal ones (the ceiling).

    Fresh ones are fair draws from the grammar: some of them are in training, others have held-out pairs. Arguments as `sprite_scores`. Raises
    ValueError unless there are n samples and 20 <= n <= 1,100, the number of `test` sprites: all columns have as many. Lesson 4."""
    factory, scoring = sprite_factory(), sprite_scoring()
    test = load_sprites("test")
    if not scoring.GROUPS <= n <= min(len(samples), len(test)):
        raise ValueError(
            f"n={n} of {len(samples)} samples; expected {scoring.GROUPS} to {len(test)}, and no more than there are samples"
        )
    tests = test.images[np.random.default_rng(seed).permutation(len(test))[:n]]
    ours = sprite_scores(samples[:n], None if asked is None else asked[:n])
    floor, ceiling = (
        sprite_scores(tests),
        sprite_scores(factory.render_many(factory.draw_specifications(n, seed))),
    )
    return scoring.score_table(
        {"samples": ours, "test (floor)": floor, "fresh legal (ceiling)": ceiling}, n
    )


# ---- Showing ---------------------------------------------------------------------------------------------------------


def unorm(x):
    """Values in [-1, 1] to [0, 1], clipped: the same for every picture and channel, so that colours stay true. Lesson 3."""
    return (x * 0.5 + 0.5).clip(0, 1)


def norm_all(store, n_t, n_s):
    """`unorm` for the first n_t frames and n_s pictures of a store (frames, pictures, ...). Lesson 4."""
    return unorm(store[:n_t, :n_s])


def norm_torch(x_all):
    """`unorm` for a batch, as a tensor on the CPU. Lesson 3."""
    return unorm(torch.as_tensor(x_all).detach().cpu())


def gen_tst_context(n_cfeat):
    """36 test contexts: (36, (36, n_cfeat)), the one-hot rows and a zero row, over and over. Lesson 3."""
    rows = torch.cat((torch.eye(n_cfeat), torch.zeros(1, n_cfeat)))
    return 36, rows[torch.arange(36) % len(rows)]


def plot_grid(x, n_sample, n_rows, save_dir, w):
    """A grid of n_sample pictures (N, 3, H, W) in n_rows rows, saved as {save_dir}run_image_w{w}.png; returns it (3, H', W'). Lesson 3."""
    grid = make_grid(norm_torch(x)[:n_sample], nrow=-(-n_sample // n_rows))
    path = f"{save_dir}run_image_w{w}.png"
    with _written_whole(path) as temporary:
        save_image(grid, temporary, format="png")
    print(f"saved image at {path}")
    return grid


def plot_sample(x_gen_store, n_sample, nrows, save_dir, fn, w, save=False):
    """An animation of (frames, n, 3, H, W) in nrows rows; with `save` also written as {save_dir}{fn}_w{w}.gif. Lesson 4."""
    store = torch.as_tensor(x_gen_store)[:, :n_sample]
    animation = animate(store, columns=-(-store.shape[1] // nrows))
    if save:
        path = f"{save_dir}{fn}_w{w}.gif"
        animation.save(path)
        print(f"saved gif at {path}")
    return animation


def to_pictures(
    x: Tensor | np.ndarray, value_range: tuple[float, float] = (-1.0, 1.0)
) -> np.ndarray:
    """Anything that holds pictures to (..., H, W, 3) uint8; uint8 arrays (..., H, W, 3) pass through.

    Tensors (..., C, H, W), C = 1 or 3, have `value_range` mapped to 0..255 and clipped: one fixed map, never one a picture. Lesson 3."""
    if isinstance(x, np.ndarray) and x.dtype == np.uint8:
        return x
    if torch.is_tensor(x) and x.dtype == torch.uint8:
        raise ValueError(
            "pictures are a uint8 tensor; give the uint8 array (..., H, W, 3) itself, or to_model_range of it"
        )
    x = torch.as_tensor(x).detach().float().cpu()
    if x.isnan().any():
        raise ValueError(
            "pictures hold NaN: the network or the sampler that made them diverged"
        )
    if x.ndim < 3 or x.shape[-3] not in (1, 3):
        raise ValueError(
            f"pictures have shape {tuple(x.shape)}; expected (..., 1 or 3, H, W)"
        )
    x = (
        ((x - value_range[0]) / (value_range[1] - value_range[0]))
        .clamp(0, 1)
        .mul(255)
        .round()
        .byte()
    )
    return x.movedim(-3, -1).expand(*x.shape[:-3], *x.shape[-2:], 3).numpy()


def _sheet(pictures: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """(N, H, W, 3) uint8 to one canvas, row by row, white between and where the last row is short."""
    rows = -(-len(pictures) // columns)
    tiles = np.pad(
        pictures,
        ((0, rows * columns - len(pictures)), (gap, 0), (gap, 0), (0, 0)),
        constant_values=255,
    )
    sheet = (
        tiles.reshape(rows, columns, *tiles.shape[1:])
        .swapaxes(1, 2)
        .reshape(rows * tiles.shape[1], -1, 3)
    )
    return np.pad(sheet, ((0, gap), (0, gap), (0, 0)), constant_values=255)


def _labelled(
    sheet: np.ndarray, zoom: int, rows: Sequence[str], columns: Sequence[str]
) -> Image.Image:
    """Enlarge a canvas; write a label left of each of the evenly spaced rows, and above each column."""
    picture = Image.fromarray(sheet.repeat(zoom, axis=0).repeat(zoom, axis=1))
    font, rows, columns = (
        ImageFont.load_default(13),
        [*map(str, rows)],
        [*map(str, columns)],
    )
    left, top = (
        max((int(font.getlength(label)) + 8 for label in rows), default=0),
        20 if columns else 0,
    )
    canvas = Image.new("RGB", (left + picture.width, top + picture.height), "white")
    canvas.paste(picture, (left, top))
    draw = ImageDraw.Draw(canvas)
    for i, label in enumerate(rows):
        draw.text(
            (left - 4, top + picture.height * (i + 0.5) / len(rows)),
            label,
            "black",
            font,
            anchor="rm",
        )
    for i, label in enumerate(columns):
        draw.text(
            (left + picture.width * (i + 0.5) / len(columns), 3),
            label,
            "black",
            font,
            anchor="ma",
        )
    return canvas


def show_images(
    x, columns=None, zoom=3, rows=(), titles=(), value_range=(-1.0, 1.0)
) -> Image.Image:
    """A grid of pictures at a whole-number zoom, never blurred: (N, C, H, W) tensor or (N, H, W, 3) uint8 to a PIL image.

    `rows` labels the rows, `titles` the columns; `columns` is as many as there are titles, else 8. Lesson 1."""
    pictures = to_pictures(x, value_range)
    if not isinstance(zoom, int) or zoom < 1:
        raise ValueError(
            f"zoom={zoom}; expected a whole number, 1 or more, so that no pixel is blurred"
        )
    if pictures.ndim != 4 or not len(pictures):
        raise ValueError(
            f"pictures have shape {pictures.shape}; expected (N, H, W, 3) or a tensor (N, C, H, W), N at least 1"
        )
    columns = columns or len(titles) or min(8, len(pictures))
    return _labelled(_sheet(pictures, columns), zoom, rows, titles)


def filmstrip(
    stores: Mapping[str, Tensor], titles: Sequence[str] = (), zoom: int = 3
) -> Image.Image:
    """One labelled row for each entry of {label: (pictures, C, H, W)}: time, epochs or samplers side by side. Lesson 4."""
    lengths = {len(store) for store in stores.values()}
    if len(lengths) != 1:
        raise ValueError(
            f"the rows hold {sorted(lengths)} pictures; expected as many in each"
        )
    return show_images(
        np.concatenate([to_pictures(store) for store in stores.values()]),
        lengths.pop(),
        zoom,
        tuple(stores),
        titles,
    )


_PLAYER = """<div id="{id}" role="group" aria-label="{alt}">
<div style="display:flex;width:max-content;max-width:100%;background:white;color:black;font:13px sans-serif">
<div style="display:flex;flex-direction:column;justify-content:space-around;padding-right:4px;text-align:right">{labels}</div>
<canvas role="img" aria-label="{alt}" width="{width}" height="{height}" hidden style="{style}"></canvas>
<img src="data:image/png;base64,{last}" alt="{alt}, last frame" style="{style}"></div>
<div hidden><button type="button">Pause</button><input type="range" data-lm-suppress-shortcuts="true" min=0 max="{end}" value="0" aria-label="frame">
<output aria-live="off"></output></div></div><script>(() => {{
  const views = [...document.querySelectorAll("#{id}")], root = views.find(view => !view.dataset.ready) ?? views[0];
  const canvas = root.querySelector("canvas"), last = root.querySelector("img"), bar = root.lastElementChild;
  const [button, slider, output] = bar.children, strip = new Image(); let timer = null; root.dataset.ready = "1";
  const show = () => {{ output.textContent = "frame " + (+slider.value + 1) + " of {frames}"; const end = +slider.value === {end};
    canvas.getContext("2d").drawImage(end ? last : strip, 0, end ? 0 : -slider.value * {height}); }};  /* the still one has its exact colours */
  const pause = () => {{ clearInterval(timer); timer = null; button.textContent = "Play"; }};
  const play = () => {{ let wait = 0; button.textContent = "Pause"; timer = setInterval(() => {{ if (!root.isConnected) return pause();
    if (+slider.value < {end}) slider.value = +slider.value + 1; else if (++wait > 6) slider.value = wait = 0; show(); }}, {interval}); }};
  button.onclick = () => timer ? pause() : play(); slider.oninput = () => {{ pause(); show(); }};
  strip.onload = () => {{ last.style.display = "none"; canvas.hidden = bar.hidden = false; show();
    matchMedia("(prefers-reduced-motion: reduce)").matches ? pause() : play(); }}; strip.src = "data:image/png;base64,{strip}"; }})();</script>"""


def _png(picture: Image.Image) -> bytes:
    picture.save(buffer := io.BytesIO(), "PNG", optimize=True)
    return buffer.getvalue()


class SpriteAnimation:
    """Frames (F, H, W, 3) uint8 that play in a notebook, or save as a GIF.

    Why not matplotlib's player: it stores each frame enlarged, and fetches its buttons' icons from the network. Here a frame is stored
    pixel for pixel and the browser enlarges it by a whole number. Without JavaScript (GitHub, a PDF) the last frame is shown. Lesson 4."""

    def __init__(
        self,
        frames: np.ndarray,
        zoom: int = 3,
        labels: Sequence[str] = (),
        fps: float = 8,
        alt: str = "animation of sprites",
    ):
        self.frames, self.zoom, self.labels, self.fps, self.alt = (
            frames,
            zoom,
            tuple(map(str, labels)),
            fps,
            alt,
        )

    def to_jshtml(self, fps: float | None = None) -> str:
        """The player as HTML that needs nothing from the network."""
        n, height, width, _ = self.frames.shape
        return _PLAYER.format(
            id=f"sprites-{os.urandom(6).hex()}", alt=html.escape(self.alt), width=width, height=height, frames=n, end=n - 1,
            style=f"width:{width * self.zoom}px;min-width:0;align-self:center;image-rendering:pixelated;margin:0",
            labels="".join(f"<span>{html.escape(label)}</span>" for label in self.labels), interval=round(1000 / (fps or self.fps)),
            last=base64.b64encode(_png(Image.fromarray(self.frames[-1]))).decode(),
            strip=base64.b64encode(_png(Image.fromarray(self.frames.reshape(-1, width, 3)).quantize(96))).decode(),
        )  # fmt: skip

    _repr_html_ = to_jshtml

    def picture(self, frame: int = -1) -> Image.Image:
        """One frame, enlarged, with its labels."""
        return _labelled(self.frames[frame], self.zoom, self.labels, ())

    def save(self, path: str | os.PathLike, fps: float | None = None) -> None:
        """Write an endless GIF, whole or not at all; the last frame stays for a second."""
        pictures = [self.picture(i).quantize(256) for i in range(len(self.frames))]
        pause = round(1000 / (fps or self.fps))
        with _written_whole(path) as temporary:
            pictures[0].save(
                temporary,
                "GIF",
                save_all=True,
                append_images=pictures[1:],
                duration=[pause] * (len(pictures) - 1) + [1000],
                loop=0,
            )


def animate(store, columns=None, zoom=3, fps=8) -> SpriteAnimation:
    """Animate (frames, N, C, H, W), or several such stores as labelled rows that move together: {label: store}. Lesson 4."""
    if not isinstance(store, Mapping):
        pictures = to_pictures(store)
        if pictures.ndim != 5 or not pictures.size:
            raise ValueError(
                f"frames have shape {pictures.shape}; expected (frames, N, H, W, 3): a sampler's second result"
            )
        return SpriteAnimation(
            np.stack(
                [_sheet(frame, columns or min(8, len(frame))) for frame in pictures]
            ),
            zoom,
            fps=fps,
        )
    shapes = {tuple(rows.shape) for rows in store.values()}
    if len(shapes) != 1:
        raise ValueError(
            f"the rows have shapes {sorted(shapes)}; expected the same number of frames and pictures in each"
        )
    joined = np.concatenate([to_pictures(rows) for rows in store.values()], axis=1)
    frames = np.stack(
        [_sheet(frame, joined.shape[1] // len(store)) for frame in joined]
    )
    return SpriteAnimation(
        frames,
        zoom,
        tuple(store),
        fps,
        alt="sampling, one row each: " + ", ".join(map(str, store)),
    )


def compare_checkpoints(
    models, sample, seed=0, zoom=3
) -> tuple[SpriteAnimation, dict[str, Tensor]]:
    """Sample every model from the same x_T with the same noise: (animation, a row a model; {label: samples}).

    `sample(model, generator)` returns a sampler's (samples, frames); each generator has the same seed, so only the weights differ. Lesson 4."""
    results = {
        label: sample(model, Generator().manual_seed(seed))
        for label, model in models.items()
    }
    frames, samples = (
        {label: result[i] for label, result in results.items()} for i in (1, 0)
    )
    return animate(frames, zoom=zoom), {label: x.cpu() for label, x in samples.items()}


def show_source(thing: Callable | type):
    """The source of a function or class of this module as a listing, so that a lesson can put the formula beside it. Lesson 1."""
    from IPython.display import Markdown

    def fill(docstring: re.Match) -> str:
        texts = (
            " ".join(paragraph.split()).replace(' """', '"""')
            for paragraph in docstring[0].split("\n\n")
        )
        return "\n\n".join(
            textwrap.fill(
                text, 92, initial_indent=docstring[1], subsequent_indent=docstring[1]
            )
            for text in texts
        )

    wrapped = []
    for line in re.sub(
        r'( +)""".*?"""', fill, inspect.getsource(thing), flags=re.DOTALL
    ).splitlines():
        indent = " " * (len(line) - len(line.lstrip()))
        glued = re.sub(
            r"(?<!,) ", "\0", line.lstrip()
        )  # a page would break long lines in the middle of a word: break them at commas
        filled = textwrap.fill(
            glued, 92 - len(indent), break_long_words=False, break_on_hyphens=False
        )
        wrapped.append(textwrap.indent(filled, indent).replace("\0", " "))
    return Markdown("```python\n" + "\n".join(wrapped) + "\n```")


# ---- Exploring -------------------------------------------------------------------------------------------------------


class Instrument:
    """Knobs above the picture that `draw(**settings)` returns, redrawn in place; a page without a kernel shows the first picture alone.

    Made by `explore`. `knobs`: {name: widget}; `picture`: the PIL image last drawn; `caption`: the words under it. Lesson 1."""

    def __init__(self, draw: Callable, alt: str, knobs: Mapping):
        import ipywidgets

        self.draw, self.alt, self.knobs, self._view = (
            draw,
            alt,
            knobs,
            ipywidgets.HTML(),
        )
        self._box = ipywidgets.VBox([*knobs.values(), self._view])
        self.redraw()
        for knob in knobs.values():
            knob.tooltip = knob.description  # or a browser's tip would say "null"
            knob.observe(self.redraw, names="value")

    def redraw(self, _=None) -> None:
        """Draw for the settings of the knobs, in place of the picture that is there; a figure of matplotlib is closed."""
        drawn = self.draw(**{name: knob.value for name, knob in self.knobs.items()})
        self.picture, self.caption = drawn if isinstance(drawn, tuple) else (drawn, "")
        if isinstance(self.picture, plt.Figure):
            self.picture.savefig(
                buffer := io.BytesIO(), format="png", bbox_inches="tight"
            )
            plt.close(self.picture)
            self.picture = Image.open(buffer).convert("RGB")
        self._png, self.words = (
            base64.b64encode(_png(self.picture)).decode(),
            ". ".join(filter(None, (self.alt, self.caption))),
        )
        image = f'<img alt="{html.escape(self.words)}" src="data:image/png;base64,{self._png}" style="max-width:100%;margin:0">'
        self._view.value = (
            f'{image}<div style="line-height:1.4">{html.escape(self.caption)}</div>'
        )

    def _repr_mimebundle_(self, **_):
        view = {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}
        return {
            "application/vnd.jupyter.widget-view+json": view,
            "image/png": self._png,
            "text/plain": self.words,
        }


def explore(
    draw: Callable, alt: str, start: Mapping = {}, **options: Sequence
) -> Instrument:
    """An `Instrument` with a knob for each named list of options: a box to tick for (False, True), buttons for words, else a slider.

    `draw` takes one option of each list and returns a PIL image or a figure, or (either, a caption); `alt` says in words what the picture is;
    `start` names the options that are not the first of their lists. Raises ValueError for a start that is no option. Lesson 1."""
    import ipywidgets

    if wrong := {
        name: value
        for name, value in start.items()
        if value not in options.get(name, ())
    }:
        raise ValueError(f"start has {wrong}; expected options of {options}")

    def knob(name: str, values: list):
        common = {
            "description": name.replace("_", " "),
            "value": start.get(name, values[0]),
            "style": {"description_width": "initial"},
        }
        if all(isinstance(value, bool) for value in values):
            return ipywidgets.Checkbox(**common, indent=False)
        kind = (
            ipywidgets.ToggleButtons
            if isinstance(values[0], str)
            else functools.partial(ipywidgets.SelectionSlider, continuous_update=False)
        )
        return kind(**common, options=values)

    return Instrument(
        draw, alt, {name: knob(name, list(values)) for name, values in options.items()}
    )
