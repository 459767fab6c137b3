"""Lesson 11's patients, each made by really running one fault: `python weights/clinic.py` (about 35 minutes of one core).

The shipped weights with labels are trained on, five times, for as many steps; from these trainings come nine patients: a healthy one, and one for
each of eight faults. Four of the faults are in the sampling and so share the healthy training. Then the capstone's reference: three minutes
of one core, three seeds. Writes weights/clinic.json (losses, the ruler's report, tests) and weights/results/clinic.npz (sheets of samples). Seconds
are those of the processor (the capstone's wall seconds stand beside them); each job has one thread and a process of its own, `--workers` of them
side by side. A job that is there already is kept, so an interrupted program goes on; remove the file to start again.
"""

import argparse
import functools
import inspect
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from five_unets import digest  # noqa: E402
from rows import add_samples, side_by_side, so_far  # noqa: E402
from train import machine, write_json  # noqa: E402

import diffusion_utilities as du  # noqa: E402  (found beside this folder)

START = "context_model_trained.pth"
WARM_UP, P_DROP = 20, 0.1
HELD_OUT, LOSS_STEPS, GRADED = (
    50,
    tuple(range(25, 500, 50)),
    (5, 20, 50, 100, 200, 300, 400),
)
SAMPLES, SHEET, TEST, CALLS = 200, 25, 6, 50


# ---- Training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """`root` False leaves out the square root on the noise; `pictures` trains on so many only; `shuffled` deals the labels out at random."""

    steps: int = 120
    rate: float = 1e-3
    memory: float = 0.95  # of the average of the weights, which is what is sampled
    root: bool = True
    pictures: int | None = None
    shuffled: bool = False
    batch: int = 50
    seed: int = 1


HEALTHY = Run()
TRAININGS = {
    "healthy": HEALTHY,
    "no root": replace(HEALTHY, root=False),
    "rate too high": replace(HEALTHY, rate=100 * HEALTHY.rate),
    "few pictures": replace(HEALTHY, pictures=20),
    "shuffled labels": replace(HEALTHY, shuffled=True),
}


def noised(
    x: torch.Tensor,
    t: torch.Tensor,
    noise: torch.Tensor,
    schedule: du.NoiseSchedule,
    root: bool,
) -> torch.Tensor:
    """x_t, or what it is without the square root on the noise (lesson 2)."""
    if root:
        return du.perturb_input(x, t, noise, schedule)
    ab = schedule.ab[t].view(-1, 1, 1, 1).to(x)
    return ab.sqrt() * x + (1 - ab) * noise


def training_set(run: Run) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and labels, as the run is to see them."""
    data = du.load_sprites("train")
    rows = np.random.default_rng(run.seed).permutation(len(data))[: run.pictures]
    labels = data.c[rows]
    return data.x[rows], labels[
        np.random.default_rng(run.seed + 1).permutation(len(rows))
    ] if run.shuffled else labels


def held_out() -> tuple[torch.Tensor, torch.Tensor]:
    test = du.load_sprites("test")
    rows = np.random.default_rng(0).permutation(len(test))[:HELD_OUT]
    return test.x[rows], test.c[rows]


def mean_loss(model: torch.nn.Module, x: torch.Tensor, c: torch.Tensor) -> float:
    """Over LOSS_STEPS, evenly from 1 to T, with the right noise whatever the training had."""
    return round(
        float(
            du.denoising_losses(
                model, x, du.NoiseSchedule.linear(), steps=LOSS_STEPS, c=c
            ).mean()
        ),
        4,
    )


def train(run: Run) -> tuple[torch.nn.Module, list[float], list[list[float]]]:
    """(the averaged weights in eval mode, the loss of each step, [step, held-out loss] eleven times). The rate rises, then falls to 0.

    Where the loss is no number any more, the training ends."""
    torch.manual_seed(run.seed)
    generator, schedule, (x, c), unseen = (
        torch.Generator().manual_seed(run.seed),
        du.NoiseSchedule.linear(),
        training_set(run),
        held_out(),
    )
    model = (
        du.load_weights(du.ContextUnet(3, 64, 5, 16), HERE / START)
        .to(memory_format=torch.channels_last)
        .train()
    )
    average, adam = (
        du.average_weights(model, run.memory),
        torch.optim.Adam(model.parameters(), run.rate, fused=True),
    )
    losses, curve = [], [[0, mean_loss(average.module, *unseen)]]
    for i in range(run.steps):
        adam.param_groups[0]["lr"] = (
            run.rate * min((i + 1) / WARM_UP, 1) * (1 - i / run.steps)
        )
        rows = torch.randint(len(x), (run.batch,), generator=generator)
        t = torch.randint(1, schedule.T + 1, (run.batch,), generator=generator)
        noise, told = (
            torch.randn(x[rows].shape, generator=generator),
            du.drop_context(c[rows], P_DROP, generator),
        )
        loss = (
            (
                model(
                    noised(x[rows], t, noise, schedule, run.root), t / schedule.T, told
                )
                - noise
            )
            .square()
            .mean()
        )
        if not loss.isfinite():
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        average.update_parameters(model)
        losses.append(loss.item())
        if len(losses) % (run.steps // 10) == 0:
            curve.append([len(losses), mean_loss(average.module, *unseen)])
    return average.module.eval(), losses, curve


# ---- Sampling --------------------------------------------------------------------------------------------------------


def ddpm(model, schedule, x_T, context, generator, noise_scale=1.0):
    """What the healthy do: DDPM in CALLS steps."""
    options = {
        "variance": "beta_tilde",
        "clip": True,
        "noise_scale": noise_scale,
        "keep": 0,
    }
    return du.sample_ddpm(
        model,
        schedule,
        x_T=x_T,
        context=context,
        steps=CALLS,
        generator=generator,
        **options,
    )[0]


def ddim(model, schedule, x_T, context, generator):
    """Another sampler, for the test of each network: the course's DDIM in 20 steps."""
    return du.sample_ddim(
        model,
        schedule,
        x_T=x_T,
        context=context,
        steps=20,
        generator=generator,
        keep=0,
        clip=True,
    )[0]


