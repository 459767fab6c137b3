"""Wrong answers to lesson 7's exercises that learners and published notebooks give: (exercise, their code, what the check must say)."""

DEFINED = """
class ResidualUNet(nn.Module):  # stands for the lesson's: what an answer builds on
    def __init__(self, width=16):
        super().__init__()
        self.net, self.time = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(1, 1)

    def forward(self, x, t):
        return self.net(x) + self.time(t.view(-1, 1))[..., None, None]
"""

WRONG = [
    ("7.1", "def my_field(layers):\n    return 1 + sum(kernel for kernel, stride in layers)", "kernel - 1"),
    ("7.1", "def my_field(layers):\n    return 1 + sum(kernel - 1 for kernel, stride in layers)", "strides are missing"),
    ("7.1", "def my_field(layers):\n    field, pixel = 1, 1\n    for kernel, stride in layers:\n        pixel *= stride\n"
     "        field += (kernel - 1) * pixel\n    return field",
     "own stride widens only"),
    ("7.2", "def my_answers():\n    return 2, 3", "7 becomes 15"),
    ("7.2", "def my_answers():\n    return 1, 2", "3 becomes 5"),
    ("7.3", "def my_price(height, width, channels):\n    return (height * width) ** 2 * channels", "weighted sum of v"),
    ("7.3", "def my_price(height, width, channels):\n    return 2 * height * width * channels", "squared"),
    ("7.4", "my_guess = 'residual'", r"ends at 0\.045; the lowest of the five is 0\.041"),
    ("7.4", "my_guess = 'the first'", "expected one of these names: time as a channel"),
    ("7.5", "def my_network():\n    class NoTime(nn.Module):\n        def __init__(self):\n            super().__init__()\n"
     "            self.net = nn.Conv2d(1, 1, 3, padding=1)\n"
     "        def forward(self, x, t):\n            return self.net(x)\n    return NoTime()", "is t used at all"),
    ("7.5", "def my_network():\n    class Narrow(nn.Module):\n        def __init__(self):\n            super().__init__()\n"
     "            self.net = nn.Conv2d(1, 4, 3)\n"
     "        def forward(self, x, t):\n            return self.net(x) + t.view(-1, 1, 1, 1)\n    return Narrow()", r"returned \(4, 4, 26, 26\)"),
    ("7.5", "def my_network():\n    return BasicUNet()", "stopped with TypeError"),
]  # fmt: skip
