"""Answers to lesson 1's exercises.

WRONG: answers that learners and published notebooks give, each as (exercise, code,
what the check must say, a regular expression). RIGHT: correct answers that differ from
the solution, as (exercise, code).
"""

FORWARD = """def my_forward(model, x):
    skips = []
    for i, layer in enumerate(model.down_layers):
        x = model.act(layer(x))
        if i < 2:
            skips.append({store})
            x = model.downscale(x)
    for i, layer in enumerate(model.up_layers):
        if i > 0:
            x = model.upscale(x) + skips.pop({which})
        x = {last}
    return x
"""


def forward(store="x", which="", last="model.act(layer(x))"):
    return FORWARD.format(store=store, which=which, last=last)


def concatenated():
    return forward().replace(
        "model.upscale(x) + skips.pop()",
        "torch.cat((model.upscale(x), skips.pop()), dim=1)",
    )


def corrupt(answer):
    return f"def my_corrupt(x, amount, noise):\n    return {answer}"


def step(answer):
    return f"def my_step(x, guess, amount, next_amount):\n    return {answer}"


WRONG = [
    (
        "1.1",
        corrupt("(1 - amount) * x + amount * noise"),
        "RuntimeError.*three more axes",
    ),
    (
        "1.1",
        """
        def my_corrupt(x, amount, noise):
            a = amount.view(-1, 1, 1, 1)
            return a * x + (1 - a) * noise
        """,
        "swapped",
    ),
    (
        "1.1",
        corrupt("x + amount.view(-1, 1, 1, 1) * noise"),
        r"mean brightness is 0\.6\d+, expected 0\.[45]\d*: .*full weight",
    ),
    (
        "1.1",
        """
        def my_corrupt(x, amount, noise):
            a = amount.view(-1, 1, 1, 1)
            return (1 - a).sqrt() * x + a.sqrt() * noise
        """,
        "roots",
    ),
    # a fault of published code: the skips as a queue
    ("1.2", forward(which="0"), "first in, first out"),
    ("1.2", forward(store="0 * x"), "without its skips"),
    (
        "1.2",
        forward(last="layer(x) if i == 2 else model.act(layer(x))"),
        "last SiLU is missing",
    ),
    (
        "1.2",
        """
        def my_forward(model, x):
            for layer in [*model.down_layers, *model.up_layers]:
                x = model.act(layer(x))
            return x
        """,
        "expected",
    ),
    (
        "1.2",
        """
        def my_forward(model, x):
            skips = []
            for i, layer in enumerate(model.down_layers):
                x = model.act(layer(x))
                if i < 2:
                    x = model.downscale(x)
                    skips.append(x)
            for i, layer in enumerate(model.up_layers):
                x = model.act(layer(x if i == 0 else model.upscale(x + skips.pop())))
            return x
        """,
        "store before, add after doubling",
    ),
    ("1.2", concatenated(), "RuntimeError.*Are the skips concatenated"),
    (
        "1.2",
        forward().replace("if i > 0:", "x = x + x if i == 0 else x\n        if i > 0:"),
        "bottom is added to itself",
    ),
    ("1.3", "my_guess = 0.0", "commonest value"),
    ("1.3", "my_guess = 0.5", "squared error of 0.*middle of the range"),
    ("1.3", "my_guess = 29", "outside the range"),
    ("1.3", "my_guess = 0.35", "best lies lower"),
    (
        "1.4",
        step("(1 - next_amount) * guess + next_amount * x"),
        "take the noise out of x first",
    ),
    ("1.4", step("x + (guess - x) * next_amount / amount"), "swapped"),
    (
        "1.4",
        """
        def my_step(x, guess, amount, next_amount):
            noise = (x - (1 - amount) * guess) / amount
            return (1 - next_amount) * x + next_amount * noise
        """,
        "you corrupted x",
    ),
    (
        "1.4",
        """
        def my_step(x, guess, amount, next_amount):
            noise = (x - (1 - next_amount) * guess) / next_amount
            return (1 - next_amount) * guess + next_amount * noise
        """,
        "you took it out by `next_amount`",
    ),
    (
        "1.4",
        """
        def my_step(x, guess, amount, next_amount):
            noise = (x - (1 - next_amount) * guess) / amount
            return (1 - next_amount) * guess + next_amount * noise
        """,
        "you took it out by `next_amount`",
    ),
    ("1.4", step("x"), "returned unchanged"),
    (
        "1.4",
        """
        def my_step(x, guess, amount, next_amount):
            noise = (x - (1 - amount) * guess) / amount
            return (1 - amount) * guess + amount * noise
        """,
        "by `amount` again",
    ),
    (
        "1.4",
        step("x + (guess - x) * (amount - next_amount)"),
        "amount - next_amount of the way",
    ),
    (
        "1.4",
        step("(1 - next_amount) * guess + next_amount * torch.rand_like(x)"),
        "draws fresh noise",
    ),
    (
        "1.4",
        step("guess + next_amount * (x - (1 - amount) * guess) / amount"),
        "it needs 1 - next_amount",
    ),
    (
        "1.4",
        """
        def my_step(x, guess, amount, next_amount):
            noise = x - (1 - amount) * guess / amount
            return (1 - next_amount) * guess + next_amount * noise
        """,
        "into brackets",
    ),
    (
        "1.4",
        """
        def my_step(x, guess, amount, next_amount):
            noise = (x - (1 - amount) * guess) / next_amount
            return (1 - next_amount) * guess + next_amount * noise
        """,
        "divided by next_amount",
    ),
    (
        "1.4",
        step("(x + guess) / 2"),
        r"yours is 0\.50 x \+ 0\.50 guess, and expected is 0\.33 x \+ 0\.67 guess",
    ),
    ("1.5", "my_share = 0", "must name one of ten"),
    ("1.5", "my_share = 0.5", "expected a share, 0 or 1"),
]


RIGHT = [
    (
        "1.1",
        """
        def my_corrupt(x, amount, noise):
            pictures = zip(x, amount, noise)
            return torch.stack([(1 - a) * p + a * u for p, a, u in pictures])
        """,
    ),
    ("1.2", forward()),
    ("1.3", "my_guess = torch.tensor(0.29)"),
    ("1.3", "my_guess = np.float32(0.3)"),
    ("1.4", step("guess + (x - guess) * torch.tensor(next_amount / amount)")),
    ("1.5", "my_share = 1.0"),
    ("1.5", "my_share = torch.tensor(1)"),
]
