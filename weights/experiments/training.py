"""Training steps for a loss that `train_steps` does not have.

The helper's `train_steps` trains a network to predict noise. A program with another
loss uses `steps_with`, which does the same around any loss: one place for the loop.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Generator, Tensor


def random_rows(n: int, size: int, steps: int, generator: Generator):
    """Yield `steps` times the numbers of `size` rows (size,) of n, with repetitions."""
    for _ in range(steps):
        yield torch.randint(n, (size,), generator=generator)


def steps_with(
    loss: Callable[..., Tensor],
    batches: Iterable,
    optimiser: torch.optim.Optimizer,
) -> Iterator[float]:
    """One training step for each batch; yields its loss, as `train_steps` does.

    loss: a function of a batch that returns a scalar to be minimised. The mode of
    the network and its precision are the caller's.
    Raises FloatingPointError, before the step, when the loss is no finite number.
    """
    for batch in batches:
        value = loss(batch)
        number = value.item()
        if not math.isfinite(number):
            raise FloatingPointError(f"the loss is {number}; no step was taken")
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        yield number
