"""Answers to lesson 10's exercises.

WRONG: answers that learners and published notebooks give, each as (exercise, code,
what the check must say, a regular expression). RIGHT: correct answers that differ from
the solution, as (exercise, code).
"""

NORM = """
def my_group_norm(x, groups):
    B, C, H, W = x.shape
    apart = x.reshape(B, groups, C // groups, H, W)
    mean = apart.mean({dims}, keepdim=True)
    variance = apart.var({dims}, keepdim=True, correction=0)
    normed = (apart - mean) / {scale}
    return normed.reshape(x.shape)
"""

APART = """
def my_errors_apart(a, b):
    variance = {variance}
    return {answer}
"""


def field(answer):
    return f"def my_field(layers):\n    return {answer}"


def norm(dims="(2, 3, 4)", scale="(variance + 1e-5).sqrt()"):
    return NORM.format(dims=dims, scale=scale)


def plain_norm(dims):
    return f"""
        def my_group_norm(x, groups):
            mean = x.mean({dims}, keepdim=True)
            return (x - mean) / x.std({dims}, keepdim=True, correction=0)
    """


def price(answer):
    return f"def my_price(height, width, channels):\n    return {answer}"


def apart(
    answer="abs(a.mean() - b.mean()) / variance**0.5",
    variance="a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)",
):
    return APART.format(answer=answer, variance=variance)


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
    ("10.2", norm(scale="(variance + 1e-5)"), "divides by the variance"),
    ("10.2", norm(scale="1"), "the variance is not 1"),
    ("10.2", norm(dims="(3, 4)"), "each channel on its own"),
    ("10.2", plain_norm("(0, 2, 3)"), "batch norm"),
    ("10.2", plain_norm("(1, 2, 3)"), "one group of all channels"),
    ("10.2", plain_norm("1"), "each pixel over its channels"),
    ("10.2", norm().replace("reshape(x.shape)", "clone()"), "back to \\(B, C, H, W\\)"),
    (
        "10.2",
        """
        def my_group_norm(x, groups):
            B, C, H, W = x.shape
            apart = x.reshape(B, C // groups, groups, H, W)
            mean = apart.mean((1, 3, 4), keepdim=True)
            std = apart.std((1, 3, 4), keepdim=True, correction=0)
            return ((apart - mean) / std).reshape(x.shape)
        """,
        "neighbouring channels",
    ),
    ("10.3", price("(height * width) ** 2 * channels"), "weighted sum of v"),
    ("10.3", price("2 * height * width * channels"), "squared"),
    ("10.4", apart(variance="a.var(ddof=1) + b.var(ddof=1)"), "scatters less"),
    ("10.4", apart(variance="a.var() / len(a) + b.var() / len(b)"), "ddof=1"),
    ("10.4", apart("abs(a.mean() - b.mean()) / variance"), "this is the square"),
    ("10.4", apart("abs(a.mean() - b.mean())"), "standard error is missing"),
    ("10.4", apart("(a.mean() - b.mean()) / variance**0.5"), "absolute value"),
    ("10.4", apart("(b.mean() - a.mean()) / variance**0.5"), "absolute value"),
    (
        "10.4",
        """
        def my_errors_apart(a, b):
            errors = [x.std(ddof=1) / len(x) ** 0.5 for x in (a, b)]
            return abs(a.mean() - b.mean()) / sum(errors)
        """,
        "root of the sum of squares",
    ),
    ("10.5", 'my_guess = ("time", "skips")', "other way round"),
    ("10.5", 'my_guess = ("attention", "time")', "fine detail"),
    ("10.5", 'my_guess = ("skips", "shortcuts")', "the next step's input"),
    ("10.5", 'my_guess = "skips"', "expected two of these names"),
]


RIGHT = [
    ("10.2", norm(scale="variance.sqrt()")),
    ("10.3", price("height * width * height * width * channels * 2")),
    (
        "10.4",
        """
        def my_errors_apart(a, b):
            errors = [x.std(ddof=1) / len(x) ** 0.5 for x in (a, b)]
            return abs(a.mean() - b.mean()) / np.hypot(*errors)
        """,
    ),
    ("10.5", 'my_guess = ["Skips", "TIME"]'),
]
