"""This course against the published recipe and three libraries.

`python weights/experiments/benchmark.py` takes two hours on two cores; install
weights/experiments/requirements.txt first, and let nothing else run meanwhile.

Each contender is trained for the same ten minutes on the same sprites, without labels,
in a process of its own. The program writes weights/benchmark.json, some samples in
weights/results/benchmark.npz, and weights/pictures/benchmark.png. Contenders that are
there already are kept.

The libraries are given what helps this course: batches of 50, a warm-up, a rate that
falls to 0, averaged weights, bfloat16 where it is fast, and its rate of 2e-3 (in trials
of 45 seconds no library had a lower loss with 5e-4 or 1e-3). Network, noise, target,
loss, Adam's other settings and sampler are their own. The published recipe is trained
as it was published.
"""

import argparse
import functools
import multiprocessing
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path

import faults
import matplotlib.pyplot as plt
import numpy as np
import psutil
import tables
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from training import steps_with

import diffusion_utilities as du  # tables.py makes it importable

WEIGHTS = Path(__file__).resolve().parents[1]
VERSION = 1  # raise it when the meaning of this code changes
MINUTES = [2, 5, 10]
SAMPLES = 1000
SCORED_WITH = 50  # steps of DDIM
BATCH = 250  # pictures that are drawn at once
SHOWN = 12
SEED = 1
SCHEDULE = du.NoiseSchedule.linear()
SHAPE = (3, 16, 16)
CPU = torch.device("cpu")

# (network, how many) to pictures (N, 3, 16, 16) in [-1, 1]
Draw = Callable[[nn.Module, int], Tensor]


@dataclass(frozen=True)
class Contender:
    """One network with its training and its samplers.

    loss: a function (network, x) of clean pictures x (B, 3, 16, 16) in [-1, 1]; None
        where the helper's `train_steps` trains it.
    ddim: a function from the number of steps to its own DDIM sampler.
    others: {name: sampler}; a name ends in "-" and the number of calls.
    clip: the longest gradient.
    helped: whether it gets a warm-up, averaged weights, and bfloat16 where it is fast.
    """

    build: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Tensor], Tensor] | None
    ddim: Callable[[int], Draw]
    others: dict[str, Draw] = field(default_factory=dict)
    rate: float = 2e-3
    batch: int = 50
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = None
    helped: bool = True
    channels_last: bool = False


# ---- This course, and the published recipe ------------------------------------------


def context_unet() -> nn.Module:
    return du.ContextUnet(3, 64, 5, 16)


def course_draw(sampler: Callable, **options) -> Draw:
    def draw(network, n):
        shape = (n, *SHAPE)
        pictures, _ = sampler(network, SCHEDULE, shape=shape, keep=0, **options)
        return pictures

    return draw


def course_ddim(steps: int) -> Draw:
    return course_draw(du.sample_ddim, steps=steps)


def course_multistep(solver: str) -> Draw:
    return course_draw(du.sample_multistep, steps=10, solver=solver)


def published_unet() -> nn.Module:
    return faults.with_random_shortcut(context_unet())


def published_loss(network: nn.Module, x: Tensor) -> Tensor:
    t = torch.randint(1, SCHEDULE.T + 1, (len(x),))
    noise = torch.randn_like(x)
    x_t = faults.noise_without_root(x, t, noise, SCHEDULE)
    return F.mse_loss(network(x_t, t / SCHEDULE.T), noise)


# ---- diffusers ----------------------------------------------------------------------


@functools.cache
def diffusers_scheduler(name: str):
    """A scheduler with its defaults: 1,000 linear steps, for the noise, clipped."""
    import diffusers

    return getattr(diffusers, name)()


def diffusers_unet() -> nn.Module:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(48, 96),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


def diffusers_loss(network: nn.Module, x: Tensor) -> Tensor:
    scheduler = diffusers_scheduler("DDPMScheduler")
    noise = torch.randn_like(x)
    t = torch.randint(0, scheduler.config.num_train_timesteps, (len(x),))
    answer = network(scheduler.add_noise(x, noise, t), t).sample
    return F.mse_loss(answer.float(), noise)


@torch.no_grad()
def diffusers_loop(
    network: nn.Module, x: Tensor, scheduler, steps: int, ask: Callable
) -> Tensor:
    """The library's usual loop; `ask(network, x, t)` is the predicted noise."""
    scheduler.set_timesteps(steps)
    network.eval()
    for t in scheduler.timesteps:
        x = scheduler.step(ask(network, x, t), t, x).prev_sample
    return x


