"""Answers to lesson 9's exercises.

WRONG: answers that learners and published notebooks give, each as (exercise, code,
what the check must say, a regular expression). RIGHT: correct answers that differ from
the solution, as (exercise, code). DEFINED: what the lesson's own cells define.
"""

DEFINED = """
def in_balls(points, centres, k):
    own = torch.cdist(centres, centres)
    radius = own.kthvalue(k + 1).values
    return (torch.cdist(points, centres) < radius).any(1)
"""

MEMORISED = """
def my_memorised(pictures, training):
    distances = torch.cdist(pictures, training)
    two = distances.topk(2, {options}).values
    return {answer}
"""

JACKKNIFE = """
def my_jackknife(score, group):
    G = group.max() + 1
    scores = [score(np.flatnonzero(group {sign} g)) for g in range(G)]
    return {answer}
"""

PRECISION = """
def my_precision_recall(real, fake, k):
    return {answer}
"""


def memorised(answer, options="largest=False"):
    return MEMORISED.format(answer=answer, options=options)


def jackknife(answer, sign="!="):
    return JACKKNIFE.format(answer=answer, sign=sign)


def limit(answer):
    return f"def my_limit(fd_n, fd_2n):\n    return {answer}"


def precision(first, second):
    parts = [f"in_balls({points}).float().mean()" for points in (first, second)]
    return PRECISION.format(answer=", ".join(parts))


WRONG = [
    ("9.1", memorised("two[:, 0] ** 2 < two[:, 1] ** 2 / 3"), "it is a ninth"),
    ("9.1", memorised("two[:, 0] > two[:, 1] / 3"), "upside down"),
    ("9.1", memorised("two[:, 0] < two[:, 1]"), "not divided by 3"),
    ("9.1", memorised("two[:, 1] < two[:, 0] / 3", "largest=True"), "two largest"),
    ("9.1", memorised("two[0] < two[1] / 3", "0, largest=False"), "swapped"),
    (
        "9.1",
        memorised("(two[:, 0] < two[:, 1] / 3).float().mean()"),
        "yes or no for each",
    ),
    ("9.2", "my_distance = 4", "one of the two terms"),
    ("9.2", "my_distance = 14", "overlap, .* is missing"),
    ("9.2", "my_distance = 8 ** 0.5", "root of FD"),
    ("9.2", "my_distance = -4", "root is missing"),
    ("9.2", "my_distance = 10", "Add"),
    ("9.3", limit("fd_2n"), "only half of c / n"),
    ("9.3", limit("fd_n - fd_2n"), "c / 2n, what has to be subtracted"),
    ("9.3", limit("2 * (fd_n - fd_2n)"), "c / n, what has to be subtracted"),
    ("9.3", limit("(fd_n + fd_2n) / 2"), "their mean"),
    ("9.3", limit("2 * fd_n - fd_2n"), "two are swapped"),
    ("9.3", limit("3 * fd_2n - 2 * fd_n"), "holds only c / 2n"),
    ("9.4", precision("real, fake, k", "fake, real, k"), "precision comes first"),
    ("9.4", precision("fake, real, k - 1", "real, fake, k - 1"), "the point itself"),
    ("9.4", precision("fake, real, k", "fake, real, k"), "both are precision"),
    (
        "9.4",
        PRECISION.format(
            answer="in_balls(fake, real, k).sum(), in_balls(real, fake, k).sum()"
        ),
        "these are counts",
    ),
    ("9.4", PRECISION.format(answer="0.5"), "two numbers"),
    ("9.5", jackknife("np.std(scores)"), "must be enlarged"),
    ("9.5", jackknife("np.std(scores) / G ** 0.5"), "as for a mean"),
    ("9.5", jackknife("np.std(scores) / G ** 0.5", "=="), "the other way round"),
    (
        "9.5",
        jackknife("(G - 1) ** 0.5 * np.std(scores, ddof=1)"),
        "divides by G - 1 inside",
    ),
    ("9.5", jackknife("(G - 1) * np.var(scores)"), "the variance"),
    ("9.6", 'my_guess = "FD"', "much narrower"),
    ("9.6", 'my_guess = "legal"', "at every edge"),
    ("9.6", 'my_guess = "recall"', "balls are small"),
    ("9.6", 'my_guess = "coverage"', "expected one of"),
]


RIGHT = [
    (
        "9.1",
        """
        def my_memorised(pictures, training):
            distances = torch.cdist(pictures, training).sort(1).values
            return (3 * distances[:, 0] < distances[:, 1]).numpy()
        """,
    ),
    ("9.2", "my_distance = (0 - 2) ** 2 + (1 - 3) ** 2"),
    ("9.3", limit("fd_n - 2 * (fd_n - fd_2n)")),
    (
        "9.4",
        """
        def my_precision_recall(real, fake, k):
            near = precision_recall_density_coverage(real, fake, k)
            return near["precision"].mean(), near["recall"].mean()
        """,
    ),
    (
        "9.5",
        """
        def my_jackknife(score, group):
            groups = np.unique(group)
            scores = np.array([score(np.where(group != g)[0]) for g in groups])
            squares = ((scores - scores.mean()) ** 2).sum()
            return ((len(groups) - 1) / len(groups) * squares) ** 0.5
        """,
    ),
    ("9.6", 'my_guess = "Precision"'),
]
