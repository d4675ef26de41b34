"""The iteration that all private methods share: quantize, let the workers compute, update in the reals."""

from collections.abc import Callable
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

    Raises
    ------
    UsageError
        If a value would not fit in F_p, or the weights diverge; the workers stay ready for another training.
    """
    try:
        W, headroom_bits = _iterate(ch, params, X_bar, Y, learning_rate, noise, blocks, block_gradients)
    except UsageError:
        stop(ch)
        raise
    with ch.phase("evaluate"):
        observe(params.iterations, W)
    return Training(W, headroom_bits, stop(ch))


def _iterate(
    ch: Channel,
    params: "Params",
    X_bar: Reals,
    Y: NDArray[np.float64],
    learning_rate: float,
    noise: Callable[[int, tuple[int, ...]], NDArray[np.float64]],
    blocks: list[slice],
    block_gradients: Callable[[int, FieldArray, NDArray[np.float64]], FieldArray],
) -> tuple[NDArray[np.float64], float]:
    (m, d), outputs = X_bar.shape, Y.shape[1]
    with ch.phase("prepare"):
        headroom = Headroom(X_bar, blocks, params.coefficients, params.field.p)
        XtY = target_correlation(X_bar, Y) * 2.0**-params.data_bits
    W = np.zeros((d, outputs))  # line 4
    for it in range(params.iterations):
        with ch.phase("prepare"):  # line 6
            largest = np.abs(W).max() * 2.0**params.weight_bits
            if not largest < _EXACT:
                raise UsageError(f"the weights must converge, got {largest:g} in iteration {it}: lower --learning-rate")
            W_bar = quantize_stochastic(W, params.weight_bits, noise(it, (params.degree, d, outputs)))
            headroom.check(W_bar, it)
        decoded = block_gradients(it, params.field.array(W_bar.transpose(1, 0, 2)), W)
        with ch.phase("decode"):  # lines 14–16
            total = params.field.to_signed(decoded).sum(axis=0)  # the sum over the blocks may not fit in F_p
            gradient = dequantize(total, params.gradient_bits) - XtY
            with np.errstate(over="ignore"):  # seen in the next iteration
                W -= learning_rate / (1 + params.decay * it) / m * gradient
    return W, headroom.bits
