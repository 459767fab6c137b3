"""The reference of lesson 17's capstone: how it trains, draws and is scored.

The program clinic.py runs it with three seeds. The lesson has these three functions in
cells of their own, as code that the learner changes.
"""

import time

import torch

from diffusion_utilities import (
    Muon,
    NoiseSchedule,
    SpriteUnet,
    average_weights,
    diffusion_loss,
    frechet_distance,
    load_sprites,
    sample_ddpm,
    sprite_factory,
    sprite_features,
    sprite_palette,
    sprite_scoring,
    straight_frequencies,
    straight_steps,
    to_pictures,
)


def train_for(seconds, seed, clock=time.process_time):
    """Train for so many seconds; returns (model, the loss of each step)."""
    torch.manual_seed(seed)
    sprites = load_sprites("train").x
    schedule = NoiseSchedule.linear()
    often = straight_frequencies(schedule, even=0.25)
    model = SpriteUnet(schedule, sprite_palette(), channels=(32, 64, 96), doubt=0.3)
    average = average_weights(model, 0.99)
    optimiser = Muon(model.named_parameters(), adam=("stem", "out"))
    rates = [group["lr"] for group in optimiser.param_groups]
    losses = []
    start = clock()
    while (share := (clock() - start) / seconds) < 1:  # of the time that is gone
        for group, rate in zip(optimiser.param_groups, rates):
            group["lr"] = rate * min(2 * (1 - share), 1)
        rows = torch.randint(len(sprites), (32,))
        loss = diffusion_loss(model, sprites[rows], schedule, frequencies=often)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        average.update_parameters(model)
        losses.append(loss.item())
    return average.module.eval(), losses


def draw_samples(model, n, g):
    """Draw n pictures (n, 3, 16, 16) from a model: DDPM in 20 steps."""
    schedule = NoiseSchedule.linear()
    pictures, _ = sample_ddpm(
        model,
        schedule,
        shape=(n, 3, 16, 16),
        steps=straight_steps(schedule, 20),
        generator=g,
        variance="beta_tilde",
        keep=0,
    )
    return pictures


def score(model, draw=draw_samples, n=500, seed=0):
    """FD, legal share and distance to legal sprites of n samples with this seed."""
    pictures = to_pictures(draw(model, n, torch.Generator().manual_seed(seed)))
    real = load_sprites("train").images
    decoded, distances = sprite_factory().decode(pictures)
    legal = sprite_scoring().are_legal(pictures, decoded)
    return {
        "FD": frechet_distance(sprite_features(pictures), sprite_features(real)),
        "legal": legal.mean(),
        "distance": distances.mean(),
    }
