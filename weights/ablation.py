"""What single settings of the training are worth: `python weights/ablation.py` (about half an hour on two cores).

Trains one small ContextUnet (32 features, no labels) for each row of CHANGES, on as many pictures each, and writes weights/ablation.json.
A row that is there already is kept, so an interrupted run goes on where it stopped; remove the file to start again.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from make_results import mean_and_error  # noqa: E402
from train import write_json  # noqa: E402

import diffusion_utilities as du  # noqa: E402  (found beside this folder)

# (learning rate, batch, gamma of min-SNR or None); the first has the published settings
CHANGES = ((1e-3, 100, None), (2e-3, 100, None), (4e-3, 100, None), (1e-3, 50, None), (2e-3, 50, None), (2e-3, 100, 5.0))
FEATURES, PICTURES, WARM_UP, SEED = 32, 100_000, 50, 1
LOSS_STEPS, HELD_OUT, SAMPLES, SAMPLING_STEPS = (5, 20, 50, 100, 200, 300, 400), 600, 128, 50


def train(learning_rate: float, batch: int, min_snr: float | None, pictures: int) -> torch.nn.Module:
    """A learning rate that rises over the first WARM_UP steps and then falls linearly to 0."""
    torch.manual_seed(SEED)
    generator, schedule, x = torch.Generator().manual_seed(SEED), du.NoiseSchedule.linear(), du.load_sprites("train").x
    model = du.ContextUnet(3, FEATURES, 5, 16).to(memory_format=torch.channels_last)
    optimiser, steps = torch.optim.Adam(model.parameters(), learning_rate, fused=True), pictures // batch
    for i in du.tqdm(range(steps), mininterval=5):
        optimiser.param_groups[0]["lr"] = learning_rate * min(1 - i / steps, (i + 1) / WARM_UP)
        rows = torch.randint(len(x), (batch,), generator=generator)
        loss = du.diffusion_loss(model, x[rows], schedule, None, generator, min_snr)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def score(model: torch.nn.Module, samples: int) -> dict:
    """Held-out loss without weights at LOSS_STEPS, and the distance of samples to the nearest legal sprite."""
    schedule, x = du.NoiseSchedule.linear(), du.load_sprites("test").x[:HELD_OUT]
    losses = du.denoising_losses(model, x, schedule, LOSS_STEPS).mean(1)
    generator = torch.Generator().manual_seed(4)
    drawn, _ = du.sample_ddpm(model, schedule, (samples, 3, 16, 16), steps=SAMPLING_STEPS, variance="beta_tilde", generator=generator, keep=1)
    _, distances = du.sprite_factory().decode(du.to_pictures(drawn))
    return {"held_out_loss": {str(t): round(float(loss), 4) for t, loss in zip(LOSS_STEPS, losses)}, "legal_distance": mean_and_error(distances)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "ablation.json")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="training pictures a row (with repetitions)")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    options = parser.parse_args()
    if options.out.resolve() == HERE / "ablation.json" and (options.pictures, options.samples) != (PICTURES, SAMPLES):
        parser.error("these settings would overwrite the shipped results; add --out FILE")
    settings = {"features": FEATURES, "pictures": options.pictures, "held_out": HELD_OUT, "samples": options.samples}
    content = json.loads(options.out.read_text(encoding="utf8")) if options.out.exists() else {"settings": settings, "runs": []}
    if content["settings"] != settings:
        parser.error(f"{options.out} has other settings ({content['settings']}); remove it or give another --out")
    done = {(row["learning_rate"], row["batch"], row["min_snr"]) for row in content["runs"]}
    for learning_rate, batch, min_snr in CHANGES:
        if (learning_rate, batch, min_snr) in done:
            continue
        started = time.perf_counter()
        row = {"learning_rate": learning_rate, "batch": batch, "min_snr": min_snr} | score(
            train(learning_rate, batch, min_snr, options.pictures), options.samples
        )
        content["runs"].append(row | {"seconds": round(time.perf_counter() - started)})
        write_json(options.out, content)


if __name__ == "__main__":
    main()
