"""This course against the others: `python weights/experiments/benchmark.py` (two hours on two cores; first install weights/experiments/requirements.txt).

Trains each contender for the same ten minutes on the same sprites, without labels, in a process of its own, and writes weights/benchmark.json,
weights/results/benchmark.npz (some samples) and weights/pictures/benchmark.png. A contender that is there already is kept, so an interrupted run
goes on where it stopped. Nothing else should run meanwhile. Not part of pytest.

The libraries are given what helps this course: batches of 50, a warm-up, a rate that falls to 0, averaged weights, bfloat16 where it is fast, and its
rate, 2e-3 (in trials of 45 seconds no library's loss was lower with 5e-4 or 1e-3). Their own are the network, the noise, the target, the loss, Adam's
other settings and the sampler. The published recipe has what was published.
"""

import argparse
import functools
import json
import multiprocessing
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import psutil
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "weights"), str(ROOT)]
import ablation  # noqa: E402
from make_results import rounded  # noqa: E402
from train import PALETTE, machine, write_json  # noqa: E402

import diffusion_utilities as du  # noqa: E402

MINUTES, SAMPLES, SCORED_WITH, BATCH, SHOWN, SEED = (2, 5, 10), 1000, 50, 250, 12, 1
SCHEDULE, SHAPE, CPU = du.NoiseSchedule.linear(), (3, 16, 16), torch.device("cpu")
Draw = Callable[
    [nn.Module, int], Tensor
]  # (network, how many) to pictures (N, 3, 16, 16) in [-1, 1]


@dataclass(frozen=True)
class Contender:
    """`loss(network, x)` of clean pictures x (B, 3, 16, 16) in [-1, 1], None where the course's own `train_steps` trains it; `ddim(steps)` and
    `others` {name: Draw} are its own samplers."""

    build: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Tensor], Tensor] | None
    ddim: Callable[[int], Draw]
    others: dict[str, Draw] = field(default_factory=dict)
    rate: float = 2e-3
    batch: int = 50
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = None
    helped: bool = True  # warm-up, averaged weights, bfloat16 where it is fast
    channels_last: bool = False


# ---- This course, and the published recipe -----------------------------------------------------------------------------


def context_unet() -> nn.Module:
    return du.ContextUnet(3, 64, 5, 16)


def palette_net() -> nn.Module:
    return du.PaletteNet(du.load_sprites("train").images, SCHEDULE)


def course_draw(sampler: Callable, **options) -> Draw:
    return lambda network, n: sampler(
        network, SCHEDULE, (n, *SHAPE), keep=0, **options
    )[0]


def course_ddim(steps: int) -> Draw:
    return course_draw(du.sample_ddim, steps=steps)


def published_unet() -> nn.Module:
    network = context_unet()
    network.init_conv.__class__ = (
        ablation.RandomShortcut
    )  # the only block with a shortcut
    return network


def published_loss(network: nn.Module, x: Tensor) -> Tensor:
    t = torch.randint(1, SCHEDULE.T + 1, (len(x),))
    noise = torch.randn_like(x)
    x_t = ablation.noised(
        ablation.Change(fault="no square root"), x, t, noise, SCHEDULE
    )
    return F.mse_loss(network(x_t, t / SCHEDULE.T), noise)


# ---- The libraries -----------------------------------------------------------------------------------------------------


@functools.cache
def diffusers_scheduler(name: str):
    import diffusers

    return getattr(
        diffusers, name
    )()  # 1,000 steps, beta from 1e-4 to 0.02, linear, for the noise, clipped


