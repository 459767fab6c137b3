"""The judges of lesson 8's exercises (they spoil them)."""

import torch

from exercises import (
    Wrong,
    as_numbers,
    compare,
    exercise,
    guessed,
    normal,
    told,
    tried,
    with_a_hint,
)

# ---- 8.1 -----------------------------------------------------------------------------

VOCABULARY = ("", "?", "a", "blue", "hero", "in", "red", "robe", "with")


def token_mistakes(words, length):
    known = {word: number for number, word in enumerate(VOCABULARY)}
    right = [known.get(word, 1) for word in words]
    padding = [0] * (length - len(words))
    yield (
        "an unknown word became 0, which means that there is no word: it is 1.",
        [known.get(word, 0) for word in words] + padding,
    )
    only_known = [known[word] for word in words if word in known]
    yield (
        "an unknown word is left out. It keeps its place, with the number 1.",
        only_known + [0] * (length - len(only_known)),
    )
    yield (
        "the padding has the number 1, which is an unknown word: it is 0.",
        right + [1] * (length - len(words)),
    )
    yield (
        "the padding stands before the words, and it belongs behind them.",
        padding + right,
    )
    yield "is the padding missing? The row is filled up with 0.", right
    yield (
        "the numbers are too small by 1 or 2: count from the whole vocabulary, in "
        "which the padding and the unknown word come first.",
        [number - 2 if number > 1 else number for number in right] + padding,
    )


@exercise("8.1", "Now ask `encode` for a word of your own language: what does it say?")
def tokens(attempt):
    cases = (
        (["a", "hero", "in", "a", "blue", "robe"], 8),
        (["a", "zebra", "in", "red"], 6),
        (["red", "hero"], 2),
        ([], 3),
    )
    for words, length in cases:
        known = {word: number for number, word in enumerate(VOCABULARY)}
        right = [known.get(word, 1) for word in words]
        right += [0] * (length - len(words))
        mine = with_a_hint(
            "zebra",
            "A word that is not in the vocabulary has the number 1.",
            attempt,
            words,
            VOCABULARY,
            length,
        )
        compare(
            mine,
            right,
            token_mistakes(words, length),
            where=f"for {' '.join(words)!r} and length {length}",
        )


# ---- 8.2 -----------------------------------------------------------------------------


def bag_mistakes(numbers, table):
    words = numbers[numbers > 0]
    yield (
        "the padding is counted as words: leave out the numbers 0.",
        table[numbers].mean(0),
    )
    yield (
        "the sum leaves out the padding, and the division counts it.",
        table[words].sum(0) / len(numbers),
    )
    yield "that is the sum; divide by the number of words.", table[words].sum(0)
    yield "each word is counted once: repeat it.", table[words.unique()].mean(0)
    yield (
        "the unknown word is left out. It has a row of the table, too.",
        table[numbers[numbers > 1]].mean(0),
    )
    yield "that averages over the wrong axis.", table[words].mean(1)


@exercise("8.2", "Which sentences have the same bag as yours?")
def bag_of_words(attempt):
    table = normal(9, 5, seed=1, dtype=torch.float64)
    for row in ([2, 4, 5, 2, 6, 7, 0, 0, 0], [3, 1, 1, 0], [8, 4]):
        numbers = torch.tensor(row)
        right = table[numbers[numbers > 0]].mean(0)
        mine = tried(attempt, numbers, table)
        compare(mine, right, bag_mistakes(numbers, table), where=f"for {row}")


# ---- 8.3 -----------------------------------------------------------------------------


def attention_mistakes(query, key, value):
    size = query.shape[-1]
    scores = query @ key.T
    weights = (scores / size**0.5).softmax(-1)
    yield (
        "is the division by the root of d missing?",
        scores.softmax(-1) @ value,
    )
    yield (
        "the scores are divided by d, and it should be by its root.",
        (scores / size).softmax(-1) @ value,
    )
    yield (
        "the scores are multiplied by the root of d; divide by it.",
        (scores * size**0.5).softmax(-1) @ value,
    )
    yield (
        "the softmax runs over the queries. The weights of a query add up to 1, so it "
        "runs over the keys, the last axis.",
        (scores / size**0.5).softmax(0) @ value,
    )
    yield "is the softmax missing?", scores / size**0.5 @ value
    yield "these are the weights. They still have to gather the values.", weights
    yield "these are the scores, before the softmax.", scores / size**0.5
    if value.shape == key.shape:
        yield (
            "the weights gather the keys; they should gather the values.",
            (weights @ key),
        )
    yield (
        "the root is that of the number of keys; d is the length of a key.",
        (scores / len(key) ** 0.5).softmax(-1) @ value,
    )
    yield (
        "the root is that of the width of a value; d is the length of a key.",
        (scores / value.shape[-1] ** 0.5).softmax(-1) @ value,
    )


