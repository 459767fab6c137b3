"""The judges of lesson 4's exercises (they spoil them)."""

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
import torch.nn as nn

from diffusion_utilities import (
    WEIGHTS,
    NoiseSchedule,
    denoise_add_noise,
    load_sprites,
    nearest_pictures,
    perturb_input,
    posterior,
    predict_x0,
    sample_ddpm,
)
from exercises import Wrong, as_numbers, compare, exercise, guessed, seeded, tried


@exercise(
    "4.1",
    "Give it z = 0 at every step and guess what becomes of a run: section 5 tries it.",
)
def one_step(attempt):
    schedule = NoiseSchedule.linear()
    x, noise, z = torch.randn(3, 4, 3, 16, 16, generator=seeded(0))
    for t in (300, 40, 1):
        b, a, ab, last = (
            float(value)
            for value in (
                schedule.b[t],
                schedule.a[t],
                schedule.ab[t],
                schedule.ab[t - 1],
            )
        )
        where, nothing = f"at t = {t}", 0 * z
        mean = (x - b / (1 - ab) ** 0.5 * noise) / a**0.5
        earlier = float(schedule.b[t - 1]), float(schedule.a[t - 1])
        means = {
            "alpha-bar stands where alpha belongs: one step divides by the root of alpha.": mean
            * a**0.5
            / ab**0.5,
            "the root under the predicted noise is missing: beta is divided by the root of 1 - alpha-bar.": (
                x - b / (1 - ab) * noise
            )
            / a**0.5,
            "is the division by the root of alpha missing?": mean * a**0.5,
            "this divides by alpha, not by its root.": mean / a**0.5,
            "beta has a root here: in the mean it has none.": (
                x - b**0.5 / (1 - ab) ** 0.5 * noise
            )
            / a**0.5,
            "beta is not divided: it needs the root of 1 - alpha-bar below it.": (
                x - b * noise
            )
            / a**0.5,
            "1 - alpha stands where 1 - alpha-bar belongs, under the root.": (
                x - b / (1 - a) ** 0.5 * noise
            )
            / a**0.5,
            "all of the predicted noise is removed, which gives x_0; a step removes a little.": (
                x - (1 - ab) ** 0.5 * noise
            )
            / ab**0.5,
            "the predicted noise is added; it must be subtracted.": (
                x + b / (1 - ab) ** 0.5 * noise
            )
            / a**0.5,
        }
        if t > 1:
            means["the tables are read one place too early: index t is step t."] = (
                x - earlier[0] / (1 - last) ** 0.5 * noise
            ) / earlier[1] ** 0.5
        compare(
            tried(attempt, x, t, noise, nothing, schedule),
            mean,
            means,
            where + " with z = 0",
            1e-5,
        )
        mine = as_numbers(tried(attempt, x, t, noise, z, schedule)) - mean
        tilde = posterior(t, schedule)[2]
        fresh = {
            "is a square root missing? sigma is the root of beta.": b * z,
            "that is the root of beta-tilde, section 3's other choice; here take beta.": tilde
            ** 0.5
            * z,
            "that is the noise of the whole jump, 1 - alpha-bar; a step adds beta.": (
                1 - ab
            )
            ** 0.5
            * z,
            "is z added at all?": nothing,
            "z is added whole: it must be multiplied by the root of beta.": z,
            "the noise is added before the division by the root of alpha; it comes after.": (
                b / a
            )
            ** 0.5
            * z,
        }
        if t == 1:
            if mine.shape == z.shape and mine.abs().max() > 1e-4:
                std = f"{float(mine.std()):.3g}"
                raise Wrong(
                    f"at t = 1: your fresh noise has std {std}, expected 0: the last step returns the mean, so that no noise stays in."
                )
        else:
            compare(
                mine,
                b**0.5 * z,
                fresh,
                where + ", the noise alone",
                1e-4,
                lambda r: (r.std(), "your fresh noise has std"),
            )