def diffusers_unet() -> nn.Module:
    from diffusers import UNet2DModel

    blocks = {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    return UNet2DModel(
        16,
        3,
        3,
        layers_per_block=1,
        block_out_channels=(48, 96),
        norm_num_groups=8,
        **blocks,
    )


def diffusers_loss(network: nn.Module, x: Tensor) -> Tensor:
    scheduler, noise = diffusers_scheduler("DDPMScheduler"), torch.randn_like(x)
    t = torch.randint(0, scheduler.config.num_train_timesteps, (len(x),))
    return F.mse_loss(
        network(scheduler.add_noise(x, noise, t), t).sample.float(), noise
    )


@torch.no_grad()
def diffusers_loop(
    network: nn.Module, x: Tensor, scheduler, steps: int, ask: Callable
) -> Tensor:
    scheduler.set_timesteps(steps)
    network.eval()
    for t in scheduler.timesteps:
        x = scheduler.step(ask(network, x, t), t, x).prev_sample
    return x


def diffusers_draw(name: str, steps: int) -> Draw:
    def ask(network, x, t):
        return network(x, t).sample

    return lambda network, n: diffusers_loop(
        network, torch.randn(n, *SHAPE), diffusers_scheduler(name), steps, ask
    )


def gaussian_diffusion(network: nn.Module, **options):
    from denoising_diffusion_pytorch import GaussianDiffusion

    return GaussianDiffusion(
        network, image_size=SHAPE[1], **options
    )  # 1,000 steps, sigmoid schedule, for the velocity


def lucid_unet() -> nn.Module:
    """With its diffusion around it, as that library trains it."""
    from denoising_diffusion_pytorch import Unet

    return gaussian_diffusion(Unet(dim=32, dim_mults=(1, 2, 2)))


def lucid_loss(diffusion: nn.Module, x: Tensor) -> Tensor:
    return diffusion(x / 2 + 0.5)  # it wants [0, 1]


def lucid_draw(steps: int) -> Draw:
    def draw(diffusion, n):
        diffusion.eval()
        diffusion.sampling_timesteps, shape = steps, (n, *SHAPE)
        with redirect_stderr(StringIO()):  # its progress bar
            pictures = (
                diffusion.ddim_sample(shape)
                if steps < diffusion.num_timesteps
                else diffusion.p_sample_loop(shape)
            )
        return pictures * 2 - 1

    return draw


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

        *_, last = samples(
            network, log_linear().sample_sigmas(steps), batchsize=n, **options
        )
        return last

    return draw


CONTENDERS = {
    "this course, ContextUnet": Contender(
        context_unet, None, course_ddim, channels_last=True,
        others={
            "DDPM-500": course_draw(du.sample_ddpm),
            "2M-10": course_draw(du.sample_multistep, steps=10, solver="2m"),
            "iPNDM-10": course_draw(du.sample_multistep, steps=10, solver="ipndm"),
        },
    ),
    "this course, PaletteNet": Contender(
        palette_net, None, course_ddim, rate=PALETTE["learning_rate"], betas=(0.9, PALETTE["beta2"]), clip=PALETTE["clip"], channels_last=True,
        others={"DDPM-500": course_draw(du.sample_ddpm), "2M-10": course_draw(du.sample_multistep, steps=10, solver="2m")},
    ),
    "published recipe": Contender(
        published_unet, published_loss, course_ddim, {"DDPM-500": course_draw(du.sample_ddpm)}, rate=1e-3, batch=100, helped=False
    ),
    "diffusers": Contender(
        diffusers_unet, diffusers_loss, functools.partial(diffusers_draw, "DDIMScheduler"), {"DDPM-1000": diffusers_draw("DDPMScheduler", 1000)}
    ),
    "denoising-diffusion-pytorch": Contender(
        lucid_unet, lucid_loss, lucid_draw, {"DDPM-1000": lucid_draw(1000)}, betas=(0.9, 0.99), clip=1.0
    ),
    "smalldiffusion": Contender(
        small_unet, small_loss, small_draw,
        {"accelerated-10": small_draw(10, gam=2), "accelerated-20": small_draw(20, gam=2), "DDPM-800": small_draw(800, mu=0.5)},
    ),
}  # fmt: skip


# ---- Training for so many seconds --------------------------------------------------------------------------------------


def endless_batches(
    x: Tensor, size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, None]]:
    while True:
        for rows in torch.randperm(len(x), generator=generator).split(size):
            if len(rows) == size:
                yield x[rows], None


