"""The judges of lesson 13's exercises (they spoil them)."""

import functools

import torch

from exercises import (
    Wrong,
    as_numbers,
    compare,
    exercise,
    guessed,
    normal,
    tried,
)

drawn = functools.partial(normal, dtype=torch.float64)

# ---- 13.1 ----------------------------------------------------------------------------


def a_pair(answer):
    """The two parts of a pair: a tuple or a list."""
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        raise Wrong(
            f"You returned {type(answer).__name__}; "
            "expected a pair: the mixture and the velocity."
        )
    return answer


def mixture_mistakes(x_0, noise, share):
    yield (
        "the shares are swapped: s belongs to the picture.",
        (1 - share) * x_0 + share * noise,
    )
    yield (
        "these are lesson 2's square roots; on the straight path the shares themselves "
        "are the weights.",
        share.sqrt() * x_0 + (1 - share).sqrt() * noise,
    )
    yield "this is the velocity: the two parts of the pair are swapped.", x_0 - noise
    yield "the noise keeps its full size: its weight is 1 - s.", share * x_0 + noise


def velocity_mistakes(x_0, noise, share, x_s):
    yield (
        "the sign: from the noise to the picture the velocity is x_0 - noise.",
        noise - x_0,
    )
    yield "this is the clean picture; subtract the noise.", x_0
    yield "this is the noise; the velocity is the picture minus the noise.", noise
    yield "this is the mixture again.", x_s
    yield (
        "this is the way that is left to the picture; the velocity is that way over "
        "the time that is left, 1 - s.",
        x_0 - x_s,
    )


@exercise("13.1", "Where is a point of this path after the time 0.1? And at s = 2?")
def straight_pair(attempt):
    x_0 = drawn(3, 3, 4, 4, seed=0)
    noise = drawn(3, 3, 4, 4, seed=1)
    for shares in ([0.3, 0.3, 0.3], [0.1, 0.5, 0.8]):
        s = torch.tensor(shares, dtype=torch.float64)
        share = s.view(-1, 1, 1, 1)
        x_s = share * x_0 + (1 - share) * noise
        where = "s = 0.3" if shares[0] == shares[1] else "another s for each picture"
        mine = a_pair(tried(attempt, x_0, noise, s))
        mistakes = mixture_mistakes(x_0, noise, share)
        compare(mine[0], x_s, mistakes, where=f"the mixture with {where}")
        mistakes = velocity_mistakes(x_0, noise, share, x_s)
        compare(mine[1], x_0 - noise, mistakes, where=f"the velocity with {where}")


# ---- 13.2 ----------------------------------------------------------------------------

POINT = torch.tensor([0.7, -1.3], dtype=torch.float64)  # all the data there is


def away(x, share):
    """The noise behind x, if the data are POINT."""
    return (x - share * POINT) / (1 - share)


# What a network must answer to have no loss at all, if the data are POINT.
ORACLES = {
    "": lambda x, s: POINT - away(x, s),
    "the sign: the target is x_0 - noise.": lambda x, s: away(x, s) - POINT,
    "the target is the noise; ask for the velocity, x_0 - noise.": away,
    "the target is the clean picture; ask for the velocity, x_0 - noise.": (
        lambda x, s: POINT.expand_as(x)
    ),
    "the shares are swapped: in x_s the weight of the picture is s, and the network is "
    "told s.": lambda x, s: POINT - away(x, 1 - s),
    "this mixes with lesson 2's square roots; here s and 1 - s are the weights.": (
        lambda x, s: POINT - (x - s.sqrt() * POINT) / (1 - s).sqrt()
    ),
}