def diffusers_draw(name: str, steps: int) -> Draw:
    def ask(network, x, t):
        return network(x, t).sample

    def draw(network, n):
        x = torch.randn(n, *SHAPE)
        return diffusers_loop(network, x, diffusers_scheduler(name), steps, ask)

    return draw


def diffusers_ddim(steps: int) -> Draw:
    return diffusers_draw("DDIMScheduler", steps)


# ---- denoising-diffusion-pytorch ----------------------------------------------------


def gaussian_diffusion(network: nn.Module, **options):
    """Its diffusion: by default 1,000 steps, a sigmoid schedule, for the velocity."""
    from denoising_diffusion_pytorch import GaussianDiffusion

    return GaussianDiffusion(network, image_size=SHAPE[1], **options)


def lucid_unet() -> nn.Module:
    """Its U-Net with the diffusion around it, as that library trains it."""
    from denoising_diffusion_pytorch import Unet

    return gaussian_diffusion(Unet(dim=32, dim_mults=(1, 2, 2)))


def lucid_loss(diffusion: nn.Module, x: Tensor) -> Tensor:
    return diffusion(x / 2 + 0.5)  # it wants [0, 1]


def lucid_draw(steps: int) -> Draw:
    def draw(diffusion, n):
        diffusion.eval()
        diffusion.sampling_timesteps = steps
        sample = diffusion.ddim_sample
        if steps >= diffusion.num_timesteps:
            sample = diffusion.p_sample_loop
        with redirect_stderr(StringIO()):  # its progress bar
            pictures = sample((n, *SHAPE))
        return pictures * 2 - 1

    return draw


# ---- smalldiffusion -----------------------------------------------------------------


@functools.cache
def log_linear():
    from smalldiffusion import ScheduleLogLinear

    return ScheduleLogLinear(sigma_min=0.01, sigma_max=20, N=800)


def small_unet() -> nn.Module:
    from smalldiffusion import Scaled, Unet

    return Scaled(Unet)(16, 3, 3, ch=64, ch_mult=(1, 1), attn_resolutions=(8,))


def small_loss(network: nn.Module, x: Tensor) -> Tensor:
    from smalldiffusion import generate_train_sample

    x0, sigma, noise, _ = generate_train_sample(x, log_linear())
    return network.get_loss(x0, sigma, noise)


def small_draw(steps: int, **options) -> Draw:
    def draw(network, n):
        from smalldiffusion import samples

        sigmas = log_linear().sample_sigmas(steps)
        *_, last = samples(network, sigmas, batchsize=n, **options)
        return last

    return draw


# ---- The contenders -----------------------------------------------------------------

COURSE_CONTEXT_UNET = Contender(
    build=context_unet,
    loss=None,
    ddim=course_ddim,
    others={
        "DDPM-500": course_draw(du.sample_ddpm),
        "2M-10": course_multistep("2m"),
        "iPNDM-10": course_multistep("ipndm"),
    },
    channels_last=True,
)
PUBLISHED = Contender(
    build=published_unet,
    loss=published_loss,
    ddim=course_ddim,
    others={"DDPM-500": course_draw(du.sample_ddpm)},
    rate=1e-3,
    batch=100,
    helped=False,
)
DIFFUSERS = Contender(
    build=diffusers_unet,
    loss=diffusers_loss,
    ddim=diffusers_ddim,
    others={"DDPM-1000": diffusers_draw("DDPMScheduler", 1000)},
)
DENOISING_DIFFUSION = Contender(
    build=lucid_unet,
    loss=lucid_loss,
    ddim=lucid_draw,
    others={"DDPM-1000": lucid_draw(1000)},
    betas=(0.9, 0.99),
    clip=1.0,
)
SMALLDIFFUSION = Contender(
    build=small_unet,
    loss=small_loss,
    ddim=small_draw,
    others={
        "accelerated-10": small_draw(10, gam=2),
        "accelerated-20": small_draw(20, gam=2),
        "DDPM-800": small_draw(800, mu=0.5),
    },
)
CONTENDERS = {
    "this course, ContextUnet": COURSE_CONTEXT_UNET,
    "published recipe": PUBLISHED,
    "diffusers": DIFFUSERS,
    "denoising-diffusion-pytorch": DENOISING_DIFFUSION,
    "smalldiffusion": SMALLDIFFUSION,
}


# ---- Training for so many seconds ---------------------------------------------------