def steps_of(
    contender: Contender, network, batches, optimiser, average
) -> Iterator[float]:
    """One training step each time."""
    if contender.loss is None:
        yield from du.train_steps(
            network, batches, SCHEDULE, optimiser=optimiser, average=average
        )
    bf16 = contender.helped and du.has_fast_bf16(CPU)
    for x, _ in batches:
        network.train()
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            loss = contender.loss(network, x)
        value = loss.item()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if average is not None:
            average.update_parameters(network)
        yield value


def clipped(
    optimiser: torch.optim.Optimizer, parameters: list[Tensor], longest: float | None
) -> None:
    if longest:
        optimiser.register_step_pre_hook(
            lambda *_: nn.utils.clip_grad_norm_(parameters, longest) and None
        )


def train(
    contender: Contender, minutes: tuple[float, ...]
) -> tuple[nn.Module, list[dict], list[dict[str, Tensor]]]:
    """(network, [{minutes, pictures, seconds}], the weights to sample from at each of these minutes). The rate falls with the clock."""
    torch.manual_seed(SEED)
    network = contender.build()
    network = (
        network.to(memory_format=torch.channels_last)
        if contender.channels_last
        else network
    )
    average = du.average_weights(network, 0.999) if contender.helped else None
    parameters = list(network.parameters())
    optimiser = torch.optim.Adam(
        parameters, contender.rate, contender.betas, fused=contender.helped
    )
    clipped(optimiser, parameters, contender.clip)
    x, generator = du.load_sprites("train").x, torch.Generator().manual_seed(SEED)
    steps = steps_of(
        contender,
        network,
        endless_batches(x, contender.batch, generator),
        optimiser,
        average,
    )
    du.has_fast_bf16(CPU)  # timed once: not at the contender's expense
    log, states, elapsed, done = [], [], 0.0, 0
    while len(log) < len(minutes):
        warm = min(1, (done + 1) / 50) if contender.helped else 1
        optimiser.param_groups[0]["lr"] = (
            contender.rate * max(0.0, 1 - elapsed / 60 / minutes[-1]) * warm
        )
        started = time.perf_counter()
        next(steps)
        elapsed, done = elapsed + time.perf_counter() - started, done + 1
        if elapsed >= 60 * minutes[len(log)]:
            log.append(
                {
                    "minutes": minutes[len(log)],
                    "pictures": done * contender.batch,
                    "seconds": round(elapsed, 1),
                }
            )
            states.append(
                {
                    key: value.clone()
                    for key, value in (average.module if average else network)
                    .state_dict()
                    .items()
                }
            )
    return network, log, states


def step_flops(contender: Contender, network: nn.Module) -> float:
    """Floating-point operations of one training step a picture, counted by torch: matrix products and convolutions, forward and backward."""
    du.has_fast_bf16(CPU)  # it times convolutions, which are not to be counted
    optimiser = torch.optim.SGD(network.parameters(), 0.0)
    batches = endless_batches(
        du.load_sprites("test").x, contender.batch, torch.Generator().manual_seed(0)
    )
    with FlopCounterMode(display=False) as counter:
        next(steps_of(contender, network, batches, optimiser, None))
    return counter.get_total_flops() / contender.batch


def matmul_peak(dtype: torch.dtype, size: int = 2048, repeats: int = 12) -> float:
    """The most floating-point operations a second that a product of two square matrices reaches here."""
    a, seconds = torch.ones(size, size, dtype=dtype), []
    for _ in range(repeats):
        started = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


@contextmanager
def peak_memory() -> Iterator[dict[str, int]]:
    """What the block adds to this process's memory at most, looked at ten times a second: {"MiB": so many} after it."""
    process, done, peak = psutil.Process(), threading.Event(), {}
    before = process.memory_info().rss

    def watch():
        while not done.wait(0.1):
            peak["MiB"] = max(
                peak.get("MiB", 0), round((process.memory_info().rss - before) / 2**20)
            )

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


# ---- Sampling, scoring, one loop against another -----------------------------------------------------------------------


