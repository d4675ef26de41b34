"""The same training in the clear: the baseline of the paper's figures, and the oracle of the tests."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml.objective import exact_gradient, target_correlation
from fedmpi.core.quantize import Reals, dequantize, quantize_stochastic
from fedmpi.core.sigmoid import sigmoid

if TYPE_CHECKING:
    from fedmpi.codedml.params import Params


def train_plain(
    params: "Params",
    X: Reals,
    Y: NDArray[np.float64],
    learning_rate: float,
    observe: Callable[[int, NDArray[np.float64]], None] = lambda iteration, W: None,
) -> NDArray[np.float64]:
    """Conventional gradient descent, with the true sigmoid and no quantization [So et al. 2021, eq. (2)].

    Parameters
    ----------
    X : array of reals, shape (m, d)
    Y : array of float64, shape (m, C)

    Returns
    -------
    array of float64, shape (d, C)
    """
    W = np.zeros((X.shape[1], Y.shape[1]))
    activation = sigmoid if params.model == "logistic" else lambda z: z
    for it in range(params.iterations):
        observe(it, W)
        gradient = X.T @ (activation(X @ W) - Y)
        W -= learning_rate / (1 + params.decay * it) / len(X) * gradient
    observe(params.iterations, W)
    return W


def train_quantized(
    params: "Params",
    X_bar: Reals,
    Y: NDArray[np.float64],
    learning_rate: float,
    noise: Callable[[int, tuple[int, ...]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Algorithm 1 without coding: integer arithmetic on quantized data, the same weights to the bit as the workers'.

    Parameters
    ----------
    X_bar : array, shape (m, d)
        Signed integers.
    noise : callable
        (iteration, shape) → uniform values in [0, 1): the one that the master was given.
    """
    (m, d), outputs = X_bar.shape, Y.shape[1]
    XtY = target_correlation(X_bar, Y) * 2.0**-params.data_bits
    W = np.zeros((d, outputs))
    for it in range(params.iterations):
        W_bar = quantize_stochastic(W, params.weight_bits, noise(it, (params.degree, d, outputs)))
        total = exact_gradient(X_bar, W_bar, params.coefficients).astype(np.int64)
        gradient = dequantize(total, params.gradient_bits) - XtY
        W -= learning_rate / (1 + params.decay * it) / m * gradient
    return W
