"""Time this course's training step: `python weights/experiments/speed.py`.

It prints images a second of `train_steps` (channels last, a fused optimiser, bfloat16
where that is fast) beside those of a plain float32 loop with the same network, and
the seconds that 32 sprites take. It trains nothing and writes nothing.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tables import machine

import diffusion_utilities as du  # found two folders up

BATCH = 50
RATE = 2e-3
MIN_SNR = 5.0
P_DROP = 0.1
SCHEDULE = du.NoiseSchedule.linear()
SHAPE = (32, 3, 16, 16)


def seconds_of(work: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return sorted(times)[repeats // 2]


def plain_step(device: torch.device) -> Callable[[], float]:
    """A training step as most tutorials write it, in float32."""
    x, c = batch()
    model = du.ContextUnet(3, 64, 5, 16).to(device)
    optimiser = torch.optim.Adam(model.parameters(), RATE)

    def step():
        loss = du.diffusion_loss(model, x.to(device), SCHEDULE, c=c.to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()  # waits for a GPU, as the other step does

    return step


def course_step(device: torch.device) -> Callable[[], float]:
    """A step of `train_steps` with the settings of weights/train.py."""
    model = du.ContextUnet(3, 64, 5, 16)
    model = model.to(device, memory_format=torch.channels_last)
    is_fused = device.type != "mps"
    optimiser = torch.optim.Adam(model.parameters(), RATE, fused=is_fused)
    average = du.average_weights(model, 0.999)

    def step():
        steps = du.train_steps(
            model,
            iter([batch()]),
            SCHEDULE,
            optimiser=optimiser,
            p_drop=P_DROP,
            average=average,
            min_snr=MIN_SNR,
        )
        return next(steps)

    return step


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of noise, and each class in turn."""
    x = torch.randn(BATCH, *SHAPE[1:])
    c = torch.eye(5)[torch.arange(BATCH) % 5]
    return x, c


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=str(du.default_device()))
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--repeats", type=int, default=9, help="steps that are timed")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    print(machine(device))
    steps = {
        "plain float32 loop": plain_step(device),
        "this course": course_step(device),
    }
    for name, step in steps.items():
        seconds = seconds_of(step, options.repeats)
        a_second = BATCH / seconds
        print(f"{name}: {seconds:.3f} s a step of {BATCH}, {a_second:.0f} images/s")

    model = du.ContextUnet(3, 64, 5, 16)
    model = model.to(device, memory_format=torch.channels_last)
    draws = {
        "DDIM-20": lambda: du.sample_ddim(model, SCHEDULE, shape=SHAPE, steps=20),
        "DDPM-500": lambda: du.sample_ddpm(model, SCHEDULE, shape=SHAPE),
    }
    for name, draw in draws.items():
        print(f"32 sprites with {name}: {seconds_of(draw, 1):.2f} s")


if __name__ == "__main__":
    main()
