"""Answers to lesson 10's exercises.

WRONG: answers that learners and published notebooks give, each as (exercise, code,
what the check must say, a regular expression). RIGHT: correct answers that differ from
the solution, as (exercise, code).
"""

DEFINED = """
class ResidualUNet(nn.Module):  # stands for the lesson's: what an answer builds on
    def __init__(self, width=16):
        super().__init__()
        self.net = nn.Conv2d(1, 1, 3, padding=1)
        self.time = nn.Linear(1, 1)

    def forward(self, x, t):
        return self.net(x) + self.time(t.view(-1, 1))[..., None, None]
"""

NETWORK = """
def my_network():
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(1, 8, 3, padding=1)
            self.time = nn.Linear(1, 8)
            self.last = nn.Conv2d(8, 1, 3, padding=1)
            {made}

        def forward(self, x, t):
            time = self.time(({t}).view(-1, 1))[..., None, None]
            y = self.last(nn.functional.silu(self.first(x) + time))
            return {end}
    return Small()
"""


def network(end="y", t="t", made="pass"):
    return NETWORK.format(end=end, t=t, made=made)


def field(answer):
    return f"def my_field(layers):\n    return {answer}"


def answers(answer):
    return f"def my_answers():\n    return {answer}"


def price(answer):
    return f"def my_price(height, width, channels):\n    return {answer}"


WRONG = [
    ("10.1", field("1 + sum(kernel for kernel, stride in layers)"), "kernel - 1"),
    (
        "10.1",
        field("1 + sum(kernel - 1 for kernel, stride in layers)"),
        "strides are missing",
    ),
    (
        "10.1",
        """
        def my_field(layers):
            field, pixel = 1, 1
            for kernel, stride in layers:
                pixel *= stride
                field += (kernel - 1) * pixel
            return field
        """,
        "own stride widens only",
    ),
    ("10.2", answers("2, 3"), "7 becomes 15"),
    ("10.2", answers("1, 2"), "3 becomes 5"),
    ("10.3", price("(height * width) ** 2 * channels"), "weighted sum of v"),
    ("10.3", price("2 * height * width * channels"), "squared"),
    (
        "10.4",
        "my_guess = 'residual'",
        r"ends at 0\.045; the lowest of the five is 0\.041",
    ),
    (
        "10.4",
        "my_guess = 'the first'",
        "expected one of these names: time as a channel",
    ),
    (
        "10.5",
        """
        def my_network():
            class NoTime(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.net = nn.Conv2d(1, 1, 3, padding=1)
                def forward(self, x, t):
                    return self.net(x)
            return NoTime()
        """,
        "is t used at all",
    ),
    (
        "10.5",
        """
        def my_network():
            class Narrow(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.net = nn.Conv2d(1, 4, 3)
                def forward(self, x, t):
                    return self.net(x) + t.view(-1, 1, 1, 1)
            return Narrow()
        """,
        r"returned \(4, 4, 26, 26\)",
    ),
    (
        "10.5",
        """
        def my_network():
            return BasicUNet()
        """,
        "stopped with TypeError",
    ),
    (
        "10.5",
        network(end="torch.sigmoid(y)"),
        "between 0.00 and 1: your network ends in a sigmoid",
    ),
    ("10.5", network(end="torch.relu(y)"), "ends in a ReLU"),
    ("10.5", network(end="nn.functional.silu(y)"), "ends in a SiLU"),
    (
        "10.5",
        network(end="nn.functional.silu(y)", made="self.last.weight.data *= 1e-3"),
        "ends in a SiLU",
    ),
    ("10.5", network(end="y.tanh()"), "ends in a tanh"),
    ("10.5", network(t="t[:1]"), "every picture got the first one's t"),
    ("10.5", network(t="0 * t"), "is t used at all"),
    ("10.5", network(end="y + torch.randn_like(y)"), "gives two answers"),
    ("10.5", network(end="y - y.mean(0)"), "depends on the others in its batch"),
]


RIGHT = [
    ("10.2", answers("torch.tensor([2, 2])")),
    ("10.4", "my_guess = 'Time at each LEVEL'"),
    ("10.5", network()),
    # a last layer that starts at zero; and one that starts small
    (
        "10.5",
        network(
            made="nn.init.zeros_(self.last.weight); nn.init.zeros_(self.last.bias)"
        ),
    ),
    (
        "10.5",
        network(made="self.last.weight.data *= 1e-3; self.last.bias.data *= 1e-3"),
    ),
    (
        "10.5",
        network(
            made="nn.init.zeros_(self.time.weight); nn.init.zeros_(self.time.bias)"
        ),
    ),
    # a SiLU that is registered last, and not used last
    ("10.5", network(made="self.act = nn.SiLU()")),
    ("10.5", network(made="self.double()")),
    (
        "10.5",
        """
        def my_network():
            class Wrapped(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.net = ContextUnet(1, 8, 5, 28)
                def forward(self, x, t):
                    return self.net(x, t)
            return Wrapped()
        """,
    ),
]
