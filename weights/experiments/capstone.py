"""The reference of lesson 17's capstone: how it trains, draws and is scored.

The program clinic.py runs it with three seeds. The lesson has these three functions in
cells of their own, as code that the learner changes.
"""

import time

import torch

from diffusion_utilities import (
    ContextUnet,
    NoiseSchedule,
    average_weights,
    diffusion_loss,
    frechet_distance,
    load_sprites,
    sample_ddpm,
    sprite_factory,
    sprite_features,
    sprite_scoring,
    to_pictures,
)


def train_for(seconds, seed, clock=time.process_time):
    """Train for so many seconds; returns (model, the loss of each step).

    Change what you like except the clock.
    """
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    schedule = NoiseSchedule.linear()
    sprites = load_sprites("train").x
    model = ContextUnet(3, 32, 5, 16).to(memory_format=torch.channels_last)
    average = average_weights(model, 0.99)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    losses = []
    start = clock()
    while True:
        share = (clock() - start) / seconds  # of the time that is gone
        if share >= 1:
            break
        warm_up = min((len(losses) + 1) / 50, 1)
        optimiser.param_groups[0]["lr"] = 2e-3 * warm_up * (1 - share)
        rows = torch.randint(len(sprites), (50,), generator=g)
        loss = diffusion_loss(model, sprites[rows], schedule, generator=g)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        average.update_parameters(model)
        losses.append(loss.item())
    return average.module.eval(), losses


def draw_samples(model, n, g):
    """Draw n pictures (n, 3, 16, 16) from a model: DDPM in 50 steps."""
    schedule = NoiseSchedule.linear()
    parts = []
    for start in range(0, n, 100):
        size = min(100, n - start)
        x, _ = sample_ddpm(
            model,
            schedule,
            shape=(size, 3, 16, 16),
            steps=50,
            generator=g,
            variance="beta_tilde",
            clip=True,
            keep=0,
        )
        parts.append(x)
    return torch.cat(parts)


def score(model, draw=draw_samples, n=500, seed=0):
    """FD, legal share and distance to legal sprites of n samples with this seed."""
    scoring = sprite_scoring()
    pictures = to_pictures(draw(model, n, torch.Generator().manual_seed(seed)))
    real = load_sprites("train").images
    decoded, distances = sprite_factory().decode(pictures)
    legal = scoring.are_legal(pictures, decoded)
    return {
        "FD": frechet_distance(sprite_features(pictures), sprite_features(real)),
        "legal": legal.mean(),
        "distance": distances.mean(),
    }
