"""Answers to lesson 8's exercises.

WRONG: answers that learners and published notebooks give, each as (exercise, code,
what the check must say, a regular expression). RIGHT: correct answers that differ from
the solution, as (exercise, code).
"""

TOKENS = """
def my_encode(words, vocabulary, length):
    known = {{word: number for number, word in enumerate(vocabulary)}}
    numbers = {numbers}
    return {answer}
"""

MAPS = """
def my_word_maps(query, key, heads):
    query = query.unflatten(1, (heads, -1)).transpose(0, 1)
    key = key.unflatten(1, (heads, -1)).transpose(0, 1)
    scores = query @ key.mT / {size}
    weights = {weights}
    side = round(len(query[0]) ** 0.5)
    return {answer}
"""


def tokens(
    numbers="[known.get(word, 1) for word in words]",
    answer="numbers + [0] * (length - len(numbers))",
):
    return TOKENS.format(numbers=numbers, answer=answer)


def bag(answer):
    return f"def my_bag_of_words(numbers, table):\n    return {answer}"


def attention(answer):
    return f"def my_attention(query, key, value):\n    return {answer}"


def maps(
    size="query.shape[-1] ** 0.5",
    weights="scores.softmax(-1).mean(0)",
    answer="weights.T.unflatten(1, (side, side))",
):
    return MAPS.format(size=size, weights=weights, answer=answer)


WRONG = [
    ("8.1", tokens("[known[word] for word in words]"), "KeyError.*has the number 1"),
    ("8.1", tokens("[known.get(word, 0) for word in words]"), "unknown word became 0"),
    (
        "8.1",
        tokens("[known[word] for word in words if word in known]"),
        "It keeps its place",
    ),
    ("8.1", tokens(answer="numbers"), "is the padding missing"),
    (
        "8.1",
        tokens(answer="numbers + [1] * (length - len(numbers))"),
        "the padding has the number 1",
    ),
    (
        "8.1",
        tokens(answer="[0] * (length - len(numbers)) + numbers"),
        "it belongs behind them",
    ),
    ("8.2", bag("table[numbers].mean(0)"), "the padding is counted as words"),
    (
        "8.2",
        bag("(table[numbers] * (numbers > 0)[:, None]).mean(0)"),
        "the division counts it",
    ),
    ("8.2", bag("table[numbers[numbers > 0]].sum(0)"), "divide by the number of words"),
    ("8.2", bag("table[numbers[numbers > 1]].mean(0)"), "unknown word is left out"),
    ("8.2", bag("table[numbers[numbers > 0]].mean(1)"), "the wrong axis"),
    (
        "8.3",
        attention("(query @ key.T).softmax(-1) @ value"),
        "division by the root of d missing",
    ),
    (
        "8.3",
        attention("(query @ key.T / query.shape[-1]).softmax(-1) @ value"),
        "should be by its root",
    ),
    (
        "8.3",
        attention("(query @ key.T / query.shape[-1] ** 0.5).softmax(0) @ value"),
        "runs over the keys",
    ),
    (
        "8.3",
        attention("query @ key.T / query.shape[-1] ** 0.5 @ value"),
        "is the softmax missing",
    ),
    (
        "8.3",
        attention("(query @ key.T / query.shape[-1] ** 0.5).softmax(-1)"),
        "still have to gather",
    ),
    (
        "8.3",
        attention("(query @ key.T / query.shape[-1] ** 0.5).softmax(-1) @ key"),
        "should gather the values",
    ),
    (
        "8.3",
        attention("(query @ key.T / value.shape[-1] ** 0.5).softmax(-1) @ value"),
        "width of a value",
    ),
    ("8.4", maps(size="(heads * query.shape[-1]) ** 0.5"), "a key of one head"),
    ("8.4", maps(size="1"), "division by the root of d is missing"),
    ("8.4", maps(weights="scores.softmax(-2).mean(0)"), "runs over the places"),
    ("8.4", maps(weights="scores.softmax(-1).sum(0)"), "take their mean"),
    (
        "8.4",
        maps(answer="weights.reshape(-1, side, side)"),
        "transpose .places, words. before",
    ),
    ("8.4", maps(answer="weights.unflatten(0, (side, side))"), "the words come first"),
    ("8.4", maps(answer="weights.T"), "make squares"),
    (
        "8.4",
        maps().replace(
            "unflatten(1, (heads, -1)).transpose(0, 1)",
            "unflatten(1, (-1, heads)).permute(2, 0, 1)",
        ),
        "take neighbours",
    ),
    ("8.5", "my_guess = 1 / 7", "how often it draws the sword"),
    ("8.5", "my_guess = 0.5", "not equally likely"),
    ("8.5", "my_guess = 5 / 6", "empty hands are a value"),
    ("8.5", "my_guess = 0", "does not draw only swords"),
]


RIGHT = [
    ("8.1", tokens(answer="torch.tensor(numbers + [0] * (length - len(numbers)))")),
    (
        "8.1",
        """
        def my_encode(words, vocabulary, length):
            numbers = np.zeros(length, np.int64)
            for place, word in enumerate(words):
                found = word in vocabulary
                numbers[place] = vocabulary.index(word) if found else 1
            return numbers
        """,
    ),
    (
        "8.2",
        bag("(table[numbers] * (numbers > 0)[:, None]).sum(0) / (numbers > 0).sum()"),
    ),
    ("8.3", attention("F.scaled_dot_product_attention(query, key, value)")),
    (
        "8.4",
        maps(answer="torch.stack([w.reshape(side, side) for w in weights.T])"),
    ),
    ("8.5", "my_guess = 0.857"),
    ("8.5", "my_guess = torch.tensor(0.86)"),
]