def median_seconds(
    draws: dict[str, Callable[[], object]], repeats: int
) -> dict[str, float]:
    """{name: median seconds of a call}, the calls taking turns in a new order each time, after one each to warm up; `repeats` 0: that one counts."""
    times, turn = {name: [] for name in draws}, random.Random(0)
    for i in range(repeats + 1):
        for name in turn.sample([*draws], len(draws)):
            started = time.perf_counter()
            draws[name]()
            if i or repeats == 0:
                times[name].append(time.perf_counter() - started)
    return {
        name: round(statistics.median(seconds), 4) for name, seconds in times.items()
    }


def sampler_seconds(contender: Contender, network: nn.Module) -> dict[str, float]:
    """Seconds to draw 32 sprites with each of its samplers; those of hundreds of calls once."""
    draws = {
        "DDIM-20": contender.ddim(20),
        "DDIM-50": contender.ddim(50),
    } | contender.others
    calls = {name: functools.partial(draw, network, 32) for name, draw in draws.items()}
    slow = {
        name: call for name, call in calls.items() if int(name.rsplit("-", 1)[1]) > 100
    }
    return median_seconds(
        {name: call for name, call in calls.items() if name not in slow}, 9
    ) | median_seconds(slow, 0)


def scored(
    contender: Contender, network: nn.Module, state: dict[str, Tensor], samples: int
) -> tuple[dict, np.ndarray]:
    """Scores of so many samples (DDIM-50, its own loop) with these weights, and the first few."""
    network.load_state_dict(state)
    torch.manual_seed(SEED)
    draw = contender.ddim(SCORED_WITH)
    pictures = du.to_pictures(
        torch.cat(
            [draw(network, min(BATCH, samples - i)) for i in range(0, samples, BATCH)]
        )
    )
    scores = rounded(du.sprite_scores(pictures))
    return {name: scores[name] for name in ("legal", "coverage", "FD")}, pictures[
        :SHOWN
    ]


def row(
    name: str, minutes: tuple[float, ...], samples: int, rate: float | None
) -> tuple[dict, np.ndarray]:
    """All of one contender: what is measured in training, then scores and seconds of sampling."""
    contender = CONTENDERS[name]
    if rate:
        contender = replace(contender, rate=rate)
    peaks = {
        dtype: matmul_peak(dtype) for dtype in (torch.float32, torch.bfloat16)
    }  # first: it warms the process up
    bf16 = contender.helped and du.has_fast_bf16(CPU)
    flops, peak = (
        step_flops(contender, contender.build()),
        peaks[torch.bfloat16 if bf16 else torch.float32],
    )
    with peak_memory() as memory:
        network, log, states = train(contender, minutes)
    a_second = log[-1]["pictures"] / log[-1]["seconds"]
    answer = {
        "parameters": du.count_parameters(network), "rate": contender.rate, "batch": contender.batch, "bfloat16": bf16,
        "machine": machine(CPU), "pictures_a_second": round(a_second), "peak_memory_MiB": memory["MiB"],
        "gflop_a_picture": round(flops / 1e9, 3), "matmul_peak_gflops": round(peak / 1e9), "share_of_peak": round(flops * a_second / peak, 3),
    }  # fmt: skip
    results = [scored(contender, network, state, samples) for state in states]
    answer["scores"] = [entry | scores for entry, (scores, _) in zip(log, results)]
    return answer | {"seconds_for_32": sampler_seconds(contender, network)}, results[
        -1
    ][1]


class ForLucid(nn.Module):
    """A ContextUnet as denoising-diffusion-pytorch asks a network: steps 0 to T - 1."""

    channels = out_dim = SHAPE[0]
    self_condition = False

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x, t, _=None):
        return self.network(x, (t + 1) / SCHEDULE.T)


class NoNetwork(nn.Module):
    """Costs nothing, so that what is left of a sampler's time is the loop."""

    def forward(self, x, t, c=None):
        return 0.5 * x


