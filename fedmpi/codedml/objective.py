"""The training objective in the clear: loss, accuracy, step size, and the exact quantized gradient."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml.transform import row_chunks
from fedmpi.core.quantize import Reals

_POWER_ITERATIONS = 20


def largest_eigenvalue(X: Reals) -> float:
    """λ_max(XᵀX) by power iteration.

    The direction is found in the precision of X, the Rayleigh quotient is then taken in float64: its error is
    quadratic in the direction's, so the number of BLAS threads does not show in the leading digits.
    """
    # The column sums are close to the leading direction of data that is not centred, and random numbers are not
    # orthogonal to any.
    sums, random = X.sum(axis=0), np.random.default_rng(0).standard_normal(X.shape[1], X.dtype)
    v = sums / max(np.linalg.norm(sums), 1e-30) + random / np.linalg.norm(random)
    for _ in range(_POWER_ITERATIONS):
        v = X.T @ (X @ v)
        norm = np.linalg.norm(v)
        if not norm > 0:
            return 0.0
        v /= norm
    direction = v.astype(np.float64)
    square = sum(float(np.square(X[part] @ direction).sum()) for part in row_chunks(*X.shape))
    return square / float(direction @ direction)


def exact_gradient(X_bar: Reals, W_bar: NDArray[np.int64], coefficients: list[int]) -> NDArray[np.float64]:
    """X̄ᵀ s̄(X̄, W̄) over the integers [So et al. 2021, eq. (18)], exact while every sum stays below 2^53.

    Parameters
    ----------
    X_bar : array, shape (m, d)
    W_bar : array of int64, shape (r, d, C)
    coefficients : list of r + 1 int

    Returns
    -------
    array of float64 holding integers, shape (d, C)
    """
    total = np.zeros((X_bar.shape[1], W_bar.shape[2]))
    weights = W_bar.astype(np.float64)
    for part in row_chunks(*X_bar.shape):
        x = X_bar[part].astype(np.float64)
        s, power = np.full((len(x), total.shape[1]), float(coefficients[0])), 1.0
        for w, c in zip(weights, coefficients[1:], strict=True):
            power = power * (x @ w)
            s += c * power
        total += x.T @ s
    return total


def target_correlation(X_bar: Reals, Y: NDArray[np.float64]) -> NDArray[np.float64]:
    """X̄ᵀY, shape (d, C), in float64; in a fixed order, so that the number of BLAS threads changes no bit."""
    total = np.zeros((X_bar.shape[1], Y.shape[1]))
    for part in row_chunks(*X_bar.shape):
        total += np.einsum("ij,ic->jc", X_bar[part].astype(np.float64), Y[part], optimize=False)
    return total


def cross_entropy(z: NDArray[np.floating[Any]], Y: NDArray[np.float64]) -> float:
    """Mean of -y log s(z) - (1-y) log(1-s(z)) [So et al. 2021, eq. (1)], over rows and outputs; nats."""
    return float(np.mean(np.logaddexp(0.0, z) - Y * z))


def squared_error(z: NDArray[np.floating[Any]], Y: NDArray[np.float64]) -> float:
    """Half the mean squared error: the objective of linear regression; squared units of the target."""
    return float(np.mean(np.square(z - Y)) / 2)


def accuracy(z: NDArray[np.floating[Any]], labels: NDArray[Any]) -> float:
    """Share of rows whose class (0 … C-1) has the largest output; one output means two classes."""
    predicted = z[:, 0] > 0 if z.shape[1] == 1 else np.argmax(z, axis=1)
    return float(np.mean(predicted == labels))


def r2_score(z: NDArray[np.floating[Any]], y: NDArray[np.float64]) -> float:
    """1 - residual sum of squares / total sum of squares."""
    total = float(np.square(y - y.mean()).sum())
    return 1 - float(np.square(z[:, 0] - y).sum()) / total if total else 0.0
