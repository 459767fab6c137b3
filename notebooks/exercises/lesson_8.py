"""The judges of lesson 8's exercises (they spoil them)."""

import functools

import torch
from diffusers import DDIMScheduler, DDPMScheduler

from diffusion_utilities import (
    WEIGHTS,
    ContextUnet,
    NoiseSchedule,
    load_weights,
    sample_ddim,
    sample_ddpm,
    sampling_steps,
)
from exercises import Wrong, compare, exercise, guessed, normal, seeded, tried

OURS = NoiseSchedule.linear()
RIGHT = {
    "num_train_timesteps": 500,
    "trained_betas": OURS.b[1:].numpy(),
    "clip_sample": False,
    "timestep_spacing": "trailing",
}
# Section 7's first table: the settings of each scheduler, and how far the index is off
CONVENTIONS = {
    "ask at k, not k + 1": (RIGHT, -1),
    "timestep_spacing leading": (RIGHT | {"timestep_spacing": "leading"}, 0),
    "timestep_spacing linspace": (RIGHT | {"timestep_spacing": "linspace"}, 0),
    "clip_sample": (RIGHT | {"clip_sample": True}, 0),
    "their betas": (
        {
            "num_train_timesteps": 500,
            "clip_sample": False,
            "timestep_spacing": "trailing",
        },
        0,
    ),
    "1,000 steps": ({"clip_sample": False, "timestep_spacing": "trailing"}, 0),
}


@exercise(
    "8.1",
    "Which `beta_end` would 500 steps need to leave no more than 1,000 do? Lesson 2 has the answer.",
)
def leak(attempt):
    for T in (500, 1000):
        scheduler = DDPMScheduler(T)
        ab = scheduler.alphas_cumprod.double()
        mistakes = {
            "is the root missing? alpha-bar is the share of the *variance*.": ab[-1],
            "that is the cleanest step; their last entry is the noisiest.": ab[
                0
            ].sqrt(),
            "that is alpha-bar at the cleanest step; the noisiest is the last one, and a root is missing.": ab[
                0
            ],
            "that is the noise's factor; the picture's is the root of alpha-bar.": (
                1 - ab[-1]
            ).sqrt(),
            "that is one step's alpha; `alphas_cumprod` holds their product.": scheduler.alphas[
                -1
            ].sqrt(),
            "that is one step's alpha, without its root; `alphas_cumprod` holds their product.": scheduler.alphas[
                -1
            ],
        }
        compare(tried(attempt, scheduler), ab[-1].sqrt(), mistakes, f"for {T:,} steps")


@exercise(
    "8.2",
    "Ask their own `add_noise` for k = -1: what does a picture look like that should be clean?",
)
def add_noise(attempt):
    theirs, noise = DDPMScheduler(**RIGHT), normal(3, 3, 16, 16, seed=0)
    ones, table = torch.ones_like(noise), theirs.alphas_cumprod
    for steps in ((1, 1, 1), (100, 100, 100), (1, 250, 500), (0, 0, 0), (0, 7, 500)):
        t = torch.tensor(steps)
        where = (
            f"at t = {steps[0]}"
            if len(set(steps)) == 1
            else "with another t for each picture"
        )
        wrapped, off, first = (
            table[k].view(-1, 1, 1, 1)
            for k in (t - 1, t.clamp(max=499), (t - 1).clamp(min=0))
        )  # t - 1 = -1: the last entry
        right = torch.where(t.view(-1, 1, 1, 1) > 0, wrapped, torch.ones(()))
        mistakes = {
            "is the square root on the noise missing?": (1 - right) * noise,
            "k = -1 is the *last* entry of their table, the noisiest; the clean picture is a case of its own.": (
                1 - wrapped
            ).sqrt()
            * noise,
            "that is k = 0, the first step of noise; the clean picture, alpha-bar 1, is a case of its own.": (
                1 - first
            ).sqrt()
            * noise,
            "is the noise added at all?": 0 * noise,
        }
        if (
            min(steps) > 0
        ):  # at t = 0 that index is right for what comes before the first step
            mistakes[
                "the table was read at k = t, one step too noisy: their k is our t - 1."
            ] = (1 - off).sqrt() * noise
        mine = tried(attempt, theirs, 0 * ones, noise, t)
        compare(
            mine,
            (1 - right).sqrt() * noise,
            mistakes,
            where,
            1e-4,
            lambda r: (r.std(), "your noise has std"),
        )
        signal = {
            "is the square root on the picture missing?": right * ones,
            "the picture is not shrunk: it needs the root of alpha-bar.": ones,
        }
        mine = tried(attempt, theirs, ones, 0 * noise, t)
        compare(
            mine,
            right.sqrt() * ones,
            signal,
            where,
            1e-4,
            lambda r: (r.mean(), "your picture of ones became"),
        )


