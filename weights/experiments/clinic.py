"""Lesson 17's patients, each made by really running one fault.

`python weights/experiments/clinic.py` takes about 50 minutes of one core.

The shipped weights with labels are trained for 120 more steps, five times for each of
two seeds. From the trainings of one seed come nine patients: a healthy one, and one
for each of eight faults. Four of the faults are in the sampling, and those patients
share the healthy training. Then the capstone's reference (capstone.py) is run: three
minutes of one core, three seeds.

It writes weights/clinic.json (losses, reports, tests) and weights/results/clinic.npz
(sheets of samples). Seconds are those of the processor; the capstone's wall seconds
stand beside them. Each job has one thread and a process of its own, and `--workers`
jobs run side by side. Rows that are there already are kept.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import faults
import numpy as np
import shipped
import tables
import torch
from capstone import draw_samples, score, train_for
from torch import Generator, Tensor, nn
from training import random_rows, steps_with

import diffusion_utilities as du  # tables.py makes it importable

WEIGHTS = Path(__file__).resolve().parents[1]
VERSION = 1  # raise it when the meaning of this code changes
CAPSTONE_VERSION = 2  # the same for capstone.py
START = "context_model_trained"

WARM_UP = 20  # steps
P_DROP = 0.1  # of the labels
HELD_OUT = 50  # sprites
LOSS_STEPS = tuple(range(25, 500, 50))  # evenly from 1 to T
GRADED = (5, 20, 50, 100, 200, 300, 400)  # steps of the test "loss by step"
SAMPLES = 200  # that a report is about
SHEET = 25  # of them are shown
TEST = 6  # pictures of the test "the same starts"
DDPM = {"steps": 50, "variance": "beta_tilde", "clip": True}  # as the healthy one draws

SECONDS = 180  # of each capstone run
SEEDS = (1, 2, 3)
SCORED = 500  # samples of each capstone run


Sheets = dict[str, np.ndarray]  # {"patient: what": pictures (N, 16, 16, 3) uint8}


def rounded(value) -> float:
    return round(float(value), 4)


def shuffled(n: int, seed: int = 0) -> np.ndarray:
    """The numbers from 0 to n - 1 in random order."""
    return np.random.default_rng(seed).permutation(n)


# ---- Training -----------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One training.

    memory: of the average of the weights; samples are drawn from the average.
    root: False leaves out the square root on the noise.
    pictures: train on so many only; None is all of them.
    shuffled: deal the labels out at random.
    """

    steps: int = 120
    rate: float = 1e-3
    memory: float = 0.95
    root: bool = True
    pictures: int | None = None
    shuffled: bool = False
    batch: int = 50
    seed: int = 1


TRAININGS = {
    "healthy": Run(),
    "no root": Run(root=False),
    "rate too high": Run(rate=100 * Run.rate),
    "few pictures": Run(pictures=20),
    "shuffled labels": Run(shuffled=True),
}
AGAIN = ", seed 2"  # behind the name of the second training
TRAININGS |= {name + AGAIN: replace(run, seed=2) for name, run in TRAININGS.items()}


def training_set(run: Run) -> tuple[Tensor, Tensor]:
    """Pictures and labels as the run sees them."""
    data = du.load_sprites("train")
    rows = shuffled(len(data), run.seed)[: run.pictures]
    labels = data.c[rows]
    if run.shuffled:
        labels = labels[shuffled(len(rows), run.seed + 1)]
    return data.x[rows], labels


def some_test_sprites(n: int) -> np.ndarray:
    """The rows of n sprites of the part `test`, drawn at random."""
    return shuffled(len(du.load_sprites("test")))[:n]


def held_out() -> tuple[Tensor, Tensor]:
    """Pictures and labels that no run is trained on."""
    test = du.load_sprites("test")
    rows = some_test_sprites(HELD_OUT)
    return test.x[rows], test.c[rows]


