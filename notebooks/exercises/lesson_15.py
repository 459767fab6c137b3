"""The judges of lesson 15's exercises (they spoil them)."""

import functools
from types import SimpleNamespace

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
)

from diffusion_utilities import NoiseSchedule, sprite_network
from exercises import (
    Wrong,
    at_steps,
    compare,
    exercise,
    guessed,
    normal,
    shown_mean,
    shown_std,
    tried,
)

OURS = NoiseSchedule.linear()
RIGHT = {
    "num_train_timesteps": 500,
    "trained_betas": OURS.b[1:].tolist(),
    "clip_sample": False,
    "timestep_spacing": "trailing",
}

# ---- 15.1 ----------------------------------------------------------------------------


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
    "15.1",
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


# ---- 15.2 ----------------------------------------------------------------------------


def toy(x, t, c=None):
    """A made-up network for which a sampler comes to rest.

    Its implied clean picture is always in (-1, 1).
    """
    t = torch.as_tensor(t, dtype=torch.float32)
    if t.min() < 0 or t.max() > 1:
        raise ValueError(
            f"the network was asked at t = {float(t.max()):g}; expected t / T, 0 to 1"
        )
    ab = OURS.ab[(t * OURS.T).round().long()].to(x).reshape(-1, 1, 1, 1)
    x0 = torch.tanh(3 * (x + 0.5 * x.roll(1, 3)) * ab.sqrt() + 0.2)
    return (x - ab.sqrt() * x0) / (1 - ab).sqrt().clamp(min=1e-3)


def walked(scheduler, x, n, *, shift=1, result="prev_sample", order=1):
    """The loop, right unless an option says otherwise."""
    scheduler.set_timesteps(n)
    for k in list(scheduler.timesteps)[::order]:
        step = scheduler.step(toy(x, (k + shift) / 500), k, x)
        x = step[result]
    return x


def loop_mistakes(fresh, x, n):
    yield (
        "the network was asked at k / T; our t is k + 1.",
        walked(fresh(), x, n, shift=0),
    )
    scheduler = fresh()
    scheduler.set_timesteps(n)
    first, *_, last = scheduler.timesteps
    noise = toy(x, (first + 1) / 500)
    yield (
        "that is x after the first step: `return` stands behind the loop.",
        scheduler.step(noise, first, x).prev_sample,
    )
    scheduler.set_timesteps(n)
    for k in scheduler.timesteps:
        stuck = scheduler.step(toy(x, (k + 1) / 500), k, x).prev_sample
    yield "each step started from the first noise: the next x must replace x.", stuck
    yield "that is x as it was given: the next x must replace x.", x
    if fresh is fresh_ddim:
        yield (
            "each step went on from the implied clean picture; take `prev_sample`.",
            walked(fresh(), x, n, result="pred_original_sample"),
        )
        yield (
            "the steps were taken upwards; `timesteps` has the right order.",
            walked(fresh(), x, n, order=-1),
        )
        swapped = fresh()
        swapped.set_timesteps(n)
        y = x
        for k in swapped.timesteps:
            y = swapped.step(y, k, toy(y, (k + 1) / 500)).prev_sample
        yield "`step` takes the noise first, then k, then x.", y
        yield (
            f"the loop took 500 steps, not the {n} that were asked for.",
            walked(fresh(), x, 500),
        )


def check_not_a_step(mine):
    """Refuse what a scheduler's `step` returns."""
    if isinstance(mine, SimpleNamespace) or hasattr(mine, "prev_sample"):
        raise Wrong(
            "your function returned all that `step` returns; x is its `prev_sample`."
        )


def fresh_ddim():
    return DDIMScheduler(**RIGHT)


def fresh_2m():
    return DPMSolverMultistepScheduler.from_config(fresh_ddim().config)


@exercise(
    "15.2",
    "Give it `DDPMScheduler(**RIGHT)` and call it twice: why do the sprites differ?",
)
def loop(attempt):
    x = normal(2, 3, 16, 16, seed=1)
    for name, fresh, n in (("DDIM", fresh_ddim, 10), ("2M", fresh_2m, 7)):
        mine = tried(attempt, toy, fresh(), x, n)
        check_not_a_step(mine)
        right = walked(fresh(), x, n)
        compare(
            mine,
            right,
            loop_mistakes(fresh, x, n),
            where=f"with {name} in {n} steps",
            tolerance=1e-3,
        )


# ---- 15.3 ----------------------------------------------------------------------------

# Section 5's list: the settings of each scheduler, and what is added to k
CONVENTIONS = {
    "index": (RIGHT, 0),
    "training steps": ({"clip_sample": False, "timestep_spacing": "trailing"}, 1),
    "spacing": (RIGHT | {"timestep_spacing": "leading"}, 1),
    "clipping": (RIGHT | {"clip_sample": True}, 1),
    "variance": (RIGHT | {"variance_type": "fixed_large"}, 1),
    "prediction": (RIGHT | {"prediction_type": "v_prediction"}, 1),
}


