"""What single settings of the training are worth: `python weights/ablation.py` (about an hour on two cores).

Trains one small ContextUnet (32 features, no labels) for each row of CHANGES, on as many pictures each, and writes weights/ablation.json.
Each row has one thread, and as many rows as the machine has cores run side by side (small networks gain little from a second thread), each
with half a gigabyte of memory; `--workers` sets another number.
A row that is there already is kept, so an interrupted run goes on where it stopped; remove the file to start again.
"""

import argparse
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from scipy.optimize import (
    linear_sum_assignment,
)  # not among the lessons' packages: tests/requirements.txt

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from make_results import mean_and_error, rounded  # noqa: E402
from rows import side_by_side, so_far  # noqa: E402
from train import write_json  # noqa: E402

import diffusion_utilities as du  # noqa: E402  (found beside this folder)


@dataclass(frozen=True)
class Change:
    """A recipe: `target` is what the network is asked for, `weights` how its squared error is weighted over the steps, `average` an EMA,
    `decay` whether the learning rate falls linearly to 0, `assigned` whether the noises of a batch are dealt out among its pictures so that
    the sum of the squared distances is smallest (Li et al. 2024, Immiscible Diffusion). `fault` is one of published code, done on purpose."""

    learning_rate: float = 2e-3
    batch: int = 50
    target: str = "noise"  # or "x0", "velocity", "mean"
    weights: str = (
        "none"  # or "min-SNR" (gamma 5), or "bound": those of the variational bound
    )
    average: bool = False
    decay: bool = True
    assigned: bool = False
    fault: str | None = None  # or one of FAULTS
    seed: int = 1


FAULTS = (
    "no square root",
    "random shortcut",
    "backward(loss)",
)  # lesson 2 has the first, lesson 3 the others
BASE = Change()
CHANGES = {
    "base: 2e-3, batch 50": BASE,
    "base, second seed": replace(BASE, seed=2),
    "base, third seed": replace(BASE, seed=3),
    "min-SNR": replace(BASE, weights="min-SNR"),
    "average": replace(BASE, average=True),
    "min-SNR and average": replace(BASE, weights="min-SNR", average=True),
    "target x0": replace(BASE, target="x0"),
    "target velocity": replace(BASE, target="velocity"),
    "target mean": replace(BASE, target="mean"),
    "weights of the bound": replace(BASE, weights="bound"),
    "target mean, weights of the bound": replace(BASE, target="mean", weights="bound"),
    "constant learning rate": replace(BASE, decay=False),
    "constant learning rate, average": replace(BASE, decay=False, average=True),
    "noise assigned in the batch": replace(BASE, assigned=True),
    "batch 100": replace(BASE, batch=100),
    "1e-3": replace(BASE, learning_rate=1e-3),
    "1e-3, batch 100 (published)": replace(BASE, learning_rate=1e-3, batch=100),
    "4e-3, batch 100": replace(BASE, learning_rate=4e-3, batch=100),
    "fault: no square root": replace(BASE, fault="no square root"),
    "fault: random shortcut": replace(BASE, fault="random shortcut"),
    "fault: backward(loss)": replace(BASE, fault="backward(loss)"),
}
FEATURES, PICTURES, WARM_UP, DECAY = 32, 100_000, 50, 0.999
LOSS_STEPS, HELD_OUT, SAMPLES, SAMPLING_STEPS, BATCH = (
    (5, 20, 50, 100, 200, 300, 400),
    600,
    1000,
    50,
    250,
)


def coefficients(
    schedule: du.NoiseSchedule, t: torch.Tensor, like: torch.Tensor
) -> list[torch.Tensor]:
    """sqrt(ab), sqrt(1 - ab), a and b at each picture's step: four tensors (N, 1, 1, 1)."""
    tables = (schedule.ab.sqrt(), (1 - schedule.ab).sqrt(), schedule.a, schedule.b)
    return [table[t].view(-1, 1, 1, 1).to(like) for table in tables]