@exercise(
    "8.3",
    "Give it n = 30 and their last k, 16: where does that step end, and what is left in the picture?",
)
def ddim_step(attempt):
    theirs = DDIMScheduler(**RIGHT)
    x, noise = normal(2, 2, 3, 16, 16, seed=1)
    table = torch.cat(
        (theirs.alphas_cumprod, torch.ones(1))
    ).double()  # here -1 is the clean picture

    def step(k, lower, at=table):
        x0 = (x - (1 - at[k]).sqrt() * noise) / at[k].sqrt()
        return at[lower].sqrt() * x0 + (1 - at[lower]).sqrt() * noise

    def unrooted(k, lower):
        x0 = (x - (1 - table[k]) * noise) / table[k]
        return table[lower] * x0 + (1 - table[lower]) * noise

    for n, k in ((20, 249), (50, 249), (30, 249), (20, 24), (30, 16)):
        stride = 500 // n
        lower = k - stride
        theirs.set_timesteps(n)
        x0 = (x - (1 - table[k]).sqrt() * noise) / table[k].sqrt()
        mistakes = {
            "index -1 of `alphas_cumprod` is its *last* entry, the noisiest; below 0 alpha-bar is 1.": step(
                k, 499 if lower < 0 else lower
            ),
            "the step goes to the neighbour, k - 1; with n steps it reaches T // n down.": step(
                k, k - 1
            ),
            "the step reaches n down; with n steps it reaches T // n down.": step(
                k, max(k - n, -1)
            ),
            "the step reaches T / n rounded, where theirs rounds down.": step(
                k, max(k - round(500 / n), -1)
            ),
            "below 0 alpha-bar is 1, the clean picture; you took that of k = 0.": step(
                k, max(lower, 0)
            ),
            "are the roots missing? `alphas_cumprod` holds alpha-bar.": unrooted(
                k, lower
            ),
            "this is the implied clean picture; it must be noised again, to the lower step.": x0,
            "the table was read at k + 1; their k is the index as it stands.": step(
                k + 1, lower + 1
            ),
            "the table was read at k - 1; their k is the index as it stands.": step(
                k - 1, lower - 1
            ),
            "the step goes up: k + T // n is noisier.": step(k, k + stride),
            "x_0 is not divided by the root of alpha-bar.": step(k, lower)
            + table[lower].sqrt() * x0 * (table[k].sqrt() - 1),
        }
        compare(
            tried(attempt, theirs, x, k, noise, n),
            theirs.step(noise, k, x).prev_sample,
            mistakes,
            f"from k = {k} with n = {n}",
            1e-3,
        )


def toy(x, t, c=None):
    """A made-up network whose implied clean picture lies in (-1, 1), so that a sampler that uses it comes to rest."""
    ab = OURS.ab[(t * OURS.T).round().long()].to(x).view(-1, 1, 1, 1)
    x0 = torch.tanh(3 * (x + 0.5 * x.roll(1, 3)) * ab.sqrt() + 0.2)
    return (x - ab.sqrt() * x0) / (1 - ab).sqrt()


@exercise(
    "8.4",
    'Give their scheduler `variance_type="fixed_large"`: which word makes ours follow?',
)
def same_sprites(attempt):
    for seed in (5, 11):
        x_T, theirs = normal(2, 3, 16, 16, seed=seed + 1), DDPMScheduler(**RIGHT)
        theirs.set_timesteps(50)
        right, g = x_T, seeded(seed)
        for k in theirs.timesteps:
            right = theirs.step(
                toy(right, (k + 1).expand(2) / 500), k, right, generator=g
            ).prev_sample
        mine = tried(attempt, toy, OURS, x_T, seed)
        if isinstance(mine, tuple):
            raise Wrong(
                "your function returned a tuple: `sample_ddpm` gives the samples and the frames on the way; return the first, `[0]`."
            )

        if (
            not torch.is_tensor(mine)
            or mine.shape != right.shape
            or (mine - right).abs().max() < 0.02
        ):
            compare(mine, right, {}, f"with seed {seed}", 0.02)
            continue
        if not torch.equal(mine, tried(attempt, toy, OURS, x_T, seed)):
            raise Wrong(
                "two calls with the same x_T and seed differ: draw the fresh noise from a generator that is seeded in your function."
            )
        tilde = {"variance": "beta_tilde"}
        for sentence, sampler, steps, own_seed, options in (
            (
                "the variance differs: theirs is `fixed_small`, our beta-tilde, and ours is beta unless told otherwise.",
                sample_ddpm,
                50,
                seed,
                {},
            ),
            ("that is DDIM, which adds no fresh noise.", sample_ddim, 50, seed, {}),
            (
                "that is DDIM in 20 steps, which adds no fresh noise; theirs is DDPM in 50.",
                sample_ddim,
                20,
                seed,
                {},
            ),
            (
                "the implied x_0 was clipped; their scheduler here does not.",
                sample_ddpm,
                50,
                seed,
                tilde | {"clip": True},
            ),
            (
                "the seed is not the one that was given.",
                sample_ddpm,
                50,
                5 if seed != 5 else 0,
                tilde,
            ),
            ("that is all 500 steps; theirs takes 50.", sample_ddpm, 500, seed, tilde),
            (
                "that is all 500 steps, and the variance is beta; theirs takes 50, with beta-tilde.",
                sample_ddpm,
                500,
                seed,
                {},
            ),
        ):  # one after the other: the long ones are not drawn if a short one says it
            g = seeded(own_seed)
            wrong = sampler(
                toy, OURS, x_T=x_T, steps=steps, generator=g, keep=0, **options
            )[0]
            if torch.allclose(mine, wrong, rtol=0, atol=1e-4):
                compare(mine, right, {sentence: wrong}, f"with seed {seed}", 0.01)
        compare(mine, right, {}, f"with seed {seed}", 0.02)