@exercise("8.3", "This function is most of a large language model's work, too.")
def attention(attempt):
    for places, words, width in ((4, 6, 8), (1, 3, 8), (5, 5, 3)):
        query = 2 * normal(places, 8, seed=2, dtype=torch.float64)
        key = normal(words, 8, seed=3, dtype=torch.float64)
        value = normal(words, width, seed=4, dtype=torch.float64)
        weights = (query @ key.T / 8**0.5).softmax(-1)
        mine = tried(attempt, query, key, value)
        compare(
            mine,
            weights @ value,
            attention_mistakes(query, key, value),
            where=f"for {places} queries and {words} keys",
        )


# ---- 8.4 -----------------------------------------------------------------------------


def split_heads(x, heads):
    """(N, width) becomes (heads, N, width / heads)."""
    return x.unflatten(1, (heads, -1)).transpose(0, 1)


def maps_of(query, key, heads, size=None, axis=-1):
    """The maps; `size` and `axis` replace the length of a key, and the softmax's."""
    query = split_heads(query, heads)
    key = split_heads(key, heads)
    size = size or query.shape[-1]
    weights = (query @ key.mT / size**0.5).softmax(axis).mean(0)  # (places, words)
    side = round(weights.shape[0] ** 0.5)
    return weights.T.unflatten(1, (side, side))


def map_mistakes(query, key, heads):
    right = maps_of(query, key, heads)
    side = right.shape[-1]
    places = side**2
    weights = right.flatten(1).T
    yield (
        "d is the length of a key of one head: the width divided by the heads.",
        maps_of(query, key, heads, size=query.shape[1]),
    )
    yield "the division by the root of d is missing.", maps_of(query, key, heads, 1)
    yield (
        "the softmax runs over the places. Each place shares its attention out among "
        "the words.",
        maps_of(query, key, heads, axis=-2),
    )
    yield "that is one head with the whole width: split it.", maps_of(query, key, 1)
    yield "that is the sum over the heads; take their mean.", heads * right
    yield (
        "the words come first: transpose (places, words) before you make squares.",
        weights.reshape(len(key), side, side),
    )
    yield (
        "the words come first: (words, side, side).",
        weights.unflatten(0, (side, side)),
    )
    yield "rows and columns of the maps are exchanged.", right.mT
    yield "make squares of the maps: (words, side, side).", right.reshape(-1, places)
    odd = [part.unflatten(1, (-1, heads)).permute(2, 0, 1) for part in (query, key)]
    mixed = odd[0] @ odd[1].mT / odd[0].shape[-1] ** 0.5
    yield (
        "each head takes every fourth number. It should take neighbours: "
        "unflatten(1, (heads, -1)).",
        mixed.softmax(-1).mean(0).T.unflatten(1, (side, side)),
    )


@exercise("8.4", "Which head reads the colours? Leave out the mean, and look.")
def word_maps(attempt):
    for side, words, heads in ((4, 6, 4), (8, 3, 4), (2, 5, 1)):
        query = 3 * normal(side**2, 16, seed=5, dtype=torch.float64)
        key = normal(words, 16, seed=6, dtype=torch.float64)
        right = maps_of(query, key, heads)
        mine = tried(attempt, query, key, heads)
        with told(f"for {side**2} places, {words} words, {heads} heads"):
            mine = as_numbers(mine)
            if mine.shape == (words, side, side) and not mine.isfinite().all():
                raise Wrong("your maps are not finite.")
            compare(mine, right, map_mistakes(query, key, heads))


# ---- 8.5 -----------------------------------------------------------------------------


@exercise("8.5", "So compare a denial with the same caption without it, as below.")
def share_by_luck(guess):
    guess = guessed(guess, "a number from 0 to 1", between=(0, 1))
    if abs(guess - 6 / 7) < 0.006:
        return
    if abs(guess - 1 / 7) < 0.006:
        raise Wrong("that is how often it draws the sword. The others are right.")
    if abs(guess - 0.5) < 0.006:
        raise Wrong(
            "with or without a sword are two cases, but they are not equally likely: "
            "there are seven values."
        )
    if abs(guess - 5 / 6) < 0.006:
        raise Wrong("empty hands are a value, too: count seven.")
    if guess < 0.01:
        raise Wrong("it does not read the denial, but it does not draw only swords.")
    raise Wrong(f"{guess:.3g} is not the share. How many of the seven are no sword?")
