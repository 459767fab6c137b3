"""Answers to lesson 11's exercises.

WRONG: answers that learners give, each as (exercise, code, what the check must say, a
regular expression). RIGHT: correct answers that differ from the solution, as (exercise,
code).
"""

BAYES = """
def my_bayes(before, step):
    pairs = (before[:, None] * step).T
    return {answer}
"""

LIKELIHOOD = """
def my_likelihood(start, back):
    p = {start}
    for t in {steps}:
        p = {step}
    return p
"""

WEIGHT = """
def my_noise_weight(target, snr):
    if target == "noise":
        return {noise}
    if target == "picture":
        return {picture}
    return {velocity}
"""


def bayes(answer):
    return BAYES.format(answer=answer)


def likelihood(steps="range(len(back) - 1, 0, -1)", step="p @ back[t]", start="start"):
    return LIKELIHOOD.format(steps=steps, step=step, start=start)


def weight(noise="torch.ones_like(snr)", picture="1 / snr", velocity="1 + 1 / snr"):
    return WEIGHT.format(noise=noise, picture=picture, velocity=velocity)


WRONG = [
    ("11.1", bayes("pairs"), "for N = 5, M = 7: .*do not sum to 1"),
    ("11.1", bayes("pairs / pairs.sum(0, keepdim=True)"), "sums of the columns"),
    ("11.1", bayes("pairs / pairs.sum()"), "do not sum to 1"),
    ("11.1", bayes("step.T / step.T.sum(1, keepdim=True)"), "`before` is left out"),
    ("11.1", bayes("(pairs / pairs.sum(1, keepdim=True)).T"), "transposed"),
    (
        "11.1",
        bayes("pairs.T / pairs.T.sum(1, keepdim=True)"),
        "gives `step` back",
    ),
    (
        "11.1",
        "def my_bayes(before, step):\n    return (before * step).T",
        "size of tensor.*has a row for each",
    ),
    (
        "11.2",
        likelihood("range(len(back) - 1, 1, -1)"),
        "for T = 4: .*last step is missing",
    ),
    ("11.2", likelihood("range(len(back) - 2, 0, -1)"), "first step is missing"),
    (
        "11.2",
        likelihood("[*range(2, len(back)), 1]"),
        "wrong order",
    ),
    (
        "11.2",
        likelihood("range(1, len(back))"),
        "cannot be multiplied.*begin with t = T",
    ),
    (
        "11.2",
        likelihood(step="back[t] @ p if t > 1 else p @ back[t]"),
        "transposed",
    ),
    ("11.2", likelihood(start="torch.ones_like(start) / len(start)"), "equal shares"),
    (
        "11.2",
        likelihood().replace("return p", "return -p.log2()"),
        "these are bits",
    ),
    ("11.3", "my_bits = 3.48", "bound of the normal steps"),
    ("11.3", "my_bits = 3", "3 bits store eight levels"),
    ("11.3", "my_bits = 0", "The gap is 0"),
    ("11.3", "my_bits = 1.906", "right in nats"),
    ("11.3", "my_bits = 2", "below the entropy"),
    ("11.3", "my_bits = 5", "Without a gap"),
    ("11.4", weight(picture="snr"), 'for "picture".*upside down'),
    ("11.4", weight(picture="1 / snr.sqrt()"), "the error is squared"),
    ("11.4", weight(velocity="snr / (1 + snr)"), 'for "velocity".*upside down'),
    ("11.4", weight(velocity="1 / snr"), "only the picture's part"),
    ("11.4", weight(velocity="(1 + 1 / snr).sqrt()"), "the root is gone"),
    ("11.4", weight(velocity="torch.ones_like(snr)"), "as if it were the noise's"),
    ("11.4", weight(noise="1 / snr"), 'for "noise".*has the weight 1'),
]


RIGHT = [
    (
        "11.1",
        """
        def my_bayes(before, step):
            evidence = before @ step
            return (before[:, None] * step / evidence).T
        """,
    ),
    (
        "11.2",
        """
        def my_likelihood(start, back):
            p = start.numpy()
            for table in reversed(back[1:]):
                p = p @ table.numpy()
            return p
        """,
    ),
    ("11.3", "my_bits = torch.tensor(2.75)"),
    ("11.4", weight(noise="1.0", velocity="(1 + snr) / snr")),
]