def no_noise_added(model, schedule, x_T, context, generator):
    """Only the mean of each step (lesson 4)."""
    return ddpm(model, schedule, x_T, context, generator, noise_scale=0.0)


def eval_forgotten(model, schedule, x_T, context, generator):
    """Batch norm takes the statistics of the batch; a copy does it, because it would also spoil the network's own."""
    copy = (
        du.ContextUnet(3, model.n_feat, 5, 16)
        .to(memory_format=torch.channels_last)
        .train()
    )
    copy.load_state_dict(model.state_dict())
    return ddpm(lambda x, t, c: copy(x, t, c), schedule, x_T, context, generator)


@torch.no_grad()
def stride_wraps(model, schedule, x_T, context, generator):
    """DDIM with 30 steps asked for, as strides of 500 // 30: 32 calls, the last of which goes to index -12, which is t = 489 (lesson 5)."""
    x, stride = x_T, schedule.T // 30
    for t in range(schedule.T, 0, -stride):
        ab, ab_prev = float(schedule.ab[t]), float(schedule.ab[t - stride])
        pred_noise = model(x, torch.full((len(x),), t / schedule.T), context)
        x = (
            ab_prev**0.5 * (x - (1 - ab) ** 0.5 * pred_noise) / ab**0.5
            + (1 - ab_prev) ** 0.5 * pred_noise
        )
    return x


def noise_at_the_end(model, schedule, x_T, context, generator):
    """The last step adds noise too, where the mean is the answer (lesson 4)."""
    x, t = ddpm(model, schedule, x_T, context, generator), schedule.T // CALLS
    return x + float(1 - schedule.ab[t]) ** 0.5 * torch.randn(
        x.shape, generator=generator
    )


def t_not_divided(model, schedule, x_T, context, generator):
    """The network is told t, up to 500, instead of t / T."""
    return ddpm(
        lambda x, t, c: model(x, t * schedule.T, c), schedule, x_T, context, generator
    )


OTHERS = {
    "t not divided": t_not_divided
}  # nobody has it, but what would it look like? (judges use it)
PATIENTS = {  # name: (training, sampler)
    **{name: (name, ddpm) for name in TRAININGS},
    "stride wraps": ("healthy", stride_wraps),
    "eval forgotten": ("healthy", eval_forgotten),
    "no noise added": ("healthy", no_noise_added),
    "noise at the end": ("healthy", noise_at_the_end),
}
SICK = [name for name in PATIENTS if name != "healthy"]
NUMBERS = {
    SICK[i]: str(k + 1)
    for k, i in enumerate(np.random.default_rng(11).permutation(len(SICK)))
}  # under which the lesson knows them