def loops() -> dict[str, dict[str, float]]:
    """Seconds to draw 32 sprites in 20 steps with this course's DDIM and with each library's, with the same ContextUnet, and with none."""
    network = du.load_weights(context_unet(), du.WEIGHTS / "model_trained.pth").to(
        memory_format=torch.channels_last
    )
    return {
        "ContextUnet": median_seconds(ddim_loops(network), 40),
        "no network": median_seconds(ddim_loops(NoNetwork()), 200),
    }


def ddim_loops(network: nn.Module) -> dict[str, Callable[[], object]]:
    """{whose: 32 pictures in 20 steps of DDIM with this network of the course}, each as that library writes it."""
    import smalldiffusion
    from diffusers import DDIMScheduler

    scheduler, schedule = (
        DDIMScheduler(SCHEDULE.T),
        smalldiffusion.ScheduleDDPM(SCHEDULE.T),
    )
    lucid = gaussian_diffusion(
        ForLucid(network),
        timesteps=SCHEDULE.T,
        sampling_timesteps=20,
        objective="pred_noise",
        beta_schedule="linear",
    )

    class ForSmall(nn.Module, smalldiffusion.ModelMixin):
        """The network as smalldiffusion asks it: x / sqrt(alpha-bar), and the noise's standard deviation in it."""

        input_dims = SHAPE

        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x, sigma, cond=None):
            t = (schedule.sigmas - sigma).abs().argmin() + 1
            return self.network(x / (1 + sigma**2).sqrt(), t / SCHEDULE.T)

    def ask(network, x, t):
        return network(x, (t + 1) / SCHEDULE.T)

    small = ForSmall()
    return {
        "this course": lambda: course_ddim(20)(network, 32),
        "diffusers": lambda: diffusers_loop(
            network, torch.randn(32, *SHAPE), scheduler, 20, ask
        ),
        "denoising-diffusion-pytorch": lambda: lucid_draw(20)(lucid, 32),
        "smalldiffusion": lambda: [
            *smalldiffusion.samples(small, schedule.sample_sigmas(20), batchsize=32)
        ],
    }


# ---- The table and the picture -----------------------------------------------------------------------------------------


def markdown(head: tuple, rows: list[tuple]) -> str:
    return "\n".join(
        f"| {' | '.join(map(str, cells))} |"
        for cells in (head, ("---",) * len(head), *rows)
    )


def table(content: dict) -> str:
    """The Markdown table of the model card: training, and what came of it."""
    minutes = ", ".join(map(str, content["settings"]["minutes"])) + " min"
    head = (
        "contender",
        "parameters",
        "pictures a second",
        "share of the peak",
        "memory",
        f"FD after {minutes}",
        f"legal after {minutes}",
    )
    rows = []
    for name, r in content["contenders"].items():
        share = (
            f"{r['share_of_peak']:.1%} of {r['matmul_peak_gflops'] / 1000:.1f} TFLOP/s"
        )
        fd, legal = (
            ", ".join(form.format(s[key][0]) for s in r["scores"])
            for key, form in (("FD", "{:.0f}"), ("legal", "{:.1%}"))
        )
        rows.append(
            (
                name,
                f"{r['parameters']:,}",
                r["pictures_a_second"],
                share,
                f"{r['peak_memory_MiB']} MiB",
                fd,
                legal,
            )
        )
    return markdown(head, rows)


def speed_table(content: dict) -> str:
    """Seconds to draw 32 sprites: each contender with its own samplers; then DDIM in 20 steps as each library writes it, on one network."""
    rows = [
        (name, ", ".join(f"{s} {t:.2f}" for s, t in r["seconds_for_32"].items()))
        for name, r in content["contenders"].items()
    ]
    loops = content["loops"]
    with_network = [
        (name, f"{seconds:.3f}", f"{1000 * loops['no network'][name]:.1f} ms")
        for name, seconds in loops["ContextUnet"].items()
    ]
    of_the_loop = (
        "DDIM in 20 steps, written by",
        "with the same ContextUnet",
        "with a network that costs nothing",
    )
    return (
        markdown(("contender", "seconds for 32 sprites"), rows)
        + "\n\n"
        + markdown(of_the_loop, with_network)
    )


