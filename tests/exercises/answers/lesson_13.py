"""Answers to lesson 13's exercises.

WRONG: answers that learners and published notebooks give, each as (exercise, code,
what the check must say, a regular expression). RIGHT: correct answers that differ from
the solution, as (exercise, code).
"""

PAIR = """
def my_pair(x_0, noise, s):
    s = s.view(-1, 1, 1, 1)
    return {mixture}, {velocity}
"""

LOSS = """
def my_flow_loss(network, x_0):
    noise = {noise}
    s = {s}
    share = s[:, None]
    x_s = {mixture}
    return {error}
"""

EULER = """
def my_euler(velocity, x, n):
    for i in range({count}):
        s = torch.full((len(x),), {s})
        x = {x}
    return x
"""


def pair(mixture="s * x_0 + (1 - s) * noise", velocity="x_0 - noise"):
    return PAIR.format(mixture=mixture, velocity=velocity)


def loss(
    mixture="share * x_0 + (1 - share) * noise",
    error="F.mse_loss(network(x_s, s), x_0 - noise)",
    s="torch.rand(len(x_0))",
    noise="torch.randn_like(x_0)",
):
    return LOSS.format(mixture=mixture, error=error, s=s, noise=noise)


def walk(x="x + velocity(x, s) / n", s="i / n", count="n"):
    return EULER.format(x=x, s=s, count=count)


def converted(answer):
    return f"def my_velocity(x_s, noise, s):\n    return {answer}"


def shifted(answer):
    return f"def my_shift(s, alpha):\n    return {answer}"


WRONG = [
    ("13.1", pair("(1 - s) * x_0 + s * noise"), "the shares are swapped"),
    (
        "13.1",
        pair("s.sqrt() * x_0 + (1 - s).sqrt() * noise"),
        "lesson 2's square roots",
    ),
    ("13.1", pair(velocity="noise - x_0"), "the sign: from the noise"),
    ("13.1", pair(velocity="x_0 - (s * x_0 + (1 - s) * noise)"), "over the time"),
    ("13.1", pair("x_0 - noise", "s * x_0 + (1 - s) * noise"), "parts .* are swapped"),
    ("13.2", loss(error="F.mse_loss(network(x_s, s), noise - x_0)"), "the sign"),
    ("13.2", loss(error="F.mse_loss(network(x_s, s), noise)"), "target is the noise"),
    ("13.2", loss(error="F.mse_loss(network(x_s, s), x_0)"), "target is the clean"),
    (
        "13.2",
        loss(error="F.mse_loss(network(x_s, 1 - s), x_0 - noise)"),
        "the shares are swapped",
    ),
    ("13.2", loss("(1 - share) * x_0 + share * noise"), "the shares are swapped"),
    (
        "13.2",
        loss("share.sqrt() * x_0 + (1 - share).sqrt() * noise"),
        "lesson 2's square roots",
    ),
    ("13.2", loss(s="torch.rand(1).expand(len(x_0))"), "all pictures have the same s"),
    ("13.2", loss(s="torch.randn(len(x_0))"), "expected 0 to 1"),
    ("13.2", loss(noise="torch.rand_like(x_0)"), "never below 0"),
    (
        "13.2",
        loss(error="F.mse_loss(network(x_s, 0.5), x_0 - noise)"),
        "expected one number for each",
    ),
    (
        "13.2",
        loss(error="F.mse_loss(network(x_s, s), x_0 - noise, reduction='sum')"),
        "take the mean",
    ),
    (
        "13.2",
        loss(error="F.mse_loss(network(x_s, s), x_0 - torch.randn_like(x_0))"),
        "with the same noise in both",
    ),
    ("13.3", "my_guess = (0, 0)", "mean of the noise"),
    ("13.3", "my_guess = (0.4, 0.4)", "that is a bell"),
    ("13.3", "my_guess = (1.5, -1)", "not there"),
    ("13.3", "my_guess = 0.2", "expected two numbers"),
    ("13.4", walk("x - velocity(x, s) / n"), "the step goes the wrong way"),
    ("13.4", walk(s="1 - i / n"), "times run from 1 to 0"),
    ("13.4", walk(s="(i + 1) / n"), "asked at the end of each step"),
    ("13.4", walk("x + velocity(x, s)"), "each takes 1/n"),
    ("13.4", walk(s="0.0"), "s is always 0"),
    ("13.4", walk("x + velocity(x, i / n) / n"), "one number for each point"),
    ("13.5", converted("(noise - x_s) / s"), "the sign"),
    ("13.5", converted("(x_s - noise) / (1 - s)"), "you divide by 1 - s"),
    ("13.5", converted("x_s - noise"), "x_s is not the picture"),
    ("13.5", converted("(x_s - (1 - s) * noise) / s"), "implied picture"),
    ("13.6", shifted("alpha * s / (alpha * s + 1 - s)"), "goes the wrong way"),
    ("13.6", shifted("s / alpha"), "not the share"),
    ("13.6", shifted("1 - s / (s + alpha * (1 - s))"), "share of the noise"),
    ("13.6", shifted("s / (1 - s) / alpha"), "this is the ratio"),
]


RIGHT = [
    ("13.1", pair().replace("return", "return [") + "]"),
    ("13.1", pair("noise + s * (x_0 - noise)")),
    ("13.2", loss(error="(network(x_s, s) - x_0 + noise).square().mean()")),
    ("13.2", loss("noise + share * (x_0 - noise)", s="1 - torch.rand(len(x_0))")),
    ("13.3", "my_guess = torch.tensor([0.2, 0.3])"),
    ("13.3", "my_guess = [0.2, 0.3]"),
    ("13.4", walk("torch.lerp(x, x + velocity(x, s), 1 / n)")),
    ("13.5", converted("(x_s - (1 - s) * noise) / s - noise")),
    ("13.6", shifted("1 - alpha * (1 - s) / (1 + (alpha - 1) * (1 - s))")),
    ("13.6", shifted("s / (s + alpha - alpha * s)")),
]
