"""Answers to lesson 15's exercises.

WRONG: answers that learners and published notebooks give, each as (exercise, code,
what the check must say, a regular expression). RIGHT: correct answers that differ from
the solution, as (exercise, code).
"""

NOISED = """
def my_add_noise(scheduler, x, noise, t):
    ab = ({ab}).view(-1, 1, 1, 1)
    return {line}
"""

STEP = """
def my_ddim_step(scheduler, x, k, noise, n):
    table = scheduler.alphas_cumprod
    lower = {lower}
    here = table[k]
    there = {there}
    x0 = (x - (1 - here).sqrt() * noise) / here.sqrt()
    return {line}
"""

DDPM = """
def my_ddpm(network, schedule, x_T, seed):
    g = torch.Generator().manual_seed(seed)
    return {sampler}(network, schedule, x_T=x_T, {arguments}){end}
"""

OURS = "torch.cat((torch.ones(1), scheduler.alphas_cumprod))[t]"


def noised(ab, line="ab.sqrt() * x + (1 - ab).sqrt() * noise"):
    return NOISED.format(ab=ab, line=line)


def step(
    lower,
    there="table[lower] if lower >= 0 else torch.tensor(1.0)",
    line="there.sqrt() * x0 + (1 - there).sqrt() * noise",
):
    return STEP.format(lower=lower, there=there, line=line)


def ddpm(arguments, sampler="sample_ddpm", end="[0]"):
    return DDPM.format(arguments=arguments, sampler=sampler, end=end)


def steps(line, told="scheduler.set_timesteps(n)"):
    return f"def my_steps(scheduler, n):\n    {told}\n    return {line}"


def leak(answer):
    return f"def my_leak(scheduler):\n    return {answer}"


def add_noise(answer):
    return f"def my_add_noise(scheduler, x, noise, t):\n    return {answer}"


WRONG = [
    (
        "15.1",
        leak("scheduler.alphas_cumprod[-1]"),
        (
            r"for 500 steps: you have 0\.006\d*, expected 0\.079\d*: is the root "
            "missing"
        ),
    ),
    ("15.1", leak("scheduler.alphas_cumprod[0] ** 0.5"), "that is the cleanest step"),
    ("15.1", leak("scheduler.alphas[-1] ** 0.5"), "one step's alpha"),
    ("15.1", leak("(1 - scheduler.alphas_cumprod[-1]) ** 0.5"), "the noise's factor"),
    # the index, 0 or 1
    (
        "15.2",
        noised("scheduler.alphas_cumprod[t]"),
        (
            r"at t = 1: your noise has std 0\.018, expected 0\.011\d*: the table was "
            "read at k = t"
        ),
    ),
    ("15.2", add_noise("scheduler.add_noise(x, noise, t)"), "their k is our t - 1"),
    (
        "15.2",
        add_noise("scheduler.add_noise(x, noise, t - 1)"),
        r"at t = 0: your noise has std 1\.01, expected 0: .*\*last\* entry",
    ),
    (
        "15.2",
        noised("scheduler.alphas_cumprod[(t - 1).clamp(min=0)]"),
        "that is k = 0, the first step of noise",
    ),
    # a fault of published code: no root on the noise
    (
        "15.2",
        noised(OURS, "ab.sqrt() * x + (1 - ab) * noise"),
        "is the square root on the noise missing",
    ),
    (
        "15.2",
        noised(OURS, "ab * x + (1 - ab).sqrt() * noise"),
        (
            r"at t = 100: your picture of ones became 0\.81, .*square root on the "
            "picture"
        ),
    ),
    # a fault of published code: the index below 0 wraps round to the noisy end
    (
        "15.3",
        step("k - 500 // n", "table[lower]"),
        "from k = 24 with n = 20.*index -1 .*noisiest",
    ),
    ("15.3", step("k - 1"), "from k = 249 with n = 20.*goes to the neighbour"),
    ("15.3", step("k - n"), "from k = 249 with n = 20.*reaches n down"),
    ("15.3", step("k - round(500 / n)"), "rounds down"),
    ("15.3", step("k - 500 // n", "table[max(lower, 0)]"), "you took that of k = 0"),
    ("15.3", step("k - 500 // n", line="x0"), "implied clean picture"),
    (
        "15.3",
        step("k - 500 // n")
        .replace(
            "x0 = (x - (1 - here).sqrt() * noise) / here.sqrt()",
            "x0 = (x - (1 - here) * noise) / here",
        )
        .replace("there.sqrt() * x0 + (1 - there).sqrt()", "there * x0 + (1 - there)"),
        "are the roots missing",
    ),
    ("15.4", ddpm("steps=50, generator=g, keep=0"), "the variance differs"),
    (
        "15.4",
        ddpm('generator=g, variance="beta_tilde", keep=0'),
        "that is all 500 steps; theirs takes 50",
    ),
    (
        "15.4",
        ddpm('steps=50, variance="beta_tilde", keep=0'),
        "two calls with the same x_T and seed differ",
    ),
    (
        "15.4",
        ddpm('steps=50, generator=g, variance="beta_tilde", keep=0', end=""),
        "returned a tuple",
    ),
    (
        "15.4",
        ddpm("steps=50, keep=0", "sample_ddim"),
        "that is DDIM, which adds no fresh noise",
    ),
    (
        "15.4",
        ddpm('steps=50, generator=g.manual_seed(5), variance="beta_tilde", keep=0'),
        "with seed 11: .*the seed is not the one",
    ),
    (
        "15.5",
        'my_guess = "clip_sample"',
        r"moves two sprites by 0\.0\d\d .*another of the six by 0\.\d\d\.",
    ),
    ("15.5", 'my_guess = "variance_type"', "expected one of the six names"),
    (
        "15.6",
        steps("[*(int(k) for k in scheduler.timesteps), 0]"),
        "for trailing in 20 steps: .*these are their k; our t is k . 1",
    ),
    (
        "15.6",
        steps("[int(k) + 1 for k in scheduler.timesteps]"),
        "the last 0, the clean picture, is missing",
    ),
    ("15.6", steps("[*(int(k) - 1 for k in scheduler.timesteps), 0]"), "that is k - 1"),
    (
        "15.6",
        steps("[*(int(k) + 1 for k in scheduler.timesteps), 0]", "pass"),
        "all 500 steps",
    ),
    (
        "15.6",
        steps("sampling_steps(n, 500)"),
        "for linspace in 6 steps: .*our own list",
    ),
]


RIGHT = [
    ("15.1", leak("float(scheduler.alphas.prod() ** 0.5)")),
    (
        "15.2",
        noised(
            "torch.where(t > 0, scheduler.alphas_cumprod[t - 1], torch.tensor(1.0))"
        ),
    ),
    ("15.5", "my_guess = ' 1,000 Steps'"),
    ("15.5", "my_guess = np.array('1,000 steps')"),
    (
        "15.6",
        steps("torch.cat((scheduler.timesteps + 1, torch.zeros(1, dtype=torch.long)))"),
    ),
]
