"""Answers to lesson 13's exercises.

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


def step(answer, h="lower - a"):
    return HEUN.format(answer=answer, h=h)


def steps(answer):
    return f"def my_steps(n):\n    return {answer}"


WRONG = [
    (
        "13.1",
        noise("(1 - ab).sqrt() * mixture.noised(t).score(x)"),
        r"t = 200, x = 1\.6: you have -1\.48\d*.*, expected 1\.48\d*: the sign",
    ),
    (
        "13.1",
        noise("-(1 - ab) * mixture.noised(t).score(x)"),
        "is the square root missing",
    ),
    (
        "13.1",
        noise("-ab.sqrt() * mixture.noised(t).score(x)"),
        "alpha-bar is the picture's share",
    ),
    (
        "13.1",
        noise("-(1 - ab).sqrt() * mixture.score(x)"),
        "score of the clean mixture",
    ),
    ("13.1", noise("-mixture.noised(t).score(x) / (1 - ab).sqrt()"), "not a quotient"),
    ("13.2", "my_guess = 100", "second order would divide the error by a hundred"),
    ("13.2", "my_guess = 10 ** 0.5", "DDIM has no dice"),
    ("13.2", "my_guess = 0.1", "the error would grow"),
    ("13.2", "my_guess = True", "expected a number"),
    ("13.3", steps("10 * n, 100 * n"), "fewer steps are needed"),
    ("13.3", steps("10 * n, int(10**0.5 * n)"), "cut off"),
    ("13.3", steps("10 * n, 5 * n"), "root of 10"),
    ("13.3", steps("math.ceil(10**0.5 * n), 10 * n"), "swapped"),
    ("13.4", step("x + h * first"), "Euler's step, of first order"),
    (
        "13.4",
        step("x - h * (first + velocity(x - h * first, lower)) / 2"),
        "the step goes the wrong way",
    ),
    (
        "13.4",
        step("x + h * (first + velocity(x + h * first, a)) / 2"),
        "belongs to the amount `lower`",
    ),
    (
        "13.4",
        step("x + h * (first + velocity(x, lower)) / 2"),
        "asked at the old points",
    ),
    ("13.4", step("x + h * (first + velocity(x + h * first, lower))"), "divide by 2"),
    ("13.4", step("x + h * velocity(x + h / 2 * first, a + h / 2)"), "midpoint method"),
]


RIGHT = [
    (
        "13.1",
        noise("-(1 - ab).sqrt() * mixture.noised(t).score(x)").replace(
            "schedule.ab[t]", "schedule.ab[t].float()"
        ),
    ),
    ("13.2", "my_guess = torch.tensor(10.0)"),
    ("13.2", "my_guess = np.float32(10)"),
    ("13.3", steps("np.ceil([10 * n, 10**0.5 * n])")),
    (
        "13.4",
        step(
            "x + h * (first + velocity(x + h * first, lower)) / 2",
            h="torch.tensor(lower - a)",
        ),
    ),
]