def endless_batches(
    x: Tensor, size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, None]]:
    """Whole batches (pictures, None), each epoch in a new order."""
    while True:
        order = torch.randperm(len(x), generator=generator)
        for rows in order.split(size):
            if len(rows) == size:
                yield x[rows], None


def uses_bf16(contender: Contender) -> bool:
    return contender.helped and du.has_fast_bf16(CPU)


def steps_of(
    contender: Contender, network, batches, optimiser, average
) -> Iterator[float]:
    """The training steps of a contender; yields their losses."""
    if contender.loss is None:
        return du.train_steps(
            network, batches, SCHEDULE, optimiser=optimiser, average=average
        )
    return other_steps(contender, network, batches, optimiser, average)


def other_steps(
    contender: Contender, network, batches, optimiser, average
) -> Iterator[float]:
    """The same with the contender's own loss."""
    bf16 = uses_bf16(contender)

    def loss(batch):
        x, _ = batch
        network.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return contender.loss(network, x)

    for value in steps_with(loss, batches, optimiser):
        if average is not None:
            average.update_parameters(network)
        yield value


def optimiser_of(contender: Contender, network: nn.Module) -> torch.optim.Optimizer:
    """Adam, which clips the norm of the gradient where the contender says so."""
    parameters = list(network.parameters())
    optimiser = torch.optim.Adam(
        parameters, contender.rate, contender.betas, fused=contender.helped
    )

    def clip(*_):
        nn.utils.clip_grad_norm_(parameters, contender.clip)

    if contender.clip:
        optimiser.register_step_pre_hook(clip)
    return optimiser


def copied(network: nn.Module) -> dict[str, Tensor]:
    """A copy of a network's weights."""
    return {key: value.clone() for key, value in network.state_dict().items()}


def train(
    contender: Contender, minutes: tuple[float, ...]
) -> tuple[nn.Module, list[dict], list[dict[str, Tensor]]]:
    """Train for the last of these minutes; the rate falls with the clock.

    Returns (network, [{minutes, pictures, seconds}], the weights to sample from at
    each of these minutes).
    """
    torch.manual_seed(SEED)
    network = contender.build()
    if contender.channels_last:
        network = network.to(memory_format=torch.channels_last)
    average = du.average_weights(network, 0.999) if contender.helped else None
    optimiser = optimiser_of(contender, network)
    generator = torch.Generator().manual_seed(SEED)
    batches = endless_batches(du.load_sprites("train").x, contender.batch, generator)
    steps = steps_of(contender, network, batches, optimiser, average)
    du.has_fast_bf16(CPU)  # timed once: not at the contender's expense
    log = []
    states = []
    elapsed = 0.0
    done = 0
    while len(log) < len(minutes):
        left = max(0.0, 1 - elapsed / 60 / minutes[-1])
        warm_up = min(1, (done + 1) / 50) if contender.helped else 1
        optimiser.param_groups[0]["lr"] = contender.rate * left * warm_up
        started = time.perf_counter()
        next(steps)
        elapsed += time.perf_counter() - started
        done += 1
        moment = minutes[len(log)]
        if elapsed >= 60 * moment:
            pictures = done * contender.batch
            seconds = round(elapsed, 1)
            log.append({"minutes": moment, "pictures": pictures, "seconds": seconds})
            states.append(copied(average.module if average else network))
    return network, log, states


def step_flops(contender: Contender, network: nn.Module) -> float:
    """Floating-point operations of one training step for each picture.

    Torch counts matrix products and convolutions, forward and backward.
    """
    du.has_fast_bf16(CPU)  # it times convolutions, which are not to be counted
    optimiser = torch.optim.SGD(network.parameters(), 0.0)
    generator = torch.Generator().manual_seed(0)
    batches = endless_batches(du.load_sprites("test").x, contender.batch, generator)
    with FlopCounterMode(display=False) as counter:
        next(steps_of(contender, network, batches, optimiser, None))
    return counter.get_total_flops() / contender.batch


def matmul_peak(dtype: torch.dtype, size: int = 2048, repeats: int = 12) -> float:
    """Floating-point operations a second of the fastest product of two matrices."""
    a = torch.ones(size, size, dtype=dtype)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


@contextmanager
def peak_memory() -> Iterator[dict[str, int]]:
    """What the block adds to this process's memory at most, looked at every 0.1 s.

    The dictionary holds it after the block: {"MiB": so many}.
    """
    process = psutil.Process()
    before = process.memory_info().rss
    done = threading.Event()
    peak = {"MiB": 0}

    def watch():
        while not done.wait(0.1):
            added = process.memory_info().rss - before
            peak["MiB"] = max(peak["MiB"], round(added / 2**20))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


