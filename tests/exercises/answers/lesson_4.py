"""Answers to lesson 4's exercises.

WRONG: answers that learners and published notebooks give, each as (exercise, code,
what the check must say, a regular expression). RIGHT: correct answers that differ from
the solution, as (exercise, code).
"""

STEP = """
def my_step(x, t, noise, z, schedule):
    a, b, ab = (float(table[t]) for table in (schedule.a, schedule.b, schedule.ab))
    mean = {mean}
    return {end}
"""

MEAN = "(x - b / (1 - ab) ** 0.5 * noise) / a ** 0.5"

SAMPLER = """
def my_sampler(network, x_T, steps, schedule, generator):
    {mode}
    x = x_T
    with torch.no_grad():
        for t, s in zip(steps[:-1], steps[1:]):
            noise = network(x, x.new_full((len(x),), {time}))
            z = torch.randn(x.shape, generator=generator)
            alpha = float({alpha})
            std = (1 - float(schedule.ab[t])) ** 0.5
            mean = (x - (1 - alpha) / std * noise) / alpha ** 0.5
            x = mean + (1 - alpha) ** 0.5 * z{when}
    return x
"""

COMPARE = """
def my_compare(networks, draw, shape, seed):
    seeded = lambda seed: torch.Generator().manual_seed(seed)
    {before}
    samples = {{}}
    for name, network in networks.items():
        samples[name] = draw(network, {arguments})
    return samples
"""


def step(mean=MEAN, end="mean + b ** 0.5 * z if t > 1 else mean"):
    return STEP.format(mean=mean, end=end)


def sampler(
    mode="network.eval()",
    time="t / schedule.T",
    alpha="schedule.ab[t] / schedule.ab[s]",
    when=" if s > 0 else mean",
):
    return SAMPLER.format(mode=mode, time=time, alpha=alpha, when=when)


def compare(before, arguments):
    return COMPARE.format(before=before, arguments=arguments)


def combine(mean="v * (m1 / v1 + m2 / v2)", v="1 / (1 / v1 + 1 / v2)", end="m, v"):
    lines = (f"v = {v}", f"m = {mean}", f"return {end}")
    return "def my_combine(m1, v1, m2, v2):\n    " + "\n    ".join(lines)


