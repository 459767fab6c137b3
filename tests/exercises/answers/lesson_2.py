"""Answers to lesson 2's exercises.

WRONG: answers that learners and published notebooks give, each as (exercise, code,
what the check must say, a regular expression). RIGHT: correct answers that differ from
the solution, as (exercise, code).
"""

POSTERIOR = """
def my_posterior(t, schedule):
    tables = (schedule.b[t], schedule.a[t], schedule.ab[t], schedule.ab[t - 1])
    b, a, ab, before = (float(v) for v in tables)
    tilde = b * (1 - before) / (1 - ab)
    return before**0.5 * b / (1 - ab), a**0.5 * (1 - before) / (1 - ab), tilde
"""

VELOCITY = """
def my_from_velocity(x_t, t, v, schedule):
    ab = schedule.ab[t].float().view(-1, 1, 1, 1)
    signal = ab.sqrt()
    spread = (1 - ab).sqrt()
    return {x_0}, {noise}
"""


def velocity(x_0="signal * x_t - spread * v", noise="spread * x_t + signal * v"):
    return VELOCITY.format(x_0=x_0, noise=noise)


def alpha_bar(answer):
    return f"def my_alpha_bar(b):\n    return {answer}"


WRONG = [
    ("2.1", alpha_bar("(1 - b[1:]).cumprod(0)"), "put the 1"),
    ("2.1", alpha_bar("(1 - b).cumsum(0)"), "product"),
    ("2.1", alpha_bar("1 - b"), "alpha-bar multiplies"),
    ("2.1", alpha_bar("b[1:].cumprod(0)"), "product of the betas"),
    (
        "2.1",
        alpha_bar("torch.cat((torch.ones(1), b[1:].cumprod(0)))"),
        "product of the betas",
    ),
    ("2.1", alpha_bar("b.cumprod(0)"), "product of the betas"),
    ("2.1", alpha_bar("[(1 - b).prod()] * len(b)"), "runs to T in every entry"),
    (
        "2.1",
        alpha_bar("[1.0] + [float((1 - b).prod())] * (len(b) - 1)"),
        "runs to T in every entry",
    ),
    # a fault of published code: no root on the noise
    (
        "2.2",
        """
        def my_perturb_input(x, t, noise, schedule):
            ab = schedule.ab[t].float().view(-1, 1, 1, 1)
            return ab.sqrt() * x + (1 - ab) * noise
        """,
        (
            r"at t = 50: your noise has std 0\.05\d+, expected 0\.23\d*: is the "
            "square root"
        ),
    ),
    (
        "2.2",
        """
        def my_perturb_input(x, t, noise, schedule):
            ab = schedule.ab[t].float().view(-1, 1, 1, 1)
            return ab * x + (1 - ab).sqrt() * noise
        """,
        "square root on the picture",
    ),
    (
        "2.2",
        """
        def my_perturb_input(x, t, noise, schedule):
            ab = schedule.ab[t].float()
            return ab.sqrt() * x + (1 - ab).sqrt() * noise
        """,
        "stopped with RuntimeError",
    ),
    (
        "2.2",
        """
        def my_perturb_input(x, t, noise, schedule):
            ab = schedule.ab[t].float()
            return ab.sqrt() * x + (1 - ab).sqrt() * noise
        """,
        r"RuntimeError.*`schedule\.ab\[t\]` is \(B,\): give it three more axes",
    ),
    (
        "2.3",
        """
        def my_posterior(t, schedule):
            c0, ct, variance = posterior(t, schedule)
            return c0, ct, variance ** 0.5
        """,
        "variance",
    ),
    (
        "2.3",
        """
        def my_posterior(t, schedule):
            b = schedule.b[t].float()
            ab = schedule.ab[t].float()
            before = schedule.ab[t - 1].float()
            c_0 = before**0.5 * b / (1 - ab)
            c_t = (1 - b) ** 0.5 * (1 - before) / (1 - ab)
            return c_0, c_t, b * (1 - before) / (1 - ab)
        """,
        "use float64",
    ),
    (
        "2.3",
        POSTERIOR.replace("* (1 - before) / (1 - ab)\n", "* (1 - ab) / (1 - before)\n"),
        (
            r"at t = 50, beta-tilde: you have 0\.00216919, expected 0\.0020137\d*: "
            "the fraction is upside down"
        ),
    ),
    (
        "2.3",
        POSTERIOR.replace("t - 1", "t"),
        "at t = 50, c_0: .*alpha-bar_t stands where .* in all three",
    ),
    (
        "2.3",
        POSTERIOR.replace("a**0.5 * (1 - before)", "a**0.5 * (1 - ab)"),
        (
            r"at t = 50, c_t: .*1 - alpha-bar_\{t-1\} stands on top: you have "
            "alpha-bar_t"
        ),
    ),
    (
        "2.3",
        POSTERIOR.replace("a**0.5 * (1 - before)", "ab**0.5 * (1 - before)"),
        "c_t: .*you have that of alpha-bar_t",
    ),
    ("2.3", POSTERIOR.replace("before**0.5", "before"), "c_0: .*root missing"),
    (
        "2.3",
        POSTERIOR.replace("[t]", "[t].float()").replace("1]", "1].float()"),
        "use float64",
    ),
    ("2.3", POSTERIOR.replace("float(v)", "float(v.float())"), "use float64"),
    (
        "2.4",
        velocity("spread * x_t + signal * v", "signal * x_t - spread * v"),
        "swapped",
    ),
    (
        "2.4",
        velocity("signal * x_t + spread * v", "spread * x_t - signal * v"),
        "at t = 200: .*a sign is wrong: the clean picture subtracts",
    ),
    (
        "2.4",
        velocity("signal * x_t + spread * v"),
        "a sign is wrong in the clean picture",
    ),
    (
        "2.4",
        velocity(noise="signal * v - spread * x_t"),
        "a sign is wrong in the noise",
    ),
    (
        "2.4",
        velocity("spread * x_t - signal * v", "signal * x_t + spread * v"),
        "factors are swapped",
    ),
    (
        "2.4",
        velocity("ab * x_t - (1 - ab) * v", "(1 - ab) * x_t + ab * v"),
        "are the roots missing",
    ),
    (
        "2.4",
        velocity("signal * x_t - (1 - ab) * v", "(1 - ab) * x_t + signal * v"),
        "square root on 1 - alpha-bar",
    ),
    ("2.4", velocity("(x_t - spread * v) / signal", "v"), "velocity for the noise"),
    ("2.4", velocity("(x_t - spread * v) / signal"), "velocity for the noise"),
    ("2.4", velocity(noise="v"), "the velocity itself"),
    (
        "2.4",
        velocity().replace(".view(-1, 1, 1, 1)", ""),
        r"`schedule\.ab\[t\]` is \(B,\): give it three more axes",
    ),
    (
        "2.4",
        """
        def my_from_velocity(x_t, t, v, schedule):
            ab = schedule.ab[t].float().view(-1, 1, 1, 1)
            return ab.sqrt() * x_t - (1 - ab).sqrt() * v
        """,
        r"expected \(x_0, noise\)",
    ),
]


RIGHT = [
    (
        "2.1",
        """
        def my_alpha_bar(b):
            ab = torch.ones(len(b))
            for t in range(1, len(b)):
                ab[t] = ab[t - 1] * (1 - b[t])
            return ab
        """,
    ),
    (
        "2.1",
        """
        def my_alpha_bar(b):
            products = [1.0]
            for beta in b[1:].tolist():
                products.append(products[-1] * (1 - beta))
            return torch.tensor(products)
        """,
    ),
    (
        "2.3",
        """
        def my_posterior(t, schedule):
            return torch.tensor([*posterior(t, schedule)])
        """,
    ),
    (
        "2.4",
        """
        def my_from_velocity(x_t, t, v, schedule):
            ab = schedule.ab[t].float().view(-1, 1, 1, 1)
            x_0 = ab.sqrt() * x_t - (1 - ab).sqrt() * v
            return x_0, (x_t - ab.sqrt() * x_0) / (1 - ab).sqrt()
        """,
    ),
]
