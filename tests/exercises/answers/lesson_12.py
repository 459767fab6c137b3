"""Answers to lesson 12's exercises.

WRONG: answers that learners and published notebooks give, each as (exercise, code,
what the check must say, a regular expression). RIGHT: correct answers that differ from
the solution, as (exercise, code).
"""

NOISE = """
def my_ideal_noise(mixture, x, t, schedule):
    ab = schedule.ab[t]
    return {answer}
"""

HEUN = """
def my_heun(velocity, x, a, lower):
    h = {h}
    first = velocity(x, a)
    return {answer}
"""


def noise(answer):
    return NOISE.format(answer=answer)


def closeness(answer):
    return f"def my_closeness(x_t, X, a, s):\n    return {answer}"


def step(answer, h="lower - a"):
    return HEUN.format(answer=answer, h=h)


def steps(answer):
    return f"def my_steps(n):\n    return {answer}"


WRONG = [
    (
        "12.1",
        noise("(1 - ab).sqrt() * mixture.noised(t).score(x)"),
        r"t = 200, x = 1\.6: you have -1\.48\d*.*, expected 1\.48\d*: the sign",
    ),
    # a variance where the standard deviation belongs
    (
        "12.1",
        noise("-(1 - ab) * mixture.noised(t).score(x)"),
        "is the square root missing",
    ),
    (
        "12.1",
        noise("-ab.sqrt() * mixture.noised(t).score(x)"),
        "alpha-bar is the picture's share",
    ),
    (
        "12.1",
        noise("-(1 - ab).sqrt() * mixture.score(x)"),
        "score of the clean mixture",
    ),
    ("12.1", noise("-mixture.noised(t).score(x) / (1 - ab).sqrt()"), "not a quotient"),
    ("12.2", "my_guess = 100", "second order would divide the error by a hundred"),
    ("12.2", "my_guess = 10 ** 0.5", "DDIM has no dice"),
    ("12.2", "my_guess = 0.1", "the error would grow"),
    ("12.2", "my_guess = True", "expected a number"),
    ("12.3", steps("10 * n, 100 * n"), "fewer steps are needed"),
    ("12.3", steps("10 * n, int(10**0.5 * n)"), "cut off"),
    ("12.3", steps("10 * n, 5 * n"), "root of 10"),
    ("12.3", steps("math.ceil(10**0.5 * n), 10 * n"), "swapped"),
    ("12.4", "my_guess = 3", "Bell 3 is the nearest of the three to the other class"),
    ("12.4", "my_guess = 1", "Bell 1 is not the furthest"),
    (
        "12.5",
        closeness("-(x_t - a**0.5 * X).square().sum(1) / (2 * (1 - a))"),
        "s is not used",
    ),
    (
        "12.5",
        closeness("-(x_t - a * X).square().sum(1) / (2 * (a * s**2 + 1 - a))"),
        "is the root missing",
    ),
    (
        "12.5",
        closeness("-(x_t - a**0.5 * X).square().sum(1) / (2 * (s**2 + 1 - a))"),
        "the cloud shrinks",
    ),
    (
        "12.5",
        closeness(
            "-(x_t - a**0.5 * X).square().sum(1) / (2 * (a * s**2 + 1 - a) ** 0.5)"
        ),
        "you divide by the standard deviation",
    ),
    (
        "12.5",
        closeness("(x_t - a**0.5 * X).square().sum(1) / (2 * (a * s**2 + 1 - a))"),
        "the sign",
    ),
    (
        "12.5",
        """
        def my_closeness(x_t, X, a, s):
            logs = -(x_t - a**0.5 * X).square().sum(1) / (2 * (a * s**2 + 1 - a))
            return logs.softmax(0)
        """,
        "the weights themselves",
    ),
    (
        "12.5",
        closeness(
            "(-(x_t - a**0.5 * X).square().sum(1) / (2 * (a * s**2 + 1 - a))).exp()"
        ),
        "these are the weights themselves; the task asks for their logarithms",
    ),
    ("12.6", step("x + h * first"), "Euler's step, of first order"),
    (
        "12.6",
        step("x - h * (first + velocity(x - h * first, lower)) / 2"),
        "the step goes the wrong way",
    ),
    (
        "12.6",
        step("x + h * (first + velocity(x + h * first, a)) / 2"),
        "belongs to the amount `lower`",
    ),
    (
        "12.6",
        step("x + h * (first + velocity(x, lower)) / 2"),
        "asked at the old points",
    ),
    ("12.6", step("x + h * (first + velocity(x + h * first, lower))"), "divide by 2"),
    ("12.6", step("x + h * velocity(x + h / 2 * first, a + h / 2)"), "midpoint method"),
]


RIGHT = [
    (
        "12.1",
        noise("-(1 - ab).sqrt() * mixture.noised(t).score(x)").replace(
            "schedule.ab[t]", "schedule.ab[t].float()"
        ),
    ),
    ("12.2", "my_guess = torch.tensor(10.0)"),
    ("12.2", "my_guess = np.float32(10)"),
    ("12.3", steps("np.ceil([10 * n, 10**0.5 * n])")),
    ("12.4", "my_guess = torch.tensor(2)"),
    ("12.4", "my_guess = 2.0"),
    (
        "12.5",
        closeness(
            "-(x_t - a**0.5 * X).float().square().sum(1) / (2 * (a * s**2 + 1 - a))"
        ),
    ),
    (
        "12.6",
        step(
            "x + h * (first + velocity(x + h * first, lower)) / 2",
            h="torch.tensor(lower - a)",
        ),
    ),
]
