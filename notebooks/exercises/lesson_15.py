"""The judges of lesson 15's exercises (they spoil them)."""

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
from exercises import (
    Wrong,
    at_steps,
    compare,
    exercise,
    guessed,
    normal,
    seeded,
    shown_mean,
    shown_std,
    tried,
)

OURS = NoiseSchedule.linear()
RIGHT = {
    "num_train_timesteps": 500,
    "trained_betas": OURS.b[1:].numpy(),
    "clip_sample": False,
    "timestep_spacing": "trailing",
}

# ---- 15.1 ----------------------------------------------------------------------------


def leak_mistakes(scheduler):
    ab = scheduler.alphas_cumprod.double()
    alpha = scheduler.alphas[-1]
    yield "is the root missing? alpha-bar is the share of the *variance*.", ab[-1]
    yield (
        "that is the cleanest step; their last entry is the noisiest.",
        ab[0].sqrt(),
    )
    yield (
        "that is alpha-bar at the cleanest step; "
        "the noisiest is the last one, and a root is missing.",
        ab[0],
    )
    yield (
        "that is the noise's factor; the picture's is the root of alpha-bar.",
        (1 - ab[-1]).sqrt(),
    )
    yield (
        "that is one step's alpha; `alphas_cumprod` holds their product.",
        alpha.sqrt(),
    )
    yield (
        "that is one step's alpha, without its root; "
        "`alphas_cumprod` holds their product.",
        alpha,
    )


@exercise(
    "15.1",
    "Which `beta_end` would 500 steps need to leave no more than 1,000 do? "
    "Lesson 2 has the answer.",
)
def leak(attempt):
    for T in (500, 1000):
        scheduler = DDPMScheduler(T)
        mine = tried(attempt, scheduler)
        right = scheduler.alphas_cumprod[-1].double().sqrt()
        compare(mine, right, leak_mistakes(scheduler), where=f"for {T:,} steps")


# ---- 15.2 ----------------------------------------------------------------------------


def right_alpha_bar(table, t):
    """Our alpha-bar at t (B, 1, 1, 1): their index is t - 1, and at t = 0 it is 1."""
    with_a_one = torch.cat((torch.ones(1), table))
    return with_a_one[t].view(-1, 1, 1, 1)


def noise_mistakes(table, t, noise):
    ab = right_alpha_bar(table, t)
    yield "is the square root on the noise missing?", (1 - ab) * noise
    wrapped = table[t - 1].view(-1, 1, 1, 1)  # at t = 0 the last entry
    yield (
        "k = -1 is the *last* entry of their table, the noisiest; "
        "the clean picture is a case of its own.",
        (1 - wrapped).sqrt() * noise,
    )
    first = table[(t - 1).clamp(min=0)].view(-1, 1, 1, 1)
    yield (
        "that is k = 0, the first step of noise; "
        "the clean picture, alpha-bar 1, is a case of its own.",
        (1 - first).sqrt() * noise,
    )
    yield "is the noise added at all?", 0 * noise
    if t.min() > 0:
        off = table[t.clamp(max=499)].view(-1, 1, 1, 1)
        yield (
            "the table was read at k = t, one step too noisy: their k is our t - 1.",
            (1 - off).sqrt() * noise,
        )


def picture_mistakes(ab, ones):
    yield "is the square root on the picture missing?", ab * ones
    yield "the picture is not shrunk: it needs the root of alpha-bar.", ones


@exercise(
    "15.2",
    "Ask their own `add_noise` for k = -1: "
    "what does a picture look like that should be clean?",
)
def add_noise(attempt):
    theirs = DDPMScheduler(**RIGHT)
    table = theirs.alphas_cumprod
    noise = normal(3, 3, 16, 16, seed=0)
    ones = torch.ones_like(noise)
    for steps in ((1, 1, 1), (100, 100, 100), (1, 250, 500), (0, 0, 0), (0, 7, 500)):
        t = torch.tensor(steps)
        ab = right_alpha_bar(table, t)
        where = at_steps(steps)
        mine = tried(attempt, theirs, 0 * ones, noise, t)
        right = (1 - ab).sqrt() * noise
        compare(
            mine,
            right,
            noise_mistakes(table, t, noise),
            where,
            tolerance=1e-4,
            number=shown_std("your noise has std"),
        )
        mine = tried(attempt, theirs, ones, 0 * noise, t)
        right = ab.sqrt() * ones
        compare(
            mine,
            right,
            picture_mistakes(ab, ones),
            where,
            tolerance=1e-4,
            number=shown_mean("your picture of ones became"),
        )


