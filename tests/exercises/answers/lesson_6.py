"""Answers to lesson 6's exercises.

WRONG: answers that learners and published notebooks give, each as (exercise, code,
what the check must say, a regular expression). RIGHT: correct answers that differ from
the solution, as (exercise, code).
"""

GUIDED = """
def my_guided(model, w):
    def predict(x, t, c):
        null = model(x, t, None)
        context = model(x, t, c)
        return {line}
    return predict
"""

ONE_CALL = """
def my_guided_in_one_call(model, w):
    def predict(x, t, c):
        contexts = torch.cat(({nothing}, c))
        {halves} = model({x}, {t}, contexts).chunk(2)
        return null + w * (context - null)
    return predict
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


def guided(line):
    """A my_guided whose predict returns `line`, with null and context known."""
    return GUIDED.format(line=line)


def in_one_call(halves, x, nothing="0 * c", t="t.expand(len(x)).repeat(2)"):
    return ONE_CALL.format(halves=halves, x=x, nothing=nothing, t=t)


def between(condition):
    return BETWEEN.format(condition=condition)


def composed(line):
    return COMPOSED.format(line=line)


def modulated(answer):
    return f"def my_modulated(h, factor, summand):\n    return {answer}"


WRONG = [
    ("6.1", modulated("factor * h + summand"), r"\(4, 4, 4, 4\): .*rows and columns"),
    (
        "6.1",
        modulated("summand[..., None, None] * h + factor[..., None, None]"),
        "swapped",
    ),
    (
        "6.1",
        modulated("(1 + factor[..., None, None]) * h + summand[..., None, None]"),
        "FiLM",
    ),
    ("6.2", guided("context + w * (context - null)"), "at w = 3: .*paper's w', 1 more"),
    ("6.2", guided("(1 + w) * context - w * null"), "paper's w', 1 more"),
    ("6.2", guided("context + w * (null - context)"), "null and context are swapped"),
    ("6.2", guided("w * (context - null)"), "the base is missing"),
    ("6.2", guided("null + w * context"), "the base is not subtracted"),
    (
        "6.2",
        guided("w * context + (1 - w) * model(x, t, torch.ones_like(c))"),
        "a context of ones",
    ),
    (
        "6.2",
        guided("w * context + (1 - w) * model(x, t, 0 * c + 0.5)"),
        "a context of halves",
    ),
    ("6.2", guided("context"), "where is w"),
    (
        "6.2",
        """
        def my_guided(model, w):
            return lambda x, t: model(x, t, None)
        """,
        "stopped with TypeError",
    ),
    (
        "6.3",
        guided("null + w * (context - null)").replace(
            "my_guided", "my_guided_in_one_call"
        ),
        r"asked 2 times, for \[5, 5\]",
    ),
    ("6.3", in_one_call("context, null", "torch.cat((x, x))"), "halves are swapped"),
    (
        "6.3",
        in_one_call("null, context", "torch.cat((x, x))", t="t"),
        r"t has shape \(5,\); expected \(10,\)",
    ),
    (
        "6.3",
        in_one_call("null, context", "x.repeat_interleave(2, 0)"),
        "each row must keep its own",
    ),
    (
        "6.3",
        in_one_call("null, context", "torch.cat((x, x))", "torch.ones_like(c)"),
        "a context of ones",
    ),
    (
        "6.4",
        "my_guess = (8, 8)",
        (
            "ContextUnet's FD at w = 8 is 405, and 148 at a smaller "
            "weight.*PaletteNet's FD at w = 8"
        ),
    ),
    (
        "6.4",
        "my_guess = [2, 4]",
        "PaletteNet's FD at w = 4 .*Your other weight is right",
    ),
    ("6.4", "my_guess = 2", "expected two of the weights"),
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
    ("6.2", guided("(1 - w) * null + w * context")),
    ("6.4", "my_guess = torch.tensor([2.0, 1.0])"),
    ("6.4", "my_guess = np.array([2, 1])"),
    ("6.5", between("low - 0.5 < float(t[0]) * T < high + 0.5")),
    ("6.6", composed("w * a + w * b + (1 - 2 * w) * base")),
]