WRONG = [
    ("4.1", combine(end="m, 1 / v"), "the second number is the precision"),
    ("4.1", combine(v="1 / v1 + 1 / v2"), "in both results"),
    ("4.1", combine(v="v1 + v2"), "the variances are added"),
    ("4.1", combine("(m1 * v1 + m2 * v2) / (v1 + v2)"), "the vaguer clue counts more"),
    ("4.1", combine("(m1 + m2) / 2"), "the plain average"),
    ("4.1", combine("m1 / v1 + m2 / v2"), "lacks its factor v"),
    (
        "4.1",
        combine("v * (m1 / v1**2 + m2 / v2**2)", v="1 / (1 / v1**2 + 1 / v2**2)"),
        "as if they were standard deviations",
    ),
    ("4.1", combine(end="v, m"), "swapped"),
    # a fault of published code: a standard deviation in place of a variance
    ("4.1", combine(end="m, v**0.5"), "the standard deviation"),
    # a fault of published code: noise at the last step; "scaled by beta"
    (
        "4.2",
        step(end="mean + b ** 0.5 * z"),
        r"at t = 1: your fresh noise has std 0\.01\d+, expected 0: the last step",
    ),
    (
        "4.2",
        step(end="mean + b * z if t > 1 else mean"),
        (
            r"at t = 300, the noise alone: your fresh noise has std 0\.012\d*, "
            r"expected 0\.11\d*: is a square root missing"
        ),
    ),
    (
        "4.2",
        step(mean="(x - b / (1 - ab) ** 0.5 * noise) / ab ** 0.5"),
        "alpha-bar stands where alpha belongs",
    ),
    (
        "4.2",
        step(mean="(x - b / (1 - ab) * noise) / a ** 0.5"),
        "root under the predicted noise is missing",
    ),
    (
        "4.2",
        step(end="mean + ((1 - schedule.ab[t - 1]) / (1 - ab) * b) ** 0.5 * z"),
        "root of beta-tilde",
    ),
    (
        "4.2",
        """
        def my_step(x, t, noise, z, schedule):
            return denoise_add_noise(x, t - 1, noise, schedule, z=z)
        """,
        "one place too early",
    ),
    # a fault of published code: dropout left on while sampling
    ("4.3", sampler(mode="pass"), "in train mode"),
    ("4.3", sampler(when=""), "noise added in the last stride"),
    (
        "4.3",
        sampler(time="t"),
        r"told the network is 500, expected 1, then 0\.5: the time is t / T",
    ),
    (
        "4.3",
        sampler(time="s / schedule.T"),
        "the step where the picture is|where the stride leads",
    ),
    ("4.3", sampler(alpha="schedule.a[t]"), "you took the single step's"),
    (
        "4.3",
        """
        def my_sampler(network, x, steps, schedule, generator):
            network.eval()
            for t, s in zip(steps, steps[1:]):
                noise = network(x, torch.full((len(x),), t / schedule.T))
                x_0 = predict_x0(x, t, noise, schedule).clamp(-1, 1)
                x = perturb_input(x_0, s, noise, schedule)
            return x
        """,
        "lesson 3's sampler",
    ),
    (
        "4.3",
        """
        def my_sampler(network, x, steps, schedule, generator):
            samples, _ = sample_ddpm(
                network, schedule, x_T=x, steps=steps, generator=generator, clip=True
            )
            return samples
        """,
        "x_0 is clipped",
    ),
    (
        "4.3",
        """
        @torch.no_grad()
        def my_sampler(network, x, steps, schedule, generator):
            network.eval()
            for t, t_prev in zip(steps, steps[1:]):
                noise = network(x, torch.full((len(x),), t / schedule.T))
                z = torch.randn(x.shape, generator=generator)
                x = denoise_add_noise(x, t, noise, schedule, z=z)
            return x
        """,
        "is `t_prev` missing",
    ),
    (
        "4.3",
        sampler().replace("with torch.no_grad():", "if True:"),
        "carry gradients",
    ),
    # a fault of published code: each checkpoint is sampled from a new x_T
    (
        "4.4",
        compare("g = seeded(seed)", "torch.randn(shape, generator=g), g"),
        r"new x_T: two starts differ by 0\.\d+",
    ),
    (
        "4.4",
        compare("g = seeded(seed); x_T = torch.randn(shape, generator=g)", "x_T, g"),
        "the fresh noise z is not",
    ),
    (
        "4.4",
        compare("pass", "torch.randn(shape, generator=seeded(seed)), seeded(seed)"),
        "The first fresh z equals x_T",
    ),
    (
        "4.4",
        compare("torch.manual_seed(seed); x_T = torch.randn(shape)", "x_T, None"),
        "got no generator",
    ),
    (
        "4.4",
        compare("pass", "torch.zeros(shape), seeded(seed)"),
        "Another seed gives the same x_T",
    ),
    # the start follows the seed, the fresh noise does not
    (
        "4.4",
        compare("pass", "torch.randn(shape, generator=seeded(seed)), seeded(0)"),
        "the same fresh noise z",
    ),
    (
        "4.5",
        """
        def my_paired(first, second):
            d = first - second
            return d.mean(), ((first.var() + second.var()) / len(d)) ** 0.5
        """,
        "unpaired",
    ),
    (
        "4.5",
        """
        def my_paired(first, second):
            spread = first.std() - second.std()
            return (first - second).mean(), spread / len(first) ** 0.5
        """,
        "difference of the two scatters",
    ),
    (
        "4.5",
        """
        def my_paired(first, second):
            d = first - second
            return d.mean(), d.std()
        """,
        "single differences",
    ),
    (
        "4.5",
        """
        def my_paired(first, second):
            d = first - second
            return d.mean(), d.std(correction=0) / len(d) ** 0.5
        """,
        "n below instead of n - 1",
    ),
    (
        "4.5",
        """
        def my_paired(first, second):
            d = (first - second).abs()
            return d.mean(), d.std() / len(d) ** 0.5
        """,
        "lacks its sign",
    ),
]


RIGHT = [
    ("4.1", combine("(m1 * v2 + m2 * v1) / (v1 + v2)", v="v1 * v2 / (v1 + v2)")),
    ("4.1", combine(v="1 / torch.tensor([1 / v1, 1 / v2]).sum()", end="[m, v]")),
    (
        "4.2",
        step(mean="(x - (b / (1 - ab) ** 0.5) * noise) / a ** 0.5").replace(
            "float(table[t])", "table[t].float()"
        ),
    ),
    ("4.3", sampler().replace("no_grad", "inference_mode")),
    (
        "4.3",
        """
        def my_sampler(network, x, steps, schedule, generator):
            samples, _ = sample_ddpm(
                network, schedule, x_T=x, steps=steps, generator=generator
            )
            return samples
        """,
    ),
    (
        "4.5",
        """
        def my_paired(first, second):
            d = first - second
            return [d.mean(), d.std() / len(d) ** 0.5]
        """,
    ),
    (
        "4.5",
        """
        def my_paired(first, second):
            d = (first - second).numpy()
            return d.mean(), d.std(ddof=1) / len(d) ** 0.5
        """,
    ),
]