# ---- 15.3 ----------------------------------------------------------------------------


def ddim(table, x, k, lower, noise):
    """DDIM from k to lower; index -1 of `table` is a 1, the clean picture."""
    x0 = (x - (1 - table[k]).sqrt() * noise) / table[k].sqrt()
    return table[lower].sqrt() * x0 + (1 - table[lower]).sqrt() * noise


def index_mistakes(k, n):
    """The right formula at wrong indices: sentence, from, to."""
    stride = 500 // n
    lower = k - stride
    yield (
        "index -1 of `alphas_cumprod` is its *last* entry, the noisiest; "
        "below 0 alpha-bar is 1.",
        k,
        499 if lower < 0 else lower,
    )
    yield (
        "the step goes to the neighbour, k - 1; with n steps it reaches T // n down.",
        k,
        k - 1,
    )
    yield (
        "the step reaches n down; with n steps it reaches T // n down.",
        k,
        max(k - n, -1),
    )
    yield (
        "the step reaches T / n rounded, where theirs rounds down.",
        k,
        max(k - round(500 / n), -1),
    )
    yield (
        "below 0 alpha-bar is 1, the clean picture; you took that of k = 0.",
        k,
        max(lower, 0),
    )
    yield (
        "the table was read at k + 1; their k is the index without any change.",
        k + 1,
        lower + 1,
    )
    yield (
        "the table was read at k - 1; their k is the index without any change.",
        k - 1,
        lower - 1,
    )
    yield "the step goes up: k + T // n is noisier.", k, k + stride


