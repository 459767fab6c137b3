"""Draw the sheets that the lessons show: `python weights/experiments/sheets.py`.

Writes weights/results/*.npz, 64 pictures a sheet, and weights/results.json: scores of
each sheet, and the held-out loss of each epoch. It takes about half an hour on two
cores. A sheet that was drawn with these settings and these weights is kept, so an
interrupted program continues where it stopped.
"""

import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from shipped import (
    RESTARTS,
    SCHEDULE,
    contexts,
    ddim,
    ddpm,
    draw_batches,
    multistep,
    shipped_network,
    weights_file,
)
from tables import (
    command_line,
    digest,
    mean_and_error,
    parsed,
    stored_arrays,
    write_json,
)

import diffusion_utilities as du  # found two folders up

VERSION = 1  # raise it when the code draws other pictures with the same settings
N = 64
SEED = 4
EPOCHS = (0, 4, 12, 24, 31)
LOSS_STEPS = tuple(range(25, 500, 50))  # evenly over all t, as training draws them
SAMPLERS = {"DDPM": ddpm, "DDIM": ddim, "multistep": multistep}


@dataclass(frozen=True)
class Sheet:
    """What a sheet is drawn with: shipped weights, one of SAMPLERS, its options."""

    weights: str
    sampler: str = "DDPM"
    options: dict = field(default_factory=dict)


EPOCH_SHEETS = {f"model_{epoch}": Sheet(f"model_{epoch}") for epoch in EPOCHS}
WEIGHT_SHEETS = {
    **EPOCH_SHEETS,
    "model_trained": Sheet("model_trained"),
    "context_model_trained": Sheet("context_model_trained"),
}


def sampler_sheets() -> dict[str, Sheet]:
    """The sheets of lesson 5: several samplers in 500 to 5 steps.

    The multistep samplers are made for few steps, and draw with 50 at most. DDPM in
    500 steps is the sheet of `model_trained` itself.
    """
    labels = {
        "ddpm": ("DDPM", {}),
        "ddpm_tilde": ("DDPM", {"variance": "beta_tilde"}),
        "ddim": ("DDIM", {}),
        "2m": ("multistep", {"solver": "2m"}),
        "ipndm": ("multistep", {"solver": "ipndm"}),
    }
    sheets = {}
    for steps in (500, 100, 50, 20, 10, 5):
        for label, (sampler, options) in labels.items():
            if sampler != "multistep" or steps <= 50:
                sheet = Sheet("model_trained", sampler, {**options, "steps": steps})
                sheets[f"{label}_{steps}"] = sheet
    sheets["ddpm_500"] = WEIGHT_SHEETS["model_trained"]
    return sheets


RESTARTS_SHEET = Sheet("model_31", "DDPM", RESTARTS)
SAMPLER_SHEETS = sampler_sheets()


def file_name(name: str) -> str:
    """The file of a sheet, without its ending."""
    return "model_trained" if name == "ddpm_500" else name


def drawn_with(sheet: Sheet) -> str:
    """The digest of a sheet's settings and weights."""
    settings = {"version": VERSION, "n": N, "seed": SEED, **asdict(sheet)}
    return digest(settings, [weights_file(sheet.weights)])


def stored_sheet(path: Path, sheet: Sheet) -> dict[str, np.ndarray]:
    """A sheet {"pictures", "seconds", "drawn_with"}; it is drawn where it is missing.

    pictures: (N, 16, 16, 3) uint8.
    """
    wanted = drawn_with(sheet)
    if path.exists():
        content = stored_arrays(path)
        if str(content["drawn_with"]) == wanted:
            return content
    model = shipped_network(sheet.weights)
    started = time.perf_counter()
    pictures = draw_batches(
        model,
        N,
        SAMPLERS[sheet.sampler],
        seed=SEED,
        context=contexts(sheet.weights, N),
        **sheet.options,
    )
    seconds = round(time.perf_counter() - started, 2)
    content = {
        "pictures": pictures,
        "seconds": np.array(seconds),
        "drawn_with": np.array(wanted),
    }
    with du.written_whole(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **content)
    print(f"{path.name}: {seconds:.0f} s", flush=True)
    return content


def scores(pictures: np.ndarray) -> dict:
    """How legal pictures (N, 16, 16, 3) uint8 are, and how near to training."""
    train = du.load_sprites("train").images
    scoring = du.sprite_scoring()
    specifications, distances = du.sprite_factory().decode(pictures)
    legal = scoring.are_legal(pictures, specifications)
    nearest, _ = du.nearest_pictures(pictures, train)
    return {
        "legal": int(legal.sum()),
        "legal_distance": mean_and_error(distances),
        "palette_distance": mean_and_error(scoring.palette_distance(pictures)),
        "nearest_training_picture": mean_and_error(nearest),
    }


def sheet_row(folder: Path, name: str, sheet: Sheet) -> dict:
    """The row of a sheet in results.json."""
    content = stored_sheet(folder / f"{file_name(name)}.npz", sheet)
    seconds = float(content["seconds"])
    return {"n": N, "seconds": seconds, **scores(content["pictures"])}


def epoch_losses(pictures: int = 300) -> dict:
    """Held-out losses of each epoch at each step, and their weighted mean ("all").

    The weights are those of min-SNR with gamma 5, as in the training. Epochs 24 and
    31 are compared picture by picture, too. All numbers have standard errors.
    """
    x = du.load_sprites("test").x[:pictures]
    x = x.contiguous(memory_format=torch.channels_last)
    weights = (5 / SCHEDULE.snr[list(LOSS_STEPS)]).clamp(max=1)[:, None]
    losses = {}
    for epoch in (*EPOCHS, "trained"):
        model = shipped_network(f"model_{epoch}")
        losses[epoch] = du.denoising_losses(model, x, SCHEDULE, steps=LOSS_STEPS)
    table = {}
    for epoch, rows in losses.items():
        table[str(epoch)] = {"all": mean_and_error((weights * rows).mean(0))}
        for t, row in zip(LOSS_STEPS, rows):
            table[str(epoch)][str(t)] = mean_and_error(row)
    difference = (weights * (losses[24] - losses[31])).mean(0)
    return {
        "pictures": len(x),
        "steps": LOSS_STEPS,
        "losses": table,
        "24_minus_31": mean_and_error(difference),
    }


def main() -> None:
    parser = command_line(__doc__, du.WEIGHTS / "results.json", workers=False)
    out = parsed(parser).out
    folder = out.with_name("results")
    real = du.load_sprites("test").images[:N]
    results = {"real_test": {"n": N, **scores(real)}, "sheets": {}, "samplers": {}}
    for name, sheet in WEIGHT_SHEETS.items():
        results["sheets"][name] = sheet_row(folder, name, sheet)
    results["restarts"] = sheet_row(folder, "restarts", RESTARTS_SHEET)
    for name, sheet in SAMPLER_SHEETS.items():
        results["samplers"][name] = sheet_row(folder, name, sheet)
    results["epochs"] = epoch_losses()
    write_json(out, results)


if __name__ == "__main__":
    main()
