"""Answers to lesson 14's exercises.

WRONG: answers that learners give, each as (exercise, code, what the check must say, a
regular expression). RIGHT: correct answers that differ from the solution, as
(exercise, code).
"""

STOPS = """
def my_stops(amount, n):
    wanted = torch.linspace({wanted})
    return [int((amount - value).abs().argmin()) for value in wanted]
"""


def stops(wanted):
    return STOPS.format(wanted=wanted)


def target(answer):
    return f"def my_target(x_0, x_0_last, h, h_last):\n    return {answer}"


def jump(answer):
    return f"""
def my_jump(x, t, s, z, schedule):
    kept = schedule.ab[s] / schedule.ab[t]
    return {answer}
"""


def loss(answer):
    return f"def my_student_loss(x_0, real, fake):\n    return {answer}"


WRONG = [
    ("14.1", stops("float(amount[0]), float(amount[-1]), n + 1"), "starts at T"),
    ("14.1", stops("float(amount[-1]), float(amount[0]), n"), r"need n \+ 1"),
    (
        "14.1",
        "def my_stops(amount, n):\n    T = len(amount) - 1\n"
        "    return [round(T * i / n) for i in range(n, -1, -1)]",
        "even in the amount",
    ),
    ("14.2", target("x_0 + h / h_last * (x_0 - x_0_last)"), "aims at its middle"),
    ("14.2", target("x_0 + h_last / (2 * h) * (x_0 - x_0_last)"), "upside down"),
    ("14.2", target("x_0 - h / (2 * h_last) * (x_0 - x_0_last)"), "the sign"),
    ("14.2", target("x_0 + (x_0 - x_0_last) / 2"), "strides are left out"),
    ("14.3", "my_guess = 4", "first order"),
    ("14.3", "my_guess = 8", "4 to the power of 2"),
    ("14.3", "my_guess = 0.1", "shrinks"),
    ("14.4", jump("kept.sqrt() * x + (1 - kept) * z"), "noise's factor"),
    ("14.4", jump("kept * x + (1 - kept).sqrt() * z"), "x's factor"),
    ("14.4", jump("x + (1 - kept).sqrt() * z"), "must shrink"),
    (
        "14.4",
        jump("schedule.ab[s].sqrt() * x + (1 - schedule.ab[s]).sqrt() * z"),
        "as if x were a clean picture",
    ),
    ("14.5", loss("((real - fake).detach() * x_0).mean()"), "the sign"),
    ("14.5", loss("((fake - real) * x_0).mean()"), "Detach both"),
    ("14.5", loss("(x_0 - real.detach()).square().mean()"), "must push"),
    ("14.5", loss("(fake - real).detach() * x_0"), "one number"),
    ("14.5", loss("((fake - real) * x_0).detach().mean()"), "no gradient"),
]


RIGHT = [
    (
        "14.1",
        "def my_stops(amount, n):\n"
        "    wanted = np.linspace(float(amount[-1]), float(amount[0]), n + 1)\n"
        "    return np.abs(amount.numpy()[:, None] - wanted).argmin(0)",
    ),
    ("14.2", target("x_0 + (h / h_last / 2) * x_0 - (h / h_last / 2) * x_0_last")),
    ("14.3", "my_guess = torch.tensor(16.0)"),
    ("14.4", jump("(1 - kept).sqrt() * z + x * kept ** 0.5")),
    (
        "14.5",
        loss("(x_0 - (x_0 + real - fake).detach()).square().sum() / 2"),
    ),
    ("14.5", loss("(fake.detach() * x_0 - real.detach() * x_0).sum()")),
]