# ---- Sampling and scoring -----------------------------------------------------------


def median_seconds(
    draws: dict[str, Callable[[], object]], repeats: int
) -> dict[str, float]:
    """{name: median seconds of a call}.

    The calls take turns, in a new order each time. The first turn is a warm-up; it
    counts only where `repeats` is 0.
    """
    times = {name: [] for name in draws}
    shuffler = random.Random(0)
    for turn in range(repeats + 1):
        for name in shuffler.sample([*draws], len(draws)):
            started = time.perf_counter()
            draws[name]()
            seconds = time.perf_counter() - started
            if turn > 0 or repeats == 0:
                times[name].append(seconds)
    return {name: round(statistics.median(each), 4) for name, each in times.items()}


def sampler_seconds(contender: Contender, network: nn.Module) -> dict[str, float]:
    """Seconds to draw 32 sprites with each of its samplers.

    Samplers of over 100 calls are timed once.
    """
    draws = {"DDIM-20": contender.ddim(20), "DDIM-50": contender.ddim(50)}
    draws |= contender.others
    fast = {}
    slow = {}
    for name, draw in draws.items():
        calls = int(name.rsplit("-", 1)[1])
        group = slow if calls > 100 else fast
        group[name] = functools.partial(draw, network, 32)
    return median_seconds(fast, 9) | median_seconds(slow, 0)


def main_scores(pictures: np.ndarray) -> dict[str, list[float]]:
    """Three of the scores of pictures, each with its interval."""
    scores = tables.rounded(du.sprite_scores(pictures))
    return {name: scores[name] for name in ("legal", "coverage", "FD")}


def drawn(contender: Contender, network: nn.Module, samples: int) -> np.ndarray:
    """So many pictures by the contender's own DDIM."""
    draw = contender.ddim(SCORED_WITH)
    parts = []
    for start in range(0, samples, BATCH):
        parts.append(draw(network, min(BATCH, samples - start)))
    return du.to_pictures(torch.cat(parts))


def row(
    name: str, minutes: tuple[float, ...], samples: int, rate: float | None
) -> tuple[dict, np.ndarray]:
    """All of one contender: its row, and the first samples of the last weights."""
    contender = CONTENDERS[name]
    if rate:
        contender = replace(contender, rate=rate)
    peaks = {  # measured first: it warms the process up
        False: matmul_peak(torch.float32),
        True: matmul_peak(torch.bfloat16),
    }
    bf16 = uses_bf16(contender)
    flops = step_flops(contender, contender.build())
    with peak_memory() as memory:
        network, log, states = train(contender, minutes)
    a_second = log[-1]["pictures"] / log[-1]["seconds"]
    scores = []
    for entry, state in zip(log, states):
        network.load_state_dict(state)
        torch.manual_seed(SEED)
        pictures = drawn(contender, network, samples)
        scores.append(entry | main_scores(pictures))
    answer = {
        "parameters": du.count_parameters(network),
        "rate": contender.rate,
        "batch": contender.batch,
        "bfloat16": bf16,
        "machine": tables.machine(CPU),
        "pictures_a_second": round(a_second),
        "peak_memory_MiB": memory["MiB"],
        "gflop_a_picture": round(flops / 1e9, 3),
        "matmul_peak_gflops": round(peaks[bf16] / 1e9),
        "share_of_peak": round(flops * a_second / peaks[bf16], 3),
        "scores": scores,
        "seconds_for_32": sampler_seconds(contender, network),
    }
    return answer, pictures[:SHOWN]


# ---- One loop against another -------------------------------------------------------


class ForLucid(nn.Module):
    """A ContextUnet as denoising-diffusion-pytorch calls it: steps 0 to T - 1."""

    channels = SHAPE[0]
    out_dim = SHAPE[0]
    self_condition = False

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x, t, _=None):
        return self.network(x, (t + 1) / SCHEDULE.T)


class NoNetwork(nn.Module):
    """It costs nothing, so that only the loop of a sampler is timed."""

    def forward(self, x, t, c=None):
        return 0.5 * x


def loops() -> dict[str, dict[str, float]]:
    """Seconds to draw 32 sprites in 20 steps of DDIM, as each library writes the loop.

    All use the same ContextUnet, and then no network.
    """
    network = du.load_weights(context_unet(), WEIGHTS / "model_trained.pth")
    network = network.to(memory_format=torch.channels_last)
    return {
        "ContextUnet": median_seconds(ddim_loops(network), 40),
        "no network": median_seconds(ddim_loops(NoNetwork()), 200),
    }