def aim(
    target: str,
    x0: torch.Tensor,
    noise: torch.Tensor,
    t: torch.Tensor,
    schedule: du.NoiseSchedule,
) -> torch.Tensor:
    """What a network with this target should answer at x_t: the conversions of lesson 2, section 10."""
    signal, spread, a, b = coefficients(schedule, t, x0)
    if target == "mean":  # of the posterior, [DDPM] eq. 11
        return (signal * x0 + spread * noise - b / spread * noise) / a.sqrt()
    return {"noise": noise, "x0": x0, "velocity": signal * noise - spread * x0}[target]


def to_noise(
    target: str,
    answer: torch.Tensor,
    x: torch.Tensor,
    t: torch.Tensor,
    schedule: du.NoiseSchedule,
) -> torch.Tensor:
    """The noise in x_t that such an answer implies."""
    signal, spread, a, b = coefficients(schedule, t, x)
    if target == "noise":
        return answer
    if target == "x0":
        return (x - signal * answer) / spread
    if target == "velocity":
        return spread * x + signal * answer
    return (x - a.sqrt() * answer) * spread / b


def step_weights(change: Change, schedule: du.NoiseSchedule) -> torch.Tensor:
    """(T + 1,) weights of the squared error of this target at t = 1..T; those of the bound brought to mean 1.

    At t = 1, where the bound has another term, they follow the same formula. Raises ValueError for weights that this target does not have here.
    """
    known = {
        "none": (change.target,),
        "min-SNR": ("noise",),
        "bound": ("noise", "mean"),
    }
    if change.target not in known.get(change.weights, ()):
        raise ValueError(
            f"weights={change.weights!r} not known for target={change.target!r}; expected none, min-SNR (noise) or bound (noise, mean)"
        )
    if change.weights == "none":
        return torch.ones_like(schedule.b)
    if change.weights == "min-SNR":  # as `diffusion_loss` has it
        return (5 / schedule.snr).clamp(max=1)
    weights = 1 / (
        2 * schedule.b
    )  # |mu - mu_theta|^2 / (2 sigma^2) with sigma^2 = beta, [DDPM] eq. 8
    if change.target == "noise":  # [DDPM] eq. 12
        weights = weights * schedule.b**2 / (schedule.a * (1 - schedule.ab))
    return weights / weights[1:].mean()


class Denoiser(torch.nn.Module):
    """A network with another target, for samplers, which ask for the noise."""

    def __init__(
        self, network: torch.nn.Module, target: str, schedule: du.NoiseSchedule
    ):
        super().__init__()
        self.network, self.target, self.schedule = network, target, schedule

    def forward(self, x, t, c=None):
        steps = (t * self.schedule.T).round().long().reshape(-1).expand(len(x))
        return to_noise(self.target, self.network(x, t, c), x, steps, self.schedule)


