"""The same training in the clear: the baseline of the paper's figures, and the oracle of the tests."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml.descent import Descent, Meanwhile, public_coefficients
from fedmpi.codedml.objective import Objective
from fedmpi.codedml.problem import Problem, exact_product
from fedmpi.codedml.protocol import row_blocks
from fedmpi.codedml.solvers import Columns, State, Vector, first_order, minimize
from fedmpi.codedml.transform import Quantized, times, times_transposed

if TYPE_CHECKING:
    from fedmpi.codedml.params import Params


def train_plain(
    params: "Params",
    X: Quantized,
    objective: Objective,
    columns: Columns,
    learning_rate: float,
    observe: Callable[[int, Vector], None] = lambda iteration, W: None,
    over: Callable[[], bool] = lambda: False,
) -> Vector:
    """Conventional training by the same solver, with the true sigmoid and no quantization [So et al. 2021, eq. (2)].

    Parameters
    ----------
    X : array of reals, shape (m, d), or rows that are made anew
        Scaled features, with a column of ones where the solver takes steps in the units of X.
    columns : Columns
        Of the features.
    over : callable
        Whether an iteration was the last.

    Returns
    -------
    array of float64, shape (d, C)
    """
    state = State(0, np.zeros((len(columns.means) + columns.intercept, objective.Y.shape[1])))
    if params.solver in ("nesterov", "gradient"):

        def gradient(iteration: int, W: Vector) -> Vector:
            observe(iteration, state.W)
            return times_transposed(X, objective.residuals(times(X, W)))

        states = first_order(gradient, params, learning_rate, len(X), state)
    else:
        products = _InTheClear(X, objective, observe)
        states = minimize(objective, columns, products, str(params.solver), params.stop_below(len(X)), state)
    for state in states:  # which `gradient` shows next
        if state.iteration >= params.iterations or over():
            break
    observe(state.iteration, state.W)
    return state.W


class _InTheClear:
    """Products with X in float64."""

    headroom_bits = float("inf")

    def __init__(self, X: Quantized, objective: Objective, observe: Callable[[int, Vector], None]):
        self._X, self._objective, self._observe = X, objective, observe

    def product(self, step: int, P: Vector) -> tuple[Vector, Vector]:
        return times(self._X, P), P

    def gradient(self, step: int, W: Vector, Z: Vector) -> tuple[Vector, Vector]:
        self._observe(step // 2, W)
        S = self._objective.residuals(Z)
        return times_transposed(self._X, S), S.sum(axis=0, keepdims=True)


class IntegerWorkers:
    """Integer arithmetic in place of workers: what they compute, to the bit, whatever the size of the sums."""

    def __init__(self, params: "Params", problem: Problem):
        self._X_bar = problem.X_bar
        self._coefficients = [] if params.degree is None else public_coefficients(params, problem)

    def multiply(self, step: int, V: NDArray[np.int64], transposed: bool, bits: int, meanwhile: Meanwhile) -> Vector:
        """2^-bits·X̄V or 2^-bits·X̄ᵀV."""
        meanwhile()
        return _rounded(integer_product(self._X_bar, V, transposed=transposed), bits)

    def polynomial(self, step: int, W_bar: NDArray[np.int64], bits: int, runs: int, meanwhile: Meanwhile) -> Vector:
        """2^-bits·X̄ᵀ s̄(X̄, W̄)."""
        meanwhile()
        power: Any = 1
        s: Any = self._coefficients[0]
        for w, c in zip(W_bar, self._coefficients[1:], strict=True):
            power = power * integer_product(self._X_bar, w)
            s = s + c * power
        return _rounded(integer_product(self._X_bar, s, transposed=True), bits)


_DIGIT = 15
"""Bits of the pieces of integers whose products with X̄ add up below 2^53."""


def integer_product(X_bar: Quantized, V: NDArray[Any], *, transposed: bool = False) -> NDArray[Any]:
    """X̄V or X̄ᵀV for integers of any size, as an array of Python's integers."""
    signs, rest = np.where(V < 0, -1, 1), np.abs(V)
    total = np.zeros((X_bar.shape[1] if transposed else len(X_bar), V.shape[1]), object)
    unit = 1
    while rest.any():
        digit = (rest & ((1 << _DIGIT) - 1)).astype(np.int64) * signs
        total += exact_product(X_bar, digit, transposed=transposed).astype(np.int64).astype(object) * unit
        rest, unit = rest >> _DIGIT, unit << _DIGIT
    return total


def _rounded(values: NDArray[Any], bits: int) -> Vector:
    """2^-bits times integers, rounded once."""
    return np.asarray(values.astype(np.float64) * 2.0**-bits)


def train_quantized(
    params: "Params", problem: Problem, noise: Callable[[int, tuple[int, ...]], Vector], workers: int = 1
) -> Vector:
    """The private training without coding: integer arithmetic on quantized data, the same weights to the bit.

    Parameters
    ----------
    noise : callable
        (step, shape) → uniform values in [0, 1): the one that the master was given.
    workers : int
        Into how many blocks the rows are divided for the proof of headroom; it changes no weight.
    """
    blocks = row_blocks(len(problem.X_bar), workers)
    descent = Descent(params, problem, noise, blocks, lambda iteration, W: None)
    *_, last = descent.states(IntegerWorkers(params, problem), descent.beginning)
    return last.W