@exercise(
    "8.5",
    "Run the table and look at the rows: would you have seen any of the others in a picture?",
)
def costliest(attempt):
    guess = guessed(
        attempt,
        "one of the six names in quotes: "
        + ", ".join(f'"{name}"' for name in CONVENTIONS),
        tuple(CONVENTIONS),
    )
    moved = sprites_moved()
    most = max(moved, key=moved.get)
    if guess != most:
        raise Wrong(
            f"that moves two sprites by {moved[guess]:.3f} on average (RMS, 0 to 1), and another of the six by {moved[most]:.2f}."
        )


@functools.lru_cache(1)
@torch.no_grad()
def sprites_moved():
    """By how much each convention moves two of section 7's sprites: the network is asked once a step for all of them together."""
    unet = (
        load_weights(ContextUnet(3, 64, 5, 16), WEIGHTS / "model_trained.pth")
        .eval()
        .to(memory_format=torch.channels_last)
    )
    each = [
        (DDIMScheduler(**settings), off)
        for settings, off in ((RIGHT, 0), *CONVENTIONS.values())
    ]
    for scheduler, _ in each:
        scheduler.set_timesteps(20)
    x = normal(2, 3, 16, 16, seed=4).repeat(len(each), 1, 1, 1)
    for i in range(20):
        t = (
            torch.stack([scheduler.timesteps[i] + 1 + off for scheduler, off in each])
            / 500
        )
        answers = zip(each, unet(x, t.repeat_interleave(2)).split(2), x.split(2))
        x = torch.cat(
            [
                scheduler.step(noise, scheduler.timesteps[i], own).prev_sample
                for (scheduler, _), noise, own in answers
            ]
        )
    right, *others = x.split(2)
    return {
        name: float(((other - right) / 2).square().flatten(1).mean(1).sqrt().mean())
        for name, other in zip(CONVENTIONS, others)
    }


@exercise(
    "8.6",
    "Give your list of `linspace` to `sample_ddim(..., steps=...)`: do the sprites differ from those of `trailing`?",
)
def steps_of(attempt):
    for spacing, n in (("trailing", 20), ("linspace", 6), ("leading", 20)):
        scheduler = DDIMScheduler(**RIGHT | {"timestep_spacing": spacing})
        scheduler.set_timesteps(n)
        visited = [int(k) for k in scheduler.timesteps]
        right = [*(k + 1 for k in visited), 0]
        mistakes = {
            "these are their k; our t is k + 1.": [*visited, 0],
            "these are their k, without the clean picture at the end; our t is k + 1, and a 0 follows.": visited,
            "the last 0, the clean picture, is missing.": right[:-1],
            "that is k - 1, and our t is k + 1.": [*(k - 1 for k in visited), 0],
            "a list for our samplers begins at the noisiest step and ends with 0.": right[
                ::-1
            ],
            "that is our own list; this scheduler visits other steps.": sampling_steps(
                n, 500
            ),
            "these are all 500 steps: it was not told how many, with `set_timesteps(n)`.": [
                *range(500, -1, -1)
            ],
            "these are all 500 steps: it was not told how many, with `set_timesteps(n)`, and the 0 is missing.": [
                *range(500, 0, -1)
            ],
        }
        fresh = DDIMScheduler(**RIGHT | {"timestep_spacing": spacing})
        compare(
            tried(attempt, fresh, n),
            right,
            mistakes,
            f"for {spacing} in {n} steps",
            1e-9,
        )
