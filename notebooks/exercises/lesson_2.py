"""The judges of lesson 2's exercises (they spoil them)."""

import math

import torch

from diffusion_utilities import NoiseSchedule, perturb_input, posterior
from exercises import (
    Wrong,
    as_numbers,
    compare,
    exercise,
    nearest,
    normal,
    tried,
    with_a_hint,
)


@exercise("2.1", "Now divide each entry by the one before it: which table comes back?")
def alpha_bar(attempt):
    schedule = NoiseSchedule.linear(60, 1e-3, 0.05)
    mine = as_numbers(tried(attempt, schedule.b))
    first = torch.linspace(1e-3, 0.05, 61, dtype=torch.float64)[
        0
    ]  # the published fault: beta_0 stays in every later product
    leaky = schedule.ab * (1 - first)
    leaky[0] = 1
    one, betas, whole = (
        torch.ones(1),
        schedule.b[1:].cumprod(0),
        schedule.ab[-1].expand(60),
    )
    mistakes = {
        "these are sums of alphas or betas, and the table is a product.": schedule.a.cumsum(
            0
        ),
        "this is the product of the betas, and it needs the alphas, 1 - beta.": nearest(
            mine, betas, torch.cat((one, betas)), 0 * schedule.b
        ),
        "the product runs to T in every entry; the one at index t stops at t.": nearest(
            mine, whole, torch.cat((one, whole)), torch.cat((whole[:1], whole))
        ),
        "a factor too many: beta_0 has no step, so index 0 is 1 and the product starts at t = 1.": leaky,
        "each entry misses its own last factor: the product runs to t, t included.": torch.cat(
            (torch.ones(1), schedule.ab[:-1])
        ),
        "that is the root of alpha-bar; the table itself has none.": schedule.ab.sqrt(),
        "index 0 is missing: put the 1 for t = 0 in front.": schedule.ab[1:],
        "this is the table alpha; alpha-bar multiplies all of them up to t.": schedule.a,
    }
    compare(mine, schedule.ab, mistakes)


@exercise(
    "2.2",
    "Set `noise` to zero and look at x_500: what is left is the leak of section 6.",
)
def jump(attempt):
    schedule, x, noise = (
        NoiseSchedule.linear(),
        torch.zeros(3, 3, 16, 16),
        normal(3, 3, 16, 16, seed=0),
    )
    ones = torch.ones_like(x)
    for steps in (
        (50, 50, 50),
        (200, 200, 200),
        (1, 250, 500),
    ):  # at one step first, where a number can say what is wrong
        t = torch.tensor(steps)
        ab = schedule.ab[t].float().view(-1, 1, 1, 1)
        mistakes = {
            "is the square root on the noise missing?": (1 - ab) * noise,
            "this is the root of alpha-bar on the noise too; its variance must be what the picture gave up, 1 - alpha-bar.": ab.sqrt()
            * noise,
            "this is 1 minus the root, and it should be the root of 1 minus alpha-bar.": (
                1 - ab.sqrt()
            )
            * noise,
            "that is the noise of one step, beta_t; the jump takes 1 - alpha-bar.": schedule.b[
                t
            ]
            .float()
            .sqrt()
            .view(-1, 1, 1, 1)
            * noise,
            "is the noise added at all?": 0 * noise,
        }
        where = (
            f"at t = {steps[0]}"
            if len(set(steps)) == 1
            else "with another t for each picture"
        )
        mine = with_a_hint(
            "size of tensor",
            "`schedule.ab[t]` is (B,): give it three more axes.",
            attempt,
            x,
            t,
            noise,
            schedule,
        )
        compare(
            mine,
            perturb_input(x, t, noise, schedule),
            mistakes,
            where,
            1e-4,
            lambda r: (r.std(), "your noise has std"),
        )
        missing = {
            "is the square root on the picture missing?": ab * ones,
            "the picture is not shrunk: it needs the root of alpha-bar.": ones,
        }
        mine = tried(attempt, ones, t, 0 * noise, schedule)
        compare(
            mine,
            ab.sqrt() * ones,
            missing,
            where,
            1e-4,
            lambda r: (r.mean(), "your picture of ones became"),
        )


@exercise(
    "2.3",
    "Plot it beside the linear one on a logarithmic scale: where do they differ most?",
)
def cosine_betas(attempt):
    right, f = NoiseSchedule.cosine(200).b, torch.arange(201, dtype=torch.float64) / 200

    def betas(angle, power=2, largest=0.999):
        ab = torch.cos(angle * math.pi / 2) ** power
        return torch.cat((torch.zeros(1), (1 - ab[1:] / ab[:-1]).clamp(max=largest)))

    shifted = (f + 0.008) / 1.008
    mistakes = {
        "is the cosine squared?": betas(shifted, 1),
        "the angle is a share of pi / 2, not of pi.": betas(2 * shifted),
        "the offset s is missing from the angle.": betas(f),
        "s is added and not divided out again: the angle is (t/T + s) / (1 + s).": betas(
            f + 0.008
        ),
        "the last one is not kept below 0.999 (`clamp`).": betas(shifted, largest=2),
        "that is alpha-bar; the betas are 1 - alpha-bar_t / alpha-bar_{t-1}.": torch.cos(
            shifted * math.pi / 2
        )
        ** 2,
        "b[0] is missing: a 0 stands in front, so that the index is t.": right[1:],
    }
    compare(tried(attempt, 200), right, mistakes, "for T = 200", 5e-5)
    fixed = {"is s taken from the argument?": NoiseSchedule.cosine(50).b}
    compare(
        tried(attempt, 50, s=0.05),
        NoiseSchedule.cosine(50, 0.05).b,
        fixed,
        "for T = 50 and s = 0.05",
        5e-5,
    )
    fixed = {"is `largest` taken from the argument?": right}
    compare(
        tried(attempt, 200, largest=0.5),
        NoiseSchedule.cosine(200, max_beta=0.5).b,
        fixed,
        "for T = 200 and largest = 0.5",
        5e-5,
    )


