"""Answers to lesson 3's exercises.

WRONG: answers that learners and published notebooks give, each as (exercise, code,
what the check must say, a regular expression). RIGHT: correct answers that differ from
the solution, as (exercise, code).
"""

BLOCK = """
class RepairedBlock(ResidualConvBlock):
    def __init__(self, in_channels, out_channels):
        super().__init__(in_channels, out_channels, is_res=True)
        {made}

    def forward(self, x):
        x1 = self.conv1(x)
        x2 = self.conv2(x1)
        {before}
        return {answer}
"""

FILM = """
class FiLM(nn.Module):
    def __init__(self, z_dim, channels):
        super().__init__()
        self.scale_and_shift = nn.Linear(z_dim, 2 * channels)

    def forward(self, h, z):
        scale, shift = self.scale_and_shift(z){axes}.chunk(2, dim=1)
        return {answer}
"""

STEP = """
def my_train_step(model, optimiser, x_0, t, noise, schedule):
    x_t = {x_t}
    loss = (model(x_t, {t}) - {target}).square().mean()
    {clear}
    loss.backward({argument})
    optimiser.step()
    return loss.item()
"""

AVERAGE = """
def my_update_average(ema, model, n, decay):
    d = {d}
    for name, new in {what}:
        if new.is_floating_point():
            {update}
        else:
            {copy}
    return ema
"""

PAIR = """
def training_pair(x_0, t, noise, schedule):
    ab = schedule.ab[t].float(){view}
    return {x_t}, {target}
"""

PIXEL = """
def pixel_probabilities(pixel, t, palette, log_share, schedule):
    ab = schedule.ab[t].float()
    far = (pixel - {colour}).square().sum(1)
    scores = {exponent}
    return {answer}
"""


def block(
    made="self.shortcut = nn.Conv2d(in_channels, out_channels, 1)",
    before="pass",
    answer="(self.shortcut(x) + x2) / 2**0.5",
):
    return BLOCK.format(made=made, before=before, answer=answer)


def film(answer, axes="[..., None, None]"):
    return FILM.format(answer=answer, axes=axes)


def step(
    x_t="perturb_input(x_0, t, noise, schedule)",
    t="t / schedule.T",
    target="noise",
    clear="optimiser.zero_grad()",
    argument="",
):
    return STEP.format(x_t=x_t, t=t, target=target, clear=clear, argument=argument)


def average(
    update="ema[name].lerp_(new, 1 - d)",
    copy="ema[name].copy_(new)",
    d="min(decay, (1 + n) / (10 + n))",
    what="model.state_dict().items()",
):
    return AVERAGE.format(d=d, what=what, update=update, copy=copy)


def pair(x_t, target="noise", view=".view(-1, 1, 1, 1)"):
    return PAIR.format(x_t=x_t, target=target, view=view)


def dropping(answer):
    return f"def my_drop(c, p):\n    return {answer}"


def pixel(exponent, answer="scores.softmax(0)", colour="ab.sqrt() * palette"):
    return PIXEL.format(exponent=exponent, answer=answer, colour=colour)


def training_pair(answer):
    return f"def training_pair(x_0, t, noise, schedule):\n    return {answer}"


