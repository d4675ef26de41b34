"""The same training in the clear, in integers: the oracle of the protocol's tests, and what --method plain does."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fedmpi.copml.member import Keep, Task
from fedmpi.copml.quantized import centred, column_sums, largest_eigenvalue, means_of, quantized

Rounding = Callable[[int, NDArray[np.int64], int], NDArray[np.int64]]
"""(iteration, a, m) → a/2^m, rounded."""


def nearest(step: int, a: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """a/2^bits, rounded to the nearest integer."""
    return (a + (1 << bits - 1)) >> bits


def means(task: Task, X: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Of the columns of all rows, where they are centred."""
    return means_of(column_sums(X).astype(np.float64), len(X)) if task.center else None


def prepared(task: Task, X: NDArray[np.float64], means: NDArray[np.float64] | None) -> NDArray[np.int32]:
    """X̄ of all rows."""
    return quantized(X if means is None else centred(X, means, task.largest), task.scale().data_bits)


def train(
    task: Task,
    X_bar: NDArray[np.int32],
    Y: NDArray[np.int64],
    rounding: Rounding = nearest,
    watch: Callable[[int], bool] = lambda done: False,
    keep: Keep = lambda done, w: None,
) -> tuple[NDArray[np.int64], int, int]:
    """w̄ after all iterations, shape (d, C), how many there were, and e of the step 2^-e.

    Parameters
    ----------
    X_bar, Y : arrays
        The rows of all owners, owner by owner as in `task.rows`.
    """
    scale = task.scale()
    edges = np.cumsum([0, *task.rows])
    own = [largest_eigenvalue(X_bar[a:b]) * 4.0**-scale.data_bits for a, b in pairwise(edges)]
    step_bits = scale.step_bits(float(np.ceil(own).sum()))
    bits, c = scale.truncated_bits(step_bits), scale.coefficients
    X, w = X_bar.astype(np.float64), task.weights  # every sum is below 2^53
    targets = (X.T @ Y).astype(np.int64) << scale.residual_bits
    done, last = task.begun, False
    while not last:
        last = watch(done) or done + 1 >= task.params.iterations
        z = (X @ w).astype(np.int64)
        a = (X.T @ (c[0] + c[1] * z)).astype(np.int64) - targets
        w = w - rounding(done, a, bits)
        done += 1
        if last or task.opens(done):
            keep(done, w)
    return w, done, step_bits