class Asked(torch.nn.Module):
    """A network that answers by a rule and keeps what it was asked."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule
        self.asked = []

    def forward(self, x, s):
        self.asked.append((x.detach(), s))
        return self.rule(x, torch.as_tensor(s).view(-1, 1))


def loss_with(attempt, rule):
    """The loss of a network that answers by this rule, and what it was asked."""
    torch.manual_seed(0)
    network = Asked(rule)
    x_0 = POINT.expand(4000, 2)
    loss = as_numbers(tried(attempt, network, x_0))
    if len(network.asked) != 1:
        raise Wrong(
            f"the network is called {len(network.asked)} times; once is enough."
        )
    x, s = network.asked[0]
    return loss, x, s


def check_times(s, n):
    """Raise Wrong unless s are n different numbers, even from 0 to 1."""
    if not torch.is_tensor(s) or tuple(s.shape) != (n,):
        shape = tuple(s.shape) if torch.is_tensor(s) else type(s).__name__
        raise Wrong(
            f"the network gets s as {shape}; expected one number for each picture, "
            f"({n},)."
        )
    s = s.double()
    if s.std() < 1e-6:
        raise Wrong("all pictures have the same s; draw one for each, (B,).")
    if not 0 <= s.min() <= s.max() <= 1:
        raise Wrong(f"s reaches from {s.min():.2f} to {s.max():.2f}; expected 0 to 1.")
    if abs(s.mean() - 0.5) > 0.03 or abs(s.var() - 1 / 12) > 0.01:
        raise Wrong("s is not spread evenly from 0 to 1; `torch.rand` does that.")


def check_noise(x, s):
    noise = away(x, s.double().view(-1, 1))
    if noise.min() >= 0:
        raise Wrong("the noise is never below 0: `torch.randn`, not `torch.rand`.")
    if abs(noise.std() - 1) > 0.1:
        raise Wrong(f"the noise has the std {noise.std():.2f}; expected 1.")


@exercise("13.2", "Can this loss reach 0 when there is more than one point of data?")
def flow_loss(attempt):
    loss, x, s = loss_with(attempt, ORACLES[""])
    check_times(s, 4000)
    if loss.numel() != 1:
        raise Wrong(
            f"the loss has shape {tuple(loss.shape)}; expected one number, the mean."
        )
    if loss > 1e-6:
        for sentence, rule in ORACLES.items():
            if loss_with(attempt, rule)[0].abs() < 1e-6:
                raise Wrong(sentence)
        raise Wrong(
            f"a network that knows the velocity has the loss {float(loss):.3g}; "
            "expected 0. Is the input s x_0 + (1 - s) noise, and the target "
            "x_0 - noise, with the same noise in both?"
        )
    check_noise(x, s)
    zero, x, s = loss_with(attempt, lambda x, s: 0 * x)
    right = (POINT - away(x, s.double().view(-1, 1))).square()
    mistakes = {
        "this is the mean of the absolute errors; square them.": right.sqrt().mean(),
        "this is the sum of the squares; take the mean.": right.sum(),
        "this is the root of the mean; leave the root out.": right.mean().sqrt(),
        "take the mean over all numbers: this is twice as large.": 2 * right.mean(),
    }
    compare(zero.reshape(()), right.mean(), mistakes, where="a network that answers 0")


# ---- 13.3 ----------------------------------------------------------------------------

CENTRES = torch.tensor(
    [[0.2, 1.0], [0.9, 0.8], [0.4, 0.4], [-0.8, 0.5], [-0.2, -0.3], [0.7, -0.6]]
)


@exercise("13.3", "And with two steps: from where on can the points part?")
def one_step(guess):
    place = guessed(guess, "two numbers, such as (0.5, -0.5)", n=2, between=(-5, 5))
    place = torch.tensor(place)
    if (place - CENTRES.mean(0)).abs().max() < 0.06:
        return
    if place.abs().max() < 0.06:
        raise Wrong(
            "that is the mean of the noise. At s = 0 the point x is the noise, so it "
            "cancels in x plus the velocity. What is left?"
        )
    nearest = torch.cdist(place[None], CENTRES)[0]
    if nearest.min() < 0.1:
        raise Wrong(
            "that is a bell. At s = 0 the point is pure noise and says nothing about "
            "the data. So how could the network know which bell to choose?"
        )
    raise Wrong(
        "not there. At s = 0 the mean velocity is E[x_0] - x, since nothing is known "
        "about x_0. What is x plus this velocity?"
    )


# ---- 13.4 ----------------------------------------------------------------------------


def field(x, s):
    """A made-up velocity."""
    return torch.sin(2 * x) * (1 + s) - s**2 * x


def walked(x, n, step, times):
    """Euler steps of this length at these times."""
    for s in times:
        x = x + step * field(x, s)
    return x


def euler_mistakes(x, n):
    times = [i / n for i in range(n)]
    yield (
        "the step goes the wrong way: the velocity points to the data, so add it.",
        walked(x, n, -1 / n, times),
    )
    yield (
        "the velocity is asked at the end of each step; ask it where the step starts, "
        "at s = 0, 1/n and so on.",
        walked(x, n, 1 / n, [(i + 1) / n for i in range(n)]),
    )
    yield (
        "the times run from 1 to 0; the walk starts at s = 0, the noise.",
        walked(x, n, 1 / n, [1 - i / n for i in range(n)]),
    )
    yield "the steps have length 1; each takes 1/n of the time.", walked(x, n, 1, times)
    yield (
        "s is always 0; it grows by 1/n in each step.",
        walked(x, n, 1 / n, [0.0] * n),
    )
    yield "one step is missing: there are n.", walked(x, n, 1 / n, times[:-1])
    yield "one step too many: there are n.", walked(x, n, 1 / n, [*times, 1.0])
    start = field(x, 0.0)
    yield "the velocity must be asked again in each step.", x + start


class Velocity:
    """`field`, called as a network; it counts its calls."""

    def __init__(self):
        self.calls = 0
        self.fault = ""

    def __call__(self, x, s):
        if not torch.is_tensor(s) or s.shape != (len(x),):
            self.fault = (
                "the velocity needs s as a tensor with one number for each point: "
                "torch.full((len(x),), s)."
            )
            raise ValueError(self.fault)
        self.calls += 1
        return field(x, s[:, None].double())


@exercise("13.4", "Then try it on `flow` with n = 1. Was your guess right?")
def euler(attempt):
    x = drawn(6, 2, seed=3)
    for n in (4, 1, 7):
        velocity = Velocity()
        try:
            mine = tried(attempt, velocity, x, n)
        except Wrong:
            if velocity.fault:
                raise Wrong(velocity.fault) from None
            raise
        right = walked(x, n, 1 / n, [i / n for i in range(n)])
        compare(mine, right, euler_mistakes(x, n), where=f"n = {n}", tolerance=1e-4)
        if velocity.calls != n:
            raise Wrong(f"you call the velocity {velocity.calls} times in {n} steps.")


# ---- 13.5 ----------------------------------------------------------------------------


def conversion_mistakes(x_s, noise, s):
    picture = (x_s - (1 - s) * noise) / s
    yield "the sign: the velocity is x_0 - noise.", (noise - x_s) / s
    yield "this is the implied picture; subtract the noise.", picture
    yield (
        "you divide by 1 - s. That is right if the picture is known; from the noise, "
        "divide by s.",
        (x_s - noise) / (1 - s),
    )
    yield (
        "x_s is not the picture: solve x_s = s x_0 + (1 - s) noise for x_0 first.",
        x_s - noise,
    )
    yield (
        "the noise in x_s has the weight 1 - s; take it out with this weight.",
        (x_s - noise) / s - noise,
    )
    yield (
        "these are lesson 2's square roots; on the straight path the weights are s and "
        "1 - s.",
        (x_s - (1 - s).sqrt() * noise) / s.sqrt() - noise,
    )
    yield "the picture still has to be divided by s.", s * picture - noise


@exercise("13.5", "At which s is it dangerous, and what saves our sampler there?")
def velocity_of_noise(attempt):
    x_s = drawn(2, 3, 4, 4, seed=5)
    noise = drawn(2, 3, 4, 4, seed=6)
    for value in (0.3, 0.8):
        s = torch.tensor(value, dtype=torch.float64)
        right = (x_s - noise) / s
        mine = tried(attempt, x_s, noise, s)
        compare(mine, right, conversion_mistakes(x_s, noise, s), where=f"s = {value}")


# ---- 13.6 ----------------------------------------------------------------------------


def shift_mistakes(s, alpha):
    yield (
        "this goes the wrong way: with more pixels, the share of the noise must grow.",
        alpha * s / (alpha * s + 1 - s),
    )
    yield (
        "this is the shifted share of the noise; the picture's is 1 minus it.",
        alpha * (1 - s) / (s + alpha * (1 - s)),
    )
    yield "this is the ratio; the share is ratio / (1 + ratio).", s / (1 - s) / alpha
    yield "the ratio s / (1 - s) is divided by alpha, not the share.", s / alpha
    ratio = s / (1 - s) / alpha**0.5
    yield "alpha is the ratio already, without a root.", ratio / (1 + ratio)
    ratio = s / (1 - s) / alpha**2
    yield "alpha is not squared.", ratio / (1 + ratio)


@exercise("13.6", "What does alpha = 1/3 do, and when would you want it?")
def time_shift(attempt):
    s = torch.linspace(0, 0.95, 8, dtype=torch.float64)
    for alpha in (3.0, 0.5, 1.0):
        right = s / (s + alpha * (1 - s))
        mine = tried(attempt, s, alpha)
        compare(mine, right, shift_mistakes(s, alpha), where=f"alpha = {alpha:g}")
    mine = tried(attempt, torch.ones(1, dtype=torch.float64), 3.0)
    compare(mine, torch.ones(1), (), where="s = 1, the clean picture")
