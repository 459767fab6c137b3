"""Answers to lesson 6's exercises.

WRONG: answers that learners and published notebooks give, each as (exercise, code,
what the check must say, a regular expression). RIGHT: correct answers that differ from
the solution, as (exercise, code).
"""

BETWEEN = """
def my_guided_between(model, w, low, high, T=500):
    def predict(x, t, c):
        plain = model(x, t, c)
        if {condition}:
            null = model(x, t, None)
            return null + w * (plain - null)
        return plain
    return predict
"""

COMPOSED = """
def my_composed(model, x, t, plain, one, other, w):
    base = model(x, t, plain)
    a = model(x, t, one)
    b = model(x, t, other)
    return {line}
"""


def row(entry):
    return f"def my_row(asked, columns):\n    return torch.tensor({entry})"


def dropping(answer):
    return f"def my_drop(c, p):\n    return {answer}"


def guidance(answer):
    return f"def my_guidance(null, context, w):\n    return {answer}"


def between(condition):
    return BETWEEN.format(condition=condition)


def composed(line):
    return COMPOSED.format(line=line)


WRONG = [
    (
        "6.1",
        row("[float(value in asked.values()) for _, value in columns]"),
        "only its value was compared",
    ),
    (
        "6.1",
        row("[float(factor in asked) for factor, _ in columns]"),
        "only its factor was compared",
    ),
    (
        "6.1",
        row("[[float(asked.get(f) == value) for f, value in columns]]"),
        "an axis too many",
    ),
    (
        "6.1",
        row("[columns.index(column) for column in asked.items()]"),
        "these are places of columns",
    ),
    ("6.2", dropping("c * (torch.rand(c.shape) >= p)"), "one draw decides for a row"),
    (
        "6.2",
        dropping("c * (torch.rand(len(c), 1) < p)"),
        "share dropped, not the share kept",
    ),
    ("6.2", dropping("c * (torch.rand(1) >= p)"), "share one draw"),
    (
        "6.2",
        dropping("c * (torch.rand(len(c), 1) >= p) / (1 - p)"),
        r"multiplied by 1\.11, as nn.Dropout",
    ),
    (
        "6.2",
        """
        def my_drop(c, p):
            kept = c.clone()
            kept[torch.randperm(len(c))[: round(p * len(c))]] = 0
            return kept
        """,
        "Each of 200 batches of 10 rows lost exactly 3",
    ),
    (
        "6.2",
        dropping("c * (torch.rand(len(c)) >= p)"),
        r"RuntimeError.*\(B,\) does not line up with \(B, 5\): draw \(B, 1\)",
    ),
    (
        "6.3",
        guidance("context + w * (context - null)"),
        "at w = 3: .*paper's w', 1 more",
    ),
    ("6.3", guidance("(1 + w) * context - w * null"), "paper's w', 1 more"),
    ("6.3", guidance("context + w * (null - context)"), "null and context are swapped"),
    ("6.3", guidance("w * (context - null)"), "the base is missing"),
    ("6.3", guidance("null + w * context"), "the base is not subtracted"),
    ("6.3", guidance("null + w * (null - context)"), "are the signs right"),
    ("6.3", guidance("context"), "where is w"),
    ("6.4", 'my_guess = "FD"', "FD rises from .*on the way"),
    ("6.4", 'my_guess = "variety"', "total variation rises from .*on the way"),
    ("6.4", "my_guess = 8", "expected .class., .variety. or .FD."),
    # guidance outside of the interval instead of inside
    (
        "6.5",
        between("not low <= round(float(t[0]) * T) <= high"),
        "at step 250 of 500, .*here it should guide and does not",
    ),
    (
        "6.5",
        between("low <= round(float(t[0]) * 500) <= high"),
        "is T taken from the argument",
    ),
    ("6.5", between("low <= float(t[0]) <= high"), "is it multiplied by T"),
    (
        "6.5",
        between("low < round(float(t[0]) * T) < high"),
        "at step 125 .*the ends belong",
    ),
    (
        "6.5",
        between("low <= float(t[0]) * T <= high"),
        r"at step 102 .*t \* T is 101\.9999981 here: is it rounded",
    ),
    ("6.5", between("True"), "at step 62 .*guided outside of the interval"),
    # the products added without subtracting the base
    ("6.6", composed("w * a + w * b"), "at w = 2: .*the class comes in twice"),
    ("6.6", composed("base + w * a + w * b"), "the base is not subtracted"),
    ("6.6", composed("w * (a - base) + w * (b - base)"), "is missing"),
    (
        "6.6",
        composed("base + w * (model(x, t, one + other - plain) - base)"),
        "each is asked for alone",
    ),
    ("6.6", composed("base + w * ((a + b) / 2 - base)"), "that is the mean"),
]


RIGHT = [
    (
        "6.1",
        """
        def my_row(asked, columns):
            row = torch.zeros(len(columns))
            for column in asked.items():
                row[columns.index(column)] = 1
            return row
        """,
    ),
    ("6.2", dropping("torch.where(torch.rand(len(c)) < p, torch.tensor(0.0), c.T).T")),
    ("6.2", dropping("c * torch.bernoulli(torch.full((len(c), 1), 1 - p))")),
    ("6.3", guidance("(1 - w) * null + w * context")),
    ("6.3", guidance("torch.lerp(null, context, w)")),
    ("6.4", 'my_guess = " Class "'),
    ("6.5", between("low - 0.5 < float(t[0]) * T < high + 0.5")),
    ("6.6", composed("w * a + w * b + (1 - 2 * w) * base")),
]