WRONG = [
    ("3.1", "my_count = 3 * 64 * 9 + 64 * 64 * 9 + 2 * 2 * 64", "128 are missing"),
    ("3.1", "my_count = 3 * 64 * 9 + 64 + 64 * 64 * 9 + 64", "batch norms missing"),
    ("3.1", "my_count = 3 * 64 + 64 + 64 * 64 + 64 + 4 * 64", "window missing"),
    ("3.1", "my_count = 1000", "too few"),
    # faults of published code: a random 1 x 1 convolution at each call, and a block
    # that is not residual
    (
        "3.2",
        block(
            "pass",
            "shortcut = nn.Conv2d(x.shape[1], x2.shape[1], 1)",
            "(shortcut(x) + x2) / 2**0.5",
        ),
        r"differ by 1\.\d+ of .*made in `forward`",
    ),
    ("3.2", block(answer="x2"), "not residual"),
    (
        "3.2",
        block(answer="self.shortcut(x) + x2"),
        "output has std .*root of 2 is missing",
    ),
    (
        "3.2",
        block(
            "self.parts = [nn.Conv2d(in_channels, out_channels, 1)]",
            answer="(self.parts[0](x) + x2) / 2**0.5",
        ),
        "no 1 x 1 convolution among",
    ),
    ("3.2", block("pass", answer="(x1 + x2) / 2**0.5"), "helper's repair"),
    ("3.3", film("scale * h + shift", ""), "RuntimeError.*two axes"),
    ("3.3", film("shift * h + scale"), "swapped"),
    ("3.3", film("(1 + scale) * h + shift"), r"1 \+ gamma"),
    # a fault of published code: the root on the noise
    (
        "3.4",
        pair("ab.sqrt() * x_0 + (1 - ab) * noise"),
        (
            r"at t = 50, the input: the noise in your input has std 0\.05\d+, "
            r"expected 0\.23\d*: is the square root"
        ),
    ),
    (
        "3.4",
        pair("ab.sqrt() * x_0 + (1 - ab).sqrt() * noise", "x_0"),
        "clean picture; here the network is asked for the noise",
    ),
    (
        "3.4",
        pair("ab.sqrt() * x_0 + (1 - ab).sqrt() * noise", view=""),
        "RuntimeError.*three more axes",
    ),
    ("3.4", training_pair("perturb_input(x_0, t, noise, schedule)"), "expected a pair"),
    # a fault of published code: loss.backward(loss)
    ("3.5", step(argument="loss.detach()"), "multiplied by the loss"),
    ("3.5", step(argument="loss"), "multiplied by the loss"),
    ("3.5", step(t="t"), "not divided by T"),
    ("3.5", step(target="x_0"), "asked for the noise"),
    ("3.5", step(clear="pass"), "after two steps of SGD.*zero_grad"),
    ("3.5", step(x_t="x_0"), "must get x_t"),
    ("3.6", "my_guess = 4", "0 of 64 are legal"),
    ("3.6", "my_guess = 24", "6 of 64 are legal, and at last 19"),
    ("3.6", "my_guess = 20", "one of the epochs"),
    (
        "3.6",
        "my_guess = 12",
        "On the sheet of epoch 12, 1 of 64 is legal, and at last 19",
    ),
    ("3.6", "my_guess = 4", "On the sheet of epoch 4, 0 of 64 are legal"),
    ("3.7", dropping("c * (torch.rand(c.shape) >= p)"), "one draw decides for a row"),
    (
        "3.7",
        dropping("c * (torch.rand(len(c), 1) < p)"),
        "share dropped, not the share kept",
    ),
    ("3.7", dropping("c * (torch.rand(1) >= p)"), "share one draw"),
    (
        "3.7",
        dropping("c * (torch.rand(len(c), 1) >= p) / (1 - p)"),
        r"multiplied by 1\.11, as nn.Dropout",
    ),
    (
        "3.7",
        """
        def my_drop(c, p):
            kept = c.clone()
            kept[torch.randperm(len(c))[: round(p * len(c))]] = 0
            return kept
        """,
        "Each of 200 batches of 10 rows lost exactly 3",
    ),
    (
        "3.7",
        dropping("c * (torch.rand(len(c)) >= p)"),
        r"RuntimeError.*\(B,\) does not line up with \(B, 5\): draw \(B, 1\)",
    ),
    ("3.8", average(d="decay"), "not warmed up"),
    ("3.8", average("ema[name].lerp_(new, d)"), "swapped"),
    ("3.8", average(what="model.named_parameters()"), "buffers were left"),
    (
        "3.8",
        average(copy="ema[name].lerp_(new, 1 - d)"),
        "whole number: copy it",
    ),
    (
        "3.8",
        average(copy="ema[name].copy_(d * ema[name] + (1 - d) * new)"),
        "num_batches_tracked: .*whole number: copy it, do not average it",
    ),
    (
        "3.8",
        average(
            "ema = {**ema, name: d * ema[name] + (1 - d) * new}",
            "ema = {**ema, name: new.clone()}",
        ),
        "update it in place",
    ),
    (
        "3.8",
        average("ema[name] = d * ema[name] + (1 - d) * new", "ema[name] = new"),
        "num_batches_tracked'. has become the model's own tensor",
    ),
    ("3.9", pixel("-far / (2 * (1 - ab))"), "shares of the colours are missing"),
    (
        "3.9",
        pixel("log_share - far / (2 * (1 - ab).sqrt())"),
        "divides by the standard deviation",
    ),
    ("3.9", pixel("log_share - far / (2 * (1 - ab))", "scores"), "softmax is missing"),
    ("3.9", pixel("log_share - far / (2 * (1 - ab))", colour="palette"), "not shrunk"),
    (
        "3.9",
        pixel("log_share * (-far / (2 * (1 - ab))).exp()", "scores"),
        "a logarithm already: add the two",
    ),
    (
        "3.9",
        pixel("log_share * (-far / (2 * (1 - ab))).exp()"),
        "a logarithm already: add the two",
    ),
    (
        "3.9",
        pixel("log_share * (-far / (2 * (1 - ab))).exp()", "scores / scores.sum()"),
        "a logarithm already: add the two",
    ),
]


RIGHT = [
    ("3.1", "my_count = torch.tensor(38976)"),
    (
        "3.4",
        training_pair("torch.stack([perturb_input(x_0, t, noise, schedule), noise])"),
    ),
    ("3.4", training_pair("[perturb_input(x_0, t, noise, schedule), noise]")),
    ("3.6", "my_guess = 31.0"),
    ("3.6", "my_guess = torch.tensor(31)"),
    ("3.7", dropping("torch.where(torch.rand(len(c)) < p, torch.tensor(0.0), c.T).T")),
    ("3.7", dropping("c * torch.bernoulli(torch.full((len(c), 1), 1 - p))")),
    (
        "3.8",
        average("ema[name].copy_(d * ema[name] + (1 - d) * new)"),
    ),
    (
        "3.8",
        average("ema[name] = d * ema[name] + (1 - d) * new", "ema[name] = new.clone()"),
    ),
]