@exercise(
    "4.2",
    "The next cell compares it with the right variance for three kinds of data: for which of them is it right?",
)
def beta_tilde(attempt):
    schedule = NoiseSchedule.linear()
    for t in (100, 500, 2):
        b, a, ab, last = (
            float(value)
            for value in (
                schedule.b[t],
                schedule.a[t],
                schedule.ab[t],
                schedule.ab[t - 1],
            )
        )
        right = posterior(t, schedule)[2]
        mistakes = {
            "these are precisions added; turn the sum upside down to get a variance.": a
            / b
            + 1 / (1 - last),
            "the variances are added; it is the precisions, 1 / variance, that add.": b
            / a
            + 1
            - last,
            "x_t measures root(alpha) x_{t-1}, so the measurement's variance is beta / alpha, not beta.": 1
            / (1 / b + 1 / (1 - last)),
            "alpha and beta are upside down: the precision of a variance beta / alpha is alpha / beta.": 1
            / (b / a + 1 / (1 - last)),
            "alpha-bar of t stands where that of t - 1 belongs: it is x_{t-1} that comes from x_0.": 1
            / (a / b + 1 / (1 - ab)),
            "this is the standard deviation; a variance is asked for.": right**0.5,
            "that is beta itself, the other choice.": b,
            "the fraction is upside down: 1 - alpha-bar_{t-1} stands above.": b
            * (1 - ab)
            / (1 - last),
        }
        compare(tried(attempt, t, schedule), right, mistakes, f"at t = {t}", 1e-6)


@exercise(
    "4.3",
    "Give it a noise that is 10 % too large, at t = 1 and at t = 400: which x_0 suffers more?",
)
def implied_picture(attempt):
    schedule = NoiseSchedule.linear()
    clean, noise = torch.randn(2, 4, 3, 16, 16, generator=seeded(2))
    for t in (250, 1):
        ab, b = float(schedule.ab[t]), float(schedule.b[t])
        x = perturb_input(clean, t, noise, schedule)
        mistakes = {
            "is the square root on the noise missing?": (x - (1 - ab) * noise)
            / ab**0.5,
            "is the square root on alpha-bar below missing?": (
                x - (1 - ab) ** 0.5 * noise
            )
            / ab,
            "it is not divided by the root of alpha-bar, so the picture stays pale.": x
            - (1 - ab) ** 0.5 * noise,
            "the noise is not scaled: it needs the root of 1 - alpha-bar.": (x - noise)
            / ab**0.5,
            "this removes the noise of one step only, beta; alpha-bar counts all of them.": (
                x - b**0.5 * noise
            )
            / (1 - b) ** 0.5,
            "the noise is added; it must be subtracted.": (x + (1 - ab) ** 0.5 * noise)
            / ab**0.5,
            "this is the jump forwards, from x_0 to x_t; solve it for x_0.": perturb_input(
                x, t, noise, schedule
            ),
            "that is one step of the sampler, to t - 1, not all the way to x_0.": denoise_add_noise(
                x, t, noise, schedule
            ),
        }
        compare(
            tried(attempt, x, t, noise, schedule),
            predict_x0(x, t, noise, schedule),
            mistakes,
            f"at t = {t}",
            1e-4,
        )


