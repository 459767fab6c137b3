"""Answers to lesson 3's exercises.

WRONG: answers that learners and published notebooks give, each as (exercise, code,
what the check must say, a regular expression). RIGHT: correct answers that differ from
the solution, as (exercise, code).
"""

SAMPLER = """
def my_sampler(model, x, steps, schedule):
    for t, t_next in zip(steps, steps[1:]):
        time = torch.full((len(x),), {time})
        noise = model(x, time)
        x_0 = predict_x0(x, t, noise, schedule){clamp}
        {move}
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

UNET = """
class SmallUnet(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter = ResidualConvBlock(3, 16)
        self.down = UnetDown(16, 32)
        self.embed_time = EmbedFC(1, 32)
        self.middle = ResidualConvBlock(32, 32)
        self.up = UnetUp(32 + 32, 16)
        self.out = nn.Conv2d(16 + 16, 3, 3, padding=1)

    def forward(self, x, t):
        time = self.embed_time(t){axes}
        full = self.enter(x)
        half = self.down(full)
        middle = {middle}
        up = {up}
        return {out}
"""

NOISE = """
def implied_noise(x_t, t, picture, schedule):
    ab = schedule.ab[t].float(){view}
    return {answer}
"""


def step(
    x_t="perturb_input(x_0, t, noise, schedule)",
    t="t / schedule.T",
    target="noise",
    clear="optimiser.zero_grad()",
    argument="",
):
    return STEP.format(x_t=x_t, t=t, target=target, clear=clear, argument=argument)


def sampler(
    time="t / schedule.T",
    clamp=".clamp(-1, 1)",
    move="x = perturb_input(x_0, t_next, noise, schedule)",
    answer="x",
):
    return SAMPLER.format(time=time, clamp=clamp, move=move, answer=answer)


def unet(
    middle="self.middle(half) + time",
    up="self.up(middle, half)",
    out="self.out(torch.cat((up, full), 1))",
    axes="[..., None, None]",
):
    return UNET.format(middle=middle, up=up, out=out, axes=axes)


def implied_noise(answer, view=".view(-1, 1, 1, 1)"):
    return NOISE.format(answer=answer, view=view)


WRONG = [
    ("3.1", unet("self.middle(half)"), "time is missing"),
    ("3.1", unet("self.middle(half + time)"), "before `middle`"),
    ("3.1", unet("self.middle(half) * time"), "multiplied; add it"),
    ("3.1", unet("half + time"), "`middle` missing"),
    ("3.1", unet(up="self.up(half, middle)"), "from below first, then the skip"),
    ("3.1", unet(up="self.up(middle, half + time)"), "to the skip connection, too"),
    ("3.1", unet(out="self.out(torch.cat((full, up), 1))"), "`enter`'s output"),
    ("3.1", unet(out="self.out(up)"), "RuntimeError"),
    ("3.1", unet(axes=""), "two more axes"),
    ("3.1", unet(out="None"), "returned None"),
    ("3.1", unet().replace("enter", "first"), "'enter' is gone"),
    ("3.1", "def SmallUnet():\n    return 3", "expected the class"),
    # a fault of published code: loss.backward(loss)
    ("3.2", step(argument="loss.detach()"), "multiplied by the loss"),
    ("3.2", step(argument="loss"), "multiplied by the loss"),
    ("3.2", step(t="t"), "not divided by T"),
    ("3.2", step(target="x_0"), "asked for the noise"),
    ("3.2", step(clear="pass"), "after two steps of SGD.*zero_grad"),
    ("3.2", step(x_t="x_0"), "must get x_t"),
    ("3.3", sampler(clamp=""), r"clamp\(-1, 1\)"),
    ("3.3", sampler("t"), "not divided by T"),
    (
        "3.3",
        sampler(move="x = perturb_input(x_0, t_next, torch.randn_like(x), schedule)"),
        "predicted noise back",
    ),
    ("3.3", sampler(move="x = perturb_input(x_0, t, noise, schedule)"), "next step"),
    ("3.3", sampler(move="return x_0"), "first guess"),
    (
        "3.4",
        implied_noise("(x_t - ab * picture) / (1 - ab)"),
        "the square roots missing",
    ),
    (
        "3.4",
        implied_noise("(x_t - ab.sqrt() * picture) / (1 - ab)"),
        "at t = 200: .*the square root on 1 - alpha-bar missing",
    ),
    ("3.4", implied_noise("x_t - ab.sqrt() * picture"), "as it is in x_t"),
    ("3.4", implied_noise("(x_t - picture) / (1 - ab).sqrt()"), "not shrunk"),
    (
        "3.4",
        implied_noise("(x_t - (1 - ab).sqrt() * picture) / ab.sqrt()"),
        "solved for the picture",
    ),
    (
        "3.4",
        implied_noise("(x_t - ab.sqrt() * picture) / (1 - ab).sqrt()", view=""),
        "RuntimeError.*three more axes",
    ),
    ("3.5", "my_guess = 4", "0 of 64 are legal"),
    ("3.5", "my_guess = 24", "6 of 64 are legal, and at last 19"),
    ("3.5", "my_guess = 20", "one of the epochs"),
    (
        "3.5",
        "my_guess = 12",
        "On the sheet of epoch 12, 1 of 64 is legal, and at last 19",
    ),
    ("3.5", "my_guess = 4", "On the sheet of epoch 4, 0 of 64 are legal"),
]


RIGHT = [
    (
        "3.3",
        sampler(
            move="x = perturb_input(x_0, t_next, noise, schedule); y = x_0", answer="y"
        ),
    ),
    (
        "3.1",
        unet(
            "self.middle(half) + time.view(-1, 32, 1, 1)",
            out="self.out(torch.cat([up, full], dim=1))",
            axes="",
        ),
    ),
    # the ContextUnet takes the time as one number, too
    (
        "3.3",
        sampler().replace("torch.full((len(x),), t / schedule.T)", "t / schedule.T"),
    ),
    ("3.4", implied_noise("(1 / ab - 1).rsqrt() * (x_t / ab.sqrt() - picture)")),
    ("3.5", "my_guess = 31.0"),
    ("3.5", "my_guess = torch.tensor(31)"),
]
