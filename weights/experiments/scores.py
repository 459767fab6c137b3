"""Score a thousand pictures a row: `python weights/experiments/scores.py`.

Writes weights/scores.json: every measure of `sprite_scores`, with its 95 % interval,
of real sprites, of spoilt ones, and of samples: of each epoch, of faulty samplers, and
of several samplers in few steps. It takes about two hours on two cores. A row that was
made with these settings and these data is kept, so an interrupted program continues
where it stopped.
"""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import faults
from shipped import (
    BATCH,
    RESTARTS,
    RULER,
    SCHEDULE,
    contexts,
    ddim,
    ddpm,
    draw_batches,
    multistep,
    pure_noise,
    real_sets,
    shipped_network,
    weights_file,
)
from tables import command_line, digest, fill, parsed, stored

import diffusion_utilities as du  # found two folders up

VERSION = 1  # raise it when the code makes other rows with the same settings
N = 1000
SEED = 4
EPOCHS_STEPS = 50  # of DDIM: good enough for a curve over epochs
# DDPM whose last step is that of a run of 500 steps, from t = 1.
LAST_FROM_1 = [*du.sampling_steps(100, 500)[:-1], 1, 0]


def ddpm_in_train_mode(model, schedule, **options):
    """DDPM that forgot `model.eval()`. Lesson 4."""
    return ddpm(faults.batch_statistics(model), schedule, **options)


SAMPLERS = {
    "DDPM": ddpm,
    "DDIM": ddim,
    "multistep": multistep,
    "noise in the last step": faults.noise_in_the_last_step,
    "beta_0 kept": faults.beta_0_kept,
    "wrapped stride": faults.wrapped_stride,
    "no noise added": faults.no_noise_added,
    "train mode": ddpm_in_train_mode,
}
STARTS = {"pure noise": pure_noise, "noised sprites": faults.noised_sprites}


@dataclass(frozen=True)
class Row:
    """What N samples are drawn with.

    weights: shipped ones, or "ideal": the ideal denoiser. sampler: one of SAMPLERS,
    with its options. start: one of STARTS.
    """

    weights: str
    sampler: str
    options: dict = field(default_factory=dict)
    seed: int = SEED
    start: str = "pure noise"


# Samplers by the names that the table gives them.
LABELS = {
    "DDPM": ("DDPM", {}),
    "DDPM, tilde": ("DDPM", {"variance": "beta_tilde"}),
    "DDIM, eta 0.5": ("DDIM", {"eta": 0.5}),
    "DDIM": ("DDIM", {}),
    "DPM-Solver++(2M)": ("multistep", {"solver": "2m"}),
    "iPNDM": ("multistep", {"solver": "ipndm"}),
}


def labelled(weights: str, label: str, steps: int) -> Row:
    """A row of one of LABELS in so many steps."""
    sampler, options = LABELS[label]
    return Row(weights, sampler, {**options, "steps": steps})


def epoch_rows() -> dict[str, Row]:
    """The epochs of the network without labels, and the network with labels."""
    names = ("model_4", "model_12", "model_24", "model_31")
    names += ("model_trained", "context_model_trained")
    return {name: labelled(name, "DDIM", EPOCHS_STEPS) for name in names}


def ddpm_rows() -> dict[str, Row]:
    """DDPM in 500 steps, and with restarts.

    The run of 495 steps makes as many calls as the one with restarts, but never goes
    back.
    """
    without = {**RESTARTS, "steps": 495}
    rows = {}
    rows["model_31, DDPM-500"] = Row("model_31", "DDPM")
    rows["model_31, DDPM-495"] = Row("model_31", "DDPM", without)
    rows["model_31, restarts"] = Row("model_31", "DDPM", RESTARTS)
    return rows


