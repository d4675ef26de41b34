"""The iteration that all private methods share: quantize, let the workers compute, update in the reals."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml.headroom import Headroom
from fedmpi.codedml.objective import target_correlation
from fedmpi.codedml.protocol import Training, stop
from fedmpi.core import FieldArray
from fedmpi.core.quantize import Reals, dequantize, quantize_stochastic
from fedmpi.errors import UsageError
from fedmpi.net import Channel

if TYPE_CHECKING:
    from fedmpi.codedml.params import Params

_EXACT = 2.0**53
"""Integers below this are exact in float64."""


@dataclass(frozen=True, eq=False)
class State:
    """What a training goes on from."""

    iteration: int
    """Iterations that are done."""
    W: NDArray[np.float64]
    """Weights, shape (d, C)."""
    headroom_bits: float = float("inf")


def descend(
    ch: Channel,
    params: "Params",
    X_bar: Reals,
    Y: NDArray[np.float64],
    learning_rate: float,
    noise: Callable[[int, tuple[int, ...]], NDArray[np.float64]],
    blocks: list[slice],
    block_gradients: Callable[[int, FieldArray, NDArray[np.float64]], FieldArray],
    observe: Callable[[int, NDArray[np.float64]], None],
    start: State | None,
    advance: Callable[[State], None],
) -> Training:
    """Algorithm 1, lines 4–6 and 14–18, with workers that have their data.

    Parameters
    ----------
    X_bar : array, shape (m, d)
        Signed integers.
    Y : array of float64, shape (m, C)
    noise : callable
        (iteration, shape) → the public and repeatable noise of stochastic quantization.
    blocks : list of slice
        The rows of which one gradient each is decoded.
    block_gradients : callable
        (iteration, W̄ of shape (d, r, C) in F_p, W) → X̄_kᵀ s̄(X̄_k, W̄) of every block k, shape (blocks, d, C).
    observe : callable
        Called with (iterations, W) at the end.
    start : State or None
        Go on from here, or begin with W = 0.
    advance : callable
        Called with the state after every iteration.

    Raises
    ------
    UsageError
        If a value would not fit in F_p, or the weights diverge; the workers stay ready for another training.
    """
    try:
        state = start or State(0, np.zeros((X_bar.shape[1], Y.shape[1])))  # line 4
        states = _iterate(ch, params, X_bar, Y, learning_rate, noise, blocks, block_gradients, state)
        for state in states:
            advance(state)
    except UsageError:
        stop(ch)
        raise
    with ch.phase("evaluate"):
        observe(params.iterations, state.W)
    return Training(state.W, state.headroom_bits, stop(ch))


def _iterate(
    ch: Channel,
    params: "Params",
    X_bar: Reals,
    Y: NDArray[np.float64],
    learning_rate: float,
    noise: Callable[[int, tuple[int, ...]], NDArray[np.float64]],
    blocks: list[slice],
    block_gradients: Callable[[int, FieldArray, NDArray[np.float64]], FieldArray],
    start: State,
) -> Iterator[State]:
    m, W = len(X_bar), start.W
    with ch.phase("prepare"):
        headroom = Headroom(X_bar, blocks, params.coefficients, params.field.p)
        XtY = target_correlation(X_bar, Y) * 2.0**-params.data_bits
    for it in range(start.iteration, params.iterations):
        with ch.phase("prepare"):  # line 6
            largest = np.abs(W).max() * 2.0**params.weight_bits
            if not largest < _EXACT:
                raise UsageError(f"the weights must converge, got {largest:g} in iteration {it}: lower --learning-rate")
            W_bar = quantize_stochastic(W, params.weight_bits, noise(it, (params.degree, *W.shape)))
            headroom.check(W_bar, it)
        decoded = block_gradients(it, params.field.array(W_bar.transpose(1, 0, 2)), W)
        with ch.phase("decode"):  # lines 14–16
            total = params.field.to_signed(decoded).sum(axis=0)  # the sum over the blocks may not fit in F_p
            gradient = dequantize(total, params.gradient_bits) - XtY
            with np.errstate(over="ignore"):  # seen in the next iteration
                W = W - learning_rate / (1 + params.decay * it) / m * gradient
        yield State(it + 1, W, min(headroom.bits, start.headroom_bits))