def ddim_loops(network: nn.Module) -> dict[str, Callable[[], object]]:
    """{library: a function that draws 32 pictures with this network of the course}."""
    draws = {
        "this course": course_ddim(20),
        "diffusers": diffusers_with_course_network,
        "denoising-diffusion-pytorch": lucid_draw(20),
        "smalldiffusion": small_with_course_network,
    }
    networks = {
        "this course": network,
        "diffusers": network,
        "denoising-diffusion-pytorch": lucid_for_course_network(network),
        "smalldiffusion": small_for_course_network(network),
    }
    loops = {}
    for name, draw in draws.items():
        loops[name] = functools.partial(draw, networks[name], 32)
    return loops


@functools.cache
def course_scheduler():
    """DDIM of diffusers with as many steps as the course's schedule."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(SCHEDULE.T)


def diffusers_with_course_network(network: nn.Module, n: int) -> Tensor:
    def ask(network, x, t):
        return network(x, (t + 1) / SCHEDULE.T)

    x = torch.randn(n, *SHAPE)
    return diffusers_loop(network, x, course_scheduler(), 20, ask)


def lucid_for_course_network(network: nn.Module):
    return gaussian_diffusion(
        ForLucid(network),
        timesteps=SCHEDULE.T,
        sampling_timesteps=20,
        objective="pred_noise",
        beta_schedule="linear",
    )


@functools.cache
def small_schedule():
    """The course's schedule in smalldiffusion."""
    import smalldiffusion

    return smalldiffusion.ScheduleDDPM(SCHEDULE.T)


def small_for_course_network(network: nn.Module) -> nn.Module:
    import smalldiffusion

    schedule = small_schedule()

    class ForSmall(nn.Module, smalldiffusion.ModelMixin):
        """The network as smalldiffusion calls it.

        x is divided by sqrt(alpha-bar); sigma is the noise's standard deviation in it.
        """

        input_dims = SHAPE

        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x, sigma, cond=None):
            t = (schedule.sigmas - sigma).abs().argmin() + 1
            scaled = x / (1 + sigma**2).sqrt()
            return self.network(scaled, t / SCHEDULE.T)

    return ForSmall()


def small_with_course_network(network: nn.Module, n: int) -> Tensor:
    from smalldiffusion import samples

    sigmas = small_schedule().sample_sigmas(20)
    *_, last = samples(network, sigmas, batchsize=n)
    return last


# ---- The tables and the picture -----------------------------------------------------


def markdown(head: tuple, rows: list[tuple]) -> str:
    """A Markdown table."""
    lines = []
    for cells in (head, ("---",) * len(head), *rows):
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def table(content: dict) -> str:
    """The Markdown table of the training, and of what came of it."""
    times = ", ".join(map(str, content["settings"]["minutes"])) + " min"
    head = (
        "contender",
        "parameters",
        "pictures a second",
        "share of the peak",
        "memory",
        f"FD after {times}",
        f"legal after {times}",
    )
    rows = []
    for name, r in content["contenders"].items():
        peak = r["matmul_peak_gflops"] / 1000
        fds = [f"{score['FD'][0]:.0f}" for score in r["scores"]]
        legal = [f"{score['legal'][0]:.1%}" for score in r["scores"]]
        cells = (
            name,
            f"{r['parameters']:,}",
            r["pictures_a_second"],
            f"{r['share_of_peak']:.1%} of {peak:.1f} TFLOP/s",
            f"{r['peak_memory_MiB']} MiB",
            ", ".join(fds),
            ", ".join(legal),
        )
        rows.append(cells)
    return markdown(head, rows)


def speed_table(content: dict) -> str:
    """Two Markdown tables of seconds to draw 32 sprites.

    First each contender with its own samplers; then DDIM in 20 steps as each library
    writes it, on one network.
    """
    rows = []
    for name, r in content["contenders"].items():
        each = [f"{s} {t:.2f}" for s, t in r["seconds_for_32"].items()]
        rows.append((name, ", ".join(each)))
    own = markdown(("contender", "seconds for 32 sprites"), rows)
    loops = content["loops"]
    rows = []
    for name, seconds in loops["ContextUnet"].items():
        milliseconds = 1000 * loops["no network"][name]
        rows.append((name, f"{seconds:.3f}", f"{milliseconds:.1f} ms"))
    head = (
        "DDIM in 20 steps, written by",
        "with the same ContextUnet",
        "with a network that costs nothing",
    )
    return f"{own}\n\n{markdown(head, rows)}"


