"""Answers to lesson 4's exercises. WRONG ones that learners and published notebooks give: (exercise, their code, what the check must say);
RIGHT ones that look otherwise than the solution: (exercise, their code)."""

STEP = """def my_step(x, t, noise, z, schedule):
    a, b, ab = (float(table[t]) for table in (schedule.a, schedule.b, schedule.ab))
    mean = {mean}
    return {end}
"""
MEAN = "(x - b / (1 - ab) ** 0.5 * noise) / a ** 0.5"
SAMPLER = """def my_sampler(network, x_T, steps, schedule, generator):
    {mode}
    x = x_T
    with torch.no_grad():
        for t, s in zip(steps[:-1], steps[1:]):
            noise = network(x, x.new_full((len(x),), {time}))
            z = torch.randn(x.shape, generator=generator)
            alpha = float({alpha})
            mean = (x - (1 - alpha) / (1 - float(schedule.ab[t])) ** 0.5 * noise) / alpha ** 0.5
            x = mean + (1 - alpha) ** 0.5 * z{when}
    return x
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
    return f"""def my_compare(networks, draw, shape, seed):
    seeded = lambda seed: torch.Generator().manual_seed(seed)
    {before}
    return {{name: draw(network, {arguments}) for name, network in networks.items()}}
"""


WRONG = [
    # ANCHORS.md, fault 14: noise at the last step; "scaled by beta"
    ("4.1", step(end="mean + b ** 0.5 * z"), r"at t = 1: your fresh noise has std 0\.01\d+, expected 0: the last step"),
    ("4.1", step(end="mean + b * z if t > 1 else mean"),
     r"at t = 300, the noise alone: your fresh noise has std 0\.012\d*, expected 0\.11\d*: is a square root missing"),
    ("4.1", step(mean="(x - b / (1 - ab) ** 0.5 * noise) / ab ** 0.5"), "alpha-bar stands where alpha belongs"),
    ("4.1", step(mean="(x - b / (1 - ab) * noise) / a ** 0.5"), "root under the predicted noise is missing"),
    ("4.1", step(end="mean + ((1 - schedule.ab[t - 1]) / (1 - ab) * b) ** 0.5 * z"), "root of beta-tilde"),
    ("4.1", "def my_step(x, t, noise, z, schedule):\n    return denoise_add_noise(x, t - 1, noise, schedule, z)", "one place too early"),
    ("4.2", "def my_beta_tilde(t, schedule):\n    return float(schedule.b[t] / schedule.a[t] + 1 - schedule.ab[t - 1])", "it is the precisions"),
    ("4.2", "def my_beta_tilde(t, schedule):\n    return float(1 / (1 / schedule.b[t] + 1 / (1 - schedule.ab[t - 1])))", "beta / alpha, not beta"),
    # ANCHORS.md, fault 14: a variance and a standard deviation mistaken for each other
    ("4.2", "def my_beta_tilde(t, schedule):\n    return posterior(t, schedule)[2] ** 0.5", "standard deviation"),
    ("4.3", "def my_predict_x0(x, t, noise, schedule):\n    ab = float(schedule.ab[t])\n    return (x - (1 - ab) * noise) / ab ** 0.5",
     "square root on the noise"),
    ("4.3", "def my_predict_x0(x, t, noise, schedule):\n    ab = float(schedule.ab[t])\n    return x - (1 - ab) ** 0.5 * noise", "pale"),
    ("4.3", "def my_predict_x0(x, t, noise, schedule):\n    return (x - schedule.b[t] ** 0.5 * noise) / schedule.a[t] ** 0.5", "one step only"),
    # ANCHORS.md, fault 14: dropout left on while sampling
    ("4.4", sampler(mode="pass"), "in train mode"),
    ("4.4", sampler(when=""), "noise added in the last stride"),
    ("4.4", sampler(time="t"), r"told the network is 500, expected 1, then 0\.5: the time is t / T"),
    ("4.4", sampler(time="s / schedule.T"), "the step where the picture is|where the stride leads"),
    ("4.4", sampler(alpha="schedule.a[t]"), "you took the single step's"),
    # ANCHORS.md, fault 12: each checkpoint is sampled from a new x_T
    ("4.5", compare("g = seeded(seed)", "torch.randn(shape, generator=g), g"), r"new x_T: two starts differ by 0\.\d+"),
    ("4.5", compare("g = seeded(seed); x_T = torch.randn(shape, generator=g)", "x_T, g"), "the fresh noise z is not"),
    ("4.5", compare("pass", "torch.randn(shape, generator=seeded(seed)), seeded(seed)"), "The first fresh z equals x_T"),
    ("4.5", compare("torch.manual_seed(seed); x_T = torch.randn(shape)", "x_T, None"), "got no generator"),
    ("4.5", compare("pass", "torch.zeros(shape), seeded(seed)"), "Another seed gives the same x_T"),
    ("4.6", "my_guess = 0", "finds 7 at epoch 0"),
    ("4.6", "my_guess = 24", "15 faces, but not the first"),
    ("4.7", "def my_paired(first, second):\n    d = first - second\n    return d.mean(), ((first.var() + second.var()) / len(d)) ** 0.5", "unpaired"),
    ("4.7", "def my_paired(first, second):\n    d = first - second\n    return d.mean(), d.std()", "single differences"),
    ("4.7", "def my_paired(first, second):\n    d = first - second\n    return d.mean(), d.std(correction=0) / len(d) ** 0.5",
     "n below instead of n - 1"),
    ("4.7", "def my_paired(first, second):\n    d = (first - second).abs()\n    return d.mean(), d.std() / len(d) ** 0.5", "lacks its sign"),
    # the start follows the seed, the fresh noise does not
    ("4.5", compare("pass", "torch.randn(shape, generator=seeded(seed)), seeded(0)"), "the same fresh noise z"),
]  # fmt: skip

RIGHT = [
    ("4.1", step(mean="(x - (b / (1 - ab) ** 0.5) * noise) / a ** 0.5").replace("float(table[t])", "table[t].float()")),
    ("4.2", "def my_beta_tilde(t, schedule):\n    return schedule.b[t] * (1 - schedule.ab[t - 1]) / (1 - schedule.ab[t])"),
    ("4.2", "def my_beta_tilde(t, schedule):\n    b, ab, before = (v.float() for v in (schedule.b[t], schedule.ab[t], schedule.ab[t - 1]))\n"
            "    return b * (1 - before) / (1 - ab)"),
    ("4.4", sampler().replace("no_grad", "inference_mode")),
    ("4.6", "my_guess = 4.0"),
    ("4.6", "my_guess = np.int64(4)"),
    ("4.6", "my_guess = torch.tensor(4)"),
    ("4.7", "def my_paired(first, second):\n    d = first - second\n    return [d.mean(), d.std() / len(d) ** 0.5]"),
    ("4.7", "def my_paired(first, second):\n    d = (first - second).numpy()\n    return d.mean(), d.std(ddof=1) / len(d) ** 0.5"),
]  # fmt: skip