class Witness(nn.Module):
    """A small network with batch norm and dropout that remembers at which times, and in which mode, it was asked."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)  # within check's own random state
        self.layers = nn.Sequential(
            nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Tanh()
        )
        self.asked, self.training_when_asked = [], []

    def forward(self, x, t, c=None):
        self.asked.append(torch.as_tensor(t).detach().flatten().double())
        self.training_when_asked.append(any(part.training for part in self.modules()))
        return self.layers(x) + 0.5 * x + torch.as_tensor(t).reshape(-1, 1, 1, 1).to(x)


def _sampled(
    network,
    x,
    steps,
    schedule,
    generator,
    last_noise=False,
    root=True,
    single=False,
    one_z=False,
    no_z=False,
    bar=False,
):
    """DDPM along a list of steps, with one of the usual mistakes."""
    zs = [torch.randn(x.shape, generator=generator) for _ in steps[1:]]
    for i, (t, s) in enumerate(zip(steps[:-1], steps[1:])):
        noise = network(x, x.new_full((len(x),), t / schedule.T))
        ab, ab_s = float(schedule.ab[t]), float(schedule.ab[s])
        a = float(schedule.a[t]) if single else ab / ab_s
        mean = (x - (1 - a) / (1 - ab) ** 0.5 * noise) / (ab if bar else a) ** 0.5
        z = 0 if no_z or (s == 0 and not last_noise) else zs[0 if one_z else i]
        x = mean + ((1 - a) ** 0.5 if root else 1 - a) * z
    return x


@exercise(
    "4.4",
    "Give it `model`, eight pure-noise pictures and a list of only 20 steps: are those still sprites?",
)
def whole_sampler(attempt):
    schedule, x = NoiseSchedule.linear(), torch.randn(4, 3, 16, 16, generator=seeded(0))
    network = Witness()
    for steps in ([500, 250, 100, 20, 0], [500, 400, 300, 200, 100, 3, 2, 1, 0]):
        where = f"for the steps {steps}"
        network.train()
        network.asked, network.training_when_asked = [], []
        mine = tried(attempt, network, x, list(steps), schedule, seeded(1))
        if not network.asked:
            raise Wrong(f"{where}: the network was never asked for its noise.")
        if any(network.training_when_asked):
            raise Wrong(
                f"{where}: the network was asked in train mode: dropout drops, batch norm looks at this batch. Call `network.eval()` first."
            )
        times, wanted = (
            [float(asked[0]) for asked in network.asked if len(asked)],
            [t / schedule.T for t in steps[:-1]],
        )
        calls = f"the network was asked {len(times)} times, expected {len(wanted)}"
        if len(times) != len(wanted):
            raise Wrong(
                f"{where}: {calls}: one stride from each step to the next, and none from 0."
            )
        if not np.allclose(times, wanted, atol=1e-5):
            causes = {
                "the time is t / T, a number from 0 to 1.": np.allclose(
                    times, steps[:-1]
                ),
                "that is where the stride leads to; ask at the step where the picture is.": np.allclose(
                    times, [s / schedule.T for s in steps[1:]]
                ),
                "is the list walked from its end?": np.allclose(times, wanted[::-1]),
            }
            raise Wrong(f"{where}: the first time that you told the network is {times[0]:.4g}, expected {wanted[0]:.4g}, then {wanted[1]:.4g}"
                        + next((f": {cause}" for cause, true in causes.items() if true), "."))  # fmt: skip
        with torch.no_grad():
            right = sample_ddpm(
                network, schedule, x_T=x, steps=steps, generator=seeded(1), keep=0
            )[0]
            faults = {
                "is noise added in the last stride? The one that ends at 0 returns the mean.": {
                    "last_noise": True
                },
                "a square root is missing: sigma is the root of the stride's beta.": {
                    "root": False
                },
                "a stride from t to s has alpha = ab[t] / ab[s]; you took the single step's.": {
                    "single": True
                },
                "is the same z used in every stride? Each needs a fresh one.": {
                    "one_z": True
                },
                "is no noise added at all? Section 5 shows what that costs.": {
                    "no_z": True
                },
                "the mean is divided by the root of alpha-bar, not of the stride's alpha.": {
                    "bar": True
                },
            }
            mistakes = {
                words: _sampled(network, x, steps, schedule, seeded(1), **fault)
                for words, fault in faults.items()
            }
            mistakes["that is beta-tilde's noise; here take beta."] = sample_ddpm(
                network, schedule, x_T=x, steps=steps, generator=seeded(1), keep=0, variance="beta_tilde")[0]  # fmt: skip
        compare(mine, right, mistakes, where, 1e-3)


@exercise(
    "4.5",
    "Now `compare_checkpoints` is no secret: look up in its source where it does the same.",
)
def same_start(attempt):
    shape, calls = (4, 3, 16, 16), []

    def draw(network, x_T, generator):
        generator = generator if isinstance(generator, torch.Generator) else None
        z = torch.randn(shape, generator=generator)
        calls.append((torch.as_tensor(x_T).clone(), z, generator))
        return network(torch.as_tensor(x_T)) + 0.1 * z

    networks = {
        "epoch 24": lambda x: 0.5 * x,
        "epoch 31": lambda x: x.tanh(),
        "epoch 31 again": lambda x: x.tanh(),
    }

    def run(seed):
        calls.clear()
        result = tried(attempt, dict(networks), draw, shape, seed)
        if not isinstance(result, Mapping) or list(result) != list(networks):
            shown = (
                f"the keys {list(result)}"
                if isinstance(result, Mapping)
                else type(result).__name__
            )
            raise Wrong(
                f"You returned {shown}, expected a dictionary with the networks' names, {list(networks)}."
            )
        if len(calls) != len(networks):
            raise Wrong(
                f"`draw` was called {len(calls)} times, expected once for each of the {len(networks)} networks."
            )
        for start, _, generator in calls:
            if generator is None:
                raise Wrong(
                    "`draw` got no generator: without one of its own each run takes whatever noise comes next."
                )
            if start.shape != shape:
                raise Wrong(
                    f"`draw` got an x_T of shape {tuple(start.shape)}, expected {shape}."
                )
        return result

    result = run(5)
    (x_T, z, _), *others = calls
    for other, other_z, _ in others:
        if not torch.equal(other, x_T):
            apart = float((other - x_T).square().mean().sqrt() / 2)
            raise Wrong(
                f"Each network gets a new x_T: two starts differ by {apart:.2f} (RMS), so the comparison shows the noise, not the weights."
            )
        if not torch.equal(other_z, z):
            raise Wrong(
                "x_T is the same for all, but the fresh noise z is not: the generator goes on from where the network before left it."
            )
    if torch.equal(x_T, z):
        raise Wrong(
            "The first fresh z equals x_T, since both come first from a generator with this seed. Let one draw x_T, and hand it on."
        )
    for name, network in networks.items():
        compare(result[name], network(x_T) + 0.1 * z, {}, f"for {name!r}", 1e-5)
    run(5)
    if not torch.equal(calls[0][0], x_T) or not torch.equal(calls[0][1], z):
        raise Wrong(
            "A second call with the same seed gives other noise: is the seed used for all of it?"
        )
    run(6)
    if torch.equal(calls[0][0], x_T):
        raise Wrong("Another seed gives the same x_T: is the argument `seed` used?")
    if torch.equal(calls[0][1], z):
        raise Wrong(
            "Another seed gives another x_T and the same fresh noise z: the generator that you hand on does not depend on `seed`."
        )


EPOCHS = (0, 4, 12, 24, 31)


@cache
def faces() -> tuple[dict[int, int], dict[int, int]]:
    """In the 64 stored samples of each epoch: how often a hero's eyes are found, and how often in a picture that is near a hero of training, too."""
    train, test = load_sprites("train"), load_sprites("test")
    furthest = nearest_pictures(test.images[test.labels[:, 0] == 1], train.images)[
        0
    ].max()
    eyes, heroes = {}, {}
    for epoch in EPOCHS:
        with np.load(WEIGHTS / "results" / f"model_{epoch}.npz") as stored:
            pictures = stored["pictures"]
        light = pictures.mean(-1) / 255
        found = light[:, 6:8][:, :, [5, 8]].max(axis=(1, 2)) + 0.15 < light[
            :, 6:8, 6:8
        ].min(axis=(1, 2))
        distances, which = nearest_pictures(pictures[found], train.images)
        near = (distances <= furthest) & (train.labels[which, 0] == 1)
        eyes[epoch], heroes[epoch] = int(found.sum()), int(near.sum())
    return eyes, heroes


