"""Rows as the protocol takes them: scaled features and a column of ones, as integers."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

CUT = 4.0
"""Prepared columns of tables, whose deviation is 1, are cut off there: the ring has room for numbers up to a bound."""

MEAN_BITS = 20
"""Behind the point of the features whose means are taken: sums of 2^32 rows are below 2^53."""

_POWER_ITERATIONS = 50


def features(X: NDArray[Any], divisor: float, largest: float) -> NDArray[np.float64]:
    """Features divided and cut off, and ones behind them, shape (m, d + 1)."""
    scaled = np.clip(np.asarray(X, np.float64) / divisor, -largest, largest)
    return np.hstack([scaled, np.ones((len(scaled), 1))])


def column_sums(real: NDArray[np.float64]) -> NDArray[np.int64]:
    """Σ of each column but the one of ones, in units of 2^-MEAN_BITS, shape (d - 1,)."""
    whole = np.rint(real[:, :-1] * 2.0**MEAN_BITS)
    return np.asarray(whole.sum(axis=0), np.int64)  # of whole numbers, exact in any order


def means_of(sums: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    """Of the columns of so many rows, shape (d - 1,)."""
    return sums / (rows * 2.0**MEAN_BITS)


def centred(real: NDArray[np.float64], means: NDArray[np.float64], largest: float) -> NDArray[np.float64]:
    """Rows less the means of all, cut off at the largest feature there may be; ones stay ones."""
    moved = np.clip(real[:, :-1] - means, -largest, largest)
    return np.hstack([moved, real[:, -1:]])


def of_raw_features(W: NDArray[np.float64], means: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """The weights that do to features as they are what W does to centred ones: another intercept, shape (d, C).

    Each owner works it out, and all must come to the same bits: the sum is rounded once [Shewchuk 1997].
    """
    if means is None:
        return W
    moved = W.copy()
    moved[-1] = [math.fsum([w[-1], *(-means * w[:-1])]) for w in W.T]
    return moved


def quantized(real: NDArray[np.float64], bits: int) -> NDArray[np.int32]:
    """The nearest integers to 2^bits times the features."""
    return np.rint(real * 2.0**bits).astype(np.int32)


def targets(y: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """0 and 1: one column for two classes, one per class for more."""
    Y = y[:, None] == np.arange(classes) if classes > 2 else y[:, None]
    return np.asarray(Y, np.int64)


def largest_eigenvalue(X_bar: NDArray[Any]) -> float:
    """λ_max(X̄ᵀX̄) by power iteration; close from below, which steps leave room for: see `scale.STABLE`."""
    X = X_bar.astype(np.float32)
    v = X.sum(axis=0) + np.float32(np.random.default_rng(0).standard_normal(X.shape[1]))
    value = 0.0
    for _ in range(_POWER_ITERATIONS):
        norm = float(np.linalg.norm(v))
        if not norm > 0:
            return 0.0
        v = X.T @ (X @ (v / norm))
        value = float(np.linalg.norm(v))
    return value
