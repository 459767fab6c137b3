"""Answers to lesson 12's exercises.

WRONG: answers that learners and published notebooks give, each as (exercise, code,
what the check must say, a regular expression). RIGHT: correct answers that differ from
the solution, as (exercise, code).
"""

SCORE = """
def my_score(x, weights, means, std):
    squares = (x[:, None] - means).square().sum(2)
    r = ({logs}).softmax(1)
    return {answer}
"""

PICTURE = """
def my_picture(x_t, score, t, schedule):
    ab = schedule.ab[t]
    return {answer}
"""

STEP = """
def my_step_back(x, score, B, lam, z):
    ode = {ode}
    return {answer}
"""


def score(logs="weights.log() - squares / (2 * std**2)", answer=None):
    return SCORE.format(logs=logs, answer=answer or "(r @ means - x) / std**2")


def picture(answer):
    return PICTURE.format(answer=answer)


def step(answer, ode="B / 2 * (x + score)"):
    return STEP.format(answer=answer, ode=ode)


WRONG = [
    ("12.1", score(answer="(x - r @ means) / std**2"), "the sign: the arrows point"),
    ("12.1", score(answer="(r @ means - x) / std"), "divide by the standard deviation"),
    ("12.1", score(answer="r @ means - x"), "divide by the variance"),
    ("12.1", score("-squares / (2 * std**2)"), "weights of the bells are missing"),
    ("12.1", score("weights - squares / (2 * std**2)"), "logarithm of the weights"),
    ("12.1", score("weights.log() - squares / std**2"), "is the 2 under the square"),
    ("12.1", score("weights.log() + squares / (2 * std**2)"), "far bells must count"),
    ("12.1", score(answer="(weights @ means - x) / std**2"), "near bells must count"),
    ("12.2", picture("(x_t - (1 - ab) * score) / ab.sqrt()"), "the sign: the score"),
    ("12.2", picture("(x_t + (1 - ab).sqrt() * score) / ab.sqrt()"), "it is squared"),
    ("12.2", picture("(x_t + score) / ab.sqrt()"), "how far should you follow"),
    ("12.2", picture("x_t + (1 - ab) * score"), "the picture in x_t is scaled"),
    ("12.2", picture("(x_t + (1 - ab) * score) / ab"), "is the root missing"),
    (
        "12.2",
        picture("(x_t - (1 - ab).sqrt() * score) / ab.sqrt()"),
        "you treat the score as noise",
    ),
    (
        "12.3",
        step("x + ode + lam * B / 2 * score + lam * B * z"),
        "is the root missing",
    ),
    (
        "12.3",
        step("x + ode + lam * B / 2 * score + lam * B**0.5 * z"),
        "lambda stands under the root",
    ),
    ("12.3", step("x + ode + (lam * B) ** 0.5 * z"), "uphill part of Langevin"),
    (
        "12.3",
        step("x - ode + lam * B / 2 * score + (lam * B) ** 0.5 * z"),
        "you walk forward",
    ),
    (
        "12.3",
        step("x + ode + lam * B / 2 * score + (lam * B) ** 0.5 * z", "B / 2 * score"),
        "not s alone",
    ),
    (
        "12.3",
        step("ode + lam * B / 2 * score + (lam * B) ** 0.5 * z"),
        "how far the points move",
    ),
    ("12.4", "my_guess = 3", "Bell 3 is the nearest of the three to the other class"),
    ("12.4", "my_guess = 1", "Bell 1 is not the furthest"),
]


RIGHT = [
    (
        "12.1",
        """
        def my_score(x, weights, means, std):
            bells = torch.exp(-torch.cdist(x, means) ** 2 / (2 * std**2)) * weights
            r = bells / bells.sum(1, keepdim=True)
            return (r[..., None] * (means - x[:, None])).sum(1) / std**2
        """,
    ),
    (
        "12.2",
        """
        def my_picture(x_t, score, t, schedule):
            noise = -(1 - schedule.ab[t]).sqrt() * score
            return predict_x0(x_t, t, noise, schedule)
        """,
    ),
    (
        "12.3",
        """
        def my_step_back(x, score, B, lam, z):
            return x + B / 2 * x + (1 + lam) * B / 2 * score + math.sqrt(lam * B) * z
        """,
    ),
    ("12.4", "my_guess = torch.tensor(2)"),
    ("12.4", "my_guess = 2.0"),
]