def plot_distances(axes, content: dict) -> None:
    """FD over the minutes of training."""
    for name, r in content["contenders"].items():
        minutes = [score["minutes"] for score in r["scores"]]
        distances = [score["FD"][0] for score in r["scores"]]
        axes.plot(minutes, distances, "o-", label=name)
    floor = content["floor"]["FD"][0]
    label = f"real sprites, `test`: {floor:.0f}"
    axes.axhline(floor, color="black", linestyle=":", label=label)
    axes.set(
        xlabel="minutes of training on two cores",
        ylabel="FD (1,000 samples, DDIM-50)",
        yscale="log",
        xticks=content["settings"]["minutes"],
    )
    axes.set_ylim(top=6e4)  # room for the legend
    axes.legend(fontsize=8, frameon=False)


def plot_samples(axes, content: dict, sprites: dict[str, np.ndarray]) -> None:
    """The first samples of each contender after the last minute."""
    rows = {}
    for name in content["contenders"]:
        if name in sprites:
            rows[name] = du.to_model_range(sprites[name])
    axes.imshow(du.filmstrip(rows))
    last = content["settings"]["minutes"][-1]
    axes.set_title(f"the first samples after {last} minutes", fontsize=10)
    axes.axis("off")


def draw_picture(content: dict, sprites: dict[str, np.ndarray], path: Path) -> None:
    """FD over the minutes, beside some samples of each contender, as a PNG."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 4), width_ratios=(1, 1.6), layout="constrained"
    )
    plot_distances(left, content)
    plot_samples(right, content, sprites)
    with du.written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
        # A palette makes the file a third of the size. The method keeps rare bright
        # colours, which the default one loses.
        full = Image.open(temporary).convert("RGB")
        few = full.quantize(
            256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE
        )
        few.save(temporary, "PNG", optimize=True)
    plt.close(figure)


# ---- The program --------------------------------------------------------------------


def in_its_own_process(work: Callable, *arguments):
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(work, *arguments).result()


def command_line() -> argparse.ArgumentParser:
    """The options of the program; `--out` is a folder."""
    parser = tables.command_line(__doc__, WEIGHTS, workers=False)
    parser.add_argument(
        "--contender",
        choices=CONTENDERS,
        action="append",
        help="only this one (may be repeated)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        nargs="+",
        default=MINUTES,
        help="when to score; the last is the length of the training",
    )
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--rate", type=float, help="another learning rate")
    return parser


def parsed(
    parser: argparse.ArgumentParser, arguments: list[str] | None = None
) -> argparse.Namespace:
    options = tables.parsed(parser, arguments, free=("contender",))
    rising = sorted(options.minutes) == options.minutes
    if not rising or options.minutes[0] <= 0:
        parser.error(f"--minutes {options.minutes}: expected rising numbers above 0")
    return options


def settings_of(options: argparse.Namespace) -> dict:
    """What every row depends on: other settings or data need another folder."""
    return {
        "minutes": options.minutes,
        "samples": options.samples,
        "sampler": f"DDIM-{SCORED_WITH}",
        "seed": SEED,
        "version": VERSION,
        "sprites": tables.sha256(du.DATA / "sprites_16x16.npy"),
    }


def main() -> None:
    parser = command_line()
    options = parsed(parser)
    path = options.out / "benchmark.json"
    samples = options.out / "results" / "benchmark.npz"
    content = tables.so_far(path, settings_of(options), parser, contenders={})
    if "floor" not in content:
        real = du.load_sprites("test").images[: options.samples]
        content["floor"] = main_scores(real)
    for name in options.contender or CONTENDERS:
        if name not in content["contenders"]:
            answer, pictures = in_its_own_process(
                row, name, options.minutes, options.samples, options.rate
            )
            tables.add_row(content["contenders"], name, answer, CONTENDERS)
            tables.add_samples(samples, {name: pictures})
            tables.write_json(path, content)
            print(name, answer, flush=True)
    if "loops" not in content:
        content["loops"] = in_its_own_process(loops)
        tables.write_json(path, content)
    pictures = tables.stored_arrays(samples)
    draw_picture(content, pictures, options.out / "pictures" / "benchmark.png")
    print(table(content), speed_table(content), sep="\n\n")


if __name__ == "__main__":
    main()
