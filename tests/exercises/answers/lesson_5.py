"""Answers to lesson 5's exercises.

WRONG: answers that learners and published notebooks give, each as (exercise, code,
what the check must say, a regular expression). RIGHT: correct answers that differ from
the solution, as (exercise, code).
"""

STEP = """
def my_ddim_step(x, t, s, noise, schedule, eta=0.0, z=0.0):
    ab, ab_s = schedule.ab[t], schedule.ab[s]
    sigma = {sigma}
    x0 = {x0}
    return ab_s.sqrt() * x0 + {left} * noise + sigma * z
"""

EULER = """
def my_euler_step(x, t, s, noise, schedule):
    root, rho = schedule.ab.sqrt(), (1 / schedule.ab - 1).sqrt()
    return {answer}
"""

SLERP = """
def my_slerp(a, b, w):
    theta = torch.arccos({cosine})
    return {answer}
"""


def step(
    sigma="eta * posterior(t, schedule, t_prev=s)[2] ** 0.5",
    x0="(x - (1 - ab).sqrt() * noise) / ab.sqrt()",
    left="(1 - ab_s - sigma**2).sqrt()",
):
    return STEP.format(sigma=sigma, x0=x0, left=left)


def steps(answer):
    return f"def my_sampling_steps(n, T):\n    return {answer}"


def euler(answer):
    return EULER.format(answer=answer)


def slerp(answer, cosine="(a * b).sum() / (a.norm() * b.norm())"):
    return SLERP.format(answer=answer, cosine=cosine)


WRONG = [
    (
        "5.1",
        step(left="(1 - ab_s).sqrt()"),
        r"with eta = 0\.5.*sigma\^2 is not subtracted under the root",
    ),
    (
        "5.1",
        step(left="(1 - ab_s - sigma).clamp(min=0).sqrt()"),
        r"with eta = 0\.5.*it should be sigma\^2",
    ),
    # a fault of published code: a variance written as a standard deviation
    (
        "5.1",
        step(sigma="eta * posterior(t, schedule, t_prev=s)[2]"),
        "sigma is a standard deviation",
    ),
    (
        "5.1",
        step(x0="(x - (1 - ab) * noise) / ab.sqrt()"),
        "the implied picture lacks a root",
    ),
    (
        "5.1",
        step().replace("schedule.ab[", "schedule.a["),
        "alpha stands where alpha-bar belongs",
    ),
    (
        "5.1",
        step(left="(1 - ab_s - sigma**2)"),
        "is the square root missing before the noise",
    ),
    (
        "5.1",
        """
        def my_ddim_step(x, t, s, noise, schedule, eta=0.0, z=0.0):
            c0, ct, _ = posterior(t, schedule, t_prev=s)
            return c0 * predict_x0(x, t, noise, schedule) + ct * x
        """,
        "DDPM's mean",
    ),
    (
        "5.1",
        """
        def my_ddim_step(x, t, s, noise, schedule, eta=0.0, z=0.0):
            return denoise_ddim(x, t, s, noise, schedule)
        """,
        "always 0 here",
    ),
    # a fault of published code: the stride is rounded first, and runs past 0
    (
        "5.2",
        steps("[*range(T, 0, -(T // n)), 0]"),
        (
            "for n = 30, T = 500: these are 32 strides, expected 30: was the stride "
            "rounded first"
        ),
    ),
    (
        "5.2",
        steps("[*range(T, -(T // n), -(T // n))]"),
        (
            r"for n = 30, T = 500: a step is -12\. .* table\[-12\] is table\[489\], "
            "and the noise is back"
        ),
    ),
    (
        "5.2",
        steps("[T - i * (T // n) for i in range(n + 1)]"),
        "runs from 500 to 20, expected from 500 to 0",
    ),
    ("5.2", steps("[T * i / n for i in range(n, -1, -1)]"), "not a whole number"),
    (
        "5.2",
        steps("[round(T * i / n) for i in range(n + 1)]"),
        "T stands first and 0 last",
    ),
    (
        "5.2",
        steps("[round(500 * i / n) for i in range(n, -1, -1)]"),
        "for n = 1, T = 60: the list runs from 500 to 0, expected from 60 to 0",
    ),
    (
        "5.2",
        steps("[round(T * i / n) for i in range(n, 0, -1)]"),
        "the 0 at the end is missing",
    ),
    (
        "5.3",
        "my_guess = 5",
        "48% of the sprites are kept: many, and not yet four in five",
    ),
    ("5.3", "my_guess = 100", "fewer steps do"),
    (
        "5.4",
        slerp("(1 - w) * a + w * b"),
        (
            r"at w = 0\.3: your result has the length 24, expected 28: that is the "
            r"straight line\."
        ),
    ),
    (
        "5.4",
        slerp("a.norm() * ((1 - w) * a + w * b) / ((1 - w) * a + w * b).norm()"),
        "even pace",
    ),
    (
        "5.4",
        slerp("torch.sin((1 - w) * theta) * a + torch.sin(w * theta) * b"),
        "division by sin",
    ),
    (
        "5.4",
        slerp(
            "torch.sin((1 - w) * theta) * a + torch.sin(w * theta) * b",
            "(a * b).sum()",
        ),
        "a . b by both lengths",
    ),
    *(
        (
            "5.4",
            slerp(
                "(torch.sin((1 - w) * theta) * a + torch.sin(w * theta) * b)"
                " / torch.sin(theta)",
                f"({products}) / (a.norm() * b.norm())",
            ),
            words,
        )
        for products, words in (
            ("a @ b", "`@` multiplies matrices"),
            ("a * b", "is a sum missing"),
        )
    ),
    (
        "5.5",
        euler("root[s] * (x / root[t] + (rho[t] - rho[s]) * noise)"),
        "the sign is reversed",
    ),
    ("5.5", euler("x / root[t] + (rho[s] - rho[t]) * noise"), "this is still y_s"),
    (
        "5.5",
        euler("root[s] * (x / root[t] + (rho[s] ** 2 - rho[t] ** 2) * noise)"),
        "root of rho missing",
    ),
    (
        "5.5",
        euler("root[s] * (x / root[t] + (s - t) * noise)"),
        "multiplied by rho_s - rho_t, not by s - t",
    ),
    (
        "5.5",
        euler("denoise_ddim(x, t, s, noise, schedule)"),
        "stopped with ValueError: t=100, t_prev=300",
    ),
]


RIGHT = [
    (
        "5.1",
        step().replace(
            "schedule.ab[t], schedule.ab[s]",
            "schedule.ab.float()[t], schedule.ab.float()[s]",
        ),
    ),
    ("5.3", "my_guess = 20.0"),
    ("5.3", "my_guess = torch.tensor(20)"),
    ("5.3", "my_guess = np.int32(20)"),
    (
        "5.4",
        """
        def my_slerp(a, b, w):
            theta = torch.arccos((a * b).sum() / (a.norm() * b.norm()))
            mixed = torch.sin((1 - w) * theta) * a + torch.sin(w * theta) * b
            return (mixed / torch.sin(theta)).float()
        """,
    ),
    (
        "5.5",
        euler("root[s] * (x / root[t] + (rho[s] - rho[t]) * noise)").replace(
            "schedule.ab", "schedule.ab.float()"
        ),
    ),
]