def losses_at(model, x: Tensor, c: Tensor, steps) -> Tensor:
    """The loss of each picture at each step, always with the right noise."""
    schedule = du.NoiseSchedule.linear()
    return du.denoising_losses(model, x, schedule, steps=steps, c=c)


def mean_loss(model, x: Tensor, c: Tensor) -> float:
    """The mean loss over LOSS_STEPS."""
    return rounded(losses_at(model, x, c, LOSS_STEPS).mean())


def train(run: Run) -> tuple[nn.Module, list[float], list[list[float]]]:
    """Train the shipped network further; the learning rate rises, then falls to 0.

    Not by `train_steps`: a fault spoils the noise, the random numbers are drawn in
    another order, and every step is in float32. Training ends early when the loss is
    not finite.
    Returns (the averaged weights in eval mode, the loss of each step, [step, held-out
    loss] at the start and after each tenth of the steps).
    """
    torch.manual_seed(run.seed)
    generator = Generator().manual_seed(run.seed)
    schedule = du.NoiseSchedule.linear()
    x, c = training_set(run)
    unseen = held_out()
    model = shipped.shipped_network(START).train()
    average = du.average_weights(model, run.memory)
    adam = torch.optim.Adam(model.parameters(), run.rate, fused=True)
    noised = du.perturb_input if run.root else faults.noise_without_root

    def loss(rows):
        clean = x[rows]
        t = torch.randint(1, schedule.T + 1, (run.batch,), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        told = du.drop_context(c[rows], P_DROP, generator)
        x_t = noised(clean, t, noise, schedule)
        error = model(x_t, t / schedule.T, told) - noise
        return error.square().mean()

    rows = random_rows(len(x), run.batch, run.steps, generator)
    steps = steps_with(loss, rows, adam)
    losses = []
    curve = [[0, mean_loss(average.module, *unseen)]]
    for done in range(run.steps):
        warm_up = min((done + 1) / WARM_UP, 1)
        adam.param_groups[0]["lr"] = run.rate * warm_up * (1 - done / run.steps)
        try:
            losses.append(next(steps))
        except FloatingPointError:
            break
        average.update_parameters(model)
        if len(losses) % (run.steps // 10) == 0:
            curve.append([len(losses), mean_loss(average.module, *unseen)])
    return average.module.eval(), losses, curve


# ---- Sampling -----------------------------------------------------------------------
# Each sampler is called as sampler(model, schedule, x_T=..., context=...,
# generator=...) and returns pictures.


def ddpm(model, schedule, **start) -> Tensor:
    """The healthy sampler."""
    return shipped.ddpm(model, schedule, **DDPM, **start)


def ddim(model, schedule, **start) -> Tensor:
    """Another sampler, for the test of each network: the helper's DDIM in 20 steps."""
    return shipped.ddim(model, schedule, steps=20, clip=True, **start)


def no_noise_added(model, schedule, **start) -> Tensor:
    return faults.no_noise_added(model, schedule, **DDPM, **start)


def eval_forgotten(model, schedule, **start) -> Tensor:
    return ddpm(faults.batch_statistics(model), schedule, **start)


def noise_at_the_end(model, schedule, *, generator, **start) -> Tensor:
    x = ddpm(model, schedule, generator=generator, **start)
    z = torch.randn(x.shape, generator=generator)
    last = schedule.T // DDPM["steps"]
    return faults.with_noise_at_the_end(x, last, schedule, z)


def t_not_divided(model, schedule, **start) -> Tensor:
    return ddpm(faults.t_not_divided(model, schedule), schedule, **start)


PATIENTS = {  # name: (training, sampler)
    "healthy": ("healthy", ddpm),
    "no root": ("no root", ddpm),
    "rate too high": ("rate too high", ddpm),
    "few pictures": ("few pictures", ddpm),
    "shuffled labels": ("shuffled labels", ddpm),
    "stride wraps": ("healthy", faults.wrapped_stride),
    "eval forgotten": ("healthy", eval_forgotten),
    "no noise added": ("healthy", no_noise_added),
    "noise at the end": ("healthy", noise_at_the_end),
}
# No patient has it; the judges of the exercises compare a diagnosis with it.
OTHERS = {"t not divided": t_not_divided}
SICK = [name for name in PATIENTS if name != "healthy"]


def numbered() -> dict[str, str]:
    """{fault: the number under which the lesson knows the patient}, at random."""
    order = [SICK[i] for i in shuffled(len(SICK), seed=1522)]
    return {name: str(number) for number, name in enumerate(order, start=1)}


def asked(n: int) -> Tensor:
    """Five of each class in turn, so that each row of a sheet is a class: (n, 5)."""
    return torch.eye(5)[torch.arange(n) // 5 % 5]


def draw(sampler: Callable, model, n: int, changed: bool = False) -> Tensor:
    """n pictures; starts and noise are the same for every patient.

    `changed` turns the sign of the starts of the second half.
    """
    generator = Generator().manual_seed(100)
    x_T = torch.randn((n, 3, 16, 16), generator=generator)
    if changed:
        x_T[n // 2 :] *= -1
    schedule = du.NoiseSchedule.linear()
    batches = zip(x_T.split(100), asked(n).split(100))
    parts = []
    for i, (starts, context) in enumerate(batches):
        noise = Generator().manual_seed(200 + i)
        part = sampler(model, schedule, x_T=starts, context=context, generator=noise)
        parts.append(part)
    return torch.cat(parts)


# ---- Measuring ----------------------------------------------------------------------


def report(pictures: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """Six measures of `sprite_scores`.

    pictures: (N, 16, 16, 3) uint8. classes: (N,) what was asked for, from 0 to 4.
    """
    train = du.load_sprites("train")
    scoring = du.sprite_scoring()
    _, each = scoring.verdicts(pictures, train.factors, np.eye(5)[classes])
    ours = du.sprite_features(pictures)
    rows = shuffled(len(train))[: len(ours)]
    some = shipped.training_features()[rows]
    manifold = du.precision_recall_density_coverage(some, ours)
    values = {
        "legal": each["legal"].mean(),
        "class as asked": each["class as asked"].mean(),
        "off-palette pixels": each["off-palette pixels"].mean(),
        "memorised": du.memorised(pictures, train.images).mean(),
        "recall": manifold["recall"].mean(),
    }
    answer = {name: rounded(value) for name, value in values.items()}
    answer["FD"] = round(
        float(du.frechet_distance(ours, shipped.training_features())), 1
    )
    return answer


def floor(samples: int) -> dict[str, float]:
    """The report of real sprites, which no model should beat."""
    test = du.load_sprites("test")
    rows = some_test_sprites(samples)
    return report(test.images[rows], test.labels[rows].argmax(1))


def roughness(pictures: np.ndarray) -> float:
    """The mean step from a pixel to the one on its right, 0 to 1: high for noise."""
    steps = np.diff(pictures / 255, axis=2)
    return rounded(np.abs(steps).mean())


def full_range(pictures: np.ndarray) -> float:
    """The share of channels that reach from 0 to 255 in their picture."""
    lowest = pictures.min((1, 2))
    highest = pictures.max((1, 2))
    full = (lowest == 0) & (highest == 255)
    return rounded(full.mean())


def distance(a: Tensor, b: Tensor) -> float:
    """RMS difference of pictures in [-1, 1], on the scale from 0 to 1."""
    rms = (a - b).square().mean().sqrt()
    return rounded(rms / 2)


def examine(sampler: Callable, model, samples: int) -> tuple[dict, Sheets]:
    """A patient's report, its tests of repetition and of company, and its pictures."""
    started = time.process_time()
    pictures = du.to_pictures(draw(sampler, model, samples))
    first = draw(sampler, model, 2 * TEST)[:TEST]
    again = draw(sampler, model, 2 * TEST)[:TEST]
    changed = draw(sampler, model, 2 * TEST, changed=True)[:TEST]
    answer = {
        "report": report(pictures, asked(samples).argmax(1).numpy()),
        "roughness": roughness(pictures),
        "full range": full_range(pictures),
        "again": distance(first, again),
        "other company": distance(first, changed),
        "sampling seconds": round(time.process_time() - started),
    }
    sheets = {
        "sheet": pictures[:SHEET],
        "first": du.to_pictures(first),
        "other company": du.to_pictures(changed),
    }
    return answer, sheets


# ---- The rows -----------------------------------------------------------------------


def blocks(losses: list[float], most: int = 200) -> list[float]:
    """Means of neighbouring losses, so that at most so many are left."""
    size = -(-len(losses) // most)  # rounded up
    starts = range(0, len(losses), size)
    return [mean_of(losses[start : start + size]) for start in starts]


def mean_of(values: list[float]) -> float:
    return rounded(np.mean(values))


def trained_row(name: str) -> tuple[nn.Module, dict]:
    """Train, and measure the loss: (the model, its row without any samples)."""
    run = TRAININGS[name]
    started = time.process_time()
    model, losses, curve = train(run)
    seconds = time.process_time() - started
    twentieth = max(len(losses) // 20, 1)
    x, c = training_set(run)
    graded = losses_at(model, *held_out(), GRADED).mean(1)
    row = {
        "run": asdict(run),
        "seconds": round(seconds),
        "steps": len(losses),
        "losses": blocks(losses),
        "held out": curve,
        "last twentieth": mean_of(losses[-twentieth:]),
        "fifth before it": mean_of(losses[-5 * twentieth : -twentieth]),
        "graded": [rounded(loss) for loss in graded],
        "loss on training pictures": mean_loss(model, x[:HELD_OUT], c[:HELD_OUT]),
    }
    return model, row


def training_row(name: str, samples: int) -> tuple[dict, Sheets]:
    """One training and every patient that comes of it.

    Returns (its row, {"patient: what": pictures}).
    """
    model, row = trained_row(name)
    retest = du.to_pictures(draw(ddim, model, samples))
    row["retest"] = report(retest, asked(samples).argmax(1).numpy())
    row["patients"] = {}
    shown = {f"{name}: retest": retest[: 2 * TEST]}
    again = AGAIN if name.endswith(AGAIN) else ""
    for patient, (training, sampler) in PATIENTS.items():
        if training + again == name:
            row["patients"][patient], sheets = examine(sampler, model, samples)
            for what, sheet in sheets.items():
                shown[f"{patient}{again}: {what}"] = sheet
    return row, shown


def other_row(name: str, samples: int) -> tuple[dict, Sheets]:
    """A fault of the sampling that no patient has, with the shipped weights."""
    row, _ = examine(OTHERS[name], shipped.shipped_network(START), samples)
    return row, {}


def capstone_row(seed: int, seconds: float) -> tuple[dict, Sheets]:
    """One run of the capstone's reference: (its row, ten of its samples)."""
    started = time.perf_counter()
    model, losses = train_for(seconds, seed)
    wall = time.perf_counter() - started
    row = {"seed": seed, "steps": len(losses), "wall seconds": round(wall)}
    for name, value in score(model, n=SCORED).items():
        row[name] = rounded(value)
    samples = draw_samples(model, 10, Generator().manual_seed(0))
    return row, {f"capstone, seed {seed}": du.to_pictures(samples)}


def capstone_floor() -> dict[str, float]:
    """The capstone's score of real sprites."""
    images = du.load_sprites("test").images[some_test_sprites(SCORED)]
    real = torch.from_numpy(np.moveaxis(images, 3, 1) / 127.5 - 1)
    scores = score(None, lambda *_: real)
    return {name: rounded(value) for name, value in scores.items()}


# ---- The program --------------------------------------------------------------------


def work(job: Callable, *arguments) -> tuple[dict, Sheets]:
    """One job, in a process of its own, on one core."""
    torch.set_num_threads(1)
    return job(*arguments)


def settings_of(samples: int, seconds: float) -> dict:
    """What the whole file depends on."""
    return {
        "samples": samples,
        "seconds": seconds,
        "scored": SCORED,
        "loss_steps": list(LOSS_STEPS),
        "graded": list(GRADED),
    }


def jobs_of(samples: int, seconds: float) -> dict[tuple[str, str], tuple]:
    """{(part, name): (function, *its arguments)} for every row, in their order."""
    jobs = {}
    for name in TRAININGS:
        jobs["trainings", name] = (training_row, name, samples)
    for name in OTHERS:
        jobs["others", name] = (other_row, name, samples)
    for seed in SEEDS:
        jobs["capstone", str(seed)] = (capstone_row, seed, seconds)
    return jobs


def digests_of(samples: int, seconds: float) -> dict[str, dict[str, str]]:
    """{part: {name: the digest of the settings and the data of its row}}."""
    examined = {"samples": samples, "sheet": SHEET, "test": TEST, "ddpm": DDPM}
    trained = {"warm_up": WARM_UP, "p_drop": P_DROP}
    measured = {"held_out": HELD_OUT, "loss_steps": LOSS_STEPS, "graded": GRADED}
    scored = {"seconds": seconds, "scored": SCORED}
    version = {"version": VERSION}
    start = shipped.weights_file(START)
    digests = {"trainings": {}, "others": {}, "capstone": {}}
    for name, run in TRAININGS.items():
        run_itself = {"run": asdict(run)}
        settings = version | examined | trained | measured | run_itself
        digests["trainings"][name] = tables.digest(settings, [*shipped.RULER, start])
    for name in OTHERS:
        settings = version | examined | {"sampler": name}
        digests["others"][name] = tables.digest(settings, [*shipped.RULER, start])
    for seed in SEEDS:
        settings = {"version": CAPSTONE_VERSION} | scored | {"seed": seed}
        digests["capstone"][str(seed)] = tables.digest(settings, shipped.RULER)
    return digests


def make_rows(content: dict, samples: int, seconds: float, out: Path, workers: int):
    """Make the rows that are missing, and write each as soon as it is done."""
    jobs = jobs_of(samples, seconds)
    digests = digests_of(samples, seconds)
    wanted = {}
    for part, planned in digests.items():
        for name in tables.missing(content[part], planned, "digest"):
            wanted[part, name] = jobs[part, name]
    machine = tables.machine(torch.device("cpu"))
    sheets = out.with_name("results") / f"{out.stem}.npz"
    for (part, name), (row, shown) in tables.side_by_side(work, wanted, workers):
        row["digest"] = digests[part][name]
        tables.add_row(content[part], name, row, digests[part])
        tables.add_samples(sheets, shown)
        tables.write_json(out, content | {"machine": machine})
        print(name, row, flush=True)


def main() -> None:
    parser = tables.command_line(__doc__, WEIGHTS / "clinic.json")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="of each run of the capstone"
    )
    parser.add_argument(
        "--samples", type=int, default=SAMPLES, help="that a report is about"
    )
    options = tables.parsed(parser)
    settings = settings_of(options.samples, options.seconds)
    empty = {
        "floor": None,
        "capstone_floor": None,
        "numbers": numbered(),
        "trainings": {},
        "others": {},
        "capstone": {},
    }
    content = tables.so_far(options.out, settings, parser, **empty)
    if content["floor"] is None:
        content["floor"] = floor(options.samples)
        content["capstone_floor"] = capstone_floor()
    make_rows(content, options.samples, options.seconds, options.out, options.workers)


if __name__ == "__main__":
    main()