def draw_picture(content: dict, sprites: dict[str, np.ndarray], path: Path) -> None:
    """FD over the minutes beside some samples of each contender."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 4), width_ratios=(1, 1.6), layout="constrained"
    )
    for name, r in content["contenders"].items():
        left.plot(
            [s["minutes"] for s in r["scores"]],
            [s["FD"][0] for s in r["scores"]],
            "o-",
            label=name,
        )
    floor = content["floor"]["FD"][0]
    left.axhline(
        floor, color="black", linestyle=":", label=f"real sprites, `test`: {floor:.0f}"
    )
    left.set(
        xlabel="minutes of training on two cores",
        ylabel="FD (1,000 samples, DDIM-50)",
        yscale="log",
        xticks=content["settings"]["minutes"],
    )
    left.set_ylim(top=6e4)  # room for the legend
    left.legend(fontsize=8, frameon=False)
    names = [name for name in content["contenders"] if name in sprites]
    right.imshow(
        du.filmstrip({name: du.to_model_range(sprites[name]) for name in names})
    )
    right.set_title(
        f"the first samples after {content['settings']['minutes'][-1]} minutes",
        fontsize=10,
    )
    right.axis("off")
    with du._written_whole(path) as temporary:
        figure.savefig(temporary, dpi=100)
        few = (
            Image.open(temporary)
            .convert("RGB")
            .quantize(
                256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE
            )
        )
        few.save(
            temporary, "PNG", optimize=True
        )  # a third of the size; rare bright colours stay, as they would not with the usual method
    plt.close(figure)


def in_its_own_process(work: Callable, *arguments):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def floor(samples: int) -> dict:
    scores = rounded(du.sprite_scores(du.load_sprites("test").images[:samples]))
    return {name: scores[name] for name in ("legal", "coverage", "FD")}


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
        help="when to score, the last being the length of the training",
    )
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--rate", type=float, help="another learning rate")
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "weights",
        help="folder for benchmark.json, results/ and pictures/",
    )
    options = parser.parse_args(arguments)
    if options.out.resolve() == ROOT / "weights" and (
        tuple(options.minutes),
        options.samples,
        options.rate,
    ) != (MINUTES, SAMPLES, None):
        parser.error(
            "these settings would overwrite the shipped results; add --out FOLDER"
        )
    if sorted(options.minutes) != list(options.minutes) or options.minutes[0] <= 0:
        parser.error(f"--minutes {options.minutes}: expected rising numbers above 0")
    return options


def main() -> None:
    options = parsed()
    path, pictures = (
        options.out / "benchmark.json",
        options.out / "results" / "benchmark.npz",
    )
    settings = {
        "minutes": list(options.minutes),
        "samples": options.samples,
        "sampler": f"DDIM-{SCORED_WITH}",
        "seed": SEED,
    }
    content = (
        json.loads(path.read_text(encoding="utf8"))
        if path.exists()
        else {"settings": settings, "contenders": {}}
    )
    if content["settings"] != settings:
        sys.exit(
            f"{path} has other settings ({content['settings']}); remove it or give another --out"
        )
    sprites = dict(np.load(pictures)) if pictures.exists() else {}
    content["floor"] = content.get("floor") or floor(options.samples)
    for name in options.contender or CONTENDERS:
        if name not in content["contenders"]:
            content["contenders"][name], sprites[name] = in_its_own_process(
                row, name, tuple(options.minutes), options.samples, options.rate
            )
            content["contenders"] = {
                each: content["contenders"][each]
                for each in CONTENDERS
                if each in content["contenders"]
            }
            with du._written_whole(pictures) as temporary:
                np.savez_compressed(temporary, **sprites)
            write_json(path, content)
            print(name, content["contenders"][name], flush=True)
    content["loops"] = content.get("loops") or in_its_own_process(loops)
    write_json(path, content)
    draw_picture(content, sprites, options.out / "pictures" / "benchmark.png")
    print(table(content), speed_table(content), sep="\n\n")


if __name__ == "__main__":
    main()