def asked(n: int) -> torch.Tensor:
    """Five of each class in turn, so that a sheet of 25 has a row a class: (n, 5)."""
    return torch.eye(5)[torch.arange(n) // 5 % 5]


def draw(
    sampler: Callable, model: torch.nn.Module, n: int, changed: bool = False
) -> torch.Tensor:
    """n pictures from starts and noise that are the same for everyone; `changed` turns the sign of the starts of the second half."""
    x_T, parts = (
        torch.randn((n, 3, 16, 16), generator=torch.Generator().manual_seed(100)),
        [],
    )
    x_T[n // 2 :] *= -1 if changed else 1
    for i, (x, c) in enumerate(zip(x_T.split(100), asked(n).split(100))):
        parts.append(
            sampler(
                model,
                du.NoiseSchedule.linear(),
                x,
                c,
                torch.Generator().manual_seed(200 + i),
            )
        )
    return torch.cat(parts)


# ---- Measuring -------------------------------------------------------------------------------------------------------


@functools.cache
def training_features() -> np.ndarray:
    return du.sprite_features(du.load_sprites("train").images)


def report(pictures: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """Six of the measures of `sprite_scores`, of pictures (N, 16, 16, 3) uint8 that were asked to have these classes (N,), as numbers 0 to 4."""
    train, ours = du.load_sprites("train"), du.sprite_features(pictures)
    some = training_features()[
        np.random.default_rng(0).permutation(len(train))[: len(ours)]
    ]
    _, each = du.sprite_factory().verdicts(pictures, train.factors, np.eye(5)[classes])
    values = {
        name: each[name].mean()
        for name in ("legal", "class as asked", "off-palette pixels")
    } | {
        "memorised": du.memorised(pictures, train.images).mean(),
        "recall": du.precision_recall_density_coverage(some, ours)["recall"].mean(),
        "FD": du.frechet_distance(ours, training_features()),
    }
    return {
        name: round(float(value), 1 if name == "FD" else 4)
        for name, value in values.items()
    }


def floor(samples: int) -> dict[str, float]:
    test = du.load_sprites("test")
    rows = np.random.default_rng(0).permutation(len(test))[:samples]
    return report(test.images[rows], test.labels[rows].argmax(1))


def roughness(pictures: np.ndarray) -> float:
    """Mean absolute difference of a pixel from the one to its right, 0 to 1: high for noise, low for mist."""
    return round(float(np.abs(np.diff(pictures / 255, axis=2)).mean()), 4)


def full_range(pictures: np.ndarray) -> float:
    """The share of channels that reach from 0 to 255 in their picture, as all would after rescaling each."""
    return round(
        float(((pictures.min((1, 2)) == 0) & (pictures.max((1, 2)) == 255)).mean()), 4
    )


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return round(float((a - b).square().mean().sqrt() / 2), 4)  # on the scale 0 to 1


def examine(
    sampler: Callable, model: torch.nn.Module, samples: int
) -> tuple[dict, dict[str, np.ndarray]]:
    """The report of a patient, its tests of repetition and of company, and its pictures."""
    started = time.process_time()
    pictures = du.to_pictures(draw(sampler, model, samples))
    first, again, changed = (
        draw(sampler, model, 2 * TEST, moved)[:TEST] for moved in (False, False, True)
    )
    answer = {
        "report": report(pictures, asked(samples).argmax(1).numpy()),
        "roughness": roughness(pictures),
        "full range": full_range(pictures),
    }
    answer |= {
        "again": distance(first, again),
        "other company": distance(first, changed),
        "sampling seconds": round(time.process_time() - started),
    }
    return answer, {
        "sheet": pictures[:SHEET],
        "first": du.to_pictures(first),
        "other company": du.to_pictures(changed),
    }


def blocks(losses: list[float], most: int = 200) -> list[float]:
    """Means of neighbours, so that at most so many are left."""
    size = -(-len(losses) // most)
    return [
        round(float(np.mean(losses[i : i + size])), 4)
        for i in range(0, len(losses), size)
    ]


def training_row(name: str, samples: int) -> tuple[dict, dict[str, np.ndarray]]:
    """One training and every patient that comes of it, in a process of its own, on one core: (its row, {"patient: what": pictures})."""
    torch.set_num_threads(1)
    run, started, schedule = (
        TRAININGS[name],
        time.process_time(),
        du.NoiseSchedule.linear(),
    )
    model, losses, curve = train(run)
    row = {
        "run": asdict(run),
        "seconds": round(time.process_time() - started),
        "steps": len(losses),
        "losses": blocks(losses),
        "held out": curve,
    }
    twentieth = max(len(losses) // 20, 1)
    for part, some in {
        "last twentieth": losses[-twentieth:],
        "fifth before it": losses[-5 * twentieth : -twentieth],
    }.items():
        row[part] = round(float(np.mean(some)), 4)
    (x, c), own = held_out(), training_set(run)
    row["graded"] = [
        round(float(v), 4)
        for v in du.denoising_losses(model, x, schedule, steps=GRADED, c=c).mean(1)
    ]
    row["loss on training pictures"] = mean_loss(
        model, own[0][:HELD_OUT], own[1][:HELD_OUT]
    )
    retest = du.to_pictures(draw(ddim, model, samples))
    row["retest"], shown = (
        report(retest, asked(samples).argmax(1).numpy()),
        {f"{name}: retest": retest[: 2 * TEST]},
    )
    row["patients"] = {}
    for patient in (
        patient for patient, (training, _) in PATIENTS.items() if training == name
    ):
        row["patients"][patient], sheets = examine(PATIENTS[patient][1], model, samples)
        shown |= {f"{patient}: {what}": sheet for what, sheet in sheets.items()}
    return row, shown


def other_row(name: str, samples: int) -> tuple[dict, dict[str, np.ndarray]]:
    """A sampling fault that no patient has, with the shipped weights as they are."""
    torch.set_num_threads(1)
    model = du.load_weights(du.ContextUnet(3, 64, 5, 16), HERE / START).to(
        memory_format=torch.channels_last
    )
    return examine(OTHERS[name], model, samples)[0], {}


# ---- The capstone's reference ----------------------------------------------------------------------------------------


def train_for(seconds, seed, clock=time.process_time):
    """A model to be scored, and its losses, after so many seconds of the clock. Change whatever you like, but the clock."""
    torch.manual_seed(seed)
    g, schedule, x = (
        torch.Generator().manual_seed(seed),
        du.NoiseSchedule.linear(),
        du.load_sprites("train").x,
    )
    model = du.ContextUnet(3, 32, 5, 16).to(memory_format=torch.channels_last)
    average, losses, start = du.average_weights(model, 0.99), [], clock()
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    while (share := (clock() - start) / seconds) < 1:
        optimiser.param_groups[0]["lr"] = (
            2e-3 * min((len(losses) + 1) / 50, 1) * (1 - share)
        )
        loss = du.diffusion_loss(
            model, x[torch.randint(len(x), (50,), generator=g)], schedule, generator=g
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        average.update_parameters(model)
        losses.append(loss.item())
    return average.module.eval(), losses


def draw_samples(model, n, g):
    """n pictures (n, 3, 16, 16) of a model: DDPM in 50 steps."""
    schedule, options = (
        du.NoiseSchedule.linear(),
        {"variance": "beta_tilde", "clip": True, "keep": 0},
    )
    shapes = [(min(100, n - i), 3, 16, 16) for i in range(0, n, 100)]
    batches = [
        du.sample_ddpm(model, schedule, shape=shape, steps=50, generator=g, **options)[
            0
        ]
        for shape in shapes
    ]
    return torch.cat(batches)


def score(model, draw=draw_samples, n=500, seed=0):
    """FD and legal share of n samples, drawn from a generator with this seed; and how far they are from legal sprites."""
    pictures = du.to_pictures(draw(model, n, torch.Generator().manual_seed(seed)))
    found, distances = du.sprite_factory().decode(pictures)
    return {
        "FD": du.frechet_distance(
            du.sprite_features(pictures),
            du.sprite_features(du.load_sprites("train").images),
        ),
        "legal": du.sprite_factory().are_legal(pictures, found).mean(),
        "distance": distances.mean(),
    }


def capstone_row(
    seed: int, seconds: float, samples: int
) -> tuple[dict, dict[str, np.ndarray]]:
    """One reference run: (its row, ten of its samples), in a process of its own, on one core."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    model, losses = train_for(seconds, seed)
    row = {
        "seed": seed,
        "steps": len(losses),
        "wall seconds": round(time.perf_counter() - started),
    }
    row |= {
        name: round(float(value), 4) for name, value in score(model, n=samples).items()
    }
    return row, {
        f"capstone, seed {seed}": du.to_pictures(
            draw_samples(model, 10, torch.Generator().manual_seed(0))
        )
    }


# ---- The program -----------------------------------------------------------------------------------------------------

CODE = {  # what a row depends on: by its digest a test sees that the rows are of this code
    "trainings": (
        *(Run, noised, training_set, held_out, mean_loss, train, training_row),
        *(
            ddpm,
            ddim,
            no_noise_added,
            eval_forgotten,
            stride_wraps,
            noise_at_the_end,
            asked,
            draw,
            report,
            examine,
        ),
        *(blocks, distance, full_range, roughness),
    ),
    "others": (
        blocks,
        distance,
        full_range,
        roughness,
        ddpm,
        t_not_divided,
        asked,
        draw,
        report,
        examine,
        other_row,
    ),
    "capstone": (train_for, draw_samples, score),
}
SECONDS, SEEDS, SCORED = 180, (1, 2, 3), 500


def digests() -> dict[str, str]:
    constants = (
        START,
        WARM_UP,
        P_DROP,
        HELD_OUT,
        LOSS_STEPS,
        GRADED,
        SAMPLES,
        SHEET,
        TEST,
        CALLS,
    )  # the capstone uses none of them
    sources = {
        name: [inspect.getsource(part) for part in parts]
        for name, parts in CODE.items()
    }
    return {
        name: digest(
            some if name == "capstone" else [*some, f"constants = {constants!r}"]
        )
        for name, some in sources.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out",
        type=Path,
        default=HERE / "clinic.json",
        help="pictures go to results/ beside it",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        help="training of each of the capstone's runs",
    )
    parser.add_argument(
        "--samples", type=int, default=SAMPLES, help="that a report is about"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count(),
        help="jobs that go side by side, each on one core",
    )
    options = parser.parse_args()
    if options.out.resolve() == HERE / "clinic.json" and (
        options.seconds,
        options.samples,
    ) != (SECONDS, SAMPLES):
        parser.error(
            "these settings would overwrite the shipped results; add --out FILE"
        )
    settings = {
        "samples": options.samples,
        "seconds": options.seconds,
        "scored": SCORED,
        "loss_steps": [*LOSS_STEPS],
        "graded": [*GRADED],
    }
    empty = {
        "floor": None,
        "capstone_floor": None,
        "numbers": NUMBERS,
        "trainings": {},
        "others": {},
        "capstone": {},
    }
    content, code = so_far(options.out, settings, parser, **empty), digests()
    sheet = options.out.with_name("results") / f"{options.out.stem}.npz"
    if content["floor"] is None:
        content["floor"], test = floor(options.samples), du.load_sprites("test")
        real = torch.from_numpy(
            np.moveaxis(
                test.images[np.random.default_rng(0).permutation(len(test))[:SCORED]],
                3,
                1,
            )
            / 127.5
            - 1
        )
        content["capstone_floor"] = {
            name: round(float(value), 4)
            for name, value in score(None, lambda *_: real).items()
        }
    jobs = {
        ("trainings", name): (training_row, name, options.samples) for name in TRAININGS
    }
    jobs |= {("others", name): (other_row, name, options.samples) for name in OTHERS}
    jobs |= {
        ("capstone", str(seed)): (capstone_row, seed, options.seconds, SCORED)
        for seed in SEEDS
    }
    wanted = {
        key: job
        for key, job in jobs.items()
        if not made(content[key[0]].get(key[1]), code[key[0]], TRAININGS.get(key[1]))
    }
    for (part, name), (row, shown) in side_by_side(work, wanted, options.workers):
        content[part][name] = row | {"code": code[part]}
        content[part] = {
            each: content[part][each] for _, each in jobs if each in content[part]
        }  # in the order of the jobs
        add_samples(sheet, shown)
        write_json(options.out, content | {"machine": machine(torch.device("cpu"))})
        print(name, row, flush=True)


def work(job: Callable, *arguments) -> tuple[dict, dict[str, np.ndarray]]:
    return job(*arguments)


def made(row: dict | None, code: str, run: Run | None = None) -> bool:
    """Whether a row is there, made by this code with these settings."""
    return (
        bool(row) and row["code"] == code and (run is None or row["run"] == asdict(run))
    )


if __name__ == "__main__":
    main()