@exercise(
    "15.3",
    "Now guess which two of the other five make the sprites worse. "
    "The text below the sprites has the answer.",
)
def harmless(attempt):
    names = ", ".join(f'"{name}"' for name in CONVENTIONS)
    expected = f"one of the six names in quotes: {names}"
    guess = guessed(attempt, expected, tuple(CONVENTIONS))
    moved = sprite_moved()
    if guess != min(moved, key=moved.get):
        raise Wrong(
            f"that moves a sprite by {moved[guess]:.3f} (root mean square, colours "
            "from 0 to 1), and another of the six by nothing."
        )


@functools.lru_cache(1)
@torch.no_grad()
def sprite_moved():
    """By how much each convention moves a sprite that is drawn in ten steps (RMS).

    In each step the network is asked once, for the sprites of all conventions together.
    """
    network = sprite_network()
    schedulers = []
    shifts = []
    lengths = []
    for settings, shift in ((RIGHT, 1), *CONVENTIONS.values()):
        scheduler = DDPMScheduler(**settings)
        scheduler.set_timesteps(10)
        schedulers.append(scheduler)
        shifts.append(shift)
        lengths.append(scheduler.config.num_train_timesteps)
    generators = [torch.Generator().manual_seed(0) for _ in schedulers]
    x = normal(1, 3, 16, 16, seed=4).repeat(len(schedulers), 1, 1, 1)
    for i in range(10):
        ks = torch.stack([scheduler.timesteps[i] for scheduler in schedulers])
        t = (ks + torch.tensor(shifts)) / torch.tensor(lengths)
        noises = network(x, t).split(1)
        following = []
        for own in zip(schedulers, noises, ks, x.split(1), generators):
            scheduler, noise, k, before, generator = own
            step = scheduler.step(noise, k, before, generator=generator)
            following.append(step.prev_sample)
        x = torch.cat(following)
    right, *others = x.split(1)
    moved = {}
    for name, other in zip(CONVENTIONS, others):
        difference = (other - right) / 2
        moved[name] = float(difference.square().mean().sqrt())
    return moved


# ---- 15.4 ----------------------------------------------------------------------------


def euler_walked(scheduler, x, n, *, shift=1, scale=True, goes_on="x", first=None):
    """The loop with Euler's two lines, right unless an option says otherwise.

    goes_on: what `step` starts from, "x" or "seen". first: what the first noise is
    multiplied by.
    """
    scheduler.set_timesteps(n)
    x = x * (scheduler.init_noise_sigma if first is None else first)
    for k in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, k) if scale else x
        noise = toy(seen, (k + shift) / 500)
        start = seen if goes_on == "seen" else x
        x = scheduler.step(noise, k, start).prev_sample
    return x


def growing(scheduler, x, n):
    """The loop that multiplies by init_noise_sigma at each step."""
    scheduler.set_timesteps(n)
    for k in scheduler.timesteps:
        x = x * scheduler.init_noise_sigma
        noise = toy(scheduler.scale_model_input(x, k), (k + 1) / 500)
        x = scheduler.step(noise, k, x).prev_sample
    return x


def euler_mistakes(fresh, x, n):
    sigma = fresh().init_noise_sigma  # before set_timesteps
    yield (
        "the first noise has std 1: multiply it by `scheduler.init_noise_sigma`.",
        euler_walked(fresh(), x, n, first=1),
    )
    yield (
        "the network saw x as it is: ask it about `scheduler.scale_model_input(x, k)`.",
        euler_walked(fresh(), x, n, scale=False),
    )
    yield (
        "that is exercise 15.2's loop: Euler needs two more lines.",
        euler_walked(fresh(), x, n, first=1, scale=False),
    )
    yield (
        "`step` went on from the scaled x. Only the network gets that one.",
        euler_walked(fresh(), x, n, goes_on="seen"),
    )
    yield (
        "`init_noise_sigma` was read before `set_timesteps`, which changes it.",
        euler_walked(fresh(), x, n, first=sigma),
    )
    yield (
        "only the *first* noise is multiplied by `init_noise_sigma`.",
        growing(fresh(), x, n),
    )
    yield (
        "the first noise grows: multiply it by `init_noise_sigma`, do not divide.",
        euler_walked(fresh(), x, n, first=1 / sigma),
    )
    yield (
        "the network was asked at k / T; our t is k + 1.",
        euler_walked(fresh(), x, n, shift=0),
    )


def fresh_euler(spacing):
    config = DDPMScheduler(**RIGHT | {"timestep_spacing": spacing}).config
    return EulerDiscreteScheduler.from_config(config)