@exercise(
    "4.6", "Read on: a program that looks for eyes is less careful than you were."
)
def first_face(guess):
    guess = guessed(guess, f"one of the epochs {', '.join(map(str, EPOCHS))}", EPOCHS)
    eyes, heroes = faces()
    first = next(epoch for epoch in EPOCHS if heroes[epoch])
    if guess < first:
        raise Wrong(
            f"A program that looks for eyes would say so, too: it finds {eyes[guess]} at epoch {guess}. Read on, and look at those faces."
        )
    if guess > first:
        raise Wrong(
            f"Epoch {guess} has {heroes[guess]} faces, but not the first: what there is to draw is learnt early, to draw it well comes late."
        )


@exercise(
    "4.7",
    "The next cell does it with 60 sprites and two checkpoints: how much smaller is the paired error?",
)
def paired(attempt):
    generator = seeded(4)
    hard = torch.rand(12, generator=generator)  # some sprites are hard for both
    four = torch.tensor([[0.10, 0.40, 0.20, 0.90], [0.08, 0.39, 0.17, 0.88]])
    for first, second in (
        four,
        (hard + 0.005, hard + 0.01 * torch.randn(12, generator=generator)),
    ):
        d, n = (first - second).double(), len(first)

        def of(mean, error):
            return torch.stack(
                [
                    torch.as_tensor(mean, dtype=torch.float64),
                    torch.as_tensor(error, dtype=torch.float64),
                ]
            )

        right = of(d.mean(), d.std() / n**0.5)
        unpaired = ((first.double().var() + second.double().var()) / n) ** 0.5
        mistakes = {
            "that error is unpaired, and the hard sprites are in both scatters. Subtract sprite by sprite first.": of(
                d.mean(), unpaired
            ),
            "this is the scatter of single differences; the error of their mean is smaller by the root of n.": of(
                d.mean(), d.std()
            ),
            "the scatter is divided by n; it should be by the root of n.": of(
                d.mean(), d.std() / n
            ),
            "the standard deviation has n below instead of n - 1.": of(
                d.mean(), d.std(correction=0) / n**0.5
            ),
            "this is the variance, not its root.": of(d.mean(), d.var() / n),
            "the difference is first minus second.": of(-d.mean(), right[1]),
            "the difference lacks its sign: take the mean of first minus second, not of its size.": of(
                d.abs().mean(), d.abs().std() / n**0.5
            ),
        }
        compare(tried(attempt, first, second), right, mistakes, f"for {n} sprites")
