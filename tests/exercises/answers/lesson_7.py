"""Answers to lesson 7's exercises.

WRONG: answers that learners and published notebooks give, each as (exercise, code,
what the check must say, a regular expression). RIGHT: correct answers that differ from
the solution, as (exercise, code).
"""

START = """
def my_start(real, strength, noise, steps, schedule):
    walked = round(strength * (len(steps) - 1))
    left = {left}
    return {x}, left
"""

CHANGE = """
def my_change_step(model, real, edited, t, s, noise, old, new, schedule):
    time = {time}
    rho = (1 / schedule.ab - 1).sqrt()
    real_t = perturb_input({real}, t, noise, schedule)
    edited_t = perturb_input({edited}, t, noise, schedule)
    difference = {difference}
    return {answer}
"""


def paste(answer):
    return f"def my_paste(x, real, mask, s, noise, schedule):\n    return {answer}"


def renoise(answer, kept="schedule.ab[t] / schedule.ab[s]"):
    head = "def my_renoise(x, s, t, noise, schedule):"
    return f"{head}\n    kept = {kept}\n    return {answer}"


def start(
    left="steps[-1 - walked:]", x="perturb_input(real, left[0], noise, schedule)"
):
    return START.format(left=left, x=x)


def mask(answer):
    head = "def my_mask(guess_old, guess_new, threshold=0.3):"
    return f"{head}\n    d = guess_new - guess_old\n    return {answer}"


def change(
    answer="edited + float(rho[s] - rho[t]) * difference",
    difference="model(edited_t, time, new) - model(real_t, time, old)",
    time="torch.tensor(t / schedule.T)",
    real="real",
    edited="edited",
):
    return CHANGE.format(
        answer=answer, difference=difference, time=time, real=real, edited=edited
    )


KNOWN = "perturb_input(real, s, noise, schedule)"
APART = "d.abs().mean((0, 1), keepdim=True)"

WRONG = [
    (
        "7.1",
        paste(f"(1 - mask) * x + mask * {KNOWN}"),
        "at s = 241: .*the mask is exchanged",
    ),
    (
        "7.1",
        paste("mask * x + (1 - mask) * real"),
        "at s = 241: .*pasted without noise",
    ),
    ("7.1", paste(f"x + (1 - mask) * {KNOWN}"), "the known pixels are added to x"),
    ("7.1", paste(KNOWN), "that is the real sprite alone"),
    (
        "7.1",
        paste(
            "mask * x + (1 - mask) * (schedule.ab[s] ** 0.5 * real"
            " + (1 - schedule.ab[s]) * noise)"
        ),
        "is the square root before the noise missing in the bracket",
    ),
    (
        "7.2",
        renoise("perturb_input(x, t, noise, schedule)"),
        "from s = 241 to t = 269: .*noises x as if it were clean",
    ),
    ("7.2", renoise("kept * x + (1 - kept) * noise"), "are the square roots missing"),
    (
        "7.2",
        renoise("kept.sqrt() * x + (1 - kept) * noise"),
        "is the square root missing before the noise",
    ),
    (
        "7.2",
        renoise("kept.sqrt() * x + (1 - kept).sqrt() * noise", "schedule.a[t]"),
        "single step's alpha",
    ),
    ("7.2", renoise("x + (1 - kept).sqrt() * noise"), "x is not scaled down"),
    (
        "7.3",
        start(left="steps[: walked + 1]"),
        "at strength 0.5: these are the first strides",
    ),
    (
        "7.3",
        start(left="steps[-walked:]"),
        "these are 9 strides, expected 10: k strides have k . 1 steps",
    ),
    ("7.3", start(left="steps"), "all steps are left"),
    (
        "7.3",
        start(x="perturb_input(real, schedule.T, noise, schedule)"),
        "noised up to T",
    ),
    ("7.3", start(x="real"), "the picture has no noise yet"),
    (
        "7.3",
        start(x="perturb_input(real, round(strength * schedule.T), noise, schedule)"),
        r"strength \* T",
    ),
    (
        "7.3",
        "def my_start(real, strength, noise, steps, schedule):\n    return real",
        "expected two things",
    ),
    (
        "7.4",
        mask(
            "(d.mean((0, 1), keepdim=True).abs()"
            " / d.mean((0, 1), keepdim=True).abs().max() > threshold).float()"
        ),
        "with threshold 0.3: .*take the absolute value before the mean",
    ),
    ("7.4", mask(f"({APART} > threshold).float()"), "divide by the largest value"),
    (
        "7.4",
        mask(f"({APART} / {APART}.max() <= threshold).float()"),
        "the mask is exchanged",
    ),
    (
        "7.4",
        mask(f"({APART} / {APART}.max() > threshold).float()[0, 0]"),
        "keepdim=True",
    ),
    ("7.4", mask(f"{APART} / {APART}.max()"), "compare it with the threshold"),
    (
        "7.5",
        change("edited + float(rho[t] - rho[s]) * difference"),
        "from t = 299 to 269: .*the sign is reversed",
    ),
    (
        "7.5",
        change(difference="model(edited_t, time, old) - model(real_t, time, new)"),
        "the contexts are exchanged",
    ),
    (
        "7.5",
        change(difference="model(edited_t, time, new) - model(edited_t, time, old)"),
        "both predictions are about the edited picture",
    ),
    (
        "7.5",
        change("real + float(rho[s] - rho[t]) * difference"),
        "you start from the real picture",
    ),
    (
        "7.5",
        change(difference="model(edited_t, time, new)"),
        "the second prediction is missing",
    ),
    ("7.5", change(time="torch.tensor(float(t))"), "takes the time from 0 to 1"),
    (
        "7.5",
        change(difference="model(edited, time, new) - model(real, time, old)"),
        "without noise",
    ),
    ("7.6", 'my_guess = ("variation", "less")', "another method has more"),
    ("7.6", 'my_guess = ("inversion", "less")', "another method has more"),
    (
        "7.6",
        'my_guess = ("difference", "more")',
        "the method is right. But a higher start hides more",
    ),
    ("7.6", 'my_guess = "difference"', r"expected a method and a word"),
    ("7.6", 'my_guess = ("less", "difference")', r"expected a method and a word"),
]

RIGHT = [
    (
        "7.1",
        """
        def my_paste(x, real, mask, s, noise, schedule):
            ab = schedule.ab[s].float()
            known = ab.sqrt() * real + (1 - ab).sqrt() * noise
            return torch.where(mask.bool(), x, known)
        """,
    ),
    (
        "7.2",
        renoise("(kept**0.5 * x + (1 - kept) ** 0.5 * noise).float()"),
    ),
    (
        "7.3",
        start(left="steps[len(steps) - 1 - walked :]"),
    ),
    (
        "7.3",
        start(
            left="torch.tensor(steps)[-1 - walked :]",
            x=("perturb_input(real, int(left[0]), noise, schedule)"),
        ),
    ),
    (
        "7.4",
        """
        def my_mask(guess_old, guess_new, threshold=0.3):
            apart = (guess_old - guess_new).abs().mean(dim=(0, 1))
            return (apart > threshold * apart.max()).float()[None, None]
        """,
    ),
    (
        "7.5",
        change(time="torch.full((len(real),), t / schedule.T)"),
    ),
    ("7.6", 'my_guess = ["Difference", "less"]'),
]