@exercise(
    "15.4",
    "Read `scheduler.init_noise_sigma` before and after `set_timesteps(5)`, once with "
    '`timestep_spacing="leading"`.',
)
def euler_loop(attempt):
    x = normal(2, 3, 16, 16, seed=1)
    for spacing, n in (("trailing", 10), ("leading", 7)):
        fresh = functools.partial(fresh_euler, spacing)
        mine = tried(attempt, toy, fresh(), x, n)
        check_not_a_step(mine)
        compare(
            mine,
            euler_walked(fresh(), x, n),
            euler_mistakes(fresh, x, n),
            where=f"with Euler, {spacing}, in {n} steps",
            tolerance=1e-3,
        )
    mine = tried(attempt, toy, fresh_ddim(), x, 10)
    compare(mine, walked(fresh_ddim(), x, 10), (), where="with DDIM in 10 steps")


# ---- 15.5 ----------------------------------------------------------------------------


def velocity_mistakes(x, noise, sigma):
    picture = (x - sigma * noise) / (1 - sigma)
    yield "the sign is wrong: v points from the picture to the noise.", picture - noise
    yield "that is the picture; v = noise - picture.", picture
    yield (
        "x is not the picture: it still contains sigma times the noise.",
        noise - x,
    )
    yield (
        "the picture's share of x is 1 - sigma: is the division missing?",
        noise - (x - sigma * noise),
    )
    yield (
        "the shares are exchanged: the noise has sigma, the picture 1 - sigma.",
        noise - (x - (1 - sigma) * noise) / sigma,
    )
    yield (
        "is that a division by sigma? The picture's share is 1 - sigma.",
        noise - (x - sigma * noise) / sigma,
    )
    root = (1 - sigma) ** 0.5
    yield (
        "on the straight path there are no roots: the shares are 1 - sigma and sigma.",
        noise - (x - sigma**0.5 * noise) / root,
    )


@exercise(
    "15.5",
    "Simplify it: it is (noise - x) / (1 - sigma). Which sigma would break it?",
)
def velocity(attempt):
    x, noise = normal(2, 2, 3, 16, 16, seed=1)
    for sigma in (0.25, 0.7, 0.9):
        mine = tried(attempt, x, noise, sigma)
        right = noise - (x - sigma * noise) / (1 - sigma)
        compare(
            mine,
            right,
            velocity_mistakes(x, noise, sigma),
            where=f"at sigma = {sigma}",
            tolerance=1e-4,
        )


# ---- 15.6 ----------------------------------------------------------------------------


def latent_toy(latents, k, words):
    """A made-up conditional U-Net that insists on a caption for each of the latents."""
    if len(latents) != len(words):
        raise ValueError(
            f"{len(latents)} latents came with {len(words)} captions; each caption "
            "needs latents of its own"
        )
    wish = words.mean((1, 2)).view(-1, 1, 1, 1)
    sample = torch.tanh(latents.roll(1, 3) + 5 * wish + float(k) / 1000)
    return SimpleNamespace(sample=sample)


def guided_mistakes(after, latents, k, words, w):
    plain = latent_toy(latents, k, words[:1]).sample
    wished = latent_toy(latents, k, words[1:]).sample
    yield (
        "that is the weight 1 + w: start from the answer without a caption.",
        after(wished + w * (wished - plain)),
    )
    yield (
        "the two halves are exchanged: row 0 of `words` is no caption.",
        after(wished + w * (plain - wished)),
    )
    yield "that ignores the wish.", after(plain)
    yield "that is w = 1: the wish alone, without guidance.", after(wished)
    yield "the answer without a caption is missing.", after(w * (wished - plain))
    noise = plain + w * (wished - plain)
    yield "that is the guided noise; the scheduler has not taken its step.", noise
    stepped = after(noise, "pred_original_sample")
    yield "that is the implied clean picture; take `prev_sample`.", stepped


@exercise(
    "15.6",
    "Call it with `tiny`'s U-Net, 50 times with `scheduler.timesteps`, then decode: "
    "that is the whole of Stable Diffusion, without its weights.",
)
def guided_step(attempt):
    latents = normal(1, 4, 8, 8, seed=2)
    words = normal(2, 6, 16, seed=3)
    scheduler = DDIMScheduler(1000, clip_sample=False)
    scheduler.set_timesteps(50)
    for k, w in ((980, 7.5), (500, 1.0), (500, 3.0)):
        k = torch.tensor(k)

        def after(noise, result="prev_sample", k=k):
            return scheduler.step(noise, k, latents)[result]

        mine = tried(attempt, latent_toy, scheduler, latents, k, words, w)
        if hasattr(mine, "prev_sample"):
            raise Wrong(
                "your function returned all that `step` returns; "
                "the latents are its `prev_sample`."
            )
        plain = latent_toy(latents, k, words[:1]).sample
        wished = latent_toy(latents, k, words[1:]).sample
        compare(
            mine,
            after(plain + w * (wished - plain)),
            guided_mistakes(after, latents, k, words, w),
            where=f"at k = {int(k)} with w = {w:g}",
            tolerance=1e-4,
        )