def fault_rows() -> dict[str, Row]:
    """Faulty samplers, with epoch 31.

    Before a fault stands the row that it is to be compared with; for the last three
    that is "model_31, DDPM, tilde-100".
    """
    from_1 = {"steps": LAST_FROM_1}
    thirty = {"steps": 30}
    hundred = {"steps": 100, "variance": "beta_tilde"}
    rows = {}

    def add(name, sampler, options, **changed):
        rows[f"model_31, {name}"] = Row("model_31", sampler, options, **changed)

    add("last step from 1", "DDPM", {**from_1, "variance": "beta_tilde"})
    add("noise in the last step", "noise in the last step", from_1)
    add("beta_0 kept", "beta_0 kept", from_1)
    add("DDIM-30", "DDIM", thirty)
    add("DDIM-30, wrapped", "wrapped stride", thirty)
    add("no noise added", "no noise added", hundred)
    add("train mode", "train mode", hundred)
    add("from noised sprites", "DDPM", hundred, start="noised sprites")
    return rows


def rows_of(name: str, weights: str, plan: dict) -> dict[str, Row]:
    """The rows {"name, label-steps": Row} of a plan {label: numbers of steps}."""
    rows = {}
    for label, counts in plan.items():
        for steps in counts:
            rows[f"{name}, {label}-{steps}"] = labelled(weights, label, steps)
    return rows


def few_step_rows() -> dict[str, Row]:
    """Epoch 31 with several samplers: quality against the number of calls."""
    plan = {
        "DDPM, tilde": (10, 20, 50, 100),
        "DDIM, eta 0.5": (10, 20, 50, 100),
        "DDIM": (5, 10, 20, 100),
        "DPM-Solver++(2M)": (5, 10, 20, 50),
        "iPNDM": (5, 10, 20, 50),
    }
    return rows_of("model_31", "model_31", plan)


def ideal_rows() -> dict[str, Row]:
    """The ideal denoiser, with three of the samplers."""
    plan = {"DDPM, tilde": (20,), "DDIM": (10, 20), "DPM-Solver++(2M)": (10,)}
    return rows_of("ideal", "ideal", plan)


ROWS = {
    **epoch_rows(),
    **ddpm_rows(),
    **fault_rows(),
    **few_step_rows(),
    **ideal_rows(),
}


def ideal_denoiser(x, t, c=None):
    """The ideal denoiser, called as samplers call a network. Lesson 4."""
    shares = du.load_sprites("train").c.sum(0).numpy()
    step = round(float(t.flatten()[0]) * SCHEDULE.T)
    ab = float(SCHEDULE.ab[step])
    noise = du.sprite_scoring().ideal_noise(x.numpy(), ab, shares)
    return torch.from_numpy(noise)


def samples(row: Row, n: int) -> np.ndarray:
    """n pictures of a row (n, 16, 16, 3) uint8, each class in turn."""
    model = ideal_denoiser
    if row.weights != "ideal":
        model = shipped_network(row.weights)
    draw = SAMPLERS[row.sampler]
    start = STARTS[row.start]
    context = contexts(row.weights, n)
    return draw_batches(
        model, n, draw, seed=row.seed, context=context, start=start, **row.options
    )


def row_digest(row: Row, n: int) -> str:
    """The digest of a row of samples: its settings, its weights, and the ruler."""
    settings = {"version": VERSION, "n": n, "batch": BATCH, **asdict(row)}
    files = [*RULER]
    if row.weights != "ideal":
        files.append(weights_file(row.weights))
    return digest(settings, files)


def real_digest(name: str, n: int) -> str:
    """The digest of a row of real sprites."""
    return digest({"version": VERSION, "n": n, "set": name}, RULER)


def write_scores(path: Path, n: int = N) -> None:
    """Score what is missing in the file at this path."""
    empty = {"n": n, "sampler": f"DDIM-{EPOCHS_STEPS}", "real": {}, "samples": {}}
    content = stored(path, empty)
    sets = real_sets(n)
    real_digests = {name: real_digest(name, n) for name in sets}
    fill(path, content, "real", real_digests, lambda name: du.sprite_scores(sets[name]))

    def score(name):
        row = ROWS[name]
        return du.sprite_scores(samples(row, n), contexts(row.weights, n))

    digests = {name: row_digest(row, n) for name, row in ROWS.items()}
    fill(path, content, "samples", digests, score)


def main() -> None:
    parser = command_line(__doc__, du.WEIGHTS / "scores.json", workers=False)
    write_scores(parsed(parser).out)


if __name__ == "__main__":
    main()