def step_mistakes(table, x, k, noise, n):
    for sentence, start, end in index_mistakes(k, n):
        yield sentence, ddim(table, x, start, end, noise)
    here = table[k]
    there = table[k - 500 // n]
    rootless = (x - (1 - here) * noise) / here
    yield (
        "are the roots missing? `alphas_cumprod` holds alpha-bar.",
        there * rootless + (1 - there) * noise,
    )
    undivided = x - (1 - here).sqrt() * noise
    yield (
        "this is the implied clean picture; "
        "it must be noised again, to the lower step.",
        undivided / here.sqrt(),
    )
    yield (
        "x_0 is not divided by the root of alpha-bar.",
        there.sqrt() * undivided + (1 - there).sqrt() * noise,
    )


@exercise(
    "15.3",
    "Give it n = 30 and their last k, 16: "
    "where does that step end, and what is left in the picture?",
)
def ddim_step(attempt):
    theirs = DDIMScheduler(**RIGHT)
    x, noise = normal(2, 2, 3, 16, 16, seed=1)
    table = torch.cat((theirs.alphas_cumprod, torch.ones(1))).double()
    for n, k in ((20, 249), (50, 249), (30, 249), (20, 24), (30, 16)):
        theirs.set_timesteps(n)
        mine = tried(attempt, theirs, x, k, noise, n)
        right = theirs.step(noise, k, x).prev_sample
        compare(
            mine,
            right,
            step_mistakes(table, x, k, noise, n),
            where=f"from k = {k} with n = {n}",
            tolerance=1e-3,
        )


# ---- 15.4 ----------------------------------------------------------------------------


def toy(x, t, c=None):
    """A made-up network for which a sampler comes to rest.

    Its implied clean picture is always in (-1, 1).
    """
    steps = (t * OURS.T).round().long()
    ab = OURS.ab[steps].to(x).view(-1, 1, 1, 1)
    x0 = torch.tanh(3 * (x + 0.5 * x.roll(1, 3)) * ab.sqrt() + 0.2)
    return (x - ab.sqrt() * x0) / (1 - ab).sqrt()


def _theirs(x_T, seed):
    """What the library's DDPM draws from x_T in 50 steps."""
    scheduler = DDPMScheduler(**RIGHT)
    scheduler.set_timesteps(50)
    generator = seeded(seed)
    x = x_T
    for k in scheduler.timesteps:
        t = (k + 1).expand(2) / 500
        step = scheduler.step(toy(x, t), k, x, generator=generator)
        x = step.prev_sample
    return x


def _drawn(sampler, x_T, steps, seed, **options):
    samples, _ = sampler(
        toy, OURS, x_T=x_T, steps=steps, generator=seeded(seed), keep=0, **options
    )
    return samples


def sampler_mistakes(x_T, seed):
    """The quick ones come first: the slow ones are drawn only where they are needed."""
    yield (
        "the variance differs: theirs is `fixed_small`, our beta-tilde, "
        "and ours is beta unless you say otherwise.",
        _drawn(sample_ddpm, x_T, 50, seed),
    )
    yield (
        "that is DDIM, which adds no fresh noise.",
        _drawn(sample_ddim, x_T, 50, seed),
    )
    yield (
        "that is DDIM in 20 steps, which adds no fresh noise; theirs is DDPM in 50.",
        _drawn(sample_ddim, x_T, 20, seed),
    )
    yield (
        "the implied x_0 was clipped; their scheduler here does not.",
        _drawn(sample_ddpm, x_T, 50, seed, variance="beta_tilde", clip=True),
    )
    other_seed = 0 if seed == 5 else 5
    yield (
        "the seed is not the one that was given.",
        _drawn(sample_ddpm, x_T, 50, other_seed, variance="beta_tilde"),
    )
    yield (
        "that is all 500 steps; theirs takes 50.",
        _drawn(sample_ddpm, x_T, 500, seed, variance="beta_tilde"),
    )
    yield (
        "that is all 500 steps, and the variance is beta; "
        "theirs takes 50, with beta-tilde.",
        _drawn(sample_ddpm, x_T, 500, seed),
    )


@exercise(
    "15.4",
    'Give their scheduler `variance_type="fixed_large"`: which word makes ours follow?',
)
def same_sprites(attempt):
    for seed in (5, 11):
        where = f"with seed {seed}"
        x_T = normal(2, 3, 16, 16, seed=seed + 1)
        right = _theirs(x_T, seed)
        mine = tried(attempt, toy, OURS, x_T, seed)
        if isinstance(mine, tuple):
            raise Wrong(
                "your function returned a tuple: `sample_ddpm` gives the samples and "
                "the frames on the way; return the first, `[0]`."
            )
        comparable = torch.is_tensor(mine) and mine.shape == right.shape
        if not comparable or (mine - right).abs().max() < 0.02:
            compare(mine, right, where=where, tolerance=0.02)
            continue
        if not torch.equal(mine, tried(attempt, toy, OURS, x_T, seed)):
            raise Wrong(
                "two calls with the same x_T and seed differ: draw the fresh noise "
                "from a generator that is seeded in your function."
            )
        for sentence, wrong in sampler_mistakes(x_T, seed):
            if torch.allclose(mine, wrong, rtol=0, atol=1e-4):
                compare(mine, right, {sentence: wrong}, where, tolerance=0.01)
        compare(mine, right, where=where, tolerance=0.02)


# ---- 15.5 ----------------------------------------------------------------------------

# Section 7's first table: the settings of each scheduler, and how far the index is off
CONVENTIONS = {
    "ask at k, not k + 1": (RIGHT, -1),
    "timestep_spacing leading": (RIGHT | {"timestep_spacing": "leading"}, 0),
    "timestep_spacing linspace": (RIGHT | {"timestep_spacing": "linspace"}, 0),
    "clip_sample": (RIGHT | {"clip_sample": True}, 0),
    "their betas": (RIGHT | {"trained_betas": None}, 0),
    "1,000 steps": ({"clip_sample": False, "timestep_spacing": "trailing"}, 0),
}


@exercise(
    "15.5",
    "Run the table and look at the rows: "
    "would you have seen any of the others in a picture?",
)
def costliest(attempt):
    names = ", ".join(f'"{name}"' for name in CONVENTIONS)
    expected = f"one of the six names in quotes: {names}"
    guess = guessed(attempt, expected, tuple(CONVENTIONS))
    moved = sprites_moved()
    most = max(moved, key=moved.get)
    if guess != most:
        raise Wrong(
            f"that moves two sprites by {moved[guess]:.3f} on average (RMS, 0 to 1), "
            f"and another of the six by {moved[most]:.2f}."
        )


@functools.lru_cache(1)
@torch.no_grad()
def sprites_moved():
    """By how much each convention moves two of section 7's sprites (RMS).

    In each step the network is asked once, for the sprites of all conventions together.
    """
    unet = load_weights(ContextUnet(3, 64, 5, 16), WEIGHTS / "model_trained.pth")
    unet = unet.eval().to(memory_format=torch.channels_last)
    unet.last_time = 2  # "1,000 steps" tells it so, and it would refuse
    schedulers = []
    shifts = []
    for settings, shift in ((RIGHT, 0), *CONVENTIONS.values()):
        scheduler = DDIMScheduler(**settings)
        scheduler.set_timesteps(20)
        schedulers.append(scheduler)
        shifts.append(shift)
    x = normal(2, 3, 16, 16, seed=4).repeat(len(schedulers), 1, 1, 1)
    for i in range(20):
        ks = torch.stack([scheduler.timesteps[i] for scheduler in schedulers])
        t = (ks + 1 + torch.tensor(shifts)) / 500
        noises = unet(x, t.repeat_interleave(2)).split(2)
        following = []
        for scheduler, k, noise, own in zip(schedulers, ks, noises, x.split(2)):
            following.append(scheduler.step(noise, k, own).prev_sample)
        x = torch.cat(following)
    right, *others = x.split(2)
    moved = {}
    for name, other in zip(CONVENTIONS, others):
        difference = (other - right) / 2
        rms = difference.square().flatten(1).mean(1).sqrt()
        moved[name] = float(rms.mean())
    return moved


# ---- 15.6 ----------------------------------------------------------------------------


def steps_mistakes(visited, n):
    right = [k + 1 for k in visited] + [0]
    yield "these are their k; our t is k + 1.", visited + [0]
    yield (
        "these are their k, without the clean picture at the end; "
        "our t is k + 1, and a 0 follows.",
        visited,
    )
    yield "the last 0, the clean picture, is missing.", right[:-1]
    yield "that is k - 1, and our t is k + 1.", [k - 1 for k in visited] + [0]
    yield (
        "a list for our samplers begins at the noisiest step and ends with 0.",
        right[::-1],
    )
    yield (
        "that is our own list; this scheduler visits other steps.",
        sampling_steps(n, 500),
    )
    all_steps = list(range(500, -1, -1))
    yield (
        "these are all 500 steps: it was not told how many, with `set_timesteps(n)`.",
        all_steps,
    )
    yield (
        "these are all 500 steps: "
        "it was not told how many, with `set_timesteps(n)`, and the 0 is missing.",
        all_steps[:-1],
    )


@exercise(
    "15.6",
    "Give your list of `linspace` to `sample_ddim(..., steps=...)`: "
    "do the sprites differ from those of `trailing`?",
)
def steps_of(attempt):
    for spacing, n in (("trailing", 20), ("linspace", 6), ("leading", 20)):
        settings = RIGHT | {"timestep_spacing": spacing}
        scheduler = DDIMScheduler(**settings)
        scheduler.set_timesteps(n)
        visited = [int(k) for k in scheduler.timesteps]
        fresh = DDIMScheduler(**settings)
        mine = tried(attempt, fresh, n)
        right = [k + 1 for k in visited] + [0]
        compare(
            mine,
            right,
            steps_mistakes(visited, n),
            where=f"for {spacing} in {n} steps",
            tolerance=1e-9,
        )
