"""Draw and score again what the lessons show as stored results: `python weights/make_results.py` (about 20 minutes on two cores).

Writes weights/results/*.npz (pictures, uint8) and weights/results.json (numbers). A sheet that is already there for the same weights is kept,
so an interrupted run goes on where it stopped.
"""

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import diffusion_utilities as du  # noqa: E402  (found beside this folder)

EPOCHS = (0, 4, 8, 12, 16, 24, 31)
SHEETS = (*(f"model_{epoch}" for epoch in EPOCHS), "model_trained", "context_model_trained")
SAMPLERS = {
    "ddpm": (du.sample_ddpm, {}),
    "ddpm_tilde": (du.sample_ddpm, {"variance": "beta_tilde"}),
    "ddim": (du.sample_ddim, {}),
    "2m": (du.sample_multistep, {"solver": "2m"}),
    "ipndm": (du.sample_multistep, {"solver": "ipndm"}),
}
SAMPLER_STEPS = (500, 100, 50, 20, 10, 5)
MULTISTEP_UP_TO = 50  # they are made for few steps
LOSS_STEPS = tuple(range(25, 500, 50))  # evenly over all t, as training draws them
SEED, N = 4, 64


def network(name: str) -> torch.nn.Module:
    return du.load_weights(du.ContextUnet(3, 64, 5, 16), HERE / f"{name}.pth").to(memory_format=torch.channels_last)


def stored(name: str, weights: str, draw) -> dict[str, np.ndarray]:
    """results/{name}.npz, drawn again only when the weights or the settings it was drawn with have changed."""
    path, settings = HERE / "results" / f"{name}.npz", repr((SEED, N, name)).encode()
    digest = hashlib.sha256((HERE / f"{weights}.pth").read_bytes() + settings).hexdigest()
    if path.exists():
        with np.load(path) as file:
            content = dict(file)
        if str(content["drawn_with"]) == digest:
            return content
    started = time.perf_counter()
    pictures = draw(network(weights))
    content = {"pictures": pictures, "seconds": np.array(round(time.perf_counter() - started, 2)), "drawn_with": np.array(digest)}
    with du._written_whole(path) as temporary:
        np.savez_compressed(temporary, **content)
    print(f"{name}: {float(content['seconds']):.0f} s", flush=True)
    return content


def contexts(name: str) -> torch.Tensor | None:
    """Each class in turn for the weights that were trained with labels."""
    return torch.eye(5)[torch.arange(N) % 5] if name.startswith("context") else None


def sampled(name: str, sample, **options):
    """A drawing function for `stored`: N pictures, always from the same x_T and with the same noise."""

    def draw(model):
        generator = torch.Generator().manual_seed(SEED)
        x, _ = sample(model, du.NoiseSchedule.linear(), (N, 3, 16, 16), context=contexts(name), generator=generator, keep=2, **options)
        return du.to_pictures(x)

    return draw


def mean_and_error(values) -> dict[str, float]:
    values = np.asarray(values, dtype=np.float64)
    return {"mean": round(float(values.mean()), 5), "standard_error": round(float(values.std(ddof=1) / len(values) ** 0.5), 5)}


def scores(pictures: np.ndarray, train: np.ndarray) -> dict:
    factory = du.sprite_factory()
    specifications, distances = factory.decode(pictures)
    return {
        "legal": int(factory.are_legal(pictures, specifications).sum()),
        "legal_distance": mean_and_error(distances),
        "palette_distance": mean_and_error(factory.palette_distance(pictures)),
        "nearest_training_picture": mean_and_error(du.nearest_pictures(pictures, train)[0]),
    }


def epoch_losses(test: du.Sprites) -> dict:
    """Held-out loss of each epoch at each step, their weighted mean ("all"), and epochs 24 minus 31, paired; all with standard errors."""
    x = test.x[:300].contiguous(memory_format=torch.channels_last)
    losses = {epoch: du.denoising_losses(network(f"model_{epoch}"), x, du.NoiseSchedule.linear(), LOSS_STEPS) for epoch in EPOCHS}
    losses["trained"] = du.denoising_losses(network("model_trained"), x, du.NoiseSchedule.linear(), LOSS_STEPS)
    snr = du.NoiseSchedule.linear().snr[list(LOSS_STEPS)]
    weights = (5 / snr).clamp(max=1)[:, None]  # min-SNR, as the network was trained
    table = {
        str(epoch): {"all": mean_and_error((weights * rows).mean(0))} | {str(t): mean_and_error(row) for t, row in zip(LOSS_STEPS, rows)}
        for epoch, rows in losses.items()
    }
    return {"pictures": len(x), "steps": LOSS_STEPS, "losses": table, "24_minus_31": mean_and_error((weights * (losses[24] - losses[31])).mean(0))}


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    train, test = du.load_sprites("train"), du.load_sprites("test")
    results = {"real_test": {"n": N} | scores(test.images[:N], train.images), "sheets": {}, "samplers": {}}
    for name in SHEETS:
        sheet = stored(name, name, sampled(name, du.sample_ddpm))
        results["sheets"][name] = {"n": N, "seconds": float(sheet["seconds"])} | scores(sheet["pictures"], train.images)
    for steps in SAMPLER_STEPS:
        for label, (sample, options) in SAMPLERS.items():
            if sample is du.sample_multistep and steps > MULTISTEP_UP_TO:
                continue
            name = f"{label}_{steps}" if (label, steps) != ("ddpm", 500) else "model_trained"
            sheet = stored(name, "model_trained", sampled(name, sample, steps=steps, **options))
            results["samplers"][f"{label}_{steps}"] = {"n": N, "seconds": float(sheet["seconds"])} | scores(sheet["pictures"], train.images)
    results["epochs"] = epoch_losses(test)
    with du._written_whole(HERE / "results.json") as temporary:
        Path(temporary).write_text(json.dumps(results, indent=1) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