@exercise(
    "2.4",
    "Ask it for a target of 0.3 and give the result to `perturb_input`: what does x_500 look like?",
)
def rescaled_betas(attempt):
    schedule = NoiseSchedule.linear()
    root = schedule.ab.sqrt()

    def back(new_root, first=1.0):
        return torch.cat(
            (
                torch.zeros(1),
                1 - new_root[1:] / torch.cat((torch.tensor([first]), new_root[1:-1])),
            )
        )

    for target in (0.001, 0.3):
        b = as_numbers(tried(attempt, schedule, target))
        if b.shape != schedule.b.shape:
            raise Wrong(
                f"your table has shape {tuple(b.shape)}, expected {tuple(schedule.b.shape)}: b[0] = 0 stands in front."
            )

        def shifted(target):
            return target + (root - root[-1]) * (root[1] - target) / (
                root[1] - root[-1]
            )

        wanted = shifted(target)
        early = target + (root - root[-1]) * (root[0] - target) / (root[0] - root[-1])
        mistakes = {
            "the line starts from r at t = 1; you took r at t = 0.": back(early**2),
            "you shifted alpha-bar itself; the line shifts its root, and alpha-bar is the square of the result.": back(
                wanted
            ),
            "that is r', before it became betas.": wanted,
            "the table is only shifted, not scaled, so its first value does not stay.": back(
                (root - root[-1] + target) ** 2
            ),
            "the new alpha-bar at t = 0 must be 1 again before you divide by it: the formula is for t = 1 to T.": back(
                wanted**2, float(wanted[0] ** 2)
            ),
        }
        if target != 0.001:
            mistakes["is the target taken from the argument?"] = back(
                shifted(0.001) ** 2
            )
        compare(
            b,
            back(wanted**2),
            mistakes,
            f"for the target {target}",
            1e-6,
            rounding=1e-4,
        )


@exercise("2.5", "Sum c_0 and c_t at t = 250: why is it not 1?")
def posterior_numbers(attempt):
    schedule = NoiseSchedule.linear()
    for t in (50, 500, 2, 1):
        b, a, ab, prev = (
            float(v)
            for v in (schedule.b[t], schedule.a[t], schedule.ab[t], schedule.ab[t - 1])
        )
        b32, a32, ab32, prev32 = (
            float(v.float())
            for v in (schedule.b[t], schedule.a[t], schedule.ab[t], schedule.ab[t - 1])
        )
        right, left = posterior(t, schedule), 1 - ab32
        mine = as_numbers(tried(attempt, t, schedule))
        if mine.shape != (3,):
            raise Wrong(
                f"at t = {t}: your result has shape {tuple(mine.shape)}, expected (3,): c_0, c_t and beta-tilde."
            )
        of_all = {
            "alpha-bar_t stands where alpha-bar_{t-1} belongs, in all three.": (
                ab**0.5 * b / (1 - ab),
                a**0.5,
                b,
            ),
            "are the roots missing?": (
                prev * b / (1 - ab),
                a * (1 - prev) / (1 - ab),
                right[2],
            ),
            "c_0 and c_t are swapped.": (right[1], right[0], right[2]),
            "right to single precision only: use float64.": (
                prev32**0.5 * b32 / left,
                a32**0.5 * (1 - prev32) / left,
                b32 * (1 - prev32) / left,
            ),
        }
        on_top = "1 - alpha-bar_{t-1} stands on top: you have alpha-bar_t there."
        of_each = {
            "c_0": {
                "c_0 takes the root of alpha-bar_{t-1}, not of alpha-bar_t.": ab**0.5
                * b
                / (1 - ab),
                "is the root missing?": prev * b / (1 - ab),
            },
            "c_t": {
                on_top: a**0.5,
                "c_t takes the root of alpha_t, and you have that of alpha-bar_t.": ab
                ** 0.5
                * (1 - prev)
                / (1 - ab),
                "is the root missing?": a * (1 - prev) / (1 - ab),
            },
            "beta-tilde": {
                "the third is the standard deviation; beta-tilde is a variance.": right[
                    2
                ]
                ** 0.5,
                "the third is beta_t; beta-tilde is smaller by (1 - alpha-bar_{t-1}) / (1 - alpha-bar_t).": b,
                "the fraction is upside down: 1 - alpha-bar_{t-1} stands on top.": b
                * (1 - ab)
                / (1 - prev)
                if t > 1
                else math.inf,
            },
        }
        causes = [
            words
            for words, wrong in of_all.items()
            if torch.allclose(mine, as_numbers(wrong), rtol=0, atol=1e-6)
        ]
        for own, wanted, (name, mistakes) in zip(mine, right, of_each.items()):
            compare(
                own,
                wanted,
                {causes[0]: own} if causes else mistakes,
                f"at t = {t}, {name}",
                1e-6,
                rounding=1e-3,
            )
