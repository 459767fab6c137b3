"""Training on a collection, for so many seconds or steps."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, nn
from training import random_rows

import diffusion_utilities as du
from own.collection import Collection
from own.network import SCHEDULE, new_network, to_numbers

RATE = 0.012  # of Muon; Adam's, for the outer layers, is a twelfth
WARM_UP = 20  # steps
BATCH = 64
MEMORY = 0.99  # of the average of the weights
LOOKS = 10
PATIENCE = 3  # looks in a row with a loss a tenth above the lowest
OUTER_LAYERS = ("stem", "out", "columns", "reader")
TRAINING_DOUBT = 0.002
P_DROP = 0.15  # how often a label is left out
FREQUENCIES = du.straight_frequencies(SCHEDULE, even=0.25)  # of the steps


def first_network(collection: Collection) -> du.SpriteUnet:
    """The network that training starts from: the course's, if it knows the style.

    It does if its held-out loss is below a third of that of random weights, or if
    nothing is held out. Four collections of other styles reached as low a loss or a
    lower one from random weights, in ten minutes (own_collections.json).

    Lesson 16.
    """
    course = new_network(collection)
    known = held_out_loss(course, collection)
    if known is None:
        print("training starts from the course's network")
        return course
    fresh = new_network(collection, None)
    unknown = held_out_loss(fresh, collection)
    losses = f"its loss is {known:.2f}, that of random weights {unknown:.2f}"
    if known < unknown / 3:
        print(f"training starts from the course's network: {losses}")
        return course
    print(f"training starts anew; the course's network is of no help: {losses}")
    return fresh


@dataclass(frozen=True)
class Look:
    """A look at a training: its numbers so far, and the average of the weights.

    held_out is the loss of the held-out tiles, None without any. best: whether no
    earlier look had a lower one.
    """

    step: int
    seconds: float
    training: float
    held_out: float | None
    best: bool
    network: nn.Module


def train(
    network: du.SpriteUnet,
    collection: Collection,
    seconds: float = math.inf,
    *,
    steps: float = math.inf,
    rate: float = RATE,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Look]:
    """Train for so many seconds, or steps; yields LOOKS looks, or fewer.

    The learning rate rises over WARM_UP steps and reaches 0 at the end. The training
    ends early when the held-out loss has stopped falling and is a tenth above its
    lowest value. The clock stands still while the caller looks.

    Raises ValueError for a training without a step, or without an end.

    Lesson 16.
    """
    check_length(seconds, steps)
    torch.manual_seed(seed)
    generator = Generator().manual_seed(seed)
    average = du.average_weights(network, MEMORY)
    optimiser = du.Muon(
        network.named_parameters(), adam=OUTER_LAYERS, lr=rate, adam_lr=rate / 12
    )
    losses = steps_of(network, collection, optimiser, average, generator)
    rates = [group["lr"] for group in optimiser.param_groups]
    spent = 0.0
    step = 0
    done = 0.0  # the share of the training
    history = []
    for look in range(1, LOOKS + 1):
        recent = []
        while not recent or done < look / LOOKS:
            started = clock()
            set_rates(optimiser, rates, step, done)
            recent.append(next(losses))
            step += 1
            spent += clock() - started
            done = max(spent / seconds, step / steps)
        held_out = held_out_loss(average.module, collection)
        history.append(held_out)
        best = held_out is None or held_out == min(history)
        loss = float(np.mean(recent))
        yield Look(step, spent, loss, held_out, best, average.module.eval())
        if has_turned(history):
            print("training ends: the held-out loss rises, so more would only copy")
            return


def check_length(seconds: float, steps: float) -> None:
    """Raise ValueError for a training without a step, or without an end."""
    if not 0 < min(seconds, steps) < math.inf:
        raise ValueError(
            f"seconds={seconds}, steps={steps}; expected numbers above 0, not both "
            "infinite"
        )


def set_rates(optimiser, rates: list[float], step: int, done: float) -> None:
    """Let the learning rates rise over WARM_UP steps, and fall with what is done."""
    warm = min(1, (step + 1) / WARM_UP)
    for group, highest in zip(optimiser.param_groups, rates):
        group["lr"] = highest * warm * max(0.0, 1 - done)


def has_turned(history: list[float | None]) -> bool:
    """Whether a held-out loss has risen for good."""
    if None in history or len(history) <= PATIENCE:
        return False
    return min(history[-PATIENCE:]) > 1.1 * min(history)


def steps_of(network, collection: Collection, optimiser, average, generator):
    """Endless steps of training; yields the loss of each."""
    network.doubt = TRAINING_DOUBT
    x = to_numbers(collection.train)
    contexts = collection.contexts()
    own = None if contexts is None else contexts[~torch.from_numpy(collection.held)]
    rows = random_rows(len(x), BATCH, sys.maxsize, generator)
    batches = ((x[some], None if own is None else own[some]) for some in rows)
    return du.train_steps(
        network,
        batches,
        SCHEDULE,
        optimiser=optimiser,
        average=average,
        generator=generator,
        p_drop=None if own is None else P_DROP,
        frequencies=FREQUENCIES,
    )


@torch.no_grad()
def held_out_loss(
    network: nn.Module, collection: Collection, most: int = 256, repeats: int = 4
) -> float | None:
    """The loss of held-out tiles, always with the same noise; None without any."""
    tiles = collection.held_out[:most]
    if not len(tiles):
        return None
    network.doubt = TRAINING_DOUBT
    x = to_numbers(tiles).repeat(repeats, 1, 1, 1)
    generator = Generator().manual_seed(1)
    losses = []
    with du.evaluating(network):
        for some in x.split(128):
            loss = du.diffusion_loss(
                network, some, SCHEDULE, generator=generator, frequencies=FREQUENCIES
            )
            losses.append(float(loss) * len(some))
    return sum(losses) / len(x)