def nearest_noise(x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The same noise in another order: the assignment to the pictures with the smallest sum of squared distances."""
    apart = torch.cdist(x.flatten(1), noise.flatten(1)).square()
    return noise[torch.from_numpy(linear_sum_assignment(apart.numpy())[1])]


class RandomShortcut(du.ResidualConvBlock):
    """The published residual block: where channel counts differ its shortcut is a new, untrained convolution at every call."""

    def forward(self, x):
        x1 = self.conv1(x)
        shortcut = torch.nn.Conv2d(x.shape[1], x1.shape[1], 1).to(x)
        return (shortcut(x) + self.conv2(x1)) / 1.414


def noised(
    change: Change,
    x: torch.Tensor,
    t: torch.Tensor,
    noise: torch.Tensor,
    schedule: du.NoiseSchedule,
) -> torch.Tensor:
    """x_t, or what the fault makes of it."""
    if change.fault != "no square root":
        return du.perturb_input(x, t, noise, schedule)
    ab = schedule.ab[t].view(-1, 1, 1, 1).to(x)
    return ab.sqrt() * x + (1 - ab) * noise


def train(change: Change, pictures: int) -> torch.nn.Module:
    """A learning rate that rises over the first WARM_UP steps and then, with `decay`, falls linearly to 0."""
    if change.fault not in (None, *FAULTS):
        raise ValueError(
            f"fault={change.fault!r} not known; expected None or one of {', '.join(FAULTS)}"
        )
    torch.manual_seed(change.seed)
    generator, schedule, clean = (
        torch.Generator().manual_seed(change.seed),
        du.NoiseSchedule.linear(),
        du.load_sprites("train").x,
    )
    model, weights = (
        du.ContextUnet(3, FEATURES, 5, 16).to(memory_format=torch.channels_last),
        step_weights(change, schedule).float(),
    )
    if change.fault == "random shortcut":
        model.init_conv.__class__ = RandomShortcut  # the only block with a shortcut
    average = du.average_weights(model, DECAY)
    optimiser, steps = (
        torch.optim.Adam(model.parameters(), change.learning_rate, fused=True),
        pictures // change.batch,
    )
    for i in range(steps):
        optimiser.param_groups[0]["lr"] = change.learning_rate * min(
            1 - i / steps if change.decay else 1, (i + 1) / WARM_UP
        )
        x = clean[torch.randint(len(clean), (change.batch,), generator=generator)]
        t = torch.randint(1, schedule.T + 1, (len(x),), generator=generator)
        noise = torch.randn(x.shape, generator=generator)
        noise = nearest_noise(x, noise) if change.assigned else noise
        answer = model(noised(change, x, t, noise, schedule), t / schedule.T)
        loss = (
            weights[t].view(-1, 1, 1, 1)
            * (answer - aim(change.target, x, noise, t, schedule)).square()
        ).mean()
        optimiser.zero_grad()
        loss.backward(loss.detach() if change.fault == "backward(loss)" else None)
        optimiser.step()
        if change.average:
            average.update_parameters(model)
    return Denoiser(
        average.module if change.average else model, change.target, schedule
    ).eval()


def score(model: torch.nn.Module, samples: int) -> dict:
    """Held-out error of the implied noise at LOSS_STEPS; of samples, the distance to the nearest legal sprite, and the ruler's scores."""
    schedule, x = du.NoiseSchedule.linear(), du.load_sprites("test").x[:HELD_OUT]
    losses = du.denoising_losses(model, x, schedule, steps=LOSS_STEPS).mean(1)
    options = {
        "steps": SAMPLING_STEPS,
        "variance": "beta_tilde",
        "clip": True,
        "generator": torch.Generator().manual_seed(4),
        "keep": 0,
    }
    sizes = [min(BATCH, samples - start) for start in range(0, samples, BATCH)]
    pictures = du.to_pictures(
        torch.cat(
            [
                du.sample_ddpm(model, schedule, shape=(size, 3, 16, 16), **options)[0]
                for size in sizes
            ]
        )
    )
    _, distances = du.sprite_factory().decode(pictures)
    scores = rounded(du.sprite_scores(pictures))
    return {
        "held_out_loss": {
            str(t): round(float(loss), 4) for t, loss in zip(LOSS_STEPS, losses)
        },
        "legal_distance": mean_and_error(distances),
        "scores": {name: scores[name] for name in ("legal", "coverage", "FD")},
    }


def row(change: Change, pictures: int, samples: int) -> dict:
    """One row of the table; runs in a process of its own, on one core."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    model = train(change, pictures)
    seconds = round(time.perf_counter() - started)
    return {"change": asdict(change), "seconds": seconds} | score(model, samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "ablation.json")
    parser.add_argument(
        "--pictures",
        type=int,
        default=PICTURES,
        help="training pictures a row (with repetitions)",
    )
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count(),
        help="rows that run side by side, each on one core",
    )
    options = parser.parse_args()
    if options.out.resolve() == HERE / "ablation.json" and (
        options.pictures,
        options.samples,
    ) != (PICTURES, SAMPLES):
        parser.error(
            "these settings would overwrite the shipped results; add --out FILE"
        )
    settings = {
        "features": FEATURES,
        "pictures": options.pictures,
        "held_out": HELD_OUT,
        "samples": options.samples,
    }
    content = so_far(options.out, settings, parser, runs={})
    wanted = {
        name: (change, options.pictures, options.samples)
        for name, change in CHANGES.items()
        if content["runs"].get(name, {}).get("change") != asdict(change)
    }
    for name, answer in side_by_side(row, wanted, options.workers):
        content["runs"][name] = answer
        content["runs"] = {
            name: content["runs"][name] for name in CHANGES if name in content["runs"]
        }  # in the order of the table
        write_json(options.out, content)
        print(name, answer, flush=True)


if __name__ == "__main__":
    main()
